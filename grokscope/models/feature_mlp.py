"""The MLP on features: hidden layers and a head on inputs in R^d, for tasks that have no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import GatedForm
from grokscope.models.anatomy import (
    Activation,
    Linearised,
    MapView,
    Model,
    Params,
    Part,
    Pullback,
    activate,
    activate_in_place,
    activation_pullback,
    checked_scale,
    draw,
    scaled,
    through_gates,
    why_no_gates,
)


@dataclass(frozen=True)
class FeatureMLPSettings:
    """``[model]`` of a recipe: the MLP on features.

    ``hidden`` lists the widths of the hidden layers. Weights start as N(0, init_scale²/fan_in), biases at zero.
    ``output_scale`` is a constant on the logits.
    """

    family: Literal["feature-mlp"] = "feature-mlp"
    hidden: tuple[int, ...] = (512,)
    activation: Activation = "gelu"
    hidden_bias: bool = True
    head_bias: bool = True
    output_scale: float = 1.0
    init_scale: float = 1.0


class FeatureMLP(Model):
    """The MLP of ``settings`` from ``n_inputs`` features to ``n_classes`` logits."""

    family: ClassVar[str] = "feature-mlp"
    combine = "none"
    stacks = True

    def __init__(self, settings: FeatureMLPSettings, n_inputs: int, n_classes: int) -> None:
        if not settings.hidden or min(settings.hidden) < 1:
            raise GrokscopeError(
                f"building an MLP on features: model.hidden = {list(settings.hidden)}, expected at least one width, "
                "each of at least 1"
            )
        self.settings = settings
        self.output_scale = checked_scale("an MLP on features", settings.output_scale)
        self.n_tokens, self.n_classes = None, n_classes
        self.n_layers = len(settings.hidden) + 1
        sizes = [n_inputs, *settings.hidden]
        parts: list[Part] = []
        for layer in self._layers:
            block = f"hidden.{layer}"
            parts.append(Part(f"{block}.W", (sizes[layer - 1], sizes[layer]), "matrix", block))
            if settings.hidden_bias:
                parts.append(Part(f"{block}.b", (sizes[layer],), "bias", block))
        parts.append(Part("head.W_U", (sizes[-1], n_classes), "matrix", "head"))
        if settings.head_bias:
            parts.append(Part("head.b_U", (n_classes,), "bias", "head"))
        self.parts = tuple(parts)

    @property
    def _layers(self) -> range:
        return range(1, len(self.settings.hidden) + 1)

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        scale = self.settings.init_scale
        return {
            part.name: draw(generator, part.shape, scale * part.shape[0] ** -0.5, dtype)
            if part.kind == "matrix"
            else torch.zeros(part.shape, dtype=dtype)
            for part in self.parts
        }

    def _layer(self, params: Params, layer: int, x: Tensor) -> Tensor:
        """The pre-activation of a hidden layer."""
        pre = x @ params[f"hidden.{layer}.W"]
        return pre + params[f"hidden.{layer}.b"].unsqueeze(-2) if self.settings.hidden_bias else pre

    def _head(self, params: Params, hidden: Tensor) -> Tensor:
        logits = hidden @ params["head.W_U"]
        if self.settings.head_bias:
            logits = logits + params["head.b_U"].unsqueeze(-2)
        return scaled(self.output_scale, logits)

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        x = inputs
        for layer in self._layers:
            x = activate(self.settings.activation, self._layer(params, layer, x))
        return x

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return self._head(params, self.head_input(params, inputs))

    def linearised(self, inputs: Tensor) -> Linearised:
        activation, layers = self.settings.activation, self._layers

        def at(params: Params) -> tuple[Tensor, Pullback]:
            below = [inputs]
            passed: list[tuple[Tensor, Tensor]] = []
            for layer in layers:
                passed.append(activate_in_place(activation, self._layer(params, layer, below[-1])))
                below.append(passed[-1][1])

            def pullback(delta: Tensor) -> Params:
                delta = scaled(self.output_scale, delta)
                grads: Params = {"head.W_U": below[-1].mT @ delta}
                if self.settings.head_bias:
                    grads["head.b_U"] = delta.sum(-2)
                above = delta @ params["head.W_U"].mT
                for layer in reversed(layers):
                    above = activation_pullback(activation, *passed[layer - 1], above)
                    grads[f"hidden.{layer}.W"] = below[layer - 1].mT @ above
                    if self.settings.hidden_bias:
                        grads[f"hidden.{layer}.b"] = above.sum(-2)
                    if layer > 1:
                        above = above @ params[f"hidden.{layer}.W"].mT
                return grads

            return self._head(params, below[-1]), pullback

        return at

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        return inputs

    def input_gradient(self, params: Params, inputs: Tensor, directions: Tensor) -> Tensor:
        if self.settings.activation != "relu":
            return super().input_gradient(params, inputs, directions)
        weights, gates = [params[f"hidden.{layer}.W"] for layer in self._layers], []
        with torch.no_grad():
            x = inputs
            for layer in self._layers:
                pre = self._layer(params, layer, x)
                gates.append(pre > 0)
                x = torch.relu(pre)
        return through_gates(weights, self._read(params), gates, directions)

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        return self.forward(params, z)

    def gated(self, params: Params) -> GatedForm | Absent:
        if absent := why_no_gates(self.settings.activation):
            return absent
        bias = params.get("head.b_U")
        return GatedForm(
            weights=tuple(params[f"hidden.{layer}.W"] for layer in self._layers),
            biases=tuple(params.get(f"hidden.{layer}.b") for layer in self._layers),
            head=self._read(params),
            head_bias=None if bias is None else scaled(self.output_scale, bias),
            direct=None,
            activation=self.settings.activation,
        )

    def unembedding(self, params: Params) -> Tensor:
        return params["head.W_U"].mT

    def neuron_logit(self, params: Params) -> Tensor:
        return self._read(params).mT

    def _read(self, params: Params) -> Tensor:
        """(…, h, C): the head, with the constant on the logits."""
        return scaled(self.output_scale, params["head.W_U"])

    def maps(self, params: Params) -> dict[str, MapView]:
        found = {f"layer.{layer}": MapView((params[f"hidden.{layer}.W"].mT,)) for layer in self._layers}
        found["unembedding"] = MapView((self.unembedding(params),))
        return found
