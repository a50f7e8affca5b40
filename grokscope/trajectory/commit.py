"""One trajectory file being written: whole blocks in, space reserved first, the marker last.

A commit writes the columns, flushes, appends to the marker, flushes. What a killed process leaves behind
is therefore either before the marker (committed) or beyond it (ignored).
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.trajectory import format as layout
from grokscope.trajectory import index
from grokscope.trajectory.atomic import NO_SPACE, sync_directory

SUCCESSOR_SUFFIX = ".next"

# Generous room for object headers and for what HDF5 allocates ahead.
_SLACK_BYTES = 64 << 10
_SLACK_BYTES_PER_COLUMN = 4 << 10


@dataclass(frozen=True)
class Block:
    """Rows of one stream on their way to the file; ``first_row`` makes handing one over twice harmless."""

    stream: layout.Stream
    first_row: int
    steps: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def end_row(self) -> int:
        return self.first_row + self.steps.size


class CommitFile:
    """An open trajectory to which blocks are committed. Used by one thread at a time.

    A new file is made under a temporary name beside ``path`` and takes the name in ``publish``: until then a
    file already there stays as it is.
    """

    def __init__(
        self, path: Path, file: h5py.File, place: Path, streams: tuple[layout.Stream, ...], capacity: int
    ) -> None:
        self.path = path
        self.file = file
        self.capacity = capacity
        """Blocks of a stream that the chunk index takes without being rearranged."""
        self._place = place
        self._descriptor = os.open(place, os.O_RDWR)
        self.committed = {stream.kind: 0 for stream in streams}

    @classmethod
    def create(cls, path: Path, streams: tuple[layout.Stream, ...], capacity: int) -> CommitFile:
        """An empty trajectory beside ``path``, not yet published."""
        place = successor_path(path)
        try:
            place.unlink(missing_ok=True)
            held = index.create_empty(place, capacity)
        except OSError as error:
            raise GrokscopeError(f"create {path}: {error.strerror or layout.first_line(error)}") from None
        made = cls(path, layout.open_h5(place, "r+"), place, streams, held)
        try:
            columns = sum(len(stream.columns) + 1 for stream in streams)
            made._reserve(_SLACK_BYTES + _SLACK_BYTES_PER_COLUMN * columns, "first commit")
            layout.create_skeleton(made.file, streams, held)
            made._flush()
        except BaseException:
            made.discard()
            raise
        return made

    @classmethod
    def reopen(cls, path: Path, streams: tuple[layout.Stream, ...], file: h5py.File) -> CommitFile:
        """A cleanly closed trajectory, opened ``r+``, whose rows end on block boundaries."""
        made = cls(path, file, path, streams, layout.read_capacity(file))
        for stream in streams:
            made.committed[stream.kind] = int(layout.committed_steps(file, stream).size)
        return made

    def lacks_room(self, block: Block) -> bool:
        """Whether committing this block would rearrange the index under what is committed."""
        return block.end_row > self.capacity * block.stream.rows

    @property
    def published(self) -> bool:
        return self._place == self.path

    def publish(self) -> None:
        """Make this file the trajectory, in one step that a kill cannot halve."""
        os.fsync(self._descriptor)
        os.replace(self._place, self.path)
        self._place = self.path
        sync_directory(self.path.parent)

    def append(self, block: Block) -> None:
        """Commit a block: whole, or the last partial one. Raises GrokscopeError when there is no space."""
        stream, start, stop = block.stream, block.first_row, block.end_row
        done = self.committed[stream.kind]
        if stop <= done:
            return
        if start != done:
            raise RuntimeError(f"block of rows {start} to {stop} offered after {done} committed rows")
        metadata = _metadata_bytes(stream, self.capacity)
        what = f"{stream.kind}s of steps {int(block.steps[0])} to {int(block.steps[-1])}"
        self._reserve(stream.block_bytes + metadata, what)
        for name, rows in block.columns.items():
            dataset = layout.dataset_at(self.file, stream.path(name))
            dataset.resize(stop, axis=0)
            dataset[start:stop] = rows
        self.file.flush()
        # HDF5 may have given the reservation back at the flush.
        self._reserve(metadata, what)
        marker = layout.dataset_at(self.file, stream.marker)
        marker.resize(stop, axis=0)
        marker[start:stop] = block.steps
        self._flush()
        self.committed[stream.kind] = stop

    def close(self) -> None:
        """Close the file. Everything committed is already in it."""
        self.release(keep_open=False)

    def release(self, *, keep_open: bool) -> None:
        """Close, or leave the HDF5 file open for somebody who still reads it."""
        if not keep_open:
            # A file that failed half-way must not take the process down with it.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self.file.close()
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close, and remove the file when it never took its name."""
        self.close()
        if not self.published:
            with contextlib.suppress(OSError):
                self._place.unlink()

    def _flush(self) -> None:
        self.file.flush()
        # What was reserved and not used goes back, and a clean file ends where its superblock says.
        os.ftruncate(self._descriptor, self.file.id.get_filesize())

    def _reserve(self, need: int, what: str) -> None:
        """Claim the space of a commit before anything of it is written: HDF5 does not survive a full disk."""
        if not hasattr(os, "posix_fallocate"):
            return
        end = self.file.id.get_filesize()
        try:
            os.posix_fallocate(self._descriptor, end, need)
        except OSError as error:
            if error.errno not in NO_SPACE:
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    return
                raise GrokscopeError(f"write {self.path}: cannot reserve space ({error.strerror})") from None
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, end)
            saves, scalars = self.committed.get("save", 0), self.committed.get("scalar", 0)
            raise GrokscopeError(
                f"write {self.path}: {NO_SPACE[error.errno]} before the {what}; {need} free bytes expected, "
                f"{saves} saves and {scalars} scalar rows are committed and can be read and resumed from"
            ) from None


def _metadata_bytes(stream: layout.Stream, capacity: int) -> int:
    """What HDF5 may allocate in one commit besides the block: an index node per column, and headers."""
    nodes = sum(index.index_bytes(capacity, len(shape) + 1) for shape, _ in stream.columns.values())
    return _SLACK_BYTES + _SLACK_BYTES_PER_COLUMN * (len(stream.columns) + 1) + nodes


def successor_path(path: Path) -> Path:
    """Where the file that will take the name ``path`` is made."""
    return path.with_name(path.name + SUCCESSOR_SUFFIX)


def ends_where_it_says(path: Path) -> bool:
    """Whether an HDF5 file (superblock version 2 or 3) is as long as its superblock records: if not, a
    writer was killed inside a commit, and space it had begun to use may be handed out a second time."""
    with path.open("rb") as raw:
        head = raw.read(48)
    if len(head) < 48 or head[8] not in (2, 3) or head[9] != 8:
        return False
    return int.from_bytes(head[28:36], "little") == path.stat().st_size
