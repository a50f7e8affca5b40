"""What training loops call the loss of a pair: cross-entropy, or the squared error from the one-hot answer.

Scope: the squared error is averaged over classes by some, summed by others, and halved by either. Which it was
is told by the recorded numbers alone.

Shape legend: N operand pairs, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.classification import cross_entropy


@dataclass(frozen=True)
class Loss:
    """One convention: ``squared`` error or cross-entropy, times ``factor``, ``mean`` where over C classes."""

    name: str
    squared: bool = False
    mean: bool = False
    factor: float = 1.0

    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) float64 from logits (N, C) and answers (N,)."""
        if not self.squared:
            return cross_entropy(logits, targets)
        return self._error(logits.to(torch.float64), targets)

    def of_dtype(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) as a loop evaluates it in the dtype of the logits."""
        if not self.squared:
            return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return self._error(logits, targets)

    def chance(self, n_classes: int) -> float:
        """What a network gives that has learned nothing: the same logits for every class, or none at all."""
        if not self.squared:
            return math.log(max(n_classes, 2))
        return self._scale(n_classes)

    def _scale(self, n_classes: int) -> float:
        return self.factor / n_classes if self.mean else self.factor

    def _error(self, logits: Tensor, targets: Tensor) -> Tensor:
        answers = torch.nn.functional.one_hot(targets.to(torch.int64), logits.shape[-1]).to(logits)
        return (logits - answers).square().sum(dim=-1) * self._scale(logits.shape[-1])


CROSS_ENTROPY = Loss("cross-entropy")
SQUARED_ERRORS = (
    Loss("the squared error, its mean over classes", squared=True, mean=True),
    Loss("the squared error, summed over classes", squared=True),
    Loss("half the squared error, summed over classes", squared=True, factor=0.5),
    Loss("half the squared error, its mean over classes", squared=True, mean=True, factor=0.5),
)
