"""Whether curves of several strengths of decay are one curve of λt, as norm minimisation predicts (arXiv 2505.20172).

Shapes: S seeds, T saves, P components of a curve, L strengths of decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grokscope.measures.resampling import cluster_weights, expanded_percentile

__all__ = ["Collapse", "collapse", "spread_of_curves"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Collapse:
    """How far curves of several λ are one curve of λt.

    Attributes:
        scaled: mean over seeds of `spread_of_curves` in λt: 0 where they are one curve, near 1 for unrelated ones.
        interval: at 95 % over seeds; ``None`` for fewer than three.
        plain: the same in t itself, over the times that all curves share; ``None`` where they share none.
        low, high: the range of λt.
    """

    scaled: float
    interval: tuple[float, float] | None
    plain: float | None
    low: float
    high: float


def collapse(
    times: Sequence[ArrayLike],
    curves: Sequence[ArrayLike],
    decays: ArrayLike,
    low: float,
    high: float,
    *,
    points: int = 64,
    resamples: int = 2000,
    seed: int = 0,
) -> Collapse:
    """Curves of L strengths of decay against λt from ``low`` to ``high``.

    Args:
        times: for each λ (T,) times Σ η, strictly increasing.
        curves: for each λ (S, T) or (S, T, P), the same S seeds in the same order.
        decays: (L,) different λ above 0, at least two.

    Raises:
        ValueError: shapes that do not fit, or saves that do not span the range.
    """
    lam = np.asarray(decays, dtype=np.float64)
    if lam.ndim != 1 or lam.size < 2 or not np.all(lam > 0) or np.unique(lam).size < lam.size:
        raise ValueError(f"collapse: got decays {lam.tolist()}, expected at least two, different and above 0")
    if len(times) != lam.size:
        raise ValueError(
            f"collapse: got {len(times)} series of times for {lam.size} decays, expected one each"
        )
    own = [np.asarray(t, dtype=np.float64) for t in times]
    each = spread_of_curves([t * value for t, value in zip(own, lam, strict=True)], curves, low, high, points)
    interval = None
    if each.size >= 3:
        drawn = cluster_weights(np.arange(each.size), resamples, seed)
        interval = expanded_percentile(drawn @ each / drawn.sum(axis=1), each.size)
    # in t itself: from where the largest λ is at ``low`` to the last time that all curves have
    first = max(low / float(lam.max()), *(float(t[t > 0].min(initial=math.inf)) for t in own))
    last = min(float(t.max(initial=0)) for t in own)
    plain = float(spread_of_curves(own, curves, first, last, points).mean()) if first < last else None
    return Collapse(float(each.mean()), interval, plain, low, high)


def spread_of_curves(
    times: Sequence[ArrayLike], curves: Sequence[ArrayLike], low: float, high: float, points: int = 64
) -> Array:
    """How far several curves are one: root of the mean squared distance of two, over that of two unrelated ones.

    With f_i(τ) curve i on ``points`` times that are even in log τ, mean_{i<j, τ} |f_i(τ) − f_j(τ)|² over twice the
    mean of |f_i(τ) − f̄|² over all curves and times: 0 for equal curves, 1 where knowing the time tells nothing.

    Args:
        times: L times (T,), strictly increasing; between two the curve is straight in log τ.
        curves: L of (S, T) or (S, T, P).
        low, high: range of times, above 0, spanned by every curve.

    Returns:
        (S,), a number for each seed.

    Raises:
        ValueError: fewer than two curves, shapes that do not fit, a range that is not spanned, or curves that do not
            move.
    """
    if not (0 < low < high < math.inf) or points < 2 or len(times) != len(curves) or len(curves) < 2:
        raise ValueError(
            f"spread_of_curves: got {len(curves)} curves, {len(times)} series of times, range {low} to {high} and "
            f"{points} points, expected at least two curves with times, a range above 0 and at least 2 points"
        )
    grid = np.geomspace(low, high, points)
    values = np.stack(
        [_at_times(t, c, grid) for t, c in zip(times, curves, strict=True)]
    )  # (L, S, points, P)
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    apart = np.mean([np.sum((values[i] - values[j]) ** 2, axis=-1).mean(axis=-1) for i, j in pairs], axis=0)
    middle = values.mean(axis=(0, 2), keepdims=True)
    whole = np.sum((values - middle) ** 2, axis=-1).mean(axis=(0, 2))
    if not np.all(whole > 0):
        raise ValueError("spread_of_curves: got curves that are constant, expected some that move")
    return np.sqrt(apart / (2 * whole))


def _at_times(times: ArrayLike, curves: ArrayLike, grid: Array) -> Array:
    """(S, points, P): the curves on ``grid``."""
    at, values = np.asarray(times, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    if values.ndim == 2:
        values = values[..., None]
    if at.ndim != 1 or values.ndim != 3 or values.shape[1] != at.size or not np.isfinite(values).all():
        raise ValueError(
            f"spread_of_curves: got times {at.shape} and curves {np.shape(curves)}, expected (T,) and finite (S, T) or "
            "(S, T, P)"
        )
    inside = (at[0] <= grid[0] * (1 + 1e-12) and grid[-1] <= at[-1] * (1 + 1e-12)) if at.size > 1 else False
    if not inside or np.any(np.diff(at) <= 0):
        raise ValueError(
            f"spread_of_curves: got {at.size} times from {at.min()} to {at.max()}, expected increasing ones that span "
            f"{grid[0]} to {grid[-1]}"
        )
    right = np.clip(np.searchsorted(at, grid, side="right"), 1, at.size - 1)
    start, end = at[right - 1], at[right]
    # before the first positive time there is no logarithm: straight in time there
    logs = start > 0
    share = np.where(
        logs,
        np.log(grid / np.where(logs, start, 1.0)) / np.log(end / np.where(logs, start, end / 2)),
        grid / end,
    )
    weight = np.clip(share, 0.0, 1.0)[None, :, None]
    return (1 - weight) * values[:, right - 1] + weight * values[:, right]
