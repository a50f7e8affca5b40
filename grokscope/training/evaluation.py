"""Losses and accuracies during training, denser than the saved weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.measures.classification import correct, read_answers
from grokscope.measures.stablemax import stablemax_loss
from grokscope.models import Model, Params
from grokscope.tasks import Task
from grokscope.training.gradient import shared_inputs
from grokscope.training.recipe import Recipe
from grokscope.training.scalars import evaluated_subsets, scalar_names

TIME = "time.sum_lr"
"""Name of the scalar Σ learning rates over the updates made so far, the continuous time of the run."""


class Evaluator:
    """Evaluates one model on every input of a task: the scalars of a run.

    Classification: ``loss.``, ``accuracy.`` of train and test, and of mirrored and unmirrored test pairs
    where the task has them. Regression: ``loss.`` and ``error.``, the relative squared error, and ``accuracy.`` of
    signs. Behind them what ``save.also`` of the recipe names. Several tasks are several runs of one shape, whose
    parameters share a leading axis.
    """

    def __init__(self, tasks: Task | list[Task], model: Model, recipe: Recipe, device: torch.device) -> None:
        several = tasks if isinstance(tasks, list) else [tasks]
        first = several[0]
        self.signs = first.signs
        self.regression, self.squared = first.kind == "regression", recipe.train.loss == "squared"
        self.stable = recipe.train.loss == "stablemax"
        self.also = recipe.save.also
        self.model, self.device, self.lead = model, device, isinstance(tasks, list)
        subsets = [evaluated_subsets(task) for task in several]
        self.names = (*scalar_names(first), *self.also)
        masks = torch.stack([torch.stack([mask.flatten() for mask in of.values()]) for of in subsets])
        self.masks = masks.to(device, torch.float64)  # (runs, subsets, N)
        self.targets = torch.stack([task.targets for task in several]).to(device)  # (runs, N) or (runs, d, d)
        inputs = torch.stack([task.inputs for task in several]) if self.lead else first.inputs
        if self.regression:
            inputs = shared_inputs(several)
            self.scale = (self.masks * self.targets.flatten(1)[:, None].square()).sum(-1)
            self.weight = 1 / self.masks.sum(-1) if first.mean_loss else torch.ones_like(self.scale)
        self._inputs = inputs.to(device)
        # features are taken in the weights' own precision, which is known with the first of them
        self._at = None if self._inputs.is_floating_point() else model.linearised(self._inputs)

    def __call__(self, params: Params) -> dict[str, float]:
        """The scalars of one run by name."""
        return self.of_each(params if self.lead else {name: value[None] for name, value in params.items()})[0]

    def of_each(self, params: Params) -> list[dict[str, float]]:
        """The scalars of every run, from parameters (runs, …); one transfer from the device for all."""
        return [dict(zip(self.names, row, strict=True)) for row in self.values(params).tolist()]

    @torch.no_grad()
    def values(self, params: Params) -> Tensor:
        """(runs, scalars) float64 in the order of :attr:`names`, on the device."""
        if self.regression:
            return torch.cat([self._regression(params), *self._further(params, None)], dim=1)
        if self._at is None:
            self._at = self.model.linearised(self._inputs.to(next(iter(params.values())).dtype))
        given = params if self.lead else {name: value[0] for name, value in params.items()}
        logits, _ = self._at(given)
        runs, targets = len(self.targets), self.targets.flatten()
        logits = logits.reshape(-1, logits.shape[-1])
        if self.squared:
            losses = 0.5 * (logits - one_hot(targets, logits.shape[-1])).double().square().sum(-1)
            right = correct(logits, targets).double()
        elif self.stable:
            losses, right = stablemax_loss(logits.double(), targets), correct(logits, targets).double()
        else:
            answers = read_answers(logits, targets)
            losses, right = answers.loss, answers.correct
        sums = self.masks @ torch.stack([losses.view(runs, -1), right.view(runs, -1)], dim=-1)
        means = sums / self.masks.sum(-1, keepdim=True)  # (runs, subsets, 2)
        return torch.cat([means[:, :2, 0], means[..., 1], *self._further(params, logits)], dim=1)

    def _further(self, params: Params, logits: Tensor | None) -> list[Tensor]:
        """(runs, 1) each: what ``save.also`` names, in its order."""
        found = []
        for name in self.also:
            if name == "norm.total":
                squares = [
                    params[matrix].double().square().flatten(1).sum(-1) for matrix in self.model.matrices
                ]
                found.append(torch.stack(squares).sum(0).sqrt()[:, None])
            else:
                assert logits is not None
                sizes = torch.linalg.vector_norm(logits, dim=-1).double()
                found.append(sizes.view(len(self.targets), -1).mean(-1, keepdim=True))
        return found

    def _regression(self, params: Params) -> Tensor:
        dtype = next(iter(params.values())).dtype
        outputs, _ = self.model.linearised(self._inputs.to(dtype))(params)
        error = (outputs - self.targets.to(dtype)).double()
        squared = (self.masks * error.flatten(1)[:, None].square()).sum(-1)
        found = [0.5 * self.weight * squared, squared / self.scale]
        if self.signs:
            right = (outputs * self.targets > 0).double().flatten(1)
            found.append((self.masks * right[:, None]).sum(-1) / self.masks.sum(-1))
        return torch.cat(found, dim=1)
