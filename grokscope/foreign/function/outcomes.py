"""What hypotheses answer on every pair, at the saves of a run.

Shape legend: T saves, N operand pairs, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from grokscope.foreign.evidence.losses import CROSS_ENTROPY, Loss
from grokscope.foreign.function.card import EVERY_LOGIT, RESIDUES
from grokscope.foreign.function.effort import weights_in
from grokscope.foreign.function.space import Assignment, Space, Translate
from grokscope.foreign.function.trials import Trial, operation_task, swapped_space, tokens_of
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.foreign.gathering.facts import Recorded
from grokscope.foreign.gathering.pairs import recorded_pairs
from grokscope.foreign.splitting.find import NoSplit, Split, find_split
from grokscope.measures.classification import correct
from grokscope.models import Model, as_float64
from grokscope.tasks import Task


class Answered(NamedTuple):
    """Outcomes of every pair at every save, and the split that they and the record tell."""

    losses: Tensor  # (T, N)
    right: Tensor  # (T, N) bool
    split: Split | NoSplit


def outcomes(
    model: Model,
    translate: Translate,
    tensors: Mapping[str, Tensor],
    task: Task,
    *,
    loss: Loss = CROSS_ENTROPY,
    narrow: bool = False,
) -> tuple[Tensor, Tensor]:
    """(N,) float64 losses and (N,) bool correctness of every pair of the task, in float64.

    ``narrow``: logits in float32, which takes half the time and leaves five digits of a loss.
    """
    logits = logits_of(model, translate, tensors, task, narrow=narrow)
    return loss.of(logits, task.targets), correct(logits, task.targets)


def logits_of(
    model: Model, translate: Translate, tensors: Mapping[str, Tensor], task: Task, *, narrow: bool = False
) -> Tensor:
    """(N, C) logits of every pair of the task, in float64 or in float32."""
    params = translate(tensors)
    if narrow:
        params = {name: value.to(torch.float32) for name, value in params.items()}
    else:
        params = as_float64(params)
    with torch.no_grad():
        return grid_logits(model, params, task)


def grid_logits(model: Model, params: Mapping[str, Tensor], task: Task) -> Tensor:
    """(N, C) logits of every pair, by the model's grid where the task is one."""
    if task.is_grid:
        grid = model.forward_grid(dict(params))
        if isinstance(grid, Tensor):
            return grid.flatten(0, 1)
    return model.forward(dict(params), task.inputs)


def answered_by(
    source: ForeignRun,
    model: Model,
    translate: Translate,
    task: Task,
    numbers: Sequence[Recorded],
    loss: Loss = CROSS_ENTROPY,
) -> Answered:
    """Losses and right answers of every pair at every save, and the training split."""
    each = [outcomes(model, translate, one.tensors, task, loss=loss) for one in source.snapshots]
    losses, right = torch.stack([one for one, _ in each]), torch.stack([one for _, one in each])
    return Answered(losses, right, _split_of(source, task, losses, right, numbers))


def _split_of(
    source: ForeignRun, task: Task, losses: Tensor, right: Tensor, numbers: Sequence[Recorded]
) -> Split | NoSplit:
    inside = dict(source.snapshots[-1].scalars)
    return find_split(
        task,
        losses,
        right,
        [one.step for one in source.snapshots],
        source.facts,
        inside,
        numbers,
        recorded_pairs(source.facts, inside),
        names=tuple(dict.fromkeys(str(one.path) for one in source.snapshots)),
    )


class Outcomes:
    """What hypotheses answer at the saves of a run, each asked once; ``loss`` is what a loss is taken for."""

    def __init__(self, source: ForeignRun, space: Space, loss: Loss = CROSS_ENTROPY) -> None:
        self.source, self.space, self.loss = source, space, loss
        self.steps = [one.step for one in source.snapshots]
        self.pairs = recorded_pairs(source.facts, dict(source.snapshots[-1].scalars))
        self.weights = weights_in(source.snapshots[-1].tensors, space.names)
        self._seen: dict[tuple[str, int, bool], tuple[Tensor, Tensor]] = {}
        # of one hypothesis only: there may be hundreds of saves
        self._everywhere: tuple[str, Tensor, Tensor] | None = None

    def model_of(self, trial: Trial) -> tuple[Model, Translate, Task]:
        """The model, the translation and the task (with a placeholder split) of a hypothesis."""
        assignment = swapped_space(trial.assignment) if trial.swapped else trial.assignment
        model, translate = self.space.build(assignment)
        p = tokens_of(assignment).p
        return model, translate, operation_task(trial.operation, p, model.n_classes - p)

    def at(self, trial: Trial, save: int, *, narrow: bool = False) -> tuple[Tensor, Tensor]:
        """(N,) losses and right answers at one save, in float64 or from ``narrow`` logits."""
        name = _name_of(trial)
        if self._everywhere is not None and self._everywhere[0] == name:
            return self._everywhere[1][save], self._everywhere[2][save]
        for precision in (False, narrow):
            if (found := self._seen.get((name, save, precision))) is not None:
                return found
        self._seen[name, save, narrow] = found = self._asked(trial, save, narrow=narrow)
        return found

    def of_all(self, trial: Trial) -> tuple[Tensor, Tensor]:
        """(T, N) losses and right answers at every save."""
        name = _name_of(trial)
        if self._everywhere is None or self._everywhere[0] != name:
            model, translate, task = self.model_of(trial)
            each = [
                outcomes(model, translate, one.tensors, task, loss=self.loss) for one in self.source.snapshots
            ]
            losses, right = torch.stack([one for one, _ in each]), torch.stack([one for _, one in each])
            self._everywhere = name, losses, right
        return self._everywhere[1], self._everywhere[2]

    def _asked(self, trial: Trial, save: int, *, narrow: bool) -> tuple[Tensor, Tensor]:
        tensors = self.source.snapshots[save].tensors
        if "softmax over" not in trial.assignment:
            model, translate, task = self.model_of(trial)
            return outcomes(model, translate, tensors, task, loss=self.loss, narrow=narrow)
        # the loss over spare logits too asks for the same logits and some more
        found: dict[str, tuple[Tensor, Tensor]] = {}
        wide = replace(trial, assignment={**trial.assignment, "softmax over": EVERY_LOGIT})
        model, translate, task = self.model_of(wide)
        logits = logits_of(model, translate, tensors, task, narrow=narrow)
        for over, count in ((RESIDUES, wide.p), (EVERY_LOGIT, logits.shape[-1])):
            other = replace(trial, assignment={**trial.assignment, "softmax over": over})
            chosen = logits[:, :count]
            found[over] = self.loss.of(chosen, task.targets), correct(chosen, task.targets)
            self._seen[_name_of(other), save, narrow] = found[over]
        return found[trial.assignment["softmax over"]]

    def answered(self, trial: Trial, numbers: Sequence[Recorded]) -> Answered:
        """What a hypothesis answers, and the training split that this and the record tell."""
        task = self.model_of(trial)[2]
        losses, right = self.of_all(trial)
        return Answered(losses, right, _split_of(self.source, task, losses, right, numbers))


def key_of(assignment: Assignment) -> str:
    return repr(sorted((name, str(value)) for name, value in assignment.items()))


def _name_of(trial: Trial) -> str:
    return f"{trial.named} {trial.swapped} {key_of(trial.assignment)}"
