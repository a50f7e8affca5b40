"""Planes of the embedding in closed form, and their invariances; neurons and phases of a network made by hand."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.measures.cyclic import fourier_basis
from grokscope.probes.fourier_views import around, frequency_plane, principal_plane, turned


def circle(n: int, k: int, radius: float, width: int, seed: int = 0) -> torch.Tensor:
    """(n, width) residues on a circle of one frequency in a random plane."""
    angle = 2 * torch.pi * k * torch.arange(n, dtype=torch.float64) / n
    frame, _ = torch.linalg.qr(
        torch.randn(width, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1) @ frame.T


@settings(deadline=None)
@given(st.integers(5, 31), st.integers(1, 4), st.integers(0, 5))
def test_a_circle_is_a_circle_in_the_plane_of_its_frequency(n: int, k: int, seed: int) -> None:
    k = min(k, (n - 1) // 2)
    points = frequency_plane(circle(n, k, 3.0, 6, seed), fourier_basis(n), k).numpy()
    angle = 2 * np.pi * k * np.arange(n) / n
    assert np.allclose(points[:, 0], 3 * np.cos(angle))
    assert np.allclose(np.abs(points[:, 1]), np.abs(3 * np.sin(angle)))


def test_the_plane_of_a_frequency_that_is_not_there_is_empty() -> None:
    table = circle(11, 2, 1.0, 2)  # both frequencies share the one plane there is
    points = frequency_plane(table, fourier_basis(11), 3)
    assert torch.equal(points, torch.zeros_like(points))


def test_the_plane_does_not_depend_on_the_basis_of_the_embedding_space() -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(13, 7, generator=generator, dtype=torch.float64)
    table -= table.mean(0)
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))
    basis = fourier_basis(13)
    assert torch.allclose(frequency_plane(table, basis, 4), frequency_plane(table @ turn, basis, 4))
    assert torch.allclose(principal_plane(table), principal_plane(table @ turn))


def test_the_frequency_of_half_an_even_axis_has_one_axis() -> None:
    table = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    points = frequency_plane(table, fourier_basis(4), 2)
    assert torch.allclose(points[:, 0].abs(), torch.ones(4, dtype=torch.float64))
    assert torch.equal(points[:, 1], torch.zeros(4, dtype=torch.float64))


def test_principal_scores_are_those_of_the_covariance() -> None:
    table = torch.randn(20, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    table -= table.mean(0)
    points = principal_plane(table)
    values = torch.linalg.eigvalsh(table.T @ table).flip(0)
    assert torch.allclose(points.square().sum(0), values[:2])
    assert abs(float(points[:, 0] @ points[:, 1])) < 1e-10


def test_a_map_of_one_column_has_one_component() -> None:
    points = principal_plane(torch.arange(5, dtype=torch.float64)[:, None] - 2)
    assert torch.equal(points[:, 1], torch.zeros(5, dtype=torch.float64))


@settings(deadline=None)
@given(st.integers(0, 20))
def test_turning_undoes_rotations_and_reflections(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = random.standard_normal((9, 2))
    spun = []
    for _ in range(4):
        angle = random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        spun.append(shape @ turn @ np.diag([1, random.choice([-1, 1])]))
    found = turned(np.stack(spun))
    assert np.allclose(found, found[-1])
    assert np.array_equal(found[-1], spun[-1])


@settings(deadline=None)
@given(st.sampled_from([5, 11, 59]), st.integers(1, 29))
def test_the_order_of_a_frequency_goes_once_round_its_circle(n: int, k: int) -> None:
    k = 1 + k % (n // 2)
    order = around(n, k)
    assert order is not None
    assert sorted(order) == list(range(n))
    angles = np.array([2 * np.pi * k * point / n for point in order]) % (2 * np.pi)
    assert np.allclose(angles, 2 * np.pi * np.arange(n) / n, atol=1e-9)


def test_residues_that_coincide_have_no_order() -> None:
    assert around(12, 4) is None
