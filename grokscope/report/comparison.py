"""Statistics over seeds that need no distribution: exact rank intervals of values known only between two ends.

An event is known only between two evaluations, and one that was not seen only from below. Every statistic here
moves one way when a value does, so that its two ends follow from the two ends of the values: nothing is
imputed, and what the data leave open stays open. Infinite ends are allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from grokscope.errors import GrokscopeError

FEWEST = 3
"""Seeds below which no interval is given."""
LEVEL = 0.95
"""Coverage that an interval has where the number of seeds allows it."""


@dataclass(frozen=True)
class Between:
    """A number known to lie in ``[low, high]``; exact where both are equal."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise GrokscopeError(
                f"comparing runs: a value between {self.low} and {self.high} was given, expected the lower end first"
            )


@dataclass(frozen=True)
class Interval:
    """A confidence interval with the coverage that it really has, a share of 1."""

    low: float
    high: float
    coverage: float


def median(values: Sequence[Between]) -> Between:
    """The sample median of at least one value, as the ends it must lie between."""
    if not values:
        raise GrokscopeError("taking a median: no value was given, expected at least one")
    return Between(_middle([v.low for v in values]), _middle([v.high for v in values]))


def _middle(numbers: Sequence[float]) -> float:
    ordered, half = sorted(numbers), len(numbers) // 2
    if len(numbers) % 2 or ordered[half - 1] == ordered[half]:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def median_interval(values: Sequence[Between], level: float = LEVEL) -> Interval | None:
    """Exact interval of the population median from order statistics; ``None`` for fewer than three values.

    The k-th smallest and the k-th largest of n independent values hold the median between them with
    probability 1 − 2 P(B < k), B binomial (n, ½), whatever their distribution is. The largest k is taken
    that still covers ``level``; where even the extremes do not, they are given with the coverage they have.

    Source: W. R. Thompson, Annals of Mathematical Statistics 7 (1936) 122.
    """
    count = len(values)
    if count < FEWEST:
        return None
    total = 2**count
    rank, coverage = _widest_rank([math.comb(count, k) / total for k in range((count + 1) // 2)], level)
    lows, highs = sorted(v.low for v in values), sorted(v.high for v in values)
    return Interval(lows[rank - 1], highs[count - rank], coverage)


def _widest_rank(chances: Sequence[float], level: float) -> tuple[int, float]:
    """The largest rank whose interval covers ``level`` (else 1), and its coverage.

    ``chances[k]`` is the probability that exactly k values, or differences, lie beyond one side.
    """
    rank, missed = 1, chances[0]
    beyond = chances[0]
    for k in range(1, len(chances)):
        beyond += chances[k]
        if 1 - 2 * beyond < level:
            break
        rank, missed = k + 1, beyond
    return rank, max(1 - 2 * missed, 0.0)


def shift(first: Sequence[Between], second: Sequence[Between]) -> Between:
    """How much larger ``second`` is than ``first``: the median of all differences, one from each.

    Source: J. L. Hodges and E. L. Lehmann, Annals of Mathematical Statistics 34 (1963) 598.
    """
    return median(_differences(first, second))


def shift_interval(
    first: Sequence[Between], second: Sequence[Between], level: float = LEVEL
) -> Interval | None:
    """Exact interval of the shift between two groups; ``None`` where one has fewer than three values.

    The k-th smallest and k-th largest of all differences cover the shift with probability 1 − 2 P(U < k), U the
    Mann–Whitney statistic under no shift. Exact where the two distributions differ by a shift alone and
    have no ties.
    """
    if min(len(first), len(second)) < FEWEST:
        return None
    differences = _differences(first, second)
    chances = _mann_whitney(len(first), len(second))
    rank, coverage = _widest_rank(chances[: (len(differences) + 1) // 2], level)
    lows, highs = sorted(d.low for d in differences), sorted(d.high for d in differences)
    return Interval(lows[rank - 1], highs[len(highs) - rank], coverage)


def _differences(first: Sequence[Between], second: Sequence[Between]) -> list[Between]:
    if not first or not second:
        raise GrokscopeError(
            f"comparing two groups: they have {len(first)} and {len(second)} values, expected one each or more"
        )
    return [Between(y.low - x.high, y.high - x.low) for x, y in product(first, second)]


def _mann_whitney(n: int, m: int) -> list[float]:
    """P(U = u) for u from 0 to n m, two groups of n and m with no ties and no shift."""
    # ways[i][u]: choices of i ranks of the first group among those seen so far that give U = u
    ways = [[1] + [0] * (n * m)] + [[0] * (n * m + 1) for _ in range(n)]
    for before in range(n + m):
        for chosen in range(min(n, before + 1), 0, -1):
            # as the chosen-th of the first group, this rank stands above ``below`` values of the second
            below = before - (chosen - 1)
            if below > m:
                continue
            for u in range(n * m, below - 1, -1):
                ways[chosen][u] += ways[chosen - 1][u - below]
    total = math.comb(n + m, n)
    return [count / total for count in ways[n]]


def logarithm(values: Sequence[Between]) -> list[Between] | None:
    """Natural logarithms of positive values, for ratios; ``None`` where one may be negative.

    A lower end of 0 becomes −∞.
    """
    if any(v.low < 0 or v.high <= 0 for v in values):
        return None
    return [Between(math.log(v.low) if v.low > 0 else -math.inf, math.log(v.high)) for v in values]


def exponential(low: float, high: float) -> tuple[float, float]:
    """Both ends taken back from logarithms."""
    return math.exp(low), math.exp(high) if high < 700 else math.inf
