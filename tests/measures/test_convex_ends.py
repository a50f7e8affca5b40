"""Convex ends of norm minimisation: closed forms, conditions of optimality, and descent on the factors."""

from __future__ import annotations

import numpy as np
import pytest

from grokscope.measures.convex_ends import least_l1, least_l1_interpolator, least_nuclear


def drawn(seed: int = 0):
    rng = np.random.default_rng(seed)
    beta = np.zeros(12)
    beta[[1, 5]] = 1.0, -2.0
    x = rng.normal(size=(8, 12))
    return x, x @ beta, beta


def test_orthogonal_columns_are_thresholded():
    found = least_l1(np.eye(3), [2.0, -0.3, -5.0], 0.5)
    np.testing.assert_allclose(found, [1.5, 0, -4.5], atol=1e-14)
    np.testing.assert_allclose(
        least_l1(np.eye(3), [2.0, -0.3, -5.0], 0.5, mean=True), [0.5, 0, -3.5], atol=1e-14
    )


@pytest.mark.parametrize("mean", [False, True])
def test_the_l1_minimum_meets_its_conditions(mean):
    x, y, _ = drawn()
    decay, weight = 0.05, 1 / 8 if mean else 1.0
    beta = least_l1(x, y, decay, mean=mean)
    pull = weight * x.T @ (y - x @ beta)
    there = beta != 0
    assert 0 < there.sum() < 12
    np.testing.assert_allclose(pull[there], decay * np.sign(beta[there]), atol=1e-10)
    assert np.all(np.abs(pull[~there]) <= decay + 1e-10)


def test_the_interpolator_is_the_limit_and_finds_a_sparse_teacher():
    x, y, teacher = drawn()
    exact = least_l1_interpolator(x, y)
    np.testing.assert_allclose(exact, teacher, atol=1e-9)
    distances = [np.linalg.norm(least_l1(x, y, decay) - exact) for decay in (1e-2, 1e-3, 1e-4)]
    # linear in λ once the support is right
    assert distances[1] / distances[2] == pytest.approx(10, rel=0.01)
    assert distances[0] < 0.1


def test_everything_observed_is_thresholded():
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    target = (u * [3.0, 2.0, 0.4, 0.1]) @ v
    expected = (u * [2.5, 1.5, 0.0, 0.0]) @ v
    np.testing.assert_allclose(least_nuclear(target, np.ones((4, 4), bool), 0.5), expected, atol=1e-10)


def test_the_nuclear_minimum_meets_its_conditions_and_no_factors_do_better():
    rng = np.random.default_rng(2)
    target = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 6))
    observed = rng.random((6, 6)) < 0.6
    decay = 0.1
    a = least_nuclear(target, observed, decay)
    pull = np.where(observed, target - a, 0) / decay
    u, sigma, vt = np.linalg.svd(a)
    rank = int(np.sum(sigma > 1e-7))
    assert 0 < rank < 6
    # λ times a subgradient of the nuclear norm: U Vᵀ on the row and column spaces, at most 1 elsewhere
    np.testing.assert_allclose(u[:, :rank].T @ pull @ vt[:rank].T, np.eye(rank), atol=1e-6)
    assert np.linalg.norm(u[:, rank:].T @ pull @ vt[rank:].T, 2) <= 1 + 1e-6
    best = 0.5 * np.sum((a - target)[observed] ** 2) + decay * sigma.sum()
    left, right = rng.normal(size=(2, 6, 6))
    for _ in range(20_000):
        error = np.where(observed, left @ right - target, 0)
        left, right = (
            left - 0.02 * (error @ right.T + decay * left),
            right - 0.02 * (left.T @ error + decay * right),
        )
    energy = 0.5 * np.sum(error**2) + 0.5 * decay * (np.sum(left**2) + np.sum(right**2))
    assert best <= energy * (1 + 1e-9)
    assert energy == pytest.approx(best, rel=1e-4)
    # entries that nothing was observed of settle last
    np.testing.assert_allclose((left @ right)[observed], a[observed], atol=2e-3)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="least_l1: got decay=0"):
        least_l1(np.eye(2), np.ones(2), 0.0)
    with pytest.raises(ValueError, match="not 0"):
        least_l1(np.zeros((2, 2)), np.ones(2), 0.1)
    with pytest.raises(ValueError, match="least_l1: got X"):
        least_l1(np.eye(2), np.ones(3), 0.1)
    with pytest.raises(ValueError, match="without a solution"):
        least_l1_interpolator([[1.0], [1.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="least_nuclear: got shapes"):
        least_nuclear(np.eye(2), np.zeros((2, 2), bool), 0.1)
    with pytest.raises(ValueError, match="1 rounds"):
        least_nuclear(
            np.arange(6.0).reshape(2, 3), [[True, False, True], [True, True, False]], 0.01, rounds=1
        )
