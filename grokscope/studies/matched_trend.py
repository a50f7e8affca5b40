"""Does a time fall with a setting, within matched seeds? Spearman's correlation with an exact test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np


@dataclass(frozen=True)
class Trend:
    """Rank correlation within seeds: its mean, that of every seed, and the exact two-sided p-value."""

    mean: float
    each: tuple[float, ...]
    p_value: float
    n: int


def within_seed_trend(decays: Sequence[float], times: Sequence[Sequence[float]]) -> Trend | None:
    """Spearman's correlation of the decay with the times (seeds × decays), matched by seed.

    Runs that did not get there are infinite and tie with each other. The p-value counts all permutations of every
    seed's times. ``None`` where every seed's times are all the same.
    """
    x = _ranks(np.asarray(decays, dtype=float))
    each, totals = [], Counter({0.0: 1})
    for row in times:
        y = _ranks(np.asarray(row, dtype=float))
        scale = float(np.sqrt(x @ x * (y @ y)))
        if not scale:
            continue
        each.append(float(x @ y) / scale)
        possible = Counter(round(float(x @ np.asarray(order)) / scale, 9) for order in permutations(y))
        totals = _sums(totals, possible)
    if not each:
        return None
    seen = abs(sum(each)) - 1e-6
    extreme = sum(count for value, count in totals.items() if abs(value) >= seen)
    return Trend(float(np.mean(each)), tuple(each), extreme / sum(totals.values()), len(x))


def _sums(one: Counter[float], other: Counter[float]) -> Counter[float]:
    found: Counter[float] = Counter()
    for a, n in one.items():
        for b, m in other.items():
            found[round(a + b, 9)] += n * m
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties at their mean, centred."""
    below = (values[:, None] > values).sum(1) + 0.5 * (values[:, None] == values).sum(1)
    return below - below.mean()
