"""Reading a weights file that a stranger made, into plain data, without running any of its code.

Scope: one file in, nested dicts, lists, scalars and dense CPU tensors out, and how it was read. PyTorch's own
format is a pickle, and a pickle is a program. It first goes through a machine that runs nothing (``inert``),
which checks what ``torch.load`` takes at its word: that storages are as long as they claim, that tensors lie
within them, that there is an end to it. Then, in this order: ``torch.load(weights_only=True)``; the same with
an exact list of numpy's functions allowed; or, where the file holds more than that, what the machine itself
made of it, every class an inert record. What is what is told by a file's content, not by its name.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading.archives import (
    Archive,
    Unpickled,
    torch_prefix,
    unpickle_archive,
    unpickle_bytes,
    unpickled_or_line,
)
from grokscope.foreign.reading.arrays import read_npy, read_npz, read_safetensors
from grokscope.foreign.reading.conversion import Plainer, listed, state_dict_of_record
from grokscope.foreign.reading.hdf5 import read_hdf5
from grokscope.foreign.reading.plain import Budget, Limits, Plain, first_line, printable

__all__ = [
    "MAX_DEPTH", "MAX_FILE_BYTES", "MAX_VALUES", "PICKLED_SUFFIXES", "SUFFIXES", "Plain", "Reading",
    "printable", "read_file", "read_weights", "state_dict_of_record",
]  # fmt: skip

PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
SUFFIXES = (*PICKLED_SUFFIXES, ".safetensors", ".npz", ".npy", ".h5", ".hdf5")
"""Names of files that are taken for weights; a file of another name is read if torch wrote it."""

MAX_FILE_BYTES = 2 * 2**30
"""Largest file, and largest total of the tensors in it, that is read: 2 GiB."""

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""Most values, keys among them, in one file."""

MAX_TENSORS_BY_TORCH = 4096
"""Files of more tensors (losses that were kept as tensors) are not given to torch.load, which takes 0.2 ms each."""

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_EXPECTED = f"expected tensors in one of {', '.join(SUFFIXES)}"
_HEAD = 1024
_TORCH = "expected one written by torch.save"
_OTHER_FORMATS = {
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a rar archive: unpack it first",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}


@dataclass(frozen=True)
class Reading:
    """The content of one file, which reader succeeded, and what is to be known of how.

    ``how`` is fit for a report. ``notes`` say what was replaced, changed or left out.
    """

    content: Plain
    how: str
    notes: tuple[str, ...] = ()


def read_weights(path: Path) -> Plain:
    """The content of one weights file as plain data; what ``read_file`` finds, without how."""
    return read_file(path).content


def read_file(path: Path) -> Reading:
    """The content of one weights file as plain data; tensors dense, on the CPU, detached.

    A symbolic link is followed to a regular file and to nothing else.

    Raises:
        GrokscopeError: one line, for a missing, empty, oversized, truncated or damaged file, a text file, a
            file that names what could do harm (none of which is run), data nested too deeply or too many,
            or tensors that are not dense numbers in memory.
    """
    budget = _budget(path)
    with _opened(path, budget) as raw:
        size = _checked_size(raw, budget)
        try:
            # what torch and numpy remark about odd files is not for the reader of one line
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _read(path, raw, size, budget)
        except GrokscopeError:
            raise
        except Exception as error:
            budget.fail(
                f"the file is truncated or damaged ({type(error).__name__}: {first_line(error)})", _EXPECTED
            )


def _budget(path: Path) -> Budget:
    # looked up on every call, so that a caller may set them
    return Budget(path, Limits(MAX_FILE_BYTES, MAX_DEPTH, MAX_VALUES))


def _opened(path: Path, budget: Budget) -> BinaryIO:
    """The file, if it is a regular one; no device or pipe is opened, which could wait for ever."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            budget.fail("not a regular file", _EXPECTED)
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_CLOEXEC", 0)
            | getattr(os, "O_BINARY", 0)
        )
        handle = os.open(path, flags)
    except FileNotFoundError:
        what = "a symbolic link to nothing" if os.path.islink(path) else "no such file"
        budget.fail(what, _EXPECTED)
    except (OSError, ValueError) as error:
        budget.fail(getattr(error, "strerror", None) or first_line(error), _EXPECTED)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        budget.fail("not a regular file", _EXPECTED)
    return os.fdopen(handle, "rb")


def _checked_size(raw: BinaryIO, budget: Budget) -> int:
    size = os.fstat(raw.fileno()).st_size
    if size == 0:
        budget.fail("the file is empty", _EXPECTED)
    if size > MAX_FILE_BYTES:
        budget.fail(f"{size} bytes given", f"expected at most {MAX_FILE_BYTES}")
    return size


def _read(path: Path, raw: BinaryIO, size: int, budget: Budget) -> Reading:
    head = raw.read(_HEAD)
    raw.seek(0)
    suffix = path.suffix.lower()
    if what := _no_weights(head):
        budget.fail(f"it is {what}", _EXPECTED if suffix not in PICKLED_SUFFIXES else _TORCH)
    if suffix == ".safetensors" or (_like_safetensors(head, size) and not _like_pickle(head)):
        return _plain(budget, read_safetensors(raw, size, budget), "safetensors")
    if head.startswith(HDF5_MAGIC) or suffix in (".h5", ".hdf5"):
        content, notes = read_hdf5(path, size, budget)
        return _plain(budget, content, "HDF5", notes)
    if head.startswith(b"\x93NUMPY"):
        content, notes = read_npy(raw, size, budget)
        return _plain(budget, content, "npy", notes)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(raw, size, budget)
    if suffix == ".npz":
        budget.fail("not an npz archive", "expected one written by numpy.savez")
    if suffix == ".npy":
        budget.fail("not an npy file", "expected one written by numpy.save")
    if _like_pickle(head):
        return _read_pickle(raw, budget)
    return _read_odd(suffix, head, raw, size, budget)


def _plain(budget: Budget, found: Any, how: str, notes: tuple[str, ...] = ()) -> Reading:
    plainer = Plainer(Budget(budget.path, budget.limits))
    return Reading(plainer.convert(found), how, notes + plainer.notes)


def _read_zip(raw: BinaryIO, size: int, budget: Budget) -> Reading:
    archive = Archive(raw, size, budget)
    prefix = torch_prefix(archive, budget)
    if prefix is not None:
        found = unpickled_or_line(budget, lambda: unpickle_archive(archive, prefix, size, budget))
        return _settled(found, raw, budget)
    if archive.names and all(name.endswith(".npy") for name in archive.names):
        content, notes = read_npz(archive, budget)
        return _plain(budget, content, "npz", notes)
    if any(name.endswith(("/model.json", "/tensors/0")) for name in archive.names):
        budget.fail("a TorchScript program of an old kind, none of which was run", "expected a state dict")
    names = ", ".join(printable(name, 40) for name in archive.names[:3]) or "nothing"
    raise budget.refusal(f"it is a zip archive of {names}: unpack it first", f"{_TORCH} or numpy.savez")


def _read_pickle(raw: BinaryIO, budget: Budget) -> Reading:
    data = raw.read()
    return _settled(unpickled_or_line(budget, lambda: unpickle_bytes(data, budget)), io.BytesIO(data), budget)


def _read_odd(suffix: str, head: bytes, raw: BinaryIO, size: int, budget: Budget) -> Reading:
    """What has no mark of its own: a pickle of protocol 0 or 1, if it is one."""
    raw.seek(size - 1)
    if raw.read(1) == b"." and head[:1] in b"(]})cIKMJFGSUVXNl":
        raw.seek(0)
        try:
            return _read_pickle(raw, budget)
        except GrokscopeError as error:
            if "truncated or damaged" not in str(error):
                raise
    if suffix not in SUFFIXES:
        budget.fail(f"its suffix is {printable(repr(suffix), 40)}", _EXPECTED)
    what = "a text file" if _looks_like_text(head) else "no file that torch.save writes"
    raise budget.refusal(f"it is {what}", _TORCH)


# What a file is, from its first bytes


def _like_pickle(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0x80 and head[1] <= 5


def _like_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def _no_weights(head: bytes) -> str | None:
    """What a file is that people have in place of their weights, if it is such a one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: fetch the file itself with git lfs pull"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!doctype")):
        return "an HTML page, as a download that failed leaves behind"
    if start.startswith(b"<?xml"):
        return "an XML document, as a download that failed leaves behind"
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return what
    # a tar archive may begin with the bytes of anything, and older releases of torch unpack it
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    return "a tar archive: unpack it first"


def _looks_like_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        # a multi-byte character may be cut at the end of what was read
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f\x1b" for character in text)


# From what the machine made of a pickle to plain data


def _settled(found: Unpickled, raw: BinaryIO, budget: Budget) -> Reading:
    met = found.met
    notes: list[str] = []
    content, how = found.root, ""
    by_torch = found.kind in ("torch archive", "legacy torch file") and not met.replaced and not met.beyond
    if by_torch and met.tensors > MAX_TENSORS_BY_TORCH:
        notes.append(
            f"{met.tensors} tensors: torch.load(weights_only=True) was not asked, it would take too long"
        )
    elif by_torch:
        try:
            content, how = _torch_load(raw, met.numpy)
        except Exception as error:
            notes.append(f"torch.load(weights_only=True) did not take it: {_why_not_taken(error)}")
    plainer = Plainer(Budget(budget.path, budget.limits))
    plain = plainer.convert(content)
    if not how:
        count = sum(met.replaced.values())
        how = "pickle of plain data, read by a machine that runs nothing"
        if count:
            records = f"{count} record{'s' if count > 1 else ''}: {listed(met.replaced)}"
            how = f"pickle read with every class replaced by an inert record ({records})"
            notes.append(f"inert records stand for objects of {listed(met.replaced, 50)}")
        if found.kind == "TorchScript archive":
            how = f"TorchScript archive, its program not run; {how}"
    if found.left:
        notes.append(f"{found.left} bytes after the first pickle in the file were not read")
    return Reading(plain, how, (*notes, *plainer.notes))


def _why_not_taken(error: Exception) -> str:
    """The reason among the advice that torch gives with it."""
    found = re.search(r"WeightsUnpickler error: *(.+)", str(error))
    return printable(found[1], 160) if found else first_line(error)


def _torch_load(raw: BinaryIO, numpy: bool) -> tuple[Any, str]:
    raw.seek(0)
    if not numpy:
        return torch.load(raw, weights_only=True, map_location="cpu"), "torch, weights only"
    known = set(torch.serialization.get_safe_globals())
    # those that the process allows by itself are to stay allowed
    added = [one for one in _numpy_globals() if one not in known]
    with torch.serialization.safe_globals(added):  # type: ignore[arg-type]
        loaded = torch.load(raw, weights_only=True, map_location="cpu")
    return loaded, "torch, weights only with numpy arrays allowed"


def _numpy_globals() -> list[Any]:
    """What numpy's arrays and scalars are put together with, under the names of its releases 1 and 2."""
    rebuild: Any = np.zeros(1).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    both = {"_reconstruct": rebuild, "scalar": scalar}
    spelled = [
        (it, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, it in both.items()
    ]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSU"}
    return [*spelled, np.ndarray, np.dtype, *sorted(kinds, key=lambda kind: kind.__name__)]
