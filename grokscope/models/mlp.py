"""The embedding MLP: two operand embeddings, concatenated or summed, then hidden layers and a head.

The first layer is factorised: its pre-activation is A[a] + B[b] + bias with A and B tables over residues,
so that no sample's embedding is ever multiplied twice. The ordinary forward of the tests is its oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding as rows_of

from grokscope.errors import GrokscopeError
from grokscope.measures.regions import GatedForm
from grokscope.models.anatomy import Activation, MapView, Model, Params, Part, activate, draw


@dataclass(frozen=True)
class MLPSettings:
    """``[model]`` of a recipe: the embedding MLP.

    ``hidden`` lists the widths of the hidden layers. Weights start as N(0, init_scale²/fan_in), the
    embedding as N(0, init_scale²/d_embed), biases at zero.
    """

    family: Literal["mlp"] = "mlp"
    d_embed: int = 64
    hidden: tuple[int, ...] = (256,)
    embedding: Literal["shared", "separate"] = "shared"
    combine: Literal["concatenation", "sum"] = "concatenation"
    activation: Activation = "relu"
    hidden_bias: bool = True
    head_bias: bool = False
    init_scale: float = 1.0


class MLP(Model):
    """The embedding MLP of ``settings`` for operand pairs of ``n_tokens`` residues."""

    family: ClassVar[str] = "mlp"

    def __init__(self, settings: MLPSettings, n_tokens: int, n_classes: int) -> None:
        if not settings.hidden or min(settings.hidden) < 1 or settings.d_embed < 1:
            raise GrokscopeError(
                f"building an mlp: model.hidden = {list(settings.hidden)} and model.d_embed = "
                f"{settings.d_embed}, expected at least one hidden layer and positive widths"
            )
        self.settings = settings
        self.combine = settings.combine
        self.n_tokens, self.n_classes = n_tokens, n_classes
        self.n_layers = len(settings.hidden) + 1
        self.separate_embeddings = settings.embedding == "separate"
        d, names = settings.d_embed, ["embed.W_E"]
        if self.separate_embeddings:
            names = ["embed_a.W_E", "embed_b.W_E"]
        self._embedding_names = (names[0], names[-1])
        parts = [Part(name, (n_tokens, d), "matrix", "embedding") for name in names]
        width = 2 * d if settings.combine == "concatenation" else d
        self.z_width = width
        for layer, size in enumerate(settings.hidden, start=1):
            parts.append(Part(f"hidden.{layer}.W", (width, size), "matrix", f"hidden.{layer}"))
            if settings.hidden_bias:
                parts.append(Part(f"hidden.{layer}.b", (size,), "bias", f"hidden.{layer}"))
            width = size
        parts.append(Part("head.W_U", (width, n_classes), "matrix", "head"))
        if settings.head_bias:
            parts.append(Part("head.b_U", (n_classes,), "bias", "head"))
        self.parts = tuple(parts)

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

    def _tables(self, params: Params) -> tuple[Tensor, Tensor]:
        """(p, h) each: what operand a and operand b add to the first pre-activation, bias in the first."""
        first, second = (params[name] for name in self._embedding_names)
        weight = params["hidden.1.W"]
        if self.combine == "concatenation":
            d = self.settings.d_embed
            table_a, table_b = first @ weight[:d], second @ weight[d:]
        else:
            table_a = first @ weight
            table_b = second @ weight if self.separate_embeddings else table_a
        if self.settings.hidden_bias:
            table_a = table_a + params["hidden.1.b"]
        return table_a, table_b

    def _after_first(self, params: Params, pre: Tensor) -> Tensor:
        """The last hidden layer's pre-activation from the first one's."""
        for layer in range(2, len(self.settings.hidden) + 1):
            pre = activate(self.settings.activation, pre) @ params[f"hidden.{layer}.W"]
            if self.settings.hidden_bias:
                pre = pre + params[f"hidden.{layer}.b"]
        return pre

    def _head(self, params: Params, hidden: Tensor) -> Tensor:
        logits = hidden @ params["head.W_U"]
        return logits + params["head.b_U"] if self.settings.head_bias else logits

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

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        first, second = (params[name] for name in self._embedding_names)
        left, right = rows_of(inputs[:, 0], first), rows_of(inputs[:, 1], second)
        return torch.cat([left, right], dim=-1) if self.combine == "concatenation" else left + right

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        pre = z @ params["hidden.1.W"]
        if self.settings.hidden_bias:
            pre = pre + params["hidden.1.b"]
        return self._head(params, activate(self.settings.activation, self._after_first(params, pre)))

    def gated(self, params: Params) -> GatedForm:
        layers = range(1, len(self.settings.hidden) + 1)
        return GatedForm(
            weights=tuple(params[f"hidden.{layer}.W"] for layer in layers),
            biases=tuple(params.get(f"hidden.{layer}.b") for layer in layers),
            head=params["head.W_U"],
            head_bias=params.get("head.b_U"),
            direct=None,
            activation=self.settings.activation,
        )

    def embeddings(self, params: Params) -> dict[str, Tensor]:
        if not self.separate_embeddings:
            return {"embedding": params["embed.W_E"]}
        return {"embedding_a": params["embed_a.W_E"], "embedding_b": params["embed_b.W_E"]}

    def slots(self, params: Params) -> Tensor:
        first, second = (params[name].mT for name in self._embedding_names)
        if self.combine == "sum":
            return torch.cat([first, second], dim=-1)
        top = torch.cat([first, torch.zeros_like(second)], dim=-1)
        return torch.cat([top, torch.cat([torch.zeros_like(first), second], dim=-1)], dim=-2)

    def unembedding(self, params: Params) -> Tensor:
        return params["head.W_U"].mT

    def neuron_logit(self, params: Params) -> Tensor:
        return params["head.W_U"].mT

    def maps(self, params: Params) -> dict[str, MapView]:
        found = {name: MapView((table,)) for name, table in self.embeddings(params).items()}
        found["unembedding"] = MapView((self.unembedding(params),))
        found["neuron_logit"] = MapView((self.neuron_logit(params),), "the same matrix as the unembedding")
        return found
