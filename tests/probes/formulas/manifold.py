"""Formulas of the drift along the manifold: LaTeX, plain numpy, and the measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from grokscope.measures import manifold
from grokscope.probes.manifold_readings import flat
from tests.probes.formulas.rows import Rng, Row, T

RATE, LAMBDA = 0.07, 0.4
KERNEL = r" \\ P=I-J^{+}J,\quad J=\frac{\partial z}{\partial w}"
VELOCITY = r",\quad v=\nabla F(w)+\lambda w"


def jacobian(rng: Rng) -> tuple[Any, ...]:
    """J of 5 outputs in 9 weights, of rank 4, and weights."""
    return rng.normal(size=(5, 4)) @ rng.normal(size=(4, 9)), rng.normal(size=9)


def projected(j: Any, w: Any) -> Any:
    return (np.eye(9) - np.linalg.pinv(j, rcond=1e-8) @ j) @ w


def of_rank(rng: Rng) -> tuple[Any, ...]:
    rank = int(rng.integers(2, 5))
    tiny = np.diag(np.r_[np.ones(rank), np.full(6 - rank, 1e-10)])
    return (np.linalg.qr(rng.normal(size=(6, 6)))[0] @ tiny,)


def moving(rng: Rng) -> tuple[Any, ...]:
    """Two saves, P w at the first, and the rates between them."""
    return (*rng.normal(size=(3, 9)), RATE * rng.uniform(0.5, 1, size=6))


def forced(rng: Rng) -> tuple[Any, ...]:
    """Weights, ∇F and P w."""
    return tuple(rng.normal(size=(3, 9)))


def plain_speed(w: Any, after: Any, tangent: Any, rates: Any) -> float:
    left = 1.0
    for rate in rates:
        left *= 1 - rate * LAMBDA
    return float(np.linalg.norm(after - w) / (np.linalg.norm(tangent) * (1 - left)))


def plain_cosine(motion: Any, tangent: Any) -> float:
    return float(motion @ tangent / (np.linalg.norm(motion) * np.linalg.norm(tangent)))


def flat_norm(*values: Any) -> float:
    names = [str(number) for number in range(len(values))]
    return float(np.linalg.norm(flat({n: T(v) for n, v in zip(names, values, strict=True)}, names)))


def tensors(rng: Rng) -> tuple[Any, ...]:
    return rng.normal(size=(4, 3)), rng.normal(size=5)


MANIFOLD = [
    Row(
        "manifold.tangent_norm",
        r"\left\|Pw\right\|" + KERNEL,
        jacobian,
        lambda j, w: np.linalg.norm(projected(j, w)),
        lambda j, w: np.linalg.norm(manifold.kernel_projection(j, w).vector),
    ),
    Row(
        "manifold.tangent_fraction",
        r"\frac{\left\|Pw\right\|}{\left\|w\right\|}" + KERNEL,
        jacobian,
        lambda j, w: np.linalg.norm(projected(j, w)) / np.linalg.norm(w),
        lambda j, w: np.linalg.norm(manifold.kernel_projection(j, w / np.linalg.norm(w)).vector),
    ),
    Row(
        "manifold.gradient_norm",
        r"\left\|\nabla F(w)\right\|",
        tensors,
        lambda a, b: np.sqrt(np.square(a).sum() + np.square(b).sum()),
        flat_norm,
    ),
    Row(
        "manifold.decay_norm",
        r"\lambda\left\|w\right\|",
        tensors,
        lambda a, b: LAMBDA * np.sqrt(np.square(a).sum() + np.square(b).sum()),
        lambda a, b: LAMBDA * flat_norm(a, b),
    ),
    Row(
        "manifold.rank",
        r"\left|\left\{i:\sigma_i\ge 10^{-8}\sigma_1\right\}\right|,\quad\sigma_i\text{ of }J",
        of_rank,
        lambda j: np.sum(np.linalg.svd(j)[1] >= 1e-8 * np.linalg.svd(j)[1][0]),
        lambda j: manifold.kernel_projection(j, np.ones(6)).rank,
    ),
    Row(
        "manifold.drift_cosine",
        r"\frac{-\Delta w\cdot Pw}{\left\|\Delta w\right\|\left\|Pw\right\|},\quad \Delta w=w(t')-w(t)",
        moving,
        lambda w, after, tangent, rates: plain_cosine(w - after, tangent),
        lambda w, after, tangent, rates: manifold.drift_between(w, after, tangent, rates, LAMBDA).cosine,
    ),
    Row(
        "manifold.drift_speed",
        r"\frac{\left\|\Delta w\right\|}{\left\|Pw\right\|\left(1-\prod_k(1-\eta_k\lambda)\right)}",
        moving,
        plain_speed,
        lambda w, after, tangent, rates: manifold.drift_between(w, after, tangent, rates, LAMBDA).speed,
    ),
    Row(
        "manifold.drift_cosine.instant",
        r"\frac{v\cdot Pw}{\left\|v\right\|\left\|Pw\right\|}" + VELOCITY,
        forced,
        lambda w, gradient, tangent: plain_cosine(gradient + LAMBDA * w, tangent),
        lambda w, gradient, tangent: manifold.instantaneous_drift(w, gradient, tangent, LAMBDA).cosine,
    ),
    Row(
        "manifold.drift_speed.instant",
        r"\frac{\left\|v\right\|}{\lambda\left\|Pw\right\|}" + VELOCITY,
        forced,
        lambda w, gradient, tangent: (
            np.linalg.norm(gradient + LAMBDA * w) / (LAMBDA * np.linalg.norm(tangent))
        ),
        lambda w, gradient, tangent: manifold.instantaneous_drift(w, gradient, tangent, LAMBDA).speed,
    ),
    Row(
        "manifold.distance_to_flow",
        r"\left\|w(t)-w'(t)\right\|",
        tensors,
        lambda a, b: np.sqrt(np.square(a).sum() + np.square(b).sum()),
        flat_norm,
    ),
]
