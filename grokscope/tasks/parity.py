"""Sparse parity: the product of k of n signs, from a sample of all sign vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.tasks.task import Levels, Task, random_stream

_MOST_BITS = 62
"""A sign vector is drawn as one int64."""


@dataclass(frozen=True)
class ParitySettings:
    """``[task]`` of a recipe: the parity of the first ``k`` of ``n`` bits (arXiv 2207.08799).

    ``train`` and ``test`` sign vectors are drawn, all of them different, so that no test sample was trained on.
    ``split_seed`` is the seed of the sample where it differs from the run's.
    """

    name: Literal["parity"] = "parity"
    n: int = 30
    k: int = 3
    train: int = 1000
    test: int = 2000
    split_seed: int | None = None


def parity_task(settings: ParitySettings, seed: int) -> Task:
    """Inputs (N, n) are signs ±1, the target is 1 where the product of the first k is +1; N = train + test.

    Which bits matter is fixed and not told to the network: its initial weights treat all bits alike. Training
    samples come first. Sign flips that keep the answer map a sample to one that was almost surely never drawn, so
    none is listed as a symmetry.

    Raises:
        GrokscopeError: n outside 1..62, k outside 1..n, no training or no test sample, or more than there are.
    """
    n, k, total = settings.n, settings.k, settings.train + settings.test
    if not (1 <= n <= _MOST_BITS and 1 <= k <= n):
        raise GrokscopeError(
            f"building a parity task: task.n = {n} and task.k = {k}, expected 1 ≤ k ≤ n ≤ {_MOST_BITS}"
        )
    if min(settings.train, settings.test) < 1 or total > 2**n:
        raise GrokscopeError(
            f"building a parity task: task.train = {settings.train} and task.test = {settings.test}, expected at "
            f"least one of each and at most 2^{n} = {2**n} together"
        )
    split_seed = seed if settings.split_seed is None else settings.split_seed
    codes = _different(n, total, random_stream(split_seed, "parity sample"))
    signs = 1 - 2 * ((codes[:, None] >> torch.arange(n)) & 1)
    mask = torch.zeros(total, dtype=torch.bool)
    mask[: settings.train] = True
    return Task(
        name=f"parity of {k} of {n} bits",
        kind="classification",
        inputs=signs.to(torch.float64),
        targets=(signs[:, :k].prod(dim=1) > 0).to(torch.int64),
        train_mask=mask,
        n_classes=2,
        n_tokens=None,
        chance=0.5,
        levels=Levels("skill", fit=0.99, grok=0.95),
        description=f"the parity of {k} of {n} bits, {settings.train} samples in training and {settings.test} others",
    )


def _different(n: int, count: int, stream: torch.Generator) -> Tensor:
    """(count,) int64: different numbers below 2^n in the order in which they were first drawn."""
    if n <= 16:
        return torch.randperm(2**n, generator=stream)[:count]
    found: dict[int, None] = {}
    while len(found) < count:
        drawn = torch.randint(2**n, (count - len(found),), generator=stream)
        found.update(dict.fromkeys(drawn.tolist()))
    return torch.tensor(list(found))
