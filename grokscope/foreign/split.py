"""Which pairs were trained on: from the seed and fraction that were recorded, or by looking at the weights.

Scope: the convention of published code, the first ``int(fraction·N)`` of ``torch.randperm(N)`` under
``manual_seed(seed)`` on the CPU. How far a split fits is one number, the largest over the saves of the
rank-sum statistic z (Mann and Whitney): losses on the training pairs against the others. Under a split that
has nothing to do with the run it is a standard normal variable at each save.

Shape legend: T saves, N operand pairs, K candidate splits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.facts import FRACTION_NAMES, SEED_NAMES, Facts
from grokscope.tasks import random_split

CONVENTION = "the first int(fraction * N) of torch.randperm(N) after manual_seed(seed), on the CPU"
CLEAR_Z = 8.0
"""A searched split counts as found from here on: chance reaches it nowhere near the candidates tried."""

COMMON_FRACTIONS = tuple(round(0.2 + 0.05 * index, 2) for index in range(15))
COMMON_SEEDS = (*range(10), 42, 598, 999)


@dataclass(frozen=True)
class Split:
    """The training pairs and how they were found.

    ``separation`` is z at the save where it is largest, ``step`` that save's step.
    """

    mask: Tensor
    fraction: float
    seed: int
    source: Literal["recorded", "searched"]
    separation: float
    step: int
    evidence: str

    def as_json(self) -> dict[str, Any]:
        n_train = int(self.mask.sum())
        return {
            "source": self.source,
            "convention": CONVENTION,
            "train_fraction": self.fraction,
            "seed": self.seed,
            "n_train": n_train,
            "n_test": len(self.mask) - n_train,
            "separation": self.separation,
            "evidence": self.evidence,
        }


def separation(losses: Tensor, masks: Tensor) -> np.ndarray:
    """(T, K) z of the rank sum: positive where the losses (T, N) inside the masks (K, N) are lower."""
    n = losses.shape[1]
    inside = masks.to(torch.float64).numpy()
    size = inside.sum(axis=1)
    rows = []
    for values in losses.numpy():
        ranks = rankdata(values)
        spread = ranks.std()
        expected = size * (n + 1) / 2
        if spread == 0:
            rows.append(np.zeros(len(inside)))
            continue
        # the variance of a sum drawn without replacement
        deviation = spread * np.sqrt(size * (n - size) / (n - 1))
        rows.append((expected - inside @ ranks) / deviation)
    return np.array(rows)


def find_split(
    facts: Facts, inside: dict[str, Any], losses: Tensor, right: Tensor, steps: Sequence[int], where: str
) -> Split:
    """The split of a run from what was recorded, else from the common conventions.

    Args:
        facts, inside: what lies beside the weights and in the last file.
        losses, right: (T, N) loss and correctness of every pair at every save.
        where: what is being imported, for the message.

    Raises:
        GrokscopeError: nothing recorded, or contradicted by the weights, and no common split fits them.
    """
    given = recorded_settings(facts, inside)
    refused = ""
    if given is not None:
        seed, fraction, source = given
        split = _recorded(seed, fraction, source, losses, right, steps)
        if split is not None:
            return split
        refused = f"the recorded seed {seed} and fraction {fraction} do not fit what the weights know, and "
    found, tried = _search(losses, steps, given[1] if given else None)
    if found is not None:
        return found
    raise GrokscopeError(
        f"importing {where}: {refused}no training split was found: {tried}; expected the seed and the "
        f"fraction recorded beside the weights ({SEED_NAMES[-1]} and {FRACTION_NAMES[0]} in a config.json)"
    )


def recorded_settings(facts: Facts, inside: dict[str, Any]) -> tuple[int, float, str] | None:
    """Seed, training fraction and where they are written, where both are and make sense."""
    seed, fraction = facts.find(SEED_NAMES, inside), facts.find(FRACTION_NAMES, inside)
    if seed is None or fraction is None:
        return None
    whole = isinstance(seed[0], int) and not isinstance(seed[0], bool) and 0 <= seed[0] < 2**63
    if not whole or not isinstance(fraction[0], float) or not 0 < fraction[0] < 1:
        return None
    return seed[0], fraction[0], f"{seed[1]}, {fraction[1]}"


def _recorded(
    seed: int, fraction: float, source: str, losses: Tensor, right: Tensor, steps: Sequence[int]
) -> Split | None:
    """The split as recorded, unless some save knows its training pairs and they are others."""
    mask = random_split(losses.shape[1], fraction, seed)
    z = separation(losses, mask[None])[:, 0]
    best = int(z.argmax())
    shares = right.to(torch.float64).mean(dim=1)
    # a save that answers some pairs and not others has something to say about which it saw
    telling = (shares > 0.5 * fraction) & (shares < 0.95)
    evidence = (
        f"recorded ({source}); training losses are the lower ones at step {steps[best]} by z = {z[best]:.1f}"
    )
    if z[best] >= CLEAR_Z:
        return Split(mask, fraction, seed, "recorded", float(z[best]), steps[best], evidence)
    if bool(telling.any()):
        return None
    evidence = f"recorded ({source}); no save can confirm it: largest z = {z[best]:.1f} at step {steps[best]}"
    return Split(mask, fraction, seed, "recorded", float(z[best]), steps[best], evidence)


def _search(losses: Tensor, steps: Sequence[int], fraction: float | None) -> tuple[Split | None, str]:
    total = losses.shape[1]
    fractions: list[float] = sorted({*COMMON_FRACTIONS, *([fraction] if fraction else [])})
    fractions = [f for f in fractions if 0 < int(f * total) < total]
    candidates = [(seed, f) for seed in COMMON_SEEDS for f in fractions]
    masks = torch.stack([random_split(total, f, seed) for seed, f in candidates])
    z = separation(losses, masks)
    largest = z.max(axis=0)
    winner = int(largest.argmax())
    seed, f = candidates[winner]
    others = [value for (s, _), value in zip(candidates, largest, strict=True) if s != seed]
    rival, save = max(others), int(z[:, winner].argmax())
    tried = (
        f"tried {CONVENTION}, with fractions {fractions[0]} to {fractions[-1]} and the seeds 0 to 9, 42, 598 "
        f"and 999, of which the best separates training losses from the rest by z = {largest[winner]:.1f} "
        f"(at least {CLEAR_Z:.0f} expected, {_chance(len(candidates) * len(steps)):.1f} is chance)"
    )
    if largest[winner] < CLEAR_Z:
        return None, tried
    evidence = (
        f"searched: of {len(candidates)} common splits, seed {seed} with fraction {f} separates training "
        f"losses from the rest by z = {largest[winner]:.1f} at step {steps[save]}; the best under another "
        f"seed reaches {rival:.1f}"
    )
    return Split(masks[winner], f, seed, "searched", float(z[save, winner]), steps[save], evidence), tried


def _chance(draws: int) -> float:
    """About the largest of that many standard normal variables."""
    return math.sqrt(2 * math.log(max(draws, 2)))
