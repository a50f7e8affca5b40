"""The process that reads a stranger's HDF5 file: a program of its own, run by ``hdf5``, never imported.

Scope: one file in, its arrays out on standard output. The HDF5 library crashes and hangs on damaged files,
so it meets them here, under limits on time and memory, and not in the process of the user. Nothing outside
the file is reached, no filter but HDF5's own runs, and what a header claims is counted before it is read.

Output: the length of a JSON text (8 bytes), the text, then the numbers of all arrays one after another. The
text is ``{"refused": [what, expected]}`` or ``{"content": node, "left": {what: count}}``, where a node is a
scalar, a text, a list, ``{"group": {name: node}}`` or ``{"array": [dtype, shape, offset, bytes]}``.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import sys
from collections import Counter
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5o, h5z  # pyright: ignore[reportAttributeAccessIssue]

from grokscope.errors import GrokscopeError
from grokscope.trajectory.format import first_line, refuse_foreign_storage

MAX_OBJECTS = 100_000
"""Most groups, datasets and attributes in one file, and most texts."""

MAX_CHUNK_BYTES = 256 * 2**20
MAX_ATTRIBUTE_BYTES = 16 * 2**20
MAX_ATTRIBUTE_ITEMS = 10_000
ATTRIBUTES = "__attrs__"

_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_SCALEOFFSET, h5z.FILTER_NBIT,
            h5z.FILTER_SZIP, h5z.FILTER_LZF}  # fmt: skip


class Refused(Exception):
    """What was found in the file, and what was expected."""


class Reader:
    """Reads the objects of one file, keeps its arrays, and what was left out."""

    def __init__(self, max_bytes: int, max_depth: int) -> None:
        self.max_bytes = max_bytes
        self.max_depth = max_depth
        self.arrays: list[np.ndarray] = []
        self.left: Counter[str] = Counter()
        self._held = 0
        self._written = 0
        self._objects = 0

    def check_names(self, file: h5py.File) -> None:
        """Count the names in all groups before any of them is looked at."""
        total = 0
        seen: set[Any] = set()
        pending: list[h5py.Group] = [file]
        while pending:
            group = pending.pop()
            address = h5o.get_info(group.id).addr
            if address in seen:
                continue
            seen.add(address)
            total += len(group)
            if total > MAX_OBJECTS:
                raise Refused(f"more than {MAX_OBJECTS} objects in the file", "expected fewer")
            for name in group:
                try:
                    hard = group.get(name, getclass=True, getlink=True) is h5py.HardLink
                except TypeError:
                    # a kind of link that only its author's program knows; refused by name later
                    continue
                item = group[name] if hard else None
                if isinstance(item, h5py.Group):
                    pending.append(item)

    def group(self, group: h5py.Group, depth: int = 0) -> dict[str, Any]:
        """A group and all below it. Attributes are under ``__attrs__``, those of a dataset under its name there."""
        if depth > self.max_depth:
            raise Refused(f"the groups nest more than {self.max_depth} deep", "expected fewer")
        made: dict[str, Any] = {}
        attributes = self._attributes(group)
        for name in map(str, group):
            self._count()
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                self.left["soft link"] += 1
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                made[name] = self.group(item, depth + 1)
            elif isinstance(item, h5py.Dataset):
                made[name] = self._dataset(item, name)
                own = self._attributes(item)
                if own:
                    attributes[name] = {"group": own}
            else:
                self.left["named type"] += 1
        if attributes:
            made[ATTRIBUTES] = {"group": attributes}
        return {"group": made}

    def _count(self, count: int = 1) -> None:
        # hard links may lead to one object along many ways
        self._objects += count
        if self._objects > MAX_OBJECTS:
            raise Refused(f"more than {MAX_OBJECTS} objects or texts in the file", "expected fewer")

    def _hold(self, count: int, what: str) -> None:
        self._held += count
        if self._held > self.max_bytes:
            raise Refused(
                f"{what}, {self._held} bytes with what is before it", f"expected at most {self.max_bytes}"
            )

    def _dataset(self, dataset: h5py.Dataset, name: str) -> Any:
        if dataset.shape is None:
            return None
        _check_packing(dataset, name)
        kind = dataset.dtype
        count = math.prod(dataset.shape)
        self._hold(count * kind.itemsize, f"dataset {name} claims shape {dataset.shape}")
        if h5py.check_string_dtype(kind) is not None and kind.kind == "O":
            return self._texts(dataset, count)
        if kind.kind not in "biufcS":
            self.left[f"dataset of {kind}"] += 1
            return f"<a dataset of {kind}, not read>"
        return self._array(np.asarray(dataset[()]))

    def _array(self, value: np.ndarray) -> dict[str, Any]:
        value = np.ascontiguousarray(value).reshape(value.shape)
        entry = [value.dtype.str, list(value.shape), self._written, value.nbytes]
        self.arrays.append(value)
        self._written += value.nbytes
        return {"array": entry}

    def _texts(self, dataset: h5py.Dataset, count: int) -> Any:
        """Texts of any length, one by one: many may be the same long one in the file."""
        self._count(count)
        found = []
        for index in np.ndindex(dataset.shape):
            found.append(self._text(dataset[index]))
        return found if dataset.shape else found[0]

    def _text(self, value: Any) -> str:
        self._hold(len(value), "a text")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _attributes(self, item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in item.attrs:
            self._count()
            attribute = h5a.open(item.id, name.encode("utf-8", "surrogateescape"))
            large = attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES
            if large or math.prod(attribute.shape or ()) > MAX_ATTRIBUTE_ITEMS:
                self.left["large attribute"] += 1
                continue
            value = item.attrs[name]
            if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
                value = value.ravel().tolist()
            made[name] = self._plain(value)
        return made

    def _plain(self, value: Any) -> Any:
        """What an attribute holds."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str | bytes):
            return self._text(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return value.tolist()
        if isinstance(value, list):
            return [self._plain(one) for one in value]
        return value if isinstance(value, bool | int | float) else f"<{type(value).__name__}>"


def _check_packing(dataset: h5py.Dataset, name: str) -> None:
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code = properties.get_filter(index)[0]
        if code not in _FILTERS:
            raise Refused(f"dataset {name} is packed by the filter {code}", "expected one of HDF5's own")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if dataset.chunks and chunk > MAX_CHUNK_BYTES:
        raise Refused(f"dataset {name} has chunks of {chunk} bytes", f"expected at most {MAX_CHUNK_BYTES}")


def limit_process(max_bytes: int, seconds: int) -> None:
    """Limits on the memory and time of this process, where the system has them."""
    with contextlib.suppress(ImportError):
        import resource

        for what, most in (
            (resource.RLIMIT_AS, 3 * max_bytes + (4 << 30)),
            (resource.RLIMIT_FSIZE, max_bytes + (64 << 20)),
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_CORE, 0),
        ):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(what, (most, most))


def main(path: str, max_bytes: int, max_depth: int, seconds: int) -> None:
    """Read ``path`` and write what is in it to standard output."""
    limit_process(max_bytes, seconds)
    reader = Reader(max_bytes, max_depth)
    try:
        with h5py.File(path, "r", libver=("v108", "v108"), locking=False) as file:
            reader.check_names(file)
            refuse_foreign_storage(file)
            answer: dict[str, Any] = {"content": reader.group(file), "left": dict(reader.left)}
    except Refused as refused:
        answer = {"refused": list(refused.args)}
    except GrokscopeError as error:
        answer = {"refused": [str(error).removeprefix(f"open {path}: "), ""]}
    except Exception as error:
        # the library's errors are of many kinds; each means that the file is none it can read
        answer = {
            "refused": [f"not a readable HDF5 file ({first_line(error)})", "expected an HDF5 file of arrays"]
        }
    text = json.dumps(answer).encode("ascii")
    out = sys.stdout.buffer
    out.write(struct.pack("<Q", len(text)) + text)
    if "content" in answer:
        for array in reader.arrays:
            out.write(array.tobytes())
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1], *(int(one) for one in sys.argv[2:5]))
