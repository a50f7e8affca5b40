"""Logits of a :class:`~grokscope.models.transformer.Transformer` on the grid of all pairs, block by block.

Scores and values are tables over residues, so a block of rows a holds the weights and the mixed values of its
pairs alone; without LayerNorm what attention writes goes to neurons and logits by folded matrices. The same
numbers as ``forward_grid`` gives, up to the rounding of other block sizes.

Shape legend: n rows a of a block, p residues, H heads, k head width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grokscope.measures.blocks import block_rows, block_slices
from grokscope.models.anatomy import Params, activate

if TYPE_CHECKING:
    from grokscope.models.transformer import Transformer

ATTENTION = "blocks.0.attn."


def logit_blocks(model: Transformer, params: Params) -> Iterator[tuple[slice, Tensor]]:
    """(rows, logits (n·p, C)) of all pairs, in order."""
    p, s = model.n_tokens, model.settings
    assert p is not None
    mixed_of, logits_of = _mixed(model, params), _logits(model, params)
    for of_a in block_slices(p, max(1, block_rows(max(s.d_mlp, s.d_model)) // p)):
        yield slice(of_a.start * p, of_a.stop * p), logits_of(mixed_of(of_a))


def _mixed(model: Transformer, params: Params) -> Callable[[slice], Tensor]:
    """(n·p, H·k): attention-weighted values of the pairs of some a with every b."""
    t = model._tables(params)

    def mixed(of_a: slice) -> Tensor:
        scores = (t.score_a[of_a, None], t.score_b[None], t.score_eq)
        top = torch.maximum(torch.maximum(scores[0], scores[1]), scores[2])
        weights = [(score - top).exp_() for score in scores]
        total = weights[0] + weights[1] + weights[2]
        of_first, of_second, of_eq = (weight.div_(total)[..., None] for weight in weights)
        found = of_first * t.value_a[of_a, None]
        found.addcmul_(of_second, t.value_b[None]).addcmul_(of_eq, t.value_eq)
        return found.flatten(2).flatten(0, 1)

    return mixed


def _logits(model: Transformer, params: Params) -> Callable[[Tensor], Tensor]:
    """From mixed values (N, H·k) to logits (N, C), matrices folded where no norm is between them."""
    s, residual = model.settings, model._tables(params).residual
    if s.layer_norm:
        return lambda mixed: model.from_z(params, model._attended(params, mixed, residual))
    w_o, (w_u, bias) = model._output_matrix(params), model._read(params)
    w_in, w_out = params["blocks.0.mlp.W_in"], params["blocks.0.mlp.W_out"]
    if s.biases:
        residual = residual + params[f"{ATTENTION}b_O"]
    to_neurons, to_logits, folded = w_o @ w_in, w_o @ w_u, w_out @ w_u
    in_offset, out_offset = residual @ w_in, residual @ w_u
    if bias is not None:
        in_offset = in_offset + params["blocks.0.mlp.b_in"]
        out_offset = out_offset + params["blocks.0.mlp.b_out"] @ w_u + bias

    def logits(mixed: Tensor) -> Tensor:
        pre = torch.addmm(in_offset, mixed, to_neurons)
        hidden = torch.relu_(pre) if s.activation == "relu" else activate(s.activation, pre)
        return torch.addmm(out_offset, mixed, to_logits).addmm_(hidden, folded)

    return logits
