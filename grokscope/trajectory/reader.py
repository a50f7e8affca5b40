"""Reading a trajectory: whole, or beside the process that is still writing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import h5py
import numpy as np

from grokscope.errors import GrokscopeError, nearest
from grokscope.trajectory import format as layout
from grokscope.trajectory.format import Stream

_T = TypeVar("_T")

# A commit is a few writes: a reader that met one half-way looks again after this long, this many times.
_PAUSE_SECONDS = 0.02
_ATTEMPTS = 4


class Trajectory:
    """A stored trajectory, read on demand. T is the number of committed saves.

    What is committed at the first access is what this object shows, also while a writer goes on; ``refresh``
    looks again. The file is open only while something is read, so that others may open it too; in a ``with``
    block it stays open. Raises GrokscopeError, one line, for a file that is missing, damaged, no trajectory or of a
    newer schema, and for a chunk that fails its checksum.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._keep_open = False
        self._streams: tuple[Stream, Stream] | None = None
        self._steps: dict[str, np.ndarray] = {}

    def __enter__(self) -> Self:
        self._keep_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep_open = False
        self.close()

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def refresh(self) -> None:
        """Look again at what is committed."""
        self.close()
        self._streams = None
        self._steps = {}

    @property
    def schema(self) -> int:
        return self._with_file(layout.read_schema)

    @property
    def steps(self) -> np.ndarray:
        """Steps of the committed saves, int64, shape (T,)."""
        return self._known(0)[1].copy()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored tensors, sorted."""
        return tuple(sorted(self._known(0)[0].columns))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor at one step."""
        return {name: tuple(self._known(0)[0].columns[name][0]) for name in self.names}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        return {name: np.dtype(self._known(0)[0].columns[name][1]) for name in self.names}

    @property
    def scalars(self) -> dict[str, np.ndarray]:
        """The committed scalar series, float64, shape (M,), and their ``"step"``, int64."""
        stream, steps = self._known(1)
        series = {layout.SCALAR_STEP: steps.copy()}
        for name in sorted(stream.columns):
            series[name] = self._rows(stream, name, 0, steps.size)
        return series

    def read(self, name: str, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """A tensor at the saves chosen, shape (len(rows), *shape), in the stored dtype.

        ``rows`` are positions among ``steps``: a slice, an array of indices (any order, negative from the
        end, repeats allowed) or of T booleans; None for all.
        """
        stream, steps = self._known(0)
        if name not in stream.columns:
            known = sorted(stream.columns)
            raise GrokscopeError(
                f"read {self.path}: no tensor {name!r}{nearest(name, known)}; stored are {', '.join(known)}"
            )
        if rows is None:
            rows = slice(None)
        if isinstance(rows, slice):
            start, stop, stride = rows.indices(steps.size)
            if stride == 1:
                return self._rows(stream, name, start, max(start, stop))
        index = self._index(rows, steps.size)
        shape, dtype = stream.columns[name]
        chosen = np.empty((index.size, *shape), dtype)
        # A chunk is read once however many of its rows are wanted.
        block_of = index // stream.rows
        for block in np.unique(block_of):
            start = int(block) * stream.rows
            held = self._rows(stream, name, start, min(start + stream.rows, steps.size))
            here = block_of == block
            chosen[here] = held[index[here] - start]
        return chosen

    def _index(self, rows: slice | np.ndarray, count: int) -> np.ndarray:
        try:
            return np.arange(count)[rows].reshape(-1)
        except (IndexError, ValueError):
            raise GrokscopeError(
                f"read {self.path}: rows {rows!r} given, expected positions within {count} saves"
            ) from None

    def params_at(self, index: int) -> dict[str, np.ndarray]:
        """Every tensor at one save; ``index`` is a position among ``steps``, negative from the end."""
        position = int(self._index(np.asarray([index]), self._known(0)[1].size)[0])
        stream = self._known(0)[0]
        return {name: self._rows(stream, name, position, position + 1)[0] for name in self.names}

    def checksum(self) -> str:
        """SHA-256 of everything committed (saves and scalars), independent of the file's own bytes."""
        known = [self._known(0), self._known(1)]
        streams = tuple(stream for stream, _ in known)
        steps = {stream.kind: steps for stream, steps in known}
        # opening the file, which looks at all of it, costs as much as reading a block
        return self._with_file(
            lambda file: layout.content_checksum(
                streams,
                steps,
                lambda stream, name, start, stop: layout.read_rows(file, stream, name, start, stop),
            )
        )

    def uncommitted(self) -> dict[str, int]:
        """Rows beyond the markers, by stored path: what a writer left, ignored elsewhere."""
        beyond: dict[str, int] = {}
        for stream, steps in (self._known(0), self._known(1)):
            for path in (stream.marker, *(stream.path(name) for name in sorted(stream.columns))):
                extra = (
                    self._with_file(lambda file, path=path: layout.dataset_at(file, path).shape[0])
                    - steps.size
                )
                if extra > 0:
                    beyond[f"/{path}"] = extra
        return beyond

    def _known(self, which: int) -> tuple[Stream, np.ndarray]:
        """A stream (0 for saves, 1 for scalars) and its committed steps, fixed since the first access."""
        if self._streams is None:
            self._streams, self._steps = self._with_file(_survey)
        stream = self._streams[which]
        return stream, self._steps[stream.kind]

    def _rows(self, stream: Stream, name: str, start: int, stop: int) -> np.ndarray:
        return self._with_file(lambda file: layout.read_rows(file, stream, name, start, stop))

    def _with_file(self, use: Callable[[h5py.File], _T]) -> _T:
        """Apply ``use``, opening the file if need be; a reader beside a writer may have to look twice."""
        for attempt in range(_ATTEMPTS):
            try:
                if self._file is None:
                    self._file = layout.open_h5(self.path)
                return use(self._file)
            except GrokscopeError:
                self.close()
                if attempt == _ATTEMPTS - 1 or not self.path.is_file():
                    raise
                time.sleep(_PAUSE_SECONDS)
            finally:
                if not self._keep_open:
                    self.close()
        raise AssertionError("unreachable")


def _survey(file: h5py.File) -> tuple[tuple[Stream, Stream], dict[str, np.ndarray]]:
    streams = layout.read_layout(file)
    return streams, {stream.kind: layout.committed_steps(file, stream) for stream in streams}


@dataclass(frozen=True)
class VerifyReport:
    """What a trajectory holds. ``checksum`` is None, and ``problems`` says so, before the first commit."""

    path: str
    schema: int
    saves: int
    first_step: int | None
    last_step: int | None
    scalar_rows: int
    checksum: str | None
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "problems": list(self.problems)}


def verify_trajectory(path: str | Path) -> VerifyReport:
    """Read everything committed, checking every chunk, and report it.

    Raises GrokscopeError for a file that cannot be opened and, naming the tensor, for a chunk that fails
    its checksum. Rows beyond the markers are a remark among ``problems``, not an error.
    """
    with Trajectory(path) as run:
        steps, scalar_rows = run.steps, run.scalars[layout.SCALAR_STEP].size
        problems = []
        checksum = None
        if steps.size or scalar_rows:
            checksum = run.checksum()
        else:
            problems.append(
                "nothing is committed yet: the run has just begun or was stopped before its first block"
            )
        beyond = run.uncommitted()
        if beyond:
            listed = ", ".join(f"{count} in {name}" for name, count in beyond.items())
            problems.append(
                f"rows beyond the commit marker, left by a stop inside a commit and ignored: {listed}"
            )
        return VerifyReport(
            path=str(path),
            schema=run.schema,
            saves=int(steps.size),
            first_step=int(steps[0]) if steps.size else None,
            last_step=int(steps[-1]) if steps.size else None,
            scalar_rows=int(scalar_rows),
            checksum=checksum,
            problems=tuple(problems),
        )
