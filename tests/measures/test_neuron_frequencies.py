"""The frequency of a neuron: values known in closed form, numpy's transform, and sums against the transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.neuron_frequencies import (
    NeuronFrequencies,
    frequencies_of_rows,
    joined,
    mean_explained,
    neuron_frequencies,
    neuron_shares,
)

QUICK = settings(max_examples=25, deadline=None)


def assert_close(actual: Tensor, expected: object, atol: float = 1e-12) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.to(torch.float64), wanted, rtol=0, atol=atol)


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def neuron_grid(n: int, k: int, phase_a: float, phase_b: float) -> Tensor:
    w = 2 * math.pi * k * torch.arange(n, dtype=torch.float64) / n
    return torch.cos(w + phase_a)[:, None] + torch.cos(w + phase_b)[None, :]


@pytest.mark.parametrize("n", [11, 12])
def test_every_frequency_can_be_found_the_last_among_them(n: int) -> None:
    ks = list(range(1, n // 2 + 1))
    grids = torch.stack([neuron_grid(n, k, 0.3 * k, -0.2) + 7.0 for k in ks], dim=-1)
    found = neuron_frequencies(grids)
    assert found.frequency.tolist() == ks
    assert_close(found.explained, torch.ones(len(ks)))
    assert_close(neuron_shares(found, n), [1 / len(ks)] * len(ks))
    assert_close(mean_explained(found), 1.0)


def test_explained_share_of_a_square_is_known() -> None:
    # (cos x + cos y)^2 = 1 + cos 2x / 2 + cos 2y / 2 + 2 cos x cos y: variances 1/8, 1/8 at 2k, 1 at k.
    n, k = 11, 2
    found = neuron_frequencies(neuron_grid(n, k, 0.1, 0.4).square()[..., None])
    assert found.frequency.tolist() == [k]
    assert_close(found.explained, [0.8])


def test_neurons_without_variance_are_dropped() -> None:
    grids = torch.stack([neuron_grid(7, 3, 0.0, 0.0), torch.full((7, 7), 0.1), torch.zeros(7, 7)], dim=-1)
    found = neuron_frequencies(grids)
    assert found.frequency.tolist() == [3, -1, -1]
    assert found.varies.tolist() == [True, False, False]
    assert_close(neuron_shares(found, 7), [0, 0, 1])
    assert_close(mean_explained(found), 1.0)
    silent = neuron_frequencies(torch.ones(2, 7, 7, 4))
    with pytest.raises(ValueError, match="fails for 2 of 2"):
        mean_explained(silent)
    with pytest.raises(ValueError, match="no neuron has a frequency"):
        neuron_shares(silent, 7)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., n, n, neurons\)"):
        neuron_frequencies(torch.ones(7, 6, 4))


def test_a_neuron_of_one_pair_has_no_frequency_but_counts_in_what_is_explained() -> None:
    n = 7
    single = torch.zeros(n, n)
    single[2, 5] = 3.0
    two_equal = neuron_grid(n, 1, 0.2, 0.4) + neuron_grid(n, 3, 0.1, 0.3)
    found = neuron_frequencies(torch.stack([single, neuron_grid(n, 2, 0.0, 0.0), two_equal], dim=-1))
    assert found.frequency.tolist() == [-1, 2, -1]
    assert found.varies.tolist() == [True] * 3
    # 8 of the 48 functions that vary belong to each of the three frequencies, and all hold as much
    assert_close(found.explained, [1 / 6, 1.0, 0.5])
    assert_close(mean_explained(found), (1 / 6 + 1.0 + 0.5) / 3)
    assert_close(neuron_shares(found, n), [0, 1, 0])
    alone = neuron_frequencies(single[..., None])
    assert_close(mean_explained(alone), 1 / 6)
    with pytest.raises(ValueError, match="no neuron has a frequency"):
        neuron_shares(alone, n)


@pytest.mark.parametrize(("excess", "expected"), [(3e-9, 1), (3e-10, -1), (-3e-9, 3)])
def test_ties_are_broken_by_a_billionth_of_the_variance(excess: float, expected: int) -> None:
    n = 7
    grid = math.sqrt(1 + excess) * neuron_grid(n, 1, 0.2, 0.4) + neuron_grid(n, 3, 0.1, 0.3)
    assert neuron_frequencies(grid[..., None]).frequency.tolist() == [expected]


def slow_neuron_frequency(grid: np.ndarray) -> tuple[int, float]:
    """From numpy's transform: the block holds (k, 0), (0, k), (k, k), (k, -k) and their mirror images."""
    n = len(grid)
    power = np.abs(np.fft.fft2(grid - grid.mean())) ** 2
    energy = []
    for k in range(1, n // 2 + 1):
        cells = {(i % n, j % n) for i in (0, k, -k) for j in (0, k, -k)} - {(0, 0)}
        energy.append(sum(power[cell] for cell in cells))
    best = int(np.argmax(energy))
    return best + 1, energy[best] / power.sum()


@pytest.mark.parametrize("n", [2, 7, 10])
def test_neuron_frequencies_agree_with_numpy(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A block of a few neurons makes the walk through blocks part of the test.
    monkeypatch.setattr("grokscope.measures.neuron_frequencies._BLOCK_ENTRIES", 3 * n * n)
    grids = gaussian(n, 2, n, n, 7).exp()
    found = neuron_frequencies(grids)
    for step in range(2):
        for neuron in range(7):
            frequency, share = slow_neuron_frequency(grids[step, :, :, neuron].numpy())
            assert found.frequency[step, neuron].item() == frequency
            assert_close(found.explained[step, neuron], share)


@QUICK
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_neuron_frequencies_follow_their_neurons(seed: int, scale: float) -> None:
    grids = gaussian(seed, 7, 7, 5)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    plain, changed = neuron_frequencies(grids), neuron_frequencies(scale * grids[..., order] - 3.0)
    assert torch.equal(changed.frequency, plain.frequency[order])
    assert_close(changed.explained, plain.explained[order], atol=1e-7)


# Sums of pairs against the transform in both operands.


def by_rows(grid: Tensor) -> NeuronFrequencies:
    return frequencies_of_rows(lambda a: grid[a].clone(), len(grid))


def assert_same(found: NeuronFrequencies, expected: NeuronFrequencies, atol: float = 1e-12) -> None:
    assert torch.equal(found.frequency, expected.frequency)
    assert torch.equal(found.varies, expected.varies)
    assert_close(found.explained, expected.explained, atol)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 10, 22, 23])
def test_sums_of_pairs_are_the_transform(n: int) -> None:
    for grid in (gaussian(n, n, n, 9).exp(), gaussian(n + 1, n, n, 9).relu() - 0.3):
        assert_same(by_rows(grid), neuron_frequencies(grid))


@pytest.mark.parametrize("n", [11, 12])
def test_sums_of_pairs_find_every_frequency_and_the_silent(n: int) -> None:
    ks = list(range(1, n // 2 + 1))
    single = torch.zeros(n, n, dtype=torch.float64)
    single[2, 5] = 3.0
    others = [
        torch.full((n, n), 0.1),
        torch.zeros(n, n),
        single,
        neuron_grid(n, 1, 0, 0) + neuron_grid(n, 2, 1, 0),
    ]
    grid = torch.stack([*(neuron_grid(n, k, 0.3 * k, -0.2) + 7.0 for k in ks), *others], dim=-1)
    found = by_rows(grid)
    # on an even axis the last frequency has three functions where the others have eight, so nothing is tied
    assert found.frequency.tolist()[: len(ks) + 2] == [*ks, -1, -1]
    assert found.varies.tolist() == [True] * len(ks) + [False, False, True, True]
    assert_same(found, neuron_frequencies(grid))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_a_small_variation_beside_a_large_constant_is_seen(scale: float) -> None:
    grid = torch.stack([1.0 + 1e-7 * neuron_grid(7, k, 0.1, 0.2) for k in (1, 2, 3)], dim=-1) * scale
    found = by_rows(grid)
    assert found.frequency.tolist() == [1, 2, 3]
    assert_close(found.explained, torch.ones(3), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e200])
def test_rows_of_extreme_size_take_the_plain_way(scale: float) -> None:
    grid = scale * gaussian(0, 7, 7, 5)
    assert_same(by_rows(grid), neuron_frequencies(grid))


def test_groups_of_neurons_are_joined_in_order() -> None:
    grid = gaussian(3, 7, 7, 9).relu()
    assert_same(joined([by_rows(grid[..., :4].clone()), by_rows(grid[..., 4:].clone())]), by_rows(grid))


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected float64"):
        frequencies_of_rows(lambda a: torch.ones(7, 3), 7)
    with pytest.raises(ValueError, match="expected float64"):
        frequencies_of_rows(lambda a: torch.ones(6, 3, dtype=torch.float64), 7)
    with pytest.raises(ValueError, match="non-finite"):
        frequencies_of_rows(lambda a: torch.full((7, 3), math.nan if a == 3 else 1.0, dtype=torch.float64), 7)


@QUICK
@given(seed=st.integers(0, 999), n=st.integers(2, 13), shift=st.integers(0, 12))
def test_rows_may_start_at_any_residue(seed: int, n: int, shift: int) -> None:
    grid = gaussian(seed, n, n, 4).relu()
    turned = torch.roll(grid, (shift, 2 * shift), (0, 1))
    found, expected = by_rows(turned), by_rows(grid)
    assert torch.equal(found.varies, expected.varies)
    assert_close(found.explained, expected.explained, atol=1e-9)
