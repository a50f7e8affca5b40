"""What is learned: modular arithmetic, products in a group, completion, regression, classes, or what nobody knows."""

from __future__ import annotations

from grokscope.tasks.blobs import BlobsSettings, blobs_task
from grokscope.tasks.completion import CompletionSettings, completion_task
from grokscope.tasks.group_tables import GroupFit, identify_group
from grokscope.tasks.groups import GroupSettings, cayley_table, group_task
from grokscope.tasks.modular import OPERATIONS, ModularSettings, modular_task
from grokscope.tasks.parity import ParitySettings, parity_task
from grokscope.tasks.regression import RegressionSettings, regression_task
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

TaskSettings = (
    ModularSettings
    | GroupSettings
    | CompletionSettings
    | BlobsSettings
    | ParitySettings
    | RegressionSettings
    | UnknownSettings
)

TASK_SETTINGS: dict[str, type[TaskSettings]] = {
    "modular": ModularSettings,
    "group": GroupSettings,
    "completion": CompletionSettings,
    "blobs": BlobsSettings,
    "parity": ParitySettings,
    "regression": RegressionSettings,
    "unknown": UnknownSettings,
}
"""``task.name`` in a recipe → the settings it takes."""


def build_task(settings: TaskSettings, seed: int) -> Task:
    """The task that ``settings`` describe, with the split and targets of ``seed``."""
    if isinstance(settings, ModularSettings):
        return modular_task(settings, seed)
    if isinstance(settings, GroupSettings):
        return group_task(settings, seed)
    if isinstance(settings, BlobsSettings):
        return blobs_task(settings, seed)
    if isinstance(settings, ParitySettings):
        return parity_task(settings, seed)
    if isinstance(settings, RegressionSettings):
        return regression_task(settings, seed)
    if isinstance(settings, UnknownSettings):
        return unknown_task()
    return completion_task(settings, seed)


__all__ = [
    "OPERATIONS",
    "TASK_SETTINGS",
    "BlobsSettings",
    "CompletionSettings",
    "GroupFit",
    "GroupSettings",
    "Levels",
    "ModularSettings",
    "ParitySettings",
    "RegressionSettings",
    "ResidueAxis",
    "Symmetry",
    "Task",
    "TaskSettings",
    "UnknownSettings",
    "blobs_task",
    "build_task",
    "cayley_table",
    "completion_task",
    "group_task",
    "identify_group",
    "modular_task",
    "pack_mask",
    "parity_task",
    "random_split",
    "random_stream",
    "regression_task",
    "unknown_task",
    "unpack_mask",
]
