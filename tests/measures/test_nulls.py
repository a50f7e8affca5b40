"""Chance bands: against what is known of Gaussian matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grokscope.measures.fourier import circularity, frequency_fraction, gini, participation
from grokscope.measures.nulls import null_band, random_matrix_null
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


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="0 shapes"):
        null_band(torch.sum, [])
    with pytest.raises(ValueError, match="1 samples"):
        null_band(torch.sum, [(2, 2)], samples=1)
    with pytest.raises(ValueError, match="one per shape"):
        null_band(torch.sum, [(2, 2)], scales=[1.0, 2.0])
