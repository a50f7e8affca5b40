"""The optimisers of ``optimizers`` for runs on a leading axis, whose scalar settings differ run by run.

On a CPU the numbers of a run are those of its own optimiser, bit for bit: its coefficients are computed the same
way, and every operation below rounds as its counterpart with a plain number does. On a GPU the coefficients are
computed there, from a counter, so that a step can be captured once and replayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from grokscope.training.gradient_filters import GradientFilter
from grokscope.training.intervene import NormClamp, Span
from grokscope.training.optimizers import WHOLE, FlatParameters, learning_rate
from grokscope.training.recipe import TrainSettings

SCALARS = ("lr", "weight_decay", "betas", "eps", "momentum", "warmup")
"""Fields of ``[train]`` that may differ within a batch."""


class BatchOptimizer:
    """One optimiser for the runs of ``parameters`` (runs, P), with their settings in the same order.

    The state is a dict of (runs, P) tensors, complete together with the step number. ``spans`` are the same in
    every run. With ``counted`` (by default on a GPU) the step is a counter beside the weights.
    """

    def __init__(
        self,
        settings: Sequence[TrainSettings],
        parameters: FlatParameters,
        spans: Sequence[Span] = WHOLE,
        clamp: NormClamp | None = None,
        filter: GradientFilter | None = None,
        counted: bool | None = None,
    ) -> None:
        self.settings, self.parameters = list(settings), parameters
        self.spans, self.clamp, self.filter = spans, clamp, filter
        self.kind, self.decay_first = settings[0].optimizer, settings[0].decay == "before"
        vector = parameters.vector
        names = {"adamw": ("first_moment", "second_moment"), "sgd": ("momentum",), "gd": ()}
        self.state = {name: torch.zeros_like(vector) for name in names[self.kind]}
        if filter is not None:
            self.state |= filter.state
        self._decays = any(one.weight_decay for one in settings)
        self._settled = max(one.warmup for one in settings) if self.kind != "adamw" else None
        self._kept: dict[tuple[float, float], dict[str, Tensor]] = {}
        self._counted = vector.device.type == "cuda" if counted is None else counted
        if self._counted:
            self._count = torch.zeros((), dtype=torch.float64, device=vector.device)
            several = {
                name: [float(getattr(one, name)) for one in settings] for name in SCALARS if name != "betas"
            }
            several |= {f"beta{i + 1}": [one.betas[i] for one in settings] for i in (0, 1)}
            self._fixed = {name: self._column(values, torch.float64) for name, values in several.items()}

    def begin(self, step: int) -> None:
        """Say which step comes next, before the first and after a restored state."""
        if self._counted:
            self._count.fill_(step)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Apply the gradient of ``parameters`` at ``step`` (where it is counted, the counter is what counts)."""
        if self.filter is not None:
            count = self._count if self._counted else step
            self.filter.apply(self.parameters.gradient, self.parameters.vector, count)
        for span in self.spans:
            self._update(span, self._on_device(span) if self._counted else self._coefficients(step, span))
        if self._counted:
            self._count += 1
        if self.clamp is not None:
            self.clamp.apply(self.parameters.vector, self._count if self._counted else step + 1)

    def _update(self, span: Span, by: dict[str, Tensor]) -> None:
        weights = self.parameters.vector[:, span.where]
        gradient = self.parameters.gradient[:, span.where]
        decays = self._decays and span.decay != 0
        if decays and self.decay_first:
            weights.mul_(by["shrink"])
        if self.kind == "adamw":
            first = self.state["first_moment"][:, span.where].lerp_(gradient, by["first_weight"])
            second = self.state["second_moment"][:, span.where].mul_(by["beta2"])
            second.addcmul_(gradient * by["second_weight"], gradient)
            denominator = second.sqrt().div_(by["scale"]).add_(by["eps"])
            weights.addcdiv_(first * by["minus_rate"], denominator)
        elif self.kind == "sgd":
            velocity = self.state["momentum"][:, span.where].mul_(by["momentum"]).add_(gradient)
            weights.addcmul_(velocity, by["minus_rate"])
        else:
            weights.addcmul_(gradient, by["minus_rate"])
        if decays and not self.decay_first:
            weights.mul_(by["shrink"])

    def _column(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.parameters.vector.device)[:, None]

    def _coefficients(self, step: int, span: Span) -> dict[str, Tensor]:
        """(runs, 1) each, computed as :class:`~grokscope.training.Optimizer` does."""
        factors = (span.lr, span.decay)
        if factors in self._kept and self._settled is not None and step > self._settled:
            return self._kept[factors]
        table: dict[str, list[float]] = {}
        for one in self.settings:
            rate = learning_rate(one, step) * span.lr
            row = {"shrink": 1 - rate * one.weight_decay * span.decay, "minus_rate": -rate}
            if self.kind == "adamw":
                beta1, beta2 = one.betas
                row |= {"first_weight": 1 - beta1, "beta2": beta2, "second_weight": 1 - beta2, "eps": one.eps}
                row["scale"] = math.sqrt(1 - beta2 ** (step + 1))
                row["minus_rate"] = -rate / (1 - beta1 ** (step + 1))
            elif self.kind == "sgd":
                row["momentum"] = one.momentum
            for name, value in row.items():
                table.setdefault(name, []).append(value)
        dtype = self.parameters.vector.dtype
        self._kept[factors] = {name: self._column(values, dtype) for name, values in table.items()}
        return self._kept[factors]

    def _on_device(self, span: Span) -> dict[str, Tensor]:
        """The same from the counter on the GPU."""
        fixed, dtype, count = self._fixed, self.parameters.vector.dtype, self._count + 1
        rate = fixed["lr"] * (count / fixed["warmup"].clamp(min=1)).clamp(max=1) * span.lr
        found = {"shrink": 1 - rate * fixed["weight_decay"] * span.decay, "minus_rate": -rate}
        if self.kind == "adamw":
            found |= {"first_weight": 1 - fixed["beta1"], "beta2": fixed["beta2"]}
            found["second_weight"] = 1 - fixed["beta2"]
            found["scale"] = (1 - fixed["beta2"] ** count).sqrt()
            found["minus_rate"] = -rate / (1 - fixed["beta1"] ** count)
        found |= {name: fixed[name] for name in ("eps", "momentum")}
        return {name: value.to(dtype) for name, value in found.items()}
