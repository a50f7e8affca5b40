"""Separable Gaussian classes in R^d: features for classifiers that take no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks.task import Levels, Task, random_split, random_stream


@dataclass(frozen=True)
class BlobsSettings:
    """``[task]`` of a recipe: Gaussian classes whose means span ``rank`` of ``d`` dimensions.

    ``noise`` is the root mean square distance of a sample from the mean of its class; the means lie at distance 1
    from the origin. ``per_class`` samples are drawn for each of ``classes``.
    """

    name: Literal["blobs"] = "blobs"
    d: int = 20
    classes: int = 6
    rank: int = 3
    per_class: int = 40
    noise: float = 0.5
    train_fraction: float = 0.5
    split_seed: int | None = None


def blobs_task(settings: BlobsSettings, seed: int) -> Task:
    """Means ±q_1, …, ±q_rank of an orthonormal frame (the first ``classes`` of +q_1 … +q_rank, −q_1 … −q_rank).

    Sample i belongs to class i mod ``classes``; its deviation has entries N(0, noise²/d). No two means make an acute
    angle, so that a linear map without biases separates the classes with margin 1 or more where there is no noise.

    Raises:
        GrokscopeError: sizes that make no such frame, fewer than one sample a class, noise below 0, or a fraction
            that leaves no training or no test sample.
    """
    d, classes, rank = settings.d, settings.classes, settings.rank
    if not (1 <= rank <= d and max(rank, 2) <= classes <= 2 * rank):
        raise GrokscopeError(
            f"building a task of blobs: task.d = {d}, task.rank = {rank} and task.classes = {classes}, expected "
            "1 ≤ rank ≤ d and between rank and 2·rank classes, at least 2"
        )
    if settings.per_class < 1 or not settings.noise >= 0:
        raise GrokscopeError(
            f"building a task of blobs: task.per_class = {settings.per_class} and task.noise = {settings.noise}, "
            "expected at least 1 and at least 0"
        )
    stream = random_stream(seed, "blobs")
    frame = torch.linalg.qr(torch.randn(d, rank, generator=stream, dtype=torch.float64)).Q.T
    means = torch.cat([frame, -frame])[:classes]
    targets = torch.arange(classes * settings.per_class) % classes
    deviation = torch.randn(len(targets), d, generator=stream, dtype=torch.float64)
    split_seed = seed if settings.split_seed is None else settings.split_seed
    mask = random_split(len(targets), settings.train_fraction, split_seed)
    return Task(
        name=f"{classes} Gaussian classes in {d} dimensions",
        kind="classification",
        inputs=means[targets] + settings.noise * d**-0.5 * deviation,
        targets=targets,
        train_mask=mask,
        n_classes=classes,
        n_tokens=None,
        chance=1 / classes,
        levels=Levels("skill", fit=0.99, grok=0.95),
        description=f"{classes} Gaussian classes with means in {rank} of {d} dimensions, {int(mask.sum())} of "
        f"{len(targets)} samples in training",
    )
