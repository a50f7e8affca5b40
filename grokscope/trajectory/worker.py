"""The writer's thread: takes blocks from a bounded queue, commits them, and keeps the first error."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from grokscope.errors import GrokscopeError
from grokscope.trajectory import format as layout
from grokscope.trajectory import index
from grokscope.trajectory.commit import Block, CommitFile
from grokscope.trajectory.stored import StoredRun


class Sink:
    """Where blocks go: the trajectory itself, or a successor that replaces it once it holds as much.

    A successor is made when the file at hand ends in a partial chunk (a committed chunk is never
    rewritten), was torn by a kill, or has no room left in its chunk index. It starts with the whole blocks
    of the old file and takes its name as soon as every row committed there is committed in it too.
    """

    def __init__(
        self,
        path: Path,
        streams: tuple[layout.Stream, ...],
        target: CommitFile | None,
        stored: StoredRun | None,
        expected_blocks: int,
    ) -> None:
        self._path = path
        self._streams = streams
        self._target = target
        # Its file stays open while the caller compares with it, whoever else is done with it.
        self._stored = stored
        self._expected_blocks = expected_blocks
        self._may_grow = True
        self._must_hold: Mapping[str, int] = {} if target is not None or stored is None else stored.counts

    def append(self, block: Block) -> None:
        if self._target is None:
            assert self._stored is not None
            self._target = self._successor(self._stored)
        elif self._may_grow and self._target.published and self._target.lacks_room(block):
            self._grow()
        self._target.append(block)
        committed = self._target.committed
        if not self._target.published and all(
            committed[kind] >= rows for kind, rows in self._must_hold.items()
        ):
            self._target.publish()

    def close(self) -> None:
        """Close the file; a successor that does not hold as much as the old file goes."""
        if self._target is not None:
            self._target.discard()

    def _grow(self) -> None:
        old = self._target
        assert old is not None
        try:
            target = self._successor(StoredRun(self._path, old.file, self._streams))
        except GrokscopeError:
            # No space for a copy. The commits may still find some, at the price of rearranging.
            self._may_grow = False
            return
        target.publish()
        self._target = target
        old.release(keep_open=self._stored is not None and self._stored.file is old.file)

    def _successor(self, old: StoredRun) -> CommitFile:
        blocks = max(old.counts[stream.kind] // stream.rows for stream in self._streams)
        capacity = index.capacity_for(max(self._expected_blocks, 2 * blocks))
        target = CommitFile.create(self._path, self._streams, capacity)
        try:
            for stream in self._streams:
                whole = old.counts[stream.kind] // stream.rows * stream.rows
                for start, stop in layout.blocks(whole, stream.rows):
                    columns = {name: old.rows(stream, name, start, stop) for name in stream.columns}
                    target.append(Block(stream, start, old.steps[stream.kind][start:stop], columns))
        except BaseException:
            target.discard()
            raise
        return target


class Worker:
    """A daemon thread that feeds a sink. ``submit`` blocks while the queue is full and never drops."""

    def __init__(self, sink: Sink, path: Path, queue_blocks: int) -> None:
        self._sink = sink
        self._path = path
        self._queue: queue.Queue[Block | None] = queue.Queue(maxsize=max(1, queue_blocks))
        self.error: GrokscopeError | None = None
        # The thread holds no reference to the writer, so that a forgotten writer can be collected.
        self._thread = threading.Thread(target=self._run, name="trajectory-writer", daemon=True)
        self._thread.start()

    def submit(self, block: Block) -> None:
        while True:
            if self.error is not None:
                return
            try:
                self._queue.put(block, timeout=0.5)
                return
            except queue.Full:
                continue

    def stop(self) -> None:
        """Commit what is queued, close the file and end the thread. May be called again."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=0.5)
                self._thread.join()

    def _run(self) -> None:
        while (block := self._queue.get()) is not None:
            if self.error is None:
                self._attempt(lambda block=block: self._sink.append(block))
                if self.error is not None:
                    self._attempt(self._sink.close)
        self._attempt(self._sink.close)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except GrokscopeError as error:
            self.error = self.error or error
        except Exception as error:
            reason = layout.first_line(error)
            self.error = self.error or GrokscopeError(f"write {self._path}: {reason}")
