"""Gradient of an :class:`~grokscope.models.mlp.MLP` with the size of every sample's share, in one pass.

Forward and back in blocks of samples that stay in the cache: what the gradient needs of a block, the norms of the
per-sample gradients need too. The first layer is a sum of table rows, so its gradient is a sum over the samples of
a row. The same numbers as ``linearised`` and ``per_sample_account``, up to rounding.

Shape legend: N samples, n of a block, C classes, p residues, h neurons of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grokscope.measures.blocks import block_rows, block_slices
from grokscope.measures.chain_rule import SampleNorms, operand_norms
from grokscope.measures.sample_gradients import row_norms
from grokscope.models.anatomy import Params, activate, activation_pullback
from grokscope.models.mlp_blocks import first_layer

if TYPE_CHECKING:
    from grokscope.models.mlp import MLP

DeltaOf = Callable[[slice, Tensor], Tensor]


def gradient_with_norms(
    model: MLP, params: Params, inputs: Tensor, delta_of: DeltaOf
) -> tuple[Params, SampleNorms]:
    """Σ_i ∇ℓ_i by tensor, and the norms of what each sample brings to it.

    Args:
        inputs: (N, 2).
        delta_of: rows and their logits (n, C) → (n, C), the gradient of each sample's loss in its logits.
    """
    s, p = model.settings, model.n_tokens
    assert p is not None
    depth = len(s.hidden)
    weights = [params[f"hidden.{layer}.W"] for layer in range(1, depth + 1)]
    biases = [params.get(f"hidden.{layer}.b") for layer in range(1, depth + 1)]
    first, head = first_layer(model, params, inputs), model._unembed(params)
    tables = torch.zeros(2 * p, s.hidden[0], dtype=torch.float64)
    sums = [torch.zeros_like(weight) for weight in weights[1:]]
    bias_sums = [torch.zeros_like(weight[0]) for weight in weights[1:]]
    head_sum, head_bias_sum = torch.zeros_like(head), torch.zeros_like(head[0])
    norms: list[list[Tensor]] = [[] for _ in range(2 * depth + 3)]
    same = None if model.separate_embeddings else inputs[:, 0] == inputs[:, 1]
    for rows in block_slices(len(inputs), block_rows(max(s.hidden))):
        z = first.z(rows)
        pre = first.pre(rows)
        passed = [(pre, activate(s.activation, pre))]
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            pre = passed[-1][1] @ weight
            if bias is not None:
                pre += bias
            passed.append((pre, activate(s.activation, pre)))
        delta = delta_of(rows, model._head(params, passed[-1][1]))
        norms[0].append(row_norms(delta))
        for place, values in enumerate([z, *(post for _, post in passed)], start=1):
            norms[place].append(row_norms(values))
        head_sum.addmm_(passed[-1][1].T, delta)
        head_bias_sum += delta.sum(0)
        above = delta @ head.T
        if s.output_scale != 1.0:
            above *= s.output_scale
        for layer in range(depth - 1, -1, -1):
            above = activation_pullback(s.activation, *passed[layer], above)
            norms[depth + 2 + layer].append(row_norms(above))
            if layer:
                sums[layer - 1].addmm_(passed[layer - 1][1].T, above)
                bias_sums[layer - 1] += above.sum(0)
                above = above @ weights[layer].T
        tables.index_add_(0, inputs[rows, 0], above).index_add_(0, inputs[rows, 1] + p, above)
        if not model.one_hot:
            equal = None if same is None else same[rows]
            norms[-1].append(operand_norms(above @ weights[0].T, model.combine, equal))
    grads = model.first_layer_pullback(params, tables)
    for layer in range(2, depth + 1):
        grads[f"hidden.{layer}.W"] = sums[layer - 2]
        if s.hidden_bias:
            grads[f"hidden.{layer}.b"] = bias_sums[layer - 2]
    columns = slice(s.out_offset, s.out_offset + model.n_classes)
    for name, part in (("head.W_U", head_sum), ("head.b_U", head_bias_sum)):
        if name in params:
            grads[name] = torch.zeros_like(params[name])
            grads[name][..., columns] = s.output_scale * part
    joined = [torch.cat(parts) if parts else None for parts in norms]
    return grads, SampleNorms(
        delta=_known(joined[0]),
        inputs=tuple(_known(part) for part in joined[1 : depth + 2]),
        above=tuple(_known(part) for part in joined[depth + 2 : 2 * depth + 2]),
        embedding=joined[-1],
    )


def _known(values: Tensor | None) -> Tensor:
    assert values is not None
    return values
