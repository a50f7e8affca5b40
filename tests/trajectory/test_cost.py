"""What a trajectory is said to cost, against files that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grokscope.trajectory import TrajectoryWriter, save_seconds, trajectory_bytes


@pytest.mark.parametrize(
    ("shapes", "saves", "evaluations", "scalar_rows"),
    [
        ({"W": (40, 50), "b": (50,)}, 100, 300, 32),
        ({"W": (40, 50), "b": (50,)}, 16, 16, 32),
        ({"W": (40, 50), "b": (50,)}, 17, 33, 32),
        ({"E": (30, 20), "W": (4, 20, 10), "U": (20, 30)}, 1300, 2000, 32),
        ({"large": (600, 700), "b": (2,)}, 9, 40, 256),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_are_those_of_the_file(tmp_path: Path, shapes, saves, evaluations, scalar_rows, dtype):
    params = {name: (shape, dtype) for name, shape in shapes.items()}
    names = ["loss.train", "loss.test"]
    path = tmp_path / "trajectory.h5"
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    with TrajectoryWriter(
        path, params, names, expected_saves=saves, expected_scalars=evaluations, scalar_rows=scalar_rows
    ) as writer:
        for step in range(evaluations):
            writer.scalar(step, dict.fromkeys(names, 0.5))
        for step in range(saves):
            writer.save(step, weights)
    said = trajectory_bytes(params, names, saves, evaluations, scalar_rows)
    assert sum(said) == pytest.approx(path.stat().st_size, rel=0.03)
    assert said[0] >= saves * sum(array.nbytes for array in weights.values())


def test_a_save_takes_some_time_and_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    weights = {"W": np.ones((30, 20), np.float32), "b": np.ones(20, np.float32)}
    params = {name: (array.shape, array.dtype) for name, array in weights.items()}
    assert 0 < save_seconds(params, weights) < 10
    assert list(tmp_path.iterdir()) == []
