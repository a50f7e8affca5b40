"""Which of the hypotheses that answer alike was trained: the one that comes nearest to the recorded losses.

The search leaves what the answers do not tell: exact or approximate GELU, the epsilon of a norm, whether the
softmax runs over spare logits. Recorded losses have many more digits than that needs. From the search's winner
and its finalists the error is followed downhill, one choice at a time, and the winner is given up only for a
hypothesis that is clearly nearer, for a record may be one step off.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from grokscope.foreign.evidence.proof import measured, typical_error
from grokscope.foreign.function.hypotheses import CLEAR_RATIO
from grokscope.foreign.function.search import (
    ENOUGH_ACCURACY,
    NEAR,
    SOME_NATS,
    Searched,
    Trial,
    alike,
    core,
    is_tame,
    operation_task,
    outcomes,
    swapped_space,
    tokens_of,
    tried,
)
from grokscope.foreign.function.space import Assignment, Space, Translate
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.foreign.gathering.facts import Recorded
from grokscope.foreign.gathering.pairs import recorded_pairs
from grokscope.foreign.splitting.find import NoSplit, Split, find_split
from grokscope.models import Model
from grokscope.tasks import Task

MOST_COMPARED = 4
"""Saves on which hypotheses are compared with the record."""

MOST_BY_TRAINING = 24
MOST_RIVALS = 6
SLOW = 0.25
"""Seconds for one hypothesis on all compared saves beyond which only one save is compared."""

SECONDS = 6.0
EXPLAINED = 3e-6
"""Typical error from which on nothing nearer is looked for: the rounding of float32, summed over the pairs."""

ALMOST = 1e-3
"""Typical error from which down only what hardly matters can still be wrong."""

UNEXPLAINED = 0.02
"""Typical error that one step does not make: the function or the split is another."""


class Answered(NamedTuple):
    """Outcomes of every pair at every save, and the split that they and the record tell."""

    losses: Tensor  # (T, N)
    right: Tensor  # (T, N) bool
    split: Split | NoSplit


@dataclass
class Nearest:
    """The chosen hypothesis, what it answers where that is known, and what was compared on the way.

    ``errors`` are typical relative errors of the recorded losses by ``id`` of a trial; ``trials`` those that
    the search had not tried.
    """

    trial: Trial
    answered: Answered | None = None
    errors: dict[int, float | None] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)


def nearest_to_record(
    source: ForeignRun, space: Space, searched: Searched, numbers: Sequence[Recorded]
) -> Nearest:
    """The hypothesis that comes clearly nearest to the recorded losses, else the search's winner."""
    first = searched.best
    losses = [one for one in numbers if one.quantity.startswith("loss.")]
    if not losses:
        return _by_training(source, space, searched, numbers)
    # which pairs were trained on shows under any function that answers them
    start = time.monotonic()
    answered = _answered(source, space, first, numbers)
    found = _Descent(source, space, searched, losses, answered).run(first)
    error = found.errors.get(id(found.trial))
    if error is None or error <= UNEXPLAINED:
        return found
    # a pair wrongly among those trained on spoils the training loss, and hardly that of the others
    held_out = [one for one in losses if one.quantity != "loss.train"]
    apart = _Descent(source, space, searched, held_out, answered).run(first) if held_out else found
    for rival in _rivals(space, searched, apart):
        if time.monotonic() - start > 2 * SECONDS:
            break
        other = _answered(source, space, rival, numbers)
        if _same_split(other.split, answered.split):
            continue
        again = _Descent(source, space, searched, losses, other).run(rival)
        its = again.errors.get(id(again.trial))
        if its is not None and its * CLEAR_RATIO <= error:
            again.trials = [*apart.trials, *again.trials]
            return again
    return found


def answered_by(
    source: ForeignRun, model: Model, translate: Translate, task: Task, numbers: Sequence[Recorded]
) -> Answered:
    """Losses and right answers of every pair at every save, and the training split."""
    each = [outcomes(model, translate, one.tensors, task) for one in source.snapshots]
    losses, right = torch.stack([one for one, _ in each]), torch.stack([one for _, one in each])
    steps = [one.step for one in source.snapshots]
    inside = dict(source.snapshots[-1].scalars)
    names = tuple(dict.fromkeys(str(one.path) for one in source.snapshots))
    split = find_split(
        task,
        losses,
        right,
        steps,
        source.facts,
        inside,
        numbers,
        recorded_pairs(source.facts, inside),
        names=names,
    )
    return Answered(losses, right, split)


def _answered(source: ForeignRun, space: Space, trial: Trial, numbers: Sequence[Recorded]) -> Answered:
    return answered_by(source, *_model_of(space, trial), numbers)


def _model_of(space: Space, trial: Trial) -> tuple[Model, Translate, Task]:
    """The model, the translation and the task (with a placeholder split) of a hypothesis."""
    assignment = swapped_space(trial.assignment) if trial.swapped else trial.assignment
    model, translate = space.build(assignment)
    p = tokens_of(assignment).p
    return model, translate, operation_task(trial.operation, p, model.n_classes - p)


class _Descent:
    """Comparison of hypotheses of one operation and modulus with the record, under one split."""

    def __init__(
        self,
        source: ForeignRun,
        space: Space,
        searched: Searched,
        losses: Sequence[Recorded],
        answered: Answered,
    ) -> None:
        self.source, self.space, self.searched, self.answered = source, space, searched, answered
        self.mask = answered.split.mask if isinstance(answered.split, Split) else None
        chosen = _telling(source, losses)
        steps = {source.snapshots[index].step for index in chosen}
        self.usable = [
            one
            for one in losses
            if one.step in steps and (self.mask is not None or one.quantity == "loss.all")
        ]
        with_usable = {one.step for one in self.usable}
        self.chosen = [index for index in chosen if source.snapshots[index].step in with_usable]
        self.known = {_key(trial.assignment): trial for trial in searched.trials}
        self.new: list[Trial] = []
        self.errors: dict[int, float | None] = {}
        self.stop = time.monotonic() + SECONDS

    def run(self, first: Trial) -> Nearest:
        """Follow the error downhill from ``first`` and from all that answer as well."""
        if not self.chosen:
            return Nearest(first, self.answered)
        least = 0.5 * first.nats
        rivals = [one for one in self.searched.finalists() if _comparable(one, first)]
        before = time.monotonic()
        self._measure(first)
        if time.monotonic() - before > SLOW and len(self.chosen) > 1:
            # one save, from the midst of training, tells nearly as much as four
            self.chosen = [self.chosen[len(self.chosen) // 2]]
            step = self.source.snapshots[self.chosen[0]].step
            self.usable = [one for one in self.usable if one.step == step]
            self.errors.clear()
            self._measure(first)
        if self._error(first) > EXPLAINED:
            for trial in self._with_variants([first, *rivals]):
                self._measure(trial)
        nearest = self._lowest(first)
        while self._error(nearest) > EXPLAINED and time.monotonic() < self.stop:
            for assignment in self.space.neighbours(nearest.assignment):
                if time.monotonic() > self.stop:
                    break
                trial = self._trial(assignment, first)
                if trial is not None and _comparable(trial, first) and trial.nats >= least:
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
        return Nearest(nearest, answered, self.errors, self.new)

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
            if time.monotonic() > self.stop:
                return
            trial = self._trial(assignment, winner)
            if trial is not None and _comparable(trial, winner) and trial.nats >= NEAR * winner.nats:
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
        key = _key(assignment)
        if key not in self.known:
            tensors = self.source.snapshots[self.chosen[-1]].tensors
            trial = tried(self.space, tensors, assignment, (like.operation,))
            if trial is None:
                return None
            self.known[key] = trial
            self.new.append(trial)
        return self.known[key]

    def _measure(self, trial: Trial) -> None:
        if id(trial) in self.errors or time.monotonic() > self.stop:
            return
        model, translate, task = _model_of(self.space, trial)
        saves = [self.source.snapshots[index] for index in self.chosen]
        pairs = [outcomes(model, translate, one.tensors, task) for one in saves]
        stacked = torch.stack([one for one, _ in pairs]), torch.stack([one for _, one in pairs])
        task = task if self.mask is None else task.with_split(self.mask)
        self.errors[id(trial)] = typical_error(
            self.usable, measured(task, *stacked), [one.step for one in saves]
        )

    def _error(self, trial: Trial) -> float:
        error = self.errors.get(id(trial))
        return float("inf") if error is None else error

    def _lowest(self, leader: Trial) -> Trial:
        """The trial of the least error; ``leader`` where none is less."""
        measured_ones = [one for one in self.known.values() if id(one) in self.errors]
        return min([leader, *measured_ones], key=self._error)


def _comparable(one: Trial, other: Trial) -> bool:
    return (one.p, one.operation, one.swapped) == (other.p, other.operation, other.swapped)


def _key(assignment: Assignment) -> str:
    return repr(sorted((name, str(value)) for name, value in assignment.items()))


def _same_split(one: Split | NoSplit, other: Split | NoSplit) -> bool:
    if isinstance(one, Split) and isinstance(other, Split):
        return bool(torch.equal(torch.as_tensor(one.mask), torch.as_tensor(other.mask)))
    return type(one) is type(other)


def _rivals(space: Space, searched: Searched, found: Nearest) -> list[Trial]:
    """A few other hypotheses under which the split may show better: the firmest, the nearest to the record."""
    mine = [one for one in (*searched.trials, *found.trials) if _comparable(one, found.trial)]
    mine = [one for one in mine if one.nats >= 0.5 * found.trial.nats and not alike(one, searched.best)]
    known = [one for one in mine if found.errors.get(id(one)) is not None]
    firmest = sorted(mine, key=lambda one: (-one.firm_nats, one.departure))
    nearest = sorted(known, key=lambda one: found.errors[id(one)] or 0.0)
    distinct: dict[str, Trial] = {}
    for one in (*nearest[:1], *firmest):
        distinct.setdefault(core(space, one.assignment), one)
    return list(distinct.values())[:MOST_RIVALS]


def _by_training(
    source: ForeignRun, space: Space, searched: Searched, numbers: Sequence[Recorded]
) -> Nearest:
    """Without recorded losses: the hypothesis under which the pairs that were trained on are learned best.

    Only where a split shows and the last save answers little else: there training leaves no doubt on any of its
    pairs under the right function, and does under one that is nearly right.
    """
    first = searched.best
    if first.accuracy >= ENOUGH_ACCURACY or first.nats < SOME_NATS:
        return Nearest(first)
    answered = _answered(source, space, first, numbers)
    if not isinstance(answered.split, Split):
        return Nearest(first, answered)
    mask, tensors = torch.as_tensor(answered.split.mask), source.snapshots[-1].tensors
    near = [
        one
        for one in searched.trials
        if _comparable(one, first)
        and one.firm_nats >= NEAR * first.firm_nats
        and is_tame(one) >= is_tame(first)
    ]
    near = [first, *[one for one in near if one is not first]][:MOST_BY_TRAINING]
    worst: dict[int, float] = {}
    for trial in near:
        model, translate, task = _model_of(space, trial)
        losses = outcomes(model, translate, tensors, task)[0][mask]
        # a few pairs may be wrongly in the split
        worst[id(trial)] = float(losses.quantile(0.95))
    best = min(near, key=lambda trial: worst[id(trial)])
    if worst[id(first)] < CLEAR_RATIO * worst[id(best)]:
        return Nearest(first, answered)
    close = [one for one in near if worst[id(one)] * CLEAR_RATIO <= worst[id(first)]]
    close = [one for one in close if worst[id(one)] <= CLEAR_RATIO * worst[id(best)]]
    return Nearest(min(close, key=lambda one: one.departure))


def _telling(source: ForeignRun, losses: Sequence[Recorded]) -> list[int]:
    """Positions of at most ``MOST_COMPARED`` saves with a recorded loss, spread over the run."""
    steps = {one.step for one in losses}
    having = [index for index, one in enumerate(source.snapshots) if one.step in steps]
    if len(having) <= MOST_COMPARED:
        return having
    spread = (round(k * (len(having) - 1) / (MOST_COMPARED - 1)) for k in range(MOST_COMPARED))
    return sorted({having[k] for k in spread})


def with_trials(searched: Searched, trials: Sequence[Trial]) -> Searched:
    """What was searched, with hypotheses that were tried later."""
    return replace(searched, trials=(*searched.trials, *trials))
