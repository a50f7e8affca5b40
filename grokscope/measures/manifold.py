"""Norm minimisation on the manifold of interpolators (arXiv 2505.20172): projections, drift, junction, rank.

With squared loss F and weight decay lambda, training first falls onto the set where F is zero and then moves along
it at lambda's pace, downhill in the norm: dw/dt = -lambda P w, with P the projection on the kernel of the
Gauss-Newton Hessian J^T J, J the Jacobian of the training residuals.

The kernel is taken from J itself and never from J^T J, whose singular values are squares: a direction at 1e-9 of the
largest would be lost in its rounding.

Shapes: N residuals, P parameters, T saves, m updates between two saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, lsmr

from grokscope.measures.crossings import Crossing, series

__all__ = [
    "Drift",
    "Junction",
    "KernelProjection",
    "RankConstancy",
    "decayed_share",
    "drift_between",
    "drift_factor",
    "instantaneous_drift",
    "junction",
    "kernel_projection",
    "kernel_projection_lsmr",
    "motion_against",
    "rank_constancy",
]

Array = NDArray[np.float64]

TOLERANCE = 1e-8
"""Singular values of J below this share of the largest count as zero."""
CLEARLY_UNDER = 0.01
"""By how much the gradient must come to lie under the decay for a crossing to be the junction."""
_PASSES = 6
_POWERS = 20


@dataclass(frozen=True, eq=False)
class KernelProjection:
    """P w, and how sure it is.

    Attributes:
        vector: (P,).
        residual: ‖J P w‖ / (‖J‖ ‖w‖), 0 for a vector of the kernel.
        rank: of J at the tolerance; ``None`` from products alone.
        smallest_kept, largest_dropped: σ_r/σ_1 and σ_{r+1}/σ_1, the gap in which the tolerance lies, 0 where there is
            no such value; ``None`` from products alone.
        iterations: of LSMR over all passes, 0 for the exact one.
    """

    vector: Array
    residual: float
    rank: int | None = None
    smallest_kept: float | None = None
    largest_dropped: float | None = None
    iterations: int = 0


def kernel_projection(
    jacobian: ArrayLike, weights: ArrayLike, tolerance: float = TOLERANCE
) -> KernelProjection:
    """The part of ``weights`` that J sends to zero, by the singular values of J.

    Args:
        jacobian: (N, P), N ≥ 1.
        weights: (P,).
        tolerance: singular values below this share of the largest are zero.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a tolerance outside (0, 1).
    """
    jac, w = np.asarray(jacobian, dtype=np.float64), _vector("kernel_projection", weights)
    if jac.ndim != 2 or not jac.size or jac.shape[1] != w.size or not np.isfinite(jac).all():
        raise ValueError(
            f"kernel_projection: got a Jacobian of shape {jac.shape} and {w.size} weights, expected "
            "finite (N, P) and (P,)"
        )
    _check_tolerance("kernel_projection", tolerance)
    _, sigma, rows = np.linalg.svd(jac, full_matrices=False)
    if not sigma[0] > 0:
        return KernelProjection(w.copy(), 0.0, 0, 0.0, 0.0)
    share = sigma / sigma[0]
    rank = int(np.sum(share >= tolerance))
    kept = rows[:rank]
    vector = w
    for _ in range(2):  # once more, for what rounding left
        vector = vector - kept.T @ (kept @ vector)
    size = float(np.linalg.norm(w))
    left = float(np.linalg.norm(jac @ vector)) / (float(sigma[0]) * size) if size > 0 else 0.0
    dropped = float(share[rank]) if rank < share.size else 0.0
    return KernelProjection(vector, left, rank, float(share[rank - 1]), dropped)


def kernel_projection_lsmr(
    product: Callable[[Array], Array],
    transposed: Callable[[Array], Array],
    n_residuals: int,
    weights: ArrayLike,
    tolerance: float = TOLERANCE,
    iterations: int | None = None,
) -> KernelProjection:
    """The same from products with J and its transpose: w minus its best approximation J^T z, by LSMR.

    What comes out differs from w by J^T z and so never loses a part that lies in the kernel. LSMR is damped by
    ``tolerance`` times the norm of J and run again on what it leaves, six times at most or until a pass changes
    nothing: a direction of singular value σ keeps (1 + (σ/(tolerance σ_1))²)^{-6} of itself. The edge is softer than
    that of `kernel_projection`, within about a factor of ten on either side.

    Args:
        product: v (P,) to J v (N,).
        transposed: z (N,) to J^T z (P,).
        n_residuals: N, at least 1.
        weights: (P,).
        iterations: the most in one pass; by default 20 times the smaller of N and P, and 100.

    Raises:
        ValueError: no residual, weights that are not finite, a tolerance outside (0, 1), or products of wrong shapes.
    """
    w = _vector("kernel_projection_lsmr", weights)
    _check_tolerance("kernel_projection_lsmr", tolerance)
    if n_residuals < 1:
        raise ValueError(f"kernel_projection_lsmr: got {n_residuals} residuals, expected at least 1")
    once = np.shape(product(w))
    if once != (n_residuals,):
        raise ValueError(f"kernel_projection_lsmr: got J w of shape {once}, expected ({n_residuals},)")
    operator = _Transpose(product, transposed, w.size, n_residuals)
    most = iterations or 20 * min(n_residuals, w.size) + 100
    size, scale, count, vector = float(np.linalg.norm(w)), _norm_of(product, transposed, w.size), 0, w
    if not scale * size > 0:
        return KernelProjection(w.copy(), 0.0)
    for _ in range(_PASSES):
        found = lsmr(operator, vector, damp=tolerance * scale, atol=1e-15, btol=1e-15, conlim=0, maxiter=most)
        left = vector - np.asarray(transposed(found[0]), dtype=np.float64)
        moved, vector, count = float(np.linalg.norm(left - vector)), left, count + int(found[2])
        if moved <= 1e-14 * size or not np.any(vector):
            break
    residual = float(np.linalg.norm(product(vector))) / (scale * size)
    return KernelProjection(vector, residual, iterations=count)


class _Transpose(LinearOperator):
    """J^T (P, N) as scipy's solvers take it."""

    def __init__(
        self, product: Callable[[Array], Array], transposed: Callable[[Array], Array], width: int, height: int
    ) -> None:
        self._product, self._transposed = product, transposed
        super().__init__(np.dtype(np.float64), (width, height))

    def _matvec(self, x: Array) -> Array:
        return np.asarray(self._transposed(x.ravel()), dtype=np.float64)

    def _rmatvec(self, x: Array) -> Array:
        return np.asarray(self._product(x.ravel()), dtype=np.float64)


def _norm_of(product: Callable[[Array], Array], transposed: Callable[[Array], Array], width: int) -> float:
    """The largest singular value of J from below, to a few per cent: a power iteration."""
    vector, size = np.random.default_rng(0).normal(size=width), 0.0
    for _ in range(_POWERS):
        vector /= np.linalg.norm(vector)
        image = np.asarray(product(vector), dtype=np.float64)
        size = float(np.linalg.norm(image))
        vector = np.asarray(transposed(image), dtype=np.float64)
        if not np.any(vector):
            break
    return size


def decayed_share(rates: ArrayLike, decay: float) -> float:
    """1 − Π(1 − ηλ): the share of a vector that m updates of decay alone take away.

    Args:
        rates: (m,) learning rates of the updates between two saves.
        decay: λ, at least 0.

    Raises:
        ValueError: no rate, a rate that is not positive, or ηλ of 1 or more.
    """
    eta = np.atleast_1d(np.asarray(rates, dtype=np.float64))
    if eta.ndim != 1 or not eta.size or not np.all(eta > 0) or not decay >= 0 or not np.all(eta * decay < 1):
        raise ValueError(
            f"decayed_share: got {eta.size} rates from {eta.min(initial=math.inf)} and decay={decay}, expected "
            "positive rates and a decay of at least 0 that takes less than all away in one step"
        )
    return -math.expm1(float(np.log1p(-eta * decay).sum()))


def drift_factor(rates: ArrayLike, decay: float) -> float:
    """(1 − Π(1 − ηλ)) / (λ Σ η): how far m discrete updates shrink a vector, over m times the first of them.

    For equal rates (1 − (1 − ηλ)^m)/(mηλ). It tends to 1 as mηλ does to 0, where it is 1. Arguments and errors are
    those of `decayed_share`.
    """
    share = decayed_share(rates, decay)
    total = float(np.sum(np.asarray(rates, dtype=np.float64))) * decay
    return share / total if total > 0 else 1.0


@dataclass(frozen=True)
class Drift:
    """How far a motion is the one that norm minimisation predicts.

    Attributes:
        cosine: between the motion and −P w.
        speed: its length over the predicted one.
    """

    cosine: float
    speed: float


def motion_against(motion: ArrayLike, direction: ArrayLike) -> Drift:
    """Cosine between ``motion`` (P,) and −``direction`` (P,), and the length of the first over that of the second.

    Raises:
        ValueError: shapes that differ, or a vector of length 0.
    """
    moved, towards = _vector("motion_against", motion), _vector("motion_against", direction)
    if moved.shape != towards.shape:
        raise ValueError(
            f"motion_against: got {moved.size} and {towards.size} entries, expected equal shapes"
        )
    length, expected = float(np.linalg.norm(moved)), float(np.linalg.norm(towards))
    if not expected > 0:
        raise ValueError(
            "motion_against: got a direction of length 0, expected a decay and a kernel part above 0"
        )
    if not length > 0:
        raise ValueError("motion_against: got a motion of length 0, expected weights that move")
    cosine = -float((moved / length) @ (towards / expected))
    return Drift(min(1.0, max(-1.0, cosine)), length / expected)


def drift_between(
    before: ArrayLike, after: ArrayLike, tangent: ArrayLike, rates: ArrayLike, decay: float
) -> Drift:
    """The motion between two saves against −λ P w at the first of them, over the time Σ η of its updates.

    The speed ‖Δw/Ση‖ / (λ‖P w‖) is divided by `drift_factor`, so that a vector that only decays has speed 1 whatever
    the spacing of the saves: it is ‖Δw‖ over ‖P w‖ times `decayed_share`.

    Args:
        before, after: (P,) weights of the two saves.
        tangent: (P,) P w at the first.
        rates: (m,) learning rates of the updates between them.
        decay: λ, above 0.

    Raises:
        ValueError: shapes that differ, a decay of 0, weights that did not move, a P w of 0, or what `decayed_share`
            refuses.
    """
    start, end = _vector("drift_between", before), _vector("drift_between", after)
    if start.shape != end.shape:
        raise ValueError(f"drift_between: got {start.size} and {end.size} entries, expected equal shapes")
    kernel = _vector("drift_between", tangent)
    return motion_against(end - start, decayed_share(rates, decay) * kernel)


def instantaneous_drift(weights: ArrayLike, gradient: ArrayLike, tangent: ArrayLike, decay: float) -> Drift:
    """The velocity −(∇F + λw) of the flow against −λ P w.

    Args:
        weights, gradient, tangent: (P,), the gradient without decay.
        decay: λ, above 0.

    Raises:
        ValueError: shapes that differ, a decay of 0, a point that stands still, or a P w of 0.
    """
    w, grad = _vector("instantaneous_drift", weights), _vector("instantaneous_drift", gradient)
    if w.shape != grad.shape:
        raise ValueError(f"instantaneous_drift: got {w.size} and {grad.size} entries, expected equal shapes")
    return motion_against(-(grad + decay * w), decay * _vector("instantaneous_drift", tangent))


@dataclass(frozen=True)
class Junction:
    """Where decay takes over from the loss.

    Attributes:
        crossing: the interval between saves.
        decay_norm: λ‖w‖ at the first save under it.
    """

    crossing: Crossing
    decay_norm: float


def junction(steps: ArrayLike, gradient_norms: ArrayLike, decay_norms: ArrayLike) -> Junction | None:
    """Where ‖∇F‖ first drops under λ‖w‖.

    At the end of training the two become equal, and which is larger there is a matter of rounding. A drop counts only
    where it goes on, before it ends, to one part in a hundred under.

    Args:
        steps: (T,) of the saves.
        gradient_norms: (T,) ‖∇F‖ without decay.
        decay_norms: (T,) λ‖w‖.

    Returns:
        ``None`` where there is none.

    Raises:
        ValueError: shapes that differ, steps out of order, or values that are negative or not finite.
    """
    at, grad = series("junction", steps, gradient_norms)
    _, decay = series("junction", steps, decay_norms)
    both = np.stack([grad, decay])
    if not (np.isfinite(both).all() and np.all(both >= 0)):
        raise ValueError(
            f"junction: got values from {both.min()} to {both.max()}, expected finite ones of at least 0"
        )
    under = grad < decay
    clear = grad < (1 - CLEARLY_UNDER) * decay
    begins = np.flatnonzero(under & ~np.concatenate([[False], under[:-1]]))
    for first in begins:
        over = np.flatnonzero(~under[first:])
        last = first + int(over[0]) if len(over) else len(at)
        if clear[first:last].any():
            after = int(at[first - 1]) if first else None
            return Junction(Crossing(after, int(at[first]), False), float(decay[first]))
    return None


@dataclass(frozen=True)
class RankConstancy:
    """Whether the rank of the Hessian stayed what it was, which the theory assumes.

    Attributes:
        holds: one rank at all saves.
        lowest, highest: the ranks between which it moved.
        changes: intervals (after, by] of steps in which it changed.
    """

    holds: bool
    lowest: int
    highest: int
    changes: tuple[tuple[int, int], ...]


def rank_constancy(steps: ArrayLike, ranks: ArrayLike) -> RankConstancy:
    """Whether ``ranks`` (T,) are one number, and where they change.

    Raises:
        ValueError: shapes that differ, steps out of order, or ranks that are no whole numbers of at least 0.
    """
    at, values = series("rank_constancy", steps, ranks)
    if not (np.isfinite(values).all() and np.all(values >= 0) and np.array_equal(values, np.round(values))):
        raise ValueError(
            f"rank_constancy: got ranks {values[:4].tolist()}..., expected whole numbers of at least 0"
        )
    places = np.flatnonzero(np.diff(values))
    return RankConstancy(
        holds=not places.size,
        lowest=int(values.min()),
        highest=int(values.max()),
        changes=tuple((int(at[place]), int(at[place + 1])) for place in places),
    )


def _vector(what: str, values: ArrayLike) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(
            f"{what}: got a vector of shape {found.shape}, expected finite (P,) with P of at least 1"
        )
    return found


def _check_tolerance(what: str, tolerance: float) -> None:
    if not 0 < tolerance < 1:
        raise ValueError(f"{what}: got tolerance={tolerance}, expected one between 0 and 1")
