"""Frobenius norms of groups of weight tensors.

Scope: the arithmetic only. Which tensors are weight matrices is for the caller to say, by name: a choice by
the number of axes counts two-dimensional biases, and a stored buffer (an attention mask constant, say) can
be larger than all weights together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frobenius_norm(tensor: Tensor, batch_dims: int = 1) -> Tensor:
    """Square root of the sum of squares over all axes after the first ``batch_dims``, in float64.

    Args:
        tensor: (T, ...) with the step axis first; ``batch_dims=0`` for a single tensor.

    Returns:
        (T,), in the tensor's units. Raises ValueError for too few axes or a non-finite entry.
    """
    if not 0 <= batch_dims <= tensor.dim():
        raise ValueError(
            f"frobenius norm: got shape {tuple(tensor.shape)}, expected at least {batch_dims} axes"
        )
    values = tensor.to(torch.float64).reshape(*tensor.shape[:batch_dims], -1)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("frobenius norm: got a tensor with non-finite entries, expected finite values")
    return torch.linalg.vector_norm(values, dim=-1)


def frobenius_total(tensors: Sequence[Tensor], batch_dims: int = 1) -> Tensor:
    """Frobenius norm of several tensors taken as one: sqrt of the sum of all their squares.

    Args:
        tensors: at least one, each (T, ...) with the same step axis; each counted once (pass a tied pair
            once).

    Returns:
        (T,), float64. Raises ValueError for none, for unequal step axes and for non-finite entries.
    """
    if not tensors:
        raise ValueError("total norm: got no tensor, expected at least one weight matrix")
    leading = {tuple(tensor.shape[:batch_dims]) for tensor in tensors}
    if len(leading) != 1:
        raise ValueError(
            f"total norm: got leading shapes {sorted(leading)}, expected one shared by all tensors"
        )
    return torch.linalg.vector_norm(torch.stack([frobenius_norm(t, batch_dims) for t in tensors]), dim=0)
