"""What is learned: modular arithmetic on pairs of residues, and low-rank matrix completion."""

from __future__ import annotations

from grokscope.tasks.completion import CompletionSettings, completion_task
from grokscope.tasks.modular import OPERATIONS, ModularSettings, modular_task
from grokscope.tasks.task import (
    Levels,
    ResidueAxis,
    Symmetry,
    Task,
    pack_mask,
    random_split,
    random_stream,
    unpack_mask,
)

TaskSettings = ModularSettings | CompletionSettings

TASK_SETTINGS: dict[str, type[TaskSettings]] = {"modular": ModularSettings, "completion": CompletionSettings}
"""``task.name`` in a recipe → the settings it takes."""


def build_task(settings: TaskSettings, seed: int) -> Task:
    """The task that ``settings`` describe, with the split and targets of ``seed``."""
    if isinstance(settings, ModularSettings):
        return modular_task(settings, seed)
    return completion_task(settings, seed)


__all__ = [
    "OPERATIONS",
    "TASK_SETTINGS",
    "CompletionSettings",
    "Levels",
    "ModularSettings",
    "ResidueAxis",
    "Symmetry",
    "Task",
    "TaskSettings",
    "build_task",
    "completion_task",
    "modular_task",
    "pack_mask",
    "random_split",
    "random_stream",
    "unpack_mask",
]
