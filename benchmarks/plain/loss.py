"""Losses, accuracies and margins as notebooks compute them: one forward pass on all p² inputs, then masks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.plain.networks import Setting, network


@lru_cache
def masks(setting: Setting) -> dict[str, Tensor]:
    """(p²,) which inputs each accuracy is taken over; a notebook makes them once."""
    p = setting.p
    trained = {(int(a), int(b)) for a, b in setting.train}
    pairs = [(int(a), int(b)) for a, b in setting.pairs]
    train = torch.tensor([pair in trained for pair in pairs])
    mirrored = torch.tensor(
        [(a, b) not in trained and a != b and (b, a) in trained for a, b in pairs], dtype=torch.bool
    )
    assert len(pairs) == p * p
    return {
        "train": train,
        "test": ~train,
        "all": torch.ones_like(train),
        "test_mirrored": mirrored,
        "test_unmirrored": ~train & ~mirrored,
        "test_symmetry": mirrored,
    }


def measure(weights: Mapping[str, np.ndarray], setting: Setting) -> dict[str, float]:
    """Every quantity of the loss probe, of one checkpoint."""
    targets = setting.pairs.sum(1) % setting.p
    found: dict[str, float] = {}
    with torch.no_grad():
        net = network(setting, weights)
        logits = net(setting.pairs)
        right = (logits.argmax(1) == targets).double()
        for name, mask in masks(setting).items():
            found[f"accuracy.{name}"] = right[mask].mean().item()
            if name in ("train", "test", "all"):
                found[f"loss.{name}"] = cross_entropy(logits[mask], targets[mask]).item()
        train = masks(setting)["train"]
        known, answers = logits[train], targets[train]
        own = known.gather(1, answers[:, None])[:, 0]
        others = known.scatter(1, answers[:, None], -torch.inf).max(1).values
        found["margin.min"], found["margin.mean"] = (own - others).min().item(), (own - others).mean().item()
        found["logits.norm"] = logits.norm(dim=1).mean().item()
        stored = net.to(getattr(torch, setting.stored))(setting.pairs[train])
        total = (stored - stored.max(1, keepdim=True).values).exp().sum(1)
        collapsed = (total == 1) & (stored.argmax(1) == answers)
        found["softmax.collapsed"] = collapsed.double().mean().item()
    return found
