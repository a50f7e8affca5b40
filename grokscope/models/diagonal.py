"""Diagonal linear networks: x · (u ∘ v), a linear map whose coefficients are products of two parameters."""

from __future__ import annotations

from dataclasses import dataclass
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
class DiagonalSettings:
    """``[model]`` of a recipe: a diagonal linear network (arXiv 2505.20172).

    Both vectors start as N(0, init_scale²), whatever the number of inputs. ``output_scale`` is a constant on the
    outputs.
    """

    family: Literal["diagonal"] = "diagonal"
    output_scale: float = 1.0
    init_scale: float = 1.0


class Diagonal(Model):
    """The diagonal network of ``settings`` from ``n_inputs`` features to one output.

    The squared norm of its parameters, at its least for given coefficients β = u ∘ v, is 2 ‖β‖_1.
    """

    family: ClassVar[str] = "diagonal"
    combine = "none"
    stacks = True

    def __init__(self, settings: DiagonalSettings, n_inputs: int, n_classes: int) -> None:
        if n_classes != 1:
            raise GrokscopeError(
                f"building a diagonal network: the task has {n_classes} outputs, expected one (task.name 'regression')"
            )
        self.settings = settings
        self.output_scale = checked_scale("a diagonal network", settings.output_scale)
        self.n_tokens, self.n_classes, self.n_layers = None, n_classes, 2
        self.parts = (
            Part("layer.1.u", (n_inputs, 1), "matrix", "layer.1"),
            Part("layer.2.v", (n_inputs, 1), "matrix", "layer.2"),
        )

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        return {p.name: draw(generator, p.shape, self.settings.init_scale, dtype) for p in self.parts}

    def coefficients(self, params: Params) -> Tensor:
        """(…, d, 1): β = u ∘ v."""
        return params["layer.1.u"] * params["layer.2.v"]

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return scaled(self.output_scale, inputs @ self.coefficients(params))

    def linearised(self, inputs: Tensor) -> Linearised:
        def at(params: Params) -> tuple[Tensor, Pullback]:
            def pullback(delta: Tensor) -> Params:
                above = inputs.mT @ scaled(self.output_scale, delta)
                return {"layer.1.u": above * params["layer.2.v"], "layer.2.v": above * params["layer.1.u"]}

            return self.forward(params, inputs), pullback

        return at

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        return inputs * params["layer.1.u"].mT

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        return inputs

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        return self.forward(params, z)

    def gated(self, params: Params) -> GatedForm | Absent:
        return Absent("a diagonal network has no gates: all inputs share one region")

    def maps(self, params: Params) -> dict[str, MapView]:
        note = "" if self.output_scale == 1.0 else "without the constant on the outputs"
        return {"product": MapView((self.coefficients(params).mT,), note)}
