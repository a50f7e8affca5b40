import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.gate_patterns import (
    active_fraction,
    count_patterns,
    dead_neurons,
    flipped_share,
    frozen_samples,
    frozen_since,
    pattern_changed,
    pattern_ids,
)


def _gates(seed: int, n: int, *widths: int, share: float = 0.5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(n, width, generator=generator) < share for width in widths)


def test_patterns_are_numbered_by_first_appearance() -> None:
    first = torch.tensor([[True, False], [False, False], [True, False], [True, False]])
    second = torch.tensor([[False], [False], [True], [False]])
    assert pattern_ids((first,)).tolist() == [0, 1, 0, 0]
    assert pattern_ids((first, second)).tolist() == [0, 1, 2, 0]
    assert count_patterns((first, second)) == 3
    assert count_patterns((torch.zeros(0, 2, dtype=torch.bool),)) == 0


@given(
    seed=st.integers(0, 2**20),
    n=st.integers(1, 40),
    widths=st.lists(st.sampled_from([1, 2, 3, 61, 62, 63, 124, 125]), min_size=1, max_size=3),
    share=st.sampled_from([0.01, 0.5, 0.99]),
)
@settings(max_examples=50, deadline=None)
def test_patterns_are_grouped_exactly(seed: int, n: int, widths: list[int], share: float) -> None:
    pattern = _gates(seed, n, *widths, share=share)
    rows = [tuple(row) for row in torch.cat(pattern, dim=1).tolist()]
    seen: dict[tuple[bool, ...], int] = {}
    expected = [seen.setdefault(row, len(seen)) for row in rows]
    assert pattern_ids(pattern).tolist() == expected
    assert count_patterns(pattern) == len(seen)


def test_patterns_that_differ_in_one_bit_anywhere_are_told_apart() -> None:
    width = 130
    pattern = torch.cat([torch.zeros(1, width, dtype=torch.bool), torch.eye(width, dtype=torch.bool)])
    assert count_patterns((pattern,)) == width + 1
    assert count_patterns((~pattern,)) == width + 1


def test_changes_between_two_saves_by_hand() -> None:
    before = (torch.tensor([[True, False], [True, True], [False, False]]), torch.tensor([[True]] * 3))
    after = (
        torch.tensor([[True, False], [False, False], [False, False]]),
        torch.tensor([[True], [True], [False]]),
    )
    assert pattern_changed(before, after).tolist() == [False, True, True]
    assert flipped_share(before, after) == pytest.approx(3 / 9)
    assert frozen_samples(before, after) == pytest.approx(1 / 3)
    assert flipped_share(before, before) == 0
    assert frozen_samples(before, before) == 1


def test_open_and_dead_gates_by_hand() -> None:
    pattern = (
        torch.tensor([[True, False], [True, False]]),
        torch.tensor([[False, False, True], [False, False, False]]),
    )
    assert active_fraction(pattern) == pytest.approx(3 / 10)
    assert dead_neurons(pattern) == 3


def test_frozen_since_by_hand() -> None:
    changed = torch.zeros(5, 100, dtype=torch.bool)
    changed[1] = True
    changed[3, 0] = True
    assert frozen_since(changed) == 1  # one sample in a hundred may still move
    changed[3, 1] = True
    assert frozen_since(changed) == 3
    assert frozen_since(changed, share=0.98) == 1
    changed[4, 2:4] = True
    assert frozen_since(changed) is None


def test_frozen_since_the_first_save_when_nothing_moves() -> None:
    changed = torch.zeros(4, 3, dtype=torch.bool)
    changed[0] = True  # no predecessor
    assert frozen_since(changed) == 0
    assert frozen_since(changed[:1]) is None  # the first save is also the last: nothing was seen to hold


@given(seed=st.integers(0, 2**20), n=st.integers(1, 30), share=st.sampled_from([0.5, 0.9, 0.99, 1.0]))
@settings(max_examples=40, deadline=None)
def test_frozen_since_against_the_definition(seed: int, n: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_saves = 6
    patterns = (torch.rand(n_saves, n, generator=generator) < 0.2).cumsum(dim=0) // 2
    changed = torch.cat([torch.zeros(1, n, dtype=torch.bool), patterns[1:] != patterns[:-1]])
    holds = [
        sum(bool((patterns[t:, i] == patterns[-1, i]).all()) for i in range(n)) >= share * n - 1e-9
        for t in range(n_saves)
    ]
    expected = holds.index(True)
    assert frozen_since(changed, share) == (None if expected == n_saves - 1 else expected)


def test_gates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="pattern_ids"):
        pattern_ids(())
    with pytest.raises(ValueError, match="pattern_ids"):
        pattern_ids((torch.zeros(2, 3),))
    with pytest.raises(ValueError, match="same N"):
        active_fraction(_gates(0, 3, 2) + _gates(0, 4, 2))
    with pytest.raises(ValueError, match="equal shapes"):
        flipped_share(_gates(0, 3, 2), _gates(0, 3, 4))
    with pytest.raises(ValueError, match="no \\(sample, gate\\) entry"):
        flipped_share(_gates(0, 0, 2), _gates(0, 0, 2))
    with pytest.raises(ValueError, match="0 samples"):
        frozen_samples(_gates(0, 0, 2), _gates(0, 0, 2))
    with pytest.raises(ValueError, match="0 samples"):
        dead_neurons(_gates(0, 0, 2))
    with pytest.raises(ValueError, match="frozen_since"):
        frozen_since(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="share"):
        frozen_since(torch.zeros(3, 2, dtype=torch.bool), share=0.0)
