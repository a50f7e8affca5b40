"""The proof of a rebuild: its losses and accuracies beside the numbers that the authors recorded.

Many training loops evaluate after an update and save before it, or the other way about, so that a recorded
number belongs to weights one step away. That is a verdict of its own here, and it has to be earned twice: the
record must confirm the function somewhere (a loss that agrees in three digits, or the first update, which can
be replayed), and the difference must be within what one step of the recorded learning rate does to that loss.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grokscope.foreign.facts import DECAY_NAMES, LEARNING_RATE_NAMES, Facts, Recorded
from grokscope.measures.classification import correct, cross_entropy, mean_over
from grokscope.models import Params, Transformer
from grokscope.tasks import Task

RELATIVE_TOLERANCE = 1e-5
"""What float32 evaluation of a mean over thousands of pairs is allowed."""

ACCURACY_SLACK = 0.01
"""Share of pairs whose answer one step may change where the losses are one step apart."""

ADAM_EPSILON = 1e-8
BLOCK_OF_PAIRS = 4096
FLOAT32_ROUNDING = 1e-7

Verdict = Literal["agrees", "one step off", "differs"]


@dataclass(frozen=True)
class Comparison:
    """One recorded number beside ours; ``difference`` is ours − recorded, ``note`` what explains it."""

    quantity: str
    step: int
    recorded: float
    ours: float
    difference: float
    verdict: Verdict
    source: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Optimiser:
    """The recorded learning rate and decoupled decay, for judging what one step can do."""

    learning_rate: float
    decay: float


def recorded_optimiser(facts: Facts, inside: Mapping[str, Any]) -> Optimiser | None:
    """Learning rate and weight decay as recorded, where the former is there and sensible."""
    rate, decay = facts.find(LEARNING_RATE_NAMES, inside), facts.find(DECAY_NAMES, inside)
    if rate is None or not isinstance(rate[0], int | float) or not 0 < rate[0] < 10:
        return None
    usable = decay is not None and isinstance(decay[0], int | float) and 0 <= decay[0] < 1e6
    return Optimiser(float(rate[0]), float(decay[0]) if usable and decay is not None else 0.0)


def measured(task: Task, losses: Tensor, right: Tensor) -> dict[str, Tensor]:
    """(T,) float64 of every quantity that a proof may hold, from (T, N) outcomes."""
    masks = {"train": task.train_mask, "test": ~task.train_mask, "all": torch.ones_like(task.train_mask)}
    found = {f"loss.{name}": mean_over(losses, mask) for name, mask in masks.items()}
    return found | {f"accuracy.{name}": mean_over(right, mask) for name, mask in masks.items()}


def prove(
    recorded: Sequence[Recorded],
    ours: Mapping[str, Tensor],
    steps: Sequence[int],
    model: Transformer,
    saves: Sequence[Params],
    task: Task,
    optimiser: Optimiser | None,
) -> list[Comparison]:
    """Every recorded number compared, in order of step and quantity.

    A difference within half the last printed digit or ``RELATIVE_TOLERANCE`` agrees. A loss further off is
    *one step off* where η(‖∇L‖₁ + λ|θ·∇L|), the first-order effect of an AdamW update whose coordinates
    move by at most η, covers the difference; an accuracy where the loss of the same pairs and source is.
    """
    position = {step: index for index, step in enumerate(steps)}
    replay = _replayed_losses(steps, model, saves, task, optimiser)
    compared: list[Comparison] = []
    confirmed: set[str] = set()
    for one in recorded:
        value = float(ours[one.quantity][position[one.step]])
        agrees = _within(value, one)
        if one.quantity.startswith("loss.") and one.value:
            three_digits = one.resolution <= 1e-3 * abs(one.value)
            later = replay.get(one.quantity) if one.step == 0 else None
            if three_digits and (agrees or (later is not None and _within(later, one))):
                confirmed.add(one.place)
        verdict: Verdict = "agrees" if agrees else "differs"
        difference = value - one.value
        compared.append(Comparison(one.quantity, one.step, one.value, value, difference, verdict, one.source))
    if optimiser is None:
        return compared
    for index, given in enumerate(recorded):
        one = compared[index]
        if one.verdict == "differs" and given.place in confirmed and one.quantity.startswith("loss."):
            reach = _reach_of_a_step(model, saves[position[one.step]], task, one.quantity, optimiser)
            if abs(one.difference) <= reach + given.resolution:
                note = f"one recorded step moves it by at most {reach:.2g}"
                if one.step == 0 and one.quantity in replay:
                    note = f"the first update, replayed, gives {replay[one.quantity]:.7g}"
                compared[index] = dataclasses.replace(one, verdict="one step off", note=note)
    sizes = {"train": int(task.train_mask.sum()), "test": int((~task.train_mask).sum())}
    return [_with_loss(one, compared, sizes) for one in compared]


def typical_error(
    recorded: Sequence[Recorded], ours: Mapping[str, Tensor], steps: Sequence[int]
) -> float | None:
    """Geometric mean of the relative differences from the recorded losses; ``None`` without any.

    A function that is right has some numbers to many digits even where the others are one step off, which a
    geometric mean sees. A loss printed as zero, or to its last digit only, says nothing and is left out.
    """
    position = {step: index for index, step in enumerate(steps)}
    errors = [
        max(abs(float(ours[one.quantity][position[one.step]]) - one.value) / abs(one.value), FLOAT32_ROUNDING)
        for one in recorded
        if one.quantity.startswith("loss.") and abs(one.value) > 20 * one.resolution and one.value
    ]
    return statistics.geometric_mean(errors) if errors else None


def _within(value: float, one: Recorded) -> bool:
    return abs(value - one.value) <= max(one.resolution * (1 + 1e-9), RELATIVE_TOLERANCE * abs(one.value))


def _replayed_losses(
    steps: Sequence[int],
    model: Transformer,
    saves: Sequence[Params],
    task: Task,
    optimiser: Optimiser | None,
) -> dict[str, float]:
    """The losses after the first update, where step 0 was saved and the optimiser is recorded."""
    if optimiser is None or not steps or steps[0] != 0:
        return {}
    updated = first_update(model, saves[0], task, optimiser)
    logits = torch.cat([model.forward(updated, pairs) for pairs in task.inputs.split(BLOCK_OF_PAIRS)])
    losses = cross_entropy(logits, task.targets)
    found = measured(task, losses[None], correct(logits, task.targets)[None])
    return {name: float(value[0]) for name, value in found.items() if name.startswith("loss.")}


def first_update(model: Transformer, params: Params, task: Task, optimiser: Optimiser) -> Params:
    """The weights after AdamW's first full-batch update, which no earlier moment enters.

    θ ← θ(1 − ηλ) − η g/(|g| + ε) in float64: with bias correction the first moments are g and g².
    """
    gradient = _gradient(model, params, task, task.train_mask)
    rate, decay = optimiser.learning_rate, optimiser.decay
    return {
        name: value.to(torch.float64) * (1 - rate * decay)
        - rate * gradient[name] / (gradient[name].abs() + ADAM_EPSILON)
        for name, value in params.items()
    }


def _with_loss(one: Comparison, compared: Sequence[Comparison], sizes: Mapping[str, int]) -> Comparison:
    """An accuracy slightly off (a pair at least) is one step off where its loss, from the same file, is."""
    kind, _, pairs = one.quantity.partition(".")
    slack = max(ACCURACY_SLACK, 1.5 / sizes.get(pairs, sum(sizes.values())))
    if kind != "accuracy" or one.verdict != "differs" or abs(one.difference) > slack:
        return one
    place = one.source.rpartition(" in ")[2]
    for other in compared:
        same = other.step == one.step and other.source.endswith(f" in {place}")
        if same and other.quantity == f"loss.{pairs}" and other.verdict == "one step off":
            return dataclasses.replace(one, verdict="one step off")
    return one


def _reach_of_a_step(
    model: Transformer, params: Params, task: Task, quantity: str, optimiser: Optimiser
) -> float:
    which = quantity.partition(".")[2]
    mask = {"train": task.train_mask, "test": ~task.train_mask}.get(which, torch.ones_like(task.train_mask))
    gradient = _gradient(model, params, task, mask)
    length = sum(float(g.abs().sum()) for g in gradient.values())
    along = sum(float((g * params[name].to(torch.float64)).sum()) for name, g in gradient.items())
    return optimiser.learning_rate * (length + optimiser.decay * abs(along))


def _gradient(model: Transformer, params: Params, task: Task, mask: Tensor) -> Params:
    """The gradient of the mean loss over the pairs in ``mask``, in float64."""
    leaves = {name: value.detach().to(torch.float64).requires_grad_() for name, value in params.items()}
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    inputs, targets = task.inputs[mask], task.targets[mask]
    with torch.enable_grad():
        for start in range(0, len(inputs), BLOCK_OF_PAIRS):
            chosen = slice(start, start + BLOCK_OF_PAIRS)
            loss = cross_entropy(model.forward(leaves, inputs[chosen]), targets[chosen]).sum() / len(inputs)
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            for part, name in zip(found, total, strict=True):
                total[name] += part
    return total
