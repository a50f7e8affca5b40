"""One recorded number beside ours: the verdicts, and the evidence that each of them rests on.

Scope: the judgement of single numbers, for ``proof``, which decides what a source as a whole has earned.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.foreign.evidence.losses import CROSS_ENTROPY, Loss
from grokscope.foreign.evidence.moments import Moments
from grokscope.foreign.evidence.one_step import (
    BLOCK_OF_PAIRS,
    SLOPE_SAFETY,
    CurveLike,
    Optimiser,
    neighbour_on_curve,
    reach_of_a_step,
    replays,
    slope_on_curve,
)
from grokscope.foreign.gathering.facts import Recorded
from grokscope.measures.classification import correct, mean_over
from grokscope.models import Model, Params
from grokscope.tasks import Task

Verdict = Literal[
    "reproduced",
    "one step off",
    "at the precision floor",
    "at the printed precision",
    "conflict",
    "nothing recorded",
]
VERDICTS: tuple[Verdict, ...] = (
    "reproduced",
    "one step off",
    "at the precision floor",
    "at the printed precision",
    "conflict",
    "nothing recorded",
)

TOLERANCE = 0.005
"""Relative difference up to which a number counts as reproduced."""

EXACT_TOLERANCE = 1e-5
"""What float32 evaluation of a mean over thousands of pairs is allowed."""

COUNT_TOLERANCE = 1e-6
"""Difference of two accuracies that stand for the same number of pairs, one of them kept in float32."""

FLOAT32_STEP = 2.0**-23
"""Spacing of float32 at 1. A log-softmax of a confident answer, log(1 + δ), is a multiple of about this."""

FLOOR_CEILING = 1e-6
EVALUATED_IN_FLOAT32 = 1e-4
"""Losses below which float32 rounding of single pairs can show in the mean, and are evaluated again."""

ACCURACY_SLACK = 0.01
"""Share of pairs whose answer one step may change where the losses are one step apart."""

MOST_REPLAYS = 12
MOST_REPLAYS_FOR_CONVENTION = 2


@dataclass(frozen=True)
class Comparison:
    """One recorded number beside ours.

    ``difference`` is ours − recorded, ``relative`` that over the recorded value (``None`` for a recorded 0),
    ``note`` what explains it. ``shift`` says to which weights the recorded number belongs: −1 one update
    before the saved ones, +1 one after, ``None`` where that is not known or does not matter.
    """

    quantity: str
    step: int
    recorded: float | None
    ours: float | None
    difference: float | None
    verdict: Verdict
    source: str
    note: str = ""
    relative: float | None = None
    shift: int | None = None

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def measured(task: Task, losses: Tensor, right: Tensor) -> dict[str, Tensor]:
    """(T,) float64 of every quantity that a proof may hold, from (T, N) outcomes.

    Where it is not known which pairs were trained on, only those over all pairs are there.
    """
    found: dict[str, Tensor] = {}
    for name, mask in sets_of_pairs(task).items():
        found[f"loss.{name}"], found[f"accuracy.{name}"] = mean_over(losses, mask), mean_over(right, mask)
    return found


class Judge:
    """The evidence that verdicts rest on, each piece computed once and only where a row needs it."""

    def __init__(
        self,
        ours: Mapping[str, Tensor],
        position: Mapping[int, int],
        model: Model,
        saves: Sequence[Params],
        task: Task,
        optimiser: Optimiser | None,
        curves: Sequence[CurveLike],
        states: Sequence[Moments | Absent | None],
        dtype_losses: Mapping[str, Tensor] | None,
        loss: Loss = CROSS_ENTROPY,
    ) -> None:
        self.loss = loss
        self.ours, self.position, self.dtype_losses = ours, position, dtype_losses or {}
        self.model, self.saves, self.task, self.optimiser = model, saves, task, optimiser
        self.states = states
        self.curves = [one for one in curves if len(one.steps) == len(one.values) and len(one.steps) > 1]
        self.sets = sets_of_pairs(task)
        self._replayed: dict[int, list[tuple[int, str, dict[str, float]]]] = {}
        self._in_float32: dict[int, dict[str, float]] = {}
        self._reach: dict[tuple[int, str], float] = {}

    def at_once(self, one: Recorded) -> Comparison:
        """The verdicts that need two numbers only; *conflict* stands for undecided."""
        value = float(self.ours[one.quantity][self.position[one.step]])
        row = Comparison(one.quantity, one.step, one.value, value, value - one.value, "conflict", one.source)
        if not math.isfinite(value):
            return dataclasses.replace(row, ours=None, difference=None, note="our value is not finite")
        difference = abs(value - one.value)
        relative = (value - one.value) / abs(one.value) if one.value else None
        row = dataclasses.replace(row, relative=relative)
        printed = difference <= one.resolution * (1 + 1e-9)
        if one.quantity.startswith("accuracy."):
            pairs = int(self._pairs(one.quantity).sum())
            same = difference <= COUNT_TOLERANCE or (printed and one.resolution <= 0.5 / pairs)
        else:
            same = difference <= TOLERANCE * abs(one.value)
        if same or (printed and relative is not None and abs(relative) <= TOLERANCE):
            return dataclasses.replace(row, verdict="reproduced")
        if printed and one.resolution:
            note = f"printed to {2 * one.resolution:.1g}"
            return dataclasses.replace(row, verdict="at the printed precision", note=note)
        return row

    def choose_replays(self, judged: Sequence[tuple[Recorded, Comparison]]) -> None:
        """Replay the saves with undecided rows, and a few that show which convention the record follows."""
        undecided = [self.position[one.step] for one, row in judged if row.verdict == "conflict"]
        inexact = [
            (abs(one.value), self.position[one.step])
            for one, row in judged
            if one.quantity.startswith("loss.") and row.verdict == "reproduced" and not is_exact(one, row)
        ]
        # the larger a loss, the less float32 rounding hides the step
        largest_first = dict.fromkeys(index for _, index in sorted(inexact, key=lambda pair: -pair[0]))
        wanted = list(dict.fromkeys(undecided))[:MOST_REPLAYS]
        wanted += [index for index in largest_first if index not in wanted][:MOST_REPLAYS_FOR_CONVENTION]
        for index in wanted:
            state = self.states[index] if index < len(self.states) else None
            is_first = index == self.position.get(0)
            found = replays(
                self.model, self.saves[index], self.task, state, self.optimiser, is_first, self.loss
            )
            self._replayed[index] = [(one.shift, one.how, self._evaluate(one.params)) for one in found]

    def by_replay(self, one: Recorded, row: Comparison) -> Comparison:
        """*One step off* where a replayed step gives the recorded number; a note where it does so better."""
        if row.ours is None or row.verdict == "at the printed precision" or is_exact(one, row):
            return row
        best: tuple[float, int, str] | None = None
        for shift, how, values in self._replayed.get(self.position[one.step], ()):
            value = values.get(one.quantity, math.nan)
            if abs(value - one.value) < abs((best[0] if best else row.ours) - one.value):
                best = value, shift, how
        if best is None:
            return row
        value, shift, how = best
        note = f"{how} gives {value:.7g}: recorded {_side(shift)}"
        if row.verdict == "reproduced":
            # the neighbouring weights must fit far better before they explain what already agrees
            nearer = abs(value - one.value) <= max(one.resolution, 0.1 * abs(row.ours - one.value))
            return dataclasses.replace(row, note=note, shift=shift) if nearer else row
        if one.quantity.startswith("accuracy."):
            fits = abs(value - one.value) <= max(COUNT_TOLERANCE, one.resolution * (1 + 1e-9))
        else:
            fits = abs(value - one.value) <= max(one.resolution * (1 + 1e-9), TOLERANCE * abs(one.value))
        return dataclasses.replace(row, verdict="one step off", note=note, shift=shift) if fits else row

    def by_loss(self, one: Recorded, row: Comparison, confirmed: bool) -> Comparison:
        """The remaining verdicts of a loss; what a curve says about one that is reproduced already."""
        if (
            not one.quantity.startswith("loss.")
            or row.ours is None
            or row.difference is None
            or is_exact(one, row)
        ):
            return row
        if row.verdict == "conflict" and (note := self._floor(one, row.ours)):
            return dataclasses.replace(row, verdict="at the precision floor", note=note)
        if row.verdict not in ("conflict", "reproduced") or row.shift is not None:
            return row
        curves = [curve for curve in self.curves if curve.quantity == one.quantity]
        curves.sort(key=lambda curve: not curve.source.endswith(one.place))
        for curve in curves:
            beside = neighbour_on_curve(curve, one.step, one.value, row.ours, one.resolution)
            if beside is not None:
                shift, at, value = beside
                note = f"{curve.source} has {value:.7g} at step {at}: recorded {_side(shift)}"
                verdict: Verdict = "one step off" if row.verdict == "conflict" else "reproduced"
                return dataclasses.replace(row, verdict=verdict, note=note, shift=shift)
        if row.verdict == "reproduced" or not confirmed:
            return row
        allowed = abs(row.difference) - one.resolution
        for curve in curves:
            slope = slope_on_curve(curve, one.step)
            if slope is not None and allowed <= SLOPE_SAFETY * slope[0]:
                per_step, signed, apart = slope
                note = (
                    f"{curve.source} changes by {per_step:.2g} a step here (rows {apart} steps apart); "
                    f"{SLOPE_SAFETY:g} times that covers the difference"
                )
                shift = None if not signed else 1 if (signed > 0) == (row.difference < 0) else -1
                return dataclasses.replace(row, verdict="one step off", note=note, shift=shift)
        reach = self._reach_of(one)
        if reach is not None and allowed <= reach:
            note = f"one step at the recorded rate moves it by at most {reach:.2g}, to first order"
            return dataclasses.replace(row, verdict="one step off", note=note)
        return row

    def by_accuracy(self, one: Recorded, row: Comparison, rows: Sequence[Comparison]) -> Comparison:
        """An accuracy is one step off where the loss of the same pairs, from the same source, is."""
        if not one.quantity.startswith("accuracy.") or row.verdict != "conflict" or row.difference is None:
            return row
        pairs = one.quantity.partition(".")[2]
        count = int(self._pairs(one.quantity).sum())
        for loss in rows:
            same = loss.step == one.step and loss.source.endswith(f" in {one.place}")
            if not same or loss.quantity != f"loss.{pairs}":
                continue
            moved = loss.verdict == "one step off" or (
                loss.verdict == "reproduced" and loss.shift is not None
            )
            if moved and abs(row.difference) <= max(ACCURACY_SLACK, 1.5 / count) + one.resolution:
                apart = f"{abs(row.difference) * count:.0f} of {count} pairs"
                note = f"{apart} apart; the loss of the same pairs: {loss.note}"
                return dataclasses.replace(row, verdict="one step off", note=note, shift=loss.shift)
        if row.relative is not None and abs(row.relative) <= TOLERANCE:
            note = f"{abs(row.difference) * count:.1f} of {count} pairs apart"
            return dataclasses.replace(row, verdict="reproduced", note=note)
        return row

    def unrecorded(self, step: int) -> Comparison:
        """The row of a save that nothing is recorded for."""
        total = self.ours.get("loss.all")
        value = float(total[self.position[step]]) if total is not None else None
        value = value if value is not None and math.isfinite(value) else None
        note = "no loss or accuracy is recorded for this save"
        note += "; ours is the loss over all pairs" if value is not None else ""
        return Comparison("loss", step, None, value, None, "nothing recorded", "", note)

    def _floor(self, one: Recorded, ours: float) -> str:
        """Why float32 evaluation decides about this loss, or an empty text."""
        index = self.position[one.step]
        largest = max(one.value, ours)
        if one.quantity in self.dtype_losses:
            narrow, kind = float(self.dtype_losses[one.quantity][index]), "in the dtype of training"
        elif largest < EVALUATED_IN_FLOAT32:
            if index not in self._in_float32:
                self._in_float32[index] = self._evaluate_in_float32(self.saves[index])
            narrow, kind = self._in_float32[index][one.quantity], "in float32"
        else:
            return ""
        if abs(narrow - one.value) <= max(one.resolution, TOLERANCE * abs(one.value)):
            return f"evaluated {kind} it is {narrow:.7g}"
        apart = max(abs(ours - one.value), abs(narrow - one.value))
        if largest < FLOOR_CEILING and apart <= FLOAT32_STEP:
            told = f"the difference is within one rounding of float32 at 1, {FLOAT32_STEP:.2g}"
            return f"{told}; {kind} it is {narrow:.3g}"
        return ""

    def _reach_of(self, one: Recorded) -> float | None:
        """The first-order bound, under the stored optimiser's settings or the recorded ones."""
        index, which = self.position[one.step], one.quantity.partition(".")[2]
        state = self.states[index] if index < len(self.states) else None
        optimiser = self.optimiser
        if isinstance(state, Moments):
            rates = [float(value.max()) for value in state.rate.values()]
            decays = [float(value.max()) for value in state.decay.values()]
            optimiser = Optimiser(max(rates), max(decays))
        if optimiser is None:
            return None
        if (index, which) not in self._reach:
            mask = self._pairs(one.quantity)
            self._reach[index, which] = reach_of_a_step(
                self.model, self.saves[index], self.task, mask, optimiser, self.loss
            )
        return self._reach[index, which]

    def _pairs(self, quantity: str) -> Tensor:
        return self.sets[quantity.partition(".")[2]]

    def _evaluate(self, params: Params) -> dict[str, float]:
        logits = _logits(self.model, params, self.task)
        losses, right = self.loss.of(logits, self.task.targets), correct(logits, self.task.targets)
        return {
            name: float(value[0]) for name, value in measured(self.task, losses[None], right[None]).items()
        }

    def _evaluate_in_float32(self, params: Params) -> dict[str, float]:
        """The mean losses as a training loop in float32 prints them."""
        logits = _logits(
            self.model, {name: value.to(torch.float32) for name, value in params.items()}, self.task
        )
        losses = self.loss.of_dtype(logits, self.task.targets)
        return {f"loss.{name}": float(losses[mask].mean()) for name, mask in self.sets.items()}


def sets_of_pairs(task: Task) -> dict[str, Tensor]:
    masks = {"train": task.train_mask, "test": ~task.train_mask, "all": torch.ones_like(task.train_mask)}
    if getattr(task, "no_split", None) is not None:
        masks = {"all": masks["all"]}
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def _logits(model: Model, params: Params, task: Task) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.forward(params, pairs) for pairs in task.inputs.split(BLOCK_OF_PAIRS)])


def is_exact(one: Recorded, row: Comparison) -> bool:
    """Whether nothing is left to explain."""
    if row.difference is None:
        return False
    if one.quantity.startswith("accuracy."):
        return row.verdict == "reproduced"
    return abs(row.difference) <= max(one.resolution * (1 + 1e-9), EXACT_TOLERANCE * abs(one.value))


def _side(shift: int) -> str:
    return f"one update {'before' if shift < 0 else 'after'} the saved weights"
