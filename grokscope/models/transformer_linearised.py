"""Logits and pullback of a :class:`~grokscope.models.transformer.Transformer` without norms and biases, by hand.

With one layer, read at the last position, keys and values are rows of tables over residues and the query is one
vector. So the attention weights of a pair need two table rows a head, and everything that attention writes is
known before the pairs are: the values go through W_O W_in to the neurons and through W_O W_U to the logits as
tables, p rows each instead of N. What is left per pair is the weighted sum of eight rows, the activation, and
one matrix product with W_out W_U.

Shape legend: … runs (or none), N samples, C classes, p residues, d model or embedding width, h neurons of a layer,
m neurons of the transformer, H heads, k head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grokscope.models.anatomy import (
    Linearised,
    Params,
    Pullback,
    activate_in_place,
    activation_pullback,
    scaled,
)
from grokscope.models.operand_rows import OperandRows

if TYPE_CHECKING:
    from grokscope.models.transformer import Transformer

ATTENTION = "blocks.0.attn."


def linearised(model: Transformer, inputs: Tensor) -> Linearised:
    """Logits and pullback on ``inputs`` (…, N, 2)."""
    settings, p = model.settings, model.n_tokens
    assert p is not None
    heads, k, n_classes = settings.n_heads, model.d_head, model.n_classes
    rows, rows_by_head = OperandRows(inputs, p), OperandRows(inputs, p, heads)
    scale = k**-0.5

    def at(params: Params) -> tuple[Tensor, Pullback]:
        table, position = params["embed.W_E"], params["pos_embed.W_pos"]
        last = table[..., p, :] + position[..., 2, :]
        # (…, 2p + 1, d): a at position 0, b at position 1, "=" at position 2
        residual = torch.cat(
            [
                table[..., :p, :] + position[..., :1, :],
                table[..., :p, :] + position[..., 1:2, :],
                last[..., None, :],
            ],
            dim=-2,
        )
        w_q, w_k, w_v = (_by_row(params[f"{ATTENTION}W_{x}"]) for x in "QKV")
        w_o = params[f"{ATTENTION}W_O"].flatten(-3, -2)
        w_in, w_out = params["blocks.0.mlp.W_in"], params["blocks.0.mlp.W_out"]
        head = params["unembed.W_U"]
        used = scaled(model.output_scale, head if head.shape[-1] == n_classes else head[..., :n_classes])

        query = (last[..., None, :] @ w_q).unflatten(-1, (heads, k))
        key = (residual @ w_k).unflatten(-1, (heads, k))
        scores = (key * query).sum(-1) * scale  # (…, 2p + 1, H)
        weights = _softmax(rows, scores)  # (…, N, 2, H): of a and of b; "=" has the rest

        value = (residual @ w_v).unflatten(-1, (heads, k))
        relative = value[..., :-1, :, :] - value[..., -1:, :, :]  # (…, 2p, H, k): beyond what "=" gives
        to_neurons, to_logits = w_o @ w_in, w_o @ used  # (…, H·k, m) and (…, H·k, C)
        neuron_table = _through_heads(relative, to_neurons)
        logit_table = _through_heads(relative, to_logits)
        from_last = value[..., -1, :, :].flatten(-2)[..., None, :] @ w_o + last[..., None, :]  # (…, 1, d)

        pre = rows_by_head.gather_weighted(neuron_table, weights)
        pre += from_last @ w_in
        pre, post = activate_in_place(settings.activation, pre)
        folded = w_out @ used
        logits = rows_by_head.gather_weighted(logit_table, weights)
        logits += from_last @ used
        logits += post @ folded

        def pullback(delta: Tensor) -> Params:
            # the same product the other way round: the BLAS splits the long axis better so
            d_folded = (delta.mT @ post).mT
            d_pre = activation_pullback(settings.activation, pre, post, delta @ folded.mT)
            d_neuron_table = rows_by_head.scatter_weighted(d_pre, weights)
            d_logit_table = rows_by_head.scatter_weighted(delta, weights)
            d_weights = rows_by_head.products(neuron_table, d_pre)
            d_weights += rows_by_head.products(logit_table, delta)
            d_scores = _softmax_pullback(rows, weights, d_weights)

            pre_sum, logit_sum = d_pre.sum(-2, keepdim=True), delta.sum(-2, keepdim=True)
            d_relative, d_to_neurons = _through_heads_pullback(relative, to_neurons, d_neuron_table)
            more, d_to_logits = _through_heads_pullback(relative, to_logits, d_logit_table)
            d_relative += more
            d_from_last = pre_sum @ w_in.mT + logit_sum @ used.mT
            d_in = w_o.mT @ d_to_neurons + from_last.mT @ pre_sum
            d_used = w_o.mT @ d_to_logits + from_last.mT @ logit_sum + w_out.mT @ d_folded
            last_value = value[..., -1, :, :].flatten(-2)[..., None, :]
            d_o = d_to_neurons @ w_in.mT + d_to_logits @ used.mT + last_value.mT @ d_from_last
            d_last_value = (d_from_last @ w_o.mT).unflatten(-1, (heads, k))
            d_value = torch.cat([d_relative, d_last_value - d_relative.sum(-3, keepdim=True)], dim=-3)

            d_scores = d_scores[..., None] * scale
            d_key = (d_scores * query).flatten(-2)
            d_query = (d_scores * key).sum(-3, keepdim=True).flatten(-2)
            d_value = d_value.flatten(-2)
            d_residual = d_key @ w_k.mT + d_value @ w_v.mT
            d_last = d_residual[..., -1:, :] + d_query @ w_q.mT + d_from_last
            d_table = torch.cat([d_residual[..., :p, :] + d_residual[..., p : 2 * p, :], d_last], dim=-2)
            d_position = torch.cat(
                [
                    d_residual[..., :p, :].sum(-2, keepdim=True),
                    d_residual[..., p:-1, :].sum(-2, keepdim=True),
                    d_last,
                ],
                dim=-2,
            )
            d_used = scaled(model.output_scale, d_used)
            if head.shape[-1] != n_classes:
                d_used = torch.nn.functional.pad(d_used, (0, head.shape[-1] - n_classes))
            return {
                "embed.W_E": d_table,
                "pos_embed.W_pos": d_position,
                f"{ATTENTION}W_Q": _by_head(last[..., None, :].mT @ d_query, heads),
                f"{ATTENTION}W_K": _by_head(residual.mT @ d_key, heads),
                f"{ATTENTION}W_V": _by_head(residual.mT @ d_value, heads),
                f"{ATTENTION}W_O": d_o.unflatten(-2, (heads, k)),
                "blocks.0.mlp.W_in": d_in,
                "blocks.0.mlp.W_out": d_folded @ used.mT,
                "unembed.W_U": d_used,
            }

        return logits, pullback

    return at


def _by_row(weight: Tensor) -> Tensor:
    """(…, d, H·k) of a projection (…, H, d, k)."""
    return weight.transpose(-3, -2).flatten(-2)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """(…, H, d, k) of a projection (…, d, H·k)."""
    return weight.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _through_heads(values: Tensor, matrix: Tensor) -> Tensor:
    """(…, 2p, H, w): each head's ``values`` (…, 2p, H, k) by its rows of ``matrix`` (…, H·k, w)."""
    heads, k = values.shape[-2:]
    return (values.transpose(-3, -2) @ matrix.unflatten(-2, (heads, k))).transpose(-3, -2)


def _through_heads_pullback(values: Tensor, matrix: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in the values and the matrix of :func:`_through_heads` from ``above`` (…, 2p, H, w)."""
    heads, k = values.shape[-2:]
    above = above.transpose(-3, -2)
    d_values = (above @ matrix.unflatten(-2, (heads, k)).mT).transpose(-3, -2)
    return d_values, (values.transpose(-3, -2).mT @ above).flatten(-3, -2)


def _softmax(rows: OperandRows, scores: Tensor) -> Tensor:
    """(…, N, 2, H): attention weights of a and b from table scores (…, 2p + 1, H), the last row being "="."""
    pair = rows.select(scores[..., :-1, :])
    last = scores[..., -1, :][..., None, None, :].expand(*pair.shape[:-2], 1, pair.shape[-1])
    return torch.softmax(torch.cat([pair, last], dim=-2), dim=-2)[..., :2, :].contiguous()


def _softmax_pullback(rows: OperandRows, weights: Tensor, above: Tensor) -> Tensor:
    """(…, 2p + 1, H): the gradient in the scores, from the one in the weights of a and b (…, N, 2, H)."""
    inner = (weights * above).sum(-2, keepdim=True)
    found = weights * (above - inner)
    # the weights of the three tokens sum to 1, so what a and b lose "=" gains
    last = -found.sum(dim=(-3, -2)).unsqueeze(-2)
    return torch.cat([rows.collect(found), last], dim=-2)
