"""What chance gives: a measure on random weights of the same shapes, as a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = (0.05, 0.5, 0.95)
"""Quantiles of the draws of which a band is made."""


@dataclass(frozen=True, eq=False)
class NullBand:
    """5 %, 50 % and 95 % quantiles of a measure on random matrices, in float64 and the measure's shape."""

    low: Tensor
    median: Tensor
    high: Tensor


def null_band(
    quantity: Callable[..., Tensor],
    shapes: Sequence[Sequence[int]],
    samples: int = 32,
    seed: int = 0,
    scales: Sequence[float] | None = None,
) -> NullBand:
    """The band of a measure on independent Gaussian matrices.

    Drawn on the CPU from a generator of its own, so that a seed means the same everywhere and the global
    random state is left alone.

    Args:
        quantity: called with one float64 matrix per shape; returns a tensor whose shape is the same each
            time.
        shapes: shapes of the matrices that ``quantity`` takes.
        samples: number of draws, at least 2.
        seed: seed of the draws.
        scales: standard deviation of the entries of each matrix; 1 when not given. Only matters for a
            measure that is not scale invariant.

    Raises ValueError for no shape, too few samples, or another number of scales than of shapes.
    """
    if not shapes or samples < 2:
        raise ValueError(f"null band: got {len(shapes)} shapes and {samples} samples, expected >= 1 and >= 2")
    deviations = [1.0] * len(shapes) if scales is None else list(scales)
    if len(deviations) != len(shapes):
        raise ValueError(
            f"null band: got {len(deviations)} scales for {len(shapes)} shapes, expected one per shape"
        )
    generator = torch.Generator().manual_seed(seed)
    draws: list[Tensor] = []
    for _ in range(samples):
        matrices = [
            deviation * torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
            for shape, deviation in zip(shapes, deviations, strict=True)
        ]
        draws.append(torch.as_tensor(quantity(*matrices)).to(torch.float64))
    low, median, high = quantiles_of(torch.stack(draws))
    return NullBand(low, median, high)


def random_matrix_null(
    shape: Sequence[int], quantity: Callable[[Tensor], Tensor], samples: int = 32, seed: int = 0
) -> NullBand:
    """`null_band` of a measure of one matrix."""
    return null_band(quantity, [shape], samples=samples, seed=seed)


def quantiles_of(draws: Tensor) -> Tensor:
    """(3, …): the quantiles ``LEVELS`` of draws (S, …), each entry by itself; float64."""
    values = draws.to(torch.float64)
    return torch.quantile(values, torch.tensor(LEVELS, dtype=torch.float64), dim=0)


def factor_norms(factors: Sequence[Tensor]) -> Tensor:
    """Product of the Frobenius norms of matrices (…, m, n): (…), float64.

    What is of degree p in a product of these factors is of degree p in this number.
    """
    norms = [torch.linalg.matrix_norm(factor.to(torch.float64)) for factor in factors]
    return torch.stack(norms).prod(0)


def band_at_norms(draws: Tensor, degree: float, size: Tensor) -> Tensor:
    """The band of a measure of a product at the norms of each save, of draws at unit norms.

    A measure of degree p in a product is scaled by c₁^p … c_q^p when the factors are scaled by c₁, …, c_q, and so
    is each of its quantiles: random weights need no drawing again for the norms of every save.

    Args:
        draws: (S,) of products whose factors have Frobenius norm 1.
        degree: p, e.g. 1 for a norm and 1/2 for Σσ^{1/2}.
        size: (T,) products of the norms of the factors.

    Returns:
        (T, 3), quantiles last; NaN where ``size`` is not finite.
    """
    scale = size.to(torch.float64).pow(degree)
    band = scale[:, None] * quantiles_of(draws)
    return torch.where(band.isfinite(), band, torch.nan)
