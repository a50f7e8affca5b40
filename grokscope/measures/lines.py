"""A straight line by least squares, with the interval of its slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["LineFit", "fit_line"]


@dataclass(frozen=True)
class LineFit:
    """Ordinary least squares y = intercept + slope x on n points.

    ``low`` and ``high`` are the ends of the t interval of the slope (``None`` for n < 3); it takes residuals
    as independent, which the levels of one trajectory are not. ``r_squared`` is ``None`` where y is constant.
    """

    slope: float
    intercept: float
    low: float | None
    high: float | None
    r_squared: float | None
    n: int


def fit_line(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> LineFit:
    """Ordinary least squares with a t interval for the slope.

    Raises:
        ValueError: shapes that differ, values that are not finite, or fewer than two different x.
    """
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x_N.shape != y_N.shape or x_N.ndim != 1 or not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise ValueError(
            f"fit_line: got x of shape {x_N.shape} and y of shape {y_N.shape}, "
            "expected equal one-dimensional shapes and finite values"
        )
    if x_N.size < 2 or np.ptp(x_N) == 0:
        raise ValueError(f"fit_line: got {x_N.size} points with equal x, expected two different x at least")
    dx, dy = x_N - x_N.mean(), y_N - y_N.mean()
    sxx, syy = float(dx @ dx), float(dy @ dy)
    slope = float(dx @ dy) / sxx
    rss = float(np.sum((dy - slope * dx) ** 2))
    low = high = None
    if x_N.size > 2:
        half = float(stats.t.ppf((1 + confidence) / 2, x_N.size - 2)) * float(
            np.sqrt(rss / (x_N.size - 2) / sxx)
        )
        low, high = slope - half, slope + half
    r_squared = None if np.ptp(y_N) == 0 else max(0.0, 1 - rss / syy)
    return LineFit(slope, float(y_N.mean() - slope * x_N.mean()), low, high, r_squared, x_N.size)
