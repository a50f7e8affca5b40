"""Random orders as the generators of published code give them.

Scope: a seed and a number of items → the items in order. What is one and the same and therefore one generator:
``torch.randperm`` under ``manual_seed`` and with a generator of that seed, and ``random_split`` with it;
``numpy.random`` permutation, shuffle, choice without replacement and scikit-learn's ``train_test_split``, which
takes the test pairs first; ``random.sample`` of most of a list and ``random.shuffle`` read from its end.

Shape legend: M items.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch

Order = np.ndarray
_NO_ORDER = np.empty(0, dtype=np.int64)

ORDERS = 6
"""How many generators :func:`orders` goes through."""

LEAST_AT_ONCE = 2048
"""Items from which on drawing all exchanges of a shuffle at once is faster."""

MOST_REMEMBERED = 20_000
"""Items up to which a shuffle is kept for the next search, to be brief on memory."""


def orders(seed: int, size: int) -> Iterator[tuple[str, Order, np.ndarray | None]]:
    """(words, the items in random order, ``None``) of each generator, then (words, no items, draws (M,)).

    The latter are for rules that take the items whose draws lie below a threshold.
    """
    if 0 <= seed < 2**63:
        torch_generator = torch.Generator().manual_seed(seed)
        words = f"torch.randperm(N) after manual_seed({seed})"
        yield words, torch.randperm(size, generator=torch_generator).numpy(), None
    if 0 <= seed < 2**32:
        words = f"numpy.random.permutation(N) after seed({seed})"
        yield words, np.random.RandomState(seed).permutation(size), None
    if seed >= 0:
        yield f"default_rng({seed}).permutation(N)", np.random.default_rng(seed).permutation(size), None
    # the slowest of all, and for common seeds the same in every search
    items = _remembered(seed, size) if size <= MOST_REMEMBERED else shuffled(seed, size)
    yield f"random.shuffle after random.seed({seed})", items, None
    if 0 <= seed < 2**63:
        draws = torch.rand(size, generator=torch.Generator().manual_seed(seed)).numpy().astype(np.float64)
        yield f"torch.rand(N) after manual_seed({seed})", _NO_ORDER, draws
    if 0 <= seed < 2**32:
        draws = np.random.RandomState(seed).random_sample(size)
        yield f"numpy.random.rand(N) after seed({seed})", _NO_ORDER, draws


def shuffled(seed: int, size: int) -> Order:
    """(M,) what ``random.seed(seed); random.shuffle(list(range(size)))`` gives, in about half the time."""
    if size < LEAST_AT_ONCE:
        items = list(range(size))
        random.Random(seed).shuffle(items)
        return np.array(items, dtype=np.int64)
    return exchanged(np.array(_exchanges(seed, size)[::-1]))


@lru_cache(maxsize=400)
def _remembered(seed: int, size: int) -> Order:
    return shuffled(seed, size).astype(np.int32)


def exchanged(partner: np.ndarray) -> Order:
    """(M,) the items 0, 1, … after exchanging those at places i and ``partner[i]`` for i = M − 1, …, 1.

    ``partner[i]`` ≤ i. Place i is settled by its own exchange, with what lies at its partner just then: what the
    exchange before it with the same partner left there, which had lain at the place of that exchange, and so on.
    """
    size = len(partner)
    place = np.arange(size)
    narrow = partner.astype(np.uint16) if size <= 2**16 else partner
    order = np.argsort(narrow, kind="stable")
    group = partner[order]
    again = np.concatenate([[False], group[1:] == group[:-1]])
    # the exchange before each with the same partner, and the one that last wrote to each place before its own
    before = np.full(size, -1)
    before[order[:-1][again[1:]]] = order[1:][again[1:]]
    writer = np.full(size, -1)
    writer[group[~again]] = order[~again]
    writer = np.where(writer == place, before, writer)
    held = np.where(writer < 0, place, writer)
    while True:
        further = held[held]
        if np.array_equal(further, held):
            break
        held = further
    found = np.where(before < 0, partner, held[before])
    return np.where(partner == place, held, found)


def _exchanges(seed: int, size: int) -> list[int]:
    """What the last, the last but one, … and the first of ``size`` items are exchanged with, drawn at once.

    The words are those of the same Mersenne Twister: each exchange takes as many high bits of one as its limit
    has, and of the next where they are too large.
    """
    key = random.Random(seed).getstate()[1]
    twister = np.random.MT19937(0)
    state: Any = {"key": np.array(key[:-1], dtype=np.uint32), "pos": key[-1]}
    state = {"bit_generator": "MT19937", "state": state}
    twister.state = state
    places: list[int] = []
    words = twister.random_raw(2 * size).astype(np.int64)
    used, most = 0, size
    while most > 1:
        # the exchanges for which as many bits are drawn
        bits = most.bit_length()
        least = max(2, 1 << (bits - 1))
        needed, window = most - least + 1, 0
        taken = np.empty(0, dtype=np.int64)
        while len(taken) < needed:
            window += 3 * (needed - len(taken)) // 2 + 16
            if used + window > len(words):
                words = np.concatenate([words, twister.random_raw(size).astype(np.int64)])
            drawn = words[used : used + window] >> (32 - bits)
            taken = np.flatnonzero(_accepted(drawn, most, bits))
        taken = taken[:needed]
        places += drawn[taken].tolist()
        used += int(taken[-1]) + 1
        most = least - 1
    return [*places, 0]


def _accepted(drawn: np.ndarray, most: int, bits: int) -> np.ndarray:
    """Which of ``drawn`` lie below a limit that begins at ``most`` and falls by one with each that does."""
    # the limit falls about so; every round settles at least the first place that is still wrong
    accepted = drawn < most * np.exp(-np.arange(len(drawn)) / 2.0**bits)
    while True:
        again = drawn < most - (np.cumsum(accepted) - accepted)
        if np.array_equal(again, accepted):
            return accepted
        accepted = again


def drawn_by_count(seed: int, size: int, count: int) -> Iterator[tuple[str, Order]]:
    """(words, the items drawn) of the generators whose draw depends on how many are drawn."""
    # random.sample keeps a set of what it drew where few are drawn, and else exchanges as shuffle does
    if 21 + (4 ** math.ceil(math.log(count * 3, 4)) if count > 5 else 0) < size:
        yield (
            f"random.sample after random.seed({seed})",
            np.array(random.Random(seed).sample(range(size), count)),
        )
    if seed >= 0:
        drawn = np.random.default_rng(seed).choice(size, count, replace=False)
        yield f"default_rng({seed}).choice(N, n, replace=False)", drawn
