"""The trajectory file beside ``torch.save`` a step, and what saving costs a run.

    python benchmarks/storage.py [--checkpoints 600] [--folder DIR]

Checkpoints of the p = 113 transformer's shapes (907 kB). Both sides write the same arrays and read one tensor over
all steps, alternately, wall clock, medians; the arrays that come back must be equal. Then two recipes are trained
with a save every 10 steps and with none but the last, alternately, by process time (the writer's thread included).
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from grokscope.training import Recipe, read_recipe, train
from grokscope.trajectory import Trajectory, TrajectoryWriter

TENSOR = "unembed.W_U"


def checkpoints(count: int) -> tuple[dict[str, tuple[int, ...]], list[dict[str, np.ndarray]]]:
    """Shapes and ``count`` different sets of weights: sixteen drawn, then reused with a shift."""
    _, model = read_recipe("nanda").build()
    draw = np.random.default_rng(0)
    base = [
        {name: draw.standard_normal(shape).astype(np.float32) for name, shape in model.shapes.items()}
        for _ in range(16)
    ]
    return model.shapes, [
        {name: array + np.float32(step) for name, array in base[step % 16].items()} for step in range(count)
    ]


def seconds(work: object, *arguments: object) -> tuple[float, object]:
    """Wall clock of one call, and what it returned."""
    began = time.perf_counter()
    found = work(*arguments)  # pyright: ignore[reportCallIssue]
    return time.perf_counter() - began, found


def write_files(folder: Path, sets: list[dict[str, np.ndarray]]) -> None:
    """A file a step, as notebooks do."""
    folder.mkdir()
    for step, arrays in enumerate(sets):
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / f"{step}.pt")


def read_files(folder: Path, count: int) -> np.ndarray:
    """One tensor over all steps from files a step."""
    return np.stack(
        [torch.load(folder / f"{step}.pt", weights_only=True)[TENSOR].numpy() for step in range(count)]
    )


def write_trajectory(
    path: Path, shapes: dict[str, tuple[int, ...]], sets: list[dict[str, np.ndarray]]
) -> None:
    """The same steps into one trajectory."""
    columns = {name: (shape, np.float32) for name, shape in shapes.items()}
    with TrajectoryWriter(path, columns, [], expected_saves=len(sets)) as writer:
        for step, arrays in enumerate(sets):
            writer.save(step, arrays)


def read_trajectory(path: Path, _: int) -> np.ndarray:
    """One tensor over all steps, opening included."""
    trajectory = Trajectory(path)
    try:
        return trajectory.read(TENSOR)
    finally:
        trajectory.close()


def compare(count: int, rounds: int, folder: Path) -> None:
    """Write and read on both sides, in turns."""
    shapes, sets = checkpoints(count)
    took: dict[str, list[float]] = {}
    for turn in range(rounds):
        for name in ("files", "trajectory"):
            place = folder / f"{name}{turn}"
            if name == "files":
                spent, _ = seconds(write_files, place, sets)
            else:
                spent, _ = seconds(write_trajectory, place, shapes, sets)
            took.setdefault(f"write {name}", []).append(spent / count * 1e3)
        found = {}
        for name, read in (("files", read_files), ("trajectory", read_trajectory)):
            spent, found[name] = seconds(read, folder / f"{name}{turn}", count)
            took.setdefault(f"read {name}", []).append(spent * 1e3)
        assert np.array_equal(found["files"], found["trajectory"])
        shutil.rmtree(folder / f"files{turn}")
        (folder / f"trajectory{turn}").unlink()
    middle = {name: statistics.median(values) for name, values in took.items()}
    ratio = middle["read files"] / middle["read trajectory"]
    print(
        f"{count} checkpoints: writing {middle['write files']:.2f} ms each as files, "
        f"{middle['write trajectory']:.2f} ms as a trajectory; one tensor over all steps "
        f"{middle['read files']:.0f} ms from files, {middle['read trajectory']:.1f} ms from the trajectory, "
        f"ratio {ratio:.0f}",
        flush=True,
    )


def saving(name: str, recipe: Recipe, rounds: int, folder: Path) -> None:
    """Share of a run's time that a save every 10 steps takes."""
    schedules = {"none": ("0:0:1",), "every 10": ("0:end:10",)}
    took: dict[str, list[float]] = {which: [] for which in schedules}
    for turn in range(rounds):
        for which, schedule in schedules.items():
            save = replace(recipe.save, schedule=schedule, evaluate=("0:end:10",), snapshots=10**9)
            directory = folder / f"{which}-{turn}"
            began = time.process_time()
            train(replace(recipe, save=save), directory, device="cpu")
            took[which].append(time.process_time() - began)
            shutil.rmtree(directory)
    # both sides evaluate every 10 steps, so that what differs is the saving
    middle = {which: statistics.median(values) for which, values in took.items()}
    extra = middle["every 10"] - middle["none"]
    print(
        f"{name}: {recipe.train.steps} steps take {middle['none']:.2f} s without saves and {middle['every 10']:.2f} s "
        f"with one every 10 steps: {100 * extra / middle['every 10']:.1f} %",
        flush=True,
    )


def main() -> None:
    """Storage, then the share of saving."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are written; default: the temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        compare(args.checkpoints, args.rounds, Path(folder))
        saving("MLP p=59", read_recipe("quickstart", ["train.steps=600"]), args.rounds, Path(folder))
        saving("transformer p=113", read_recipe("nanda", ["train.steps=100"]), args.rounds, Path(folder))


if __name__ == "__main__":
    main()
