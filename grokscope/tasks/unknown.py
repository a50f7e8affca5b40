"""The task of weights of which nobody knows what they learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from grokscope.errors import Absent
from grokscope.tasks.task import Levels, ResidueAxis, Task

NO_TASK = Absent("it is not known what was learned, so there are no inputs")


@dataclass(frozen=True)
class UnknownSettings:
    """``[task]`` of imported weights whose task is not known; there is nothing to set."""

    name: Literal["unknown"] = "unknown"


def unknown_task() -> Task:
    """A task without inputs, classes or split; each of its absent parts says that the task is not known."""
    return Task(
        name="unknown",
        kind="unknown",
        inputs=torch.zeros(0, 2, dtype=torch.int64),
        targets=torch.zeros(0, dtype=torch.int64),
        train_mask=torch.zeros(0, dtype=torch.bool),
        n_classes=0,
        n_tokens=None,
        chance=None,
        levels=Levels("skill", fit=0.99, grok=0.95),
        token_axis=NO_TASK,
        class_axis=NO_TASK,
        description="an unknown task",
        no_split=NO_TASK,
    )


def on_residues(task: Task, count: int) -> Task:
    """An unknown ``task`` of which it is known that a declared embedding holds ``count`` residues in order."""
    return replace(task, token_axis=ResidueAxis("additive", torch.arange(count)))
