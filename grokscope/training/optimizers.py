"""Optimisers on one flat vector: AdamW with decoupled decay, SGD with momentum, gradient descent.

All tensors of a model are views of one vector, so a step is a handful of in-place operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.models import Params
from grokscope.training.gradient_filters import GradientFilter
from grokscope.training.intervene import NormClamp, Span
from grokscope.training.recipe import TrainSettings

WHOLE = (Span(slice(None)),)
"""All parameters by one rule."""


@dataclass
class FlatParameters:
    """A parameter dict whose tensors, and their gradients, are views of one vector each."""

    vector: Tensor
    gradient: Tensor
    params: Params

    @classmethod
    def of(cls, params: Params, device: torch.device) -> FlatParameters:
        """Copy ``params`` (any order is kept) into one vector on ``device``."""
        vector = torch.cat([value.reshape(-1) for value in params.values()]).to(device)
        return cls.over(vector, {name: tuple(value.shape) for name, value in params.items()})

    @classmethod
    def over(cls, vector: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> FlatParameters:
        """Views of ``vector`` (P,), or (runs, P) for several runs of one shape, in the order of ``shapes``."""
        gradient, lead = torch.zeros_like(vector), vector.shape[:-1]
        views: Params = {}
        offset = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            view = vector[..., offset : offset + size].view(*lead, *shape).detach().requires_grad_()
            view.grad = gradient[..., offset : offset + size].view(*lead, *shape)
            views[name] = view
            offset += size
        return cls(vector, gradient, views)

    def detached(self) -> Params:
        """The same views, outside any graph."""
        return {name: value.detach() for name, value in self.params.items()}

    @torch.no_grad()
    def take(self, gradients: Params) -> None:
        """Copy gradients by name into :attr:`gradient`."""
        lead = self.vector.shape[:-1]
        torch.cat([gradients[name].reshape(*lead, -1) for name in self.params], dim=-1, out=self.gradient)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of the update from ``step`` to ``step + 1``."""
    if step >= settings.warmup:
        return settings.lr
    return settings.lr * (step + 1) / settings.warmup


class Optimizer:
    """One optimiser with its state; :meth:`update` moves the weights by one step.

    AdamW is Loshchilov and Hutter's (arXiv 1711.05101, algorithm 2). The state is a dict of flat vectors,
    complete together with the step number. What belongs to no span of ``spans`` is not trained.
    """

    def __init__(
        self,
        settings: TrainSettings,
        parameters: FlatParameters,
        spans: Sequence[Span] = WHOLE,
        clamp: NormClamp | None = None,
        filter: GradientFilter | None = None,
    ) -> None:
        self.settings = settings
        self.parameters = parameters
        self.spans, self.clamp, self.filter = spans, clamp, filter
        vector = parameters.vector
        names = {"adamw": ("first_moment", "second_moment"), "sgd": ("momentum",), "gd": ()}
        self.state = {name: torch.zeros_like(vector) for name in names[settings.optimizer]}
        if filter is not None:
            self.state |= filter.state

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Apply the gradient of ``parameters`` at ``step``."""
        settings = self.settings
        if self.filter is not None:
            self.filter.apply(self.parameters.gradient, self.parameters.vector, step)
        for span in self.spans:
            rate = learning_rate(settings, step) * span.lr
            weights, gradient = self.parameters.vector[span.where], self.parameters.gradient[span.where]
            shrink = 1 - rate * settings.weight_decay * span.decay
            if shrink != 1 and settings.decay == "before":
                weights.mul_(shrink)
            if settings.optimizer == "adamw":
                self._adam(span, weights, gradient, rate, step + 1)
            elif settings.optimizer == "sgd":
                velocity = self.state["momentum"][span.where].mul_(settings.momentum).add_(gradient)
                weights.add_(velocity, alpha=-rate)
            else:
                weights.add_(gradient, alpha=-rate)
            if shrink != 1 and settings.decay == "after":
                weights.mul_(shrink)
        if self.clamp is not None:
            self.clamp.apply(self.parameters.vector, step + 1)

    def _adam(self, span: Span, weights: Tensor, gradient: Tensor, rate: float, count: int) -> None:
        beta1, beta2 = self.settings.betas
        first = self.state["first_moment"][span.where].lerp_(gradient, 1 - beta1)
        second = self.state["second_moment"][span.where].mul_(beta2)
        second.addcmul_(gradient, gradient, value=1 - beta2)
        denominator = second.sqrt().div_(math.sqrt(1 - beta2**count)).add_(self.settings.eps)
        weights.addcdiv_(first, denominator, value=-rate / (1 - beta1**count))
