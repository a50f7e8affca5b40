"""What chance gives: a measure on random weights of the same shapes, as a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    low, median, high = torch.quantile(torch.stack(draws), levels, dim=0)
    return NullBand(low, median, high)


def random_matrix_null(
    shape: Sequence[int], quantity: Callable[[Tensor], Tensor], samples: int = 32, seed: int = 0
) -> NullBand:
    """`null_band` of a measure of one matrix."""
    return null_band(quantity, [shape], samples=samples, seed=seed)
