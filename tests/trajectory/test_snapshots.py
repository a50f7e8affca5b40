from __future__ import annotations

import os

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.trajectory import atomic, read_snapshot, snapshot_steps, write_snapshot

STATE = {
    "W": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "exp_avg.W": np.full((2, 3), -0.0),
    "step": np.asarray(7, np.int64),
    "flag": np.array([True, False]),
}


def test_snapshots_round_trip_bit_for_bit(tmp_path):
    place = write_snapshot(tmp_path, 300, STATE, {"lr": "0.001"})
    assert place == tmp_path / "snapshots" / "300.safetensors"
    arrays, metadata = read_snapshot(tmp_path, 300)
    assert metadata == {"lr": "0.001"}
    assert set(arrays) == set(STATE)
    for name, array in STATE.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_steps_are_listed_in_order_and_half_written_files_ignored(tmp_path):
    assert snapshot_steps(tmp_path) == []
    for step in (1000, 0, 20):
        write_snapshot(tmp_path, step, STATE)
    directory = tmp_path / "snapshots"
    stale = directory / ".40.safetensors.tmp"
    stale.write_bytes(b"half")
    (directory / "notes.txt").touch()
    (directory / "-3.safetensors").touch()
    (directory / "007.safetensors").touch()
    assert snapshot_steps(tmp_path) == [0, 20, 1000]
    write_snapshot(tmp_path, 60, STATE)
    assert not stale.exists()
    assert snapshot_steps(tmp_path) == [0, 20, 60, 1000]


def test_writing_a_step_again_replaces_it(tmp_path):
    write_snapshot(tmp_path, 5, STATE)
    write_snapshot(tmp_path, 5, {"W": np.ones(2)}, {})
    arrays, metadata = read_snapshot(tmp_path, 5)
    assert list(arrays) == ["W"]
    assert metadata == {}


def test_a_missing_and_a_damaged_snapshot_are_refused_in_one_line(tmp_path):
    with pytest.raises(GrokscopeError, match="no snapshot of step 3; there are: none"):
        read_snapshot(tmp_path, 3)
    place = write_snapshot(tmp_path, 20, STATE)
    with pytest.raises(GrokscopeError, match="no snapshot of step 3; there are: 20"):
        read_snapshot(tmp_path, 3)
    for content in (b"", b"noise" * 100, place.read_bytes()[:-3]):
        place.write_bytes(content)
        with pytest.raises(GrokscopeError, match="damaged snapshot") as refused:
            read_snapshot(tmp_path, 20)
        assert "\n" not in str(refused.value)


def test_what_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(GrokscopeError, match="expected numeric arrays"):
        write_snapshot(tmp_path, 1, {"W": np.array(["text"], dtype=object)})
    with pytest.raises(GrokscopeError, match=r"write .*missing"):
        write_snapshot(tmp_path / "missing", 1, STATE)


def test_a_full_disk_leaves_the_old_snapshots(tmp_path, monkeypatch):
    write_snapshot(tmp_path, 1, STATE)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(GrokscopeError, match=r"2\.safetensors: the disk is full, \d+ free bytes expected"):
        write_snapshot(tmp_path, 2, STATE)
    assert snapshot_steps(tmp_path) == [1]
    assert os.listdir(tmp_path / "snapshots") == ["1.safetensors"]
