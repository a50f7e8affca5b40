"""Linear models with normal errors of one scale, for values known only as intervals: maximum likelihood.

A run is known at its evaluations, so its value y lies in an interval [low, high]: a point where the ends are
equal, right-censored where high is infinite, left-censored where low is minus infinity. With X the design, b
the coefficients and s the scale, such a run contributes log(Phi((high - Xb)/s) - Phi((low - Xb)/s)). In the
parameters b/s and 1/s that is concave (Olsen, Econometrica 1978), so Newton's method with step halving finds
the one maximum from any start, and many reweighted fits (a bootstrap) are taken together.

Shapes: N runs, K columns of the design, B fits at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

__all__ = ["Maximum", "Runs", "arrange", "log_bounds", "maximise"]

Array = NDArray[np.float64]

# An interval this much narrower than the scale is a point; differences of Phi would only add rounding.
_NARROW = 1e-4
# The scale of a perfect fit to points, where the likelihood has no maximum, in units of the spread of y.
_FLOOR = 1e-9
_LOG_TWO_PI = float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class Maximum:
    """B maxima: ``coefficients`` (B, K), ``scale`` (B,), ``log_likelihood`` (B,)."""

    coefficients: Array
    scale: Array
    log_likelihood: Array


def log_bounds(what: str, low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    """Logarithms of the ends of N times, which lie in (low, high] or are exact where the ends are equal.

    Raises:
        ValueError: shapes that differ, no run, NaN, a negative low, a low above its high or an infinite low.
    """
    low_N, high_N = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if low_N.ndim != 1 or low_N.shape != high_N.shape or low_N.size == 0:
        raise ValueError(
            f"{what}: got low of shape {low_N.shape} and high of shape {high_N.shape}, "
            "expected equal one-dimensional shapes and a run at least"
        )
    good_N = (low_N >= 0) & (low_N <= high_N) & (high_N > 0) & (low_N < np.inf)
    if not good_N.all():
        first = int(np.flatnonzero(~good_N)[0])
        raise ValueError(
            f"{what}: got the interval [{low_N[first]}, {high_N[first]}] for run {first}, "
            "expected 0 <= low <= high and high > 0, with an infinite high for a run that has not got there"
        )
    with np.errstate(divide="ignore"):
        return np.log(low_N), np.log(high_N)


def maximise(design: ArrayLike, low: ArrayLike, high: ArrayLike, weights: ArrayLike | None = None) -> Maximum:
    """Fit y = X b + s e, e standard normal, to intervals of y; B fits at once.

    The design has to identify b (a constant is one of its columns, if one is wanted). Where all runs lie on
    one line exactly the scale is a floor of 1e-9 times the spread of y.

    Args:
        design: (N, K).
        low, high: (N,) or (B, N) ends of the intervals, finite or infinite.
        weights: (B, N) multiplicities, such as the counts of a bootstrap; one fit of weight one by default.
    """
    X_NK = np.asarray(design, dtype=np.float64)
    low_BN, high_BN = (np.atleast_2d(np.asarray(end, dtype=np.float64)) for end in (low, high))
    weights_BN = np.ones_like(low_BN) if weights is None else np.asarray(weights, dtype=np.float64)
    batch = max(weights_BN.shape[0], low_BN.shape[0])
    weights_BN = np.broadcast_to(weights_BN, (batch, X_NK.shape[0]))
    open_low_N, open_high_N = np.isneginf(low_BN[0]), np.isposinf(high_BN[0])
    shown_N = ~(open_low_N & open_high_N)
    X_NK, weights_BN = X_NK[shown_N], weights_BN[:, shown_N]
    low_BN, high_BN = low_BN[:, shown_N], high_BN[:, shown_N]
    open_low_N, open_high_N = open_low_N[shown_N], open_high_N[shown_N]

    # Starting values: least squares on midpoints and on the finite ends of the others.
    left_BN = np.where(open_low_N, high_BN, low_BN)
    right_BN = np.where(open_high_N, low_BN, high_BN)
    middle_BN = (left_BN + right_BN) / 2
    start_BK = np.asarray(np.linalg.lstsq(X_NK, middle_BN.T, rcond=None)[0].T, dtype=np.float64)
    spread = max(float(np.ptp(middle_BN)), 1e-3 * float(np.abs(middle_BN).max()), 1e-12)
    unit = max(float(np.sqrt(np.mean((middle_BN - start_BK @ X_NK.T) ** 2))), _FLOOR * spread)
    width_N = (right_BN - left_BN)[0] / unit
    point_N = ~(open_low_N | open_high_N) & (width_N < _NARROW)
    between_N = ~(open_low_N | open_high_N | point_N)
    constant_N = np.log(np.where(width_N > 0, width_N, 1 / unit))
    data = _Intervals(
        X_NK,
        left_BN / unit,
        right_BN / unit,
        tuple(np.flatnonzero(kind) for kind in (point_N, between_N, open_high_N, open_low_N)),
        constant_N,
    )
    theta_BP = np.append(start_BK / unit, np.ones((start_BK.shape[0], 1)), axis=1)
    theta_BP = np.asarray(np.repeat(theta_BP, batch // theta_BP.shape[0], axis=0), dtype=np.float64)
    value_B = _newton(data, theta_BP, weights_BN, unit / (_FLOOR * spread))
    scale_B = unit / theta_BP[:, -1]
    return Maximum(theta_BP[:, :-1] * scale_B[:, None], np.asarray(scale_B, dtype=np.float64), value_B)


@dataclass(frozen=True, eq=False)
class Runs:
    """N runs in one canonical order, whatever order they came in.

    ``x`` (N,) less ``x_mean``; ``low`` and ``high`` (N,) are logarithms less ``shift``, infinite at an open
    end; ``group`` and ``cluster`` (N,) are places in ``groups`` and among the ``clusters``.
    """

    x: Array
    low: Array
    high: Array
    x_mean: float
    shift: float
    group: NDArray[np.int64]
    groups: tuple[Hashable, ...]
    cluster: NDArray[np.int64]
    clusters: int

    @property
    def bounded(self) -> NDArray[np.bool_]:
        """Runs that are known from both sides."""
        return np.isfinite(self.low) & np.isfinite(self.high)

    @property
    def dummies(self) -> Array:
        """(N, G): which group a run is of."""
        return (self.group[:, None] == np.arange(len(self.groups))).astype(np.float64)

    def slopes_known(self, weights_BN: Array) -> NDArray[np.bool_]:
        """(B, G): where a group has bounded runs of positive weight at two different x, which fix its slope."""
        known = np.zeros((weights_BN.shape[0], len(self.groups)), dtype=bool)
        for g in range(len(self.groups)):
            columns = np.flatnonzero(self.bounded & (self.group == g))
            here_BN = weights_BN[:, columns] > 0
            x_N = self.x[columns]
            low_B = np.min(np.where(here_BN, x_N, np.inf), axis=1, initial=np.inf)
            known[:, g] = low_B < np.max(np.where(here_BN, x_N, -np.inf), axis=1, initial=-np.inf)
        return known


def arrange(
    what: str,
    x: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Runs:
    """Check runs and put them into the order that the fits use; without clusters each run is its own.

    Raises:
        ValueError: as `log_bounds`, or lengths that differ, or an x that is not finite.
    """
    low_N, high_N = log_bounds(what, low, high)
    x_N = np.asarray(x, dtype=np.float64)
    n = low_N.size
    lengths = [x_N.size, *(len(labels) for labels in (groups, clusters) if labels is not None)]
    if x_N.ndim != 1 or any(length != n for length in lengths) or not np.isfinite(x_N).all():
        raise ValueError(
            f"{what}: got {n} intervals and x, groups and clusters of lengths {lengths}, "
            "expected equally many and finite x"
        )
    names, group_N = _ranks([None] * n if groups is None else groups)
    cluster_N = np.zeros(n, dtype=np.int64) if clusters is None else _ranks(clusters)[1]
    order = np.lexsort((x_N, high_N, low_N, cluster_N, group_N))
    cluster_N = np.arange(n) if clusters is None else cluster_N[order]
    low_N, high_N, x_N = low_N[order], high_N[order], x_N[order]
    ends_N = np.concatenate([low_N, high_N])
    finite_N = ends_N[np.isfinite(ends_N)]
    shift, x_mean = float(finite_N.mean()) if finite_N.size else 0.0, float(x_N.mean())
    return Runs(
        x_N - x_mean,
        low_N - shift,
        high_N - shift,
        x_mean,
        shift,
        group_N[order],
        tuple(names),
        cluster_N,
        int(cluster_N.max()) + 1,
    )


def _ranks(labels: Sequence[Hashable]) -> tuple[list[Hashable], NDArray[np.int64]]:
    # Numbers by value, everything else by what it prints, so that the order never depends on the input's.
    def key(label: Hashable) -> tuple[bool, float, str]:
        number = isinstance(label, (int, float, np.number))
        return not number, float(label) if number else 0.0, str(label)

    labels = [label.item() if isinstance(label, np.generic) else label for label in labels]
    different = sorted(set(labels), key=key)
    place = {label: i for i, label in enumerate(different)}
    return different, np.asarray([place[label] for label in labels], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Intervals:
    """The data of `maximise` in units of the starting scale; ``left`` and ``right`` are (1 or B, N)."""

    design: Array
    left: Array
    right: Array
    kinds: tuple[NDArray[np.int64], ...]
    constant: Array

    def rows(self, batch: NDArray[np.int64]) -> tuple[Array, Array]:
        if self.left.shape[0] == 1:
            return self.left, self.right
        return self.left[batch], self.right[batch]


def _newton(data: _Intervals, theta_BP: Array, weights_BN: Array, ceiling: float) -> Array:
    """Newton with step halving, in place; the log likelihoods at the end."""
    batch = np.arange(theta_BP.shape[0])
    value_B, gradient_BP, hessian_BPP = _evaluate(data, theta_BP, weights_BN, batch)
    active = batch
    for _ in range(100):
        # The least ridge that keeps a solution where a resample has no run of some group.
        negative = -hessian_BPP[active]
        diagonal = np.einsum("bpp->bp", negative)
        diagonal += 1e-10 * diagonal.max(axis=1, keepdims=True) + 1e-300
        step_AP = np.linalg.solve(negative, gradient_BP[active][:, :, None])[:, :, 0]
        # The inverse scale stays positive and below its ceiling, and a step stays where Newton is of use.
        gamma_A = theta_BP[active, -1]
        length_A = np.ones(active.size)
        shrinking = gamma_A + step_AP[:, -1] < gamma_A / 10
        length_A[shrinking] = -0.9 * gamma_A[shrinking] / step_AP[shrinking, -1]
        gain_A = np.sum(step_AP * gradient_BP[active], axis=1)
        pending = np.arange(active.size)
        moved = np.zeros(active.size, dtype=bool)
        for _ in range(30):
            rows = active[pending]
            trial = theta_BP[rows] + length_A[pending, None] * step_AP[pending]
            trial[:, -1] = np.minimum(trial[:, -1], ceiling)
            found, gradient, hessian = _evaluate(data, trial, weights_BN[rows], rows)
            better = found >= value_B[rows] - 1e-12 * (1 + np.abs(value_B[rows]))
            kept = rows[better]
            theta_BP[kept], value_B[kept] = trial[better], found[better]
            gradient_BP[kept], hessian_BPP[kept] = gradient[better], hessian[better]
            moved[pending[better]] = True
            pending = pending[~better]
            if not pending.size:
                break
            length_A[pending] /= 2
        active = active[moved & (gain_A > 1e-12 * (1 + np.abs(value_B[active]))) & (gamma_A < ceiling)]
        if not active.size:
            break
    return value_B


def _evaluate(
    data: _Intervals, theta_BP: Array, weights_BN: Array, batch: NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Log likelihood (B,), gradient (B, P) and Hessian (B, P, P) in (b / s, 1 / s), P = K + 1."""
    B, P = theta_BP.shape
    left_BN, right_BN = data.rows(batch)
    gamma_B1 = theta_BP[:, -1:]
    eta_BN = theta_BP[:, :-1] @ data.design.T
    value_B, gradient_BP, hessian_BPP = np.zeros(B), np.zeros((B, P)), np.zeros((B, P, P))
    for parts, columns in zip((_points, _between, _above, _below), data.kinds, strict=True):
        if not columns.size:
            continue
        eta, left, right = eta_BN[:, columns], left_BN[:, columns], right_BN[:, columns]
        terms = parts(gamma_B1 * left - eta, gamma_B1 * right - eta, left, right, gamma_B1)
        value, by_eta, by_gamma, eta_eta, eta_gamma, gamma_gamma = terms
        if parts is _points:
            value = value + data.constant[columns]
        weights, X = weights_BN[:, columns], data.design[columns]
        value_B += np.sum(weights * value, axis=1)
        gradient_BP[:, :-1] += (weights * by_eta) @ X
        gradient_BP[:, -1] += np.sum(weights * by_gamma, axis=1)
        products = (X[:, :, None] * X[:, None, :]).reshape(columns.size, -1)
        hessian_BPP[:, :-1, :-1] += ((weights * eta_eta) @ products).reshape(B, P - 1, P - 1)
        mixed = (weights * eta_gamma) @ X
        hessian_BPP[:, :-1, -1] += mixed
        hessian_BPP[:, -1, :-1] += mixed
        hessian_BPP[:, -1, -1] += np.sum(weights * gamma_gamma, axis=1)
    return value_B, gradient_BP, hessian_BPP


# Each of the following gives, elementwise, the log likelihood and its derivatives by eta = X b / s, by gamma =
# 1 / s, and the three second ones. a and b are the standardised ends, left and right the ends themselves.
def _points(a: Array, b: Array, left: Array, right: Array, gamma: Array) -> tuple[Array, ...]:
    z, y = (a + b) / 2, (left + right) / 2
    value = np.log(gamma) - z * z / 2 - _LOG_TWO_PI / 2
    y = np.broadcast_to(y, z.shape)
    return value, z, 1 / gamma - z * y, np.full_like(z, -1.0), y, -1 / gamma**2 - y * y


def _above(a: Array, b: Array, left: Array, right: Array, gamma: Array) -> tuple[Array, ...]:
    value = log_ndtr(-a)
    hazard = np.exp(-a * a / 2 - _LOG_TWO_PI / 2 - value)
    curve = hazard * (hazard - a)
    return value, hazard, -hazard * left, -curve, curve * left, -curve * left**2


def _below(a: Array, b: Array, left: Array, right: Array, gamma: Array) -> tuple[Array, ...]:
    value = log_ndtr(b)
    hazard = np.exp(-b * b / 2 - _LOG_TWO_PI / 2 - value)
    curve = hazard * (hazard + b)
    return value, -hazard, hazard * right, -curve, curve * right, -curve * right**2


def _between(a: Array, b: Array, left: Array, right: Array, gamma: Array) -> tuple[Array, ...]:
    # In the lower tail, where differences of Phi keep their digits.
    upper = a + b > 0
    near, far = np.where(upper, -a, b), np.where(upper, -b, a)
    log_near = log_ndtr(near)
    value = log_near + np.log(-np.expm1(log_ndtr(far) - log_near))
    u = np.exp(-b * b / 2 - _LOG_TWO_PI / 2 - value)
    v = np.exp(-a * a / 2 - _LOG_TWO_PI / 2 - value)
    bb, aa, ab = -u * (b + u), v * (a - v), u * v
    return (
        value,
        v - u,
        u * right - v * left,
        bb + aa + 2 * ab,
        -right * (bb + ab) - left * (aa + ab),
        right**2 * bb + 2 * left * right * ab + left**2 * aa,
    )
