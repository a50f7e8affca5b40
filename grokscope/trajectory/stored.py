"""What a trajectory holds at the moment it is resumed, for comparing and for copying."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.trajectory import format as layout


class StoredRun:
    """The committed rows of an opened file, read a block at a time."""

    def __init__(self, path: Path, file: h5py.File, streams: tuple[layout.Stream, ...]) -> None:
        self.path = path
        self.file = file
        self.streams = streams
        self.steps = {stream.kind: layout.committed_steps(file, stream) for stream in streams}
        self.counts = {kind: int(steps.size) for kind, steps in self.steps.items()}
        self._cached: dict[str, tuple[int, dict[str, np.ndarray]]] = {}

    def last_step(self, kind: str) -> int:
        return int(self.steps[kind][-1]) if self.counts[kind] else -1

    def rows(self, stream: layout.Stream, name: str, start: int, stop: int) -> np.ndarray:
        return layout.read_rows(self.file, stream, name, start, stop)

    def row(self, stream: layout.Stream, index: int) -> dict[str, np.ndarray]:
        """Every column of one row; its neighbours are kept, since they come next."""
        start = index // stream.rows * stream.rows
        if stream.kind not in self._cached or self._cached[stream.kind][0] != start:
            stop = min(start + stream.rows, self.counts[stream.kind])
            block = {name: self.rows(stream, name, start, stop) for name in stream.columns}
            self._cached[stream.kind] = (start, block)
        return {name: column[index - start] for name, column in self._cached[stream.kind][1].items()}

    def forget(self) -> None:
        """Let the cached blocks go."""
        self._cached.clear()

    def ends_on_blocks(self) -> bool:
        """Whether nothing lies beyond the markers and no chunk is partial."""
        for stream in self.streams:
            count = self.counts[stream.kind]
            lengths = {layout.dataset_at(self.file, stream.marker).shape[0]}
            lengths |= {layout.dataset_at(self.file, stream.path(name)).shape[0] for name in stream.columns}
            if lengths != {count} or count % stream.rows:
                return False
        return True


def check_same_columns(path: Path, stored: layout.Stream, given: layout.Stream) -> None:
    """Raise GrokscopeError unless names, shapes and dtypes agree."""

    def described(columns: Mapping[str, layout.ParamSpec], name: str) -> str:
        if name not in columns:
            return "absent"
        shape, dtype = columns[name]
        return f"{tuple(shape)} {np.dtype(dtype)}"

    for name in sorted({*stored.columns, *given.columns}):
        held, wanted = described(stored.columns, name), described(given.columns, name)
        if held != wanted:
            raise GrokscopeError(
                f"resume {path}: {stored.kind} column {name!r} is {wanted} in this run, "
                f"{held} in the stored one"
            )
