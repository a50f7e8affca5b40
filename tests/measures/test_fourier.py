"""Fourier measures: values known in closed form, a slow second opinion, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.fourier import (
    circularity,
    column_power,
    complex_inverse_participation,
    discrete_log_order,
    frequency_fraction,
    frequency_power,
    gini,
    inverse_participation,
    key_frequencies_by_embedding,
    participation,
    square_frequency_power,
)

QUICK = settings(max_examples=25, deadline=None)


def assert_close(actual: Tensor, expected: object, atol: float = 1e-12) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.to(torch.float64), wanted, rtol=0, atol=atol)


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circles(n: int, amplitudes: dict[int, float]) -> Tensor:
    """One plane per frequency: (n, 2 * number of circles)."""
    a = torch.arange(n, dtype=torch.float64)
    columns = []
    for k, amplitude in amplitudes.items():
        angle = 2 * math.pi * k * a / n
        columns += [amplitude * torch.cos(angle), amplitude * torch.sin(angle)]
    return torch.stack(columns, dim=1)


def slow_power(matrix: np.ndarray) -> np.ndarray:
    """The same powers from numpy's rfft, halved where the frequency n/2 is its own mirror image."""
    n = len(matrix)
    power = (np.abs(np.fft.rfft(matrix, axis=0)) ** 2).sum(1) * 2.0 / n
    if n % 2 == 0:
        power[n // 2] /= 2.0
    return power[1:]


# Power and its concentration: closed forms.


def test_one_circle() -> None:
    fraction = frequency_fraction(circles(59, {5: 3.0}))
    assert fraction.argmax().item() == 4
    assert_close(gini(fraction), 0.9655172413793104)
    assert_close(gini(fraction), 1 - 1 / 29)
    assert_close(gini(fraction.sqrt()), 1 - 1 / 29, atol=1e-6)
    assert_close(participation(fraction), 1.0)
    assert_close(frequency_power(circles(59, {5: 3.0}))[4], 9 * 59)


def test_two_equal_circles() -> None:
    fraction = frequency_fraction(circles(59, {5: 1.0, 11: 1.0}))
    assert_close(gini(fraction), 1 - 2 / 29)
    assert_close(participation(fraction), 2.0)


def test_gini_of_norms_differs_from_gini_of_powers() -> None:
    fraction = torch.tensor([1.0, 4.0, 9.0, 16.0], dtype=torch.float64)
    assert_close(gini(fraction), 2 * (1 + 8 + 27 + 64) / (4 * 30) - 5 / 4)
    assert_close(gini(fraction.sqrt()), 0.25)


def test_flat_power() -> None:
    fraction = frequency_fraction(torch.eye(13, dtype=torch.float64))
    assert_close(fraction, [1 / 6] * 6)
    assert_close(gini(fraction), 0.0)
    assert_close(participation(fraction), 6.0)


def test_even_axis_holds_its_last_frequency_once() -> None:
    # The identity gives every function power 1, so two per frequency and one for n/2.
    assert_close(frequency_power(torch.eye(12, dtype=torch.float64)), [2.0] * 5 + [1.0])
    alternating = (1.0 - 2.0 * (torch.arange(12, dtype=torch.float64) % 2))[:, None]
    assert_close(frequency_fraction(alternating), [0.0] * 5 + [1.0])


def test_gaussian_embedding() -> None:
    d, count = 128, 29
    fraction = frequency_fraction(gaussian(0, 200, 59, d))
    expected = (count - 1) / count * math.exp(math.lgamma(d + 0.5) - math.lgamma(d + 1)) / math.sqrt(math.pi)
    assert expected == pytest.approx(0.0481, abs=5e-5)
    assert gini(fraction).mean().item() == pytest.approx(expected, abs=1.5e-3)
    assert participation(fraction).mean().item() == pytest.approx(28.79, abs=0.02)
    assert circularity(gaussian(0, 60, 59, d)).mean().item() == pytest.approx(0.134, abs=0.004)


@pytest.mark.parametrize("n", [2, 3, 7, 12, 22, 59])
def test_power_agrees_with_numpy(n: int) -> None:
    matrix = gaussian(n, 3, n, 5)
    expected = np.stack([slow_power(step) for step in matrix.numpy()])
    assert_close(frequency_power(matrix), expected, atol=1e-11)
    assert_close(column_power(matrix).sum(-1), expected, atol=1e-11)
    assert_close(frequency_fraction(matrix), expected / expected.sum(1, keepdims=True))


def test_gini_agrees_with_mean_absolute_difference() -> None:
    values = gaussian(3, 17).abs()
    pairs = (values[:, None] - values[None, :]).abs().sum()
    assert_close(gini(values), pairs / (2 * 17 * values.sum()))


def test_multiplication_is_seen_on_the_logarithmic_axis() -> None:
    p = 23
    order = discrete_log_order(p)
    by_residue = torch.zeros(p, 2, dtype=torch.float64)
    by_residue[order] = circles(p - 1, {4: 1.0})
    assert_close(frequency_fraction(by_residue[order])[3], 1.0)
    assert frequency_fraction(by_residue).max().item() < 0.6


def test_undefined_fractions_are_refused() -> None:
    constant = torch.full((2, 59, 4), 0.1)
    constant[0, 3] = 0.7
    with pytest.raises(ValueError, match="fails for 1 of 2"):
        frequency_fraction(constant)
    with pytest.raises(ValueError, match="no power outside the constant"):
        frequency_fraction(torch.zeros(7, 2))
    with pytest.raises(ValueError, match="non-finite"):
        frequency_power(torch.tensor([[1.0], [math.nan]]))
    with pytest.raises(ValueError, match="expected real"):
        frequency_power(torch.ones(5))
    with pytest.raises(ValueError, match="all zero"):
        gini(torch.zeros(4))
    with pytest.raises(ValueError, match="negative"):
        participation(torch.tensor([1.0, -1.0]))


def test_tiny_weights_do_not_underflow() -> None:
    assert_close(frequency_fraction(1e-200 * circles(11, {2: 1.0})), [0, 1, 0, 0, 0])
    assert_close(inverse_participation(1e-200 * circles(11, {2: 1.0})), 1.0)


# Invariances.


@QUICK
@given(n=st.integers(3, 16), d=st.integers(1, 6), seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_fraction_ignores_rotation_scale_shift_and_constant(n: int, d: int, seed: int, scale: float) -> None:
    matrix = gaussian(seed, n, d)
    fraction = frequency_fraction(matrix)
    rotation = torch.linalg.qr(gaussian(seed + 1, d, d)).Q
    changed = scale * torch.roll(matrix @ rotation, seed % n, dims=0) + gaussian(seed + 2, d)
    assert_close(frequency_fraction(changed), fraction, atol=1e-8)
    assert_close(fraction.sum(), 1.0)
    assert 1 - 1e-9 <= participation(fraction).item() <= n // 2 + 1e-9
    assert -1e-12 <= gini(fraction).item() <= 1 - 1 / (n // 2) + 1e-12


@QUICK
@given(n=st.sampled_from([7, 12, 15, 23]), g=st.integers(1, 100), seed=st.integers(0, 999))
def test_relabelling_residues_permutes_frequencies(n: int, g: int, seed: int) -> None:
    if math.gcd(g, n) != 1:
        g = 1 + n  # the identity, which every n has
    matrix = gaussian(seed, n, 3)
    relabelled = matrix[(g * torch.arange(n)) % n]
    moved = torch.tensor([min(g * k % n, -g * k % n) - 1 for k in range(1, n // 2 + 1)])
    assert_close(frequency_power(relabelled)[moved], frequency_power(matrix), atol=1e-10)


# Neurons: participation ratios.


def test_inverse_participation_of_pure_and_flat_neurons() -> None:
    n = 13
    pure = circles(n, {3: 2.0})[:, :1] + 5.0
    flat = torch.zeros(n, 1, dtype=torch.float64)
    flat[4] = 1.0
    assert_close(inverse_participation(pure), 1.0)
    assert_close(inverse_participation(flat), 1 / 6)
    assert_close(complex_inverse_participation(pure), 0.5)
    assert_close(complex_inverse_participation(pure - 5.0), 0.5)
    assert_close(complex_inverse_participation(flat), 1 / 12)
    alternating = (1.0 - 2.0 * (torch.arange(12) % 2))[:, None]
    assert_close(complex_inverse_participation(alternating), 1.0)


def test_inverse_participation_pools_slots_and_leaves_out_constant_neurons() -> None:
    pure = circles(13, {3: 2.0})
    flat = torch.eye(13, dtype=torch.float64)[:, :1]
    dead = torch.full((13, 4), 0.1, dtype=torch.float64)
    dead[:, 1] = 0.0
    assert_close(
        inverse_participation(torch.cat([pure, dead], 1), torch.cat([flat, dead], 1)), (2 + 1 / 6) / 3
    )
    assert_close(complex_inverse_participation(torch.cat([pure, dead], 1), flat), (0.5 * 2 + 1 / 12) / 3)
    with pytest.raises(ValueError, match="no neuron varies"):
        inverse_participation(dead)
    with pytest.raises(ValueError, match="got no map"):
        inverse_participation()


def test_inverse_participation_agrees_with_loops() -> None:
    slots = [gaussian(1, 2, 12, 5), gaussian(2, 2, 12, 5)]
    for step in range(2):
        real, signed = [], []
        for slot in slots:
            for neuron in range(5):
                column = slot[step, :, neuron : neuron + 1].numpy()
                power = slow_power(column)
                real.append(((power / power.sum()) ** 2).sum())
                spectrum = np.fft.fft(column[:, 0])[1:]
                spectrum /= np.linalg.norm(spectrum)
                signed.append((np.abs(spectrum) ** 4).sum())
        assert_close(inverse_participation(*slots)[step], np.mean(real))
        assert_close(complex_inverse_participation(*slots)[step], np.mean(signed))


@QUICK
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_inverse_participation_ignores_order_scale_and_bias(seed: int, scale: float) -> None:
    weights = gaussian(seed, 11, 6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    expected = inverse_participation(weights)
    assert_close(inverse_participation(scale * weights[:, order] + gaussian(seed, 6)), expected, atol=1e-8)
    assert 1 / 5 - 1e-12 <= expected.item() <= 1 + 1e-12
    signed = complex_inverse_participation(weights)
    changed = complex_inverse_participation(scale * weights[:, order] + gaussian(seed, 6))
    assert_close(changed, signed, atol=1e-8)
    # of odd n every frequency is two signed ones of equal power
    assert_close(signed, expected / 2)


# Circularity.


def test_circularity_of_one_and_two_circles() -> None:
    assert_close(circularity(circles(59, {5: 1.0})), 0.5)
    assert_close(circularity(circles(59, {5: 2.0, 11: 1.0})), 1.0)
    assert_close(circularity(circles(12, {5: 2.0, 1: 1.0})), 1.0)


def test_circularity_leaves_out_components_of_rounding_size() -> None:
    # Below 1e-12 of the variance the second circle counts nothing, above it counts in full.
    assert_close(circularity(circles(59, {5: 1.0, 11: 1e-7})), 0.5)
    assert_close(circularity(circles(59, {5: 1.0, 11: 1e-5})), 1.0, atol=1e-6)


def test_circularity_agrees_with_loops() -> None:
    n = 11
    for embedding in (gaussian(5, n, 6), gaussian(6, n, 3), circles(n, {2: 1.0, 3: 0.5}) + gaussian(7, n, 4)):
        x = embedding.numpy() - embedding.numpy().mean(0)
        variances, axes = np.linalg.eigh(x.T @ x)
        total = 0.0
        for component in np.argsort(variances)[::-1][:4]:
            v = x @ axes[:, component]
            total += min(
                1.0,
                max(
                    2.0
                    / (n * (v @ v))
                    * abs(sum(v[j] * np.exp(2j * np.pi * j * k / n) for j in range(n))) ** 2
                    for k in range(1, (n - 1) // 2 + 1)
                ),
            )
        assert_close(circularity(embedding), total / 4, atol=1e-9)


def test_circularity_is_batched_and_refuses_constant_embeddings() -> None:
    batch = torch.stack([circles(59, {5: 2.0, 11: 1.0}), circles(59, {5: 1.0, 11: 0.0})])
    assert_close(circularity(batch), [1.0, 0.5])
    with pytest.raises(ValueError, match="without variance"):
        circularity(torch.full((7, 3), 0.1))
    with pytest.raises(ValueError, match="at least 3 residues"):
        circularity(torch.eye(2))


@QUICK
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), shift=st.integers(0, 12))
def test_circularity_ignores_rotation_scale_and_shift(seed: int, scale: float, shift: int) -> None:
    embedding = gaussian(seed, 13, 5)
    rotation = torch.linalg.qr(gaussian(seed + 1, 5, 5)).Q
    changed = scale * torch.roll(embedding @ rotation, shift, dims=0) + gaussian(seed + 2, 5)
    assert_close(circularity(changed), circularity(embedding), atol=1e-7)


# Key frequencies.


def test_key_frequencies_are_the_smallest_set() -> None:
    fractions = torch.tensor([[0.02, 0.5, 0.46, 0.02], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]])
    assert key_frequencies_by_embedding(fractions).tolist() == [
        [False, True, True, False],
        [True, True, True, True],
        [False, False, False, True],
    ]
    assert key_frequencies_by_embedding(fractions[1], share=0.5).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        key_frequencies_by_embedding(fractions, share=0.0)


def test_equal_frequencies_are_taken_from_the_lowest() -> None:
    # Twenty equal shares: 19 of them are 95 %, whatever the last bits of the sum.
    key = key_frequencies_by_embedding(frequency_fraction(torch.eye(41)))
    assert key.tolist() == [True] * 19 + [False]


@QUICK
@given(seed=st.integers(0, 999), share=st.floats(0.05, 0.99))
def test_key_set_is_sufficient_and_minimal(seed: int, share: float) -> None:
    fractions = frequency_fraction(gaussian(seed, 23, 2))
    key = key_frequencies_by_embedding(fractions, share)
    assert fractions[key].sum().item() >= share - 1e-9
    assert fractions[key].sum().item() - fractions[key].min().item() < share
    assert key.all() or fractions[key].min() >= fractions[~key].max()


# Operations that see squares.


def test_square_frequencies_find_what_the_plain_axis_cannot() -> None:
    n, k = 59, 7
    embedding = circles(n, {k: 1.0})[torch.arange(n).square() % n]
    assert gini(frequency_fraction(embedding)).item() < 0.3
    power = square_frequency_power(embedding)
    assert power.argmax().item() == k - 1
    centred = embedding - embedding.mean(0)
    assert_close(power[k - 1], centred.square().sum(), atol=1e-9)
    others = torch.cat([power[: k - 1], power[k:]])
    assert others.max().item() < 0.1 * power[k - 1].item()


def test_square_frequencies_agree_with_least_squares() -> None:
    n = 13
    matrix = gaussian(1, n, 3)
    squares = np.arange(n) ** 2 % n
    for k, value in enumerate(square_frequency_power(matrix).tolist(), start=1):
        angle = 2 * np.pi * k * squares / n
        design = np.stack([np.cos(angle), np.sin(angle)], 1)
        design -= design.mean(0)
        fit = design @ np.linalg.lstsq(design, matrix.numpy(), rcond=1e-9)[0]
        assert value == pytest.approx((fit**2).sum(), abs=1e-9)
    with pytest.raises(ValueError, match="odd prime"):
        square_frequency_power(torch.eye(12))
