"""Interventions: what is done to a run beside its optimiser, as settings.

Tensors are named by block (``embedding``, ``hidden.1``, ``head``, ...), by their own name (``hidden.1.W``), or by
kind: ``matrices``, ``biases``, ``gains``, ``all``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.models import Model, Params, named_tensors, tensor_factors
from grokscope.training.gradient_filters import FilterSettings, filter_ranges
from grokscope.training.jacobian_penalty import JacobianSettings, check_penalty


@dataclass(frozen=True)
class ClampSettings:
    """``[intervene.clamp]``: the norm of the weights is held at ``rho`` · ``norm`` (arXiv 2606.13753).

    After every update that ends at step ``start`` or later (after that one alone with ``once``) the named tensors
    are multiplied by one factor, rho·norm over their joint Frobenius norm.
    The optimiser's moments and all other tensors are left alone.
    """

    norm: float
    rho: float = 1.0
    start: int = 500
    once: bool = False
    tensors: tuple[str, ...] = ("matrices",)


@dataclass(frozen=True)
class InterveneSettings:
    """``[intervene]`` of a recipe.

    ``temperature`` τ divides the logits, before the loss and wherever logits are measured (arXiv 2606.18465).
    ``frozen`` tensors keep their initial values. ``lr`` and ``decay`` are factors, by tensors as above, on
    ``train.lr`` and ``train.weight_decay``: ``decay = {biases = 0}`` decays matrices alone; ``init`` are factors on
    the weights that a run starts with. A tensor that is named more than once takes the factor of the narrowest name:
    its own, then its block, then its kind. ``filter`` is applied to the gradient before the optimiser sees it,
    ``jacobian`` is a penalty that is part of it.
    """

    clamp: ClampSettings | None = None
    temperature: float = 1.0
    frozen: tuple[str, ...] = ()
    lr: dict[str, float] = field(default_factory=dict)
    decay: dict[str, float] = field(default_factory=dict)
    init: dict[str, float] = field(default_factory=dict)
    filter: FilterSettings | None = None
    jacobian: JacobianSettings | None = None


@dataclass(frozen=True)
class Span:
    """A stretch of the flat parameter vector whose tensors move by the same rule: factors on rate and decay."""

    where: slice
    lr: float = 1.0
    decay: float = 1.0


def parameter_spans(settings: InterveneSettings, model: Model) -> list[Span]:
    """The stretches of the flat vector, in order, that are trained; a model that nothing sets apart is one.

    Raises GrokscopeError: a name that is none of the model's.
    """
    rates = tensor_factors(model, settings.lr, "intervene.lr")
    decays = tensor_factors(model, settings.decay, "intervene.decay")
    frozen = set(named_tensors(model, settings.frozen, "intervene.frozen"))
    spans: list[Span | None] = []
    at = 0
    for part in model.parts:
        size = math.prod(part.shape)
        where = slice(at, at + size)
        at += size
        if part.name in frozen:
            spans.append(None)
            continue
        span = Span(where, rates.get(part.name, 1.0), decays.get(part.name, 1.0))
        last = spans[-1] if spans else None
        if last is not None and (last.lr, last.decay) == (span.lr, span.decay):
            spans[-1] = Span(slice(last.where.start, where.stop), span.lr, span.decay)
        else:
            spans.append(span)
    return [span for span in spans if span is not None]


def initial_params(settings: InterveneSettings, model: Model, drawn: Params) -> Params:
    """The weights that a run starts with: those ``drawn``, times their factors."""
    factors = tensor_factors(model, settings.init, "intervene.init")
    return {name: value * factors[name] if name in factors else value for name, value in drawn.items()}


class NormClamp:
    """Holds the norm of the tensors that ``settings`` name, in one run or in several on a leading axis.

    The settings of several runs may differ in ``norm``, ``rho`` and ``start``.
    """

    def __init__(self, settings: Sequence[ClampSettings], model: Model, vector: Tensor) -> None:
        first = settings[0]
        chosen = set(named_tensors(model, first.tensors, "intervene.clamp.tensors"))
        self.slices: list[slice] = []
        at = 0
        for part in model.parts:
            size = math.prod(part.shape)
            if part.name in chosen:
                if self.slices and self.slices[-1].stop == at:
                    self.slices[-1] = slice(self.slices[-1].start, at + size)
                else:
                    self.slices.append(slice(at, at + size))
            at += size
        self.once, self.alone = first.once, vector.ndim == 1
        options = {"dtype": torch.float64, "device": vector.device}
        self.target = torch.tensor([one.rho * one.norm for one in settings], **options)[:, None]
        self.start = torch.tensor([one.start for one in settings], **options)[:, None]
        self._starts = [one.start for one in settings]

    @torch.no_grad()
    def apply(self, vector: Tensor, step: int | Tensor) -> None:
        """Clamp ``vector`` (P,) or (runs, P), which an update has just brought to ``step``.

        On a GPU the step may be a tensor there, so that the same work can be captured once and replayed.
        """
        if isinstance(step, int):
            acting = [step == start if self.once else step >= start for start in self._starts]
            if not any(acting):
                return
            active = torch.tensor(acting, device=vector.device)[:, None]
        else:
            active = step == self.start if self.once else step >= self.start
        rows = vector[None] if self.alone else vector
        # run by run, so that a run's sum is the same whatever stands beside it
        squares = torch.stack(
            [sum((row[part].double().square().sum() for part in self.slices), row.new_zeros((), dtype=torch.float64))
             for row in rows]
        )[:, None]  # fmt: skip
        factor = torch.where(active, self.target / squares.sqrt(), 1.0).to(vector.dtype)
        for part in self.slices:
            rows[:, part] *= factor


def check_interventions(settings: InterveneSettings, model: Model, where: str) -> None:
    """Ranges that types do not say, and names. Raises GrokscopeError."""
    clamp = settings.clamp
    ranges: list[tuple[str, object, bool, str]] = [
        *[(f"lr.{name}", value, value > 0, "above 0 (intervene.frozen keeps tensors as they are)")
          for name, value in settings.lr.items()],
        *[(f"decay.{name}", value, value >= 0, "at least 0") for name, value in settings.decay.items()],
        *[(f"init.{name}", value, value >= 0, "at least 0") for name, value in settings.init.items()],
    ]  # fmt: skip
    if clamp is not None:
        ranges += [
            ("clamp.norm", clamp.norm, clamp.norm > 0, "above 0"),
            ("clamp.rho", clamp.rho, clamp.rho > 0, "above 0"),
            ("clamp.start", clamp.start, clamp.start >= 1, "at least 1"),
            ("clamp.tensors", list(clamp.tensors), bool(clamp.tensors), "at least one name"),
        ]
    if settings.jacobian is not None:
        check_penalty(settings.jacobian, model, where)
    if settings.filter is not None:
        ranges += filter_ranges(settings.filter)
    for name, value, fine, expected in ranges:
        if not fine:
            raise GrokscopeError(f"reading {where}: intervene.{name} is {value}, expected {expected}")
    try:
        if not parameter_spans(settings, model):
            raise GrokscopeError("intervene.frozen names every tensor, expected one that is trained")
        tensor_factors(model, settings.init, "intervene.init")
        if clamp is not None:
            named_tensors(model, clamp.tensors, "intervene.clamp.tensors")
    except GrokscopeError as error:
        raise GrokscopeError(f"reading {where}: {error}") from None
