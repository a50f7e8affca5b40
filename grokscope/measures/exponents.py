"""Exponents: is one shared by all groups or does each have its own, and the exponent of a power law."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, stdtrit

from grokscope.measures.interval_likelihood import Runs, arrange, maximise
from grokscope.measures.lines import fit_line
from grokscope.measures.resampling import cluster_weights, expanded_percentile, student_interval

__all__ = ["Exponent", "PowerLawFit", "SharedExponent", "SharedVerdict", "power_law_fit", "shared_exponent"]

SharedVerdict = Literal["shared", "separate", "cannot tell"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Exponent:
    """An exponent and its interval from resampling clusters, ``None`` with fewer than three."""

    alpha: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SharedExponent:
    """One alpha for all groups against one for each, by likelihood and by resampling.

    ``statistic`` is twice the gain in log likelihood of separate exponents, ``p_value`` its tail of a
    chi-squared with ``freedom`` degrees, runs taken as independent. ``delta_aic`` and ``delta_bic`` are shared
    less separate, so they are negative where the shared one is better; BIC counts runs. ``spread`` is the
    largest less the smallest of the separate exponents, ``spread_low`` and ``spread_high`` its interval over
    resampled clusters (which leans high, since noise alone spreads exponents) and ``spread_p_value`` the share
    of resamples in which the exponents, each less its own estimate, spread as far: what clusters and unequal
    scales make of equal exponents. ``excluded`` names groups without bounded runs at two different x.
    """

    verdict: SharedVerdict
    reason: str
    shared: Exponent
    separate: dict[Hashable, Exponent]
    statistic: float
    freedom: int
    p_value: float
    delta_aic: float
    delta_bic: float
    spread: float
    spread_low: float | None
    spread_high: float | None
    spread_p_value: float | None
    excluded: tuple[Hashable, ...]
    n: int
    censored: int
    clusters: int
    resamples: int


@dataclass(frozen=True)
class PowerLawFit:
    """y = prefactor x^exponent by least squares in logarithms.

    ``low`` and ``high`` are the ends of the interval of the exponent, ``None`` for two points without errors.
    ``r_squared`` is of log y (weighted where errors are given), ``None`` where y is constant.
    ``reduced_chi_squared`` tells, where errors are given and points remain, whether they explain the scatter.
    """

    exponent: float
    prefactor: float
    low: float | None
    high: float | None
    r_squared: float | None
    reduced_chi_squared: float | None
    n: int


def shared_exponent(
    x: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    groups: Sequence[Hashable],
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.05,
    margin: float = 0.2,
    resamples: int = 1000,
    seed: int = 0,
) -> SharedExponent:
    """Compare log T = alpha x + c_g with log T = alpha_g x + c_g, one scale for all, on intervals of T.

    *Separate* where the likelihood ratio and the resampled spread both reject one alpha at ``level`` and AIC
    prefers separate ones by 2 at least. *Shared* where neither rejects it, BIC prefers one alpha by 2 at least
    and the high end of the spread is below ``margin`` times it, so that a difference worth naming would have
    been seen. *Cannot tell* otherwise, and with fewer than three clusters.

    Args:
        x, low, high, clusters: as in `censored.log_linear_fit`; (N,).
        groups: N labels, two different ones at least.
        level: of both tests, and 1 - confidence of the intervals.
        margin: the largest relative spread that still counts as one exponent.
        resamples, seed: of the bootstrap over clusters.

    Raises:
        ValueError: malformed input, or fewer than two groups with bounded runs at two different x.
    """
    runs = arrange("shared_exponent", x, low, high, groups, clusters)
    if not (0 < level < 1 and margin > 0 and resamples >= 0):
        raise ValueError(
            f"shared_exponent: got level={level}, margin={margin} and resamples={resamples}, "
            "expected a level between 0 and 1, a margin above 0 and no negative number"
        )
    usable_G = runs.slopes_known(np.ones((1, runs.x.size)))[0]
    kept = np.flatnonzero(usable_G)
    if kept.size < 2:
        raise ValueError(
            f"shared_exponent: got {kept.size} of {usable_G.size} groups with bounded runs at two different x, "
            "expected two at least"
        )
    rows_N = usable_G[runs.group]
    dummies = runs.dummies[np.ix_(rows_N, kept)]
    x_N, low_N, high_N = runs.x[rows_N], runs.low[rows_N], runs.high[rows_N]
    one, own = np.column_stack([x_N, dummies]), np.column_stack([x_N[:, None] * dummies, dummies])
    shared, separate = maximise(one, low_N, high_N), maximise(own, low_N, high_N)
    alpha, alpha_G = float(shared.coefficients[0, 0]), separate.coefficients[0, : kept.size]
    statistic = max(0.0, 2 * float(separate.log_likelihood[0] - shared.log_likelihood[0]))
    freedom, n = int(kept.size) - 1, int(rows_N.sum())
    resampled_BG, resampled_B = _resample(runs, rows_N, kept, one, own, resamples, seed)
    spread_B, spread = np.ptp(resampled_BG, axis=1), float(np.ptp(alpha_G))
    ends = expanded_percentile(spread_B, runs.clusters, 1 - level)
    spread_p = None
    if ends is not None:
        # Resampling k clusters shows (k - 1) / k of the variance.
        widen = float(np.sqrt(runs.clusters / (runs.clusters - 1)))
        as_far = widen * np.ptp(resampled_BG - alpha_G, axis=1) >= spread
        spread_p = (1 + int(as_far.sum())) / (1 + as_far.size)
    numbers = {
        "p_value": float(chdtrc(freedom, statistic)),
        "delta_aic": statistic - 2 * freedom,
        "delta_bic": statistic - float(np.log(n)) * freedom,
        "spread": spread,
        "spread_low": None if ends is None else ends[0],
        "spread_high": None if ends is None else ends[1],
        "spread_p_value": spread_p,
    }
    verdict, reason = _judge(abs(alpha), level, margin, **numbers)
    exponents = {
        runs.groups[g]: _with_interval(float(alpha_G[i]), resampled_BG[:, i], runs.clusters, 1 - level)
        for i, g in enumerate(kept)
    }
    return SharedExponent(
        verdict,
        reason,
        _with_interval(alpha, resampled_B, runs.clusters, 1 - level),
        exponents,
        statistic,
        freedom,
        **numbers,
        excluded=tuple(runs.groups[g] for g in np.flatnonzero(~usable_G)),
        n=n,
        censored=int(np.isposinf(high_N).sum()),
        clusters=runs.clusters,
        resamples=resampled_B.size,
    )


def power_law_fit(
    x: ArrayLike, y: ArrayLike, y_error: ArrayLike | None = None, confidence: float = 0.95
) -> PowerLawFit:
    """Fit log y = exponent log x + log prefactor.

    Without errors every point counts equally and the scatter gives the interval, by Student's t. With standard
    errors of y the weights are (y / error)^2 and the variance is the one that they give or the one that the
    scatter gives, whichever is larger, so that points off the law widen the interval and points that happen to
    lie on it do not narrow it.

    Raises:
        ValueError: shapes that differ, values or errors that are not positive and finite, or fewer than two
            different x.
    """
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    error_N = None if y_error is None else np.asarray(y_error, dtype=np.float64)
    given = [x_N, y_N] if error_N is None else [x_N, y_N, error_N]
    if any(values.shape != x_N.shape or values.ndim != 1 for values in given) or not all(
        np.all(np.isfinite(values) & (values > 0)) for values in given
    ):
        raise ValueError(
            f"power_law_fit: got {[values.tolist() for values in given]}, "
            "expected equally many positive finite x, y and errors"
        )
    log_x_N, log_y_N = np.log(x_N), np.log(y_N)
    line = fit_line(log_x_N, log_y_N, confidence)
    if error_N is None:
        return PowerLawFit(
            line.slope, float(np.exp(line.intercept)), line.low, line.high, line.r_squared, None, line.n
        )
    weight_N = (y_N / error_N) ** 2
    dx = log_x_N - np.average(log_x_N, weights=weight_N)
    mean = float(np.average(log_y_N, weights=weight_N))
    sxx = float(np.sum(weight_N * dx * dx))
    slope = float(np.sum(weight_N * dx * log_y_N)) / sxx
    chi_squared = float(np.sum(weight_N * (log_y_N - mean - slope * dx) ** 2))
    freedom = x_N.size - 2
    reduced = chi_squared / freedom if freedom else None
    half = float(stdtrit(np.inf, (1 + confidence) / 2) / np.sqrt(sxx))
    if reduced is not None:
        half = max(half, float(stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(reduced / sxx)))
    total = float(np.sum(weight_N * (log_y_N - mean) ** 2))
    prefactor = float(np.exp(mean - slope * np.average(log_x_N, weights=weight_N)))
    r_squared = None if np.ptp(y_N) == 0 else max(0.0, 1 - chi_squared / total)
    return PowerLawFit(slope, prefactor, slope - half, slope + half, r_squared, reduced, x_N.size)


def _resample(
    runs: Runs,
    rows_N: NDArray[np.bool_],
    kept: NDArray[np.int64],
    one: Array,
    own: Array,
    count: int,
    seed: int,
) -> tuple[Array, Array]:
    """The separate exponents (B, G) and the shared one (B,) of resampled clusters that identify them all."""
    weights_BN = cluster_weights(runs.cluster, count, seed)
    weights_BN = weights_BN[runs.slopes_known(weights_BN)[:, kept].all(axis=1)][:, rows_N]
    if not weights_BN.size:
        return np.empty((0, kept.size)), np.empty(0)
    low_N, high_N = runs.low[rows_N], runs.high[rows_N]
    separate = maximise(own, low_N, high_N, weights_BN).coefficients[:, : kept.size]
    return separate, maximise(one, low_N, high_N, weights_BN).coefficients[:, 0]


def _with_interval(alpha: float, resampled_B: Array, clusters: int, confidence: float) -> Exponent:
    return Exponent(alpha, *(student_interval(alpha, resampled_B, clusters, confidence) or (None, None)))


def _judge(
    alpha: float,
    level: float,
    margin: float,
    p_value: float,
    delta_aic: float,
    delta_bic: float,
    spread: float,
    spread_low: float | None,
    spread_high: float | None,
    spread_p_value: float | None,
) -> tuple[SharedVerdict, str]:
    if spread_high is None or spread_p_value is None:
        return "cannot tell", "fewer than three clusters of runs, which show no spread over seeds"
    tests = f"p = {p_value:.2g} by likelihood and {spread_p_value:.2g} by resampling"
    if p_value < level and spread_p_value < level and delta_aic >= 2:
        return "separate", f"one exponent is rejected ({tests}); AIC prefers separate ones by {delta_aic:.1f}"
    if p_value < level or spread_p_value < level:
        return "cannot tell", f"not both tests reject one exponent at {level:g} ({tests})"
    if spread_high >= margin * alpha:
        return "cannot tell", (
            f"one exponent is not rejected ({tests}), but they may spread by {spread_high:.2g}, "
            f"more than {margin:.0%} of {alpha:.3g}"
        )
    if delta_bic > -2:
        return (
            "cannot tell",
            f"one exponent is not rejected ({tests}), but BIC prefers it by {-delta_bic:.1f}",
        )
    return "shared", (
        f"one exponent is not rejected ({tests}), BIC prefers it by {-delta_bic:.1f}, "
        f"and they spread by {spread_high:.2g} at most"
    )
