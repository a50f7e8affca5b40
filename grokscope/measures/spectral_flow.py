"""Gradient flow of a completion loss with a Schatten penalty, on the end-to-end map and not on its factors.

Layerwise decay (lambda / 2) sum |W_l|^2 acts on balanced factors of A as (lambda L / 2) sum sigma(A)^{2/L} (arXiv
2606.05863). Its gradient flow in the entries of A,

    dA/dt = -(A - M) on the observed entries - lambda U diag(sigma^{q - 1}) V^T,   q = 2 / L,

is another curve than that of the factors: there a singular value moves by L sigma^{2 - q} times as much. For q <= 1 the
penalty has no derivative at zero. The flow reaches zero in finite time and stays there, the factors only approach it.

The integrator takes the loss explicitly and the penalty implicitly, so that its fixed points are those of the flow
whatever the step, and zero is reached without a smoothing. A step is compared with two of half its length.

Shapes: m x n the map, r = min(m, n), T times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SpectralFlow", "extinction_time", "implicit_shrink", "penalised_energy", "spectral_flow"]

Array = NDArray[np.float64]

_NEWTON = 80
_SHORTEST = 1e-9


@dataclass(frozen=True, eq=False)
class SpectralFlow:
    """The flow at the times that were asked for.

    Attributes:
        times: (T,).
        maps: (T, m, n).
        singular_values: (T, r), those that have reached zero exactly 0.
        steps: accepted steps.
    """

    times: Array
    maps: Array
    singular_values: Array
    steps: int


def implicit_shrink(sigma: ArrayLike, amount: float, exponent: float) -> Array:
    """The implicit step x + amount x^{exponent - 1} = sigma of dx/dt = -x^{exponent - 1}: its largest root, else 0.

    For exponent 1 this is soft thresholding. Below 1 there is no root where sigma is under a threshold of order
    amount^{1 / (2 - exponent)}: the step then ends at zero, as the flow does in a time of order ``amount``.

    Args:
        sigma: (...), not negative.
        amount: step length times strength, at least 0.
        exponent: in (0, 2].

    Raises:
        ValueError: values outside these ranges.
    """
    y = np.asarray(sigma, dtype=np.float64)
    if not (np.all(np.isfinite(y)) and np.all(y >= 0) and amount >= 0 and 0 < exponent <= 2):
        raise ValueError(
            f"implicit_shrink: got amount={amount}, exponent={exponent} and values from {y.min(initial=0)}, expected "
            "finite values and an amount of at least 0, and an exponent in (0, 2]"
        )
    if exponent == 1 or amount == 0:
        return np.maximum(y - amount, 0.0)
    if exponent == 2:
        return y / (1 + amount)
    if exponent > 1:
        # x + amount x^{q-1} rises from 0: one root, found from above in the variable z = x^{q-1}, which is convex
        power = 1 / (exponent - 1)
        z = np.minimum(y / amount, y ** (exponent - 1))
        for _ in range(_NEWTON):
            z = np.maximum(z - (z**power + amount * z - y) / (power * z ** (power - 1) + amount), 0.0)
        return z**power
    least = (amount * (1 - exponent)) ** (1 / (2 - exponent))
    above = y > least + amount * least ** (exponent - 1)
    # convex, and positive at sigma: Newton's method comes down to the largest root and never passes it
    x = np.where(above, y, 1.0)
    target = np.where(above, y, 1.0 + amount)
    for _ in range(_NEWTON):
        slope = 1 - amount * (1 - exponent) * x ** (exponent - 2)
        step = (x + amount * x ** (exponent - 1) - target) / np.where(slope > 0, slope, 1.0)
        x = np.maximum(x - np.where(slope > 0, step, 0.0), least)
    return np.where(above, x, 0.0)


def extinction_time(sigma: float, strength: float, exponent: float) -> float:
    """When a singular value that only dx/dt = -strength x^{exponent - 1} moves is zero: x^{2-q} / ((2 - q) strength).

    Raises:
        ValueError: a value or strength that is not positive, or an exponent outside (0, 2).
    """
    if not (sigma > 0 and strength > 0 and 0 < exponent < 2):
        raise ValueError(
            f"extinction_time: got {sigma}, strength {strength} and exponent {exponent}, expected positive ones and an "
            "exponent below 2"
        )
    return sigma ** (2 - exponent) / ((2 - exponent) * strength)


def penalised_energy(
    maps: ArrayLike, target: ArrayLike, observed: ArrayLike, decay: float, depth: int
) -> Array:
    """1/2 sum over observed entries of (A - M)^2, plus (decay depth / 2) sum sigma^{2/depth}: (..., m, n) to (...)."""
    values = np.asarray(maps, dtype=np.float64)
    error = (values - np.asarray(target)) * np.asarray(observed)
    sigma = np.linalg.svd(values, compute_uv=False)
    return 0.5 * np.sum(error**2, axis=(-2, -1)) + 0.5 * decay * depth * np.sum(sigma ** (2 / depth), axis=-1)


def spectral_flow(
    start: ArrayLike,
    target: ArrayLike,
    observed: ArrayLike,
    decay: float,
    depth: int,
    times: Sequence[float] | Array,
    tolerance: float = 1e-3,
    longest: float = 1.0,
) -> SpectralFlow:
    """Gradient flow from ``start``, at ``times``.

    Args:
        start, target: (m, n).
        observed: (m, n) bool, the entries that the loss sees.
        decay: lambda of the layers, at least 0.
        depth: L, at least 1.
        times: (T,) increasing, from 0 on.
        tolerance: of a step: Frobenius distance of one step from two of half its length, relative to the map or to
            the start, whichever is larger.
        longest: step, below 2, where the loss becomes unstable.

    Raises:
        ValueError: shapes that differ, values that are not finite, or numbers outside these ranges.
    """
    a, goal, mask = (
        np.array(start, dtype=np.float64),
        np.asarray(target, np.float64),
        np.asarray(observed, bool),
    )
    wanted = np.asarray(times, dtype=np.float64)
    if a.ndim != 2 or a.shape != goal.shape or a.shape != mask.shape or not np.isfinite(a).all():
        raise ValueError(
            f"spectral_flow: got shapes {a.shape}, {goal.shape} and {mask.shape}, expected equal (m, n), finite"
        )
    if wanted.ndim != 1 or not wanted.size or wanted[0] < 0 or np.any(np.diff(wanted) <= 0):
        raise ValueError(f"spectral_flow: got {wanted.size} times, expected some, increasing from 0 on")
    if not (decay >= 0 and depth >= 1 and tolerance > 0 and 0 < longest < 2):
        raise ValueError(
            f"spectral_flow: got decay={decay}, depth={depth}, tolerance={tolerance} and longest={longest}, expected "
            "a decay of at least 0, a depth of at least 1, a positive tolerance and a longest step below 2"
        )
    exponent = 2 / depth

    def step(values: Array, length: float) -> tuple[Array, Array]:
        moved = values - length * np.where(mask, values - goal, 0.0)
        u, sigma, vt = np.linalg.svd(moved, full_matrices=False)
        left = implicit_shrink(sigma, length * decay, exponent)
        return (u * left) @ vt, left

    size = float(np.linalg.norm(a))
    sigma = np.linalg.svd(a, compute_uv=False)
    now, length, count = 0.0, min(1e-3, longest), 0
    maps, spectra = [], []
    for stop in wanted:
        while now < stop:
            h = min(length, stop - now)
            whole, _ = step(a, h)
            half, _ = step(a, h / 2)
            fine, fine_sigma = step(half, h / 2)
            error = float(np.linalg.norm(whole - fine)) / max(size, float(np.linalg.norm(a)), 1e-300)
            if error <= tolerance or h <= _SHORTEST:
                a, sigma = fine, fine_sigma
                now = stop if h == stop - now else now + h
                count += 1
            factor = 2.0 if error == 0 else min(2.0, max(0.3, 0.9 * (tolerance / error) ** 0.5))
            # a step that was cut to meet a time says nothing against a longer one
            if h == length or factor < 1:
                length = min(max(h * factor, _SHORTEST), longest)
        maps.append(a)
        spectra.append(sigma)
    return SpectralFlow(wanted, np.stack(maps), np.stack(spectra), count)
