from __future__ import annotations

import json
import os

import pytest

from grokscope.errors import GrokscopeError
from grokscope.trajectory import MANIFEST_SCHEMA, atomic, read_manifest, write_manifest


def test_a_manifest_round_trips_and_carries_its_schema(tmp_path):
    content = {"name": "quickstart-s0", "config": {"train": {"lr": 0.01, "betas": [0.9, 0.98]}}, "card": None}
    path = write_manifest(tmp_path, content)
    assert path == tmp_path / "run.json"
    assert read_manifest(tmp_path) == {"schema": MANIFEST_SCHEMA, **content}
    assert json.loads(path.read_text())["schema"] == 1
    write_manifest(tmp_path, {"schema": 1, "name": "é"})
    assert read_manifest(tmp_path) == {"schema": 1, "name": "é"}
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "not a run"),
        ('"text"', "not a run"),
        ('{"name": "x"}', "not a run"),
        ('{"schema": "1"}', "not a run"),
        ('{"schema": true}', "not a run"),
        ('{"schema": 2}', "its schema is 2, this version reads up to 1"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path, text, named):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(GrokscopeError) as refused:
        read_manifest(tmp_path)
    assert named in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_directory_without_one_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(GrokscopeError, match=r"not a run: there is no run\.json"):
        read_manifest(tmp_path)
    with pytest.raises(GrokscopeError, match="not a run"):
        read_manifest(tmp_path / "missing")
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GrokscopeError, match="not UTF-8"):
        read_manifest(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    with pytest.raises(GrokscopeError, match="cannot read it"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [{"loss": float("nan")}, {"path": object()}])
def test_what_json_cannot_hold_leaves_the_old_manifest(tmp_path, content):
    write_manifest(tmp_path, {"name": "old"})
    with pytest.raises(GrokscopeError, match="expected what JSON can hold"):
        write_manifest(tmp_path, content)
    assert read_manifest(tmp_path)["name"] == "old"


def test_a_full_disk_leaves_the_old_manifest(tmp_path, monkeypatch):
    write_manifest(tmp_path, {"name": "old"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(GrokscopeError, match=r"run\.json: the disk is full"):
        write_manifest(tmp_path, {"name": "new"})
    monkeypatch.undo()
    assert read_manifest(tmp_path)["name"] == "old"
    assert os.listdir(tmp_path) == ["run.json"]
    with pytest.raises(GrokscopeError, match="No such file"):
        write_manifest(tmp_path / "missing", {"name": "new"})
