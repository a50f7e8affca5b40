"""Gradient filters: what is done to the gradient before the optimiser sees it.

Grokfast (arXiv 2405.20233) adds a slow part of the gradient to it: an exponential moving average, or the mean of a
window. ⊥Grad (arXiv 2501.04697) takes away what only scales the weights. Decoupled decay is no part of the gradient and
is not filtered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from grokscope.models import Model

AVERAGE, WINDOW = "filter.average", "filter.window"
"""Names of the state; what has not been seen is NaN."""


@dataclass(frozen=True)
class FilterSettings:
    """``[intervene.filter]``: ``kind`` is one of

    * ``"ema"``: μ ← α μ + (1 − α) g from μ = the first gradient, then g + λ μ (Grokfast-EMA; the paper takes
      ``alpha`` 0.98 and ``strength`` 2);
    * ``"window"``: g + λ times the mean of the last ``window`` gradients, once there are so many (Grokfast-MA);
    * ``"orthogonal"``: g − (⟨g, θ⟩ / ‖θ‖²) θ, tensor by tensor, with ``rescale`` at the norm that g had, as the
      published code has it (⊥Grad).
    """

    kind: Literal["ema", "window", "orthogonal"]
    strength: float = 2.0
    alpha: float = 0.98
    window: int = 100
    rescale: bool = True


class GradientFilter:
    """Filters the flat gradient (P,), or (runs, P) for several runs, in place; ``state`` is complete with the step."""

    def __init__(self, settings: FilterSettings, model: Model, vector: Tensor) -> None:
        self.settings = settings
        self.state: dict[str, Tensor] = {}
        if settings.kind == "ema":
            self.state[AVERAGE] = torch.full_like(vector, math.nan)
        elif settings.kind == "window":
            shape = (*vector.shape[:-1], settings.window, vector.shape[-1])
            self.state[WINDOW] = vector.new_full(shape, math.nan)
        sizes = [math.prod(part.shape) for part in model.parts]
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.tensors = [slice(first, last) for first, last in pairwise(ends)]

    @torch.no_grad()
    def apply(self, gradient: Tensor, weights: Tensor, step: int | Tensor) -> None:
        """Filter ``gradient`` at ``weights``, that of the update from ``step`` on.

        On a GPU the step may be a tensor there, so that the same work can be captured once and replayed.
        """
        settings = self.settings
        if settings.kind == "ema":
            average = self.state[AVERAGE]
            moved = torch.lerp(gradient, average, settings.alpha)
            average.copy_(torch.where(average.isnan(), gradient, moved))
            gradient.add_(average, alpha=settings.strength)
        elif settings.kind == "window":
            held = self.state[WINDOW]
            place = torch.as_tensor(step, device=gradient.device).long().remainder(settings.window)
            held.index_copy_(-2, place[None], gradient.unsqueeze(-2))
            # NaN until the window is full
            mean = held.mean(-2)
            gradient.add_(torch.where(mean.isnan(), 0.0, mean), alpha=settings.strength)
        else:
            for where in self.tensors:
                self._orthogonal(gradient[..., where], weights[..., where])

    def _orthogonal(self, gradient: Tensor, weights: Tensor) -> None:
        """Run by run and each in memory of its own: a sum depends on what stands beside it, and on where it starts."""
        rows = (
            zip(gradient[None], weights[None], strict=True)
            if gradient.ndim == 1
            else zip(gradient, weights, strict=True)
        )
        for kept, given in rows:
            row, theta = kept.clone(), given.clone()
            size, square = row.norm(), theta @ theta
            share = torch.where(square > 0, row @ theta / square, 0.0)
            row.sub_(share * theta)
            if self.settings.rescale:
                left = row.norm()
                row.mul_(torch.where(left > 0, size / left, 1.0))
            kept.copy_(row)


def filter_ranges(settings: FilterSettings) -> Sequence[tuple[str, object, bool, str]]:
    """(field, value, whether it is in range, what is expected) of every field."""
    return [
        ("filter.strength", settings.strength, math.isfinite(settings.strength), "a finite number"),
        ("filter.alpha", settings.alpha, 0 <= settings.alpha < 1, "from 0 to below 1"),
        ("filter.window", settings.window, settings.window >= 1, "at least 1"),
    ]
