"""A real Dask cluster: a scheduler and two workers, in processes of their own, of which one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grokscope import work
from grokscope.errors import GrokscopeError
from grokscope.probes.cache import MEASUREMENTS
from grokscope.probes.many import Choice, measure_many
from grokscope.training import Recipe, train
from grokscope.training.fleet import Progress, train_fleet
from grokscope.work import Lost, Workers, each

pytest.importorskip("distributed")


class Cluster:
    """A scheduler at ``address`` and two workers of one thread, without anybody to start them anew."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.processes: list[subprocess.Popen[bytes]] = []
        found = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(found)
        )
        options = ("--no-nanny", "--nthreads", "1", "--scheduler-file", str(found))
        self.workers = [self._start("worker", *options) for _ in range(2)]
        deadline = time.monotonic() + 120
        while not found.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address: str = json.loads(found.read_text())["address"]
        self.every_worker = Workers(cluster=self.address)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, "--no-dashboard"],
                stdout=log, stderr=log, env=self.environment, cwd=self.folder,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path, **environment: str) -> Iterator[Cluster]:
    made = Cluster(folder, **environment)
    try:
        yield made
    finally:
        made.close()


def test_a_worker_killed_in_the_middle_of_a_fleet_loses_nothing(tiny, checksum, tmp_path, monkeypatch):
    recipes: list[Recipe] = [
        tiny("train.steps=200", f"seed={seed}", f"train.lr={lr}") for seed in (0, 1) for lr in (0.01, 0.02)
    ]
    folder = tmp_path / "checkpoints"
    directories = [folder / f"run{number}" for number in range(len(recipes))]
    struck: list[str] = []
    seen: list[Progress] = []
    with cluster(tmp_path) as made:
        pids = {process.pid for process in made.workers}

        def strike(progress: Progress) -> None:
            seen.append(progress)
            if struck:
                return
            # the process behind a run that is under way, as its claim says
            for claim in folder.glob(".run*.claim-1"):
                run = claim.name[1:].removesuffix(".claim-1")
                if not (folder / run / "trajectory.h5").exists():
                    continue
                pid = json.loads(claim.read_bytes().split(b"\n")[0])["pid"]
                assert pid in pids
                os.kill(pid, signal.SIGKILL)
                struck.append(run)
                return

        runs = train_fleet(recipes, directories, workers=made.every_worker, progress=strike)
        assert len(struck) == 1
        assert [process.poll() for process in made.workers].count(None) == 1
        assert [run.state for run in runs] == ["finished"] * 4, runs
        # asked once more, with one worker left
        again = train_fleet(recipes, directories, resume=True, workers=made.every_worker)
        assert again == runs
        choice = Choice(only=("norms",))
        measured = measure_many(["run0", "run1"], tmp_path, choice, workers=made.every_worker)
        assert [(one.error, one.saves) for one in measured] == [("", 101)] * 2
    for number, recipe in enumerate(recipes):
        train(recipe, tmp_path / "alone" / str(number), device="cpu")
        assert checksum(directories[number]) == checksum(tmp_path / "alone" / str(number))
    assert {path.name for path in folder.iterdir()} == {directory.name for directory in directories}
    assert (directories[1] / MEASUREMENTS).exists()
    assert (seen[-1].steps, seen[-1].finished) == (800, 4)


def test_a_unit_that_kills_its_worker_is_given_up_and_a_cluster_that_goes_is_one_line(tmp_path):
    def work_or_die(unit: int) -> int:
        if unit == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return unit

    with cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as made:
        results = dict(each(work_or_die, range(4), made.every_worker))
        lost = results.pop(1)
        assert isinstance(lost, Lost)
        assert "its worker died" in lost.reason
        # at no allowed failures, what waits at the same worker is given up with it
        assert sorted(results) == [0, 2, 3]
        assert all(found == index or isinstance(found, Lost) for index, found in results.items())

        # the one worker that is left does the work, not the process that gives it out
        rest = each(lambda seconds: time.sleep(seconds) or os.getpid(), [0.0, 60.0], made.every_worker)
        assert next(rest)[1] in {process.pid for process in made.workers}
        made.scheduler.kill()
        with pytest.raises(GrokscopeError) as caught:
            next(rest)
        assert "the connection is gone" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_cluster_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr(work, "CONNECT_SECONDS", 0.3)
    for address in ("tcp://127.0.0.1:1", "nonsense", "tcp://", ""):
        with pytest.raises(GrokscopeError) as caught:
            list(each(len, ["a"], Workers(cluster=address)))
        assert f"{address!r} was given and cannot be reached" in str(caught.value)
        assert "\n" not in str(caught.value)
