"""Activations of a network's last hidden layer one first operand at a time, for sums over all operand pairs.

All pairs at once are p²h numbers; a row of p·h fits into the processor's cache, where sums cost what they should.

Shape legend: p residues, n of them asked for, H heads, k head width, d model width, h neurons of an
MLP, m neurons of the transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from grokscope.errors import Absent
from grokscope.measures.regions import GatedForm, gates
from grokscope.models.anatomy import Activation, Model, Params, activate_in_place
from grokscope.models.mlp import MLP
from grokscope.models.transformer import ATTENTION, Transformer

NeuronRows = Callable[[int], Tensor]
"""The index i of a first operand → (n, h) activations with each second operand; good until the next call."""


_CACHE_BYTES = 512 * 1024
"""What a row of one group of neurons may hold: with the sums that are kept of it, it stays in a core's cache."""

_SAMPLES = 512  # whose pre-activations stay in a core's cache


@dataclass(frozen=True, eq=False)
class NeuronView:
    """What the neurons of the last hidden layer see and do, both operands in the order asked for.

    Attributes:
        inputs: (n, h) each, :meth:`Model.neuron_inputs`: the pre-activation as a function of a and of b.
        rows: one for each group of neurons, in order; see :data:`NeuronRows`. What they give may be overwritten by
            whoever asked, and is by the next call.
    """

    inputs: tuple[Tensor, Tensor]
    rows: tuple[NeuronRows, ...]


def neuron_view(model: Model, params: Params, residues: Tensor) -> NeuronView | Absent:
    """The neurons over ``residues`` (n,) int64, in that order; :meth:`Model.neuron_grid` is the plain way."""
    if isinstance(model, Transformer) and not model.settings.layer_norm:
        attention = Attention(model, params)
        first, second = attention.means()
        groups = [attention.rows(residues, group) for group in _groups(first.shape[1], len(residues))]
    else:
        inputs = model.neuron_inputs(params)
        if isinstance(inputs, Absent):
            return inputs
        first, second = inputs
        if isinstance(model, MLP):
            groups = _of_mlp(model, params, residues)
        else:
            grid = model.neuron_grid(params)
            if isinstance(grid, Absent):
                return grid
            groups = [_of_grid(grid, residues)]
    return NeuronView((first.index_select(0, residues), second.index_select(0, residues)), tuple(groups))


def _groups(width: int, n: int) -> list[slice]:
    size = max(1, _CACHE_BYTES // (8 * max(n, 1)))
    parts = -(-width // size)
    size = -(-width // parts)
    return [slice(start, min(start + size, width)) for start in range(0, width, size)]


def gate_pattern(model: Model, form: GatedForm, params: Params, inputs: Tensor) -> tuple[Tensor, ...]:
    """:func:`~grokscope.measures.regions.gates` of ``inputs`` (N, 2): one (N, d_l) bool tensor a hidden layer.

    ``form`` is the model's gated form. Where a neuron sees the operands as rows of tables no sample's combined
    input is multiplied.

    Raises:
        ValueError: a pre-activation is not a number.
    """
    if isinstance(model, Transformer) and not model.settings.layer_norm:
        attention = Attention(model, params)

        def before(pairs: Tensor) -> Tensor:
            return attention.at(pairs)

    elif isinstance(model, MLP) and len(model.settings.hidden) == 1:
        table = model.first_layer_tables(params)
        of_a, of_b = table.split(len(table) // 2)

        def before(pairs: Tensor) -> Tensor:
            return of_a.index_select(0, pairs[:, 0]).add_(of_b.index_select(0, pairs[:, 1]))
    else:
        return gates(form, model.combined(params, inputs))
    pattern = torch.empty(len(inputs), form.weights[0].shape[1], dtype=torch.bool)
    for part, found in zip(inputs.split(_SAMPLES), pattern.split(_SAMPLES), strict=True):
        pre = before(part)
        if not bool(pre.sum().isfinite()) and bool(pre.isnan().any()):
            raise ValueError("gate pattern: got NaN pre-activations, expected numbers with a sign")
        torch.gt(pre, 0, out=found)
    return (pattern,)


def _of_grid(grid: Tensor, residues: Tensor) -> NeuronRows:
    return lambda index: grid[residues[index]].index_select(0, residues)


def _of_mlp(model: MLP, params: Params, residues: Tensor) -> list[NeuronRows]:
    """Rows of a[i] + b[j], with further layers where there are any."""
    table = model.first_layer_tables(params)
    of_a, of_b = (part.index_select(0, residues) for part in table.split(len(table) // 2))
    if len(model.settings.hidden) == 1:
        groups = _groups(of_a.shape[1], len(residues))
        return [_of_tables(model, of_a[:, group], of_b[:, group].contiguous()) for group in groups]
    buffer = torch.empty_like(of_b)

    def row(index: int) -> Tensor:
        pre = model._after_first(params, torch.add(of_b, of_a[index], out=buffer))
        return activate_in_place(model.settings.activation, pre)[1]

    return [row]


def _of_tables(model: MLP, of_a: Tensor, of_b: Tensor) -> NeuronRows:
    buffer, activation = torch.empty_like(of_b), model.settings.activation
    return lambda index: activate_in_place(activation, torch.add(of_b, of_a[index], out=buffer))[1]


class Attention:
    """What attention brings to the neurons of a one-layer transformer without norms.

    A pair's attention weights w come from two rows a head; what its values bring to a neuron goes through
    W_O W_in as tables, so that the pre-activation is offset + Σ_H w_a A_H[a] + w_b B_H[b], A and B less what
    "=" brings, whose weight is the rest.
    """

    def __init__(self, model: Transformer, params: Params) -> None:
        t, settings = model._tables(params), model.settings
        w_in = params["blocks.0.mlp.W_in"]
        fold = params[f"{ATTENTION}W_O"] @ w_in  # (H, k, m)
        p, heads = t.score_a.shape
        scores = [t.score_a[:, None, :], t.score_b[None, :, :], t.score_eq]
        weights = torch.softmax(torch.stack([score.expand(p, p, heads) for score in scores]), dim=0)
        self.weight_a, self.weight_b = weights[0], weights[1]  # (p, p, H) of pairs (a, b)
        of_equals = t.value_eq[:, None, :] @ fold  # (H, 1, m)
        of_operands = [value.transpose(0, 1) @ fold - of_equals for value in (t.value_a, t.value_b)]
        self._tables = torch.cat(of_operands)
        self.of_a, self.of_b = self._tables.chunk(2)  # (H, p, m)
        residual = t.residual + params[f"{ATTENTION}b_O"] if settings.biases else t.residual
        self.offset = residual @ w_in + of_equals.sum((0, 1))
        if settings.biases:
            self.offset = self.offset + params["blocks.0.mlp.b_in"]
        self.activation: Activation = settings.activation

    def rows(self, residues: Tensor, neurons: slice) -> NeuronRows:
        """Rows of some neurons."""
        # (n, n, H) and, so that a head's weights of a row lie side by side, (n, H, n)
        row_a = self.weight_a.index_select(0, residues).index_select(1, residues)
        row_b = self.weight_b.index_select(0, residues).index_select(1, residues).mT.contiguous()
        first = self.of_a[..., neurons].index_select(1, residues)
        second = self.of_b[..., neurons].index_select(1, residues)
        offset, buffer = self.offset[neurons], first.new_empty(len(residues), first.shape[-1])

        def row(index: int) -> Tensor:
            torch.addmm(offset, row_a[index], first[:, index], out=buffer)
            for weight, values in zip(row_b[index], second, strict=True):
                buffer.addcmul_(weight[:, None], values)
            return activate_in_place(self.activation, buffer)[1]

        return row

    def at(self, inputs: Tensor) -> Tensor:
        """(N, m): the pre-activations of pairs (N, 2)."""
        heads, p, width = self.of_a.shape
        a, b = inputs[:, 0], inputs[:, 1]
        head = torch.arange(heads) * p
        rows = torch.cat([head + a[:, None], head + b[:, None] + heads * p], dim=1)
        weights = torch.cat([self.weight_a[a, b], self.weight_b[a, b]], dim=1)
        tables = self._tables.view(-1, width)
        return embedding_bag(rows, tables, mode="sum", per_sample_weights=weights).add_(self.offset)

    def means(self) -> tuple[Tensor, Tensor]:
        """(p, m) each: the pre-activation of each first operand, and of each second, in the mean over the other."""
        n = len(self.weight_a)
        first, second = self.offset.expand(n, -1).clone(), self.offset.expand(n, -1).clone()
        for head, (of_a, of_b) in enumerate(zip(self.of_a, self.of_b, strict=True)):
            weight_a, weight_b = self.weight_a[..., head] / n, self.weight_b[..., head] / n
            first.addcmul_(weight_a.sum(1)[:, None], of_a).addmm_(weight_b, of_b)
            second.addmm_(weight_a.mT, of_a).addcmul_(weight_b.sum(0)[:, None], of_b)
        return first, second
