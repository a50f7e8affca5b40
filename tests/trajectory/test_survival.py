"""Kills, full disks and readers beside a writer, on real processes."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from grokscope.trajectory import Trajectory, verify_trajectory

SCRIPT = Path(__file__).with_name("recurrence_trainer.py")


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recurrence_trainer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def truth(trainer: ModuleType) -> list[dict[str, np.ndarray]]:
    return [state for _, state in trainer.states()]


@pytest.fixture(scope="module")
def uninterrupted(trainer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """Checksum and file size of the run that nobody disturbed."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    trainer.train(directory)
    path = directory / "trajectory.h5"
    checksum = verify_trajectory(path).checksum
    assert checksum is not None
    return checksum, path.stat().st_size


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def check_committed(
    path: Path, trainer: ModuleType, truth: list[dict[str, np.ndarray]], run: Trajectory | None = None
) -> tuple[int, int]:
    """Everything committed equals the recurrence; returns the counts of saves and scalar rows."""
    with run or Trajectory(path) as run:
        steps, scalars = run.steps, run.scalars
        np.testing.assert_array_equal(steps, trainer.SAVES[: steps.size])
        for name in trainer.PARAMS:
            stored = run.read(name)
            assert stored.dtype == np.dtype(trainer.PARAMS[name][1])
            for row, step in enumerate(steps):
                assert stored[row].tobytes() == truth[step][name].tobytes(), (name, step)
    np.testing.assert_array_equal(scalars["step"], np.arange(scalars["step"].size))
    for name in trainer.SCALARS:
        expected = [trainer.scalars_of(truth[step])[name] for step in scalars["step"]]
        np.testing.assert_array_equal(scalars[name], np.asarray(expected, float))
    return steps.size, scalars["step"].size


def disturb(
    root: Path, trainer: ModuleType, truth: list[dict[str, np.ndarray]], checksum: str, kills: int, seed: int
) -> int:
    """Kill runs ``kills`` times, with Ctrl-C in between now and then, and let them finish; how many finished.

    A run that gets to its end between two kills is checked and followed by another.
    """
    draw = random.Random(seed)
    finished = killed = 0
    counts = (0, 0)
    path = root / "0" / "trajectory.h5"
    path.parent.mkdir()
    complete = False
    while killed < kills or not complete:
        process = start(path.parent, "--pause", "0.001")
        assert process.stdout is not None
        if killed < kills:
            if draw.random() < 0.9:
                # By steps and not by the clock, so that a busy machine gets as far as a quiet one.
                for _ in range(draw.randint(1, 50)):
                    process.stdout.readline()
                time.sleep(draw.random() * 0.005)
            else:
                # While it starts or resumes.
                time.sleep(draw.random() * 0.4)
            process.send_signal(signal.SIGINT if draw.random() < 0.2 else signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        killed += process.returncode == -signal.SIGKILL
        if process.returncode in (0, 130):
            assert errors == ""
        if path.exists():
            before, counts = counts, check_committed(path, trainer, truth)
            assert counts[0] >= before[0]
            assert counts[1] >= before[1]
        complete = process.returncode == 0
        if complete:
            assert counts == (101, 201)
            assert verify_trajectory(path).checksum == checksum
            assert {entry.name for entry in path.parent.iterdir()} == {"trajectory.h5", "snapshots"}
            finished += 1
            if killed < kills:
                path, counts = root / str(finished) / "trajectory.h5", (0, 0)
                path.parent.mkdir()
    return finished


def test_runs_killed_and_resumed_equal_the_undisturbed_one(tmp_path, trainer, truth, uninterrupted):
    assert disturb(tmp_path, trainer, truth, uninterrupted[0], kills=15, seed=0) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 16))
def test_many_runs_killed_and_resumed(tmp_path, trainer, truth, uninterrupted, seed):
    assert disturb(tmp_path, trainer, truth, uninterrupted[0], kills=25, seed=seed) >= 1


def run_limited(directory: Path, limit: int) -> tuple[int, str]:
    process = start(directory, "--limit", str(limit))
    out, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode in (0, 2)
    return process.returncode, out


def test_file_size_limits_end_cleanly_and_can_be_resumed(tmp_path, trainer, truth, uninterrupted):
    checksum, size = uninterrupted
    stopped_at: list[int] = []
    # A commit reserves more than it needs, so a limit bites before the file is that long.
    for limit in (4096, size + 50_000, size + 75_000):
        directory = tmp_path / str(limit)
        directory.mkdir()
        path = directory / "trajectory.h5"
        code, out = run_limited(directory, limit)
        if code == 2:
            line = out.strip().splitlines()[-1]
            assert "the file size limit is reached" in line
            assert str(path) in line
        saves = 0
        if path.exists():
            saves, scalar_rows = check_committed(path, trainer, truth)
            assert path.stat().st_size <= limit
            if code == 2:
                assert f"{saves} saves and {scalar_rows} scalar rows are committed" in line
        stopped_at.append(saves)
        # Asked again under the same limit, it is refused as cleanly and loses nothing.
        assert run_limited(directory, limit)[0] == code
        assert not path.exists() or check_committed(path, trainer, truth)[0] >= saves
        lifted = start(directory)
        out, errors = lifted.communicate(timeout=60)
        assert (lifted.returncode, errors) == (0, ""), out
        assert verify_trajectory(path).checksum == checksum
    # At the start, and at two places under way.
    assert stopped_at[0] == 0 < stopped_at[1] < stopped_at[2] < 101


def test_a_reader_beside_the_writer_sees_only_right_values(tmp_path, trainer, truth, uninterrupted):
    path = tmp_path / "trajectory.h5"
    process = start(tmp_path, "--pause", "0.005")
    assert process.stdout is not None
    process.stdout.readline()
    seen: list[tuple[int, int]] = []
    run = Trajectory(path)
    while process.poll() is None:
        run.refresh()
        seen.append(check_committed(path, trainer, truth, run))
    process.communicate()
    assert process.returncode == 0
    assert seen == sorted(seen)
    # It did look while the run was growing.
    assert len({saves for saves, _ in seen}) >= 5
    assert verify_trajectory(path).checksum == uninterrupted[0]
