"""The writer's thread: its queue, its errors, full disks, and writers that nobody closed."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.trajectory import Trajectory, TrajectoryWriter, commit, verify_trajectory
from tests.trajectory.little_run import (
    PARAMS,
    SCALARS,
    arrays,
    checksum_of_whole,
    committed,
    fresh,
    train,
    train_saves,
)


def wait_until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def resumed_again(tmp_path: Path) -> TrajectoryWriter:
    return TrajectoryWriter.resume(tmp_path / "run.h5", PARAMS, SCALARS)


def test_the_queue_blocks_and_nothing_is_dropped(tmp_path, monkeypatch):
    appended = commit.CommitFile.append
    gate = threading.Event()

    def slow(self, block):
        gate.wait(20)
        appended(self, block)

    monkeypatch.setattr(commit.CommitFile, "append", slow)
    path = tmp_path / "run.h5"
    writer = fresh(path, block_rows=1, scalar_rows=1, queue_blocks=2)
    done = []

    def produce() -> None:
        for step in range(20):
            writer.save(step, arrays(step))
            done.append(step)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: len(done) >= 3)
    time.sleep(0.1)
    # One block with the thread, two in the queue.
    assert len(done) == 3
    gate.set()
    producer.join(20)
    writer.close()
    with Trajectory(path) as run:
        assert run.steps.tolist() == list(range(20))


def full_disk(monkeypatch: pytest.MonkeyPatch, commits: float) -> None:
    """Refuse reservations after ``commits`` commits; each reserves twice, for its block and its marker."""
    allowed = [int(2 * commits)]

    def refuse(descriptor: int, offset: int, length: int) -> None:
        if allowed[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        allowed[0] -= 1

    monkeypatch.setattr(os, "posix_fallocate", refuse)


@pytest.mark.parametrize("commits", [3, 3.5])
def test_a_full_disk_surfaces_once_and_the_file_stays_whole(tmp_path, monkeypatch, commits):
    path = tmp_path / "run.h5"
    writer = fresh(path)
    full_disk(monkeypatch, commits)
    with pytest.raises(GrokscopeError) as refused:
        train_saves(writer, 10_000)
    text = str(refused.value)
    assert str(path) in text
    assert "the disk is full before the saves of steps 24 to 30" in text
    assert "12 saves and 0 scalar rows are committed" in text
    assert "\n" not in text
    # Said again as long as somebody saves, but not by cleaning up.
    with pytest.raises(GrokscopeError, match="the disk is full"):
        writer.scalar(0, {"loss": 0.0})
    writer.close()
    assert committed(path) == (12, 0)
    monkeypatch.undo()
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        train(writer, 0, 60)
    assert verify_trajectory(path).checksum == checksum_of_whole(tmp_path / "whole.h5", 60)


def test_a_full_disk_at_the_end_is_told_by_close(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    writer = fresh(path)
    train(writer, 0, 3)
    full_disk(monkeypatch, commits=0)
    with pytest.raises(GrokscopeError, match="the disk is full"):
        writer.close()
    writer.close()
    assert committed(path) == (0, 0)


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path, monkeypatch):
    full_disk(monkeypatch, commits=0)
    with pytest.raises(GrokscopeError, match="the disk is full before the first commit"):
        fresh(tmp_path / "run.h5")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_while_succeeding_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    checksum_of_whole(path, 15)
    content = path.read_bytes()
    full_disk(monkeypatch, commits=1)
    with resumed_again(tmp_path) as writer:
        train(writer, 0, 24)
        with pytest.raises(GrokscopeError, match="the disk is full"):
            writer.close()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run.h5"]


def test_no_space_for_a_roomier_copy_does_not_stop_the_run(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    create = commit.CommitFile.create
    made = []

    def once(cls, *arguments):
        if made:
            raise GrokscopeError("no space for a copy")
        made.append(create(*arguments))
        return made[0]

    monkeypatch.setattr(commit.CommitFile, "create", classmethod(once))
    with fresh(path, block_rows=1) as writer:
        for step in range(80):
            writer.save(step, arrays(step))
    assert committed(path)[0] == 80


def test_where_space_cannot_be_reserved_writing_goes_on(tmp_path, monkeypatch):
    def unsupported(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    path = tmp_path / "run.h5"
    checksum_of_whole(path, 24)
    monkeypatch.delattr(os, "posix_fallocate")
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        train(writer, 20, 30)
    assert committed(path) == (15, 30)


def test_any_failure_of_the_thread_reaches_the_caller(tmp_path, monkeypatch):
    def broken(self, block):
        raise ZeroDivisionError("first line\nsecond line")

    writer = fresh(tmp_path / "run.h5")
    monkeypatch.setattr(commit.CommitFile, "append", broken)
    with pytest.raises(GrokscopeError, match=r"run\.h5: first line$"):
        train(writer, 0, 10_000)
    writer.close()


def test_an_interrupt_during_the_hand_over_neither_loses_nor_repeats(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    with fresh(path) as writer:
        worker = writer._worker
        submit = worker.submit

        def interrupted(block):
            submit(block)
            raise KeyboardInterrupt

        monkeypatch.setattr(worker, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_saves(writer, 8)
        monkeypatch.undo()
        train(writer, 8, 20)
    with Trajectory(path) as run:
        assert run.steps.tolist() == list(range(0, 20, 2))
        np.testing.assert_array_equal(run.read("n"), run.steps)


def test_a_forgotten_writer_ends_its_thread(tmp_path):
    writer = fresh(tmp_path / "run.h5")
    train(writer, 0, 9)
    threads = [thread for thread in threading.enumerate() if thread.name == "trajectory-writer"]
    del writer
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert committed(tmp_path / "run.h5") == (4, 6)
