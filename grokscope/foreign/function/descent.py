"""Following the error of the recorded losses downhill, one choice of a hypothesis at a time.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch

from grokscope.foreign.evidence.losses import CROSS_ENTROPY, Loss
from grokscope.foreign.evidence.proof import measured, typical_error
from grokscope.foreign.function.effort import Effort
from grokscope.foreign.function.hypotheses import CLEAR_RATIO
from grokscope.foreign.function.outcomes import Answered, Outcomes, key_of
from grokscope.foreign.function.search import Searched
from grokscope.foreign.function.space import Assignment
from grokscope.foreign.function.trials import NEAR, Trial, tokens_of, tried
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.foreign.gathering.facts import Recorded
from grokscope.foreign.splitting.find import Split

MOST_COMPARED = 4
"""Saves on which hypotheses are compared with the record."""

LARGE = 4e9
"""Work, as ``effort`` counts it, of one hypothesis on all compared saves beyond which only one save is compared."""

MOST_WORK = 2e11
"""Work of one descent."""

EXPLAINED = 3e-6
"""Typical error from which on nothing nearer is looked for: the rounding of float32, summed over the pairs."""

ROUGHLY = 3e-4
"""Typical error from which down float32 does not tell it."""

ALMOST = 1e-3
"""Typical error from which down only what hardly matters can still be wrong."""


@dataclass
class Nearest:
    """The chosen hypothesis, what it answers where that is known, and what was compared on the way.

    ``errors`` are typical relative errors of the recorded losses by ``id`` of a trial; ``trials`` those that
    the search had not tried; ``stopped`` says what ended the comparison too early, if anything; ``loss`` is
    what the recorded losses are.
    """

    trial: Trial
    answered: Answered | None = None
    errors: dict[int, float | None] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    stopped: str = ""
    loss: Loss = CROSS_ENTROPY


class Descent:
    """Comparison of hypotheses of one operation and modulus with the record, under one split."""

    def __init__(
        self, outcomes: Outcomes, searched: Searched, losses: Sequence[Recorded], answered: Answered
    ) -> None:
        source = outcomes.source
        self.outcomes, self.searched, self.answered = outcomes, searched, answered
        self.source, self.space = source, outcomes.space
        self.mask = answered.split.mask if isinstance(answered.split, Split) else None
        chosen = telling(source, losses)
        steps = {source.snapshots[index].step for index in chosen}
        self.usable = [
            one
            for one in losses
            if one.step in steps and (self.mask is not None or one.quantity == "loss.all")
        ]
        with_usable = {one.step for one in self.usable}
        self.chosen = [index for index in chosen if source.snapshots[index].step in with_usable]
        self.known = {key_of(trial.assignment): trial for trial in searched.trials}
        self.new: list[Trial] = []
        self.errors: dict[int, float | None] = {}
        self.measured: dict[tuple[float, float, float], float | None] = {}
        self.effort = Effort(MOST_WORK)

    def run(self, first: Trial) -> Nearest:
        """Follow the error downhill from ``first`` and from all that answer as well."""
        if not self.chosen:
            return Nearest(first, self.answered, loss=self.outcomes.loss)
        least = 0.5 * first.nats
        rivals = [one for one in self.searched.finalists() if comparable(one, first)]
        n_pairs = len(self.outcomes.model_of(first)[2].inputs)
        if n_pairs * self.outcomes.weights * len(self.chosen) > LARGE and len(self.chosen) > 1:
            # one save, from the midst of training, tells nearly as much as four
            self.chosen = [self.chosen[len(self.chosen) // 2]]
            step = self.source.snapshots[self.chosen[0]].step
            self.usable = [one for one in self.usable if one.step == step]
        self._measure(first)
        if self._error(first) > EXPLAINED:
            for trial in self._with_variants([first, *rivals]):
                self._measure(trial)
        nearest = self._lowest(first)
        while self._error(nearest) > EXPLAINED and not self.effort.over():
            for assignment in self.space.neighbours(nearest.assignment):
                if self.effort.over():
                    break
                trial = self._trial(assignment, first)
                if trial is not None and comparable(trial, first) and trial.nats >= least:
                    self._measure(trial)
            before, nearest = nearest, self._lowest(nearest)
            if nearest is before:
                break
        if EXPLAINED < self._error(nearest) < ALMOST:
            # two things that hardly matter may be wrong together
            for trial in self._fine_variants(nearest):
                self._measure(trial)
            nearest = self._lowest(nearest)
        if self._error(first) < CLEAR_RATIO * self._error(nearest):
            nearest = first
        self._compare(nearest)
        lowest = self._lowest(nearest)
        if CLEAR_RATIO * self._error(lowest) <= self._error(nearest):
            nearest = lowest
            self._compare(nearest)
        answered = self.answered if nearest is self.searched.best else None
        return Nearest(nearest, answered, self.errors, self.new, self.effort.why, self.outcomes.loss)

    def _fine_variants(self, trial: Trial) -> Iterator[Trial]:
        """Every combination of activation, late choices and the logits of the softmax."""
        fine = [one for one in self.space.choices if one.late or one.about in ("activation", "softmax over")]
        for options in product(*(one.options for one in fine)):
            changed = dict(zip((one.about for one in fine), options, strict=True))
            varied = self._trial({**trial.assignment, **changed}, trial)
            if varied is not None and varied.nats >= NEAR * trial.nats:
                yield varied

    def _compare(self, winner: Trial) -> None:
        """Measure what differs from the winner in one choice and answers as well: its runners-up."""
        for assignment in self.space.neighbours(winner.assignment):
            if self.effort.over():
                return
            trial = self._trial(assignment, winner)
            if trial is not None and comparable(trial, winner) and trial.nats >= NEAR * winner.nats:
                self._measure(trial)

    def _with_variants(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """The trials, and each with a choice varied that no answer tells."""
        yield from trials
        for trial in trials:
            for choice in self.space.choices:
                if choice.about == "softmax over" or choice.late:
                    for option in choice.options:
                        varied = self._trial({**trial.assignment, choice.about: option}, trial)
                        if varied is not None and varied.nats >= 0.5 * trial.nats:
                            yield varied

    def _trial(self, assignment: Assignment, like: Trial) -> Trial | None:
        """The trial of an assignment, tried now where the search had not; ``None`` of another modulus."""
        if tokens_of(assignment).p != like.p:
            return None
        key = key_of(assignment)
        if key not in self.known:
            tensors = self.source.snapshots[self.chosen[-1]].tensors
            trial = tried(self.space, tensors, assignment, (like.operation,))
            if trial is None:
                return None
            self.known[key] = trial
            self.new.append(trial)
        return self.known[key]

    def _measure(self, trial: Trial) -> None:
        """The typical error of a hypothesis, in float32 first: only where that is small does it take more."""
        if id(trial) in self.errors or self.effort.over():
            return
        # two that agree in every bit of a mean over the sample are one function under two names
        mark = trial.loss, trial.firm, trial.accuracy
        if mark not in self.measured:
            error = self._compared(trial, narrow=True)
            if error is not None and error < ROUGHLY:
                error = self._compared(trial, narrow=False)
            self.measured[mark] = error
        self.errors[id(trial)] = self.measured[mark]

    def _compared(self, trial: Trial, *, narrow: bool) -> float | None:
        pairs = [self.outcomes.at(trial, save, narrow=narrow) for save in self.chosen]
        losses, right = torch.stack([one for one, _ in pairs]), torch.stack([one for _, one in pairs])
        self.effort.charge(losses.numel(), self.outcomes.weights)
        task = self.outcomes.model_of(trial)[2]
        task = task if self.mask is None else task.with_split(self.mask)
        steps = [self.source.snapshots[index].step for index in self.chosen]
        return typical_error(self.usable, measured(task, losses, right), steps)

    def _error(self, trial: Trial) -> float:
        error = self.errors.get(id(trial))
        return float("inf") if error is None else error

    def _lowest(self, leader: Trial) -> Trial:
        """The trial of the least error; ``leader`` where none is less."""
        measured_ones = [one for one in self.known.values() if id(one) in self.errors]
        return min([leader, *measured_ones], key=self._error)


def comparable(one: Trial, other: Trial) -> bool:
    return (one.p, one.operation, one.swapped) == (other.p, other.operation, other.swapped)


def telling(source: ForeignRun, losses: Sequence[Recorded]) -> list[int]:
    """Positions of at most ``MOST_COMPARED`` saves with a recorded loss, spread over the run."""
    steps = {one.step for one in losses}
    having = [index for index, one in enumerate(source.snapshots) if one.step in steps]
    if len(having) <= MOST_COMPARED:
        return having
    spread = (round(k * (len(having) - 1) / (MOST_COMPARED - 1)) for k in range(MOST_COMPARED))
    return sorted({having[k] for k in spread})
