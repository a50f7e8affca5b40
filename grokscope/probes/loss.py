"""When did the run fit, when did it generalise, and how much of the test accuracy is mirrored pairs?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from grokscope.measures.classification import (
    Answers,
    collapse_is_possible,
    read_answers,
    softmax_collapsed,
)
from grokscope.measures.stablemax import stablemax_loss
from grokscope.probes.drawing import MIRRORED, NEUTRAL, TEST, TRAIN, UNMIRRORED, curve, time_axes
from grokscope.probes.logit_view import logit_map
from grokscope.probes.loss_quantities import QUANTITIES, SUBSETS
from grokscope.probes.readings import Values, by_save, per_save
from grokscope.probes.record import Record
from grokscope.probes.registry import register
from grokscope.probes.views import Content, Frames
from grokscope.runs import Params, Run, Task

SYMMETRIC = {
    "accuracy.test_mirrored": "swapping the operands",
    "accuracy.test_symmetry": "the operation's label-preserving maps",
    "accuracy.test_equivariant": "the maps that change the label in a known way",
}
SIGNED = tuple(f"accuracy.{subset}" for subset in SUBSETS)
"""What a regression on signs has like a classification."""
NO_CLASSES = "the targets are real numbers, not classes"
OF_TRAINING = ("margin.min", "margin.mean", "softmax.collapsed")
RIGHT = "right"
"""Among the readings of a save: the bits of :func:`answers_right`."""
ONLY_DOUBLE = "a function given as code is run in float64 alone, not in the training precision"


@register(
    "loss",
    title="Loss and accuracy",
    question="When did the run fit its training data, when did it generalise, and to which pairs?",
    quantities=QUANTITIES,
    caveat="Losses are computed in float64 from the stored weights, so they can differ from the training "
    "log in the last digits. Mirrored pairs measure memory of the training set under a symmetry, not the rule.",
    needs=("function",),
)
def loss(run: Run, record: Record) -> None:
    """Losses, accuracies and margins of every save over the whole input grid."""
    if run.task.kind == "regression" or run.config.get("train", {}).get("loss") == "squared":
        record.declare([replace(q, unit="1") if q.name.startswith("loss.") else q for q in QUANTITIES])
    if run.task.kind == "regression":
        _regression(run, record)
    else:
        _classification(run, record)


def subsets(task: Task) -> dict[str, Tensor | str]:
    """(N,) masks of the samples each accuracy is taken over, or why there are none."""
    train = task.train_mask
    if task.no_split is not None:
        of_split = ("train", "test", "test_unmirrored", *(name.split(".")[1] for name in SYMMETRIC))
        return {"all": torch.ones_like(train), **dict.fromkeys(of_split, task.no_split.reason)}
    masks: dict[str, Tensor | str] = {"train": train, "test": ~train, "all": torch.ones_like(train)}
    mirrored = task.mirrored()
    if task.swap is None:
        alone = "the inputs are not pairs of operands"
        masks |= {"test_mirrored": alone, "test_unmirrored": alone}
    elif mirrored is None:
        masks["test_mirrored"] = f"swapping the operands changes the answer of {task.description}"
        masks["test_unmirrored"] = ~train
    else:
        masks["test_mirrored"] = mirrored if mirrored.any() else "no test pair has its swap in training"
        other = ~train & ~mirrored
        masks["test_unmirrored"] = other if other.any() else "every test pair has its swap in training"
    for name, preserving in (("test_symmetry", True), ("test_equivariant", False)):
        found = task.image_in_train(preserving=preserving)
        if found is None:
            masks[name] = f"{task.description} has no such map"
        else:
            masks[name] = found if found.any() else "no test pair has an image in training"
    return masks


def _classification(run: Run, record: Record) -> None:
    task = run.task
    masks = subsets(task)
    for name, values in per_save(run, "loss", _reader(run, masks)).items():
        if name != RIGHT:
            record.add(name, values)
    for name, mask in masks.items():
        if isinstance(mask, str):
            record.skip(f"accuracy.{name}", mask)
            if name in SUBSETS:
                record.skip(f"loss.{name}", mask)
    if task.no_split is not None:
        for name in OF_TRAINING:
            record.skip(name, task.no_split.reason)
    elif run.model.no_anatomy is not None:
        record.skip("softmax.collapsed", ONLY_DOUBLE)
    for name in ("error.train", "error.test"):
        record.skip(name, "the targets are classes: see accuracy")
    record.notes["loss.pairs"] = {
        name: int(mask.sum()) for name, mask in masks.items() if isinstance(mask, Tensor)
    }
    if task.inputs.shape[1] == 2 and task.n_tokens is not None and task.no_split is None:
        diagonal = (task.inputs[:, 0] == task.inputs[:, 1]) & ~task.train_mask
        record.notes["loss.pairs"]["test_diagonal"] = int(diagonal.sum())


def _reader(run: Run, masks: Mapping[str, Tensor | str]) -> Callable[[Params], Values]:
    """Every quantity of one save of a classifier, from one pass over its logits."""
    task, model, count = run.task, run.model, len(run.task.inputs)
    objective = run.config.get("train", {}).get("loss")
    chosen = {name: mask.nonzero()[:, 0] for name, mask in masks.items() if isinstance(mask, Tensor)}

    def read(params: Params) -> Values:
        answers = Answers(*torch.empty(len(Answers._fields), count, dtype=torch.float64))
        for rows, logits in model.logit_blocks(params, task.inputs, grid=task.is_grid):
            targets = task.targets[rows]
            for whole, part in zip(answers, read_answers(logits, targets), strict=True):
                whole[rows] = part
            if objective == "stablemax":
                answers.loss[rows] = stablemax_loss(logits, targets)
            elif objective == "squared":
                onehot = torch.nn.functional.one_hot(targets, task.n_classes)
                answers.loss[rows] = 0.5 * (logits - onehot).square().sum(-1)
        found: Values = {}
        for name, index in chosen.items():
            found[f"accuracy.{name}"] = answers.correct[index].mean()
            if name in SUBSETS:
                found[f"loss.{name}"] = answers.loss[index].mean()
        found["logits.norm"] = answers.norm.mean()
        found[RIGHT] = torch.from_numpy(np.packbits(answers.correct.numpy() > 0))
        if "train" in chosen:
            margins = answers.margin[chosen["train"]]
            found["margin.min"], found["margin.mean"] = margins.min(), margins.mean()
            if model.no_anatomy is None:
                found["softmax.collapsed"] = collapsed(params, answers)
        return found

    def collapsed(params: Params, answers: Answers) -> Tensor:
        index = chosen["train"]
        losses = answers.loss[index]
        if objective in ("squared", "stablemax") or collapse_is_possible(
            losses, answers.norm[index], run.dtype
        ):
            stored = {name: value.to(run.dtype) for name, value in params.items()}
            inputs = task.inputs[index]
            # features are numbers and are seen in the training precision too; tokens are places
            inputs = inputs.to(run.dtype) if inputs.is_floating_point() else inputs
            trained = model.forward(stored, inputs)
            everywhere = torch.ones(len(index), dtype=torch.bool)
            return softmax_collapsed(trained, task.targets[index], everywhere)
        return torch.zeros((), dtype=torch.float64)

    return by_save(read)


def answers_right(run: Run) -> np.ndarray:
    """(T, ceil(N/8)) uint8: which of the N inputs each save answers right, packed, first inputs in high bits."""
    return per_save(run, "loss", _reader(run, subsets(run.task)))[RIGHT].numpy()


@loss.view(
    "answers",
    "answers",
    "Every pair, right or wrong",
    "What the network answers to each pair (a, b) at this step. Training pairs are marked. Where the order of "
    "the operands does not matter, a mirrored test pair lies across the diagonal from a training pair.",
)
def draw_answers(run: Run, record: Record) -> Content | None:
    """The answer grid, for tasks on all pairs of residues (or of group elements)."""
    task = run.task
    if task.kind == "regression" or not task.is_grid or run.lacks("function"):
        return None
    count = len(task.inputs)
    packed = answers_right(run)
    right = np.unpackbits(packed, axis=1, count=count)
    train = None if task.no_split is not None else Frames(task.train_mask.numpy()[None], "bits")
    mirrored = train is not None and task.mirrored() is not None
    return {"p": math.isqrt(count), "right": Frames(right, "bits"), "train": train, "mirrored": mirrored}


loss.view(
    "logits",
    "matrix",
    "Logit of the answer",
    "Logit of the right answer less the mean over all classes, for every pair (a, b), on the scale of the step.",
)(logit_map)


def _regression(run: Run, record: Record) -> None:
    task, model = run.task, run.model
    masks = {"train": task.train_mask, "test": ~task.train_mask}
    if task.no_split is not None:
        masks = {}
        of_split = ["loss.train", "loss.test", "error.train", "error.test"]
        for name in [*of_split, *(["accuracy.train", "accuracy.test"] if task.signs else [])]:
            record.skip(name, task.no_split.reason)

    def read(params: Params) -> Values:
        found: Values = {}
        outputs = model.forward(params, task.inputs)
        error, right = outputs - task.targets, (outputs * task.targets > 0).double()
        if task.signs:
            found["accuracy.all"] = right.mean()
        for name, mask in masks.items():
            if task.signs:
                found[f"accuracy.{name}"] = right[mask].mean()
            squared = error[mask].square().sum()
            found[f"loss.{name}"] = 0.5 * squared / (mask.sum() if task.mean_loss else 1)
            found[f"error.{name}"] = squared / task.targets[mask].square().sum()
        found["loss.all"] = 0.5 * error.square().sum() / (error.numel() if task.mean_loss else 1)
        return found

    for name, values in per_save(run, "loss", by_save(read)).items():
        record.add(name, values)
    for quantity in QUANTITIES:
        of_classes = quantity.name.startswith(("accuracy", "margin", "logits", "softmax"))
        if of_classes and not (task.signs and quantity.name in SIGNED):
            record.skip(quantity.name, NO_CLASSES)


@loss.figure(
    "Loss and accuracy over training",
    "Mean loss (left) and accuracy (right) on training and test samples, or over all inputs where the split is "
    "not known. Bands mark the interval in which each event happened.",
    needs=("accuracy.all",),
    size=(9.0, 3.7),
)
def draw_curves(record: Record, figure: Figure) -> None:
    """Loss and accuracy of train and test, or of all inputs."""
    left, right = time_axes(figure, record, 2)
    shown = (
        (("train", TRAIN), ("test", TEST)) if "accuracy.train" in record.measurements else (("all", NEUTRAL),)
    )
    for subset, colour in shown:
        curve(left, record, f"loss.{subset}", subset, colour)
        curve(right, record, f"accuracy.{subset}", subset, colour)
    left.set_yscale("log")
    left.set_ylabel("loss (nat)")
    right.set_ylabel("accuracy")
    right.set_ylim(-0.03, 1.03)
    left.legend(loc="best")
    right.legend(loc="best")


@loss.figure(
    "Mirrored and unmirrored test pairs",
    "Test accuracy split by whether the swapped pair (b, a) was in training. A network that only learned "
    "that order does not matter is right on mirrored pairs alone.",
    needs=("accuracy.test_mirrored", "accuracy.test_unmirrored"),
)
def draw_mirrored(record: Record, figure: Figure) -> None:
    """Mirrored, unmirrored and all test accuracy."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "accuracy.test_mirrored", "mirrored test pairs", MIRRORED)
    curve(axes, record, "accuracy.test_unmirrored", "unmirrored test pairs", UNMIRRORED)
    curve(axes, record, "accuracy.test", "all test pairs", NEUTRAL, linestyle="--")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="best")


@loss.figure(
    "Relative squared error",
    "Relative squared error on observed (train) and hidden (test) entries, with the levels of fit and grok.",
    needs=("error.train",),
)
def draw_error(record: Record, figure: Figure) -> None:
    """Errors of a completion."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "error.train", "observed entries", TRAIN)
    curve(axes, record, "error.test", "hidden entries", TEST)
    axes.set_yscale("log")
    axes.set_ylabel("relative squared error")
    axes.legend(loc="best")


@loss.figure(
    "Margin and logit scale",
    "Smallest and mean training margin z_y − max z_m, and the mean norm of the logits over all inputs.",
    needs=("margin.mean",),
)
def draw_margins(record: Record, figure: Figure) -> None:
    """Margins and the scale of the logits."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "margin.min", "smallest margin", TRAIN, linestyle="--")
    curve(axes, record, "margin.mean", "mean margin", TRAIN)
    curve(axes, record, "logits.norm", "mean ‖logits‖", NEUTRAL)
    axes.axhline(0, color=NEUTRAL, linewidth=0.6)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylabel("logit units")
    axes.legend(loc="best")
