"""Linear regression with weight decay, solved: gradient flow, gradient descent, fixed points and junction.

F(w) = ½‖Xw − y‖², or the same over N samples. In the singular vectors of X every component moves on its own: with
scale s (σ², or σ²/N for the mean) and z the component of the solution of least norm, the flow relaxes it at the rate
s + λ to s z/(s + λ), and what X does not see decays at the rate λ (arXiv 2505.20172).

Shapes: N samples, P parameters, r rank of X, T times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root_scalar

from grokscope.measures.manifold import CLEARLY_UNDER, TOLERANCE

__all__ = ["LinearRegression", "Order", "linear_regression"]

Array = NDArray[np.float64]

Order = Literal["before", "after"]
"""Whether decay is applied before or after the step of the gradient, which is at the undecayed weights in both."""

_SCAN = 4000
_TINY = 1e-150


@dataclass(frozen=True, eq=False)
class LinearRegression:
    """F and λ in the coordinates in which they separate; made by `linear_regression`.

    Attributes:
        directions: (r, P) right singular vectors of X.
        scales: (r,) curvatures of F along them.
        solution: (r,) the interpolator of least norm in them.
        decay: λ.
    """

    directions: Array
    scales: Array
    solution: Array
    decay: float

    def split(self, weights: ArrayLike) -> tuple[Array, Array]:
        """Components (..., r) along the directions, and what X does not see, (..., P)."""
        w = np.asarray(weights, dtype=np.float64)
        if w.ndim < 1 or w.shape[-1] != self.directions.shape[1] or not np.isfinite(w).all():
            raise ValueError(
                f"LinearRegression: got weights of shape {w.shape}, expected finite (..., {self.directions.shape[1]})"
            )
        along = w @ self.directions.T
        rest = w - along @ self.directions
        return along, rest - (rest @ self.directions.T) @ self.directions

    def gradient(self, weights: ArrayLike) -> Array:
        """∇F without decay, (..., P)."""
        along, _ = self.split(weights)
        return (self.scales * (along - self.solution)) @ self.directions

    def flow(self, start: ArrayLike, times: ArrayLike) -> Array:
        """(T, P): dw/dt = −∇F − λw from ``start`` (P,), at ``times`` (T,) of at least 0."""
        along, rest = self.split(start)
        at = np.atleast_1d(np.asarray(times, dtype=np.float64))
        if at.ndim != 1 or not (np.all(at >= 0) and np.isfinite(at).all()) or along.ndim != 1:
            raise ValueError(
                f"flow: got times {at[:3].tolist()}..., expected finite ones of at least 0 and one start"
            )
        rates = self.scales + self.decay
        exponent = at[:, None] * rates
        moved = along * np.exp(-exponent) - np.expm1(-exponent) * (self.scales * self.solution / rates)
        return moved @ self.directions + np.exp(-self.decay * at)[:, None] * rest

    def descent(self, start: ArrayLike, rate: float, steps: ArrayLike, order: Order = "before") -> Array:
        """(T, P): gradient descent with decoupled decay after ``steps`` (T,) updates of learning rate ``rate``."""
        self._check_rate("descent", rate)
        along, rest = self.split(start)
        count = np.atleast_1d(np.asarray(steps))
        if (
            count.ndim != 1
            or np.any(count < 0)
            or not np.array_equal(count, np.round(count))
            or along.ndim != 1
        ):
            raise ValueError(
                f"descent: got steps {count[:3].tolist()}..., expected whole numbers of at least 0"
            )
        keep = 1 - rate * self.decay
        factor = keep - rate * self.scales if order == "before" else keep * (1 - rate * self.scales)
        target = self._target(rate, order)
        power = factor ** count[:, None]
        moved = target + power * (along - target)
        return moved @ self.directions + keep ** count[:, None] * rest

    def fixed_point(self, rate: float | None = None, order: Order = "before") -> Array:
        """(P,): where the flow ends, or gradient descent of learning rate ``rate``.

        Decay before the step ends where the flow does. After it, at (1 − ηλ)s z/(s + λ − ηλs).
        """
        if rate is None:
            return (self.scales * self.solution / (self.scales + self.decay)) @ self.directions
        self._check_rate("fixed_point", rate)
        return self._target(rate, order) @ self.directions

    def junction(self, start: ArrayLike) -> float | None:
        """The time of the flow at which ‖∇F‖ first drops under λ‖w‖, ``None`` where it never clearly does.

        Raises:
            ValueError: a decay of 0.
        """
        if not self.decay > 0:
            raise ValueError(f"junction: got decay={self.decay}, expected one above 0")

        def ratio_less_one(times: ArrayLike) -> Array:
            path = self.flow(start, times)
            above = np.linalg.norm(self.gradient(path), axis=1)
            below = self.decay * np.linalg.norm(path, axis=1)
            return (above - below) / np.maximum(below, _TINY)

        def over(time: float) -> float:
            return float(ratio_less_one([time])[0])

        grid = np.concatenate(
            [[0.0], np.geomspace(1e-4 / float((self.scales + self.decay).max()), 40 / self.decay, _SCAN)]
        )
        values = ratio_less_one(grid)
        for first in np.flatnonzero((values < 0) & np.concatenate([[True], values[:-1] >= 0])):
            back = np.flatnonzero(values[first:] >= 0)
            last = first + int(back[0]) if len(back) else len(grid)
            if values[first:last].min() < -CLEARLY_UNDER:
                if first == 0:
                    return 0.0
                ends = (float(grid[first - 1]), float(grid[first]))
                return float(root_scalar(over, bracket=ends, method="brentq", xtol=1e-13).root)
        return None

    def _target(self, rate: float, order: Order) -> Array:
        if order == "before":
            return self.scales * self.solution / (self.scales + self.decay)
        shrink = rate * self.decay
        return (1 - shrink) * self.scales * self.solution / (self.scales + self.decay - shrink * self.scales)

    def _check_rate(self, what: str, rate: float) -> None:
        if not (rate > 0 and rate * self.decay < 1):
            raise ValueError(
                f"{what}: got rate={rate} with decay {self.decay}, expected one above 0 and below 1/decay"
            )


def linear_regression(
    design: ArrayLike, targets: ArrayLike, decay: float, *, mean: bool = False, tolerance: float = TOLERANCE
) -> LinearRegression:
    """½‖Xw − y‖² + ½λ‖w‖², or with ``mean`` the first over 2N instead of 2, by the singular values of X.

    Args:
        design: X (N, P).
        targets: y (N,); what lies outside the range of X moves nothing.
        decay: λ, at least 0.
        tolerance: singular values below this share of the largest count as zero.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, X = 0, or a negative decay.
    """
    x, y = np.asarray(design, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    fits = x.ndim == 2 and x.size and y.shape == x.shape[:1] and np.isfinite(x).all() and np.isfinite(y).all()
    if not fits or not np.any(x) or not 0 <= decay < math.inf:
        raise ValueError(
            f"linear_regression: got X {x.shape}, y {y.shape} and decay={decay}, expected finite (N, P) that is not 0, "
            "(N,) and a decay of at least 0"
        )
    left, sigma, right = np.linalg.svd(x, full_matrices=False)
    rank = int(np.sum(sigma >= tolerance * sigma[0]))
    scales = sigma[:rank] ** 2 / (len(x) if mean else 1)
    return LinearRegression(right[:rank], scales, left[:, :rank].T @ y / sigma[:rank], decay)
