"""SIGKILL, Ctrl-C and full disks on the real trainer, in processes of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from grokscope.training import Recipe, train
from grokscope.trajectory import Trajectory

SCRIPT = Path(__file__).with_name("forking_trainer.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Trainers:
    """The process that forks trainers of one recipe."""

    def __init__(self, recipe: Recipe, errors: Path) -> None:
        self.errors = errors.open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(recipe.config())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=ENVIRONMENT,
        )  # fmt: skip

    def answer(self) -> tuple[str, int]:
        assert self.process.stdout is not None
        word, number = self.process.stdout.readline().split()
        return word, int(number)

    def run(self, directory: Path, strike: tuple[float, int] | None = None, limit: int = 0) -> tuple[int, str]:
        """Train or resume; ``strike`` is (seconds after the first evaluation, signal). Status and stderr."""
        assert self.process.stdin is not None
        here = self.errors.seek(0, os.SEEK_END)
        self.process.stdin.write(f"{directory} {limit}\n")
        self.process.stdin.flush()
        word, number = self.answer()
        if word == "begun":
            if strike is not None:
                time.sleep(strike[0])
                # a child that has ended is still there until it is waited for, or the signal finds nobody
                try:
                    os.kill(number, strike[1])
                except ProcessLookupError:
                    pass
            word, number = self.answer()
        assert word == "ended"
        self.errors.seek(here)
        return number, self.errors.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()


@pytest.fixture(scope="module")
def recipe(tiny: Callable[..., Recipe]) -> Recipe:
    """A run of about half a second, with a commit every few steps."""
    return tiny("train.steps=400", "save.evaluate=['0:end:2']", "save.snapshots=20")


@pytest.fixture(scope="module")
def trainers(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    made = Trainers(recipe, tmp_path_factory.mktemp("trainers") / "stderr")
    yield made
    made.close()


class Truth:
    """The run that nobody disturbed."""

    def __init__(self, directory: Path, checksum: str | None) -> None:
        self.checksum = checksum
        self.size = (directory / "trajectory.h5").stat().st_size
        with Trajectory(directory / "trajectory.h5") as run:
            self.steps, self.scalars = run.steps, run.scalars
            self.arrays = {name: run.read(name) for name in run.names}

    def committed(self, directory: Path) -> tuple[int, int]:
        """Counts of saves and of evaluations committed in ``directory``, each equal to the undisturbed."""
        path = directory / "trajectory.h5"
        if not path.exists():
            return 0, 0
        with Trajectory(path) as run:
            saves, scalars = run.steps.size, run.scalars
            np.testing.assert_array_equal(run.steps, self.steps[:saves])
            for name, array in self.arrays.items():
                assert run.read(name).tobytes() == array[:saves].tobytes(), name
        rows = scalars["step"].size
        for name, series in self.scalars.items():
            np.testing.assert_array_equal(scalars[name], series[:rows])
        return saves, rows


@pytest.fixture(scope="module")
def truth(recipe: Recipe, checksum, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    directory = tmp_path_factory.mktemp("truth") / "run"
    train(recipe, directory, device="cpu")
    return Truth(directory, checksum(directory))


def disturb(trainers: Trainers, truth: Truth, directory: Path, kills: int, seed: int) -> list[tuple[int, int]]:
    """Kill the run ``kills`` times, with a Ctrl-C now and then, and let it finish.

    Returns the counts of committed saves and evaluations after each stop.
    """
    draw = random.Random(seed)
    counts, killed = [(0, 0)], 0
    for _ in range(4 * kills):
        if killed == kills:
            break
        chosen = signal.SIGINT if draw.random() < 0.15 else signal.SIGKILL
        status, errors = trainers.run(directory, (draw.random() ** 2 * 0.3, chosen))
        assert status in (0, 130, -signal.SIGKILL), errors
        assert errors == ""
        killed += status == -signal.SIGKILL
        counts.append(truth.committed(directory))
        # what was committed once stays committed
        assert counts[-1][0] >= counts[-2][0]
        assert counts[-1][1] >= counts[-2][1]
        if status == 0:
            # it got to its end between two kills: the next one begins anew
            assert truth.committed(directory) == (truth.steps.size, truth.scalars["step"].size)
            break
    assert killed >= min(kills, 3)
    status, errors = trainers.run(directory)
    assert (status, errors) == (0, "")
    return counts[1:]


def test_a_run_killed_and_resumed_equals_the_undisturbed_one(trainers, truth, checksum, tmp_path):
    stops: list[tuple[int, int]] = []
    for number in range(4):
        directory = tmp_path / str(number)
        stops += disturb(trainers, truth, directory, kills=6, seed=number)
        assert checksum(directory) == truth.checksum
        assert {entry.name for entry in directory.iterdir()} == {"run.json", "trajectory.h5", "snapshots"}
    # it was stopped all along the way, not only at its ends
    assert len(stops) >= 12
    assert len({count for count in stops if 0 < count[0] < truth.steps.size}) >= 3, stops


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_runs_killed_and_resumed(trainers, truth, checksum, tmp_path, seed):
    for number in range(5):
        directory = tmp_path / str(number)
        disturb(trainers, truth, directory, kills=8, seed=1000 * seed + number)
        assert checksum(directory) == truth.checksum


def test_a_full_disk_ends_in_one_line_and_can_be_resumed(trainers, truth, checksum, tmp_path):
    stopped_at: list[int] = []
    # A commit reserves more than it needs, so a limit bites before the file is that long.
    for limit in (4096, truth.size // 2 + 70_000, truth.size + 30_000, truth.size + 70_000, truth.size + 400_000):
        directory = tmp_path / str(limit)
        status, errors = trainers.run(directory, limit=limit)
        assert status in (0, 2)
        if status == 2:
            assert errors.count("\n") == 1, errors
            assert "Traceback" not in errors
            assert "file size limit" in errors
        saves, _ = truth.committed(directory)
        stopped_at.append(saves)
        # Asked again under the same limit, it is refused as cleanly and loses nothing.
        again, _ = trainers.run(directory, limit=limit)
        assert again == status
        assert truth.committed(directory)[0] >= saves
        assert trainers.run(directory) == (0, "")
        assert checksum(directory) == truth.checksum
    assert stopped_at[0] == 0
    assert stopped_at[-1] == truth.steps.size
    assert any(0 < saves < truth.steps.size for saves in stopped_at), stopped_at
