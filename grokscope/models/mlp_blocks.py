"""Logits and first pre-activations of an :class:`~grokscope.models.mlp.MLP`, block by block.

The first pre-activation of a pair is A[a] + B[b] with tables over residues, so no sample's embedding is multiplied.
The same numbers as ``forward`` gives, up to the rounding of other block sizes.

Shape legend: n samples of a block, p residues, C classes, h neurons of the first hidden layer, d width of z.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from grokscope.measures.blocks import FirstLayer, block_rows, block_slices
from grokscope.models.anatomy import Params, activate

if TYPE_CHECKING:
    from grokscope.models.mlp import MLP


def logit_blocks(model: MLP, params: Params, inputs: Tensor, grid: bool) -> Iterator[tuple[slice, Tensor]]:
    """(rows, logits (n, C)) of ``inputs`` (N, 2) in order, which are all pairs where ``grid`` says so."""
    assert model.n_tokens is not None
    rows = block_rows(max(model.settings.hidden))
    if grid:
        rows = max(1, rows // model.n_tokens) * model.n_tokens
        sums = _grid_sums(model, params, rows)
    else:
        sums = _sums(model, params, inputs)
    relu = model.settings.activation == "relu"
    for part in block_slices(len(inputs), rows):
        last = model._after_first(params, sums(part))
        hidden = torch.relu_(last) if relu else activate(model.settings.activation, last)
        yield part, model._head(params, hidden)


def first_layer(model: MLP, params: Params, inputs: Tensor) -> FirstLayer:
    """What any of ``inputs`` (N, 2) brings to the first layer."""
    return FirstLayer(lambda rows: model.combined(params, inputs[rows]), _sums(model, params, inputs))


def _sums(model: MLP, params: Params, inputs: Tensor) -> Callable[[slice | Tensor], Tensor]:
    """A[a] + B[b] of any rows of ``inputs``: a bag of two rows of one table."""
    assert model.n_tokens is not None
    tables = model.first_layer_tables(params)
    bags = inputs + torch.tensor([0, model.n_tokens], device=inputs.device)
    return lambda rows: embedding_bag(bags[rows], tables, mode="sum")


def _grid_sums(model: MLP, params: Params, rows: int) -> Callable[[slice], Tensor]:
    """A[a] + B[b] of all b for some a, in one place that every block overwrites."""
    of_a, of_b = model._tables(params)
    p, width = of_b.shape
    place = of_b.new_empty(rows // p, p, width)

    def sums(part: slice) -> Tensor:
        chosen = of_a[part.start // p : part.stop // p, None]
        return torch.add(chosen, of_b, out=place[: len(chosen)]).flatten(0, 1)

    return sums
