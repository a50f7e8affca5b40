"""Phases: networks that solve addition by construction, and what phases do under shifts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.neuron_frequencies import neuron_frequencies
from grokscope.measures.phases import Phases, fit_phases, phase_statistics, resultant_chance


def assert_close(actual: Tensor, expected: object, atol: float = 1e-12) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.to(torch.float64), wanted.expand_as(actual), rtol=0, atol=atol)


def uniform(seed: int, *shape: int) -> Tensor:
    draws = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * math.pi * draws


def cosines(n: int, frequency: Tensor, phase: Tensor) -> Tensor:
    """(n, h): cos(w_k a + phase) for each neuron's own k."""
    points = torch.arange(n, dtype=torch.float64)[:, None]
    return torch.cos(2 * math.pi / n * (frequency * points) + phase)


def answer(n: int, sign: int) -> Tensor:
    a = torch.arange(n)
    return (a[:, None] + sign * a[None, :]) % n


def test_square_network_with_every_frequency_and_a_grid_of_phases() -> None:
    p, steps = 23, 5
    shifts = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps)
    cells = torch.cartesian_prod(torch.arange(1, p // 2 + 1, dtype=torch.float64), shifts, shifts)
    k, phase_a, phase_b = cells.T
    input_a, input_b = cosines(p, k, phase_a), cosines(p, k, phase_b)
    output = cosines(p, k, phase_a + phase_b)
    hidden = (input_a[:, None, :] + input_b[None, :, :]).square()
    logits = hidden @ output.T
    right = torch.nn.functional.one_hot(answer(p, 1), p).bool()
    assert_close(logits[right], 137.5, atol=1e-9)
    assert_close(logits[~right], -6.25, atol=1e-9)

    found = neuron_frequencies(hidden)
    assert torch.equal(found.frequency, k.to(torch.int64))
    phases = fit_phases(input_a, input_b, output, found.frequency)
    assert_close(phases.theta, 0.0)
    statistics = phase_statistics(phases)
    assert_close(statistics.cosine, 1.0)
    assert_close(statistics.resultant, 1.0)
    assert_close(statistics.angle, 0.0)
    assert statistics.neurons.item() == len(k)
    assert_close(statistics.effective_neurons, float(len(k)), atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "activation",
    [torch.relu, torch.abs, torch.square, torch.nn.functional.gelu],
    ids=["relu", "abs", "square", "gelu"],
)
def test_best_readout_of_a_neuron_has_no_misfit(activation: Callable[[Tensor], Tensor], sign: int) -> None:
    # The readout is the mean activation per answer: the direction in which the neuron says most about it.
    n, h = 59, 24
    k = torch.arange(1, h + 1, dtype=torch.float64)
    input_a, input_b = cosines(n, k, uniform(1, h)), cosines(n, k, uniform(2, h))
    hidden = activation(input_a[:, None, :] + input_b[None, :, :])
    output = torch.zeros(n, h, dtype=torch.float64)
    output.index_add_(0, answer(n, sign).reshape(-1), hidden.reshape(-1, h) / n)
    phases = fit_phases(input_a, input_b, output, k.to(torch.int64), sign=sign)
    # Harmonics fold back onto a prime axis, which leaves a small error for the kinked activations.
    assert_close(phases.theta, 0.0, atol=1e-9 if activation is torch.square else 1e-4)
    assert_close(phase_statistics(phases).cosine, 1.0, atol=1e-8)
    wrong = phase_statistics(fit_phases(input_a, input_b, output, k.to(torch.int64), sign=-sign))
    assert wrong.resultant.item() < 0.6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.sampled_from([7, 12, 22, 23]), sign=st.sampled_from([1, -1]))
def test_phases_and_weights_are_recovered(seed: int, n: int, sign: int) -> None:
    h = 6
    k = torch.randint(1, (n - 1) // 2 + 1, (h,), generator=torch.Generator().manual_seed(seed))
    phase_a, phase_b, psi = uniform(seed, 3, h)
    amplitude = 0.1 + uniform(seed + 1, 3, h)
    phases = fit_phases(
        amplitude[0] * cosines(n, k, phase_a) + 0.7,
        amplitude[1] * cosines(n, k, phase_b),
        amplitude[2] * cosines(n, k, psi) - 2.0,
        k,
        sign=sign,
    )
    for fitted, true in ((phases.input_a, phase_a), (phases.input_b, phase_b), (phases.output, psi)):
        assert_close(torch.cos(fitted - true), 1.0, atol=1e-9)
    assert_close(torch.cos(phases.theta - (phase_a + sign * phase_b - psi)), 1.0, atol=1e-9)
    assert bool((phases.theta.abs() <= math.pi + 1e-12).all())
    product = amplitude.prod(0)
    assert_close(phases.weight, product / product.max(), atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), shift_a=st.integers(0, 22), shift_b=st.integers(0, 22))
def test_relabelling_that_respects_the_sum_leaves_theta(seed: int, shift_a: int, shift_b: int) -> None:
    n, h = 23, 5
    k = torch.arange(1, h + 1)
    a, b, out = (cosines(n, k, uniform(seed + i, h)) for i in range(3))
    plain = fit_phases(a, b, out, k)
    moved = fit_phases(
        torch.roll(a, shift_a, 0), torch.roll(b, shift_b, 0), torch.roll(out, shift_a + shift_b, 0), k
    )
    assert_close(torch.cos(moved.theta - plain.theta), 1.0, atol=1e-9)


def test_statistics_are_weighted_circular_means() -> None:
    theta = torch.tensor([0.2, math.pi - 0.1, 1.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    zeros = torch.zeros(3, dtype=torch.float64)
    statistics = phase_statistics(Phases(zeros, zeros, zeros, theta, weight, weight > 0))
    x = (math.cos(0.2) + 0.5 * math.cos(math.pi - 0.1)) / 1.5
    y = (math.sin(0.2) + 0.5 * math.sin(math.pi - 0.1)) / 1.5
    assert_close(statistics.cosine, x)
    assert_close(statistics.resultant, math.hypot(x, y))
    assert_close(statistics.angle, math.atan2(y, x))
    assert statistics.neurons.item() == 2
    assert_close(statistics.effective_neurons, 1.5**2 / 1.25)


def test_equal_misfits_have_full_resultant_at_their_own_angle() -> None:
    n, h = 23, 9
    k = torch.arange(1, h + 1)
    phase_a, phase_b = uniform(1, h), uniform(2, h)
    output = cosines(n, k, phase_a + phase_b - 2.0)
    statistics = phase_statistics(fit_phases(cosines(n, k, phase_a), cosines(n, k, phase_b), output, k))
    assert_close(statistics.resultant, 1.0)
    assert_close(statistics.angle, 2.0)
    assert_close(statistics.cosine, math.cos(2.0))


def test_random_phases_are_at_chance() -> None:
    n, h = 23, 400
    k = torch.arange(h) % 11 + 1
    a, b, out = (torch.stack([cosines(n, k, uniform(100 * i + j, h)) for j in range(60)]) for i in range(3))
    statistics = phase_statistics(fit_phases(a, b, out, k.expand(60, h)))
    assert statistics.resultant.shape == (60,)
    assert resultant_chance(h) == pytest.approx(0.0443, abs=1e-4)
    assert statistics.resultant.mean().item() == pytest.approx(resultant_chance(h), rel=0.15)


def test_neurons_without_a_phase_are_left_out() -> None:
    n = 12
    k = torch.tensor([2, 6, -1, 3])
    a = cosines(n, torch.tensor([2, 6, 1, 3]), torch.tensor([0.4, 0.0, 0.0, 0.1], dtype=torch.float64))
    output = cosines(n, torch.tensor([2, 6, 1, 3]), torch.tensor([0.8, 0.0, 0.0, 0.0], dtype=torch.float64))
    output[:, 3] = 0.0
    phases = fit_phases(a, a, output, k)
    assert phases.used.tolist() == [True, False, False, False]
    assert phases.weight.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert_close(phase_statistics(phases).cosine, 1.0)
    with pytest.raises(ValueError, match="no neuron with a frequency"):
        phase_statistics(fit_phases(a[:, 1:3], a[:, 1:3], output[:, 1:3], k[1:3]))


def test_bad_arguments_are_named() -> None:
    w, k = torch.ones(7, 3), torch.ones(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="sign 0"):
        fit_phases(w, w, w, k, sign=0)
    with pytest.raises(ValueError, match=r"expected three \(\.\.\., n, h\)"):
        fit_phases(w, w, w.T, k)
    with pytest.raises(ValueError, match="non-finite"):
        fit_phases(w, w * math.inf, w, k)
    with pytest.raises(ValueError, match="positive number"):
        resultant_chance(0)
