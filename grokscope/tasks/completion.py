"""Low-rank matrix completion: the data of deep linear nets that show two clocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks.task import Levels, Task, random_split, random_stream


@dataclass(frozen=True)
class CompletionSettings:
    """``[task]`` of a recipe: complete a random d×d matrix of a given rank from some of its entries."""

    name: Literal["completion"] = "completion"
    d: int = 30
    rank: int = 2
    train_fraction: float = 0.5
    split_seed: int | None = None


def completion_task(settings: CompletionSettings, seed: int) -> Task:
    """Entries of M = AB/√(rd) with A (d, r), B (r, d) standard Gaussian: entries have variance 1/d.

    Inputs are the d unit vectors, targets the rows of M, and ``train_mask`` (d, d) the observed entries.

    Raises:
        GrokscopeError: d < 2, a rank outside 1..d, or a fraction that observes nothing or everything.
    """
    d, rank = settings.d, settings.rank
    if d < 2 or not 1 <= rank <= d:
        raise GrokscopeError(
            f"building a completion task: task.d = {d} and task.rank = {rank}, expected d ≥ 2 and 1 ≤ rank ≤ d"
        )
    stream = random_stream(seed, "completion target")
    left = torch.randn(d, rank, generator=stream, dtype=torch.float64)
    right = torch.randn(rank, d, generator=stream, dtype=torch.float64)
    split_seed = seed if settings.split_seed is None else settings.split_seed
    mask = random_split(d * d, settings.train_fraction, split_seed).reshape(d, d)
    return Task(
        name=f"completion of rank {rank}, {d}×{d}",
        kind="regression",
        inputs=torch.eye(d, dtype=torch.float64),
        targets=left @ right / (rank * d) ** 0.5,
        train_mask=mask,
        n_classes=d,
        n_tokens=None,
        chance=None,
        levels=Levels("error", fit=1e-2, grok=0.05, rank_factor=1.25),
        rank=rank,
        description=f"a {d}×{d} matrix of rank {rank}, {int(mask.sum())} of {d * d} entries observed",
    )
