"""Patterns of open gates as packed bits, an eighth of the bytes: the quick way of `gate_patterns`.

Bits are kept as a (N, bytes) uint8 array on the CPU; every layer starts a byte of its own and is padded with
closed gates, which no count sees. Two samples have the same pattern where their bytes agree.

Shape suffixes: N samples, d_l width of hidden layer l.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Bits",
    "closed_everywhere",
    "distinct",
    "flips",
    "layer_bytes",
    "open_counts",
    "pack_layer",
    "unpack",
]

Bits = NDArray[np.uint8]

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
"""The number of open gates in every byte."""


def layer_bytes(width: int) -> int:
    """How many bytes a layer of ``width`` gates takes."""
    return -(-width // 8)


def pack_layer(pre_activations: Tensor) -> Bits:
    """The gates 1[pre > 0] of one layer.

    Args:
        pre_activations: (N, d_l) on the CPU, none of them NaN.

    Returns:
        (N, ⌈d_l/8⌉).
    """
    # numpy compares ten times as fast as torch does
    return np.packbits(pre_activations.detach().numpy() > 0, axis=1)


def unpack(bits: Bits, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """The patterns as one (N, d_l) bool tensor per layer, as `regions.gates` returns them."""
    layers, start = [], 0
    for width in widths:
        stop = start + layer_bytes(width)
        found = np.unpackbits(bits[:, start:stop], axis=1, count=width)
        layers.append(torch.from_numpy(found.view(np.bool_)))
        start = stop
    return tuple(layers)


def distinct(bits: Bits) -> int:
    """Number of distinct patterns, compared byte by byte and not by a hash."""
    rows = np.ascontiguousarray(bits).view(f"V{bits.shape[1]}")[:, 0] if bits.size else bits
    return len(set(rows.tolist()))


def open_counts(bits: Bits, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """For how many samples each gate is open, one (d_l,) int64 tensor per layer."""
    totals = np.zeros(8 * bits.shape[1], np.int64)
    for start in range(0, len(bits), 255):  # so many ones fit into a byte
        part = np.unpackbits(bits[start : start + 255], axis=1)
        totals += np.add.reduce(part, axis=0, dtype=np.uint8)
    layers, start = [], 0
    for width in widths:
        layers.append(torch.from_numpy(totals[start : start + width].copy()))
        start += 8 * layer_bytes(width)
    return tuple(layers)


def closed_everywhere(counts: Sequence[Tensor]) -> int:
    """Number of gates, over all layers, that are open for no sample, from `open_counts`."""
    return sum(int((count == 0).sum()) for count in counts)


def flips(before: Bits, after: Bits) -> tuple[int, NDArray[np.bool_]]:
    """The number of (sample, gate) entries that differ between two saves, and which samples have one, (N,).

    Raises:
        ValueError: bits of different shapes.
    """
    if before.shape != after.shape:
        raise ValueError(f"flips: got bits {before.shape} and {after.shape}, expected equal shapes")
    changed = before ^ after
    return int(_ONES[changed].sum()), np.asarray(changed.any(axis=1))
