"""How a quantity approaches its limit: as a power of time or exponentially.

A Kurdyka-Lojasiewicz inequality |dE| >= c (E - E*)^theta, sharp along the tail, makes the gap Delta = E - E*
of a gradient flow fall as (t - t0)^-beta with theta = (1 + 1/beta) / 2 in (1/2, 1), that is beta > 1; theta =
1/2 makes it fall exponentially (arXiv 2606.05863). Over one or two decades of time the two look alike, so
they are told apart by what they predict beyond the data they were fitted to, and *cannot tell* is a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from grokscope.measures.lines import LineFit, fit_line

__all__ = ["TailFit", "TailModel", "TailState", "tail_fit", "theta_from_gradient"]

TailState = Literal["power", "exponential", "cannot tell"]
Array = NDArray[np.float64]

BETA_MAX = 10.0
AT_BOUND = 0.98 * BETA_MAX
ORIGINS = (0.5, 0.6, 0.7, 0.8, 0.9)
FEWEST_POINTS = 16
STARTS = 3


@dataclass(frozen=True)
class TailModel:
    """One fitted tail: E* + amplitude g(t), with g = 1 at the first time.

    For the power, g = ((t - t0) / (t_first - t0))^-beta; for the exponential, g = exp(-(t - t_first) / tau).
    The parameters of the other kind are ``None``. ``low`` and ``high`` are the ends of the t interval of beta
    or tau from the curvature at the optimum (residuals taken as independent; absent where beta is at its
    bound); ``by_origin`` holds beta or tau as fitted up to each rolling origin, which shows how settled it
    is. ``errors`` are root mean squares of the prediction in logarithms, one an origin, ``prediction_error``
    their geometric mean, which no single origin dominates.
    """

    limit: float
    amplitude: float
    beta: float | None
    t0: float | None
    tau: float | None
    low: float | None
    high: float | None
    aic: float
    by_origin: tuple[float, ...]
    errors: tuple[float, ...]
    prediction_error: float


@dataclass(frozen=True)
class TailFit:
    """Both tails and which of them predicts better.

    ``theta`` = (1 + 1/beta) / 2 with the ends that follow from the interval of beta, absent where beta is at
    its bound; ``theta_in_theory`` tells whether beta > 1. ``aic_agrees`` tells whether AIC prefers the same
    one as ``state`` (``None`` for *cannot tell*). ``excluded`` counts the points that were not above a given
    limit and so have no logarithm.
    """

    state: TailState
    reason: str | None
    power: TailModel
    exponential: TailModel
    theta: float | None
    theta_low: float | None
    theta_high: float | None
    theta_in_theory: bool
    aic_agrees: bool | None
    limit_given: bool
    origins: tuple[float, ...]
    excluded: int


def tail_fit(
    t: ArrayLike,
    values: ArrayLike,
    limit: float | None = None,
    t0: float | None = None,
    advantage: float = 0.8,
    wins: int = 4,
) -> TailFit:
    """Compare E* + A (t - t0)^-beta with E* + A exp(-t / tau) by rolling-origin prediction error.

    Residuals are differences of logarithms: of E where the limit is fitted jointly, of Delta = E - limit
    where it is given. A given limit should come from a longer run: the last value of the same series lies
    above the limit, makes the late gaps too small and bends a power of -2 into something much steeper. Each
    model is fitted to the first 50, 60, 70, 80 and 90 % of the points and predicts all that follow. It is
    preferred where its ``prediction_error`` is at most ``advantage`` times that of the other and it wins at
    ``wins`` of the five origins at least; a power with beta at its bound of 10 is not told from an
    exponential by winning.

    Args:
        t: (N,) times, strictly increasing, at least 16.
        values: (N,) positive values, such as a loss, an energy or a structural gap.
        limit: E*, where it is known; otherwise it is fitted in [0, 1.5 min(values)].
        t0: the origin of the power law, below the first time; fitted by default.

    Raises:
        ValueError: malformed or too few points, a limit that leaves too few points above it, or t0 >= t[0].
    """
    t_N, values_N = np.asarray(t, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if (
        t_N.ndim != 1
        or t_N.shape != values_N.shape
        or not (np.isfinite(t_N).all() and np.all(np.diff(t_N) > 0))
    ):
        raise ValueError(
            f"tail_fit: got t of shape {t_N.shape} and values of shape {values_N.shape}, "
            "expected equal one-dimensional shapes and finite times, strictly increasing"
        )
    if not np.all(np.isfinite(values_N) & (values_N > 0)):
        raise ValueError(
            "tail_fit: got values that are not all positive and finite, expected an energy or a gap"
        )
    gaps_N = values_N if limit is None else values_N - limit
    above_N = gaps_N > 0
    t_N, gaps_N = t_N[above_N], gaps_N[above_N]
    if t_N.size < FEWEST_POINTS or (t0 is not None and t0 >= t_N[0]):
        raise ValueError(
            f"tail_fit: got {t_N.size} usable points and t0={t0}, "
            f"expected {FEWEST_POINTS} points at least and t0 before the first"
        )
    joint = limit is None
    cuts = [round(share * t_N.size) for share in ORIGINS]
    offset = 0.0 if limit is None else limit
    power = _fit_with_origins(_Power(t_N, t0), t_N, gaps_N, joint, offset, cuts)
    exponential = _fit_with_origins(_Exponential(t_N), t_N, gaps_N, joint, offset, cuts)
    state, reason = _decide(power, exponential, advantage, wins)
    agrees = None if state == "cannot tell" else (power.aic < exponential.aic) == (state == "power")
    beta = power.beta if power.beta is not None and power.beta < AT_BOUND else None
    theta_low, theta_high = (
        None if end is None or end <= 0 else (1 + 1 / end) / 2 for end in (power.high, power.low)
    )
    return TailFit(
        state,
        reason,
        power,
        exponential,
        None if beta is None else (1 + 1 / beta) / 2,
        theta_low,
        theta_high,
        beta is not None and beta > 1,
        agrees,
        limit is not None,
        tuple(float(t_N[cut - 1]) for cut in cuts),
        int(values_N.size - t_N.size),
    )


def theta_from_gradient(gap: ArrayLike, gradient_norm: ArrayLike, confidence: float = 0.95) -> LineFit:
    """The exponent theta of |dE| ~ (E - E*)^theta, the slope of log |dE| on log (E - E*): no time needed.

    Args:
        gap: (N,) E - E*, positive.
        gradient_norm: (N,) norm of the gradient of E at the same saves, positive.

    Raises:
        ValueError: values that are not positive, shapes that differ, or fewer than two different gaps.
    """
    gap_N, norm_N = np.asarray(gap, dtype=np.float64), np.asarray(gradient_norm, dtype=np.float64)
    if not (np.all(gap_N > 0) and np.all(norm_N > 0)):
        raise ValueError("theta_from_gradient: got gaps or norms that are not positive, expected both > 0")
    return fit_line(np.log(gap_N), np.log(norm_N), confidence)


class _Power:
    """g = (1 + s / c)^-beta, s = t - t_first and c = t_first - t0; parameters (beta, log c) or (beta,)."""

    def __init__(self, t_N: Array, t0: float | None) -> None:
        span = float(t_N[-1] - t_N[0])
        self.first, self.fixed = float(t_N[0]), None if t0 is None else float(t_N[0]) - t0
        self.low, self.high = [1e-3], [BETA_MAX]
        shares = [None]
        if self.fixed is None:
            self.low.append(float(np.log(1e-3 * (t_N[1] - t_N[0]))))
            self.high.append(float(np.log(10 * span)))
            shares = [1e-4, 1e-3, 1e-2, 0.1, 1.0]
        self.starts = [
            [beta]
            if share is None
            else [beta, float(np.clip(np.log(share * span), self.low[1], self.high[1]))]
            for beta in (0.5, 1.0, 2.0, 5.0)
            for share in shares
        ]

    def __call__(self, shape: Array, t_N: Array) -> tuple[Array, Array]:
        c = self.fixed if self.fixed is not None else float(np.exp(shape[1]))
        ratio_N = (t_N - self.first) / c
        log_N = np.log1p(ratio_N)
        columns = [-log_N] if self.fixed is not None else [-log_N, shape[0] * ratio_N / (1 + ratio_N)]
        return -shape[0] * log_N, np.stack(columns)

    def named(self, shape: Array) -> dict[str, float | None]:
        c = self.fixed if self.fixed is not None else float(np.exp(shape[1]))
        return {"beta": float(shape[0]), "t0": self.first - c, "tau": None}

    def main(self, value: float) -> float:
        return value


class _Exponential:
    """g = exp(-(t - t_first) / tau); parameter (log tau,)."""

    def __init__(self, t_N: Array) -> None:
        span = float(t_N[-1] - t_N[0])
        self.first = float(t_N[0])
        self.low, self.high = [float(np.log(1e-3 * (t_N[1] - t_N[0])))], [float(np.log(1e3 * span))]
        self.starts = [[float(np.log(share * span))] for share in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]

    def __call__(self, shape: Array, t_N: Array) -> tuple[Array, Array]:
        ratio_N = (t_N - self.first) / np.exp(shape[0])
        return -ratio_N, ratio_N[None]

    def named(self, shape: Array) -> dict[str, float | None]:
        return {"beta": None, "t0": None, "tau": float(np.exp(shape[0]))}

    def main(self, value: float) -> float:
        return float(np.exp(np.clip(value, -700, 700)))


def _fit_with_origins(
    curve: _Power | _Exponential, t_N: Array, gaps_N: Array, joint: bool, offset: float, cuts: list[int]
) -> TailModel:
    parameters, residual_N, jacobian = _fit(curve, t_N, gaps_N, joint)
    by_origin, squares = [], []
    for cut in cuts:
        seen, _, _ = _fit(curve, t_N[:cut], gaps_N[:cut], joint)
        by_origin.append(curve.main(float(seen[2])))
        ahead, _ = _predict(curve, seen, t_N[cut:])
        squares.append(float(np.mean((ahead - np.log(gaps_N[cut:])) ** 2)))
    free = parameters.size if joint else parameters.size - 1
    rss = max(float(residual_N @ residual_N), np.finfo(np.float64).tiny)
    low = high = None
    scale = np.linalg.norm(jacobian, axis=0)
    if np.all(scale > 0) and np.linalg.cond(jacobian / scale) < 1e8:
        column = free - (parameters.size - 2)
        covariance = np.linalg.inv((jacobian / scale).T @ (jacobian / scale))
        deviation = float(np.sqrt(covariance[column, column] * rss / (t_N.size - free)) / scale[column])
        half = float(stdtrit(t_N.size - free, 0.975)) * deviation
        low, high = curve.main(float(parameters[2]) - half), curve.main(float(parameters[2]) + half)
    named = curve.named(parameters[2:])
    if named["beta"] is not None and named["beta"] >= AT_BOUND:
        low = high = None
    return TailModel(
        limit=offset + float(parameters[1]),
        amplitude=float(np.exp(parameters[0])),
        beta=named["beta"],
        t0=named["t0"],
        tau=named["tau"],
        low=low,
        high=high,
        aic=t_N.size * float(np.log(rss / t_N.size)) + 2 * (free + 1),
        by_origin=tuple(by_origin),
        errors=tuple(float(np.sqrt(square)) for square in squares),
        prediction_error=float(np.exp(np.mean(np.log(np.maximum(squares, 1e-300))) / 2)),
    )


def _predict(
    curve: Callable[[Array, Array], tuple[Array, Array]], parameters: Array, t_N: Array
) -> tuple[Array, Array]:
    """log(limit + amplitude g) at (log amplitude, limit, shape...), and its derivatives (N x parameters)."""
    log_g_N, columns_PN = curve(parameters[2:], t_N)
    log_gap_N = parameters[0] + log_g_N
    with np.errstate(divide="ignore"):
        log_limit = np.log(max(parameters[1], 0.0))
    log_value_N = np.logaddexp(log_gap_N, log_limit)
    share_N = np.exp(log_gap_N - log_value_N)
    # A limit of zero under a gap that has underflowed would divide nothing by nothing.
    by_limit_N = np.exp(np.clip(-log_value_N, -50, 50))
    return log_value_N, np.stack([share_N, by_limit_N, *(share_N * columns_PN)], axis=1)


def _fit(curve: _Power | _Exponential, t_N: Array, gaps_N: Array, joint: bool) -> tuple[Array, Array, Array]:
    """Least squares in logarithms from many starts: parameters, residuals, Jacobian of the free ones."""
    # In units of the smallest value the limit is of order one, whatever the quantity is.
    unit = float(gaps_N.min())
    target_N = np.log(gaps_N / unit)
    free = [0, *([1] if joint else []), *range(2, 2 + len(curve.low))]
    highest = float(target_N.max())
    low = np.array([-30.0, 0.0, *curve.low])
    high = np.array([highest + 30.0, 1.5, *curve.high])

    def expand(x: Array) -> Array:
        parameters = np.zeros(low.size)
        parameters[free] = x
        return parameters

    def residual(x: Array) -> Array:
        return _predict(curve, expand(x), t_N)[0] - target_N

    def jacobian(x: Array) -> Array:
        return _predict(curve, expand(x), t_N)[1][:, free]

    starts = [
        np.array([np.log(max(np.exp(target_N[0]) - limit, 1e-3)), limit, *shape])[free]
        for shape in curve.starts
        for limit in ((0.01, 0.5, 0.95) if joint else (0.0,))
    ]
    starts = [np.clip(start, low[free] + 1e-9, high[free] - 1e-9) for start in starts]
    starts.sort(key=lambda start: float(np.sum(residual(start) ** 2)))
    from scipy.optimize import least_squares  # half a second to import, and most commands fit nothing

    best: tuple[float, Array] | None = None
    for start in starts[:STARTS]:
        found = least_squares(
            residual,
            start,
            jac=cast(Any, jacobian),
            bounds=(low[free], high[free]),
            x_scale="jac",
            ftol=1e-10,
            max_nfev=100,
        )
        if best is None or found.cost < best[0]:
            best = (float(found.cost), found.x)
    assert best is not None
    x = best[1]
    final_N, derivative = residual(x), jacobian(x)
    parameters = expand(x)
    parameters[0] += np.log(unit)
    parameters[1] *= unit
    return parameters, final_N, derivative


def _decide(
    power: TailModel, exponential: TailModel, advantage: float, wins: int
) -> tuple[TailState, str | None]:
    pairs = list(zip(power.errors, exponential.errors, strict=True))
    won = sum(one < other for one, other in pairs)
    if won >= wins and power.prediction_error <= advantage * exponential.prediction_error:
        if power.beta is not None and power.beta >= AT_BOUND:
            return "cannot tell", f"the power predicts better, but with beta at its bound {BETA_MAX:g}"
        return "power", None
    if len(pairs) - won >= wins and exponential.prediction_error <= advantage * power.prediction_error:
        return "exponential", None
    return "cannot tell", (
        f"prediction errors {power.prediction_error:.3g} (power) and {exponential.prediction_error:.3g} "
        f"(exponential); the power is ahead at {won} of {len(pairs)} origins"
    )
