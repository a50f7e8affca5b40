"""How a network's Jacobian lies to its input: centroids, rows, its first component, its size (arXiv 2506.12284).

J_x = ∂f/∂x is the (C, d) matrix of a sample. Where f has no biases and ReLU gates, f(x) = J_x x: rows that point along
x are classes that the sample speaks for. The centroid of the region of x is J_xᵀ1. A Jacobian whose rows all lie along
x has rank one, so its first component is 1.

Under cross-entropy f is defined up to a constant that all classes share, so J_x up to a common row: J_xᵀ1 is then no
property of the classifier. :func:`common_row` says how much of J_x such a row is.

Shapes: N samples, C outputs, d inputs, K random directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.regions import GatedForm, gated_forward

__all__ = [
    "Alignment",
    "alignment",
    "common_row",
    "expected_reading",
    "gated_jacobian",
    "jacobian_norms",
    "norm_estimate",
    "sphere_directions",
]

_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class Alignment:
    """Of N samples, (N,) float64 each; NaN where a sample's input or Jacobian is zero.

    Attributes:
        centroid: cos(J_xᵀ1, x).
        centroid_inner: ⟨J_xᵀ1, x⟩.
        centroid_norm: ‖J_xᵀ1‖.
        common_row: ‖J_xᵀ1‖ / (√C ‖J_x‖_F), see :func:`common_row`.
        row_max, row_min: the largest and the smallest cosine of a row of J_x with x.
        first_component: σ₁² / Σσ² of J_x, one over its stable rank.
        norm: ‖J_x‖_F.
    """

    centroid: Tensor
    centroid_inner: Tensor
    centroid_norm: Tensor
    common_row: Tensor
    row_max: Tensor
    row_min: Tensor
    first_component: Tensor
    norm: Tensor


def alignment(jacobian: Tensor, x: Tensor) -> Alignment:
    """Every measure of the Jacobians (N, C, d) at the inputs (N, d).

    A row that is zero has no direction and counts in neither extreme.

    Raises:
        ValueError: shapes that do not fit, or entries that are not finite.
    """
    if jacobian.ndim != 3 or x.shape != (jacobian.shape[0], jacobian.shape[2]) or 0 in jacobian.shape[1:]:
        raise ValueError(
            f"alignment: got Jacobians {tuple(jacobian.shape)} and inputs {tuple(x.shape)}, expected (N, C, d) "
            "and (N, d)"
        )
    J, x = jacobian.to(torch.float64), x.to(torch.float64)
    if not (bool(J.isfinite().all()) and bool(x.isfinite().all())):
        raise ValueError("alignment: got entries that are not finite, expected finite ones")
    size = x.norm(dim=1)
    centroid = J.sum(1)
    rows, along = J.norm(dim=2), torch.einsum("ncd,nd->nc", J, x)
    cosines = along / (rows * size[:, None])
    low, high = (cosines.nan_to_num(nan=end) for end in (math.inf, -math.inf))
    least, most = low.amin(1), high.amax(1)
    # the smaller Gram matrix has the same eigenvalues
    gram = J @ J.mT if J.shape[1] <= J.shape[2] else J.mT @ J
    total = rows.square().sum(1)
    inner, length = (centroid * x).sum(1), centroid.norm(dim=1)
    return Alignment(
        centroid=inner / (length * size),
        centroid_inner=inner,
        centroid_norm=length,
        common_row=common_row(J),
        row_max=torch.where(most.isfinite(), most, math.nan),
        row_min=torch.where(least.isfinite(), least, math.nan),
        first_component=torch.linalg.eigvalsh(gram)[:, -1] / total,
        norm=total.sqrt(),
    )


def common_row(jacobian: Tensor) -> Tensor:
    """‖Jᵀ1‖ / (√C ‖J‖_F) of (…, C, d): the share of the part that all rows have in common.

    1 where all rows are equal, 0 where they sum to zero; 1/√C for orthonormal rows. A common row moves no
    probability, so a value of 0.01 says that what :attr:`Alignment.centroid` reads is what is left over.
    """
    J = jacobian.to(torch.float64)
    return J.sum(-2).norm(dim=-1) / (J.shape[-2] ** 0.5 * J.flatten(-2).norm(dim=-1))


def _slopes(form: GatedForm, z: Tensor) -> list[Tensor]:
    """φ' at every hidden layer, (N, d_l) each."""
    before, _ = gated_forward(form, z)
    if form.activation == "relu":
        return [(pre > 0).to(torch.float64) for pre in before]
    # the derivative of x Φ(x) is Φ(x) + x φ(x)
    density = 1 / math.sqrt(2 * math.pi)
    return [
        0.5 * (1 + torch.erf(pre / math.sqrt(2))) + pre * density * torch.exp(-0.5 * pre.square())
        for pre in before
    ]


def gated_jacobian(form: GatedForm, z: Tensor) -> Tensor:
    """(N, C, d_0): ∂logits/∂z of a gated form at z (N, d_0); at a kink of ReLU the closed gate's.

    Raises:
        ValueError: z is not (N, d_0).
    """
    slopes = _slopes(form, z)
    found = form.head.mT.expand(len(z), -1, -1)
    for weight, slope in zip(reversed(form.weights), reversed(slopes), strict=True):
        found = (found * slope[:, None]) @ weight.mT
    return found if form.direct is None else found + form.direct.mT


def jacobian_norms(form: GatedForm, z: Tensor) -> Tensor:
    """(N,): ‖∂logits/∂z‖_F, for one hidden layer without a bypass from the gates alone.

    There ‖J‖² = gᵀ((U Uᵀ) ∘ (WᵀW))g with the slopes g, two products of the size of the hidden layer for all classes
    and inputs together.

    Raises:
        ValueError: z is not (N, d_0).
    """
    if len(form.weights) == 1 and form.direct is None:
        (slope,) = _slopes(form, z)
        both = (form.head @ form.head.mT) * (form.weights[0].mT @ form.weights[0])
        # rounding may leave a square of a Jacobian that is zero below zero
        return ((slope @ both) * slope).sum(1).clamp(min=0).sqrt()
    rows = max(1, _BLOCK // (form.n_classes * max(w.shape[0] for w in form.weights)))
    return torch.cat([gated_jacobian(form, part).flatten(1).norm(dim=1) for part in z.split(rows)])


def sphere_directions(count: int, outputs: int, generator: torch.Generator) -> Tensor:
    """(K, C) directions, uniform on the unit sphere, drawn in float64 on the CPU.

    Raises:
        ValueError: no direction, or no outputs.
    """
    if min(count, outputs) < 1:
        raise ValueError(
            f"sphere_directions: got {count} directions in {outputs} outputs, expected at least one of each"
        )
    drawn = torch.randn(count, outputs, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def norm_estimate(pull: Callable[[Tensor], Tensor], directions: Tensor) -> Tensor:
    """(N,): √((C/K) Σ_k ‖J_xᵀv_k‖²), an estimate of ‖J_x‖_F (the regulariser of arXiv 2506.12284).

    The square is unbiased. The root reads low: see :func:`expected_reading`.

    Args:
        pull: takes a direction (C,) to J_xᵀv of every sample, (N, d).
        directions: (K, C) on the unit sphere.
    """
    squares = torch.stack([pull(direction).square().sum(1) for direction in directions]).mean(0)
    return (directions.shape[1] * squares).sqrt()


def expected_reading(outputs: int) -> float:
    """The mean of :func:`norm_estimate` for a Jacobian of rank one and one direction, as a share of its norm.

    √C E|v₁| = √C Γ(C/2) / (√π Γ((C + 1)/2)); it falls to √(2/π). Orthonormal rows are read exactly.

    Raises:
        ValueError: no outputs.
    """
    if outputs < 1:
        raise ValueError(f"expected_reading: got {outputs} outputs, expected at least one")
    return math.sqrt(outputs / math.pi) * math.exp(math.lgamma(outputs / 2) - math.lgamma((outputs + 1) / 2))
