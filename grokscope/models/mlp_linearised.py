"""Logits and pullback of an :class:`~grokscope.models.mlp.MLP`, by hand.

The first layer sees a pair through tables over residues: its pre-activation is A[a] + B[b], so its cost, forward
and back, does not grow with the embedding's width.

Shape legend: … runs (or none), N samples, C classes, p residues, d model or embedding width, h neurons of a layer,
m neurons of the transformer, H heads, k head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grokscope.models.anatomy import Linearised, Params, Pullback, activate_in_place, activation_pullback
from grokscope.models.operand_rows import OperandRows

if TYPE_CHECKING:
    from grokscope.models.mlp import MLP


def linearised(model: MLP, inputs: Tensor) -> Linearised:
    """Logits and pullback on ``inputs`` (…, N, 2)."""
    assert model.n_tokens is not None
    rows, settings = OperandRows(inputs, model.n_tokens), model.settings
    layers = range(2, len(settings.hidden) + 1)

    def at(params: Params) -> tuple[Tensor, Pullback]:
        pre = rows.gather(model.first_layer_tables(params))
        passed: list[tuple[Tensor, Tensor]] = []
        for layer in layers:
            passed.append(activate_in_place(settings.activation, pre))
            pre = passed[-1][1] @ params[f"hidden.{layer}.W"]
            if settings.hidden_bias:
                pre += params[f"hidden.{layer}.b"].unsqueeze(-2)
        passed.append(activate_in_place(settings.activation, pre))
        first, head = settings.out_offset, params["head.W_U"]
        whole = head.shape[-1] == model.n_classes
        used = head if whole else head[..., first : first + model.n_classes]
        logits = passed[-1][1] @ used
        if settings.head_bias:
            logits += params["head.b_U"][..., first : first + model.n_classes].unsqueeze(-2)
        if settings.output_scale != 1.0:
            logits = settings.output_scale * logits

        def pullback(delta: Tensor) -> Params:
            if settings.output_scale != 1.0:
                delta = settings.output_scale * delta
            grads: Params = {}
            # the same product the other way round: the BLAS splits the long axis better so
            head_grad = (delta.mT @ passed[-1][1]).mT
            grads["head.W_U"] = head_grad if whole else _placed(head, head_grad, first, -1)
            if settings.head_bias:
                bias = params["head.b_U"]
                grads["head.b_U"] = _placed(bias, delta.sum(-2), first, -1)
            above = delta @ used.mT
            for layer in reversed(layers):
                above = activation_pullback(settings.activation, *passed[layer - 1], above)
                grads[f"hidden.{layer}.W"] = passed[layer - 2][1].mT @ above
                if settings.hidden_bias:
                    grads[f"hidden.{layer}.b"] = above.sum(-2)
                above = above @ params[f"hidden.{layer}.W"].mT
            above = activation_pullback(settings.activation, *passed[0], above)
            return grads | model.first_layer_pullback(params, rows.scatter(above))

        return logits, pullback

    return at


def _placed(whole: Tensor, part: Tensor, start: int, dim: int) -> Tensor:
    """``part`` within zeros of the shape of ``whole``, from ``start`` on along ``dim``."""
    found = torch.zeros_like(whole)
    found.narrow(dim, start, part.shape[dim]).copy_(part)
    return found
