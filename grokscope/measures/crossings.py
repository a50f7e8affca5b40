"""When something happened, as an interval between two saves and never as a bare step.

A run is known only at its saves, so an event lies somewhere after the last save at which a level did not hold
and no later than the first save from which it does. Everything that is said about order and delay follows
from those half-open intervals ``(after, by]`` and from nothing finer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Change",
    "Crossing",
    "Direction",
    "LeadLag",
    "delay",
    "final_median",
    "first_hold",
    "half_fall",
    "lead_lag",
    "onset",
    "series",
]

Direction = Literal["above", "below"]


@dataclass(frozen=True)
class Crossing:
    """An event in the half-open interval ``(after, by]`` of steps.

    ``after`` is the last save at which the level is known not to hold, ``None`` when there is none: the event
    happened at or before the first save. ``by`` is the first save from which the level holds, ``None`` when
    it was not seen to hold: then ``censored`` is true and the event, if it comes at all, comes later than
    ``after``.
    """

    after: int | None
    by: int | None
    censored: bool

    def __post_init__(self) -> None:
        if self.censored != (self.by is None):
            raise ValueError(
                f"Crossing: got censored={self.censored} and by={self.by}, expected censored where by is None"
            )
        if self.after is not None and self.by is not None and self.after >= self.by:
            raise ValueError(f"Crossing: got after={self.after} and by={self.by}, expected after < by")

    def as_json(self) -> dict[str, int | None]:
        """The interval as plain data: ``{"after": ..., "by": ...}``, an unbounded end as ``None``."""
        return {"after": self.after, "by": self.by}

    @classmethod
    def from_json(cls, ends: Mapping[str, int | None]) -> Crossing:
        """What :meth:`as_json` wrote. Raises KeyError or ValueError where it did not."""
        return cls(ends["after"], ends["by"], ends["by"] is None)


@dataclass(frozen=True)
class Change:
    """The moment of a change between two levels of a series, with the levels it was judged by.

    ``crossing`` is ``None`` exactly where ``reason`` says why there is none. ``start`` and ``final`` are the
    values the change runs between, ``level`` the value whose crossing is the event; each is ``None`` where it
    is undefined.
    """

    crossing: Crossing | None
    reason: str | None
    start: float | None = None
    final: float | None = None
    level: float | None = None
    direction: Direction | None = None


@dataclass(frozen=True)
class LeadLag:
    """Which event came first: ``pairs`` decided, ``undecided`` where intervals overlap.

    ``order`` lists every event from first to last and is ``None`` unless every pair is decided.
    """

    pairs: tuple[tuple[str, str], ...]
    undecided: tuple[tuple[str, str], ...]
    order: tuple[str, ...] | None


def series(what: str, steps: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Check a series of saves: steps (T,) strictly increasing from 0 up, values (T,) with NaN where
    undefined.

    Raises:
        ValueError: shapes that differ or are not one-dimensional, no saves, or steps out of order.
    """
    raw = np.asarray(steps)
    values_T = np.asarray(values, dtype=np.float64)
    if raw.ndim != 1 or raw.size == 0 or values_T.shape != raw.shape:
        raise ValueError(
            f"{what}: got steps of shape {raw.shape} and values of shape {values_T.shape}, "
            "expected two equal one-dimensional shapes with at least one save"
        )
    steps_T = raw.astype(np.int64)
    if not np.array_equal(steps_T, raw) or steps_T[0] < 0 or np.any(np.diff(steps_T) <= 0):
        raise ValueError(
            f"{what}: got steps {raw[:4].tolist()}..., expected non-negative integers, strictly increasing"
        )
    return steps_T, values_T


def final_median(values: ArrayLike, fraction: float = 0.1, at_least: int = 3) -> float | None:
    """Median over the last ``fraction`` of the saves, at least three; ``None`` where all are NaN."""
    values_T = np.asarray(values, dtype=np.float64)
    tail = values_T[-_tail_length(values_T.size, fraction, at_least) :]
    tail = tail[~np.isnan(tail)]
    return float(np.median(tail)) if tail.size else None


def first_hold(
    steps: ArrayLike, values: ArrayLike, level: float, direction: Direction = "above", q: int = 3
) -> Crossing:
    """The interval in which a series first reaches a level and keeps it for q consecutive saves.

    ``above`` means value >= level and ``below`` means value <= level; a level met exactly holds. With i the
    first save such that i, i + 1, ..., i + q - 1 all hold, ``by`` is the step of i and ``after`` the step of
    the last save before i that is defined and does not hold, ``None`` if there is none. A NaN is an undefined
    save: it does not hold, so it breaks a run of q, and it is not known to be below either, so it widens the
    interval rather than bounding it.

    Where no such i exists the event is censored: ``by`` is ``None`` and ``after`` is the last save of all
    that is defined and does not hold. That is the last save of the run if the level is not held there; if the
    level is held at the end, but for fewer than q saves, it is the save before that unconfirmed stretch.

    Args:
        steps: (T,) strictly increasing.
        values: (T,) the series, NaN where it is undefined.
        level: the level, in the units of ``values``.
        direction: the side of the level that counts as holding.
        q: how many consecutive saves have to hold.

    Raises:
        ValueError: a malformed series, a NaN level, q < 1 or an unknown direction.
    """
    steps_T, values_T = series("first_hold", steps, values)
    if q < 1 or np.isnan(level) or direction not in ("above", "below"):
        raise ValueError(
            f"first_hold: got level={level}, direction={direction!r}, q={q}, "
            "expected a number, 'above' or 'below', and q >= 1"
        )
    # Comparisons with NaN are false, which is what an undefined save has to be on both sides.
    holds_T = values_T >= level if direction == "above" else values_T <= level
    fails_T = ~holds_T & ~np.isnan(values_T)
    end, by = steps_T.size, None
    if holds_T.size >= q:
        runs = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(holds_T, q).all(axis=1))
        if runs.size:
            end = int(runs[0])
            by = int(steps_T[end])
    failing = steps_T[:end][fails_T[:end]]
    return Crossing(int(failing[-1]) if failing.size else None, by, by is None)


def delay(fit: Crossing, grok: Crossing) -> tuple[float | None, float | None]:
    """How many times later ``grok`` came than ``fit``: ``(grok.after / fit.by, grok.by / fit.after)``.

    The true ratio lies between the two ends. An end that nothing bounds is ``None``: the low end where grok
    held from the first save on or where fit was never reached (or reached at step 0), the high end where grok
    is censored or where fit has no save after step 0 at which it did not hold.
    """
    low = None if grok.after is None or not fit.by else grok.after / fit.by
    high = None if grok.by is None or not fit.after else grok.by / fit.after
    return low, high


def half_fall(
    steps: ArrayLike,
    values: ArrayLike,
    start_step: int,
    band: float,
    q: int = 3,
    tail_fraction: float = 0.1,
    tail_saves: int = 3,
) -> Change:
    """When a series is midway between its value at ``start_step`` and its final median, falling or rising.

    The start is the first defined save at or after ``start_step`` (the ``by`` of the fit event, which may
    have been found on a denser grid). The final value is the median over the last tenth of the saves, at
    least three. Saves before the start play no part: a quantity that was low before it rose is not counted as
    fallen.

    Args:
        steps: (T,) strictly increasing.
        values: (T,) the series, NaN where it is undefined.
        start_step: where the change is counted from, in steps.
        band: width of the chance band, in the units of ``values``; a change that does not exceed it is no
            event.
        q: how many consecutive saves have to hold.
        tail_fraction, tail_saves: the window of the final median.

    Returns:
        A ``Change`` whose crossing is ``None``, with a reason, where the change does not exceed the band or
        where the series has no defined save between ``start_step`` and its final window.

    Raises:
        ValueError: a malformed series or a negative band.
    """
    steps_T, values_T = series("half_fall", steps, values)
    if not band >= 0:
        raise ValueError(f"half_fall: got band={band}, expected a width >= 0")
    final = final_median(values_T, tail_fraction, tail_saves)
    if final is None:
        return Change(None, "the series is undefined over its final window")
    tail_start = values_T.size - _tail_length(values_T.size, tail_fraction, tail_saves)
    candidates = np.flatnonzero((steps_T >= start_step) & ~np.isnan(values_T))
    if candidates.size == 0 or candidates[0] >= tail_start:
        return Change(None, f"no defined save between step {start_step} and the final window", final=final)
    first = int(candidates[0])
    start = float(values_T[first])
    change = final - start
    if not np.isfinite(change):
        return Change(None, "the series is infinite at its start or in its final window")
    if abs(change) <= band:
        return Change(
            None, f"the change {abs(change):.4g} does not exceed the chance band {band:.4g}", start, final
        )
    level = start + change / 2
    direction: Direction = "above" if change > 0 else "below"
    crossing = first_hold(steps_T[first:], values_T[first:], level, direction, q)
    return Change(crossing, None, start, final, level, direction)


def onset(
    steps: ArrayLike,
    values: ArrayLike,
    baseline: tuple[int, int],
    fraction: float = 0.05,
    q: int = 3,
    band: float = 0.0,
) -> Change:
    """When a series leaves its starting band for good, on its way to where it ends.

    The starting band is read from the saves of the baseline window: ``start`` is their median m, and with f
    the final median (last tenth, at least three saves) the series has left the band where it lies beyond m +
    sign(f - m) max(fraction |f - m|, largest excursion of the baseline from m towards f). *For good* means
    that it does not come back before it has made half of its change, held for q saves: ``after`` is the last
    save in the band before that half-change, ``by`` the next defined one. A late spike back into the band
    therefore does not move the onset, and neither does an early wobble out of it. Saves before the baseline
    window play no part. Where the half-change is not reached the onset is censored.

    Args:
        steps: (T,) strictly increasing.
        values: (T,) the series, NaN where it is undefined.
        baseline: first and last step of the baseline window, both included.
        fraction: share of the total change that counts as having left, in (0, 0.5).
        q: how many consecutive saves have to hold the half-change; also how many defined saves a baseline
            needs.
        band: width of the chance band; a total change that does not exceed it is no event.

    Returns:
        A ``Change``; its crossing is ``None``, with a reason, where the baseline is too short, or where the
        change exceeds neither the chance band nor twice the excursions of the baseline itself.

    Raises:
        ValueError: a malformed series, an empty window, a fraction outside (0, 0.5) or a negative band.
    """
    steps_T, values_T = series("onset", steps, values)
    first_step, last_step = baseline
    if not (0 < fraction < 0.5 and band >= 0 and q >= 1 and first_step <= last_step):
        raise ValueError(
            f"onset: got baseline={baseline}, fraction={fraction}, q={q}, band={band}, "
            "expected first <= last, a fraction in (0, 0.5), q >= 1 and a width >= 0"
        )
    defined_T = ~np.isnan(values_T)
    window = np.flatnonzero((steps_T >= first_step) & (steps_T <= last_step) & defined_T)
    if window.size < q:
        return Change(
            None, f"{window.size} defined saves in steps {first_step} to {last_step}, fewer than {q}"
        )
    start, final = float(np.median(values_T[window])), final_median(values_T)
    if final is None or not np.isfinite(final - start):
        return Change(None, "the series is undefined or infinite at its start or in its final window")
    change = final - start
    sign = 1.0 if change > 0 else -1.0
    excursion = float(np.max(sign * (values_T[window] - start)))
    if abs(change) <= max(band, 2 * excursion):
        return Change(
            None,
            f"the change {abs(change):.4g} does not exceed the starting band ({excursion:.4g} either way) "
            f"or the chance band {band:.4g}",
            start,
            final,
        )
    level = start + sign * max(fraction * abs(change), excursion)
    direction: Direction = "above" if change > 0 else "below"
    rest = slice(int(window[0]), None)
    steps_R, values_R, defined_R = steps_T[rest], values_T[rest], defined_T[rest]
    inside_R = defined_R & (sign * (values_R - level) <= 0)
    half = first_hold(steps_R, values_R, start + change / 2, direction, q)
    if half.by is None:
        return Change(Crossing(int(steps_R[inside_R][-1]), None, True), None, start, final, level, direction)
    last_inside = int(np.flatnonzero(inside_R & (steps_R < half.by))[-1])
    left = int(np.flatnonzero(defined_R & (np.arange(defined_R.size) > last_inside))[0])
    crossing = Crossing(int(steps_R[last_inside]), int(steps_R[left]), False)
    return Change(crossing, None, start, final, level, direction)


def lead_lag(events: Mapping[str, Crossing]) -> LeadLag:
    """Which of several events came first, stated only where their intervals do not overlap.

    A precedes B where ``A.by <= B.after``: the intervals are half-open, so those that only touch are decided.
    A censored event comes after everything that had happened by its ``after``; it precedes nothing.
    """
    pairs: list[tuple[str, str]] = []
    undecided: list[tuple[str, str]] = []
    for one, other in combinations(events, 2):
        if _precedes(events[one], events[other]):
            pairs.append((one, other))
        elif _precedes(events[other], events[one]):
            pairs.append((other, one))
        else:
            undecided.append((one, other))
    order = None
    if not undecided:
        order = tuple(sorted(events, key=lambda name: sum(second == name for _, second in pairs)))
    return LeadLag(tuple(pairs), tuple(undecided), order)


def _precedes(one: Crossing, other: Crossing) -> bool:
    return one.by is not None and other.after is not None and one.by <= other.after


def _tail_length(saves: int, fraction: float, at_least: int) -> int:
    return min(saves, max(at_least, round(fraction * saves)))
