"""Digests of saves: what they depend on, and when those of an earlier process are believed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from grokscope.trajectory import Trajectory, TrajectoryWriter, digests
from grokscope.trajectory.digests import (
    CHECKSUM_NAME,
    FILE_NAME,
    content_digest,
    remembered_checksum,
    save_digests,
)

SHAPES = {"a": ((3, 2), np.float32), "b": ((4,), np.float64)}


def write(path: Path, count: int, *, first: float = 0.0, scalar: float = 1.0) -> Trajectory:
    with TrajectoryWriter(path, SHAPES, ["loss"]) as writer:
        for step in range(count):
            writer.save(
                step,
                {n: np.full(s, first + step, d) for n, (s, d) in SHAPES.items()},
            )
            writer.scalar(step, {"loss": scalar})
    return Trajectory(path)


@pytest.fixture
def old(tmp_path: Path) -> Trajectory:
    """A trajectory whose file was last changed an hour ago."""
    trajectory = write(tmp_path / "trajectory.h5", 5)
    age(trajectory.path)
    return trajectory


def age(path: Path) -> None:
    then = time.time() - 3600
    os.utime(path, (then, then))


def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the last change of a file's status cannot be set, so the test cannot wait for it."""
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**12))


def test_a_save_has_one_digest_wherever_it_is_stored(tmp_path: Path) -> None:
    short, long = write(tmp_path / "short.h5", 3), write(tmp_path / "long.h5", 40)
    shifted = write(tmp_path / "shifted.h5", 3, first=2.0)
    found = save_digests(long)
    assert found.shape == (40, 16)
    assert len({bytes(row) for row in found}) == 40
    assert np.array_equal(save_digests(short), found[:3])
    assert np.array_equal(save_digests(shifted), found[2:5])


def test_names_shapes_and_dtypes_count(tmp_path: Path) -> None:
    seen = set()
    columns = [
        ("a", (2, 2), np.float32),
        ("b", (2, 2), np.float32),
        ("a", (4,), np.float32),
        ("a", (2,), np.float64),
    ]
    for index, (name, shape, dtype) in enumerate(columns):
        path = tmp_path / f"{index}.h5"
        with TrajectoryWriter(path, {name: (shape, dtype)}, []) as writer:
            writer.save(0, {name: np.zeros(shape, dtype)})
        seen.add(bytes(save_digests(Trajectory(path))[0]))
    assert len(seen) == len(columns)


def test_the_content_follows_weights_steps_and_scalars(tmp_path: Path) -> None:
    plain = content_digest(write(tmp_path / "a.h5", 4))
    assert content_digest(write(tmp_path / "b.h5", 4)) == plain
    assert content_digest(write(tmp_path / "c.h5", 3)) != plain
    assert content_digest(write(tmp_path / "d.h5", 4, scalar=2.0)) != plain
    assert content_digest(write(tmp_path / "e.h5", 4, first=1.0)) != plain


def test_a_later_process_reads_no_weights(
    old: Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_guard(monkeypatch)
    folder = tmp_path / "readings"
    found = save_digests(old, folder)
    assert (folder / FILE_NAME).is_file()

    def refuse(*_: object) -> None:
        raise AssertionError("weights were read")

    again = Trajectory(old.path)
    monkeypatch.setattr(Trajectory, "read", refuse)
    assert np.array_equal(save_digests(again, folder), found)
    assert content_digest(again, folder) == content_digest(old, folder)


def test_a_checksum_is_remembered(old: Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_guard(monkeypatch)
    expected = old.checksum()
    assert remembered_checksum(old, tmp_path / "readings") == expected
    (stored,) = (tmp_path / "readings").iterdir()
    assert stored.name == CHECKSUM_NAME

    def refuse(*_: object) -> None:
        raise AssertionError("everything was read")

    with monkeypatch.context() as patched:
        patched.setattr(Trajectory, "checksum", refuse)
        assert remembered_checksum(Trajectory(old.path), tmp_path / "readings") == expected
    stored.write_text("{")
    assert remembered_checksum(Trajectory(old.path), tmp_path / "readings") == expected
    old.path.unlink()
    other = write(old.path, 5, first=7.0)
    assert remembered_checksum(other, tmp_path / "readings") == other.checksum() != expected


def test_a_changed_file_is_read_again(
    old: Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_guard(monkeypatch)
    folder = tmp_path / "readings"
    found = save_digests(old, folder)
    size, times = old.path.stat().st_size, old.path.stat()
    old.path.unlink()
    other = write(old.path, 5, first=7.0)
    os.utime(old.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert old.path.stat().st_size == size
    assert not np.array_equal(save_digests(other, folder), found)


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    trajectory = write(tmp_path / "trajectory.h5", 2)
    save_digests(trajectory, tmp_path / "readings")
    assert not (tmp_path / "readings" / FILE_NAME).exists()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_damaged_store_is_replaced(
    old: Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    no_guard(monkeypatch)
    found = save_digests(old, tmp_path)
    (tmp_path / FILE_NAME).write_bytes(content)
    assert np.array_equal(save_digests(Trajectory(old.path), tmp_path), found)
    assert (tmp_path / FILE_NAME).stat().st_size > 100


def test_a_folder_that_cannot_be_used_costs_time_only(
    old: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_guard(monkeypatch)
    assert save_digests(old, old.path / "no" / "folder").shape == (5, 16)


def test_a_refreshed_trajectory_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    trajectory = write(path, 3)
    assert len(save_digests(trajectory)) == 3
    path.unlink()
    write(path, 6)
    trajectory.refresh()
    assert len(save_digests(trajectory)) == 6
