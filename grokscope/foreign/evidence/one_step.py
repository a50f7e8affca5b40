"""What one optimiser step does to a loss: replayed from the stored state, bounded, or read off a curve.

Scope: many training loops evaluate before an update and save after it, or the other way about. Where the
optimiser's moments lie beside the weights, the last update can be undone exactly (they are the moments it was
made from), and the next can be made with one full-batch gradient. Without moments there is the first update,
which no earlier moment enters; the slope of the recorded curve; and a first-order bound.

Notation: θ weights, g gradient of the mean training loss, η rate, λ weight decay, m and v the moments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.foreign.evidence.losses import CROSS_ENTROPY, Loss
from grokscope.foreign.evidence.moments import ADAM_EPSILON, Moments
from grokscope.models import Model, Params
from grokscope.tasks import Task

BLOCK_OF_PAIRS = 4096
SLOPE_SAFETY = 3.0
"""How many times the mean change per step between two recorded rows one step may change the loss."""

NEIGHBOUR_TOLERANCE = 1e-4
"""Relative distance from the neighbouring row of a recorded curve within which a loss is that row's."""


class CurveLike(Protocol):
    """A recorded series: ``values[i]`` of ``quantity`` at ``steps[i]``, steps increasing."""

    @property
    def quantity(self) -> str: ...
    @property
    def steps(self) -> Sequence[int]: ...
    @property
    def values(self) -> Sequence[float]: ...
    @property
    def source(self) -> str: ...


@dataclass(frozen=True)
class Optimiser:
    """The recorded learning rate and decoupled decay, for judging what one step can do."""

    learning_rate: float
    decay: float


@dataclass(frozen=True)
class Replayed:
    """Weights one update away: ``shift`` −1 before the saved ones, +1 after; ``how`` in words."""

    shift: int
    how: str
    params: Params


def replays(
    model: Model,
    params: Params,
    task: Task,
    moments: Moments | Absent | None,
    optimiser: Optimiser | None,
    first: bool,
    loss: Loss = CROSS_ENTROPY,
) -> list[Replayed]:
    """The weights one update before and after ``params``, in every way that the state allows.

    ``first`` says that ``params`` are the initial weights, whose next update needs ``optimiser`` only. The
    next update needs the training pairs; where AdamW and Adam cannot be told apart, both are made.
    """
    found: list[Replayed] = []
    trained = getattr(task, "no_split", None) is None and bool(task.train_mask.any())
    if isinstance(moments, Moments) and _fits(moments, params):
        wide = {name: value.to(torch.float64) for name, value in params.items()}
        classes = [moments.decoupled] if moments.decoupled is not None else [True, False]
        if not any(bool(value.any()) for value in moments.decay.values()):
            classes = [False]
        found += [
            undone for decoupled in classes if (undone := _undone(wide, moments, decoupled)) is not None
        ]
        if trained:
            gradient = gradient_of(model, params, task, task.train_mask, loss)
            found += [_advanced(wide, gradient, moments, decoupled) for decoupled in classes]
    elif first and optimiser is not None and trained:
        updated = first_update(model, params, task, optimiser, loss)
        found.append(Replayed(1, "the first update, replayed,", updated))
    return found


def first_update(
    model: Model, params: Params, task: Task, optimiser: Optimiser, loss: Loss = CROSS_ENTROPY
) -> Params:
    """The weights after AdamW's first full-batch update, which no earlier moment enters.

    θ ← θ(1 − ηλ) − η g/(|g| + ε) in float64: with bias correction the first moments are g and g².
    """
    gradient = gradient_of(model, params, task, task.train_mask, loss)
    rate, decay = optimiser.learning_rate, optimiser.decay
    return {
        name: value.to(torch.float64) * (1 - rate * decay)
        - rate * gradient[name] / (gradient[name].abs() + ADAM_EPSILON)
        for name, value in params.items()
    }


def _undone(params: Params, moments: Moments, decoupled: bool) -> Replayed | None:
    """θ before the update that left these moments: exact, since it was made from them."""
    if moments.kind == "sgd":
        if moments.nesterov:
            return None
        before = {name: value + moments.rate[name] * moments.first[name] for name, value in params.items()}
        return Replayed(-1, "the last SGD update, undone,", before)
    before = {}
    for name, value in params.items():
        raised = value + moments.rate[name] * _direction(moments, name, moments.first, moments.count)
        kept = 1 - moments.rate[name] * moments.decay[name] if decoupled else 1.0
        before[name] = raised / kept
    return Replayed(
        -1, f"the last {'AdamW' if decoupled else 'Adam'} update, undone from the stored moments,", before
    )


def _advanced(params: Params, gradient: Params, moments: Moments, decoupled: bool) -> Replayed:
    """θ after the next full-batch update."""
    after: Params = {}
    for name, value in params.items():
        rate, decay, g = moments.rate[name], moments.decay[name], gradient[name]
        coupled = moments.kind == "sgd" or not decoupled
        g = g + decay * value if coupled else g
        if moments.kind == "sgd":
            buffer = moments.betas[0] * moments.first[name] + (1 - moments.betas[1]) * g
            after[name] = value - rate * (g + moments.betas[0] * buffer if moments.nesterov else buffer)
            continue
        one, two = moments.betas
        m = one * moments.first[name] + (1 - one) * g
        v = two * moments.second[name] + (1 - two) * g.square()
        if moments.largest:
            v = torch.maximum(v, moments.largest[name])
        count = moments.count + 1
        step = _adam(m, v, one, two, count, moments.epsilon)
        after[name] = value * (1.0 if coupled else 1 - rate * decay) - rate * step
    how = "SGD" if moments.kind == "sgd" else "AdamW" if decoupled else "Adam"
    return Replayed(1, f"the next {how} update, made with the stored state,", after)


def _direction(moments: Moments, name: str, first: Params, count: int) -> Tensor:
    second = moments.largest[name] if moments.largest else moments.second[name]
    return _adam(first[name], second, *moments.betas, count, moments.epsilon)


def _adam(m: Tensor, v: Tensor, one: float, two: float, count: int, epsilon: float) -> Tensor:
    return (m / (1 - one**count)) / ((v.clamp(min=0) / (1 - two**count)).sqrt() + epsilon)


def reach_of_a_step(
    model: Model,
    params: Params,
    task: Task,
    mask: Tensor,
    optimiser: Optimiser,
    loss: Loss = CROSS_ENTROPY,
) -> float:
    """η(‖∇L‖₁ + λ|θ·∇L|), the most that an AdamW update of coordinates ≤ η moves a loss, to first order."""
    gradient = gradient_of(model, params, task, mask, loss)
    length = sum(float(g.abs().sum()) for g in gradient.values())
    along = sum(float((g * params[name].to(torch.float64)).sum()) for name, g in gradient.items())
    return optimiser.learning_rate * (length + optimiser.decay * abs(along))


def gradient_of(model: Model, params: Params, task: Task, mask: Tensor, loss: Loss = CROSS_ENTROPY) -> Params:
    """The gradient of the mean loss over the pairs in ``mask``, in float64."""
    leaves = {name: value.detach().to(torch.float64).requires_grad_() for name, value in params.items()}
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    inputs, targets = task.inputs[mask], task.targets[mask]
    with torch.enable_grad():
        for start in range(0, len(inputs), BLOCK_OF_PAIRS):
            chosen = slice(start, start + BLOCK_OF_PAIRS)
            mean = loss.of(model.forward(leaves, inputs[chosen]), targets[chosen]).sum() / len(inputs)
            found = torch.autograd.grad(mean, list(leaves.values()), materialize_grads=True)
            for part, name in zip(found, total, strict=True):
                total[name] += part
    return total


def neighbour_on_curve(
    curve: CurveLike, step: int, recorded: float, ours: float, resolution: float = 0.0
) -> tuple[int, int, float] | None:
    """The row beside ``step`` of a curve of every step that has our value rather than the recorded one.

    Lists are counted from 0 or from 1, so the row that holds the recorded value is looked for within one of
    ``step``. Returns (shift, that row's step, its value): shift −1 where the recorded number belongs to
    weights one update before the saved ones.
    """
    steps, values = curve.steps, curve.values
    near = _positions(curve, step)
    here = next((i for i in near if abs(values[i] - recorded) <= max(resolution, 1e-6 * abs(recorded))), None)
    if here is None or ours == recorded:
        return None
    best = None
    for other, shift in ((here + 1, -1), (here - 1, 1)):
        if not 0 <= other < len(steps) or abs(steps[other] - steps[here]) != 1:
            continue
        distance = abs(values[other] - ours)
        close = distance <= NEIGHBOUR_TOLERANCE * abs(ours) and distance <= 0.1 * abs(ours - recorded)
        if close and (best is None or distance < best[0]):
            best = distance, (shift, int(steps[other]), float(values[other]))
    return best[1] if best else None


def slope_on_curve(curve: CurveLike, step: int) -> tuple[float, float, int] | None:
    """(largest mean change per step beside ``step``, signed change per step across it, rows' distance).

    Between rows a loss may fall exponentially, so the change per step near the row itself is also taken from
    the ratio of the rows. ``None`` where the curve has no row at ``step`` or none beside it.
    """
    here = next((i for i in _positions(curve, step) if int(curve.steps[i]) == step), None)
    if here is None:
        return None
    value, largest, distances, signed = float(curve.values[here]), 0.0, [], []
    for other in (here - 1, here + 1):
        if not 0 <= other < len(curve.steps) or curve.steps[other] == step:
            continue
        apart, beside = abs(int(curve.steps[other]) - step), float(curve.values[other])
        distances.append(apart)
        signed.append((beside - value) * (1 if other > here else -1))
        largest = max(largest, abs(beside - value) / apart)
        if value > 0 and beside > 0:
            largest = max(largest, value * abs(math.log(beside / value)) / apart)
    if not distances:
        return None
    same_sign = all(one > 0 for one in signed) or all(one < 0 for one in signed)
    return largest, signed[0] if same_sign else 0.0, max(distances)


def _positions(curve: CurveLike, step: int) -> list[int]:
    """Indices of rows within one step of ``step``, the row at ``step`` first."""
    low, high = 0, len(curve.steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if curve.steps[middle] < step - 1 else (low, middle)
    near = itertools.takewhile(lambda i: curve.steps[i] <= step + 1, range(low, len(curve.steps)))
    return sorted(near, key=lambda i: abs(curve.steps[i] - step))


def _fits(moments: Moments, params: Params) -> bool:
    return all(
        name in moments.first and moments.first[name].shape == value.shape for name, value in params.items()
    )
