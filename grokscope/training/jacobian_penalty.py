"""GrokAlign: a penalty on the norm of the Jacobian of the logits in the input (arXiv 2506.12284).

loss + λ_J mean_x ‖J_x‖_F, the norm not squared, estimated from random directions on the unit sphere of the logits:
‖J_x‖ ≈ √((C/K) Σ_k ‖J_xᵀv_k‖²). The square is unbiased, the root reads low (``measures.alignment.expected_reading``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import Model, Params
from grokscope.tasks import random_stream


@dataclass(frozen=True)
class JacobianSettings:
    """``[intervene.jacobian]``: ``strength`` λ_J, and ``projections`` K directions a sample, drawn anew every step."""

    strength: float
    projections: int = 1


class JacobianPenalty:
    """The gradient of the penalty over training inputs (N, …); directions are a function of (seed, step)."""

    def __init__(self, settings: JacobianSettings, model: Model, inputs: Tensor, seed: int) -> None:
        self.settings, self.model, self.inputs, self.seed = settings, model, inputs, seed

    def directions(self, step: int, count: int) -> Tensor:
        """(K, N, C) on the unit sphere, float64 on the CPU."""
        stream = random_stream(self.seed, f"directions of step {step}")
        shape = (self.settings.projections, count, self.model.n_classes)
        drawn = torch.randn(shape, generator=stream, dtype=torch.float64)
        return drawn / drawn.norm(dim=-1, keepdim=True)

    def value(self, params: Params, step: int, rows: Tensor | None = None) -> Tensor:
        """The estimate of mean_x ‖J_x‖, differentiable in ``params``; of a batch with ``rows``."""
        inputs = self.inputs if rows is None else self.inputs[rows]
        weight = next(iter(params.values()))
        directions = self.directions(step, len(inputs)).to(weight.device, weight.dtype)
        pulled = [self.model.input_gradient(params, inputs, one) for one in directions]
        share = math.sqrt(self.model.n_classes / self.settings.projections)
        # the norm over directions and inputs together has a gradient of 0 at 0, as a root does not
        return share * torch.linalg.vector_norm(torch.cat(pulled, dim=1), dim=1).mean()

    def __call__(self, params: Params, step: int, rows: Tensor | None = None) -> Params:
        """Its gradient in every tensor, times the strength."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
            penalty = self.settings.strength * self.value(leaves, step, rows)
            found = torch.autograd.grad(penalty, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }


def check_penalty(settings: JacobianSettings, model: Model, where: str) -> None:
    """Ranges, and a network that has an input to differentiate in. Raises GrokscopeError."""
    for name, value, fine, expected in (
        (
            "strength",
            settings.strength,
            settings.strength >= 0 and math.isfinite(settings.strength),
            "at least 0",
        ),
        ("projections", settings.projections, settings.projections >= 1, "at least 1"),
    ):
        if not fine:
            raise GrokscopeError(
                f"reading {where}: intervene.jacobian.{name} is {value}, expected {expected}"
            )
    if model.n_tokens is not None:
        params = model.init(torch.Generator().manual_seed(0))
        found = model.embedded(params, torch.zeros(1, 2, dtype=torch.int64))
        if isinstance(found, Absent):
            raise GrokscopeError(
                f"reading {where}: intervene.jacobian was given to model.family {model.family!r}: {found.reason}"
            )
