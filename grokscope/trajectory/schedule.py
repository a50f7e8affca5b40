"""The save schedule as data: windows of steps, written as strings and expanded to sorted steps.

``"A:B:K"``           every K-th step from A to B, both ends included
``"log:A:B:N"``       about N distinct steps spaced evenly in log(1 + step), both ends included
``"onset:LENGTH:K"``  every K-th step of the LENGTH steps that follow the onset, both ends included

``B`` may be the word ``end``, the last step of the run. The onset is a step that is known only once the run
is there (when its test loss begins to fall; see ``grokscope.training.onset``): until it is given, such a window
is empty, and since there is one onset it opens once. A schedule is the union of its windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grokscope.errors import GrokscopeError

_EXPECTED = (
    "expected 'A:B:K', 'log:A:B:N' or 'onset:LENGTH:K' with whole numbers 0 <= A <= B, LENGTH >= 0 and "
    "K, N >= 1 (B may be 'end')"
)


def expand_schedule(windows: Sequence[str], last: int, onset: int | None = None) -> np.ndarray:
    """The steps at which a run of ``last`` steps saves: sorted, distinct, int64, shape (S,), in [0, last].

    Steps of a window beyond ``last`` are dropped, so that a shortened run keeps the grid of the long one.
    ``onset`` is the step at which the windows that wait for it open; without it they hold no step.
    Raises GrokscopeError for a window that cannot be read.
    """
    if last < 0:
        raise GrokscopeError(f"expand the save schedule: the last step is {last}, expected 0 or more")
    parts = [np.zeros(0, dtype=np.int64)]
    parts += [_expand_window(window, last, onset) for window in windows]
    return np.unique(np.concatenate(parts))


def waits_for_onset(windows: Sequence[str]) -> bool:
    """Whether any of the windows opens at the onset."""
    return any(_is_onset(window) for window in windows)


def most_after_onset(windows: Sequence[str], last: int) -> int:
    """An upper bound of the number of steps in the windows that open at the onset, wherever it comes."""
    # such a window holds as many steps as one that opens at the start, or fewer
    return sum(np.unique(_expand_window(window, last, 0)).size for window in windows if _is_onset(window))


def _is_onset(window: str) -> bool:
    return isinstance(window, str) and window.strip().split(":")[0].strip() == "onset"


def _expand_window(window: str, last: int, onset: int | None) -> np.ndarray:
    if not isinstance(window, str):
        raise GrokscopeError(f"save window {window!r}: {_EXPECTED}")
    fields = window.strip().split(":")
    if _is_onset(window):
        if len(fields) != 3:
            raise GrokscopeError(f"save window {window!r}: {_EXPECTED}")
        length, spacing = _whole(fields[1], window), _spacing(fields[2], window)
        return np.zeros(0, dtype=np.int64) if onset is None else _linear(onset, onset + length, spacing, last)
    logarithmic = fields[0].strip() == "log"
    if logarithmic:
        fields = fields[1:]
    if len(fields) != 3:
        raise GrokscopeError(f"save window {window!r}: {_EXPECTED}")
    open_ended = fields[1].strip() == "end"
    start = _whole(fields[0], window)
    stop = last if open_ended else _whole(fields[1], window)
    spacing = _spacing(fields[2], window)
    if start > stop:
        if open_ended:
            return np.zeros(0, dtype=np.int64)
        raise GrokscopeError(f"save window {window!r}: starts after its end, {_EXPECTED}")
    if logarithmic:
        steps = _logarithmic(start, stop, spacing)
        return steps[steps <= last]
    return _linear(start, stop, spacing, last)


def _linear(start: int, stop: int, spacing: int, last: int) -> np.ndarray:
    # Only the part that can be kept is built: a window may end far beyond the run.
    steps = np.arange(start, min(stop, last) + 1, spacing, dtype=np.int64)
    if stop <= last:
        steps = np.append(steps, np.int64(stop))
    return steps[steps <= last]


def _spacing(field: str, window: str) -> int:
    spacing = _whole(field, window)
    if spacing < 1:
        raise GrokscopeError(f"save window {window!r}: {spacing} given as last field, {_EXPECTED}")
    return spacing


def _whole(field: str, window: str) -> int:
    text = field.strip()
    # The length bound keeps every step an int64.
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise GrokscopeError(f"save window {window!r}: {text!r} is not a whole number >= 0, {_EXPECTED}")
    return int(text)


def _logarithmic(start: int, stop: int, count: int) -> np.ndarray:
    available = stop - start + 1
    if count >= available:
        return np.arange(start, stop + 1, dtype=np.int64)
    # Neighbouring points round to the same integer near zero, so more points than `count` are laid out.
    low, high = max(count, 2), max(count, 2)
    while _distinct(start, stop, high).size < count:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if _distinct(start, stop, middle).size < count:
            low = middle + 1
        else:
            high = middle
    return _distinct(start, stop, high)


def _distinct(start: int, stop: int, points: int) -> np.ndarray:
    grid = np.expm1(np.linspace(np.log1p(start), np.log1p(stop), points))
    steps = np.rint(grid).astype(np.int64)
    steps[0], steps[-1] = start, stop
    return np.unique(np.clip(steps, start, stop))
