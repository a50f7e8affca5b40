"""Losses and accuracies during training, denser than the saved weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.measures.classification import correct, cross_entropy
from grokscope.models import Model, Params
from grokscope.tasks import Task
from grokscope.training.recipe import TrainSettings

TIME = "time.sum_lr"
"""Name of the scalar Σ learning rates over the updates made so far, the continuous time of the run."""

Objective = Callable[[Params], Tensor]


def objective(
    task: Task, model: Model, settings: TrainSettings, device: torch.device
) -> Callable[..., Tensor]:
    """The training loss as a function of the parameters, and of a batch of training samples if there is one.

    Returns a function of (params, rows), with ``rows`` int64 indices into the training samples or ``None``
    for all of them.
    """
    if task.kind == "regression":
        inputs, targets = task.inputs.to(device), task.targets.to(device)
        observed = task.train_mask.to(device)

        def completion_loss(params: Params, rows: Tensor | None = None) -> Tensor:
            dtype = next(iter(params.values())).dtype
            error = model.forward(params, inputs.to(dtype)) - targets.to(dtype)
            return 0.5 * torch.where(observed, error, torch.zeros_like(error)).square().sum()

        return completion_loss
    inputs = task.inputs[task.train_mask].to(device)
    targets = task.targets[task.train_mask].to(device)

    def classification_loss(params: Params, rows: Tensor | None = None) -> Tensor:
        x, y = (inputs, targets) if rows is None else (inputs[rows], targets[rows])
        logits = model.forward(params, x)
        if settings.loss == "cross-entropy":
            return torch.nn.functional.cross_entropy(logits, y)
        return 0.5 * (logits - one_hot(y, logits.shape[-1])).square().sum(-1).mean()

    return classification_loss


class Evaluator:
    """Evaluates one model on every input of a task: the scalars of a run.

    Classification: ``loss.``, ``accuracy.`` of train and test, and of mirrored and unmirrored test pairs
    where the task has them. Regression: ``loss.`` and ``error.``, the relative squared error.
    """

    def __init__(self, task: Task, model: Model, settings: TrainSettings, device: torch.device) -> None:
        self.task, self.model, self.settings = task, model, settings
        self.inputs, self.targets = task.inputs.to(device), task.targets.to(device)
        train = task.train_mask.to(device)
        self.masks = {"train": train, "test": ~train}
        mirrored = task.mirrored()
        if mirrored is not None and mirrored.any() and not (mirrored | task.train_mask).all():
            self.masks["test_mirrored"] = mirrored.to(device)
            self.masks["test_unmirrored"] = ~(train | mirrored.to(device))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scalars that :meth:`__call__` returns."""
        if self.task.kind == "regression":
            return ("loss.train", "loss.test", "error.train", "error.test")
        return ("loss.train", "loss.test", *(f"accuracy.{subset}" for subset in self.masks))

    @torch.no_grad()
    def __call__(self, params: Params) -> dict[str, float]:
        if self.task.kind == "regression":
            return self._regression(params)
        logits = self._logits(params)
        right = correct(logits, self.targets).double()
        if self.settings.loss == "cross-entropy":
            losses = cross_entropy(logits, self.targets)
        else:
            losses = 0.5 * (logits - one_hot(self.targets, logits.shape[-1])).double().square().sum(-1)
        found = {f"loss.{s}": losses[self.masks[s]].mean() for s in ("train", "test")}
        found |= {f"accuracy.{s}": right[mask].mean() for s, mask in self.masks.items()}
        # one transfer from the device instead of one a number
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))

    def _logits(self, params: Params) -> Tensor:
        # broadcasting over the grid skips the gathers that the training batch needs
        grid = self.model.forward_grid(params) if self.task.is_grid else None
        return grid.flatten(0, 1) if isinstance(grid, Tensor) else self.model.forward(params, self.inputs)

    def _regression(self, params: Params) -> dict[str, float]:
        dtype = next(iter(params.values())).dtype
        error = (self.model.forward(params, self.inputs.to(dtype)) - self.targets.to(dtype)).double()
        values = []
        for mask in (self.masks["train"], self.masks["test"]):
            squared, scale = error[mask].square().sum(), self.targets[mask].double().square().sum()
            values.append((0.5 * squared, squared / scale))
        (train, train_error), (test, test_error) = values
        return dict(
            zip(self.names, torch.stack([train, test, train_error, test_error]).tolist(), strict=True)
        )
