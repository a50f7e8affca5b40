"""SIGKILL, Ctrl-C and full disks on the real trainer, in processes of its own."""

from __future__ import annotations

import contextlib
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
from grokscope.trajectory import Trajectory, read_manifest

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

    def run(
        self, directory: Path, strike: tuple[float, int] | None = None, limit: int = 0
    ) -> tuple[int, str]:
        """Train or resume; ``strike`` is (seconds after the first evaluation, signal). Status and stderr."""
        assert self.process.stdin is not None
        here = self.errors.seek(0, os.SEEK_END)
        self.process.stdin.write(f"{directory} {limit}\n")
        self.process.stdin.flush()
        word, number = self.answer()
        if word == "begun":
            if strike is not None:
                time.sleep(strike[0])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, strike[1])
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
    """A run of a fraction of a second, with a commit every few steps and windows that its onset opens."""
    return tiny(
        "train.steps=240", "train.lr=0.1", "save.onset_fall=0.03", "save.snapshots=20",
        "save.schedule=['0:end:2', 'onset:50:1']", "save.evaluate=['0:end:2', 'onset:90:1']",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trainers(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    made = Trainers(recipe, tmp_path_factory.mktemp("trainers") / "stderr")
    yield made
    made.close()


class Truth:
    """The run that nobody disturbed."""

    def __init__(self, directory: Path, checksum: str | None, seconds: float) -> None:
        self.checksum, self.seconds = checksum, seconds
        self.onset = read_manifest(directory)["onset"]
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
def truth(
    recipe: Recipe,
    trainers: Trainers,
    checksum: Callable[[Path], str | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Truth:
    folder = tmp_path_factory.mktemp("truth")
    train(recipe, folder / "run", device="cpu")
    # the first waits for the import of torch
    assert trainers.run(folder / "first") == (0, "")
    began = time.perf_counter()
    assert trainers.run(folder / "fork") == (0, "")
    seconds = time.perf_counter() - began
    assert checksum(folder / "fork") == checksum(folder / "run")
    return Truth(folder / "run", checksum(folder / "run"), seconds)


def disturb(
    trainers: Trainers, truth: Truth, folder: Path, kills: int, seed: int
) -> tuple[list[Path], set[tuple[int, int]]]:
    """Kill runs ``kills`` times, with a Ctrl-C now and then, a new run whenever one got to its end.

    Returns the runs' directories and the counts of saves and evaluations that stops left in them.
    """
    draw = random.Random(seed)
    directories, counts, killed = [folder / "0"], set(), 0
    before = (0, 0)
    while killed < kills:
        directory = directories[-1]
        chosen = signal.SIGINT if draw.random() < 0.15 else signal.SIGKILL
        status, errors = trainers.run(directory, (draw.random() ** 2 * truth.seconds, chosen))
        assert status in (0, 130, -signal.SIGKILL), errors
        assert errors == ""
        now = truth.committed(directory)
        # what was committed once stays committed
        assert now >= before
        assert now[1] >= before[1]
        killed += status == -signal.SIGKILL
        before = now
        if status == 0:
            directories.append(folder / str(len(directories)))
            before = (0, 0)
        else:
            counts.add(now)
    assert trainers.run(directories[-1]) == (0, "")
    return directories, counts


def test_a_run_killed_and_resumed_equals_the_undisturbed_one(trainers, truth, checksum, tmp_path):
    directories, counts = disturb(trainers, truth, tmp_path, kills=16, seed=0)
    assert 20 < truth.onset["step"] < 100
    for directory in directories:
        assert checksum(directory) == truth.checksum
        assert read_manifest(directory)["onset"] == truth.onset
        assert {entry.name for entry in directory.iterdir()} == {"run.json", "trajectory.h5", "snapshots"}
    # stopped along the way, not only at the ends
    assert len([saves for saves, _ in counts if 0 < saves < truth.steps.size]) >= 3, counts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 13))
def test_many_runs_killed_and_resumed(trainers, truth, checksum, tmp_path, seed):
    directories, _ = disturb(trainers, truth, tmp_path, kills=25, seed=seed)
    for directory in directories:
        assert checksum(directory) == truth.checksum


def test_a_full_disk_ends_in_one_line_and_can_be_resumed(trainers, truth, checksum, tmp_path):
    stopped_at: list[int] = []
    # A commit reserves more than it needs, so a limit bites before the file is that long.
    for limit in (4096, truth.size // 2 + 70_000, truth.size + 40_000):
        directory = tmp_path / str(limit)
        # Asked again under the same limit, it is refused as cleanly and loses nothing.
        for _ in range(2):
            status, errors = trainers.run(directory, limit=limit)
            assert status == 2
            assert errors.count("\n") == 1, errors
            assert "file size limit" in errors
            stopped_at.append(truth.committed(directory)[0])
        assert stopped_at[-1] >= stopped_at[-2]
        assert trainers.run(directory) == (0, "")
        assert checksum(directory) == truth.checksum
    assert stopped_at[0] == 0
    assert any(0 < saves < truth.steps.size for saves in stopped_at), stopped_at
