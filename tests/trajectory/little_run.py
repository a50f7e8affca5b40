"""A trajectory of two small tensors and one scalar, whose every value is a function of the step."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grokscope.trajectory import Trajectory, TrajectoryWriter, verify_trajectory

PARAMS = {"W": ((3, 2), np.float32), "n": ((), np.int64)}
SCALARS = ["loss"]


def arrays(step: int) -> dict[str, np.ndarray]:
    return {"W": np.full((3, 2), step * 1.5, np.float32), "n": np.asarray(step, np.int64)}


def train(writer: TrajectoryWriter, begin: int, end: int, every: int = 2) -> None:
    """Steps [begin, end): scalars at each, saves at every second."""
    for step in range(begin, end):
        if step % every == 0:
            writer.save(step, arrays(step))
        writer.scalar(step, {"loss": step / 3})


def train_saves(writer: TrajectoryWriter, end: int) -> None:
    for step in range(0, end, 2):
        writer.save(step, arrays(step))


def fresh(path: Path, **options: int) -> TrajectoryWriter:
    return TrajectoryWriter(path, PARAMS, SCALARS, **{"block_rows": 4, "scalar_rows": 6, **options})


def checksum_of_whole(path: Path, end: int) -> str | None:
    with fresh(path) as writer:
        train(writer, 0, end)
    return verify_trajectory(path).checksum


def committed(path: Path) -> tuple[int, int]:
    with Trajectory(path) as run:
        return run.steps.size, run.scalars["step"].size
