"""Hostile, damaged and odd files: one line each, and nothing of theirs runs."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading import safe_read
from grokscope.foreign.reading.safe_read import Reading, printable, read_file, read_weights


class Touch:
    """Touches a file when it is unpickled by something that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Custom:
    """A class of the author's own."""


def test_plain_data_come_back(tmp_path: Path) -> None:
    weights = torch.arange(6.0).reshape(2, 3)
    content = {
        "model": OrderedDict(w=torch.nn.Parameter(weights), n=torch.tensor(3)),
        "epoch": 7,
        "loss": 0.5,
        "betas": (0.9, 0.98),
        1: None,
        "dtype": torch.float32,
    }
    torch.save(content, tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")
    assert isinstance(found, dict)
    assert torch.equal(found["model"]["w"], weights)
    assert not found["model"]["w"].requires_grad
    assert (found["epoch"], found["loss"], found["betas"], found["1"]) == (7, 0.5, [0.9, 0.98], None)
    assert found["dtype"] == "torch.float32"


@pytest.mark.parametrize(
    "suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".tar", ".pth.tar", ".model", ".th", ""]
)
def test_every_pickled_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / f"a{suffix}")
    assert torch.equal(read_weights(tmp_path / f"a{suffix}")["w"], torch.ones(2))  # type: ignore[index, call-overload]


def test_safetensors_is_read(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, 3), "v": torch.zeros(1)}, tmp_path / "a.safetensors")
    found = read_weights(tmp_path / "a.safetensors")
    assert isinstance(found, dict)
    assert torch.equal(found["w"], torch.ones(2, 3))


def write_hostile(kind: str, path: Path, marker: Path) -> None:
    content = {"w": torch.zeros(3), "x": Touch(marker)}
    if kind == "zip":
        torch.save(content, path)
    elif kind == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Touch(marker), protocol=int(kind)))


@pytest.mark.parametrize("kind", ["zip", "legacy", "2", "4", "5"])
def test_a_pickle_that_wants_to_run_code_does_not(tmp_path: Path, kind: str, one_line) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    write_hostile(kind, path, marker)
    with pytest.raises(GrokscopeError) as caught:
        read_weights(path)
    one_line(caught.value, str(path), "run")
    assert not marker.exists()


def test_the_hostile_pickle_would_have_run(tmp_path: Path) -> None:
    """The marker of the test above means something: an ordinary unpickler does run it."""
    write_hostile("2", tmp_path / "evil.pt", tmp_path / "ran")
    pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert (tmp_path / "ran").exists()


def test_the_refused_global_is_named(tmp_path: Path, one_line) -> None:
    write_hostile("zip", tmp_path / "evil.pt", tmp_path / "ran")
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "evil.pt")
    one_line(caught.value, "needs code of its own", "mkdir", "none of which was run", "expected")


def test_classes_of_the_authors_own_become_records(tmp_path: Path) -> None:
    """Nothing of the class is loaded or run, and what its object held can be read."""
    torch.save({"m": Custom(), "w": torch.ones(2)}, tmp_path / "own.pt")
    found = read_file(tmp_path / "own.pt")
    assert found.how.startswith("pickle read with every class replaced by an inert record (1 record: ")
    assert "Custom" in found.how
    assert any("Custom" in note for note in found.notes)
    assert isinstance(found.content, dict)
    assert found.content["m"]["__class__"].endswith(".Custom")
    assert torch.equal(found.content["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"hello, these are not weights\n" * 20, "text file"),
        ("näïve tëxt ".encode() * 60, "text file"),
        (b"{}", "text file"),
        (b"\x00\x01\x02\x03" * 50, "torch.save"),
        (b"\x80\x02", "truncated or damaged"),
        (b"\x80\x02}q\x00", "truncated or damaged"),
        (b"PK\x03\x04", "truncated or damaged"),
    ],
)
def test_what_is_no_weights_file(tmp_path: Path, content: bytes, word: str, one_line) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(GrokscopeError) as caught:
        read_weights(path)
    one_line(caught.value, str(path), word, "expected")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_truncation_anywhere(tmp_path: Path, zipped: bool, share: float, one_line) -> None:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(300), "v": torch.ones(200)}, whole, _use_new_zipfile_serialization=zipped)
    content = whole.getvalue()
    path = tmp_path / "a.pt"
    path.write_bytes(content[: max(3, int(share * len(content)))])
    with pytest.raises(GrokscopeError) as caught:
        read_weights(path)
    one_line(caught.value, str(path), "expected")


def test_a_truncated_safetensors(tmp_path: Path, one_line) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(20, 3)}, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GrokscopeError) as caught:
        read_weights(path)
    one_line(caught.value, "safetensors", "expected")


def rewritten(
    source: Path, target: Path, data: bytes | None = None, compression: int = zipfile.ZIP_STORED
) -> None:
    """A copy of an archive, its pickle replaced or its entries compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            swap = data is not None and entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, data if swap and data is not None else old.read(entry.filename))


@pytest.mark.parametrize(("place", "value"), [(8, 0x20), (6, 99)], ids=["patched", "version"])
def test_archives_that_need_what_zipfile_cannot_do(tmp_path: Path, one_line, place: int, value: int) -> None:
    """Each makes zipfile raise NotImplementedError: on opening the archive, or one of its entries."""
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    start = data.find(b"PK\x01\x02")
    while start >= 0:
        data[start + place] = value
        start = data.find(b"PK\x01\x02", start + 4)
    (tmp_path / "b.pt").write_bytes(data)
    with pytest.raises(GrokscopeError) as caught:
        read_file(tmp_path / "b.pt")
    one_line(caught.value, "b.pt", "truncated or damaged", "expected")


def test_a_compressed_archive_is_refused_before_it_grows(tmp_path: Path, one_line) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "bomb.pt", compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "bomb.pt")
    one_line(caught.value, "compressed", "expected")


def test_an_expanded_tensor_cannot_claim_memory(tmp_path: Path, one_line) -> None:
    torch.save({"w": torch.zeros(1).expand(2**20, 2**14)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 10_000
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "a.pt")
    one_line(caught.value, "claim more than", "expected")


def test_deep_nesting(tmp_path: Path, one_line) -> None:
    torch.save([1], tmp_path / "a.pt")
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    rewritten(tmp_path / "a.pt", tmp_path / "deep.pt", deep)
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "deep.pt")
    one_line(caught.value, "deep", "expected")


def test_values_that_multiply_by_sharing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line) -> None:
    monkeypatch.setattr(safe_read, "MAX_VALUES", 10_000)
    shared: list = [1] * 10
    for _ in range(12):
        shared = [shared] * 10
    torch.save(shared, tmp_path / "a.pt")
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "a.pt")
    one_line(caught.value, "values", "expected")


def test_a_list_that_holds_itself(tmp_path: Path, one_line) -> None:
    loop: list = []
    loop.append(loop)
    torch.save(loop, tmp_path / "a.pt")
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "a.pt")
    one_line(caught.value, "nest", "expected")


def test_tensors_without_numbers_in_memory(tmp_path: Path, one_line) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "meta.pt")
    for name in ("sparse.pt", "meta.pt"):
        with pytest.raises(GrokscopeError) as caught:
            read_weights(tmp_path / name)
        one_line(caught.value, name, "expected")


def test_paths_that_are_no_files(tmp_path: Path, one_line) -> None:
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "a.txt").write_text("x")
    expected = {
        "gone.pt": "no such file",
        "folder.pt": "regular file",
        "pipe.pt": "regular file",
        "a.txt": "suffix",
    }
    for name, word in expected.items():
        with pytest.raises(GrokscopeError) as caught:
            read_weights(tmp_path / name)
        one_line(caught.value, name, word, "expected")


def test_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line) -> None:
    torch.save({"w": torch.zeros(100)}, tmp_path / "a.pt")
    monkeypatch.setattr(safe_read, "MAX_FILE_BYTES", 1000)
    with pytest.raises(GrokscopeError) as caught:
        read_weights(tmp_path / "a.pt")
    one_line(caught.value, "at most 1000")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.int16,
     torch.int8, torch.uint8, torch.bool, torch.complex64],
)  # fmt: skip
def test_every_dtype_by_both_readers(tmp_path: Path, dtype: torch.dtype, zipped: bool) -> None:
    """torch's own reader, and ours, which is what reads a file with a class in it."""
    generator = torch.Generator().manual_seed(0)
    whole = (torch.randn(6, 8, generator=generator) * 9).to(dtype)
    cuts = {
        "whole": whole,
        "part": whole[1:4, 2:5],
        "turned": whole.T,
        "scalar": whole[2, 3],
        "none": whole[:0],
    }
    for name, extra in (("a", {}), ("b", {"m": Custom()})):
        path = tmp_path / f"{name}.pt"
        torch.save({**cuts, **extra}, path, _use_new_zipfile_serialization=zipped)
        found = read_file(path)
        assert ("inert" in found.how) == (name == "b")
        assert isinstance(found.content, dict)
        for key, value in cuts.items():
            made = found.content[key]
            assert made.dtype == dtype
            assert made.is_contiguous()
            assert not made.requires_grad
            assert torch.equal(made, value)


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [(torch.float8_e4m3fn, torch.float32), (torch.float8_e5m2, torch.float32), (torch.uint16, torch.int32),
     (torch.uint32, torch.int64), (torch.uint64, torch.int64)],
)  # fmt: skip
def test_dtypes_that_nothing_computes_with_are_widened(
    tmp_path: Path, dtype: torch.dtype, wider: torch.dtype
) -> None:
    values = torch.tensor([0.0, 1.0, 3.0, 28.0])
    for name, extra in (("a", {}), ("b", {"m": Custom()})):
        torch.save({"w": values.to(dtype), **extra}, tmp_path / f"{name}.pt")
        found = read_file(tmp_path / f"{name}.pt")
        assert isinstance(found.content, dict)
        assert found.content["w"].dtype == wider
        assert torch.equal(found.content["w"].float(), values)
        assert any(str(dtype) in note for note in found.notes)


def test_big_endian_files(tmp_path: Path) -> None:
    """An archive that says it is big-endian has its numbers turned round."""
    weights = torch.tensor([1.5, -2.0, 300.0])
    torch.save({"w": torch.from_numpy(weights.numpy().byteswap()), "m": Custom()}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for entry in old.infolist():
            big = entry.filename.endswith("byteorder")
            new.writestr(entry.filename, b"big" if big else old.read(entry.filename))
    assert torch.equal(read_weights(tmp_path / "b.pt")["w"], weights)  # type: ignore[index, call-overload]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_list_of_many_scalars_becomes_numbers(tmp_path: Path, zipped: bool) -> None:
    """Losses that were kept as tensors, with their graph: numbers, whichever reader reads them."""
    few = [torch.tensor(float(index), requires_grad=True) for index in range(5)]
    many = [torch.tensor(index / 7, requires_grad=True) for index in range(3000)]
    for extra in ({}, {"m": Custom()}):
        content = {"few": few, "many": many, "counts": [torch.tensor(1)] * 70, **extra}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        found = read_weights(tmp_path / "a.pt")
        assert isinstance(found, dict)
        assert found["many"] == [one.item() for one in many]
        assert found["counts"] == [1] * 70
        assert all(isinstance(one, torch.Tensor) and not one.requires_grad for one in found["few"])


def test_so_many_tensors_that_torch_is_not_asked(tmp_path: Path) -> None:
    losses = [torch.tensor(float(index)) for index in range(5000)]
    torch.save({"w": torch.ones(2), "train_losses": losses}, tmp_path / "a.pt")
    found = read_file(tmp_path / "a.pt")
    assert isinstance(found.content, dict)
    assert found.content["train_losses"] == [float(index) for index in range(5000)]
    assert "runs nothing" in found.how
    assert any("5001 tensors" in note for note in found.notes)


def test_a_shared_list_is_there_twice(tmp_path: Path) -> None:
    row = [1, 2, {"a": [3]}]
    torch.save({"x": row, "y": [row, row]}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt") == {"x": row, "y": [row, row]}


def test_how_is_told(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    found = read_file(tmp_path / "a.pt")
    assert (type(found), found.how, found.notes) == (Reading, "torch, weights only", ())
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"lr": 0.1}) + b"more")
    found = read_file(tmp_path / "b.pkl")
    assert found.content == {"lr": 0.1}
    assert found.how == "pickle of plain data, read by a machine that runs nothing"
    assert found.notes == ("4 bytes after the first pickle in the file were not read",)


def test_keys_of_every_kind(tmp_path: Path) -> None:
    content = {1: "a", 2.5: "b", (0.3, 1): "c", None: "d", b"old": "e", ("x",): "g", 10**30: "h", False: "i"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    found = read_weights(tmp_path / "a.pkl")
    keys = ["1", "2.5", "(0.3, 1)", "None", "old", "(x,)", str(10**30), "False"]
    assert found == dict(zip(keys, content.values(), strict=True))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        (Path("x/y"), "x/y"),
        ("x" * 300, "x" * 199 + "…"),
        ("ä→π", "ä→π"),
    ],
)
def test_printable(given: object, shown: str) -> None:
    assert printable(given) == shown
    assert printable(given).isprintable()


def test_torch_declines_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch's reader does not take what is plain data, ours is used, and the reason is told."""

    def decline(*args: object, **kwargs: object) -> None:
        raise pickle.UnpicklingError("advice\n\nWeightsUnpickler error: Unsupported operand 149\nmore advice")

    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "load", decline)
    found = read_file(tmp_path / "a.pt")
    assert torch.equal(found.content["w"], torch.ones(2))  # type: ignore[index, call-overload]
    assert found.how == "pickle of plain data, read by a machine that runs nothing"
    assert found.notes == ("torch.load(weights_only=True) did not take it: Unsupported operand 149",)
