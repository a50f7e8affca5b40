"""The ways in which published code draws a training split, and the search through them.

Scope: a generator and a seed put a list of items in random order (``draws``); the items are pairs in some
arrangement, or whole rows of the table; the first or the last so many are trained on. Candidates share an order
of the items, so that one running sum gives what is measured of all of them. Draws made after the weights were
initialised from the same generator cannot be repeated, and are not tried.

Shape legend: N operand pairs, M items, Q measured quantities, K counts of items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from grokscope.foreign.splitting.draws import ORDERS, Order, drawn_by_count, orders
from grokscope.foreign.splitting.evidence import Evidence
from grokscope.foreign.splitting.numbers import Numbers, may_be_close, surprise

COMMON_SEEDS = (
    *range(11), 42, 123, 1234, 12345, 1337, 598, 999, 100, 2019, 2020, 2021, 2022, 2023, 2024, 2025, 2026, 31,
    69, 420, 666, 777, 1000, 3407, 31415, 314159, 271828, 12, *range(11, 101),
)  # fmt: skip
COMMON_FRACTIONS = (*(round(0.05 * index, 2) for index in range(1, 20)), 1 / 3, 2 / 3, 0.33, 0.67, 0.01)

LIKELY_FRACTIONS = (0.3, 0.4, 0.5, 0.25, 0.7, 0.75, 0.8, 0.2, 0.6)

MOST_KEPT = 40
LEAST_STRENGTH = 6.0
"""Powers of ten of evidence from which a candidate is looked at closely."""

KNOWN_SHARE = 0.97
"""Share of the largest possible separation at a memorised save that a split has which is its memory."""

UNORDERED = "the pairs with a ≤ b, each with its mirror image"


@dataclass(frozen=True)
class Arrangement:
    """Items in their order: ``label`` (N,) is the place of each pair's item."""

    name: str
    words: str
    label: np.ndarray
    size: int
    """M, the number of items."""


@dataclass(frozen=True)
class Candidate:
    """A split by a recipe: the pairs ``mask`` (N,), and the recipe in words."""

    mask: np.ndarray
    seed: int
    fraction: float
    recipe: str
    usual: bool
    """Whether it is the convention of most published code but for the count's rounding."""
    strength: float
    order: tuple[str, str]
    """The generator with its seed, and the arrangement: what candidates of one order share."""
    inflation: float
    """How much wider than over pairs the spread over this arrangement's items is."""

    @cached_property
    def pairs(self) -> bytes:
        """The pairs as a key."""
        return np.packbits(self.mask).tobytes()


@dataclass(frozen=True)
class Searched:
    """How many candidates under how many seeds a search looked at, and whether it came to its end."""

    tried: int
    seeds: int
    finished: bool


@dataclass(frozen=True)
class Measured:
    """An arrangement's items: ``sums`` (Q, M) over the pairs of each, ``sizes`` (M,), counts to try.

    ``ends`` are these counts from either end of an order, sorted; ``segments`` (M,) says between which of them
    each place of an order lies.
    """

    sums: np.ndarray
    sizes: np.ndarray
    counts: Mapping[int, tuple[float, str]]
    inflation: float
    ends: np.ndarray
    segments: np.ndarray


@dataclass(frozen=True)
class Draw:
    """One random order of an arrangement's items."""

    arrangement: Arrangement
    seed: int
    words: str
    usual: bool


def arrangements(inputs: Tensor, swap: bool) -> list[Arrangement]:
    """The arrangements of operand pairs ``inputs`` (N, 2); other inputs only come in their own order."""
    n = len(inputs)
    own = Arrangement("own", "the pairs in the order of the task", np.arange(n), n)
    if inputs.ndim != 2 or inputs.shape[1] != 2 or inputs.is_floating_point():
        return [own]
    a, b = inputs[:, 0].numpy(), inputs[:, 1].numpy()
    found = [
        Arrangement("a-major", "the pairs in the order a·p + b", _places(a, b), n),
        Arrangement("b-major", "the pairs in the order b·p + a", _places(b, a), n),
    ]
    if swap:
        low, high = np.minimum(a, b), np.maximum(a, b)
        both = _places(low, high)
        size = int(both.max()) + 1
        found.append(Arrangement("a ≤ b", UNORDERED, both, size))
    for name, column in (("a", a), ("b", b)):
        label = _places(column, np.zeros_like(column))
        words = f"the values of {name}, each with all its pairs"
        found.append(Arrangement(f"by {name}", words, label, int(label.max()) + 1))
    return found


def half(inputs: Tensor) -> tuple[np.ndarray, Arrangement]:
    """The pairs with a ≤ b, as a mask (N,), and the arrangement of a data set that holds no others."""
    a, b = inputs[:, 0].numpy(), inputs[:, 1].numpy()
    inside = a <= b
    label = _places(a[inside], b[inside])
    words = "the pairs with a ≤ b, the only ones of the data"
    return inside, Arrangement("only a ≤ b", words, label, len(label))


def _places(major: np.ndarray, minor: np.ndarray) -> np.ndarray:
    """(N,) the place of each pair among the distinct ones, ordered by ``major`` and then ``minor``."""
    return np.unique(major.astype(np.int64) * (int(minor.max()) + 1) + minor, return_inverse=True)[1]


def counts_of(size: int, fractions: Sequence[float], exact: int | None) -> dict[int, tuple[float, str]]:
    """How many of ``size`` items → the fraction and the rule, by ``int``, ``round`` and ``ceil``."""
    found: dict[int, tuple[float, str]] = {}
    rules: tuple[tuple[str, Callable[[float], int]], ...] = (
        ("int", int),
        ("round", round),
        ("ceil", math.ceil),
    )
    for fraction in fractions:
        for name, rule in rules:
            count = rule(fraction * size)
            if 0 < count < size:
                found.setdefault(count, (fraction, f"{name}({fraction:.4g} · N)"))
    if exact is not None and 0 < exact < size:
        found.setdefault(exact, (exact / size, f"{exact}"))
    return found


class Search:
    """The search of one run: what is measured of its pairs, summed along any order of the items."""

    def __init__(
        self,
        evidence: Evidence,
        arranged: Sequence[Arrangement],
        fractions: Sequence[float],
        known: Sequence[float],
        exact: int | None,
    ) -> None:
        self.evidence, self.arranged, self.fractions = evidence, arranged, fractions
        self.limits = np.sort(fractions)
        self.any_count = exact is None
        self.table = Numbers(evidence.screened, evidence.n)
        values = [evidence.values_of(one) for one in evidence.screened]
        self.quantities = np.concatenate([evidence.scores, np.array(values).reshape(-1, evidence.n)])
        self.measured = {one.name: self._measured(one, exact) for one in arranged}
        # counts that a generator has to be run for: those that are known, else the commonest
        likely = [*known, *([exact / evidence.n] if exact else [])] or list(LIKELY_FRACTIONS)
        self.drawn_counts = counts_of(evidence.n, likely, exact)
        self.kept: list[Candidate] = []
        self.tried = self.drawn = 0
        undecided = 0.02 < evidence.accuracy[evidence.ranked[0]] < 0.95
        self.top = evidence.tops[0] if undecided else None

    def _measured(self, one: Arrangement, exact: int | None) -> Measured:
        sums = np.array([np.bincount(one.label, row, one.size) for row in self.quantities])
        sizes = np.bincount(one.label, minlength=one.size)
        # the spread of a sum over random items, against that over as many random pairs
        means = self.quantities.mean(axis=1, keepdims=True)
        over_items = np.sqrt(np.square(sums - means * sizes).sum(axis=1))
        over_pairs = self.quantities.std(axis=1) * math.sqrt(self.evidence.n)
        inflation = float(np.max(over_items / np.maximum(over_pairs, 1e-300), initial=1.0))
        exact = exact if one.size == self.evidence.n else None
        counts = counts_of(one.size, self.fractions, exact)
        ends = np.unique([place for count in counts for place in (count, one.size - count)]).astype(np.int64)
        segments = np.searchsorted(ends, np.arange(one.size), side="right")
        return Measured(sums, sizes, counts, inflation, ends, segments)

    def run(self, seeds: Sequence[int], most_drawn: int, enough: Callable[[], bool]) -> Searched:
        """Every recipe under ``seeds`` in turn, until ``enough`` was found or ``most_drawn`` items were drawn.

        The first seed is tried whatever the limit, which does not depend on how fast this machine is.
        """
        of_a_seed = ORDERS * sum(one.size for one in self.arranged)
        allowed = max(1, most_drawn // of_a_seed)
        done, found = 0, False
        for seed in seeds[:allowed]:
            self.try_seed(seed)
            done += 1
            found = enough()
            if found:
                break
        self.drawn = done * of_a_seed
        return Searched(self.tried, done, found or done == len(seeds))

    def best(self) -> tuple[Candidate, ...]:
        """The strongest candidates, each set of pairs once, the usual recipe before others for the same."""
        ordered = sorted(self.kept, key=lambda one: (-round(one.strength, 6), not one.usual))
        once: dict[bytes, Candidate] = {}
        for one in ordered:
            once.setdefault(one.pairs, one)
        return tuple(list(once.values())[:MOST_KEPT])

    def try_seed(self, seed: int) -> None:
        for size in {one.size for one in self.arranged}:
            arranged = [one for one in self.arranged if one.size == size]
            for index, (words, order, draws) in enumerate(orders(seed, size)):
                if draws is not None:
                    segment = np.searchsorted(self.limits, draws, side="right")
                else:
                    # arrangements of one size have the same counts
                    segment = np.empty(size, dtype=np.intp)
                    segment[order] = self.measured[arranged[0].name].segments
                for one in arranged:
                    usual = index == 0 and one.name in ("a-major", "own")
                    draw = Draw(one, seed, words, usual)
                    if draws is not None:
                        self._below(draw, draws, segment)
                    else:
                        self._along(draw, order, segment)
            if size == self.evidence.n:
                for count, (fraction, rule) in self.drawn_counts.items():
                    for words, order in drawn_by_count(seed, size, count):
                        for one in arranged:
                            draw = Draw(one, seed, words, False)
                            measured = self.measured[one.name]
                            sums = measured.sums[:, order].sum(axis=1, keepdims=True)
                            n_pairs = np.array([measured.sizes[order].sum()])
                            for _, strength in self._worthy(sums, n_pairs, measured.inflation):
                                self._keep(draw, order, f"the {rule}", fraction, strength)

    def _along(self, draw: Draw, order: Order, segment: np.ndarray) -> None:
        """Every count of items from either end of one order."""
        one, measured = draw.arrangement, self.measured[draw.arrangement.name]
        counts = np.array(list(measured.counts), dtype=np.int64)
        if len(counts):
            running, pairs = self._running(measured, segment, len(measured.ends))
            first, last = (np.searchsorted(measured.ends, at) for at in (counts, one.size - counts))
            sums = np.concatenate([running[:, first], running[:, -1:] - running[:, last]], axis=1)
            n_pairs = np.concatenate([pairs[first], pairs[-1] - pairs[last]])
            for index, strength in self._worthy(sums, n_pairs, measured.inflation):
                count = int(counts[index % len(counts)])
                fraction, rule = measured.counts[count]
                if index < len(counts):
                    self._keep(draw, order[:count], f"the first {rule}", fraction, strength)
                else:
                    late = replace(draw, usual=False)
                    self._keep(late, order[one.size - count :], f"the last {rule}", fraction, strength)
        if self.any_count and one.size == self.evidence.n and one.name in ("a-major", "own"):
            self._at_any_count(draw, order)

    def _below(self, draw: Draw, draws: np.ndarray, segment: np.ndarray) -> None:
        """The items whose draws lie below every fraction."""
        one, measured = draw.arrangement, self.measured[draw.arrangement.name]
        limits = self.limits
        running, pairs = self._running(measured, segment, len(limits))
        ends = np.cumsum(np.bincount(segment, minlength=len(limits) + 1))[:-1]
        rules: dict[int, float] = {}
        for fraction, place in zip(self.fractions, np.searchsorted(limits, self.fractions), strict=True):
            if 0 < ends[place] < one.size:
                rules[int(ends[place])] = fraction
        if not rules:
            return
        places = np.searchsorted(ends, list(rules))
        told = list(rules.values())
        for index, strength in self._worthy(running[:, places], pairs[places], measured.inflation):
            picked = np.flatnonzero(draws < told[index])
            self._keep(draw, picked, f"those below {told[index]:.4g}", told[index], strength)

    def _running(self, measured: Measured, segment: np.ndarray, n_ends: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums (Q, n_ends + 1), and numbers of pairs, of the items up to the end of each segment and of all.

        ``segment`` (M,) is the place of each item's among them: sums are taken along segments, not items.
        """
        sums = np.array([np.bincount(segment, row, n_ends + 1) for row in measured.sums])
        pairs = np.bincount(segment, measured.sizes, n_ends + 1)
        return np.cumsum(sums, axis=1), np.cumsum(pairs).astype(np.int64)

    def _at_any_count(self, draw: Draw, order: Order) -> None:
        """The count at which the losses separate best, where no fraction is sure."""
        n, sums = self.evidence.n, self.measured[draw.arrangement.name].sums
        size = np.arange(1, n)
        z = np.cumsum(sums[0][order])[:-1] / np.sqrt(size * (n - size) / (n - 1))
        for end, place in (("first", int(z.argmax())), ("last", int(z.argmin()))):
            first = end == "first"
            count = place + 1 if first else n - place - 1
            picked = order[:count] if first else order[n - count :]
            chosen = np.zeros(n)
            chosen[picked] = 1
            for _, strength in self._worthy((sums @ chosen)[:, None], np.array([count]), 1.0):
                words = f"the {end} {count}, which separates the losses best,"
                # one of N counts was chosen
                self._keep(draw, picked, words, count / n, strength - math.log10(n))

    def _worthy(self, sums: np.ndarray, n_pairs: np.ndarray, inflation: float) -> list[tuple[int, float]]:
        """(which, strength) of the candidates with sums (Q, K) over (K,) pairs that may be the split."""
        self.tried += len(n_pairs)
        n, ranked = self.evidence.n, len(self.evidence.scores)
        size = np.minimum(np.maximum(n_pairs, 1), n - 1).astype(np.float64)
        z = sums[:ranked].max(axis=0) / (inflation * np.sqrt(size * (n - size) / (n - 1)))
        # −log₁₀ of the tail of a standard normal, to the leading order
        strength = np.where(z > 0, z * z / (2 * math.log(10)), 0.0)
        away, off, digits = self.table.distances(size, self.table.means_of(size, sums[ranked:]), inflation)
        close = may_be_close(away, off)
        if close.any():
            found = np.zeros(close.shape)
            found[close] = surprise(away[close], np.maximum(off, digits)[close])
            strength = np.maximum(strength, self.table.strongest(found))
        if self.top is not None:
            # almost the pairs that a memorised save knows, which no arrangement does by chance
            known = sums[0] >= KNOWN_SHARE * self.top[size.astype(np.int64) - 1]
            strength[known & (sums[0] > 0)] = np.maximum(strength[known & (sums[0] > 0)], LEAST_STRENGTH)
        strength[(n_pairs <= 0) | (n_pairs >= n)] = 0
        return [(int(k), float(strength[k])) for k in np.flatnonzero(strength >= LEAST_STRENGTH)]

    def _keep(self, draw: Draw, picked: Order, taken: str, fraction: float, strength: float) -> None:
        one = draw.arrangement
        chosen = np.zeros(one.size, dtype=bool)
        chosen[picked] = True
        mask = chosen[one.label]
        recipe = f"{draw.words}: {taken} of {one.words}"
        inflation = self.measured[one.name].inflation
        order = draw.words, one.name
        self.kept.append(Candidate(mask, draw.seed, fraction, recipe, draw.usual, strength, order, inflation))
        if len(self.kept) > 20 * MOST_KEPT:
            self.kept = list(self.best())
