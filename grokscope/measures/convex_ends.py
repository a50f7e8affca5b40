"""Where norm minimisation ends for factors whose norm is a convex norm of what they make: l1 and nuclear.

The least |u|^2 + |v|^2 over u v = beta is 2 |beta|_1, and the least |U|^2 + |V|^2 over U V = A is 2 |A|_*. Squared loss
with weight decay lambda on the factors so has the minima of the convex problems solved here (arXiv 2505.20172).

Shapes: N samples, P coefficients, m x n a matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

__all__ = ["least_l1", "least_l1_interpolator", "least_nuclear"]

Array = NDArray[np.float64]

_ROUNDS = 200_000


def least_l1(
    design: ArrayLike, targets: ArrayLike, decay: float, *, mean: bool = False, tolerance: float = 1e-13
) -> Array:
    """(P,): the minimum of ½‖Xβ − y‖² + λ‖β‖₁ (with ``mean`` the first over N), by proximal gradient with restarts.

    Args:
        design: X (N, P), not 0.
        targets: y (N,).
        decay: λ, above 0.
        tolerance: the relative change of β in a step at which it ends.

    Raises:
        ValueError: shapes that do not fit, X = 0, a decay of 0, or no end within the rounds.
    """
    x, y = _regression("least_l1", design, targets)
    if not (np.any(x) and decay > 0):
        raise ValueError(
            f"least_l1: got decay={decay} and X {x.shape}, expected one above 0 and X that is not 0"
        )
    weight = 1 / len(x) if mean else 1.0
    length = 1 / (weight * float(np.linalg.norm(x, 2)) ** 2)

    def step(beta: Array) -> Array:
        moved = beta - length * weight * (x.T @ (x @ beta - y))
        return np.sign(moved) * np.maximum(np.abs(moved) - length * decay, 0.0)

    return _descend("least_l1", step, np.zeros(x.shape[1]), tolerance, _ROUNDS)


def least_l1_interpolator(design: ArrayLike, targets: ArrayLike) -> Array:
    """(P,): the least ‖β‖₁ with Xβ = y, by linear programming; the limit of `least_l1` for λ to 0.

    Raises:
        ValueError: shapes that do not fit, or no solution.
    """
    x, y = _regression("least_l1_interpolator", design, targets)
    found = linprog(
        np.ones(2 * x.shape[1]), A_eq=np.hstack([x, -x]), b_eq=y, bounds=(0, None), method="highs"
    )
    if found.x is None:
        raise ValueError(f"least_l1_interpolator: got a system without a solution ({found.message})")
    return found.x[: x.shape[1]] - found.x[x.shape[1] :]


def least_nuclear(
    target: ArrayLike, observed: ArrayLike, decay: float, *, tolerance: float = 1e-12, rounds: int = _ROUNDS
) -> Array:
    """(m, n): the minimum of ½ Σ over observed entries (A − M)² + λ‖A‖_*, by proximal gradient with restarts.

    Args:
        target: M (m, n).
        observed: (m, n) bool, one entry at least.
        decay: λ, above 0.
        tolerance: the relative change of A in a step at which it ends.

    Raises:
        ValueError: shapes that differ, a decay of 0, nothing observed, or no end within ``rounds``.
    """
    m, mask = np.asarray(target, dtype=np.float64), np.asarray(observed, dtype=bool)
    if m.ndim != 2 or m.shape != mask.shape or not np.isfinite(m).all() or not mask.any() or not decay > 0:
        raise ValueError(
            f"least_nuclear: got shapes {m.shape} and {mask.shape} and decay={decay}, expected equal (m, n), finite, "
            "with an observed entry, and a decay above 0"
        )

    def step(a: Array) -> Array:
        u, sigma, vt = np.linalg.svd(a - np.where(mask, a - m, 0.0), full_matrices=False)
        return (u * np.maximum(sigma - decay, 0.0)) @ vt

    return _descend("least_nuclear", step, np.zeros_like(m), tolerance, rounds)


def _descend(what: str, step: Callable[[Array], Array], start: Array, tolerance: float, rounds: int) -> Array:
    """The fixed point of ``step``, accelerated (Nesterov), the momentum dropped where it leads uphill."""
    a = ahead = start
    momentum = 1.0
    for _ in range(rounds):
        new = step(ahead)
        if float(np.sum((ahead - new) * (new - a))) > 0:
            momentum, ahead = 1.0, a
            new = step(a)
        if np.linalg.norm(new - ahead) <= tolerance * np.linalg.norm(new):
            return new
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - a)
        a, momentum = new, following
    raise ValueError(f"{what}: got a problem that {rounds} rounds did not solve, expected a larger decay")


def _regression(what: str, design: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(design, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if (
        x.ndim != 2
        or not x.size
        or y.shape != x.shape[:1]
        or not (np.isfinite(x).all() and np.isfinite(y).all())
    ):
        raise ValueError(f"{what}: got X {x.shape} and y {y.shape}, expected finite (N, P) and (N,)")
    return x, y
