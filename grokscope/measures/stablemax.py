"""StableMax: a cross-entropy whose probabilities cannot collapse in floating point (arXiv 2501.04697).

softmax with s(x) = x + 1 for x ≥ 0 and 1/(1 − x) below in the place of exp: p_i = s(z_i) / Σ_j s(z_j). The loss is
−log p of the answer. It falls like a power of the logits, not exponentially, so gradients stay above rounding.

Shapes: … any leading axes, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["stablemax", "stablemax_gradient", "stablemax_loss"]


def _log_s(logits: Tensor) -> Tensor:
    return logits.sign() * torch.log1p(logits.abs())


def stablemax(logits: Tensor) -> Tensor:
    """(…, C): probabilities; float64 where the logits are, else in their own precision."""
    return torch.softmax(_log_s(logits), dim=-1)


def stablemax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(…): −log p of the answers ``targets`` (…) int64."""
    return -torch.log_softmax(_log_s(logits), dim=-1).gather(-1, targets[..., None])[..., 0]


def stablemax_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """(…, C): the gradient of each sample's loss in its logits, (p − onehot) / (1 + |z|).

    d log s / dz is 1 / (1 + |z|) on both sides of zero, where s has no kink.
    """
    delta = stablemax(logits)
    delta.scatter_add_(-1, targets[..., None], delta.new_full((*targets.shape, 1), -1.0))
    return delta / (1 + logits.abs())
