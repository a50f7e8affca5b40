"""How much of an effect on a time runs through one variable: the recovery fraction, and the collapse.

Raising the weight norm slows grokking from T0 to T1; raising the temperature as well lowers the effective
logit scale L and takes the time down again. What is left of the effect where L is back at its value L0 in the
baseline tells how much of it ran through L (arXiv 2606.18465).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import inf, isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grokscope.measures.censored import share_explained
from grokscope.measures.interval_likelihood import log_bounds, maximise
from grokscope.measures.resampling import cluster_weights, expanded_percentile

__all__ = ["Collapse", "Recovery", "collapse", "recovery", "recovery_fraction"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recovery:
    """A recovery fraction of median times, with its interval over seeds.

    ``fraction`` is ``None`` where it is undefined or only a bound; then ``reason`` says why. ``at_least`` and
    ``at_most`` are what medians among censored runs leave open (``None`` where nothing does), both equal to
    the fraction where there is one. ``low`` and ``high`` come from resampling the seeds of all arms together,
    with ``None`` for an end that is open. Of the resamples ``resamples`` were defined: the raised arm was later
    than the baseline, whose scale lay within those of the arms. ``matched`` is the time
    T2 that the raised arms reach at the scale of the baseline, ``None`` where it is no number.
    """

    fraction: float | None
    low: float | None
    high: float | None
    at_least: float | None
    at_most: float | None
    matched: float | None
    reason: str | None
    seeds: int
    resamples: int


@dataclass(frozen=True)
class Collapse:
    """R squared of log T on the logit scale alone, on the norm alone, and on both; ``None`` if T is constant."""

    on_scale: float | None
    on_norm: float | None
    on_both: float | None
    n: int
    censored: int


def recovery_fraction(t0: float, t1: float, l0: float, scales: ArrayLike, times: ArrayLike) -> float | None:
    """(T1 - T2) / (T1 - T0), T2 the linear interpolation of ``times`` over ``scales`` at ``l0``.

    Args:
        t0, t1: times of the baseline and of the raised arm without compensation; T0 < T1.
        l0: scale of the baseline.
        scales, times: (A,) of the raised arms, in any order.

    Returns:
        ``None`` where ``l0`` lies outside the range of ``scales``: nothing is extrapolated.

    Raises:
        ValueError: numbers that are not finite, t0 >= t1, shapes that differ, no arm or equal scales.
    """
    scales_A = _checked_scales("recovery_fraction", l0, scales, np.size(times))
    times_A = np.asarray(times, dtype=np.float64)
    if not (isfinite(t0) and isfinite(t1) and t0 < t1 and times_A.ndim == 1 and np.isfinite(times_A).all()):
        raise ValueError(
            f"recovery_fraction: got t0={t0}, t1={t1} and times {times_A.tolist()}, "
            "expected finite times and t0 < t1"
        )
    at = _weights(l0, scales_A)
    return None if at is None else (t1 - float(at @ times_A)) / (t1 - t0)


def recovery(
    baseline: tuple[ArrayLike, ArrayLike],
    arms: tuple[ArrayLike, ArrayLike],
    l0: float,
    scales: ArrayLike,
    raised: int = 0,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    scales_of: Callable[[NDArray[np.int64]], tuple[float, ArrayLike]] | None = None,
) -> Recovery:
    """The recovery fraction of medians over seeds, with a bootstrap over matched seeds.

    A run that got there counts with its ``high``, the first evaluation at or after, as the papers count it; a
    censored run is a bound. A median that falls among censored runs is one too and leaves an interval for the
    fraction, in the data and in each resample.

    Args:
        baseline: ``low`` and ``high``, (S,) each, of the baseline arm.
        arms: ``low`` and ``high``, (A, S) each, of the raised arms; column s is the same seed everywhere.
        l0, scales: logit scale of the baseline, and (A,) of the raised arms.
        raised: which of the arms is the one without compensation, whose median is T1.
        confidence, resamples, seed: of the interval.
        scales_of: the scale of the baseline and those of the arms when these seeds are taken (places, which may
            repeat). Without it the scales count as known and are as given in all resamples.

    Raises:
        ValueError: malformed intervals, shapes that do not fit, equal scales, or no arm of that number.
    """
    low_AS, high_AS = (np.atleast_2d(np.asarray(end, dtype=np.float64)) for end in arms)
    low_S, high_S = (np.asarray(end, dtype=np.float64) for end in baseline)
    if low_AS.shape != high_AS.shape or low_S.shape != low_AS.shape[1:] or not 0 <= raised < len(low_AS):
        raise ValueError(
            f"recovery: got a baseline of shape {low_S.shape}, arms of shape {low_AS.shape} and raised={raised}, "
            "expected as many seeds in each and an arm of that number"
        )
    low_RS, high_RS = np.vstack([low_S, low_AS]), np.vstack([high_S, high_AS])
    for one, other in zip(low_RS, high_RS, strict=True):
        log_bounds("recovery", one, other)
    scales_A = _checked_scales("recovery", l0, scales, low_AS.shape[0])
    seeds = low_S.size
    at = _weights(l0, scales_A)
    if at is None:
        reason = f"the scale {l0:g} lies outside that of the arms, {scales_A.min():g} to {scales_A.max():g}"
        return Recovery(None, None, None, None, None, None, reason, seeds, 0)
    censored = np.isinf(high_RS)
    counts_BS = cluster_weights(np.arange(seeds), resamples, seed).astype(np.int64)

    def between(chosen: NDArray[np.int64], at: Array | None) -> tuple[float, float, float] | None:
        return None if at is None else _between(low_RS, high_RS, censored, chosen, at, raised)

    own = between(np.arange(seeds), at)
    found = []
    for counts in counts_BS:
        chosen = np.repeat(np.arange(seeds), counts)
        found.append(between(chosen, at if scales_of is None else _weights(*scales_of(chosen))))
    resampled = [ends for ends in found if ends is not None]
    interval = expanded_percentile(
        [ends[0] for ends in resampled], seeds, confidence, [ends[1] for ends in resampled]
    )
    low, high = (None, None) if interval is None else (_bounded(end) for end in interval)
    if own is None:
        reason = "the median of the raised arm is not later than that of the baseline"
        return Recovery(None, low, high, None, None, None, reason, seeds, len(resampled))
    at_least, at_most, matched = own
    fraction = at_least if at_least == at_most else None
    reason = None if fraction is not None else "a median falls among runs that did not get there"
    return Recovery(
        fraction,
        low,
        high,
        _bounded(at_least),
        _bounded(at_most),
        _bounded(matched),
        reason,
        seeds,
        len(resampled),
    )


def collapse(low: ArrayLike, high: ArrayLike, scale: ArrayLike, norm: ArrayLike) -> Collapse:
    """How much of log T the logit scale explains, how much the norm, and how much both (with a constant).

    R squared is 1 - s^2 / s_0^2 with the maximum-likelihood scales of the errors of a model and of a constant,
    on intervals (`censored.log_linear_fit`): the ordinary one where ``low`` and ``high`` are the same medians.

    Args:
        low, high: (N,) ends of the times of N cells or runs; infinite high where censored.
        scale, norm: (N,) logit scale, and weight norm or its ratio rho.

    Raises:
        ValueError: malformed input, or fewer than four cells bounded on both sides.
    """
    low_N, high_N = log_bounds("collapse", low, high)
    scale_N, norm_N = np.asarray(scale, dtype=np.float64), np.asarray(norm, dtype=np.float64)
    bounded_N = np.isfinite(low_N) & np.isfinite(high_N)
    if (
        scale_N.shape != low_N.shape
        or norm_N.shape != low_N.shape
        or not (np.isfinite(scale_N).all() and np.isfinite(norm_N).all())
        or bounded_N.sum() < 4
        or any(np.ptp(values[bounded_N]) == 0 for values in (scale_N, norm_N))
    ):
        raise ValueError(
            f"collapse: got {int(bounded_N.sum())} of {low_N.size} cells bounded on both sides, scales of shape "
            f"{scale_N.shape} and norms of shape {norm_N.shape}, expected one finite scale and norm for each "
            "cell, four bounded ones at least, and more than one scale and norm among them"
        )
    shift = float(low_N[bounded_N].mean())
    low_N, high_N, constant_N = low_N - shift, high_N - shift, np.ones_like(low_N)

    def explained(*chosen: Array) -> float | None:
        fitted = maximise(np.column_stack([*chosen, constant_N]), low_N, high_N)
        return share_explained(float(fitted.scale[0]), low_N, high_N)

    scale_N, norm_N = scale_N - scale_N.mean(), norm_N - norm_N.mean()
    return Collapse(
        explained(scale_N),
        explained(norm_N),
        explained(scale_N, norm_N),
        low_N.size,
        int(np.isposinf(high_N).sum()),
    )


def _checked_scales(what: str, l0: float, scales: ArrayLike, arms: int) -> Array:
    scales_A = np.asarray(scales, dtype=np.float64)
    if (
        scales_A.shape != (arms,)
        or arms == 0
        or not (isfinite(l0) and np.isfinite(scales_A).all())
        or np.unique(scales_A).size < arms
    ):
        raise ValueError(
            f"{what}: got l0={l0} and scales {scales_A.tolist()} for {arms} arms, "
            "expected a finite number for each, no two equal"
        )
    return scales_A


def _weights(l0: float, scales: ArrayLike) -> Array | None:
    """(A,) weights of the arms in the linear interpolation at l0, ``None`` outside their range."""
    scales_A = np.asarray(scales, dtype=np.float64)
    if not scales_A.min() <= l0 <= scales_A.max():
        return None
    order = np.argsort(scales_A)
    basis = np.eye(scales_A.size)[order]
    return np.array([np.interp(l0, scales_A[order], basis[:, arm]) for arm in range(scales_A.size)])


def _between(
    low_RS: Array, high_RS: Array, censored_RS: NDArray[np.bool_], chosen: NDArray, at: Array, raised: int
) -> tuple[float, float, float] | None:
    """What the medians of the chosen seeds leave for the fraction, and T2 (infinite where it is a bound)."""
    first_R = np.median(np.where(censored_RS, low_RS, high_RS)[:, chosen], axis=1)
    last_R = np.median(high_RS[:, chosen], axis=1)
    if not first_R[1 + raised] > last_R[0]:
        return None
    t2 = [sum(float(w * t) for w, t in zip(at, ends[1:], strict=True) if w > 0) for ends in (first_R, last_R)]
    t1 = (float(first_R[1 + raised]), float(last_R[1 + raised]))
    t0 = (float(first_R[0]), float(last_R[0]))
    # Monotone in each of the three times while T0 < T1, so the extremes are at the corners.
    corners = [_formula(*corner) for corner in product(t0, t1, t2)]
    return min(corners), max(corners), t2[1]


def _formula(t0: float, t1: float, t2: float) -> float:
    # The limit for a finite T2; the low end of an interval for T2 always is.
    return 1.0 if t1 == inf else (t1 - t2) / (t1 - t0)


def _bounded(end: float) -> float | None:
    return end if isfinite(end) else None
