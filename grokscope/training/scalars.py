"""Which scalars a run has."""

from __future__ import annotations

from torch import Tensor

from grokscope.tasks import Task


def evaluated_subsets(task: Task) -> dict[str, Tensor]:
    """Masks of the samples that accuracies are taken over; train and test come first."""
    train, mirrored = task.train_mask, task.mirrored()
    masks = {"train": train, "test": ~train}
    if task.kind != "regression" and mirrored is not None and mirrored.any():
        unmirrored = ~(train | mirrored)
        if unmirrored.any():
            masks |= {"test_mirrored": mirrored, "test_unmirrored": unmirrored}
    return masks


def scalar_names(task: Task) -> tuple[str, ...]:
    """Names of the scalars of an evaluation, in their order."""
    if task.kind == "regression":
        names = ("loss.train", "loss.test", "error.train", "error.test")
        return (*names, "accuracy.train", "accuracy.test") if task.signs else names
    return ("loss.train", "loss.test", *(f"accuracy.{subset}" for subset in evaluated_subsets(task)))
