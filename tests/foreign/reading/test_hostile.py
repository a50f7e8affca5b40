"""Hostile and broken files: nothing of theirs runs, each ends in plain data or in one line, in bounded time."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading import safe_read
from grokscope.foreign.reading.safe_read import SUFFIXES, Reading, read_file
from tests.foreign.reading import hostile
from tests.foreign.reading.hostile import Touch

SLOWEST = 15.0
"""Seconds that any file of the corpus may take, on a slow machine."""


def outcome(path: Path) -> Reading | str:
    """What reading gives: plain data, or the one line of the error; any other exception fails the test."""
    began = time.process_time()
    try:
        found = read_file(path)
    except GrokscopeError as error:
        found = str(error)
        assert found.isprintable(), found
        assert len(found) < 700
        assert "expected" in found
    else:
        check_plain(found.content)
        assert found.how.isprintable()
        assert all(note.isprintable() for note in found.notes)
    assert time.process_time() - began < SLOWEST
    return found


def check_plain(value: object) -> None:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        for item in value.values():
            check_plain(item)
    elif isinstance(value, list):
        for item in value:
            check_plain(item)
    else:
        assert value is None or type(value) in (bool, int, float, str, torch.Tensor), type(value)


CODE = tuple(hostile.code_pickles(Path("/nowhere/x")))


@pytest.mark.parametrize("wrapper", hostile.WRAPPERS)
@pytest.mark.parametrize("name", CODE)
def test_no_code_runs(tmp_path: Path, name: str, wrapper: str) -> None:
    marker = tmp_path / "ran"
    suffix, wrap = hostile.WRAPPERS[wrapper]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(wrap(hostile.code_pickles(marker)[name]))
    found = outcome(path)
    assert not marker.exists()
    if isinstance(found, str):
        assert str(path) in found
    else:
        # what is given back has forgotten how to run, and says so
        assert any("inert record" in line for line in (found.how, *found.notes))
        pickle.loads(pickle.dumps(found.content))
        assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["reduce", "global", "inst", "obj", "eval", "exec", "getattr of import", "dotted name", "python 2 name"],
)
def test_what_names_harm_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(hostile.code_pickles(tmp_path / "ran")[name])
    found = outcome(path)
    assert isinstance(found, str)
    assert "needs code of its own" in found
    assert "none of which was run" in found


@pytest.mark.parametrize(
    "name",
    ["reduce", "protocol 0", "stack global", "inst", "obj", "setstate of a state", "dotted name", "partial",
     "attrgetter on a module", "getattr of import", "in an array of objects"],
)  # fmt: skip
def test_it_would_have_run(tmp_path: Path, name: str) -> None:
    """The corpus means something: an ordinary unpickler does run it."""
    pickle.loads(hostile.code_pickles(tmp_path / "ran")[name])
    assert (tmp_path / "ran").exists()


def test_codes_of_the_process_are_not_looked_up(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    copyreg.add_extension("os", "mkdir", 0xF1)
    try:
        content = b"\x80\x02\x82\xf1" + hostile.text(str(marker)) + b"\x85R."
        (tmp_path / "a.pkl").write_bytes(content)
        found = outcome(tmp_path / "a.pkl")
        assert isinstance(found, str)
        assert "private registry" in found
        assert not marker.exists()
        pickle.loads(content)
        assert marker.exists()
    finally:
        copyreg.remove_extension("os", "mkdir", 0xF1)


@pytest.mark.parametrize("name", hostile.lying_tensors())
def test_tensors_that_lie(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(hostile.lying_tensors()[name])
    assert isinstance(outcome(path), str)


@pytest.mark.parametrize("wrapper", ["plain", "archive"])
@pytest.mark.parametrize("name", hostile.floods())
def test_floods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrapper: str) -> None:
    # a tenth of the limit takes a tenth of the time; what the limit itself takes is measured below
    monkeypatch.setattr(safe_read, "MAX_VALUES", safe_read.MAX_VALUES // 10)
    suffix, wrap = hostile.WRAPPERS[wrapper]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(wrap(hostile.floods()[name]))
    outcome(path)


def test_a_million_keys(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(hostile.archive(hostile.many_keys(10**6)))
    found = outcome(tmp_path / "a.pt")
    assert isinstance(found, str)
    assert "more than 1000000 values" in found


def test_keys_chosen_to_collide(tmp_path: Path) -> None:
    """All of these integers have one hash: a dict of them takes quadratic time."""
    prime = 2**61 - 1
    content = b"\x80\x02}("
    for index in range(60_000):
        raw = (index * prime).to_bytes(12, "little")
        content += b"\x8a\x0c" + raw + b"N"
    (tmp_path / "a.pt").write_bytes(hostile.archive(content + b"u."))
    found = outcome(tmp_path / "a.pt")
    assert isinstance(found, Reading)
    assert isinstance(found.content, dict)
    assert len(found.content) == 60_000


MEMORY = """
import json, resource, sys, time
from pathlib import Path
from grokscope.errors import GrokscopeError
from grokscope.foreign.reading.safe_read import read_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = {}
for name in sys.argv[1:]:
    began = time.process_time()
    try:
        read_file(Path(name))
        line = "read"
    except GrokscopeError as error:
        line = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    rows[Path(name).name] = (line, grown / 1024, time.process_time() - began)
print(json.dumps(rows))
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """The worst of the corpus in a process of its own, whose peak of memory is its own."""
    floods = hostile.floods()
    for name in (
        "list that doubles",
        "memo index",
        "bytearray of a number",
        "text made bytes again and again",
        "memo",
    ):
        (tmp_path / f"{name}.pkl").write_bytes(floods[name])
    (tmp_path / "tensor.pt").write_bytes(hostile.lying_tensors()["shape by stride 0"])
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as new:
        for index in range(8):
            new.writestr(f"{index}.npy", hostile.npy_header("<f8", f"({2**25},)") + bytes(2**16))
    files = sorted(str(path) for path in tmp_path.iterdir())
    shown = subprocess.run(
        [sys.executable, "-c", MEMORY, *files], capture_output=True, text=True, check=True, timeout=120
    )
    rows = json.loads(shown.stdout)
    assert len(rows) == len(files)
    for name, (line, megabytes, seconds) in rows.items():
        assert megabytes < 700, (name, line, megabytes)
        assert seconds < SLOWEST, (name, line, seconds)


# Files that are no weights


NO_WEIGHTS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML page"),
    "html 2": (b"\n <html lang='en'>", "HTML page"),
    "xml": (b"<?xml version='1.0'?><Error/>", "XML"),
    "json": (b'{"message": "Not Found"}', "text file"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(40), "gzip"),
    "tar": (b"", "tar archive"),
    "random": (random.Random(3).randbytes(5000), "torch.save"),
    "escapes": (b"\x1b[31mred\x1b[0m text " * 30, "text file"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz", ".h5", ".pkl", ".npy"])
@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_is_no_weights(tmp_path: Path, name: str, suffix: str) -> None:
    content, word = NO_WEIGHTS[name]
    path = tmp_path / f"a{suffix}"
    if name == "tar":
        content = tar_of_weights(tmp_path)
    path.write_bytes(content)
    found = outcome(path)
    assert isinstance(found, str)
    if suffix == ".pt" or name in ("lfs", "html", "html 2", "xml", "gzip", "tar"):
        assert word in found


def tar_of_weights(folder: Path) -> bytes:
    """A tar archive whose first name begins as a pickle does."""
    import tarfile

    with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as new:
        entry = tarfile.TarInfo("\x80\x02weights")
        new.addfile(entry)
    return (folder / "x.tar").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_paths_that_lead_elsewhere(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    os.symlink("/dev/zero", tmp_path / f"device{suffix}")
    os.symlink(tmp_path / "gone", tmp_path / f"dangling{suffix}")
    os.symlink(tmp_path / f"loop{suffix}", tmp_path / f"loop{suffix}")
    os.symlink(tmp_path / f"pipe{suffix}", tmp_path / f"to a pipe{suffix}")
    (tmp_path / f"empty{suffix}").touch()
    words = {"folder": "regular", "pipe": "regular", "device": "regular", "dangling": "link to nothing",
             "loop": "expected", "to a pipe": "regular", "empty": "empty"}  # fmt: skip
    for name, word in words.items():
        found = outcome(tmp_path / f"{name}{suffix}")
        assert isinstance(found, str)
        assert word in found


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "blobs" / "0123")
    os.symlink(tmp_path / "blobs" / "0123", tmp_path / "model.bin")
    found = outcome(tmp_path / "model.bin")
    assert isinstance(found, Reading)
    assert found.how == "torch, weights only"


def test_names_with_markup_and_escapes(tmp_path: Path) -> None:
    odd = "\x1b[31m<script>\n\u202e\x00\x07" + "y" * 5000
    torch.save({odd: torch.ones(2), "x": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    assert isinstance(outcome(tmp_path / "a.pt"), str)
    torch.save({odd: torch.ones(2)}, tmp_path / "b.pt")
    found = outcome(tmp_path / "b.pt")
    assert isinstance(found, Reading)
    assert list(found.content) == [odd]  # type: ignore[arg-type]
    (tmp_path / "line\nend\x1b.pt").write_bytes(b"")
    assert isinstance(outcome(tmp_path / "line\nend\x1b.pt"), str)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as new:
        new.writestr(f"{odd[:40]}.npy", hostile.npy_header("<f8", "(3,)"))
    assert isinstance(outcome(tmp_path / "c.npz"), str)
    content = b"\x80\x02c\x1b[31m<b>\ny\r\n" + hostile.text("a") + b"\x85R."
    (tmp_path / "d.pkl").write_bytes(content)
    outcome(tmp_path / "d.pkl")
    (tmp_path / "surrogate.pkl").write_bytes(b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80Ns.")
    found = outcome(tmp_path / "surrogate.pkl")
    assert isinstance(found, Reading)
    json.dumps(found.content).encode()
    "".join(found.content).encode("utf-8")  # type: ignore[arg-type]


def test_archives_that_differ_by_reader(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as new:
        new.writestr("a/data.pkl", b"\x80\x02N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            new.writestr("a/data.pkl", b"\x80\x02}.")
    with zipfile.ZipFile(tmp_path / "three.pt", "w") as new:
        new.writestr("a/data.pkl", b"\x80\x02N.")
        new.writestr("b/data.pkl", b"\x80\x02}.")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as new:
        new.writestr("../../etc/passwd", b"x")
    (tmp_path / "directory.pt").write_bytes(
        b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(8) + b"\xff" * 8 + bytes(2)
    )
    for path in sorted(tmp_path.iterdir()):
        assert isinstance(outcome(path), str)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "directory.pt",
        "other.pt",
        "three.pt",
        "two.pt",
    ]


# Damage at random


def weights() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model": {"embed.W_E": torch.randn(5, 4, generator=generator), "b": torch.zeros(3).half()},
        "losses": [torch.tensor(0.5), 0.25], "config": {"lr": 1e-3, "betas": (0.9, 0.98)},
        "array": np.arange(4), "when": 3,
    }  # fmt: skip


def damaged_files(folder: Path) -> dict[str, bytes]:
    from safetensors.torch import save

    arrays = {"w": np.arange(6.0).reshape(2, 3), "n": np.array(3), "t": np.array(["a", "bc"])}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    np.save(folder / "a.npy", arrays["w"])
    return {
        "a.pt": hostile.saved(weights()),
        "b.pth": hostile.saved(weights(), _use_new_zipfile_serialization=False),
        "c.pkl": pickle.dumps(weights()),
        "d.pickle": pickle.dumps(weights(), protocol=0),
        "e.safetensors": save({"w": torch.ones(3, 2), "v": torch.zeros(4)}, {"step": "3"}),
        "f.npz": (folder / "a.npz").read_bytes(),
        "g.npz": (folder / "b.npz").read_bytes(),
        "h.npy": (folder / "a.npy").read_bytes(),
    }


@pytest.mark.parametrize(
    "name", ["a.pt", "b.pth", "c.pkl", "d.pickle", "e.safetensors", "f.npz", "g.npz", "h.npy"]
)
def test_flipped_bytes(tmp_path: Path, name: str) -> None:
    whole = damaged_files(tmp_path)[name]
    path, rng = tmp_path / f"damaged{Path(name).suffix}", random.Random(name)
    path.write_bytes(whole)
    assert isinstance(outcome(path), Reading)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 5))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        outcome(path)


@pytest.mark.parametrize(
    "name", ["a.pt", "b.pth", "c.pkl", "d.pickle", "e.safetensors", "f.npz", "g.npz", "h.npy"]
)
def test_truncated_anywhere(tmp_path: Path, name: str) -> None:
    whole = damaged_files(tmp_path)[name]
    path = tmp_path / f"damaged{Path(name).suffix}"
    for cut in sorted({int(len(whole) * share / 40) for share in range(1, 40)} | {len(whole) - 1}):
        path.write_bytes(whole[:cut])
        assert isinstance(outcome(path), str), cut


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"}("]),
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(start + content)
    outcome(path)


OPCODES = [bytes([code]) for code in b"NJKM)tl]}dase(012gh\x85\x86\x87R\x81bo\x88\x89\x94\x8f\x90\x91Q.u"]


@settings(max_examples=200, deadline=None)
@given(program=st.lists(st.sampled_from([*OPCODES, b"K\x01", b"h\x00", b"q\x00", hostile.text("x"), b"ca\nB\n",
                                         b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n", b"cnumpy\ndtype\n",
                                         b"ccollections\nOrderedDict\n", b"cnumpy.core.multiarray\nscalar\n",
                                         b"cbuiltins\ngetattr\n", b"cpathlib\nPath\n", b"cbuiltins\nset\n"]),
                        max_size=40))  # fmt: skip
def test_any_program(tmp_path_factory: pytest.TempPathFactory, program: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "program.pkl"
    path.write_bytes(b"\x80\x02" + b"".join(program) + b".")
    outcome(path)


def test_the_limits_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pkl").write_bytes(hostile.many_keys(2000))
    assert isinstance(outcome(tmp_path / "a.pkl"), Reading)
    monkeypatch.setattr(safe_read, "MAX_VALUES", 3000)
    assert isinstance(outcome(tmp_path / "a.pkl"), str)


def test_a_hostile_object_does_not_spoil_the_process(tmp_path: Path) -> None:
    """What torch allows to be read is the same before and after."""
    before = set(torch.serialization.get_safe_globals())
    torch.save({"w": torch.ones(2), "n": np.float64(2.0), "x": np.ones(3)}, tmp_path / "a.pt")
    found = outcome(tmp_path / "a.pt")
    assert isinstance(found, Reading)
    assert "numpy" in found.how
    torch.save({"x": Touch(tmp_path / "ran")}, tmp_path / "b.pt")
    assert isinstance(outcome(tmp_path / "b.pt"), str)
    assert set(torch.serialization.get_safe_globals()) == before
