"""Every state a kill can leave: all prefixes of the writes HDF5 makes, through a recording file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.trajectory import Trajectory, TrajectoryWriter, commit, index, reader, verify_trajectory
from grokscope.trajectory.commit import Block, CommitFile
from grokscope.trajectory.format import Stream, create_skeleton, read_capacity, save_stream, scalar_stream

PARAMS = {"W": ((5, 4), np.dtype("f4")), "b": ((3,), np.dtype("f8"))}


class RecordingFile(io.RawIOBase):
    """A file in memory that remembers every write and truncation, in order."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.position = 0
        self.log: list[tuple[int, bytes] | int] = []

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + {0: 0, 1: self.position, 2: len(self.content)}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer) -> int:
        held = self.content[self.position : self.position + len(buffer)]
        buffer[: len(held)] = held
        self.position += len(held)
        return len(held)

    def write(self, data) -> int:
        data = bytes(data)
        self.log.append((self.position, data))
        apply_write(self.content, self.log[-1])
        self.position += len(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        size = self.position if size is None else size
        self.log.append(size)
        apply_write(self.content, size)
        return size


def apply_write(content: bytearray, entry: tuple[int, bytes] | int) -> None:
    end = entry if isinstance(entry, int) else entry[0] + len(entry[1])
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if isinstance(entry, int):
        del content[entry:]
    else:
        content[entry[0] : end] = entry[1]


def value(name: str, step: int) -> np.ndarray:
    shape, dtype = PARAMS[name]
    return np.full(shape, step + 0.25).astype(dtype)


def recorded_run(directory: Path, blocks: int, rows: int, capacity: int) -> tuple[bytes, list, list[int]]:
    """A run of ``blocks`` commits per stream: the empty file, the log of writes, and after each commit of a
    save block the length of the log."""
    place = directory / "empty.h5"
    index.create_empty(place, capacity)
    recording = RecordingFile(place.read_bytes())
    streams = (save_stream(PARAMS, rows), scalar_stream(("loss",), rows))
    with h5py.File(recording, "r+", libver=("v108", "v108")) as file:
        create_skeleton(file, streams, capacity)
        file.flush()
        base = bytes(recording.content)
        recording.log.clear()
        # Space is reserved in the stand-in, which takes no part in the recording.
        target = CommitFile(directory / "run.h5", file, place, streams, capacity)
        marks = []
        for number in range(blocks):
            for stream in streams:
                target.append(block_of(stream, number * rows))
            marks.append(len(recording.log))
        log = list(recording.log)
        target.release(keep_open=True)
    return base, log, marks


def block_of(stream: Stream, first: int) -> Block:
    steps = np.arange(first, first + stream.rows)
    if stream.kind == "save":
        return Block(
            stream, first, steps, {n: np.stack([value(n, s) for s in steps.tolist()]) for n in PARAMS}
        )
    return Block(stream, first, steps, {"loss": steps / 7})


def states_after_kills(base: bytes, log: list, marks: list[int]) -> Iterator[tuple[int, bytes]]:
    """After every single write: how many blocks of each stream were committed for sure, and the file."""
    content = bytearray(base)
    for position, entry in enumerate(log, start=1):
        apply_write(content, entry)
        yield sum(mark <= position for mark in marks), bytes(content)


def check_state(path: Path, at_least: int) -> None:
    with Trajectory(path) as run:
        steps, scalars = run.steps, run.scalars
        assert steps.size >= at_least
        assert scalars["step"].size >= at_least
        np.testing.assert_array_equal(steps, np.arange(steps.size))
        np.testing.assert_array_equal(scalars["step"], np.arange(scalars["step"].size))
        np.testing.assert_array_equal(scalars["loss"], scalars["step"] / 7)
        for name in PARAMS:
            stored = run.read(name)
            for step in steps:
                np.testing.assert_array_equal(stored[step], value(name, step))


@pytest.fixture(autouse=True)
def look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_ATTEMPTS", 1)


def test_after_any_write_all_that_was_committed_can_be_read(tmp_path):
    rows, blocks = 3, 8
    # Eight entries fill the index to the last one.
    base, log, marks = recorded_run(tmp_path, blocks, rows, capacity=8)
    path = tmp_path / "state.h5"
    seen = 0
    for committed, content in states_after_kills(base, log, marks):
        path.write_bytes(content)
        check_state(path, committed * rows)
        seen += 1
    assert seen > 20 * blocks


def test_an_index_that_must_split_could_lose_everything(tmp_path):
    """Why files are made roomy: one block beyond the capacity, and some kill loses what was committed."""
    base, log, marks = recorded_run(tmp_path, 9, 3, capacity=8)
    path = tmp_path / "state.h5"
    lost = 0
    for committed, content in states_after_kills(base, log, marks):
        path.write_bytes(content)
        try:
            check_state(path, committed * 3)
        except (GrokscopeError, AssertionError):
            lost += 1
            assert committed == 8
    assert lost > 0


def resume_and_finish(path: Path, last: int) -> None:
    # Sometimes from a snapshot at the bound, sometimes from the beginning.
    with TrajectoryWriter.resume(path, PARAMS, ["loss"]) as writer:
        begin = 0 if writer.resume_bound % 2 else max(0, writer.resume_bound)
        for step in range(begin, last):
            writer.save(step, {name: value(name, step) for name in PARAMS})
            writer.scalar(step, {"loss": step / 7})


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_after_any_write_the_run_resumes_to_the_same_content(tmp_path, stride):
    rows, blocks, last = 3, 4, 17
    base, log, marks = recorded_run(tmp_path, blocks, rows, capacity=64)
    whole = tmp_path / "whole.h5"
    with TrajectoryWriter(whole, PARAMS, ["loss"], block_rows=rows, scalar_rows=rows) as writer:
        for step in range(last):
            writer.save(step, {name: value(name, step) for name in PARAMS})
            writer.scalar(step, {"loss": step / 7})
    expected = verify_trajectory(whole)
    path = tmp_path / "state.h5"
    for number, (_, content) in enumerate(states_after_kills(base, log, marks)):
        if number % stride == 0:
            path.write_bytes(content)
            resume_and_finish(path, last)
            report = verify_trajectory(path)
            assert (report.checksum, report.problems) == (expected.checksum, ())


def test_files_outgrow_their_index_by_moving_to_a_roomier_one(tmp_path):
    path = tmp_path / "run.h5"
    count = 150
    with TrajectoryWriter(path, PARAMS, ["loss"], block_rows=1, scalar_rows=1) as writer:
        for step in range(count):
            writer.save(step, {name: value(name, step) for name in PARAMS})
            writer.scalar(step, {"loss": step / 7})
    check_state(path, count)
    with h5py.File(path) as file:
        assert read_capacity(file) >= count
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]


def test_expected_counts_make_the_room_at_once(tmp_path):
    path = tmp_path / "run.h5"
    with TrajectoryWriter(path, PARAMS, ["loss"], expected_saves=16_000, expected_scalars=256) as writer:
        inode = path.stat().st_ino
        for step in range(40):
            writer.save(step, {name: value(name, step) for name in PARAMS})
    with h5py.File(path) as file:
        assert read_capacity(file) == 1250
    assert path.stat().st_ino == inode


@pytest.mark.parametrize(("blocks", "capacity"), [(0, 64), (50, 64), (100, 126), (10**9, 32768)])
def test_capacity_is_even_with_a_quarter_to_spare(blocks, capacity):
    assert index.capacity_for(blocks) == capacity


def test_the_index_node_is_as_large_as_asked(tmp_path):
    sizes = {}
    for capacity in (64, 1024):
        place = tmp_path / f"{capacity}.h5"
        assert index.create_empty(place, capacity) == capacity
        with h5py.File(place, "r+", libver=("v108", "v108")) as file:
            data = file.create_dataset("a", (1, 2, 2), maxshape=(None, 2, 2), chunks=(1, 2, 2), dtype="i1")
            data[0] = 1
        sizes[capacity] = place.stat().st_size
    entry = (sizes[1024] - sizes[64]) / (1024 - 64)
    assert round(entry) == 48
    for capacity in sizes:
        assert index.index_bytes(capacity, 3) >= 24 + capacity * entry + 40


def test_a_clean_file_ends_where_it_says_and_a_torn_one_does_not(tmp_path):
    path = tmp_path / "run.h5"
    with TrajectoryWriter(path, PARAMS, [], block_rows=2) as writer:
        for step in range(5):
            writer.save(step, {name: value(name, step) for name in PARAMS})
    assert commit.ends_where_it_says(path)
    with path.open("ab") as raw:
        raw.write(b"\0")
    assert not commit.ends_where_it_says(path)
