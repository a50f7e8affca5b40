"""The files that hold pickles: torch's zip archive, its older sequence of pickles, and plain pickles.

Scope: from bytes to the object that the pickle describes, with every tensor checked against the storage it
claims to lie in, and nothing read of a storage yet. No code of the file's runs here, nor any of torch's that
takes what a file says at its word.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading.inert import Machine
from grokscope.foreign.reading.plain import Budget, first_line, printable
from grokscope.foreign.reading.rebuilt import Storage, find, storage_dtype
from grokscope.foreign.reading.records import Finder, Global, Known, Malformed, Met

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of a file of torch before 1.6 holds."""

LEGACY_PROTOCOL = 1001
MAX_DIRECTORY_BYTES = 64 * 2**20
WHOLE = "expected a whole file written by torch.save"

Kind = Literal["torch archive", "legacy torch file", "TorchScript archive", "pickle"]


@dataclass(frozen=True)
class Unpickled:
    """What a file describes: its object, what kind of file it is, what was met, and how much was left over."""

    root: Any
    kind: Kind
    met: Met
    left: int = 0


# zipfile raises NotImplementedError for what it knows of and cannot do: a later version of the format, another
# compression, patched or strongly encrypted entries, all of which a flipped bit makes
_DAMAGED = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError)


class Archive:
    """A zip archive whose directory was checked; entries are read one at a time."""

    def __init__(self, raw: BinaryIO, size: int, budget: Budget) -> None:
        self._budget = budget
        _check_directory(raw, size, budget)
        try:
            self._zip = zipfile.ZipFile(raw)
        except _DAMAGED as error:
            budget.fail(f"the archive is truncated or damaged ({first_line(error)})", WHOLE)
        self.entries = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self.entries) != len(self._zip.infolist()):
            budget.fail("the archive holds two entries of one name", WHOLE)
        if any(entry.flag_bits & 1 for entry in self.entries.values()):
            budget.fail("the archive is encrypted", WHOLE)
        self._last: tuple[str, bytes] = ("", b"")

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    def read(self, name: str) -> bytes:
        """The content of an entry, checked against its checksum; the last one read is kept."""
        if self._last[0] != name:
            try:
                self._last = (name, self._zip.read(self.entries[name]))
            except (*_DAMAGED, KeyError) as error:
                self._budget.fail(
                    f"entry {printable(name, 80)} of the archive is truncated or damaged ({first_line(error)})",
                    WHOLE,
                )
        return self._last[1]

    def open(self, name: str) -> BinaryIO:
        """An entry as a stream."""
        try:
            return self._zip.open(self.entries[name])  # type: ignore[return-value]
        except (*_DAMAGED, KeyError) as error:
            self._budget.fail(
                f"entry {printable(name, 80)} of the archive is truncated or damaged ({first_line(error)})",
                WHOLE,
            )


def _check_directory(raw: BinaryIO, size: int, budget: Budget) -> None:
    """The list of entries is read whole into memory, so its size is looked at before."""
    raw.seek(max(0, size - 65536 - 22))
    tail = raw.read()
    end = tail.rfind(b"PK\x05\x06")
    claimed = 0
    if end >= 0 and end + 22 <= len(tail):
        claimed = struct.unpack("<I", tail[end + 12 : end + 16])[0]
        longer = tail.rfind(b"PK\x06\x06", 0, end)
        if claimed == 0xFFFFFFFF and longer >= 0 and longer + 56 <= len(tail):
            claimed = struct.unpack("<Q", tail[longer + 40 : longer + 48])[0]
    raw.seek(0)
    if claimed > min(size, MAX_DIRECTORY_BYTES):
        budget.fail(f"the archive claims a list of entries of {claimed} bytes", WHOLE)


def torch_prefix(archive: Archive, budget: Budget) -> str | None:
    """The folder inside an archive of torch where ``data.pkl`` lies; None for an archive that is not torch's."""
    found = [name.removesuffix("data.pkl") for name in archive.names if name.endswith("/data.pkl")]
    found = [one for one in found if one.count("/") == 1]
    if len(found) > 1:
        budget.fail("the archive holds several files data.pkl", WHOLE)
    return found[0] if found else None


def unpickle_archive(archive: Archive, prefix: str, size: int, budget: Budget) -> Unpickled:
    """The object in an archive written by ``torch.save``, or the state of a TorchScript program.

    torch stores its entries uncompressed, so an archive that would grow on reading is not torch's.
    """
    wanted = {name: entry for name, entry in archive.entries.items() if not name.startswith(f"{prefix}code/")}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in wanted.values()):
        budget.fail("the archive holds compressed entries", "expected the plain ones of torch.save")
    if any(entry.compress_size != entry.file_size for entry in wanted.values()):
        budget.fail("the archive holds plain entries of two sizes", "expected those of torch.save")
    total = sum(entry.file_size for entry in wanted.values())
    if total > size:
        budget.fail(
            f"the archive claims to hold {total} bytes in a file of {size}",
            "expected no more than the file has",
        )
    swapped = f"{prefix}byteorder" in archive.entries and archive.read(f"{prefix}byteorder") == b"big"
    met = Met()

    def persistent(identity: Any) -> Storage:
        dtype, key, count, part = _storage_id(identity)
        if part is not None:
            raise Malformed("a storage is a view of another, which archives do not have")
        name = f"{prefix}data/{key}"
        if name not in archive.entries:
            raise Malformed(f"the storage {printable(key, 40)} is not in the archive")
        held = archive.entries[name].file_size
        if held < count * dtype.itemsize:
            raise Malformed(f"a storage claims {count} numbers of {dtype} and holds {held} bytes")

        def read() -> bytes:
            content = archive.read(name)
            return _swapped(content, dtype) if swapped else content

        return Storage(key, dtype, count, read)

    script = any(name.startswith(f"{prefix}code/") for name in archive.entries)
    script = script or f"{prefix}constants.pkl" in archive.entries
    machine = Machine(archive.read(f"{prefix}data.pkl"), budget, _finder(budget), met, persistent)
    return Unpickled(machine.load(), "TorchScript archive" if script else "torch archive", met)


def unpickle_bytes(data: bytes, budget: Budget) -> Unpickled:
    """The object in a pickle, or in a file of torch before 1.6, which is several pickles and then numbers."""
    met = Met()
    machine = Machine(data, budget, _finder(budget), met)
    root = machine.load()
    if root == LEGACY_MAGIC and type(root) is int:
        root, _ = _legacy(data, machine.position, budget, met, _finder(budget))
        return Unpickled(root, "legacy torch file", met)
    return Unpickled(root, "pickle", met, len(data) - machine.position)


def _finder(budget: Budget) -> Finder:
    def nested(machine: Machine, data: Any = b"") -> Any:
        """A storage inside a plain pickle, which is a legacy file of its own."""
        if not isinstance(data, bytes):
            raise Malformed("a storage has no bytes")
        machine.met.beyond["a tensor inside a plain pickle"] = None
        machine.make_bytes(len(data))
        inner = Machine(data, budget, lambda module, name: find(budget, module, name), machine.met)
        if inner.load() != LEGACY_MAGIC:
            raise Malformed("a storage inside a pickle is no file of torch")
        return _legacy(
            data, inner.position, budget, machine.met, lambda module, name: find(budget, module, name)
        )[0]

    def finder(module: str, name: str) -> Global | Known:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return Known("torch.storage._load_from_bytes", nested)
        return find(budget, module, name)

    return finder


def _legacy(data: bytes, position: int, budget: Budget, met: Met, finder: Finder) -> tuple[Any, int]:
    """The object of a legacy file, after its magic number, and where the file ends."""
    places: dict[str, tuple[int, int]] = {}
    claimed: dict[str, int] = {}

    view = memoryview(data)

    def reader(key: str) -> Callable[[], bytes | memoryview]:
        return lambda: view[places[key][0] : places[key][0] + places[key][1]]

    def persistent(identity: Any) -> Any:
        if isinstance(identity, tuple) and len(identity) == 4 and _text(identity[0]) == "module":
            return identity[1]
        dtype, key, count, part = _storage_id(identity)
        claimed[key] = max(claimed.get(key, 0), count * dtype.itemsize)
        start = 0
        if part is not None:
            if not isinstance(part, tuple) or len(part) != 3:
                raise Malformed("a view of a storage is none")
            start, length = part[1:]
            if not all(type(one) is int and one >= 0 for one in (start, length)) or start + length > count:
                raise Malformed("a view reaches beyond its storage")
            count = length
        return Storage(key, dtype, count, reader(key), start)

    machine = Machine(data, budget, finder, met, persistent)
    machine.position = position
    protocol, system = machine.load(), machine.load()
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise Malformed(f"it has protocol {printable(protocol, 40)} of torch, 1001 is known")
    if system.get("little_endian") is not True:
        raise Malformed("it was written on a big-endian machine before torch could say so")
    root, keys = machine.load(), machine.load()
    position = machine.position
    if not isinstance(keys, list):
        raise Malformed("it has no list of storages")
    sizes = dict(claimed)
    for given in keys:
        key = _text(given)
        if key not in sizes or key in places:
            raise Malformed(f"the storage {printable(key, 40)} is listed and not used")
        if position + 8 > len(data):
            raise Malformed("it ends before its storages do")
        count = struct.unpack_from("<q", data, position)[0]
        position += 8
        width = _width(count, sizes[key])
        if width is None or position + sizes[key] > len(data):
            raise Malformed(f"a storage claims {sizes[key]} bytes and holds {count} numbers, or less")
        places[key] = (position, sizes[key])
        position += sizes[key]
    if len(places) != len(claimed):
        raise Malformed("it ends before its storages do")
    return root, position


def _width(count: int, size: int) -> int | None:
    """Bytes of a number, if ``count`` numbers take ``size`` bytes."""
    if count == 0:
        return 1 if size == 0 else None
    return size // count if count > 0 and size % count == 0 and size // count in (1, 2, 4, 8, 16) else None


def _text(given: Any) -> str:
    """Text that Python 2 may have written as bytes."""
    return given.decode("ascii", "replace") if isinstance(given, bytes) else str(given)


def _storage_id(identity: Any) -> tuple[torch.dtype, str, int, Any]:
    """What a persistent id says: the dtype, the key, the count, and the view if it is one."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or _text(identity[0]) != "storage":
        raise Malformed("it refers to something that is no storage")
    _, kind, key, _, count, *view = identity
    if not isinstance(key, str | bytes) or type(count) is not int or not 0 <= count < 2**62:
        raise Malformed("it refers to a storage by what is no name and count")
    return storage_dtype(kind), _text(key), count, view[0] if view else None


def _swapped(content: bytes, dtype: torch.dtype) -> bytes:
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    if width == 1:
        return content
    whole = len(content) // width * width
    return np.frombuffer(content[:whole], f"u{width}").byteswap().tobytes()


def unpickled_or_line(budget: Budget, read: Callable[[], Unpickled]) -> Unpickled:
    """``read()``, whatever goes wrong in it as one line."""
    try:
        return read()
    except GrokscopeError:
        raise
    except Malformed as error:
        budget.fail(f"the file is truncated or damaged ({first_line(error)})", "expected one from torch.save")
    except Exception as error:
        # a damaged pickle can break any step of its own reading
        budget.fail(
            f"the file is truncated or damaged ({type(error).__name__}: {first_line(error)})",
            "expected one from torch.save",
        )
