"""Recorded numbers beside what random splits would give: how far they lie, and how surprising a candidate is.

Scope: the mean over a random subset of n of N pairs is close to normal with a known spread, so that a recorded
mean lies ``away`` spreads from what a random split gives, and a candidate's own mean ``off`` spreads from what
was recorded. The surprise of a candidate is −log₁₀ of the chance of coming that close at random.

Shape legend: N operand pairs, K candidate splits, R recorded numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

LARGEST_AWAY = 6.0
"""The tails of a mean over pairs are heavier than a normal one's; further out counts as this far."""

ROUNDING = 3e-6
"""Relative error of a loss that was evaluated in float32."""

MOST_OF_A_SECOND = 4.0
FLOOR = 1e-6
"""Losses below this, evaluated in float32, are mostly rounding."""

MOST_SURPRISE = 30.0


@dataclass(frozen=True)
class Number:
    """A recorded mean over training or test pairs, with what random splits of its save would give.

    ``total`` and ``spread`` are the sum and the standard deviation of the losses or answers over all
    ``n`` pairs at the save in row ``save``.
    """

    quantity: str
    side: str
    save: int
    value: float
    resolution: float
    source: str
    n: int
    total: float
    spread: float

    @property
    def is_loss(self) -> bool:
        return self.quantity.startswith("loss")


class Numbers:
    """Recorded numbers as columns (R, 1), to be compared with many candidates at once.

    Attributes:
        value, resolution, total, spread, least: (R, 1) float64, ``least`` what rounding leaves open.
        train, is_loss: (R, 1) bool.
        save: (R,) rows of the evidence.
        n: number of pairs.
    """

    def __init__(self, numbers: Sequence[Number], n: int) -> None:
        def column(values: Sequence[float]) -> np.ndarray:
            return np.array(values, dtype=np.float64).reshape(-1, 1)

        self.n = n
        self.value = column([one.value for one in numbers])
        self.total = column([one.total for one in numbers])
        self.spread = column([one.spread for one in numbers])
        self.resolution = column([one.resolution for one in numbers])
        self.train = np.array([one.side == "train" for one in numbers], dtype=bool).reshape(-1, 1)
        self.is_loss = np.array([one.is_loss for one in numbers], dtype=bool).reshape(-1, 1)
        self.save = np.array([one.save for one in numbers], dtype=np.int64)
        self.least = np.where(self.is_loss, ROUNDING * np.abs(self.value), 1e-9)

    def __len__(self) -> int:
        return len(self.save)

    def means(self, sizes: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """(R, K) of each number's own side, from the sums (R, K) over ``sizes`` (K,) pairs and the others."""
        return np.where(self.train, inside / sizes, outside / (self.n - sizes))

    def means_of(self, sizes: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """The same where only the sums over training pairs are there."""
        return self.means(sizes, inside, self.total - inside)

    def distances(
        self, sizes: np.ndarray | float, means: np.ndarray, inflation: np.ndarray | float = 1.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """In spreads of a random split's mean: the recorded number's, the candidate's miss, what digits allow.

        ``inflation`` widens the spread, for draws of more than single pairs.
        """
        drawn = np.where(self.train, sizes, self.n - sizes)
        spread = inflation * self.spread * np.sqrt((self.n - drawn) / (drawn * (self.n - 1)))
        spread = np.maximum(spread, 1e-300)
        away = np.abs(self.value - self.total / self.n) / spread
        digits = np.maximum(self.resolution, self.least) / spread
        return away, np.abs(means - self.value) / spread, digits

    def can_refute(self, sizes: np.ndarray) -> np.ndarray:
        """(R, K): whether a miss cannot be the rounding of float32 or the few pairs that one step changes."""
        mean = self.total / self.n
        drawn = np.where(self.train, sizes, self.n - sizes)
        return np.where(
            self.is_loss, np.maximum(self.value, mean) > FLOOR, np.abs(self.value - mean) * drawn > 3
        )

    def strongest(self, surprises: np.ndarray) -> np.ndarray:
        """(K,) of surprises (R, K) of all numbers together; zeros without any."""
        by_save = [surprises[self.save == save].max(axis=0) for save in dict.fromkeys(self.save.tolist())]
        return combined(by_save) if by_save else np.zeros(surprises.shape[1])


def combined(by_save: Sequence[np.ndarray]) -> np.ndarray:
    """(K,) of the surprises (K,) at several saves: the largest, and the next as far as digits go.

    Saves of one run err together: two that both come close are not twice the evidence of one.
    """
    ordered = np.sort(np.array(by_save), axis=0)[::-1]
    return ordered[0] + np.minimum(ordered[1], MOST_OF_A_SECOND) if len(ordered) > 1 else ordered[0]


def may_be_close(away: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Where a candidate can surprise at all, by a cheaper look than :func:`surprise`."""
    return ((off < 0.4 * away) & (away > 3)) | (off < 1e-3)


def surprise(away: np.ndarray, off: np.ndarray) -> np.ndarray:
    """−log₁₀ of the chance that a standard normal variable falls within ``off`` of ``away``."""
    scale = np.minimum(1.0, LARGEST_AWAY / np.maximum(away, 1e-300))
    away, off = away * scale, off * scale
    upper, lower = log_ndtr(np.minimum(off - away, 0)), log_ndtr(-off - away)
    inner = np.log(np.maximum(-np.expm1(np.minimum(lower - upper, -1e-300)), 1e-12))
    found = np.where(off >= away, 0.0, -(upper + inner) / math.log(10))
    return np.minimum(found, MOST_SURPRISE)
