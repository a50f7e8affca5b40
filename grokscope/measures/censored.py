"""Times over many runs, each known as an interval: their median, and the law log T = alpha x + c.

A run is known at its evaluations, so an event lies in (low, high]: the last evaluation below and the first
one at or above the level. A run that has not got there within its budget has an infinite high. It is a bound
and is never dropped: leaving out the slow runs of an arm makes the arm look fast, and alpha small.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, chdtri

from grokscope.measures.crossings import Crossing
from grokscope.measures.interval_likelihood import Runs, arrange, log_bounds, maximise
from grokscope.measures.resampling import cluster_weights, student_interval

__all__ = ["LogLinearFit", "MedianInterval", "MediansFit", "as_bounds", "log_linear_fit", "median_interval"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MedianInterval:
    """The median of n times and an interval for it over seeds.

    The sample median lies in (``after``, ``by``]. ``value`` is ``by``, the first evaluation at or after, which
    is what papers print, or ``None`` where the median falls among the censored runs: then ``by`` is infinite
    and ``after`` is all that is known. ``low`` and ``high`` (which may be infinite) hold the median of the
    population with probability ``coverage``, which is below the confidence asked for where n is small.
    """

    value: float | None
    after: float
    by: float
    low: float
    high: float
    coverage: float
    n: int
    censored: int


@dataclass(frozen=True)
class MediansFit:
    """Least squares of the logarithms of the medians of the arms on x, as papers print it.

    An arm is one x of one group and its median that of the first evaluations at or after; of ``arms`` the fit
    has ``used``, those whose median is no bound. ``low`` and ``high`` come from resampling clusters of runs,
    ``None`` with fewer than three. ``r_squared`` is of the medians about their overall mean.
    """

    alpha: float
    low: float | None
    high: float | None
    r_squared: float | None
    arms: int
    used: int


@dataclass(frozen=True)
class LogLinearFit:
    """log T = alpha x + c by maximum likelihood over all runs, the censored ones included.

    ``low`` and ``high`` are the interval of alpha from resampling ``clusters`` of runs (``None`` with fewer
    than three clusters), ``profile_low`` and ``profile_high`` the one from the profile likelihood, which
    takes runs as independent; an end of it is ``None`` where the data leave it open. Resampling does not see
    what evaluations leave open that are coarse against the scatter of the runs; the profile does.

    ``constants`` holds c for each group (under ``None`` where there are no groups), itself ``None`` for a
    group of which no run is bounded on some side. ``scale`` is the standard deviation of log T about the law.
    ``r_squared`` is 1 - scale^2 / scale_0^2, where scale_0 belongs to the same likelihood with one constant
    for everything: with nothing censored and narrow intervals the ordinary R squared of log T over runs,
    which is below that of the medians. ``resamples`` counts those in which alpha was identified.
    ``of_medians`` is ``None`` where no group has medians at two different x.
    """

    alpha: float
    low: float | None
    high: float | None
    profile_low: float | None
    profile_high: float | None
    constants: dict[Hashable, float | None]
    scale: float
    r_squared: float | None
    log_likelihood: float
    n: int
    censored: int
    clusters: int
    resamples: int
    of_medians: MediansFit | None


def as_bounds(crossings: Sequence[Crossing]) -> tuple[Array, Array]:
    """``low`` and ``high`` (N,) of crossings: 0 where nothing lies below, infinite where censored."""
    low = [0.0 if crossing.after is None else float(crossing.after) for crossing in crossings]
    high = [np.inf if crossing.by is None else float(crossing.by) for crossing in crossings]
    return np.asarray(low), np.asarray(high)


def median_interval(low: ArrayLike, high: ArrayLike, confidence: float = 0.95) -> MedianInterval:
    """The median of times in (low, high] with its exact interval from order statistics.

    The interval runs from the r-th smallest low to the r-th largest high, r the largest with 1 - 2 P(Bin(n,
    1/2) < r) >= confidence. It holds whatever the distribution is, uses no random numbers, keeps censored runs
    as what they are, and its coverage is known: with fewer than six runs no such interval reaches 95 %, and
    the range, which is then returned, says what it does reach. The percentile bootstrap that papers print
    covers 93 % with 16 runs and 87 % with four, all under the name of 95 %.

    Raises:
        ValueError: malformed intervals (see `interval_likelihood.log_bounds`), or a confidence outside (0, 1).
    """
    log_bounds("median_interval", low, high)
    if not 0 < confidence < 1:
        raise ValueError(f"median_interval: got confidence={confidence}, expected one between 0 and 1")
    low_N, high_N = (np.sort(np.asarray(end, dtype=np.float64)) for end in (low, high))
    n = low_N.size
    rank = 1
    while rank + 1 <= (n + 1) // 2 and 1 - 2 * float(bdtr(rank, n, 0.5)) >= confidence:
        rank += 1
    after, by = float(np.median(low_N)), float(np.median(high_N))
    return MedianInterval(
        by if np.isfinite(by) else None,
        after,
        by,
        float(low_N[rank - 1]),
        float(high_N[n - rank]),
        max(0.0, 1 - 2 * float(bdtr(rank - 1, n, 0.5))),
        n,
        int(np.isinf(high_N).sum()),
    )


def log_linear_fit(
    x: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> LogLinearFit:
    """Fit log T = alpha x + c (+ a constant for each group), normal errors of one scale, to intervals of T.

    Runs of equal x and group form an arm. The bootstrap draws whole clusters: matched seeds, where the same
    seed runs in every arm, are one cluster each, and without ``clusters`` each run is its own. The interval is
    Student's with the resampled standard deviation (`resampling.student_interval`). Neither it nor
    the profile knows how far the law is from a straight line: R squared does, and `lines.fit_line` through the
    medians of the arms.

    Args:
        x: (N,) the control variable, one value a run.
        low, high: (N,) ends of the times, in (low, high]; equal for an exact one, infinite high for a
            censored one, low 0 for one that was there before the first evaluation.
        groups: N labels, such as the modulus.
        clusters: N labels, such as the seed.
        confidence: of both intervals.
        resamples, seed: of the bootstrap; none where ``resamples`` is 0.

    Raises:
        ValueError: malformed input, or no group with bounded runs at two different x, which alpha needs.
    """
    runs = arrange("log_linear_fit", x, low, high, groups, clusters)
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(
            f"log_linear_fit: got confidence={confidence} and resamples={resamples}, "
            "expected a confidence between 0 and 1 and no negative number"
        )
    n = runs.x.size
    if not runs.slopes_known(np.ones((1, n))).any():
        raise ValueError(
            f"log_linear_fit: got {int(runs.bounded.sum())} of {n} runs bounded on both sides, "
            "expected some at two different x of one group"
        )
    dummies = runs.dummies
    design = np.column_stack([runs.x, dummies])
    best = maximise(design, runs.low, runs.high)
    alpha, scale, value = float(best.coefficients[0, 0]), float(best.scale[0]), float(best.log_likelihood[0])
    profile_low, profile_high = _profile(runs, dummies, alpha, scale, value, confidence)
    weights_BN = cluster_weights(runs.cluster, resamples, seed)
    weights_BN = weights_BN[runs.slopes_known(weights_BN).any(axis=1)]
    interval = None
    if weights_BN.size and runs.clusters > 2:
        resampled = maximise(design, runs.low, runs.high, weights_BN).coefficients[:, 0]
        interval = student_interval(alpha, resampled, runs.clusters, confidence)
    constants: dict[Hashable, float | None] = {}
    for g, name in enumerate(runs.groups):
        own = runs.group == g
        known = np.isfinite(runs.low[own]).any() and np.isfinite(runs.high[own]).any()
        constant = float(best.coefficients[0, 1 + g]) + runs.shift - alpha * runs.x_mean
        constants[name] = constant if known else None
    return LogLinearFit(
        alpha,
        *(interval or (None, None)),
        profile_low,
        profile_high,
        constants,
        scale,
        share_explained(scale, runs.low, runs.high),
        value,
        n,
        int(np.isposinf(runs.high).sum()),
        runs.clusters,
        weights_BN.shape[0],
        _medians_fit(runs, weights_BN, confidence),
    )


def share_explained(scale: float, low_N: Array, high_N: Array) -> float | None:
    """1 - scale^2 / scale_0^2, scale_0 of one constant for all; ``None`` where one constant fits them all."""
    if low_N.max() <= high_N.min():
        return None
    alone = float(maximise(np.ones((low_N.size, 1)), low_N, high_N).scale[0])
    return max(0.0, 1 - (scale / alone) ** 2)


def _profile(
    runs: Runs, dummies: Array, alpha: float, scale: float, value: float, confidence: float
) -> tuple[float | None, float | None]:
    """Where the log likelihood at fixed alpha has fallen by half a chi-squared quantile from its maximum."""
    x_N = runs.x[runs.bounded]
    step = scale / float(np.sqrt(np.sum((x_N - x_N.mean()) ** 2)))
    sign_E, quantile = np.array([-1.0, 1.0]), float(np.sqrt(chdtri(1, 1 - confidence)))

    def excess(size_E: Array) -> Array:
        moved_EN = (alpha + sign_E * size_E)[:, None] * runs.x
        fitted = maximise(dummies, runs.low - moved_EN, runs.high - moved_EN)
        return np.sqrt(np.maximum(2 * (value - fitted.log_likelihood), 0)) - quantile

    # The signed root of the likelihood ratio is nearly a straight line: secants, kept inside a bracket.
    last_E, last_f_E = np.zeros(2), np.full(2, -quantile)
    size_E, inside_E, outside_E = np.full(2, quantile * step), np.zeros(2), np.full(2, np.inf)
    found_E = np.zeros(2, dtype=bool)
    for _ in range(60):
        f_E = excess(size_E)
        found_E = np.abs(f_E) < 1e-7
        if found_E.all():
            break
        inside_E, outside_E = np.where(f_E < 0, size_E, inside_E), np.where(f_E < 0, outside_E, size_E)
        rise_E = f_E - last_f_E
        secant_E = size_E - f_E * (size_E - last_E) / np.where(rise_E == 0, 1, rise_E)
        next_E = np.where(rise_E == 0, 4 * size_E, np.clip(secant_E, size_E / 4, 4 * size_E))
        middle_E = (inside_E + np.where(np.isinf(outside_E), 8 * size_E, outside_E)) / 2
        next_E = np.where((next_E > inside_E) & (next_E < outside_E), next_E, middle_E)
        last_E, last_f_E = np.where(found_E, last_E, size_E), np.where(found_E, last_f_E, f_E)
        settled_E = found_E | (np.abs(next_E - size_E) < 1e-10 * size_E)
        size_E = np.where(found_E, size_E, next_E)
        if settled_E.all():
            break
    # A bracket without a root to that precision: the likelihood jumps there, as it does about a perfect fit.
    low, high = (
        float(alpha + sign * size) if known else None
        for sign, size, known in zip(sign_E, size_E, found_E | np.isfinite(outside_E), strict=True)
    )
    return low, high


def _medians_fit(runs: Runs, weights_BN: Array, confidence: float) -> MediansFit | None:
    every_BN = np.append(np.ones((1, runs.x.size)), weights_BN, axis=0)
    arms = sorted({(int(g), float(x)) for g, x in zip(runs.group, runs.x, strict=True)})
    medians = []
    for g, x in arms:
        columns = np.flatnonzero((runs.group == g) & (runs.x == x))
        columns = columns[np.argsort(runs.high[columns], kind="stable")]
        medians.append(_weighted_median(np.exp(runs.high[columns]), every_BN[:, columns]))
    y_BA = np.stack(medians, axis=1)
    used_BA = np.isfinite(y_BA) & (y_BA > 0)
    y_BA = np.log(np.where(used_BA, y_BA, 1.0))
    x_A, group_A = np.asarray([x for _, x in arms]), np.asarray([g for g, _ in arms])
    sxx_B, sxy_B = np.zeros(y_BA.shape[0]), np.zeros(y_BA.shape[0])
    for g in range(len(runs.groups)):
        own = group_A == g
        count_B1 = np.maximum(used_BA[:, own].sum(axis=1, keepdims=True), 1)
        used_BG = used_BA[:, own].astype(np.float64)
        dx = (x_A[own] - (used_BG @ x_A[own])[:, None] / count_B1) * used_BG
        sxx_B += np.sum(dx * dx, axis=1)
        sxy_B += np.sum(dx * y_BA[:, own], axis=1)
    found_B = sxx_B > 0
    if not found_B[0]:
        return None
    slopes = sxy_B[found_B] / sxx_B[found_B]
    alpha = float(slopes[0])
    interval = student_interval(alpha, slopes[1:], runs.clusters, confidence)
    used = used_BA[0]
    residual = y_BA[0] - alpha * x_A
    total = float(np.sum((y_BA[0, used] - y_BA[0, used].mean()) ** 2))
    left = sum(
        float(np.sum((residual[own] - residual[own].mean()) ** 2))
        for own in (used & (group_A == g) for g in range(len(runs.groups)))
        if own.any()
    )
    r_squared = None if total == 0 else max(0.0, 1 - left / total)
    return MediansFit(alpha, *(interval or (None, None)), r_squared, len(arms), int(used.sum()))


def _weighted_median(sorted_N: Array, weights_BN: Array) -> Array:
    """Medians of B multisets of sorted values, NaN for an empty one, infinite where they are censored."""
    sums_BN = np.cumsum(weights_BN, axis=1)
    total_B1 = sums_BN[:, -1:]
    first = np.minimum(np.sum(sums_BN <= (total_B1 - 1) // 2, axis=1), sorted_N.size - 1)
    second = np.minimum(np.sum(sums_BN <= total_B1 // 2, axis=1), sorted_N.size - 1)
    middle_B = (sorted_N[first] + sorted_N[second]) / 2
    return np.where(total_B1[:, 0] > 0, middle_B, np.nan)
