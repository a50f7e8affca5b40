"""Writing a trajectory while it is being trained, and taking it up again after a stop or a kill.

Rows are gathered into blocks in the caller and committed by a thread of their own (``worker``), whole
blocks only; the last, partial block of each stream is written once, by ``close``.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from grokscope.errors import GrokscopeError, nearest
from grokscope.trajectory import format as layout
from grokscope.trajectory.commit import Block, CommitFile, ends_where_it_says, successor_path
from grokscope.trajectory.format import ParamSpec, Stream
from grokscope.trajectory.index import capacity_for
from grokscope.trajectory.stored import StoredRun, check_same_columns
from grokscope.trajectory.worker import Sink, Worker


class TrajectoryWriter:
    """A new trajectory at ``path``.

    ``params`` maps tensor names to (shape, dtype), ``scalars`` names the float64 series beside them. The
    file exists, empty and readable, when the constructor returns. ``queue_blocks`` bounds how many blocks
    wait for the disk: ``save`` and ``scalar`` block beyond it, nothing is ever dropped. ``block_rows`` and
    ``scalar_rows`` are the saves and scalar rows committed at a time (by default 16, fewer for large
    tensors, and 256). ``expected_saves`` and ``expected_scalars`` make room for that many in the chunk index
    of a new file; without them, or past them, the file is copied into a roomier one each time it doubles.

    Used by one thread. As a context manager it closes at the end and on any exception, Ctrl-C included.
    Raises GrokscopeError when ``path`` exists, a name or shape cannot be stored, or there is no space.
    """

    def __init__(
        self,
        path: str | Path,
        params: Mapping[str, ParamSpec],
        scalars: Sequence[str],
        *,
        expected_saves: int = 0,
        expected_scalars: int = 0,
        queue_blocks: int = 2,
        block_rows: int | None = None,
        scalar_rows: int = layout.SCALAR_ROWS_PER_CHUNK,
    ) -> None:
        path = Path(path)
        streams = _streams(path, params, scalars, block_rows or layout.block_rows(params), scalar_rows)
        if path.exists():
            raise GrokscopeError(f"create {path}: it exists, expected a new name (or resume it)")
        if not path.parent.is_dir():
            raise GrokscopeError(f"create {path}: no such directory {path.parent}")
        expected = _blocks(streams, expected_saves, expected_scalars)
        target = CommitFile.create(path, streams, capacity_for(expected))
        try:
            target.publish()
        except OSError as error:
            target.discard()
            raise GrokscopeError(f"create {path}: {error.strerror}") from None
        self._start(path, streams, Sink(path, streams, target, None, expected), None, queue_blocks)

    @classmethod
    def resume(
        cls,
        path: str | Path,
        params: Mapping[str, ParamSpec],
        scalars: Sequence[str],
        *,
        expected_saves: int = 0,
        expected_scalars: int = 0,
        queue_blocks: int = 2,
    ) -> Self:
        """Take up a trajectory that was stopped or killed.

        The caller restores its state at some step at or before ``resume_bound`` (or from the beginning) and
        recomputes, calling ``save`` and ``scalar`` as an uninterrupted run would. Calls at stored steps are
        compared bit for bit and store nothing; each stream appends once its calls have passed its last
        stored step. Rows beyond the markers are forgotten.

        A file that ends in a partial chunk, or was torn by a kill, is left untouched meanwhile: the first
        commits go to a successor beside it, which takes its name when it holds everything the old file had.

        Raises GrokscopeError when the file is missing, damaged, or was written for other tensors.
        """
        path = Path(path)
        successor_path(path).unlink(missing_ok=True)
        file = layout.open_h5(path, "r")
        try:
            streams = layout.read_layout(file)
            given = _streams(path, params, scalars, streams[0].rows, streams[1].rows)
            for held, wanted in zip(streams, given, strict=True):
                check_same_columns(path, held, wanted)
            stored = StoredRun(path, file, streams)
            expected = _blocks(streams, expected_saves, expected_scalars)
            clean = stored.ends_on_blocks() and ends_where_it_says(path)
            roomy = layout.read_capacity(file) >= expected
        except BaseException:
            file.close()
            raise
        target = None
        if clean and roomy:
            file.close()
            file = layout.open_h5(path, "r+")
            stored = StoredRun(path, file, streams)
            target = CommitFile.reopen(path, streams, file)
        sink = Sink(path, streams, target, stored, expected)
        writer = cls.__new__(cls)
        writer._start(path, streams, sink, stored, queue_blocks)
        return writer

    def _start(
        self,
        path: Path,
        streams: tuple[Stream, ...],
        sink: Sink,
        stored: StoredRun | None,
        queue_blocks: int,
    ) -> None:
        self._path = path
        self._stored = stored
        self._buffers = {stream.kind: _Buffer(path, stream, stored) for stream in streams}
        self._closed = False
        self._told = False
        self._worker = Worker(sink, path, queue_blocks)
        # A writer that nobody closed ends its thread before the interpreter takes HDF5 apart.
        self._finish = weakref.finalize(self, self._worker.stop)

    @property
    def resume_bound(self) -> int:
        """The last step such that all saves and scalars at steps up to it were stored when the trajectory
        was opened: the smaller of the last stored steps of the two streams; −1 for none."""
        if self._stored is None:
            return -1
        return min(
            self._stored.last_step(kind) for kind, buffer in self._buffers.items() if buffer.stream.columns
        )

    @property
    def stored_steps(self) -> np.ndarray:
        """Steps of the saves that were stored when the trajectory was opened, int64."""
        return np.zeros(0, np.int64) if self._stored is None else self._stored.steps["save"].copy()

    def save(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store every tensor at a step (copied before this returns), or compare it with what is stored.

        Raises GrokscopeError: names, shapes or dtypes differ from the declared; the step does not increase;
        recomputed values differ from the stored ones; or the writer's thread failed earlier.
        """
        self._take("save", step, arrays)

    def scalar(self, step: int, values: Mapping[str, float]) -> None:
        """Store every scalar at a step, or compare it with what is stored. Errors as in ``save``."""
        self._take(
            "scalar", step, {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
        )

    def close(self) -> None:
        """Commit everything, the partial blocks included, and close. May be called again.

        Raises GrokscopeError when the thread failed and no earlier call has said so.
        """
        if not self._closed:
            if self._worker.error is None:
                for block in self._remaining():
                    self._worker.submit(block)
            self._end()
        if self._worker.error is not None and not self._told:
            self._raise_failure()

    def abandon(self) -> None:
        """Close without the partial blocks: what a kill at this moment would keep, and never an error."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # The exception on its way out is the one to hear about.
            with contextlib.suppress(GrokscopeError):
                self.close()

    def _take(self, kind: str, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        if self._closed:
            raise GrokscopeError(f"write {self._path}: step {step} offered after the trajectory was closed")
        if self._worker.error is not None:
            self._raise_failure()
        buffer = self._buffers[kind]
        if buffer.full:
            # Only after an interrupt between the hand-over and the new block.
            self._hand_over(buffer)
        buffer.take(step, arrays)
        if buffer.full:
            self._hand_over(buffer)

    def _hand_over(self, buffer: _Buffer) -> None:
        self._worker.submit(buffer.block())
        if self._worker.error is not None:
            self._raise_failure()
        buffer.renew()

    def _remaining(self) -> list[Block]:
        if not any(buffer.grew for buffer in self._buffers.values()):
            # Nothing new: the file already holds everything, its partial chunks too.
            return []
        return [buffer.block() for buffer in self._buffers.values() if buffer.count]

    def _raise_failure(self) -> None:
        self._told = True
        error = self._worker.error
        assert error is not None
        raise GrokscopeError(str(error))

    def _end(self) -> None:
        self._closed = True
        self._finish()
        if self._stored is not None:
            self._stored.forget()
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._stored.file.close()


class _Buffer:
    """The block of one stream that is being filled, and the stored rows its calls must agree with."""

    def __init__(self, path: Path, stream: Stream, stored: StoredRun | None) -> None:
        self.path = path
        self.stream = stream
        self.grew = False
        self.count = 0
        self._stored = stored
        self._stored_steps = np.zeros(0, np.int64) if stored is None else stored.steps[stream.kind]
        self._compared = -1
        self._last_step = int(self._stored_steps[-1]) if self._stored_steps.size else -1
        self._first_row = self._stored_steps.size // stream.rows * stream.rows
        self._new_block()
        tail = self._stored_steps.size - self._first_row
        if stored is not None and tail:
            # A partial chunk on disk is never rewritten: its rows start the next whole one, in memory.
            for name, column in self._columns.items():
                column[:tail] = stored.rows(stream, name, self._first_row, self._first_row + tail)
            self._steps[:tail] = self._stored_steps[self._first_row :]
            self.count = tail

    @property
    def full(self) -> bool:
        return self.count == self.stream.rows

    def block(self) -> Block:
        columns = {name: column[: self.count] for name, column in self._columns.items()}
        return Block(self.stream, self._first_row, self._steps[: self.count], columns)

    def renew(self) -> None:
        self._first_row += self.count
        # A block that was handed over belongs to the thread: the next one is new memory.
        self._new_block()
        self.count = 0

    def _new_block(self) -> None:
        rows = self.stream.rows
        self._steps = np.zeros(rows, dtype=np.int64)
        self._columns = {
            name: np.empty((rows, *shape), dtype) for name, (shape, dtype) in self.stream.columns.items()
        }

    def take(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        step = int(step)
        checked = self._check(step, arrays)
        if self._stored_steps.size and step <= self._stored_steps[-1]:
            self._compare(step, checked)
            return
        what = f"write {self.path}: {self.stream.kind} at step {step}"
        if step <= self._last_step:
            raise GrokscopeError(f"{what}: steps must increase, the last one was {self._last_step}")
        if 0 <= self._compared < self._stored_steps.size - 1:
            missed = self._stored_steps[self._compared + 1]
            raise GrokscopeError(
                f"{what}: the stored step {missed} was not recomputed on the way: the schedule changed"
            )
        for name, array in checked.items():
            self._columns[name][self.count] = array
        self._steps[self.count] = step
        self._last_step = step
        self.grew = True
        # Last: an interrupt before this line leaves the row out as a whole.
        self.count += 1

    def _check(self, step: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        what = f"write {self.path}: {self.stream.kind} at step {step}"
        if step < 0:
            raise GrokscopeError(f"{what}: expected a step of 0 or more")
        columns = self.stream.columns
        if arrays.keys() != columns.keys():
            for name in arrays:
                if name not in columns:
                    raise GrokscopeError(f"{what}: {name!r} was not declared{nearest(name, columns)}")
            absent = next(name for name in columns if name not in arrays)
            raise GrokscopeError(f"{what}: {absent!r} is missing, expected all {len(columns)} declared names")
        checked = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in checked.items():
            shape, dtype = columns[name]
            if array.shape != tuple(shape) or array.dtype != dtype:
                raise GrokscopeError(
                    f"{what}: {name!r} is {array.shape} {array.dtype}, "
                    f"expected {tuple(shape)} {np.dtype(dtype)}"
                )
        return checked

    def _compare(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        assert self._stored is not None
        what = f"resume {self.path}: step {step}"
        index = int(np.searchsorted(self._stored_steps, step))
        if self._stored_steps[index] != step:
            raise GrokscopeError(f"{what} is not among the stored {self.stream.kind}s: the schedule changed")
        if self._compared >= 0 and index != self._compared + 1:
            raise GrokscopeError(
                f"{what}: expected step {self._stored_steps[self._compared + 1]} next: the schedule changed"
            )
        for name, stored in self._stored.row(self.stream, index).items():
            if stored.tobytes() != arrays[name].tobytes():
                raise GrokscopeError(
                    f"{what}, tensor {name!r}: the recomputed values differ from the stored ones: "
                    "device, thread count or code changed"
                )
        self._compared = index


def _blocks(streams: tuple[Stream, Stream], saves: int, scalars: int) -> int:
    return max(-(-saves // streams[0].rows), -(-scalars // streams[1].rows))


def _streams(
    path: Path, params: Mapping[str, ParamSpec], scalars: Sequence[str], block_rows: int, scalar_rows: int
) -> tuple[Stream, Stream]:
    """The two streams, with every name, shape and dtype one that can be stored."""
    if block_rows < 1 or scalar_rows < 1:
        raise GrokscopeError(
            f"create {path}: blocks of {block_rows} saves and {scalar_rows} scalars, expected >= 1"
        )
    if not params:
        raise GrokscopeError(f"create {path}: no tensors given, expected at least one")
    checked: dict[str, ParamSpec] = {}
    for name, (shape, kind) in params.items():
        dtype = np.dtype(kind)
        if dtype.kind not in "fiub" or not dtype.isnative:
            raise GrokscopeError(
                f"create {path}: {name!r} has dtype {dtype}, expected floats, integers or bool"
            )
        if any(size < 1 for size in shape):
            raise GrokscopeError(f"create {path}: {name!r} has shape {tuple(shape)}, expected no empty axis")
        checked[name] = (tuple(int(size) for size in shape), dtype)
    if len(set(scalars)) != len(scalars):
        raise GrokscopeError(f"create {path}: scalar names {list(scalars)} repeat, expected distinct names")
    for name in (*params, *scalars):
        if not name or "/" in name or "\0" in name or name == ".":
            raise GrokscopeError(f"create {path}: {name!r} given, expected names without '/'")
    if layout.SCALAR_STEP in scalars:
        raise GrokscopeError(f"create {path}: scalar name {layout.SCALAR_STEP!r} is taken by the step itself")
    return layout.save_stream(checked, block_rows), layout.scalar_stream(tuple(scalars), scalar_rows)
