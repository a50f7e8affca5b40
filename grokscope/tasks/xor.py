"""The XOR of two signs among many that carry nothing: benign noise that a wide network first memorises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks.task import Levels, Task, random_stream


@dataclass(frozen=True)
class XorSettings:
    """``[task]`` of a recipe: the product of two signs, beside ``d`` − 2 coordinates ±``noise`` (arXiv 2506.12284).

    ``split_seed`` is the seed of the sample where it differs from the run's.
    """

    name: Literal["xor"] = "xor"
    d: int = 40000
    train: int = 400
    test: int = 400
    noise: float = 0.05
    split_seed: int | None = None


def xor_task(settings: XorSettings, seed: int) -> Task:
    """Inputs (N, d): two signs and d − 2 entries ±noise; target the product of the signs, a regression on ±1.

    Training samples come first, N = train + test. The loss is the mean of ½ (ŷ − y)², and an answer is right where
    its sign is.

    Raises:
        GrokscopeError: fewer than two coordinates, no training or test sample, or a noise that is negative.
    """
    d, total = settings.d, settings.train + settings.test
    if d < 2 or min(settings.train, settings.test) < 1 or not 0 <= settings.noise < float("inf"):
        raise GrokscopeError(
            f"building a task of XOR: task.d = {d}, task.train = {settings.train}, task.test = {settings.test} and "
            f"task.noise = {settings.noise}, expected at least 2, at least 1, at least 1 and at least 0"
        )
    stream = random_stream(seed if settings.split_seed is None else settings.split_seed, "xor sample")
    inputs = 2.0 * torch.randint(2, (total, d), generator=stream).to(torch.float64) - 1.0
    inputs[:, 2:] *= settings.noise
    mask = torch.zeros(total, 1, dtype=torch.bool)
    mask[: settings.train] = True
    return Task(
        name=f"XOR of two among {d} signs",
        kind="regression",
        inputs=inputs,
        targets=inputs[:, :2].prod(dim=1, keepdim=True),
        train_mask=mask,
        n_classes=1,
        n_tokens=None,
        chance=0.5,
        levels=Levels("skill", fit=0.99, grok=0.9),
        description=f"the product of two signs beside {d - 2} coordinates ±{settings.noise:g}, {settings.train} "
        f"samples in training and {settings.test} others",
        mean_loss=True,
        signs=True,
    )
