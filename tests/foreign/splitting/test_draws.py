"""Random orders, against the generators themselves."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.foreign.splitting.draws import LEAST_AT_ONCE, exchanged, orders, shuffled


def by_python(seed: int, size: int) -> list[int]:
    items = list(range(size))
    random.Random(seed).shuffle(items)
    return items


def exchanged_one_by_one(partner: list[int]) -> list[int]:
    items = list(range(len(partner)))
    for place in range(len(partner) - 1, 0, -1):
        other = partner[place]
        items[place], items[other] = items[other], items[place]
    return items


@pytest.mark.parametrize("size", [0, 1, 2, 17, LEAST_AT_ONCE - 1, LEAST_AT_ONCE, 4095, 4096, 4097, 12769])
@pytest.mark.parametrize("seed", [0, 1, -3, 42, 2**40])
def test_shuffles_are_pythons(seed: int, size: int) -> None:
    assert shuffled(seed, size).tolist() == by_python(seed, size)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(*[st.integers(0, place) for place in range(n)])))
@settings(max_examples=200, deadline=None)
def test_exchanges_at_once_are_those_one_by_one(partner: tuple[int, ...]) -> None:
    assert exchanged(np.array(partner)).tolist() == exchanged_one_by_one(list(partner))


def test_many_exchanges_at_once() -> None:
    generator = np.random.default_rng(0)
    partner = np.array([int(generator.integers(place + 1)) for place in range(70_000)])
    assert exchanged(partner).tolist() == exchanged_one_by_one(partner.tolist())


@pytest.mark.parametrize("size", [50, 3000])
def test_orders_are_permutations_and_repeat(size: int) -> None:
    first, again = list(orders(7, size)), list(orders(7, size))
    assert len({words for words, _, _ in first}) == len(first) == 6
    for (words, order, draws), (_, same, others) in zip(first, again, strict=True):
        if draws is not None and others is not None:
            assert draws.tolist() == others.tolist(), words
            assert len(draws) == size
            assert 0 <= draws.min() <= draws.max() < 1
        else:
            assert sorted(order.tolist()) == list(range(size)), words
            assert order.tolist() == same.tolist(), words
    assert sum(draws is not None for _, _, draws in first) == 2


def test_seeds_that_a_generator_does_not_take() -> None:
    for seed in (2**32, 2**62):
        assert all("numpy.random" not in words for words, _, _ in orders(seed, 10))


def words_of_numpy() -> list[int]:
    return np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    before = torch.get_rng_state(), random.getstate(), words_of_numpy()
    for size in (20, 3000):
        list(orders(3, size))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == words_of_numpy()
