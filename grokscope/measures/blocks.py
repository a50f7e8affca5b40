"""Samples in blocks that stay in a core's cache.

Arrays over all p² inputs are large: writing one and reading it back costs more than the arithmetic between. What
samples share is computed once, and what is left is done block by block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

__all__ = ["BLOCK_BYTES", "FirstLayer", "block_rows", "block_slices"]

BLOCK_BYTES = 2 * 2**20
"""The widest array of a block, as large as a common second-level cache."""


def block_rows(width: int) -> int:
    """How many samples of ``width`` float64 numbers make a block."""
    return max(1, BLOCK_BYTES // (8 * max(width, 1)))


def block_slices(count: int, rows: int) -> Iterator[slice]:
    """``count`` samples in blocks of ``rows``."""
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


@dataclass(frozen=True)
class FirstLayer:
    """What any rows (a slice or indices) of fixed inputs bring to the first layer of a gated form.

    Attributes:
        z: rows → (n, d_0), the combined inputs.
        pre: rows → (n, d_1), the pre-activations of the first layer.
    """

    z: Callable[[slice | Tensor], Tensor]
    pre: Callable[[slice | Tensor], Tensor]
