"""The MLP on two residues: embeddings or one-hots, concatenated or summed, then hidden layers and a head.

The first layer is factorised: its pre-activation is A[a] + B[b] + bias with A and B tables over residues,
so that no sample's embedding is ever multiplied twice. The ordinary forward of the tests is its oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding as rows_of
from torch.nn.functional import one_hot

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.blocks import FirstLayer
from grokscope.measures.chain_rule import SampleNorms
from grokscope.measures.regions import GatedForm
from grokscope.models.anatomy import (
    Activation,
    Linearised,
    MapView,
    Model,
    Params,
    Part,
    activate,
    checked_scale,
    draw,
    scaled,
    through_gates,
    why_no_gates,
)
from grokscope.models.mlp_blocks import first_layer, logit_blocks
from grokscope.models.mlp_linearised import linearised
from grokscope.models.mlp_samples import gradient_with_norms


@dataclass(frozen=True)
class MLPSettings:
    """``[model]`` of a recipe: the MLP on operand pairs.

    ``hidden`` lists the widths of the hidden layers. Weights start as N(0, init_scale²/fan_in), the
    embedding as N(0, init_scale²/d_embed), biases at zero.

    With ``inputs`` "one-hot" there is no embedding tensor: the first layer reads the sum or the concatenation
    of the operands' one-hots, plays the part of the embedding, and ``d_embed`` and ``embedding`` say nothing.

    For tables larger than the task: residue x of a is row ``residue_offset`` + x of the ``d_vocab`` rows (or
    one-hot entries; 0 for what is needed), of b ``b_offset`` rows further: 0, or at least the number of
    residues, so that no row serves both. Class c is logit ``out_offset`` + c of ``d_vocab_out`` (0 for what is
    needed). ``output_scale`` is a constant on the logits.
    """

    family: Literal["mlp"] = "mlp"
    d_embed: int = 64
    hidden: tuple[int, ...] = (256,)
    inputs: Literal["embedding", "one-hot"] = "embedding"
    embedding: Literal["shared", "separate"] = "shared"
    combine: Literal["concatenation", "sum"] = "concatenation"
    activation: Activation = "relu"
    hidden_bias: bool = True
    head_bias: bool = False
    d_vocab: int = 0
    residue_offset: int = 0
    b_offset: int = 0
    d_vocab_out: int = 0
    out_offset: int = 0
    output_scale: float = 1.0
    init_scale: float = 1.0


class MLP(Model):
    """The MLP of ``settings`` for operand pairs of ``n_tokens`` residues.

    Raises:
        GrokscopeError: sizes or offsets that do not fit.
    """

    family: ClassVar[str] = "mlp"
    stacks = True

    def __init__(self, settings: MLPSettings, n_tokens: int, n_classes: int) -> None:
        self.settings = settings
        self.combine = settings.combine
        self.n_tokens, self.n_classes = n_tokens, n_classes
        self.n_layers = len(settings.hidden) + 1
        self.output_scale = settings.output_scale
        self.one_hot = settings.inputs == "one-hot"
        vocab, out = self._sizes(settings, n_tokens, n_classes)
        self._vocab = vocab
        self._first_rows = (settings.residue_offset, settings.residue_offset + settings.b_offset)
        separate = settings.combine == "concatenation" if self.one_hot else settings.embedding == "separate"
        self.separate_embeddings = separate or settings.b_offset != 0
        d = vocab if self.one_hot else settings.d_embed
        names = ("embed_a.W_E", "embed_b.W_E") if separate else ("embed.W_E", "embed.W_E")
        self._embedding_names = names
        parts = []
        if not self.one_hot:
            parts += [Part(name, (vocab, d), "matrix", "embedding") for name in dict.fromkeys(names)]
        width = 2 * d if settings.combine == "concatenation" else d
        self.z_width = width
        for layer, size in enumerate(settings.hidden, start=1):
            parts.append(Part(f"hidden.{layer}.W", (width, size), "matrix", f"hidden.{layer}"))
            if settings.hidden_bias:
                parts.append(Part(f"hidden.{layer}.b", (size,), "bias", f"hidden.{layer}"))
            width = size
        parts.append(Part("head.W_U", (width, out), "matrix", "head"))
        if settings.head_bias:
            parts.append(Part("head.b_U", (out,), "bias", "head"))
        self.parts = tuple(parts)

    def _sizes(self, s: MLPSettings, n_tokens: int, n_classes: int) -> tuple[int, int]:
        """Rows of the embedding and logits of the head, all checked."""
        if not s.hidden or min(s.hidden) < 1 or s.d_embed < 1:
            raise GrokscopeError(
                f"building an mlp: model.hidden = {list(s.hidden)} and model.d_embed = "
                f"{s.d_embed}, expected at least one hidden layer and positive widths"
            )
        rows = (s.residue_offset, s.residue_offset + s.b_offset)
        if min(rows) < 0 or 0 < abs(s.b_offset) < n_tokens:
            raise GrokscopeError(
                f"building an mlp: model.residue_offset = {s.residue_offset} and model.b_offset = {s.b_offset}, "
                f"expected rows from 0 and a b_offset of 0 or at least the {n_tokens} residues away"
            )
        vocab, out = max(rows) + n_tokens, s.out_offset + n_classes
        if s.d_vocab and s.d_vocab < vocab:
            raise GrokscopeError(
                f"building an mlp: model.d_vocab = {s.d_vocab}, expected 0 or at least {vocab}"
            )
        if s.out_offset < 0 or (s.d_vocab_out and s.d_vocab_out < out):
            raise GrokscopeError(
                f"building an mlp: model.d_vocab_out = {s.d_vocab_out} and model.out_offset = {s.out_offset}, "
                f"expected an offset from 0 and 0 or at least {max(out, n_classes)} logits"
            )
        checked_scale("an mlp", s.output_scale)
        return s.d_vocab or vocab, s.d_vocab_out or out

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        params: Params = {}
        for part in self.parts:
            if part.kind == "bias":
                params[part.name] = torch.zeros(part.shape, dtype=dtype)
                continue
            fan_in = self.settings.d_embed if part.block == "embedding" else part.shape[0]
            std = self.settings.init_scale * fan_in**-0.5
            params[part.name] = draw(generator, part.shape, std, dtype)
        return params

    def _operands(self, params: Params) -> tuple[Tensor, Tensor]:
        """(…, p, d) each: the rows of the residues of a and of b, of the first layer for one-hots."""
        p, (first, second) = self._residues, self._first_rows
        if self.one_hot:
            weight = params["hidden.1.W"]
            second += self._vocab if self.combine == "concatenation" else 0
            return weight[..., first : first + p, :], weight[..., second : second + p, :]
        table_a, table_b = (params[name] for name in self._embedding_names)
        rows_a = table_a[..., first : first + p, :]
        return rows_a, table_b[..., second : second + p, :] if self.separate_embeddings else rows_a

    @property
    def _residues(self) -> int:
        assert self.n_tokens is not None
        return self.n_tokens

    def _tables(self, params: Params) -> tuple[Tensor, Tensor]:
        """(p, h) each: what operand a and operand b add to the first pre-activation, bias in the first."""
        table_a, table_b = self.first_layer_tables(params).split(self._residues, dim=-2)
        return table_a, table_b

    def first_layer_tables(self, params: Params) -> Tensor:
        """(…, 2p, h): what each residue adds to the first pre-activation as a, then as b; bias with a."""
        first, second = self._operands(params)
        weights = self._first_weights(params)
        tables = [first, second] if weights is None else [first @ weights[0], second @ weights[1]]
        if self.settings.hidden_bias:
            tables[0] = tables[0] + params["hidden.1.b"].unsqueeze(-2)
        return torch.cat(tables, dim=-2)

    def first_layer_pullback(self, params: Params, above: Tensor) -> Params:
        """Gradients of embedding and first layer from those in :meth:`first_layer_tables` (…, 2p, h)."""
        p, weight = self._residues, params["hidden.1.W"]
        above_a, above_b = above[..., :p, :], above[..., p:, :]
        grads: Params = {"hidden.1.b": above_a.sum(-2)} if self.settings.hidden_bias else {}
        weights = self._first_weights(params)
        if weights is None:
            shift = self._vocab if self.combine == "concatenation" else 0
            grads["hidden.1.W"] = self._in_rows(weight, above_a, above_b, shift)
            return grads
        first, second = self._operands(params)
        parts = first.mT @ above_a, second.mT @ above_b
        grads["hidden.1.W"] = (
            torch.cat(parts, dim=-2) if self.combine == "concatenation" else parts[0] + parts[1]
        )
        to_a, to_b = above_a @ weights[0].mT, above_b @ weights[1].mT
        name_a, name_b = self._embedding_names
        if name_a == name_b:
            grads[name_a] = self._in_rows(params[name_a], to_a, to_b)
            return grads
        grads[name_a] = self._in_rows(params[name_a], to_a, None)
        grads[name_b] = self._in_rows(params[name_b], None, to_b)
        return grads

    def _first_weights(self, params: Params) -> tuple[Tensor, Tensor] | None:
        """The rows of the first layer that a's and b's embedding meet; ``None`` for one-hots."""
        if self.one_hot:
            return None
        d, weight = self.settings.d_embed, params["hidden.1.W"]
        if self.combine == "concatenation":
            return weight[..., :d, :], weight[..., d:, :]
        return weight, weight

    def _in_rows(self, table: Tensor, of_a: Tensor | None, of_b: Tensor | None, shift: int = 0) -> Tensor:
        """Gradients (…, p, w) of the rows of a and of b, at their places in a table's gradient."""
        p, (row_a, row_b) = self._residues, self._first_rows
        if of_a is not None and of_b is not None and row_a == row_b + shift == 0 and table.shape[-2] == p:
            return of_a + of_b
        found = torch.zeros_like(table)
        for row, part in ((row_a, of_a), (row_b + shift, of_b)):
            if part is not None:
                found[..., row : row + p, :] += part
        return found

    def linearised(self, inputs: Tensor) -> Linearised:
        return linearised(self, inputs)

    def logit_blocks(self, params: Params, inputs: Tensor, *, grid: bool) -> Iterator[tuple[slice, Tensor]]:
        return logit_blocks(self, params, inputs, grid)

    def first_layer(self, params: Params, form: GatedForm, inputs: Tensor) -> FirstLayer:
        return first_layer(self, params, inputs)

    def gradient_with_norms(
        self, params: Params, inputs: Tensor, delta_of: Callable[[slice, Tensor], Tensor]
    ) -> tuple[Params, SampleNorms]:
        return gradient_with_norms(self, params, inputs, delta_of)

    def _after_first(self, params: Params, pre: Tensor) -> Tensor:
        """The last hidden layer's pre-activation from the first one's."""
        for layer in range(2, len(self.settings.hidden) + 1):
            pre = activate(self.settings.activation, pre) @ params[f"hidden.{layer}.W"]
            if self.settings.hidden_bias:
                pre = pre + params[f"hidden.{layer}.b"]
        return pre

    def _unembed(self, params: Params) -> Tensor:
        """(…, h, C): the head's columns of the classes."""
        first = self.settings.out_offset
        return params["head.W_U"][..., first : first + self.n_classes]

    def _scaled(self, logits: Tensor) -> Tensor:
        return scaled(self.output_scale, logits)

    def _head_bias(self, params: Params) -> Tensor | None:
        first = self.settings.out_offset
        return params["head.b_U"][..., first : first + self.n_classes] if self.settings.head_bias else None

    def _head(self, params: Params, hidden: Tensor) -> Tensor:
        logits, bias = hidden @ self._unembed(params), self._head_bias(params)
        return self._scaled(logits if bias is None else logits + bias)

    def _last_pre(self, params: Params, inputs: Tensor) -> Tensor:
        table_a, table_b = self._tables(params)
        pre = rows_of(inputs[:, 0], table_a) + rows_of(inputs[:, 1], table_b)
        return self._after_first(params, pre)

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        return activate(self.settings.activation, self._last_pre(params, inputs))

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return self._head(params, self.head_input(params, inputs))

    def _pre_grid(self, params: Params) -> Tensor:
        table_a, table_b = self._tables(params)
        return self._after_first(params, table_a[:, None, :] + table_b[None, :, :])

    def neuron_grid(self, params: Params) -> Tensor:
        return activate(self.settings.activation, self._pre_grid(params))

    def forward_grid(self, params: Params) -> Tensor:
        return self._head(params, self.neuron_grid(params))

    def neuron_inputs(self, params: Params) -> tuple[Tensor, Tensor]:
        if len(self.settings.hidden) == 1:
            return self._tables(params)
        pre = self._pre_grid(params)
        return pre.mean(dim=1), pre.mean(dim=0)

    def neuron_bias(self, params: Params) -> Tensor | None:
        return params.get("hidden.1.b") if len(self.settings.hidden) == 1 else None

    def _pair(self, params: Params, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) each: the two operands, embedded or one-hot."""
        if self.one_hot:
            dtype = params["hidden.1.W"].dtype
            rows = zip(inputs.unbind(1), self._first_rows, strict=True)
            left, right = (one_hot(x + first, self._vocab).to(dtype) for x, first in rows)
            return left, right
        first, second = self._operands(params)
        return rows_of(inputs[:, 0], first), rows_of(inputs[:, 1], second)

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        left, right = self._pair(params, inputs)
        return torch.cat([left, right], dim=-1) if self.combine == "concatenation" else left + right

    def embedded(self, params: Params, inputs: Tensor) -> Tensor:
        if self.combine == "concatenation":
            return self.combined(params, inputs)
        return torch.cat(self._pair(params, inputs), dim=-1)

    def from_embedded(self, params: Params, x: Tensor) -> Tensor:
        if self.combine == "concatenation":
            return self.from_z(params, x)
        left, right = x.chunk(2, dim=-1)
        return self.from_z(params, left + right)

    def input_gradient(self, params: Params, inputs: Tensor, directions: Tensor) -> Tensor:
        if self.settings.activation != "relu":
            return super().input_gradient(params, inputs, directions)
        layers = range(1, len(self.settings.hidden) + 1)
        weights = [params[f"hidden.{layer}.W"] for layer in layers]
        with torch.no_grad():
            table_a, table_b = self._tables(params)
            pre = rows_of(inputs[:, 0], table_a) + rows_of(inputs[:, 1], table_b)
            gates = [pre > 0]
            for layer in layers[1:]:
                pre = torch.relu(pre) @ params[f"hidden.{layer}.W"]
                if self.settings.hidden_bias:
                    pre = pre + params[f"hidden.{layer}.b"]
                gates.append(pre > 0)
        found = through_gates(weights, self._scaled(self._unembed(params)), gates, directions)
        return found if self.combine == "concatenation" else torch.cat([found, found], dim=-1)

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        pre = z @ params["hidden.1.W"]
        if self.settings.hidden_bias:
            pre = pre + params["hidden.1.b"]
        return self._head(params, activate(self.settings.activation, self._after_first(params, pre)))

    def gated(self, params: Params) -> GatedForm | Absent:
        if absent := why_no_gates(self.settings.activation):
            return absent
        layers, bias = range(1, len(self.settings.hidden) + 1), self._head_bias(params)
        return GatedForm(
            weights=tuple(params[f"hidden.{layer}.W"] for layer in layers),
            biases=tuple(params.get(f"hidden.{layer}.b") for layer in layers),
            head=self._scaled(self._unembed(params)),
            head_bias=None if bias is None else self._scaled(bias),
            direct=None,
            activation=self.settings.activation,
        )

    def embeddings(self, params: Params) -> dict[str, Tensor]:
        """Rows of the residues; for one-hots those of the first layer, which plays the embedding's part."""
        first, second = self._operands(params)
        return (
            {"embedding_a": first, "embedding_b": second}
            if self.separate_embeddings
            else {"embedding": first}
        )

    def slots(self, params: Params) -> Tensor:
        if self.one_hot:
            unit = torch.eye(
                self._vocab, dtype=params["hidden.1.W"].dtype, device=params["hidden.1.W"].device
            )
            first, second = (unit[:, row : row + self._residues] for row in self._first_rows)
        else:
            first, second = (rows.mT for rows in self._operands(params))
        if self.combine == "sum":
            return torch.cat([first, second], dim=-1)
        top = torch.cat([first, torch.zeros_like(second)], dim=-1)
        return torch.cat([top, torch.cat([torch.zeros_like(first), second], dim=-1)], dim=-2)

    def unembedding(self, params: Params) -> Tensor:
        return self._unembed(params).mT

    def neuron_logit(self, params: Params) -> Tensor:
        return self._scaled(self._unembed(params)).mT

    def maps(self, params: Params) -> dict[str, MapView]:
        note = "rows of the first layer" if self.one_hot else ""
        found = {name: MapView((table,), note) for name, table in self.embeddings(params).items()}
        found["unembedding"] = MapView((self.unembedding(params),))
        same = "" if self.output_scale != 1.0 else "the same matrix as the unembedding"
        found["neuron_logit"] = MapView((self.neuron_logit(params),), same)
        return found
