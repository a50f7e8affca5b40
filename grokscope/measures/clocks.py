"""Two clocks: how long the loss, and how long a structural gap, takes to come down to a level.

The classifier clock T_cls(eps) is the first save from which the training loss stays at or below eps, the
representation clock T_rep(eta) the same for a structural gap (arXiv 2606.05863). Whether T grows like
log(1/eps) or like a power of 1/eps is a question about the run: exponential decay gives the first, gradient
descent on separable data without weight decay the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grokscope.measures.crossings import Crossing, delay, first_hold, series
from grokscope.measures.lines import LineFit, fit_blocks, fit_line
from grokscope.measures.tails import TailFit, TailModel, tail_fit, theta_from_gradient

__all__ = [
    "ClockFit",
    "Contraction",
    "Growth",
    "LineFit",
    "TailFit",
    "TailModel",
    "classifier_clock",
    "fit_clock",
    "fit_line",
    "gap_growth",
    "log_grid",
    "representation_clock",
    "separation",
    "tail_contraction",
    "tail_fit",
    "theta_from_gradient",
]

Preferred = Literal["logarithmic", "power", "cannot tell"]
Ends = tuple[float | None, float | None]

# How far the slope over either half of a straight window may be from the slope over the whole.
_HALVES = 0.25


@dataclass(frozen=True)
class ClockFit:
    """T on log(1/level) beside log T on log(1/level), and which of the two describes the clock.

    ``logarithmic`` and ``power`` are ``None`` where fewer than two levels can be fitted. ``logarithmic_grid``
    and ``power_grid`` are the smallest and the largest slope that any placing of the crossings inside their
    intervals would give: what the spacing of the saves leaves open, beside the statistical interval.
    ``delta_aic`` is AIC of the logarithmic clock less AIC of the power clock, so it is negative where the
    logarithmic one is better. Of ``levels`` levels ``used`` were fitted; ``censored`` were never reached and
    ``unbounded`` held from the first save on, and neither kind has a midpoint.
    """

    logarithmic: LineFit | None
    power: LineFit | None
    logarithmic_grid: Ends
    power_grid: Ends
    delta_aic: float | None
    preferred: Preferred
    reason: str | None
    levels: int
    used: int
    censored: int
    unbounded: int


@dataclass(frozen=True)
class Growth:
    """Linear growth of the margin after it turned positive: ``line.slope`` per step, over ``window``.

    ``line`` and ``window`` are ``None`` exactly where ``reason`` says why. ``to_end`` tells a window that was
    ended by the end of the run from one that was ended by the margin.
    """

    positive: Crossing
    line: LineFit | None
    window: tuple[int, int] | None
    to_end: bool
    reason: str | None


@dataclass(frozen=True, eq=False)
class Contraction:
    """Tail contraction: mu per step at each save, and the window over which one mu describes it.

    ``rates`` (K,) belong to the intervals that begin at ``steps`` (K,). ``mu`` with ``low`` and ``high``
    comes from the line through log loss over ``window``; ``smallest`` is the smallest of the rates inside it.
    """

    steps: NDArray[np.int64]
    rates: NDArray[np.float64]
    mu: float | None
    low: float | None
    high: float | None
    smallest: float | None
    r_squared: float | None
    window: tuple[int, int] | None
    to_end: bool
    reason: str | None


def log_grid(values: ArrayLike, per_decade: int = 4) -> NDArray[np.float64]:
    """Levels 10^(k / per_decade) between the extremes of a series, from the largest to the smallest.

    Only positive finite values count. The levels lie on one fixed lattice, so that two runs share them. A
    series that passes no lattice point gives an empty grid.

    Raises:
        ValueError: per_decade < 1, or a series without a positive finite value.
    """
    values_T = np.asarray(values, dtype=np.float64)
    positive = values_T[np.isfinite(values_T) & (values_T > 0)]
    if positive.size == 0 or per_decade < 1:
        raise ValueError(
            f"log_grid: got {positive.size} positive finite values and per_decade={per_decade}, "
            "expected at least one of each"
        )
    # Rounding in log10 must not lose a level that an extreme sits on exactly.
    lowest = int(np.ceil(per_decade * np.log10(positive.min()) - 1e-9))
    highest = int(np.floor(per_decade * np.log10(positive.max()) + 1e-9))
    return 10.0 ** (np.arange(highest, lowest - 1, -1) / per_decade)


def classifier_clock(
    steps: ArrayLike, train_loss: ArrayLike, eps_grid: ArrayLike, q: int = 3
) -> list[Crossing]:
    """T_cls(eps): the first save from which the training loss stays <= eps for q saves (arXiv 2606.05863).

    Raises:
        ValueError: a malformed series or a level that is not positive and finite.
    """
    return _clock("classifier_clock", steps, train_loss, eps_grid, q)


def representation_clock(steps: ArrayLike, gap: ArrayLike, eta_grid: ArrayLike, q: int = 3) -> list[Crossing]:
    """T_rep(eta): the first save from which a structural gap stays <= eta for q saves (arXiv 2606.05863).

    A structural gap is anything that falls to zero as the representation settles: the excess of the stable
    rank or of a Schatten energy over its final value, the rule gap, the class separation.

    Raises:
        ValueError: a malformed series or a level that is not positive and finite.
    """
    return _clock("representation_clock", steps, gap, eta_grid, q)


def separation(representation: Sequence[Crossing], classifier: Sequence[Crossing]) -> list[Ends]:
    """T_rep / T_cls for each pair of levels, as an interval; an end that nothing bounds is ``None``.

    Raises:
        ValueError: two clocks with a different number of levels.
    """
    if len(representation) != len(classifier):
        raise ValueError(
            f"separation: got {len(representation)} and {len(classifier)} crossings, expected equally many"
        )
    return [delay(early, late) for late, early in zip(representation, classifier, strict=True)]


def fit_clock(
    levels: ArrayLike,
    crossings: Sequence[Crossing],
    times: Mapping[int, float] | None = None,
    confidence: float = 0.95,
) -> ClockFit:
    """Fit T and log T on log(1/level), by ordinary least squares on the midpoints of the crossings.

    The two are compared as predictions of the same T: Gaussian residuals in T against Gaussian residuals in
    log T, the latter with the Jacobian -sum log T, and three parameters each. To the variance of every
    residual the square of its interval's width over 12 is added, in T or in log T, so that what is finer than
    the saves decides nothing. *Cannot tell* where fewer than four different crossings could be used, or where
    |delta AIC| < 2. The levels of one trajectory are correlated, which makes both intervals and AIC too sure
    of themselves.

    Args:
        levels: (K,) positive levels.
        crossings: their K crossings, in steps.
        times: another clock, such as the sum of learning rates, as {step: time}; the steps themselves by
            default.
        confidence: of the t interval.

    Raises:
        ValueError: different lengths, levels that are not positive, a step without a time, or a time that is
            not positive at a midpoint.
    """
    levels_K = _positive_levels("fit_clock", levels)
    if levels_K.size != len(crossings):
        raise ValueError(
            f"fit_clock: got {levels_K.size} levels and {len(crossings)} crossings, expected equally many"
        )
    censored = sum(crossing.by is None for crossing in crossings)
    bounded = [
        (1 / level, crossing.after, crossing.by)
        for level, crossing in zip(levels_K, crossings, strict=True)
        if crossing.by is not None and crossing.after is not None
    ]
    counts = (levels_K.size, len(bounded), censored, levels_K.size - len(bounded) - censored)
    distinct = len({ends[1:] for ends in bounded})
    if distinct < 2:
        reason = f"{distinct} different crossings could be used, two are needed for a line"
        return ClockFit(None, None, (None, None), (None, None), None, "cannot tell", reason, *counts)
    x_N = np.log([inverse for inverse, _, _ in bounded])
    low_N, high_N = (
        _at_times(steps, times) for steps in ([a for _, a, _ in bounded], [b for _, _, b in bounded])
    )
    mid_N, width_N = (low_N + high_N) / 2, high_N - low_N
    if not (np.all(mid_N > 0) and np.all(width_N > 0)):
        raise ValueError(
            "fit_clock: got times that do not increase from zero, expected a clock that advances"
        )
    logarithmic, power = fit_line(x_N, mid_N, confidence), fit_line(x_N, np.log(mid_N), confidence)
    delta = 2 * (
        _log_likelihood(np.log(mid_N) - power.intercept - power.slope * x_N, width_N / mid_N)
        - float(np.sum(np.log(mid_N)))
        - _log_likelihood(mid_N - logarithmic.intercept - logarithmic.slope * x_N, width_N)
    )
    preferred: Preferred = "logarithmic" if delta < 0 else "power"
    reason = None
    if distinct < 4:
        preferred, reason = "cannot tell", f"{distinct} different crossings could be used, fewer than 4"
    elif abs(delta) < 2:
        preferred, reason = "cannot tell", f"the two differ by {abs(delta):.2g} in AIC, less than 2"
    log_ends = (None, None) if np.any(low_N <= 0) else _slope_range(x_N, np.log(low_N), np.log(high_N))
    return ClockFit(
        logarithmic, power, _slope_range(x_N, low_N, high_N), log_ends, delta, preferred, reason, *counts
    )


def gap_growth(
    steps: ArrayLike, margin: ArrayLike, q: int = 3, r_squared: float = 0.95, at_least: int = 5
) -> Growth:
    """Growth of the margin per step once it is positive, and how long it is linear (arXiv 2606.05863).

    The margin has turned positive where it stays > 0 for q saves. The window is the longest stretch of
    ``at_least`` defined saves or more from there over which the margin rises along a straight line: R squared
    at least ``r_squared``, and the slopes over the first and the second half of its saves both within 25 % of
    the slope over all of it, since R squared alone also accepts a curve that flattens. The slope and its
    interval are those of means of consecutive blocks of saves (`lines.block_slope`), whose residuals are not
    taken as independent.

    Raises:
        ValueError: a malformed series.
    """
    steps_T, margin_T = series("gap_growth", steps, margin)
    positive = first_hold(steps_T, margin_T, float(np.nextafter(0.0, 1.0)), "above", q)
    if positive.by is None:
        return Growth(positive, None, None, False, f"the margin is not positive for {q} saves")
    usable = (steps_T >= positive.by) & np.isfinite(margin_T)
    x_N, y_N = steps_T[usable], margin_T[usable]
    n = _longest_line(x_N, y_N, r_squared, at_least)
    if n is None:
        reason = f"no straight rise over {at_least} saves ({_straight(r_squared)}) from {positive.by}"
        return Growth(positive, None, None, False, reason)
    line = fit_blocks(x_N[:n], y_N[:n])
    return Growth(positive, line, (int(x_N[0]), int(x_N[n - 1])), n == x_N.size, None)


def tail_contraction(
    steps: ArrayLike, loss: ArrayLike, start_step: int, r_squared: float = 0.95, at_least: int = 5
) -> Contraction:
    """mu_t = 1 - L_{t+1} / L_t per step, and how long one mu describes it (arXiv 2606.05863).

    Between saves that lie m steps apart the rate is 1 - (L'/L)^(1/m). The window is the longest stretch from
    the first save at or after ``start_step`` over which log L falls along a straight line, as straight as
    `gap_growth` asks of the margin (R squared, and both halves within 25 % of the whole); it ends before the
    first loss that is not positive. mu and its interval come from the slope of block means, as there.

    Raises:
        ValueError: a malformed series.
    """
    steps_T, loss_T = series("tail_contraction", steps, loss)
    usable = (steps_T >= start_step) & ~np.isnan(loss_T)
    x_N, loss_N = steps_T[usable], loss_T[usable]
    stop = np.flatnonzero(~((loss_N > 0) & np.isfinite(loss_N)))
    end = int(stop[0]) if stop.size else loss_N.size
    y_N = np.log(loss_N[:end])
    rates = -np.expm1(np.diff(y_N) / np.diff(x_N[:end]))
    left = x_N[: max(end - 1, 0)]
    n = _longest_line(x_N[:end], -y_N, r_squared, at_least)
    if n is None:
        reason = (
            f"no straight fall of log loss over {at_least} saves ({_straight(r_squared)}) from {start_step}"
        )
        return Contraction(left, rates, None, None, None, None, None, None, False, reason)
    line = fit_blocks(x_N[:n], y_N[:n])
    low, high = (None if end is None else float(-np.expm1(end)) for end in (line.high, line.low))
    return Contraction(
        left,
        rates,
        float(-np.expm1(line.slope)),
        low,
        high,
        float(rates[: n - 1].min()),
        line.r_squared,
        (int(x_N[0]), int(x_N[n - 1])),
        n == loss_N.size,
        None,
    )


def _positive_levels(what: str, levels: ArrayLike) -> NDArray[np.float64]:
    levels_K = np.asarray(levels, dtype=np.float64)
    if levels_K.ndim != 1 or not np.all(np.isfinite(levels_K) & (levels_K > 0)):
        raise ValueError(
            f"{what}: got levels {levels_K.tolist()}, expected a list of positive finite numbers"
        )
    return levels_K


def _clock(what: str, steps: ArrayLike, values: ArrayLike, levels: ArrayLike, q: int) -> list[Crossing]:
    return [first_hold(steps, values, float(level), "below", q) for level in _positive_levels(what, levels)]


def _at_times(steps: list[int], times: Mapping[int, float] | None) -> NDArray[np.float64]:
    if times is None:
        return np.asarray(steps, dtype=np.float64)
    missing = [step for step in steps if step not in times]
    if missing:
        raise ValueError(
            f"fit_clock: got no time for step {missing[0]}, expected one for the ends of every crossing"
        )
    return np.asarray([times[step] for step in steps], dtype=np.float64)


def _slope_range(x_N: NDArray[np.float64], low_N: NDArray[np.float64], high_N: NDArray[np.float64]) -> Ends:
    # The least-squares slope is linear in y, so its extremes over a box of y lie at the box's corners.
    weights_N = (x_N - x_N.mean()) / np.sum((x_N - x_N.mean()) ** 2)
    middle = float(weights_N @ (low_N + high_N)) / 2
    half = float(np.abs(weights_N) @ (high_N - low_N)) / 2
    return middle - half, middle + half


def _log_likelihood(residual_N: NDArray[np.float64], width_N: NDArray[np.float64]) -> float:
    # Variance = one unknown common part + the known variance of a uniform position inside each interval.
    grid_N = width_N**2 / 12

    def value(log_variance: float) -> float:
        total_N = np.exp(log_variance) + grid_N
        return float(-0.5 * np.sum(np.log(2 * np.pi * total_N) + residual_N**2 / total_N))

    low = float(np.log(grid_N.min())) - 20
    high = float(np.log(np.sum(residual_N**2) + grid_N.max())) + 1
    coarse = np.linspace(low, high, 200)
    best = int(np.argmax([value(point) for point in coarse]))
    bounds = (float(coarse[max(best - 1, 0)]), float(coarse[min(best + 1, coarse.size - 1)]))
    from scipy.optimize import minimize_scalar  # half a second to import, and most commands fit nothing

    found = minimize_scalar(lambda point: -value(point), bounds=bounds, method="bounded")
    return max(value(float(found.x)), value(float(coarse[best])), value(-np.inf))


def _straight(r_squared: float) -> str:
    return f"R squared {r_squared}, slopes of both halves within {_HALVES:.0%} of the whole"


def _longest_line(x_N: NDArray, y_N: NDArray, r_squared: float, at_least: int) -> int | None:
    """The largest n for which the first n points lie on one rising line, or ``None``.

    R squared is at least the given one, and the slopes over the first and over the second half of the points
    (an odd one in the middle belongs to both) are within ``_HALVES`` of the slope over all.
    """
    if x_N.size < at_least:
        return None
    x, y = (x_N - x_N[0]).astype(np.float64), y_N - y_N[0]
    sums = np.zeros((5, x.size + 1))
    np.cumsum([x, y, x * x, x * y, y * y], axis=1, out=sums[:, 1:])

    def moments(first: NDArray, end: NDArray) -> NDArray:
        """Centred sums xx, xy and yy over the points first..end - 1, one column per window."""
        sx, sy, sxx, sxy, syy = sums[:, end] - sums[:, first]
        count = end - first
        return np.stack([sxx - sx * sx / count, sxy - sx * sy / count, syy - sy * sy / count])

    n = np.arange(at_least, x.size + 1)
    xx, xy, yy = moments(np.zeros_like(n), n)
    good = (xy > 0) & (xy**2 >= r_squared * xx * yy)
    for part in (moments(np.zeros_like(n), (n + 1) // 2), moments(n // 2, n)):
        # slopes compared as products, so that rounding of a very short half cannot divide by zero
        good &= np.abs(part[1] * xx - xy * part[0]) <= _HALVES * xy * part[0]
    kept = np.flatnonzero(good)
    return int(n[kept[-1]]) if kept.size else None
