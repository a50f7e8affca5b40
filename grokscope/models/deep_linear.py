"""Deep linear networks: x W_1 W_2 … W_L."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import GatedForm
from grokscope.models.anatomy import (
    Linearised,
    MapView,
    Model,
    Params,
    Part,
    Pullback,
    checked_scale,
    draw,
    scaled,
)


@dataclass(frozen=True)
class DeepLinearSettings:
    """``[model]`` of a recipe: a deep linear net of ``depth`` layers.

    ``width`` is that of the hidden layers, 0 for that of the input. Weights start as
    N(0, init_scale²/fan_in). ``output_scale`` is a constant on the outputs.
    """

    family: Literal["deep-linear"] = "deep-linear"
    depth: int = 3
    width: int = 0
    output_scale: float = 1.0
    init_scale: float = 1.0


class DeepLinear(Model):
    """The deep linear net of ``settings`` from ``n_inputs`` features to ``n_classes`` outputs."""

    family: ClassVar[str] = "deep-linear"
    combine = "none"
    stacks = True

    def __init__(self, settings: DeepLinearSettings, n_inputs: int, n_classes: int) -> None:
        if settings.depth < 1 or settings.width < 0:
            raise GrokscopeError(
                f"building a deep linear net: model.depth = {settings.depth} and model.width = "
                f"{settings.width}, expected a depth of at least 1 and a width of at least 0"
            )
        self.settings = settings
        self.output_scale = checked_scale("a deep linear net", settings.output_scale)
        self.n_tokens, self.n_classes = None, n_classes
        self.n_layers = settings.depth
        width = settings.width or n_inputs
        sizes = [n_inputs, *[width] * (settings.depth - 1), n_classes]
        self.parts = tuple(
            Part(f"layer.{layer}.W", (sizes[layer - 1], sizes[layer]), "matrix", f"layer.{layer}")
            for layer in range(1, settings.depth + 1)
        )

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        scale = self.settings.init_scale
        return {p.name: draw(generator, p.shape, scale * p.shape[0] ** -0.5, dtype) for p in self.parts}

    def layers(self, params: Params) -> list[Tensor]:
        """W_1, …, W_L, each (…, in, out)."""
        return [params[part.name] for part in self.parts]

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return scaled(self.output_scale, reduce(torch.matmul, self.layers(params), inputs))

    def linearised(self, inputs: Tensor) -> Linearised:
        # one-hot inputs select every row of the product, in order: there is nothing to multiply
        width = inputs.shape[-1]
        eye = torch.eye(width, dtype=inputs.dtype, device=inputs.device)
        one_hot = inputs.shape[-2] == width and bool((inputs == eye).all())

        def at(params: Params) -> tuple[Tensor, Pullback]:
            # one run is a batch of one: a product of a batch has the same bits whatever the size of the batch,
            # and others than the product of two matrices
            alone = params[self.parts[0].name].ndim == 2
            layers = [layer[None] if alone else layer for layer in self.layers(params)]
            batch = inputs[None] if inputs.ndim == 2 else inputs
            before = [layers[0] if one_hot else batch @ layers[0]]
            for layer in layers[1:]:
                before.append(before[-1] @ layer)

            def pullback(delta: Tensor) -> Params:
                delta = scaled(self.output_scale, delta[None] if alone else delta)
                grads: Params = {}
                for index in range(len(layers) - 1, 0, -1):
                    grads[self.parts[index].name] = before[index - 1].mT @ delta
                    delta = delta @ layers[index].mT
                grads[self.parts[0].name] = delta if one_hot else batch.mT @ delta
                return {name: grad[0] for name, grad in grads.items()} if alone else grads

            outputs = scaled(self.output_scale, before[-1])
            return outputs[0] if alone else outputs, pullback

        return at

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        return reduce(torch.matmul, self.layers(params)[:-1], inputs)

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        return inputs

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        return self.forward(params, z)

    def gated(self, params: Params) -> GatedForm | Absent:
        return Absent("a deep linear net has no gates: all inputs share one region")

    def maps(self, params: Params) -> dict[str, MapView]:
        layers = self.layers(params)
        note = "" if self.output_scale == 1.0 else "without the constant on the outputs"
        found = {"product": MapView(tuple(layer.mT for layer in reversed(layers)), note)}
        for index, layer in enumerate(layers, start=1):
            found[f"layer.{index}"] = MapView((layer.mT,))
        return found
