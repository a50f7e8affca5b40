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
    directory: Path,
    trainer: ModuleType,
    truth: list[dict[str, np.ndarray]],
    stops: int,
    seed: int,
) -> dict[str, int]:
    """Stop the run again and again, three times in four by SIGKILL, else by Ctrl-C, then let it finish."""
    draw = random.Random(seed)
    path = directory / "trajectory.h5"
    pause = 0.001
    before = (0, 0)
    counted = {"killed": 0, "interrupted": 0, "finished": 0}
    for _ in range(stops):
        process = start(directory, "--pause", str(pause))
        assert process.stdout is not None
        if draw.random() < 0.9:
            process.stdout.readline()
            # Mostly early, so that the run is still going at the last stop.
            time.sleep(draw.random() ** 2 * trainer.LAST * pause * 0.6)
        else:
            time.sleep(draw.random() * 0.5)
        interrupt = draw.random() < 0.25
        process.send_signal(signal.SIGINT if interrupt else signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        if process.returncode == -signal.SIGKILL:
            counted["killed"] += 1
        elif process.returncode == 0:
            counted["finished"] += 1
        else:
            counted["interrupted"] += 1
        if process.returncode == 130:
            assert errors == ""
        if not path.exists():
            assert before == (0, 0)
            continue
        after = check_committed(path, trainer, truth)
        assert after[0] >= before[0], (before, after)
        assert after[1] >= before[1], (before, after)
        before = after
    process = start(directory)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, ""), out
    return counted


def test_a_run_killed_and_resumed_equals_the_undisturbed_one(tmp_path, trainer, truth, uninterrupted):
    counted = disturb(tmp_path, trainer, truth, stops=20, seed=0)
    assert counted["killed"] >= 8
    assert verify_trajectory(tmp_path / "trajectory.h5").checksum == uninterrupted[0]
    assert check_committed(tmp_path / "trajectory.h5", trainer, truth) == (101, 201)
    assert {entry.name for entry in tmp_path.iterdir()} == {"trajectory.h5", "snapshots"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 16))
def test_many_runs_killed_and_resumed(tmp_path, trainer, truth, uninterrupted, seed):
    disturb(tmp_path, trainer, truth, stops=25, seed=seed)
    assert verify_trajectory(tmp_path / "trajectory.h5").checksum == uninterrupted[0]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.85, 1.1, 1.6, 2.5])
def test_a_file_size_limit_ends_cleanly_and_can_be_resumed(tmp_path, trainer, truth, uninterrupted, share):
    checksum, size = uninterrupted
    path = tmp_path / "trajectory.h5"
    # The reservation asks for more than a commit needs, so the limit bites well before the file is as long.
    limit = int(share * size) + 4096
    process = start(tmp_path, "--limit", str(limit))
    out, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 2)
    assert errors == ""
    if process.returncode == 2:
        line = out.strip().splitlines()[-1]
        assert "the file size limit is reached" in line
        assert "trajectory.h5" in line
    if path.exists():
        check_committed(path, trainer, truth)
        assert path.stat().st_size <= limit
    # A second attempt under the same limit is refused as cleanly.
    again = start(tmp_path, "--limit", str(limit))
    _, errors = again.communicate(timeout=60)
    assert (again.returncode, errors) == (process.returncode, "")
    lifted = start(tmp_path)
    out, errors = lifted.communicate(timeout=60)
    assert (lifted.returncode, errors) == (0, ""), out
    assert verify_trajectory(path).checksum == checksum


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
