"""Chance bands: against what is known of Gaussian matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grokscope.measures.fourier import circularity, frequency_fraction, gini, participation
from grokscope.measures.nulls import (
    band_at_norms,
    factor_norms,
    null_band,
    quantiles_of,
    random_matrix_null,
)
from grokscope.measures.spectra import singular_values, stable_rank


def concentration(embedding: Tensor) -> Tensor:
    fraction = frequency_fraction(embedding)
    return torch.stack([gini(fraction), participation(fraction), circularity(embedding)])


def test_gaussian_embedding_band() -> None:
    band = random_matrix_null((59, 128), concentration, samples=64)
    assert band.median.tolist() == pytest.approx([0.0481, 28.79, 0.134], rel=0.05)
    assert bool((band.low < band.median).all())
    assert bool((band.median < band.high).all())
    assert band.low[0].item() > 0.03
    assert band.high[0].item() < 0.07


def test_band_is_the_quantiles_of_the_draws() -> None:
    draws = iter(range(101))
    band = null_band(lambda _: torch.tensor(float(next(draws))), [(2, 2)], samples=101)
    assert [band.low.item(), band.median.item(), band.high.item()] == [5.0, 50.0, 95.0]


def test_band_takes_several_matrices_and_scales() -> None:
    band = null_band(lambda a, b: torch.linalg.matrix_norm(a @ b), [(40, 50), (50, 30)], scales=[2.0, 0.5])
    # E |AB|_F^2 = 40 * 50 * 30 for unit variances, and the scales multiply to 1.
    assert band.median.item() == pytest.approx((40 * 50 * 30) ** 0.5, rel=0.05)


def test_band_is_reproducible_and_leaves_the_global_state_alone() -> None:
    def quantity(matrix: Tensor) -> Tensor:
        return stable_rank(singular_values(matrix))

    before = torch.random.get_rng_state()
    first, again, other = (random_matrix_null((9, 12), quantity, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.median, again.median)
    assert not torch.equal(first.median, other.median)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_quantiles_are_taken_entry_by_entry() -> None:
    draws = torch.arange(101.0)[:, None] * torch.tensor([1.0, -2.0])
    assert quantiles_of(draws).tolist() == [[5.0, -190.0], [50.0, -100.0], [95.0, -10.0]]
    assert quantiles_of(draws).dtype == torch.float64


def test_factor_norms_multiply() -> None:
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0], [0.0]])
    assert factor_norms([first, second]).item() == 10.0
    assert factor_norms([torch.stack([first, 2 * first])]).tolist() == [5.0, 10.0]


@pytest.mark.parametrize("degree", [0.5, 1.0, 2.0])
def test_a_band_at_given_norms_is_that_of_factors_rescaled_to_them(degree: float) -> None:
    generator = torch.Generator().manual_seed(2)
    draws = [torch.randn(40, *shape, generator=generator, dtype=torch.float64) for shape in ((4, 5), (5, 6))]
    norms = torch.tensor([[0.1, 30.0], [2.0, 0.5], [7.0, 7.0]], dtype=torch.float64)

    def energies(first: float, second: float) -> Tensor:
        sides = [
            side * norm / torch.linalg.matrix_norm(side, keepdim=True)
            for side, norm in zip(draws, (first, second), strict=True)
        ]
        return torch.linalg.svdvals(sides[0] @ sides[1]).pow(degree).sum(-1)

    expected = torch.stack([quantiles_of(energies(*pair)) for pair in norms.tolist()])
    found = band_at_norms(energies(1.0, 1.0), degree, norms.prod(-1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_save_without_norms_has_no_band() -> None:
    band = band_at_norms(torch.arange(3.0), 1.0, torch.tensor([torch.nan, torch.inf, 2.0]))
    assert band.isfinite().all(-1).tolist() == [False, False, True]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="0 shapes"):
        null_band(torch.sum, [])
    with pytest.raises(ValueError, match="1 samples"):
        null_band(torch.sum, [(2, 2)], samples=1)
    with pytest.raises(ValueError, match="one per shape"):
        null_band(torch.sum, [(2, 2)], scales=[1.0, 2.0])
