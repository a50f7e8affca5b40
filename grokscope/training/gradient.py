"""The gradient of the training objective: its closed form in the logits, pulled back to the parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.measures.stablemax import stablemax_gradient
from grokscope.models import Linearised, Model, Params
from grokscope.tasks import Task
from grokscope.training.recipe import TrainSettings


def shared_inputs(tasks: list[Task]) -> Tensor:
    """(N, …) where all runs see the same inputs, as in completion the rows of an identity; (runs, N, …) elsewhere."""
    first = tasks[0].inputs
    if all(torch.equal(task.inputs, first) for task in tasks[1:]):
        return first
    return torch.stack([task.inputs for task in tasks])


class TrainingGradient:
    """The training objective's gradient on the training samples of ``task``.

    Cross-entropy and ½‖z − onehot‖² are means over the samples; for a regression it is ½ Σ (ŷ − y)² over the
    observed entries, or that over their number where the task says so. One task is one run; several of equal shape
    share a leading axis, and so do the parameters.
    """

    def __init__(
        self,
        tasks: Task | list[Task],
        model: Model,
        settings: TrainSettings,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        several = tasks if isinstance(tasks, list) else [tasks]
        self.model, self.loss = model, settings.loss

        def together(values: list[Tensor]) -> Tensor:
            return (torch.stack(values) if isinstance(tasks, list) else values[0]).to(device)

        self.regression = several[0].kind == "regression"
        if self.regression:
            self.inputs = shared_inputs(several).to(device, dtype)
            self.targets = together([task.targets for task in several]).to(dtype)
            self.observed = together([task.train_mask for task in several]).to(dtype)
            if several[0].mean_loss:
                self.observed = self.observed / self.observed.sum((-2, -1), keepdim=True)
        else:
            self.inputs = together([task.inputs[task.train_mask] for task in several])
            if self.inputs.is_floating_point():
                self.inputs = self.inputs.to(dtype)
            self.targets = together([task.targets[task.train_mask] for task in several])
            self._answers = self._places(self.targets)
            # a GPU subtracts a whole tensor sooner than it sorts places to do so in a fixed order
            on_gpu = device.type == "cuda"
            self._one_hot = one_hot(self.targets, model.n_classes).to(dtype) if on_gpu else None
        self._whole = model.linearised(self.inputs)

    @torch.no_grad()
    def __call__(self, params: Params, rows: Tensor | None = None) -> Params:
        """Gradient of every tensor.

        Args:
            params: the parameters, with the leading axis of the tasks where there is one.
            rows: int64 indices into the training samples of one run, a batch; ``None`` for all of them.
        """
        if self.regression:
            outputs, pullback = self._whole(params)
            return pullback((outputs - self.targets).mul_(self.observed))
        at: Linearised = self._whole
        answers, targets = self._answers, self.targets
        if rows is not None:
            at, targets = self.model.linearised(self.inputs[rows]), targets[rows]
            answers = self._places(targets)
        logits, pullback = at(params)
        if self.loss == "stablemax":
            return pullback(stablemax_gradient(logits, targets).div_(targets.shape[-1]))
        delta = torch.softmax(logits, dim=-1) if self.loss == "cross-entropy" else logits.clone()
        if self._one_hot is not None and rows is None:
            delta -= self._one_hot
        else:
            delta.view(-1)[answers] -= 1
        return pullback(delta.div_(targets.shape[-1]))

    def _places(self, targets: Tensor) -> Tensor:
        """Flat places of the answers in contiguous logits (…, N, C)."""
        n_classes = self.model.n_classes
        count = math.prod(targets.shape)
        return torch.arange(0, count * n_classes, n_classes, device=targets.device) + targets.flatten()
