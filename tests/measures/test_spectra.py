"""Spectra: ranks and norms known in closed form, balance, and what rotations must not change."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.spectra import (
    above_tolerance,
    balance_gap,
    effective_rank,
    entropy_rank,
    factored_singular_values,
    frobenius,
    imbalances,
    map_summary,
    numerical_rank,
    participation_rank,
    schatten_power,
    second_moment_scales,
    singular_values,
    spectral,
    spectrum_summary,
    stable_rank,
)

QUICK = settings(max_examples=25, deadline=None)
DOUBLE = torch.float64


def assert_close(actual: Tensor, expected: object, atol: float = 1e-12, rtol: float = 0.0) -> None:
    wanted = torch.as_tensor(expected, dtype=DOUBLE)
    torch.testing.assert_close(actual.to(DOUBLE), wanted.expand_as(actual), rtol=rtol, atol=atol)


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def rotation(seed: int, n: int) -> Tensor:
    return torch.linalg.qr(gaussian(seed, n, n)).Q


# Closed forms.


def test_two_one_one() -> None:
    matrix = rotation(1, 5)[:, :3] @ torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=DOUBLE)) @ rotation(2, 3)
    summary = map_summary(matrix, depth=3)
    assert_close(summary["singular_values"], [2, 1, 1])
    assert_close(summary["stable_rank"], 1.5)
    assert_close(summary["participation"], 2.0)
    assert_close(summary["entropy_rank"], 2.381102, atol=5e-7)
    assert_close(summary["effective_rank"], 2 * math.sqrt(2))
    assert summary["numerical_rank"].item() == 3
    assert_close(summary["schatten_half"], 3.414214, atol=5e-7)
    assert_close(summary["schatten_two_over_depth"], 3.587401, atol=5e-7)
    assert_close(summary["nuclear"], 4.0)
    assert_close(summary["frobenius"], math.sqrt(6))
    assert_close(summary["spectral"], 2.0)


def test_summary_names() -> None:
    names = {
        "singular_values", "stable_rank", "effective_rank", "entropy_rank", "participation", "numerical_rank",
        "schatten_half", "nuclear", "frobenius", "spectral",
    }  # fmt: skip
    assert set(map_summary(torch.eye(3))) == names
    assert set(map_summary(torch.eye(3), depth=2)) == names | {"schatten_two_over_depth"}
    with pytest.raises(ValueError, match="depth 0"):
        map_summary(torch.eye(3), depth=0)


def test_all_ranks_of_an_isometry_are_its_rank() -> None:
    summary = map_summary(torch.eye(7)[:, :4])
    for name in ("stable_rank", "participation", "entropy_rank", "effective_rank", "numerical_rank"):
        assert_close(summary[name], 4.0)


def test_numerical_rank_knows_the_stored_dtype() -> None:
    sigma = torch.tensor([[1.0, 1e-3, 1e-8], [1.0, 1e-14, 0.0]], dtype=DOUBLE)
    assert numerical_rank(sigma, (59, 59), torch.float32).tolist() == [2, 1]
    assert numerical_rank(sigma, (59, 59), torch.float64).tolist() == [3, 1]
    assert numerical_rank(sigma, (3, 3), torch.float64).tolist() == [3, 2]
    assert numerical_rank(sigma, (59, 59), torch.bfloat16).tolist() == [1, 1]
    with pytest.raises(ValueError, match="floating dtype"):
        numerical_rank(sigma, (3, 3), torch.int64)


def test_schatten_powers_leave_out_rounding() -> None:
    sigma = torch.tensor([4.0, 1.0, 1e-9], dtype=DOUBLE)
    assert_close(schatten_power(sigma, 0.5, (59, 59), torch.float32), 3.0)
    assert_close(schatten_power(sigma, 0.5, (59, 59), torch.float64), 3.0 + math.sqrt(1e-9))
    with pytest.raises(ValueError, match="exponent 0"):
        schatten_power(sigma, 0, (3, 3), torch.float32)


def test_gram_matrix_is_not_good_enough_for_a_rank_deficient_map() -> None:
    left, right = gaussian(1, 59, 32).float(), gaussian(2, 32, 59).float()
    matrix = left.double() @ right.double()
    # The truth: a 32 x 32 core of full rank, by orthonormal bases of the two sides.
    left_r = np.linalg.qr(left.double().numpy())[1]
    right_r = np.linalg.qr(right.double().numpy().T)[1]
    truth = torch.from_numpy(np.linalg.svd(left_r @ right_r.T, compute_uv=False))
    sigma = singular_values(matrix)
    gram = torch.linalg.eigvalsh(matrix.T @ matrix).clamp(min=0).flip(-1).sqrt()

    assert_close(effective_rank(sigma) / effective_rank(truth), 1.0, atol=1e-11)
    assert abs(effective_rank(gram) / effective_rank(truth) - 1).item() > 1e-8
    half = truth.sqrt().sum()
    assert_close(schatten_power(sigma, 0.5, (59, 59), torch.float32) / half, 1.0)
    assert abs(gram.sqrt().sum() / half - 1).item() > 1e-5
    assert numerical_rank(sigma, (59, 59), torch.float32).item() == 32
    assert numerical_rank(sigma, (59, 59), torch.float64).item() == 32
    assert numerical_rank(gram, (59, 59), torch.float64).item() > 32
    for rank in (stable_rank, entropy_rank, participation_rank):
        assert_close(rank(gram) / rank(truth), 1.0, atol=1e-9)
    assert_close(factored_singular_values([left, right]) / truth, 1.0, atol=1e-10)


def test_zero_maps_have_no_rank_but_a_norm() -> None:
    batch = torch.stack([torch.eye(3), torch.zeros(3, 3)])
    sigma = singular_values(batch)
    for rank in (stable_rank, effective_rank, entropy_rank, participation_rank):
        with pytest.raises(ValueError, match="fails for 1 of 2"):
            rank(sigma)
    with pytest.raises(ValueError, match="zero map"):
        map_summary(batch)
    assert_close(frobenius(sigma), [math.sqrt(3), 0])
    assert_close(spectral(sigma), [1, 0])
    assert_close(schatten_power(sigma, 0.5, (3, 3), torch.float32), [3, 0])


def test_bad_maps_are_named() -> None:
    with pytest.raises(ValueError, match="non-finite"):
        singular_values(torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match="expected real"):
        singular_values(torch.ones(3))
    with pytest.raises(ValueError, match="nonnegative"):
        stable_rank(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="widths that chain"):
        factored_singular_values([torch.ones(2, 3), torch.ones(2, 3)])
    with pytest.raises(ValueError, match="no matrix"):
        balance_gap([])


# A second opinion.


def test_ranks_agree_with_loops() -> None:
    matrix = gaussian(4, 3, 6, 9)
    summary = map_summary(matrix, depth=4)
    for step in range(3):
        sigma = np.linalg.svd(matrix[step].numpy(), compute_uv=False).tolist()
        energy = sum(s**2 for s in sigma)
        expected = {
            "stable_rank": energy / sigma[0] ** 2,
            "effective_rank": math.exp(-sum(s / sum(sigma) * math.log(s / sum(sigma)) for s in sigma)),
            "entropy_rank": math.exp(-sum(s**2 / energy * math.log(s**2 / energy) for s in sigma)),
            "participation": energy**2 / sum(s**4 for s in sigma),
            "numerical_rank": 6,
            "schatten_half": sum(s**0.5 for s in sigma),
            "schatten_two_over_depth": sum(s**0.5 for s in sigma),
            "nuclear": sum(sigma),
            "frobenius": math.sqrt(float((matrix[step] ** 2).sum())),
            "spectral": sigma[0],
        }
        for name, value in expected.items():
            assert summary[name][step].item() == pytest.approx(value, rel=1e-11), name


@pytest.mark.parametrize(
    "widths",
    [(59, 16, 4, 16, 59), (20, 30, 25), (12, 5, 9), (9, 12), (6, 3, 8, 2, 7), (4, 9, 9, 30), (30, 9, 4)],
)
def test_factored_values_equal_those_of_the_product(widths: tuple[int, ...]) -> None:
    factors = [gaussian(i, 2, widths[i], widths[i + 1]) for i in range(len(widths) - 1)]
    product = factors[0]
    for factor in factors[1:]:
        product = product @ factor
    sigma = factored_singular_values(factors)
    r = min(widths)
    reference = torch.linalg.svdvals(product)
    assert sigma.shape == (2, r)
    assert_close(sigma / reference[:, :r], 1.0, atol=1e-10)
    assert_close(reference[:, r:] / reference[:, :1], 0.0, atol=1e-13)
    shape = (widths[0], widths[-1])
    whole = spectrum_summary(reference, shape, torch.float32)
    for name, value in spectrum_summary(sigma, shape, torch.float32).items():
        if name != "singular_values":
            assert_close(value, whole[name], atol=0, rtol=1e-9)


def test_factored_values_broadcast_over_steps() -> None:
    shared, stepped = gaussian(1, 8, 3), gaussian(2, 4, 3, 9)
    assert_close(
        factored_singular_values([shared, stepped]), torch.linalg.svdvals(shared @ stepped)[:, :3], atol=1e-11
    )


def test_scales_of_a_second_moment() -> None:
    maps = gaussian(3, 2, 50, 6, 4)
    stacked = maps.reshape(2, 300, 4) / math.sqrt(50)
    moment = maps.mT.matmul(maps).mean(1)
    assert_close(second_moment_scales(moment), torch.linalg.svdvals(stacked), atol=1e-9)
    deficient = gaussian(4, 6, 2)
    scales = second_moment_scales(deficient @ deficient.T)
    assert_close(scales[:2], torch.linalg.svdvals(deficient), atol=1e-9)
    assert scales[2:].tolist() == [0.0] * 4
    assert second_moment_scales(torch.zeros(3, 3)).tolist() == [0.0] * 3
    for bad in (-torch.eye(3), torch.triu(torch.ones(3, 3))):
        with pytest.raises(ValueError, match="not symmetric positive semidefinite"):
            second_moment_scales(bad)


# Balance.


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_balanced_factors_have_no_gap(depth: int) -> None:
    sigma = torch.tensor([3.0, 1.0, 0.2], dtype=DOUBLE)
    frames = [rotation(i, 6)[:, :3] for i in range(depth + 1)]
    layers = [frames[i + 1] @ torch.diag(sigma.pow(1 / depth)) @ frames[i].T for i in range(depth)]
    assert_close(balance_gap(layers), 0.0, atol=1e-10)
    for difference in imbalances(layers):
        assert_close(difference, 0.0)


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_gap_of_scaled_balanced_pair(t: float) -> None:
    sigma = torch.tensor([3.0, 1.0, 0.2], dtype=DOUBLE)
    root = torch.diag(sigma.sqrt())
    lower, upper = root @ rotation(1, 7)[:3], rotation(2, 5)[:, :3] @ root
    assert_close(balance_gap([t * lower, upper / t]), (t - 1 / t) ** 2 * sigma.sum(), atol=1e-11)


@QUICK
@given(
    seed=st.integers(0, 999),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    scale=st.floats(0.1, 10),
)
def test_gap_is_nonnegative_and_invariant(seed: int, widths: list[int], scale: float) -> None:
    layers = [gaussian(seed + i, widths[i + 1], widths[i]) for i in range(len(widths) - 1)]
    gap = balance_gap(layers)
    energy = sum(float(layer.square().sum()) for layer in layers)
    assert gap.item() >= -1e-10 * energy
    assert balance_gap([scale * layer for layer in layers]).item() == pytest.approx(
        scale**2 * gap.item(), abs=1e-9 * scale**2 * energy
    )
    frames = [rotation(seed + 50 + i, width) for i, width in enumerate(widths)]
    turned = [frames[i + 1] @ layer @ frames[i].T for i, layer in enumerate(layers)]
    assert_close(balance_gap(turned), gap, atol=1e-9 * energy)
    assert balance_gap([layer.expand(3, *layer.shape) for layer in layers]).shape == (3,)


def test_linear_flow_with_decay_forgets_imbalance_exponentially() -> None:
    """Runge-Kutta on dW/dt = -dL/dW - decay W for L = |W2 W1 - A|^2 / 2."""
    decay, end, steps = 0.3, 1.0, 400
    target, lower, upper = gaussian(1, 3, 4), gaussian(2, 5, 4), gaussian(3, 3, 5)

    def velocity(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
        residual = w2 @ w1 - target
        return -w2.T @ residual - decay * w1, -residual @ w1.T - decay * w2

    start = imbalances([lower, upper])[0]
    dt = end / steps
    for _ in range(steps):
        a1, a2 = velocity(lower, upper)
        b1, b2 = velocity(lower + dt / 2 * a1, upper + dt / 2 * a2)
        c1, c2 = velocity(lower + dt / 2 * b1, upper + dt / 2 * b2)
        d1, d2 = velocity(lower + dt * c1, upper + dt * c2)
        lower = lower + dt / 6 * (a1 + 2 * b1 + 2 * c1 + d1)
        upper = upper + dt / 6 * (a2 + 2 * b2 + 2 * c2 + d2)
    assert_close(imbalances([lower, upper])[0], math.exp(-2 * decay * end) * start, atol=1e-7)


# Invariances.


@QUICK
@given(seed=st.integers(0, 999), m=st.integers(1, 7), n=st.integers(1, 7), scale=st.floats(1e-3, 1e3))
def test_spectra_ignore_rotations_and_ranks_ignore_scale(seed: int, m: int, n: int, scale: float) -> None:
    matrix = gaussian(seed, m, n)
    plain = map_summary(matrix, depth=3)
    turned = map_summary(rotation(seed + 1, m) @ matrix @ rotation(seed + 2, n), depth=3)
    scaled = map_summary(scale * matrix.T, depth=3)
    powers = {"schatten_half": 0.5, "schatten_two_over_depth": 2 / 3}
    lengths = {"nuclear", "frobenius", "spectral", "singular_values"}
    for name, value in plain.items():
        assert_close(turned[name], value, atol=1e-7)
        factor = scale ** powers.get(name, 1.0 if name in lengths else 0.0)
        assert_close(scaled[name] / factor, value, atol=1e-7)


@QUICK
@given(sigma=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_ranks_are_ordered(sigma: list[float]) -> None:
    values = torch.tensor(sorted(sigma, reverse=True), dtype=DOUBLE)
    ranks = [rank(values).item() for rank in (stable_rank, participation_rank, entropy_rank, effective_rank)]
    ranks.append(numerical_rank(values, (len(sigma), len(sigma)), torch.float64).item())
    ranks = [1.0, *ranks, float(len(sigma))]
    assert all(low <= high * (1 + 1e-9) for low, high in pairwise(ranks))


RANKS = ("stable_rank", "participation", "entropy_rank", "effective_rank", "numerical_rank")


def test_rounding_of_stored_weights_is_in_no_rank_and_no_norm() -> None:
    sigma = torch.tensor([[2.0, 2e-9, 0.0], [2.0, 1e-3, 2e-9]], dtype=DOUBLE)
    matrix = rotation(3, 6)[:, :3] @ torch.diag_embed(sigma) @ rotation(4, 3)
    stored = map_summary(matrix, dtype=torch.float32, depth=2)
    for name in RANKS:
        assert stored[name][0].item() == 1.0, name
    for name in ("frobenius", "spectral", "nuclear", "schatten_two_over_depth"):
        assert stored[name][0].item() == pytest.approx(2.0, abs=1e-12), name
    assert stored["numerical_rank"].tolist() == [1, 2]
    assert_close(stored["frobenius"][1], math.hypot(2, 1e-3))
    assert_close(stored["singular_values"], sigma, atol=1e-14)
    # in float64 the same value is a second direction, and counts in all of them
    double = map_summary(matrix, dtype=DOUBLE)
    assert double["numerical_rank"][0].item() == 2
    assert double["effective_rank"][0].item() > 1 + 1e-9
    assert_close(double["nuclear"][0], 2 + 2e-9)


def test_values_below_the_tolerance_are_set_to_zero() -> None:
    sigma = torch.tensor([[1.0, 1e-3, 1e-8], [1e-300, 1e-307, 1e-311], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    kept = above_tolerance(sigma, (59, 59), torch.float32)
    assert kept.tolist() == [[1.0, 1e-3, 0.0], [1e-300, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert above_tolerance(sigma, (59, 59), DOUBLE).tolist() == [
        [1.0, 1e-3, 1e-8], [1e-300, 1e-307, 1e-311], [0.0] * 3
    ]  # fmt: skip
    assert (kept[:2] > 0).sum(-1).tolist() == numerical_rank(sigma[:2], (59, 59), torch.float32).tolist()


@QUICK
@given(
    seed=st.integers(0, 999), m=st.integers(2, 9), n=st.integers(2, 9), rank=st.integers(1, 3),
    scale=st.sampled_from([1e-6, 1.0, 1e6]), spread=st.floats(0, 12),
)  # fmt: skip
def test_ranks_of_stored_products_are_ordered(
    seed: int, m: int, n: int, rank: int, scale: float, spread: float
) -> None:
    """A product rounded to float32 is of full rank by its last digits; no rank may see them."""
    weights = torch.logspace(0, -spread, rank, dtype=DOUBLE)
    product = scale * (gaussian(seed, m, rank) * weights) @ gaussian(seed + 1, rank, n)
    summary = map_summary(product.to(torch.float32))
    ranks = [1.0, *(summary[name].item() for name in RANKS), float(min(m, n))]
    assert all(low <= high + 1e-9 for low, high in pairwise(ranks))
    assert ranks[-2] <= min(rank, m, n)


def test_tiny_and_huge_maps_keep_their_ranks() -> None:
    for scale in (1e-200, 1e200):
        assert_close(stable_rank(scale * torch.tensor([2.0, 1.0, 1.0], dtype=DOUBLE)), 1.5)
        assert_close(participation_rank(scale * torch.tensor([2.0, 1.0, 1.0], dtype=DOUBLE)), 2.0)
