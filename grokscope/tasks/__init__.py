"""What is learned: modular arithmetic, products in a group, matrix completion, or what nobody knows."""

from __future__ import annotations

from grokscope.tasks.completion import CompletionSettings, completion_task
from grokscope.tasks.group_tables import GroupFit, identify_group
from grokscope.tasks.groups import GroupSettings, cayley_table, group_task
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
from grokscope.tasks.unknown import UnknownSettings, unknown_task

TaskSettings = ModularSettings | GroupSettings | CompletionSettings | UnknownSettings

TASK_SETTINGS: dict[str, type[TaskSettings]] = {
    "modular": ModularSettings,
    "group": GroupSettings,
    "completion": CompletionSettings,
    "unknown": UnknownSettings,
}
"""``task.name`` in a recipe → the settings it takes."""


def build_task(settings: TaskSettings, seed: int) -> Task:
    """The task that ``settings`` describe, with the split and targets of ``seed``."""
    if isinstance(settings, ModularSettings):
        return modular_task(settings, seed)
    if isinstance(settings, GroupSettings):
        return group_task(settings, seed)
    if isinstance(settings, UnknownSettings):
        return unknown_task()
    return completion_task(settings, seed)


__all__ = [
    "OPERATIONS",
    "TASK_SETTINGS",
    "CompletionSettings",
    "GroupFit",
    "GroupSettings",
    "Levels",
    "ModularSettings",
    "ResidueAxis",
    "Symmetry",
    "Task",
    "TaskSettings",
    "UnknownSettings",
    "build_task",
    "cayley_table",
    "completion_task",
    "group_task",
    "identify_group",
    "modular_task",
    "pack_mask",
    "random_split",
    "random_stream",
    "unknown_task",
    "unpack_mask",
]
