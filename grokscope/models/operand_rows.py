"""Sums over the rows that the operands of each sample select from a table, and their transposes.

A layer that sees a pair (a, b) only through rows of a table over residues costs one gather a sample, and its
gradient one sum a residue, where the same layer on gathered vectors costs a matrix product each. Both are
embedding bags: forward a bag holds the two rows of a sample, backward the samples of a row.

Shape legend: … runs (or none), N samples, p residues, H heads, w width of a row.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_SUM = 0
"""ATen's number of a bag that sums."""


class OperandRows:
    """Rows a and p + b of tables (…, 2p, w), for pairs (…, N, 2) int64 of residues in [0, p).

    With ``heads`` every operand selects one row a head, from tables (…, 2p, H, w), and the sums are weighted
    sample by sample and head by head.
    """

    def __init__(self, inputs: Tensor, n_tokens: int, heads: int = 1) -> None:
        self.lead, self.samples, self.rows, self.heads = (
            inputs.shape[:-2],
            inputs.shape[-2],
            2 * n_tokens,
            heads,
        )
        runs, count = math.prod(self.lead), self.samples
        device = inputs.device
        run = torch.arange(runs, device=device)[:, None, None] * self.rows
        row = inputs.reshape(runs, count, 2) + run + torch.tensor([0, n_tokens], device=device)
        head = torch.arange(heads, device=device)
        # (runs, N, 2, H): table rows, sample by sample
        self._row = (row[..., None] * heads + head).reshape(-1)
        self._bag = torch.arange(runs * count, device=device).repeat_interleave(2 * heads)
        self._start = torch.arange(0, runs * count * 2 * heads, 2 * heads, device=device)

    @cached_property
    def _place(self) -> Tensor:
        # the transpose: the places of each table row, in the order of the samples
        return torch.argsort(self._row, stable=True)

    @cached_property
    def _sample(self) -> Tensor:
        return self._place // (2 * self.heads)

    @cached_property
    def _row_start(self) -> Tensor:
        sizes = torch.bincount(self._row, minlength=math.prod(self.lead) * self.rows * self.heads)
        return sizes.cumsum(0) - sizes

    def gather(self, tables: Tensor) -> Tensor:
        """(…, N, w): the sum of both operands' rows of ``tables`` (…, 2p, w)."""
        width = tables.shape[-1]
        found = embedding_bag(self._row, tables.reshape(-1, width), self._start, mode="sum")
        return found.view(*self.lead, self.samples, width)

    def scatter(self, values: Tensor) -> Tensor:
        """(…, 2p, w): the transpose of :meth:`gather`, the sum of ``values`` (…, N, w) over the samples of a row."""
        width = values.shape[-1]
        found = embedding_bag(self._sample, values.reshape(-1, width), self._row_start, mode="sum")
        return found.view(*self.lead, self.rows, width)

    def select(self, tables: Tensor) -> Tensor:
        """(…, N, 2, w): both operands' rows of ``tables`` (…, 2p, w), one beside the other."""
        width = tables.shape[-1]
        found = tables.reshape(-1, width).index_select(0, self._row)
        return found.view(*self.lead, self.samples, 2, width)

    def collect(self, values: Tensor) -> Tensor:
        """(…, 2p, w): the transpose of :meth:`select`."""
        width = values.shape[-1]
        found = embedding_bag(self._place, values.reshape(-1, width), self._row_start, mode="sum")
        return found.view(*self.lead, self.rows, width)

    def gather_weighted(self, tables: Tensor, weights: Tensor) -> Tensor:
        """(…, N, w): Σ over operands and heads of ``weights`` (…, N, 2, H) times rows of ``tables`` (…, 2p, H, w)."""
        width = tables.shape[-1]
        found = embedding_bag(
            self._row,
            tables.reshape(-1, width),
            self._start,
            mode="sum",
            per_sample_weights=weights.reshape(-1),
        )
        return found.view(*self.lead, self.samples, width)

    def scatter_weighted(self, values: Tensor, weights: Tensor) -> Tensor:
        """(…, 2p, H, w): the transpose of :meth:`gather_weighted` in the tables."""
        width = values.shape[-1]
        found = embedding_bag(
            self._sample,
            values.reshape(-1, width),
            self._row_start,
            mode="sum",
            per_sample_weights=weights.reshape(-1)[self._place],
        )
        return found.view(*self.lead, self.rows, self.heads, width)

    def products(self, tables: Tensor, values: Tensor) -> Tensor:
        """(…, N, 2, H): the transpose of :meth:`gather_weighted` in the weights, rows · ``values`` (…, N, w)."""
        width = tables.shape[-1]
        # what autograd calls for the weights of a bag, without the forward pass that it would need first
        found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            values.reshape(-1, width), tables.reshape(-1, width), self._row, self._start, self._bag, _SUM, -1
        )
        return found.view(*self.lead, self.samples, 2, self.heads)
