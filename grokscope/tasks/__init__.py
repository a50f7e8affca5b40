"""What is learned: arithmetic, products in a group, matrices, regression, classes, digits, or what nobody knows."""

from __future__ import annotations

from grokscope.tasks.blobs import BlobsSettings, blobs_task
from grokscope.tasks.completion import CompletionSettings, completion_task
from grokscope.tasks.digits import DigitsSettings, digits_task
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
    check_data,
    pack_mask,
    random_split,
    random_stream,
    task_record,
    unpack_mask,
)
from grokscope.tasks.unknown import UnknownSettings, unknown_task
from grokscope.tasks.xor import XorSettings, xor_task

TaskSettings = (
    ModularSettings
    | GroupSettings
    | CompletionSettings
    | BlobsSettings
    | ParitySettings
    | RegressionSettings
    | DigitsSettings
    | XorSettings
    | UnknownSettings
)

TASK_SETTINGS: dict[str, type[TaskSettings]] = {
    "modular": ModularSettings,
    "group": GroupSettings,
    "completion": CompletionSettings,
    "blobs": BlobsSettings,
    "parity": ParitySettings,
    "regression": RegressionSettings,
    "digits": DigitsSettings,
    "xor": XorSettings,
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
    if isinstance(settings, DigitsSettings):
        return digits_task(settings, seed)
    if isinstance(settings, XorSettings):
        return xor_task(settings, seed)
    if isinstance(settings, UnknownSettings):
        return unknown_task()
    return completion_task(settings, seed)


__all__ = [
    "OPERATIONS",
    "TASK_SETTINGS",
    "BlobsSettings",
    "CompletionSettings",
    "DigitsSettings",
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
    "XorSettings",
    "blobs_task",
    "build_task",
    "cayley_table",
    "check_data",
    "completion_task",
    "digits_task",
    "group_task",
    "identify_group",
    "modular_task",
    "pack_mask",
    "parity_task",
    "random_split",
    "random_stream",
    "regression_task",
    "task_record",
    "unknown_task",
    "unpack_mask",
    "xor_task",
]
