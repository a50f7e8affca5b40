"""A straight line by least squares, with the interval of its slope.

`fit_line` takes residuals as independent; `block_slope` and `fit_blocks` work on means of consecutive blocks,
for the saves of one trajectory, whose residuals are correlated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from grokscope.measures.crossings import series

__all__ = ["LineFit", "block_slope", "fit_blocks", "fit_line"]


@dataclass(frozen=True)
class LineFit:
    """A least-squares line y = intercept + slope x through n points.

    ``low`` and ``high`` are the ends of the t interval of the slope (``None`` for n < 3). From `fit_line` it
    takes residuals as independent, which the levels of one trajectory are not; from `fit_blocks` slope and
    interval are those of block means. ``r_squared`` is of the points and the ordinary least-squares line,
    ``None`` where y is constant.
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
        half = float(stdtrit(x_N.size - 2, (1 + confidence) / 2)) * float(np.sqrt(rss / (x_N.size - 2) / sxx))
        low, high = slope - half, slope + half
    r_squared = None if np.ptp(y_N) == 0 else max(0.0, 1 - rss / syy)
    return LineFit(slope, float(y_N.mean() - slope * x_N.mean()), low, high, r_squared, x_N.size)


def block_slope(
    steps: ArrayLike, values: ArrayLike, confidence: float = 0.95, blocks: int = 6
) -> tuple[float, float, float] | None:
    """The slope of a series and an interval for it that autocorrelated residuals do not shrink.

    The defined saves are cut into ``blocks`` consecutive blocks of equal count (as many as there are saves
    where those are fewer) and a straight line is fitted to the block means with a t interval. Residuals that
    are correlated over less than a block average out inside it, so they widen the interval as they should
    instead of being counted as evidence many times over; a smooth rise stays a rise, since the means follow
    it.

    Returns:
        Slope per step, low end, high end; ``None`` with fewer than four defined saves.

    Raises:
        ValueError: a malformed series, or fewer than three blocks.
    """
    steps_T, values_T = series("block_slope", steps, values)
    if blocks < 3:
        raise ValueError(f"block_slope: got blocks={blocks}, expected three at least")
    defined_T = np.isfinite(values_T)
    x_N, y_N = steps_T[defined_T].astype(np.float64), values_T[defined_T]
    if x_N.size < 4:
        return None
    # From the first value on, so that a constant series has means of exactly zero.
    cuts = np.array_split(np.arange(x_N.size), min(blocks, x_N.size))
    x_B = np.array([x_N[cut].mean() for cut in cuts])
    y_B = np.array([(y_N[cut] - y_N[0]).mean() for cut in cuts])
    dx_B, dy_B = x_B - x_B.mean(), y_B - y_B.mean()
    slope = float(dx_B @ dy_B / (dx_B @ dx_B))
    rss = float(np.sum((dy_B - slope * dx_B) ** 2))
    freedom = x_B.size - 2
    half = float(stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(rss / freedom / (dx_B @ dx_B)))
    return slope, slope - half, slope + half


def fit_blocks(steps: ArrayLike, values: ArrayLike, confidence: float = 0.95, blocks: int = 6) -> LineFit:
    """A line through a series whose slope and interval are those of `block_slope`; all values defined.

    The intercept puts it through the mean of the points, and R squared is that of `fit_line`.

    Raises:
        ValueError: a malformed series, or fewer than four saves.
    """
    line, found = fit_line(steps, values, confidence), block_slope(steps, values, confidence, blocks)
    if found is None:
        raise ValueError(f"fit_blocks: got {line.n} saves, expected four at least")
    slope, low, high = found
    intercept = float(np.mean(np.asarray(values, dtype=np.float64)) - slope * np.mean(np.asarray(steps)))
    return replace(line, slope=slope, intercept=intercept, low=low, high=high)
