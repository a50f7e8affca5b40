"""What tensors show by themselves: equal ones, tables of sinusoids, and how to list them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in shape and in every entry."""
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())


def is_sinusoidal(value: Tensor) -> bool:
    """Whether a tensor is the fixed table of sines and cosines of "Attention is all you need"."""
    if value.ndim not in (2, 3) or not value.dtype.is_floating_point:
        return False
    table = value.squeeze().to(torch.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 4 or table.shape[1] % 2:
        return False
    even = torch.arange(0, table.shape[1], 2, dtype=torch.float64)
    angle = torch.arange(len(table), dtype=torch.float64)[:, None] * 10000.0 ** (-even / table.shape[1])
    return bool(torch.allclose(table, torch.stack([angle.sin(), angle.cos()], -1).flatten(1), atol=1e-4))


def listing(tensors: Mapping[str, Tensor]) -> str:
    """The first few names and shapes, for a message."""
    shown = [f"{name} {tuple(value.shape)}" for name, value in list(tensors.items())[:6]]
    more = f" and {len(tensors) - 6} more" if len(tensors) > 6 else ""
    return f"tensors {', '.join(shown)}{more}"
