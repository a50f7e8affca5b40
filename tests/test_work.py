"""Units of work: each done once, whoever dies; and shares that add up to the whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope import work
from grokscope.errors import GrokscopeError
from grokscope.work import EVERY_CORE, Lost, Workers, each, read_shard, shard

TWO = Workers(jobs=2)

# Functions for other processes are made inside tests, so that they travel by value: this file cannot be
# imported there.


@given(st.integers(1, 40), st.lists(st.integers(), max_size=100))
def test_shares_are_disjoint_and_complete(shares, units):
    numbered = list(enumerate(units))
    parts = [shard(numbered, (share, shares)) for share in range(1, shares + 1)]
    assert sorted(unit for part in parts for unit in part) == numbered
    # and as even as can be
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("text", "share"), [("1/1", (1, 1)), ("3/8", (3, 8)), ("8/8", (8, 8))])
def test_a_share_is_read(text, share):
    assert read_shard(text) == share


@pytest.mark.parametrize("text", ["", "0/8", "9/8", "-1/8", "1", "1/", "a/b", "1/8/2", "1/0", "0/0", "1.0/2"])
def test_a_wrong_share_is_one_line(text):
    with pytest.raises(GrokscopeError, match="expected i/n with i from 1 to n") as caught:
        read_shard(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_are_counted(monkeypatch):
    import joblib

    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert [EVERY_CORE.count(units) for units in (0, 1, 5, 100)] == [1, 1, 5, 8]
    assert [EVERY_CORE.count(100, threads) for threads in (2, 3, 8, 20)] == [4, 2, 1, 1]
    assert [Workers(jobs=3).count(units, 8) for units in (1, 100)] == [1, 3]


@pytest.mark.parametrize("jobs", [0, -1])
def test_wrong_workers_are_one_line(jobs):
    with pytest.raises(GrokscopeError, match=f"--jobs {jobs} was given, expected at least 1"):
        Workers(jobs=jobs)
    with pytest.raises(GrokscopeError, match="--jobs and --cluster were both given"):
        Workers(jobs=2, cluster="tcp://127.0.0.1:1")


def test_one_job_works_here_and_in_order():
    begun: list[int] = []

    def double(unit: int) -> tuple[int, int]:
        begun.append(unit)
        return 2 * unit, os.getpid()

    results = each(double, [3, 1, 2], Workers(jobs=1))
    assert next(results) == (0, (6, os.getpid()))
    # what nobody has asked for yet has not begun
    assert begun == [3]
    assert [result[0] for _, result in results if not isinstance(result, Lost)] == [2, 4]
    assert list(each(double, [], TWO)) == []


def test_processes_work_with_one_thread_and_leave_ctrl_c_to_the_caller():
    def look(unit: int) -> tuple[int, int, int, str | None, bool]:
        time.sleep(0.05)
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return unit, os.getpid(), os.getpgid(0), os.environ.get("OMP_NUM_THREADS"), ignored

    results = {index: found for index, found in each(look, range(10), TWO) if not isinstance(found, Lost)}
    assert sorted(results) == list(range(10))
    assert [results[index][0] for index in range(10)] == list(range(10))
    processes = {result[1] for result in results.values()}
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= 2
    for _, process, group, threads, ignored in results.values():
        assert group == process
        assert threads == "1"
        assert ignored


def test_a_process_that_is_killed_loses_nothing(tmp_path):
    def work_or_die(unit: int) -> int:
        try:
            (tmp_path / str(unit)).touch(exist_ok=False)
        except FileExistsError:
            return unit  # the second time
        if unit == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return unit

    assert dict(each(work_or_die, range(6), TWO)) == {unit: unit for unit in range(6)}


def test_a_unit_that_kills_its_process_every_time_is_given_up():
    def work_or_die(unit: int) -> int:
        if unit == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)  # still at it when its neighbour dies
        return unit

    results = dict(each(work_or_die, range(4), TWO))
    lost = results.pop(0)
    assert isinstance(lost, Lost)
    assert "its process died" in lost.reason
    assert "\n" not in lost.reason
    assert results == {1: 1, 2: 2, 3: 3}


def test_a_fault_of_the_function_is_not_hidden():
    def fail(unit: int) -> int:
        raise ZeroDivisionError(str(unit))

    for workers in (Workers(jobs=1), TWO):
        with pytest.raises(ZeroDivisionError):
            list(each(fail, range(3), workers))


PROGRAM = """
import os, sys, time
from pathlib import Path
from grokscope.work import Workers, each, preload
def unit(number):
    Path(sys.argv[1], f"begun-{os.getpid()}").touch()
    time.sleep(1.5)
    Path(sys.argv[1], f"ended-{os.getpid()}").touch()
if __name__ == "__main__":
    if sys.argv[2] == "preload": preload(["json"])
    for _ in each(unit, range(20), Workers(jobs=2)): pass
"""


@pytest.mark.parametrize(
    ("how", "temporary"), [("preload", "t"), ("preload", "longer-than-a-socket-can-be" * 5), ("plain", "t")]
)
def test_workers_end_with_who_gave_them_work(tmp_path, how, temporary):
    """The unit at hand is ended, no other is begun, and the processes go."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / temporary).mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path), how],
        env={**os.environ, "TMPDIR": str(tmp_path / temporary)},
    )
    deadline = time.monotonic() + 60
    begun: list[int] = []
    while len(begun) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        begun = [int(path.name.split("-")[1]) for path in tmp_path.glob("begun-*")]
    assert len(begun) == 2
    process.kill()
    process.wait()

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    while any(map(alive, begun)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, begun))
    assert len(list(tmp_path.glob("ended-*"))) == 2


def test_without_distributed_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(GrokscopeError) as caught:
        list(each(len, ["a"], Workers(cluster="tcp://127.0.0.1:1")))
    assert "pip install 'grokscope[cluster]'" in str(caught.value)


def test_the_environment_is_given_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with work._environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):
        assert os.environ["MKL_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
