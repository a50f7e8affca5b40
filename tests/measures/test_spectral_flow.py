"""The flow on the end-to-end map: fixed points, extinction and scalar equations that can be solved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from grokscope.measures.spectral_flow import (
    extinction_time,
    implicit_shrink,
    penalised_energy,
    spectral_flow,
)


@pytest.mark.parametrize("exponent", [0.5, 2 / 3, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("amount", [0.0, 1e-4, 0.03, 0.5])
def test_the_implicit_step_solves_its_equation(exponent: float, amount: float) -> None:
    sigma = np.concatenate([[0.0], np.geomspace(1e-4, 10, 40)])
    x = implicit_shrink(sigma, amount, exponent)
    found = x > 0
    assert found[-1]
    residual = x[found] + amount * x[found] ** (exponent - 1) - sigma[found]
    np.testing.assert_allclose(residual, 0, atol=1e-9)
    assert np.all(np.diff(x) >= 0)
    # where it gave zero, no positive x solves it; by search
    grid = np.geomspace(1e-9, 20, 4000)
    for value in sigma[1:][~found[1:]]:
        assert np.all(grid + amount * grid ** (exponent - 1) > value)


def test_the_implicit_step_takes_the_largest_root() -> None:
    # x + 0.1/sqrt(x) = 1 has two roots
    x = float(implicit_shrink(1.0, 0.1, 0.5))
    roots = np.roots([1, 0, -1, 0.1]).real ** 2
    assert x == pytest.approx(max(roots[np.abs(roots + 0.1 / np.sqrt(roots) - 1) < 1e-9]), abs=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_unseen_singular_values_vanish_at_their_time(depth: int) -> None:
    sigma, decay = np.array([1.0, 0.5, 0.2]), 0.1
    q = 2 / depth
    ends = [extinction_time(s, decay, q) for s in sigma]
    times = np.array([0.4 * ends[2], 0.98 * ends[2], 1.03 * ends[2], 1.03 * ends[1], 1.03 * ends[0]])
    flow = spectral_flow(np.diag(sigma), np.zeros((3, 3)), np.zeros((3, 3), bool), decay, depth, times, 1e-6)
    exact = np.maximum(sigma ** (2 - q) - (2 - q) * decay * times[:, None], 0) ** (1 / (2 - q))
    assert np.array_equal(flow.singular_values > 0, exact > 0)
    np.testing.assert_allclose(flow.singular_values, exact, atol=0.01)
    assert flow.singular_values[0] == pytest.approx(exact[0], rel=2e-3)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_diagonal_target_falls_apart_into_scalar_equations(depth: int) -> None:
    target, start, decay = np.array([3.0, 1.0]), np.array([0.5, 2.0]), 0.05
    times = np.array([0.1, 0.5, 1.0, 3.0, 10.0])
    flow = spectral_flow(np.diag(start), np.diag(target), np.ones((2, 2), bool), decay, depth, times, 1e-6)
    for place in range(2):
        solved = solve_ivp(
            lambda t, s, m=target[place]: m - s - decay * s ** (2 / depth - 1), (0, 10), [start[place]],
            t_eval=times, rtol=1e-10, atol=1e-12,
        ).y[0]  # fmt: skip
        np.testing.assert_allclose(flow.maps[:, place, place], solved, rtol=2e-3)
    assert np.abs(flow.maps[:, 0, 1]).max() < 1e-12


def test_soft_thresholding_is_where_the_nuclear_flow_ends() -> None:
    target, start, decay = np.array([3.0, 0.02]), np.array([1.0, 1.0]), 0.05
    after = math.log((start[1] - target[1] + decay) / (decay - target[1]))  # s - m + decay falls as e^-t
    times = np.array([0.97 * after, 1.03 * after, 40.0])
    flow = spectral_flow(np.diag(start), np.diag(target), np.ones((2, 2), bool), decay, 2, times, 1e-6)
    assert flow.singular_values[0, 1] > 0
    assert np.array_equal(flow.singular_values[1:, 1], [0, 0])
    assert flow.singular_values[-1, 0] == pytest.approx(3.0 - decay, abs=1e-9)


def test_the_energy_falls_and_a_tenth_of_the_tolerance_changes_little() -> None:
    draw = np.random.default_rng(3)
    target = draw.normal(size=(8, 2)) @ draw.normal(size=(2, 8)) / 2
    start, observed = draw.normal(size=(8, 8)) / 3, draw.random((8, 8)) < 0.7
    times = np.linspace(0, 60, 31)
    coarse = spectral_flow(start, target, observed, 0.05, 3, times, 1e-3)
    fine = spectral_flow(start, target, observed, 0.05, 3, times, 1e-4)
    energy = penalised_energy(coarse.maps, target, observed, 0.05, 3)
    assert np.all(np.diff(energy) <= 1e-9)
    assert np.array_equal(coarse.maps[0], start)
    assert np.linalg.norm(coarse.maps - fine.maps, axis=(1, 2)).max() < 0.02 * np.linalg.norm(target)
    assert fine.steps > coarse.steps


def test_the_penalised_energy_is_that_of_balanced_layers() -> None:
    sigma, depth, decay = np.array([2.0, 0.3]), 3, 0.1
    layer = np.diag(sigma ** (1 / depth))
    whole = 0.5 * decay * depth * np.sum(layer**2)
    assert penalised_energy(np.diag(sigma), np.diag(sigma), np.ones((2, 2)), decay, depth) == pytest.approx(
        whole
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"times": [1.0, 0.5]},
        {"times": []},
        {"decay": -1.0},
        {"depth": 0},
        {"tolerance": 0.0},
        {"longest": 2.0},
    ],
)
def test_numbers_that_make_no_flow(changes: dict) -> None:
    given = {"decay": 0.1, "depth": 2, "times": [1.0], **changes}
    with pytest.raises(ValueError, match="expected"):
        spectral_flow(np.eye(2), np.eye(2), np.eye(2, dtype=bool), **given)
    with pytest.raises(ValueError, match="expected"):
        spectral_flow(np.eye(3), np.eye(2), np.eye(2, dtype=bool), 0.1, 2, [1.0])
    with pytest.raises(ValueError, match="expected"):
        implicit_shrink([-1.0], 0.1, 0.5)
    with pytest.raises(ValueError, match="expected"):
        extinction_time(1.0, 0.0, 0.5)
