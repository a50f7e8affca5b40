"""The stored run as an HDF5 file: names, chunk sizes, safe opening, what counts as committed.

    /params/<tensor>   (T, *shape)   weights, in the dtype they were trained in
    /steps             (T,) int64    the commit marker of the weights
    /scalars/<name>    (M,) float64  denser than the weights
    /scalars/step      (M,) int64    the commit marker of the scalars

Rows beyond the length of their marker are not committed and are ignored. Chunks hold a block of rows over
the whole of a tensor and are written whole, once. Only the old, unjournalled file format is used
(``libver v108``): files in the latest one cannot be opened again after their writer was killed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from grokscope.errors import GrokscopeError
from grokscope.trajectory.index import SMALLEST_CAPACITY

SCHEMA_VERSION = 1
FORMAT_NAME = "grokscope-trajectory"

PARAMS_GROUP = "params"
SCALARS_GROUP = "scalars"
STEPS = "steps"
SCALAR_STEP = "step"

ROWS_PER_CHUNK = 16
MAX_CHUNK_BYTES = 4 << 20
SCALAR_ROWS_PER_CHUNK = 256

# The fill value of a marker: a kill between the length and the content of a marker leaves it behind.
UNWRITTEN = -1

ParamSpec = tuple[tuple[int, ...], Any]
"""Shape and dtype (anything numpy takes) of a stored tensor."""


def rows_per_chunk(shape: tuple[int, ...], dtype: Any) -> int:
    """Saves in one chunk of a tensor: 16, fewer so that a chunk stays within 4 MiB, at least 1."""
    row_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    return max(1, min(ROWS_PER_CHUNK, MAX_CHUNK_BYTES // row_bytes))


def block_rows(params: Mapping[str, ParamSpec]) -> int:
    """The one block size of a run: the fewest rows any of its tensors wants in a chunk."""
    return min((rows_per_chunk(shape, dtype) for shape, dtype in params.values()), default=ROWS_PER_CHUNK)


@dataclass(frozen=True)
class Stream:
    """A set of columns that grow together and the marker that says how far they are committed."""

    kind: Literal["save", "scalar"]
    group: str
    marker: str
    rows: int
    """Rows of a block, which is one chunk in every column."""
    columns: Mapping[str, ParamSpec]

    def path(self, name: str) -> str:
        return f"{self.group}/{name}"

    @property
    def block_bytes(self) -> int:
        row = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.columns.values())
        return self.rows * (row + 8)


def save_stream(params: Mapping[str, ParamSpec], rows: int) -> Stream:
    return Stream("save", PARAMS_GROUP, STEPS, rows, dict(params))


def scalar_stream(names: tuple[str, ...], rows: int) -> Stream:
    columns: dict[str, ParamSpec] = {name: ((), np.dtype(np.float64)) for name in names}
    return Stream("scalar", SCALARS_GROUP, f"{SCALARS_GROUP}/{SCALAR_STEP}", rows, columns)


def open_h5(path: str | Path, mode: Literal["r", "r+"] = "r") -> h5py.File:
    """An HDF5 file opened the one way trajectories are opened, and refused when it could reach other files
    (external storage, external links, virtual datasets).

    Raises GrokscopeError, one line: no such file, not an HDF5 file, truncated or damaged, foreign storage.
    """
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise GrokscopeError(f"open {path}: {what}, expected an HDF5 file")
    try:
        file = h5py.File(path, mode, libver=("v108", "v108"), locking=False)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise GrokscopeError(f"open {path}: {_why_not_opened(path, error)}") from None
    try:
        refuse_foreign_storage(file)
    except BaseException:
        file.close()
        raise
    return file


def _why_not_opened(path: Path, error: Exception) -> str:
    try:
        if path.stat().st_size == 0:
            return "the file is empty, expected an HDF5 file"
        with path.open("rb") as raw:
            raw.read(1)
        if not h5py.is_hdf5(path):
            return "not an HDF5 file"
    except OSError as refused:
        return f"cannot read it: {refused.strerror}"
    if "truncated" in str(error):
        return "the file is truncated: it is shorter than it says of itself"
    if "already open" in str(error):
        return "this process has it open for reading, expected that reader to be closed first"
    return f"damaged HDF5 file ({first_line(error)})"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message that must stay on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def refuse_foreign_storage(file: h5py.File) -> None:
    """Raise GrokscopeError when reading ``file`` could reach outside it.

    External storage silently reads any local file as if it were data; external links and virtual datasets
    open other HDF5 files. Links are looked at, never followed, until their kind is known.
    """
    seen: set[Any] = set()
    pending: list[h5py.Group] = [file]
    try:
        while pending:
            group = pending.pop()
            for name in group:
                where = f"{(group.name or '').rstrip('/')}/{name}"
                try:
                    link = group.get(name, getlink=True)
                except TypeError:
                    _refuse(file, where, "a user-defined link")
                if isinstance(link, h5py.ExternalLink):
                    _refuse(file, where, "an external link")
                if isinstance(link, h5py.SoftLink):
                    # What it points to is itself in this walk, unless the way there leaves the file.
                    continue
                item = group[name]
                if isinstance(item, h5py.Group):
                    # Hard links may form cycles; the address names an object once.
                    address = h5o.get_info(item.id).addr
                    if address not in seen:
                        seen.add(address)
                        pending.append(item)
                elif isinstance(item, h5py.Dataset):
                    properties = item.id.get_create_plist()
                    if properties.get_external_count() > 0:
                        _refuse(file, where, "external storage")
                    if properties.get_layout() == h5py.h5d.VIRTUAL:
                        _refuse(file, where, "a virtual dataset")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise GrokscopeError(f"open {file.filename}: damaged HDF5 file ({first_line(error)})") from None


def _refuse(file: h5py.File, where: str, what: str) -> None:
    raise GrokscopeError(
        f"open {file.filename}: {where} is {what}, which reads other files; "
        "expected a file that holds all its data"
    )


def create_skeleton(file: h5py.File, streams: tuple[Stream, ...], capacity: int) -> None:
    """The groups, empty datasets and attributes of a trajectory. ``capacity`` is that of its chunk index."""
    file.attrs.create("format", FORMAT_NAME)
    file.attrs.create("schema", SCHEMA_VERSION, dtype=np.int64)
    file.attrs.create("index_capacity", capacity, dtype=np.int64)
    for stream in streams:
        group = file.create_group(stream.group)
        for name, (shape, dtype) in stream.columns.items():
            group.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(stream.rows, *shape),
                dtype=np.dtype(dtype),
                fletcher32=True,
            )
        file.create_dataset(
            stream.marker,
            shape=(0,),
            maxshape=(None,),
            chunks=(stream.rows,),
            dtype=np.int64,
            fletcher32=True,
            fillvalue=UNWRITTEN,
        )


def read_layout(file: h5py.File) -> tuple[Stream, Stream]:
    """The two streams, saves and scalars, of an opened trajectory.

    Raises GrokscopeError when the file is no trajectory, or one of a newer schema.
    """
    name = file.filename
    schema = read_schema(file)
    if schema > SCHEMA_VERSION:
        raise GrokscopeError(
            f"open {name}: its schema is {schema}, this version reads up to {SCHEMA_VERSION}"
        )
    try:
        saves = _read_stream(file, "save", PARAMS_GROUP, STEPS)
        scalars = _read_stream(file, "scalar", SCALARS_GROUP, f"{SCALARS_GROUP}/{SCALAR_STEP}")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise GrokscopeError(f"open {name}: damaged trajectory ({first_line(error)})") from None
    return saves, scalars


def read_schema(file: h5py.File) -> int:
    """The schema version of a trajectory. Raises GrokscopeError when the file is none."""
    try:
        kind, schema = file.attrs.get("format"), file.attrs.get("schema")
        if isinstance(kind, str) and kind == FORMAT_NAME and isinstance(schema, np.integer):
            return int(schema)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        pass
    raise GrokscopeError(f"open {file.filename}: an HDF5 file, but not a {FORMAT_NAME}")


def read_capacity(file: h5py.File) -> int:
    """Chunks of a dataset that the index of this file holds in one node."""
    capacity = file.attrs.get("index_capacity")
    return int(capacity) if isinstance(capacity, np.integer) else SMALLEST_CAPACITY


def dataset_at(file: h5py.File, path: str) -> h5py.Dataset:
    """The dataset at a stored path. Raises GrokscopeError when something else, or nothing, is there."""
    try:
        item = file[path]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise GrokscopeError(f"open {file.filename}: damaged at /{path} ({first_line(error)})") from None
    if not isinstance(item, h5py.Dataset):
        raise GrokscopeError(f"open {file.filename}: /{path} is no dataset, expected a trajectory")
    return item


def _read_stream(file: h5py.File, kind: Literal["save", "scalar"], group: str, marker: str) -> Stream:
    chunks = dataset_at(file, marker).chunks
    columns: dict[str, ParamSpec] = {}
    for name in file[group]:  # type: ignore[union-attr]
        if f"{group}/{name}" != marker:
            column = dataset_at(file, f"{group}/{name}")
            columns[name] = (column.shape[1:], column.dtype)
            if chunks is None or column.chunks != (chunks[0], *column.shape[1:]):
                raise ValueError(f"/{group}/{name} has chunks {column.chunks}, /{marker} has {chunks}")
    if chunks is None or len(chunks) != 1:
        raise ValueError(f"/{marker} has chunks {chunks}")
    return Stream(kind, group, marker, chunks[0], columns)


def committed_steps(file: h5py.File, stream: Stream) -> np.ndarray:
    """The committed steps of a stream, int64, shape (T,).

    The marker's last block may be half-written by a killed writer (length before content, or content beyond
    the recorded end of the file): it then reads as uncommitted. Anything wrong before it is damage.
    """
    where = f"read {file.filename}: /{stream.marker}"
    marker = dataset_at(file, stream.marker)
    length = marker.shape[0]
    last_block = max(0, (length - 1) // stream.rows * stream.rows)
    try:
        steps = np.concatenate([_read(marker, 0, last_block), _read_or_nothing(marker, last_block, length)])
    except (OSError, RuntimeError) as error:
        raise GrokscopeError(f"{where} is damaged ({first_line(error)})") from None
    unwritten = np.flatnonzero(steps < 0)
    if unwritten.size:
        if unwritten[0] < last_block:
            raise GrokscopeError(f"{where} is damaged: row {unwritten[0]} was never written")
        steps = steps[: unwritten[0]]
    if np.any(np.diff(steps) <= 0):
        raise GrokscopeError(f"{where} is damaged: steps do not increase")
    for name in stream.columns:
        if dataset_at(file, stream.path(name)).shape[0] < steps.size:
            raise GrokscopeError(
                f"read {file.filename}: /{stream.path(name)} is shorter than /{stream.marker}"
            )
    return steps


def _read(dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    out = np.empty((stop - start, *dataset.shape[1:]), dtype=dataset.dtype)
    if out.size:
        dataset.read_direct(out, np.s_[start:stop])
    return out


def _read_or_nothing(marker: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    try:
        return _read(marker, start, stop)
    except (OSError, RuntimeError):
        return np.zeros(0, dtype=np.int64)


def read_rows(file: h5py.File, stream: Stream, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a column, shape (stop − start, *shape).

    Raises GrokscopeError, naming the tensor, when a chunk fails its checksum or is not there: HDF5 itself
    would read a missing chunk as zeros.
    """
    dataset = dataset_at(file, stream.path(name))
    try:
        if dataset.size:
            origin = (0,) * (dataset.ndim - 1)
            for row in range(start // stream.rows * stream.rows, stop, stream.rows):
                if dataset.id.get_chunk_info_by_coord((row, *origin)).byte_offset is None:
                    raise OSError(f"the chunk of rows {row} to {row + stream.rows - 1} is missing")
        return _read(dataset, start, stop)
    except (OSError, RuntimeError, ValueError) as error:
        raise GrokscopeError(
            f"read {file.filename}: tensor {name!r} is damaged in rows {start} to {stop - 1} "
            f"({first_line(error)})"
        ) from None


def content_checksum(
    streams: tuple[Stream, ...],
    steps: Mapping[str, np.ndarray],
    read: Callable[[Stream, str, int, int], np.ndarray],
) -> str:
    """SHA-256, in hex, of everything committed: per stream its steps, then its columns sorted by name, each
    as name, dtype, shape and bytes.

    It does not depend on the chunking or on the bytes of the file. ``steps`` maps a stream's kind to its
    committed steps; ``read(stream, name, start, stop)`` gives rows of a column.
    """
    digest = hashlib.sha256()

    def header(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        digest.update(f"{name}\0{dtype.newbyteorder('<').str}\0{shape}\0".encode())

    for stream in streams:
        marker = steps[stream.kind]
        header(stream.marker, marker.dtype, marker.shape)
        digest.update(np.ascontiguousarray(marker, dtype="<i8").data)
        for name in sorted(stream.columns):
            shape, dtype = stream.columns[name]
            header(stream.path(name), np.dtype(dtype), (marker.size, *shape))
            for start, stop in blocks(marker.size, stream.rows):
                digest.update(np.ascontiguousarray(read(stream, name, start, stop)).data)
    return digest.hexdigest()


def blocks(count: int, rows: int) -> Iterator[tuple[int, int]]:
    """Half-open row ranges that cover ``count`` rows, ``rows`` at a time."""
    for start in range(0, count, rows):
        yield start, min(start + rows, count)
