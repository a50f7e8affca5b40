"""npy, npz, HDF5 and safetensors: what is in them, and headers that lie."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading import hdf5, safe_read
from grokscope.foreign.reading.safe_read import read_file
from tests.foreign.reading.hostile import npy_header

ARRAYS = {
    "layer/W": np.arange(6.0).reshape(2, 3),
    "F": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4)),
}


def refusal(path: Path) -> str:
    with pytest.raises(GrokscopeError) as caught:
        read_file(path)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 700
    assert "expected" in text
    return text


# npy and npz


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, write) -> None:
    write(
        tmp_path / "a.npz", **ARRAYS, step=np.array(300), name=np.array("add"), names=np.array([["a", "b"]])
    )
    found = read_file(tmp_path / "a.npz")
    assert found.how == "npz"
    assert isinstance(found.content, dict)
    for name, value in ARRAYS.items():
        assert np.array_equal(found.content[name].numpy(), value), name
    assert (found.content["step"], found.content["name"], found.content["names"]) == (
        300,
        "add",
        [["a", "b"]],
    )


@pytest.mark.parametrize("value", list(ARRAYS.values()))
def test_npy(tmp_path: Path, value: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", value)
    found = read_file(tmp_path / "a.npy")
    assert found.how == "npy"
    assert isinstance(found.content, torch.Tensor)
    assert np.array_equal(found.content.numpy(), value)


def test_a_dict_in_an_npy_file(tmp_path: Path) -> None:
    """``np.save`` of a dict is a pickle, which is read without running it and said."""
    np.save(tmp_path / "a.npy", np.array({"lr": 0.1, "w": np.ones(2)}, dtype=object))
    found = read_file(tmp_path / "a.npy")
    assert isinstance(found.content, dict)
    assert found.content["lr"] == 0.1
    assert torch.equal(found.content["w"], torch.ones(2, dtype=torch.float64))
    assert any("pickle" in note for note in found.notes)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (npy_header("<f8", "(1000000000000,)"), 16),
        (npy_header("<f8", "(3,)"), 16),
        (npy_header("<f8", "(1,)"), 16),
        (npy_header("<f8", "(-2,)"), 16),
        (npy_header("<f8", "(2.0,)"), 16),
        (npy_header("<f8", "(4611686018427387904, 4)"), 16),
        (npy_header("<f8", "(2,) * 10**9"), 16),
        (npy_header("<f8", "(" * 3000), 16),
        (npy_header("<V8", "(2,)"), 16),
        (npy_header("<M8[s]", "(2,)"), 16),
        (npy_header("__import__", "(2,)"), 16),
        (npy_header("|O", "(2,)"), 16),
        (b"\x93NUMPY\x01\x00\xff\xff{", 16),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", 16),
        (b"\x93NUMPY\x09\x00\x10\x00{", 16),
        (b"\x93NUMPY", 0),
    ],
)
def test_npy_headers_that_lie(tmp_path: Path, header: bytes, size: int) -> None:
    (tmp_path / "a.npy").write_bytes(header + bytes(size))
    refusal(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("w.npy", header + bytes(size))
    refusal(tmp_path / "a.npz")


def test_an_npz_that_grows_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(200_000))
    assert isinstance(read_file(tmp_path / "a.npz").content, dict)
    monkeypatch.setattr(safe_read, "MAX_FILE_BYTES", 10**6)
    assert "claim more than 1000000 bytes" in refusal(tmp_path / "a.npz")


def test_an_npz_that_claims_less_than_it_unpacks_to(tmp_path: Path) -> None:
    """The size in the list of entries is what is unpacked at most, whatever the stream would give."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("w.npy", npy_header("<f8", "(100000,)") + bytes(800_000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    real = struct.pack("<I", 800_000 + len(npy_header("<f8", "(100000,)")))
    assert content.count(real) == 2
    (tmp_path / "a.npz").write_bytes(content.replace(real, struct.pack("<I", 1000)))
    refusal(tmp_path / "a.npz")


def test_npz_that_is_encrypted_or_packed_otherwise(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as new:
        new.writestr("w.npy", npy_header("<f8", "(1,)") + bytes(8))
    assert "compressed in another way" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", w=np.ones(3))
    content = bytearray((tmp_path / "b.npz").read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.npz").write_bytes(content)
    assert "encrypted" in refusal(tmp_path / "b.npz")


# Safetensors


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(2).bfloat16(), "n": torch.tensor(3)}
    save_file(tensors, tmp_path / "a.safetensors", {"step": "300", "format": "pt"})
    found = read_file(tmp_path / "a.safetensors")
    assert found.how == "safetensors"
    assert isinstance(found.content, dict)
    assert found.content["__metadata__"] == {"step": "300", "format": "pt"}
    for name, value in tensors.items():
        assert torch.equal(found.content[name], value)
        assert found.content[name].dtype == value.dtype


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(save({"w": torch.ones(2)}))
    assert read_file(tmp_path / "a.bin").how == "safetensors"


def test_safetensors_of_eight_bits(tmp_path: Path) -> None:
    values = torch.tensor([0.0, 1.0, -3.0])
    save_file({"w": values.to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    found = read_file(tmp_path / "a.safetensors")
    assert torch.equal(found.content["w"], values)  # type: ignore[index, call-overload]
    assert any("float8" in note for note in found.notes)


def headed(header: object, content: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def entry(dtype: object = "F32", shape: object = (2, 3), offsets: object = (0, 24)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 40) + b"{" + bytes(60),
        b"\x02\x00\x00",
        headed(b"[" * 5000),
        headed(b'{"a":' * 3000),
        headed([]),
        headed({"w": 3}),
        headed({"w": entry(shape=[10**12])}),
        headed({"w": entry(shape=[-2, -3])}),
        headed({"w": entry(shape="x")}),
        headed({"w": entry(offsets=[0, 10**12])}),
        headed({"w": entry(offsets=[8, 0])}),
        headed({"w": entry(dtype="X9")}),
        headed({"w": entry(), "v": entry()}),
        headed({"w": entry()}, bytes(10)),
        headed({"w": entry()}, bytes(100)),
        headed({"w": entry(), "__metadata__": {"a": 3}}),
        headed(b'{"w": ' + b"9" * 6000 + b"}"),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert "safetensors" in refusal(tmp_path / "a.safetensors")


def test_safetensors_of_too_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_read, "MAX_VALUES", 1000)
    (tmp_path / "a.safetensors").write_bytes(save({f"w{index}": torch.ones(1) for index in range(600)}))
    assert "more than 1000 values" in refusal(tmp_path / "a.safetensors")


# HDF5


def test_hdf5_as_keras_writes_it(tmp_path: Path) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["keras_version"] = "2.9"
        group = file.create_group("model_weights/dense")
        group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
        group.create_dataset(
            "kernel:0", data=kernel, chunks=(1, 3), compression="gzip", shuffle=True, fletcher32=True
        )
        group["bias:0"] = np.zeros(3)
        group["bias:0"].attrs["unit"] = "none"
        group.create_dataset("lzf", data=np.arange(9), compression="lzf")
        file["step"] = 300
        file["name"] = "add"
        file["names"] = ["a", "bä"]
        file["flags"] = np.array([True, False])
        file["nothing"] = h5py.Empty("f")
        file["again"] = h5py.SoftLink("/step")
        file["record"] = np.zeros(2, dtype=[("a", "f4")])
    found = read_file(tmp_path / "a.h5")
    assert found.how == "HDF5"
    content = found.content
    assert isinstance(content, dict)
    dense = content["model_weights"]["dense"]
    assert torch.equal(dense["kernel:0"], torch.from_numpy(kernel))
    assert torch.equal(dense["lzf"], torch.arange(9))
    assert dense["__attrs__"] == {"weight_names": ["kernel:0", "bias:0"], "bias:0": {"unit": "none"}}
    assert content["__attrs__"] == {"keras_version": "2.9"}
    assert "__attrs__" not in content["model_weights"]
    assert (content["step"], content["name"], content["names"], content["nothing"]) == (
        300,
        "add",
        ["a", "bä"],
        None,
    )
    assert content["flags"].tolist() == [True, False]
    assert "not read" in content["record"]
    assert any("soft link" in note for note in found.notes)


def hdf5_file(path: Path, kind: str) -> None:
    secret = path.with_name("secret.bin")
    secret.write_bytes(bytes(range(80)))
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["w"] = np.ones(3)
    with h5py.File(path, "w", libver="latest" if kind == "virtual" else None) as file:
        file["w"] = np.ones(3)
        if kind == "external storage":
            file.create_dataset("x", (10,), "f8", external=[(str(secret), 0, 80)])
        elif kind == "external link":
            file["deep/x"] = h5py.ExternalLink("other.h5", "/w")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource("other.h5", "w", (3,))
            file.create_virtual_dataset("x", layout)
        elif kind == "claims":
            file.create_dataset("x", (10**12,), "f8", chunks=(1000,))
        elif kind == "chunk":
            file.create_dataset("x", (1,), "f8", maxshape=(None,), chunks=(2**28,), compression="gzip")
        elif kind == "names":
            for index in range(300):
                file[f"g/{index}"] = index
        elif kind == "deep":
            file["/".join(["g"] * 100)] = 1
        elif kind == "cycle":
            file["g/h"] = 1
            file["g/up"] = file["/"]
        elif kind == "texts":
            file["x"] = np.array(["a"] * 300, dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("external storage", "external storage"), ("external link", "an external link"), ("virtual", "virtual dataset"),
        ("claims", "claims shape"), ("chunk", "chunks of"), ("deep", "deep"), ("cycle", "deep"),
    ],
)  # fmt: skip
def test_hdf5_that_reaches_out_or_lies(tmp_path: Path, kind: str, word: str) -> None:
    hdf5_file(tmp_path / "a.h5", kind)
    assert (tmp_path / "a.h5").stat().st_size < 200_000
    text = refusal(tmp_path / "a.h5")
    assert word in text
    assert "a.h5" in text


def test_hdf5_that_breaks_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library dies of some damaged files and never returns from others; it does so in its own process."""
    hdf5_file(tmp_path / "a.h5", "plain")
    child = tmp_path / "child.py"
    monkeypatch.setattr(hdf5, "_CHILD", child)
    for program, word in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "fails on it"),
        ("import time; time.sleep(60)", "did not finish"),
        ("print('nonsense')", "nothing came of it"),
        ("pass", "nothing came of it"),
        ("import sys, struct; sys.stdout.buffer.write(struct.pack('<Q', 2**60))", "nothing came of it"),
    ):
        monkeypatch.setattr(hdf5, "SECONDS", 1 if "sleep" in program else 20)
        child.write_text(program)
        assert word in refusal(tmp_path / "a.h5")


def test_damaged_hdf5(tmp_path: Path) -> None:
    hdf5_file(tmp_path / "a.h5", "names")
    whole, rng = (tmp_path / "a.h5").read_bytes(), random.Random(3)
    path = tmp_path / "b.hdf5"
    path.write_bytes(whole[: len(whole) // 2])
    refusal(path)
    path.write_bytes(b"no HDF5 at all")
    refusal(path)
    for _ in range(3):
        content = bytearray(whole)
        for _ in range(8):
            content[rng.randrange(2000)] = rng.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(GrokscopeError):
            read_file(path)
