"""Files of arrays without code in them: npy, npz, HDF5 and safetensors.

Scope: what a header claims is held against what the file has before any memory is taken. Arrays of Python
objects are pickles inside, and go through the machine that runs nothing.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading.archives import Archive, unpickle_bytes, unpickled_or_line
from grokscope.foreign.reading.conversion import listed
from grokscope.foreign.reading.plain import Budget, first_line, printable
from grokscope.foreign.reading.rebuilt_numpy import NumpyArray

MAX_HEADER_BYTES = 32 * 2**20
MAX_NPY_HEADER = 10_000
_BLOCK = 1 << 20

# Safetensors


def read_safetensors(raw: BinaryIO, size: int, budget: Budget) -> dict[str, Any]:
    """The tensors by name, and under ``__metadata__`` what the file says of itself, if it does."""
    from safetensors.torch import load

    expected = f"expected one written by safetensors ({size} bytes given)"
    header = _safetensors_header(raw, size, budget, expected)
    metadata = header.pop("__metadata__", None)
    budget.values(len(header))
    for entry in header.values():
        if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
            budget.fail("not a readable safetensors file (a tensor without a shape)", expected)
    raw.seek(0)
    try:
        found: dict[str, Any] = dict(load(raw.read()))
    except Exception as error:
        # the library has errors of its own, and its table of dtypes grows
        budget.fail(f"not a readable safetensors file ({first_line(error)})", expected)
    if isinstance(metadata, dict):
        found["__metadata__"] = metadata
    return found


def _safetensors_header(raw: BinaryIO, size: int, budget: Budget, expected: str) -> dict[str, Any]:
    if size < 10:
        budget.fail("not a readable safetensors file (no header)", expected)
    (length,) = struct.unpack("<Q", raw.read(8))
    if length > size - 8:
        budget.fail(f"not a readable safetensors file (its header claims {length} bytes)", expected)
    if length > MAX_HEADER_BYTES:
        budget.fail(f"its safetensors header takes {length} bytes", f"expected at most {MAX_HEADER_BYTES}")
    text = raw.read(length)
    # a name takes its quotes and a colon at the least
    if text.count(b'":') > budget.limits.max_values:
        budget.too_many()
    try:
        header = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        budget.fail(f"not a readable safetensors file (its header is no JSON: {first_line(error)})", expected)
    if not isinstance(header, dict):
        budget.fail("not a readable safetensors file (its header is no table)", expected)
    return header


# Numpy's own


def read_npy(raw: BinaryIO, size: int, budget: Budget) -> tuple[Any, tuple[str, ...]]:
    """The array of an npy file, or the object that it holds, and what is to be said of it."""
    notes: list[str] = []
    return _array_in(raw, size, "the file", budget, notes), tuple(notes)


def read_npz(archive: Archive, budget: Budget) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arrays of an npz archive by name, and what is to be said of them.

    Its entries may be compressed, so it is their size when unpacked that is held against the limit, and no
    more than that is unpacked.
    """
    budget.values(len(archive.names))
    for name, entry in archive.entries.items():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            budget.fail(f"entry {printable(name, 80)} is compressed in another way than numpy does", _NPZ)
        budget.bytes(entry.file_size)
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, entry in archive.entries.items():
        key = name.removesuffix(".npy")
        with archive.open(name) as stream:
            found[key] = _array_in(stream, entry.file_size, f"entry {printable(key, 80)}", budget, notes)
    return found, tuple(notes[:20])


_NPZ = "expected one written by numpy.savez"


def _array_in(stream: BinaryIO, size: int, what: str, budget: Budget, notes: list[str]) -> Any:
    """One npy stream of ``size`` bytes; ``notes`` gets a line if it is a pickle inside."""
    try:
        shape, fortran, dtype, taken = _npy_header(stream)
    except GrokscopeError:
        raise
    except Exception as error:
        # numpy's header is the text of a Python literal, and a hostile one can break its parser in many ways
        budget.fail(f"{what} has no header of numpy ({type(error).__name__}: {first_line(error)})", _NPY)
    left = size - taken
    if dtype.hasobject:
        if dtype.kind != "O":
            budget.fail(f"{what} holds records of Python objects", _NPY)
        content = _bytes_of(stream, left, what, budget)
        found = unpickled_or_line(budget, lambda: unpickle_bytes(bytes(content), budget))
        replaced = found.met.replaced
        records = (
            f"with every class replaced by an inert record ({listed(replaced)})"
            if replaced
            else "of plain data"
        )
        notes.append(f"{what} is a pickle {records}, read by a machine that runs nothing")
        return found.root.value if isinstance(found.root, NumpyArray) else found.root
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        budget.fail(f"{what} holds {printable(dtype, 60)}", "expected numbers or text")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != left or len(shape) > 32:
        budget.fail(f"{what} claims shape {printable(shape, 80)}, {claimed} bytes, and holds {left}", _NPY)
    content = _bytes_of(stream, left, what, budget)
    if not claimed:
        return np.empty(shape, dtype)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


_NPY = "expected an array written by numpy.save"


def _npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        width, form = 2, "<H"
    elif version in ((2, 0), (3, 0)):
        width, form = 4, "<I"
    else:
        raise ValueError(f"version {version}")
    start = stream.read(width)
    (length,) = struct.unpack(form, start)
    if length > MAX_NPY_HEADER:
        raise ValueError(f"a header of {length} bytes")
    text = stream.read(length)
    if len(text) != length:
        raise ValueError("it ends within its header")
    again = io.BytesIO(start + text)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(again, max_header_size=MAX_NPY_HEADER)
    if not all(type(one) is int and one >= 0 for one in shape):
        raise ValueError("a shape that is none")
    return tuple(shape), bool(fortran), dtype, 8 + width + length


def _bytes_of(stream: BinaryIO, count: int, what: str, budget: Budget) -> bytearray:
    """``count`` bytes, taken a block at a time, so that a file which has fewer takes no memory for them."""
    content = bytearray()
    try:
        while len(content) < count:
            block = stream.read(min(_BLOCK, count - len(content)))
            if not block:
                budget.fail(f"{what} ends after {len(content)} of {count} bytes", _NPY)
            content += block
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, zlib.error) as error:
        budget.fail(f"{what} is truncated or damaged ({first_line(error)})", _NPY)
    return content
