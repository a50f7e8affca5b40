"""What all processes of a fleet see: how far each run is, and whether to stop."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from grokscope.errors import GrokscopeError

REFRESH = 0.2
"""Seconds between two looks at the board."""

State = Literal["waiting", "training", "finished", "stopped", "failed", "busy"]
_STATES: tuple[State, ...] = ("waiting", "training", "finished", "stopped", "failed", "busy")


class Board:
    """A small file: whether to stop, and the step and state of every run.

    Records are written and read whole, at their place, without a lock: each has one writer at a time.
    """

    _HEAD, _ROW = struct.Struct("<q"), struct.Struct("<qq")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    @classmethod
    @contextmanager
    def made(cls, runs: int, shared: Path | None) -> Iterator[Board]:
        """A new board in the temporary folder, or hidden in the folder ``shared``; removed at the end."""
        folder = Path(tempfile.gettempdir()) if shared is None else shared
        path = folder / f".grokscope-fleet-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cls._HEAD.pack(0) + cls._ROW.pack(0, 0) * runs)
            board = cls.opened(path)
        except OSError as error:
            raise GrokscopeError(
                f"training a fleet: cannot write {path}: {error.strerror}, expected a writable place"
            ) from None
        try:
            with board:
                yield board
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @classmethod
    def opened(cls, path: Path) -> Board:
        return cls(path, os.open(path, os.O_RDWR))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def stop(self) -> None:
        self._put(self._HEAD.pack(1), 0)

    def stopped(self) -> bool:
        return self._HEAD.unpack(os.pread(self._descriptor, self._HEAD.size, 0))[0] != 0

    def write(self, run: int, step: int, state: State) -> None:
        row = self._ROW.pack(step, _STATES.index(state))
        self._put(row, self._HEAD.size + run * self._ROW.size)

    def step(self, run: int) -> int:
        return self.rows()[run][0]

    def rows(self) -> list[tuple[int, State]]:
        size = os.fstat(self._descriptor).st_size
        found = os.pread(self._descriptor, size, 0)[self._HEAD.size :]
        return [(step, _STATES[state]) for step, state in self._ROW.iter_unpack(found)]

    def _put(self, content: bytes, at: int) -> None:
        # a board that cannot be written costs the display, never a run
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, content, at)
