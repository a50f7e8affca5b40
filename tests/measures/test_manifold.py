"""Projection on the kernel, drift, junction and rank constancy, on matrices and vectors whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grokscope.measures.crossings import Crossing
from grokscope.measures.manifold import (
    decayed_share,
    drift_between,
    drift_factor,
    instantaneous_drift,
    junction,
    kernel_projection,
    kernel_projection_lsmr,
    motion_against,
    rank_constancy,
)

SHAPES = [(6, 15), (15, 6), (9, 9), (20, 120), (1, 4)]


def planted(n: int, p: int, rank: int, condition: float, seed: int):
    """A Jacobian of known rank and condition, weights, and their part in its kernel by the planted directions."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(n, n)))[0][:, :rank]
    v = np.linalg.qr(rng.normal(size=(p, p)))[0][:, :rank]
    jacobian = (u * np.geomspace(1, 1 / condition, rank)) @ v.T
    weights = rng.normal(size=p)
    return jacobian, weights, weights - v @ (v.T @ weights)


def by_products(jacobian, weights, **settings):
    return kernel_projection_lsmr(
        lambda x: jacobian @ x, lambda z: jacobian.T @ z, len(jacobian), weights, **settings
    )


@pytest.mark.parametrize(("n", "p"), SHAPES)
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("lost", [0, 3])
def test_both_projections_find_the_planted_kernel(n, p, condition, lost):
    rank = max(1, min(n, p) - lost)
    jacobian, weights, expected = planted(n, p, rank, condition if rank > 1 else 1.0, seed=n + lost)
    size = np.linalg.norm(weights)
    exact, products = kernel_projection(jacobian, weights), by_products(jacobian, weights)
    # a singular vector is known to the rounding of J over its singular value
    assert np.linalg.norm(exact.vector - expected) < 1e-14 * condition * size
    assert np.linalg.norm(products.vector - expected) < 1e-13 * condition * size
    assert exact.rank == rank
    assert exact.smallest_kept == pytest.approx(1 / condition if rank > 1 else 1, rel=1e-8)
    assert exact.largest_dropped is not None
    assert exact.largest_dropped < 1e-14
    assert max(exact.residual, products.residual) < 1e-14
    assert products.rank is None
    assert 0 < products.iterations < 1000


def test_a_full_column_rank_leaves_nothing():
    jacobian, weights, _ = planted(12, 5, 5, 10.0, 3)
    for found in (kernel_projection(jacobian, weights), by_products(jacobian, weights)):
        np.testing.assert_allclose(found.vector, 0, atol=1e-13)


def test_no_jacobian_leaves_everything():
    weights = np.array([3.0, -4.0, 1.0])
    exact, products = kernel_projection(np.zeros((2, 3)), weights), by_products(np.zeros((2, 3)), weights)
    np.testing.assert_array_equal(exact.vector, weights)
    np.testing.assert_array_equal(products.vector, weights)
    assert exact.rank == 0
    assert exact.residual == products.residual == 0.0


def test_weights_of_zero_have_no_part():
    for found in (kernel_projection(np.ones((2, 3)), np.zeros(3)), by_products(np.ones((2, 3)), np.zeros(3))):
        np.testing.assert_array_equal(found.vector, 0)
        assert found.residual == 0.0


@pytest.mark.parametrize(("share", "rank"), [(1e-6, 3), (1e-10, 2), (1e-13, 2)])
def test_the_tolerance_decides_what_counts_as_zero(share, rank):
    jacobian = np.diag([2.0, 0.5, 2.0 * share, 0.0])[:3]
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    expected = [0, 0, 3.0 if rank == 2 else 0, 4.0]
    exact, products = kernel_projection(jacobian, weights), by_products(jacobian, weights)
    np.testing.assert_allclose(exact.vector, expected, atol=1e-12)
    # products alone have a softer edge, of a known form
    kept = [0, 0, 3 * (1 + (share / 1e-8) ** 2) ** -6.0, 4.0]
    np.testing.assert_allclose(products.vector, kept, atol=1e-7)
    np.testing.assert_allclose(products.vector, expected, rtol=1e-3, atol=1e-7)
    assert exact.rank == rank
    gap = exact.smallest_kept if rank == 3 else exact.largest_dropped
    assert gap == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("project", [kernel_projection, by_products])
def test_a_projection_follows_rotations_and_scales(project):
    jacobian, weights, _ = planted(7, 12, 6, 30.0, 5)
    rng = np.random.default_rng(6)
    rotation, other = np.linalg.qr(rng.normal(size=(12, 12)))[0], np.linalg.qr(rng.normal(size=(7, 7)))[0]
    plain = project(jacobian, weights).vector
    assert 0.1 < np.linalg.norm(plain) < np.linalg.norm(weights)
    np.testing.assert_allclose(
        project(jacobian @ rotation.T, rotation @ weights).vector, rotation @ plain, atol=1e-12
    )
    np.testing.assert_allclose(project(other @ jacobian, weights).vector, plain, atol=1e-12)
    np.testing.assert_allclose(project(1e-5 * jacobian, 1e3 * weights).vector, 1e3 * plain, atol=1e-9)
    np.testing.assert_allclose(project(jacobian, plain).vector, plain, atol=1e-12)
    assert plain @ (weights - plain) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize(
    ("jacobian", "weights"),
    [
        (np.ones((2, 3)), np.ones(2)),
        (np.ones(3), np.ones(3)),
        (np.ones((0, 3)), np.ones(3)),
        (np.ones((1, 2)) / 0.5, [1, np.nan]),
    ],
)
def test_the_exact_projection_refuses_what_does_not_fit(jacobian, weights):
    with pytest.raises(ValueError, match="kernel_projection: got"):
        kernel_projection(jacobian, weights)


def test_projections_refuse_bad_settings():
    with pytest.raises(ValueError, match="tolerance=2"):
        kernel_projection(np.ones((1, 2)), np.ones(2), tolerance=2)
    with pytest.raises(ValueError, match="got 0 residuals"):
        kernel_projection_lsmr(lambda x: x, lambda z: z, 0, np.ones(2))
    with pytest.raises(ValueError, match=r"J w of shape \(2,\)"):
        kernel_projection_lsmr(lambda x: x, lambda z: z, 3, np.ones(2))


def test_the_drift_factor_of_the_table():
    assert drift_factor(np.full(100, 0.1), 0.01) == pytest.approx((1 - 0.999**100) / 0.1, rel=1e-12)
    assert drift_factor(np.full(100, 0.1), 0.01) == pytest.approx(0.952, abs=5e-4)
    # many small updates: (1 − e^{−x})/x; one: 1 exactly; none of decay: 1
    assert drift_factor(np.full(10**6, 1e-6), 0.1) == pytest.approx(-math.expm1(-0.1) / 0.1, rel=1e-7)
    assert drift_factor(0.3, 0.5) == pytest.approx(1.0, rel=1e-14)
    assert drift_factor(np.full(50, 0.1), 0.0) == 1.0
    assert drift_factor(np.full(10, 1e-9), 1e-9) == pytest.approx(1.0, rel=1e-12)


def test_the_drift_factor_is_that_of_every_update():
    rates = np.linspace(0.01, 0.3, 30)
    left = 1.0
    for rate in rates:
        left *= 1 - rate * 0.7
    assert drift_factor(rates, 0.7) == pytest.approx((1 - left) / (0.7 * rates.sum()), rel=1e-12)


@pytest.mark.parametrize(("rates", "decay"), [([], 0.1), ([0.0], 0.1), ([0.1], -1.0), ([2.0], 0.5)])
def test_the_drift_factor_refuses(rates, decay):
    with pytest.raises(ValueError, match="decayed_share: got"):
        drift_factor(rates, decay)


@pytest.mark.parametrize("count", [1, 7, 2000])
def test_a_vector_that_only_decays_drifts_at_speed_one(count):
    start, rates = np.array([0.0, 3.0, -4.0]), np.full(count, 0.05)
    end = start * (1 - 0.05 * 0.02) ** count
    found = drift_between(start, end, start, rates, 0.02)
    assert found.cosine == pytest.approx(1.0, abs=1e-15)
    assert found.speed == pytest.approx(1.0, rel=1e-10)


def test_a_motion_across_the_prediction_is_seen():
    start, tangent = np.array([1.0, 2.0]), np.array([0.0, 2.0])
    # half the predicted length along −P w, and as much across it: at one update the factor is 1
    step = 0.1 * 0.5 * np.array([1.0, -1.0])
    found = drift_between(start, start + step, tangent, [0.1], 0.5)
    assert found.cosine == pytest.approx(math.sqrt(0.5))
    assert found.speed == pytest.approx(math.sqrt(0.5))
    away = drift_between(start, start - step, tangent, [0.1], 0.5)
    assert away.cosine == pytest.approx(-math.sqrt(0.5))


def test_the_instantaneous_drift_of_a_vector():
    weights, tangent = np.array([3.0, 4.0]), np.array([0.0, 4.0])
    # balanced along the first axis: only the kernel moves
    still = instantaneous_drift(weights, [-0.1 * 3.0, 0.0], tangent, 0.1)
    assert (still.cosine, still.speed) == (pytest.approx(1.0), pytest.approx(1.0))
    off = instantaneous_drift(weights, [0.0, 0.0], tangent, 0.1)
    assert (off.cosine, off.speed) == (pytest.approx(0.8), pytest.approx(1.25))
    turned = np.array([[0.6, -0.8], [0.8, 0.6]])
    same = instantaneous_drift(turned @ weights, [0, 0], turned @ tangent, 0.1)
    assert (same.cosine, same.speed) == (pytest.approx(0.8), pytest.approx(1.25))


def test_drifts_refuse_what_is_not_defined():
    one = np.ones(2)
    with pytest.raises(ValueError, match="direction of length 0"):
        drift_between(one, 0.9 * one, one, [0.1], 0.0)
    with pytest.raises(ValueError, match="direction of length 0"):
        instantaneous_drift(one, one, 0 * one, 0.1)
    with pytest.raises(ValueError, match="motion of length 0"):
        drift_between(one, one, one, [0.1], 0.1)
    with pytest.raises(ValueError, match="equal shapes"):
        drift_between(one, one, np.ones(3), [0.1], 0.1)
    with pytest.raises(ValueError, match="equal shapes"):
        instantaneous_drift(one, np.ones(3), one, 0.1)


def test_a_motion_against_a_direction():
    found = motion_against([0.0, -3.0], [4.0, 4.0])
    assert found.cosine == pytest.approx(math.sqrt(0.5))
    assert found.speed == pytest.approx(3 / math.sqrt(32))
    with pytest.raises(ValueError, match="equal shapes"):
        motion_against(np.ones(2), np.ones(3))


def test_what_decay_takes_away():
    assert decayed_share([0.1, 0.2], 0.5) == pytest.approx(1 - 0.95 * 0.9, rel=1e-14)
    assert decayed_share(0.1, 0.0) == 0.0


def test_the_junction_is_the_first_drop():
    steps = [0, 10, 20, 30, 40]
    found = junction(steps, [5, 2, 0.5, 3, 0.1], [1, 1, 0.9, 0.8, 0.7])
    assert found is not None
    assert found.crossing == Crossing(10, 20, False)
    assert found.decay_norm == 0.9
    at_once = junction(steps, [0.5] * 5, [1] * 5)
    assert at_once is not None
    assert at_once.crossing == Crossing(None, 0, False)


def test_the_end_is_no_junction():
    """Where decay and gradient meet at the end, rounding takes one under the other."""
    steps = np.arange(50)
    decay = np.ones(50)
    gradient = 1 + np.exp(-steps / 3.0)
    gradient[40:] -= 1e-3
    assert junction(steps, gradient, decay) is None
    # but a drop that deepens later is one from where it began
    gradient[45:] = 0.5
    found = junction(steps, gradient, decay)
    assert found is not None
    first = int(np.flatnonzero(gradient < 1)[0])
    assert 39 < first < 45
    assert found.crossing == Crossing(first - 1, first, False)


def test_the_junction_refuses_what_is_no_norm():
    with pytest.raises(ValueError, match="junction: got values"):
        junction([0, 1], [1.0, -1.0], [1, 1])
    with pytest.raises(ValueError, match="junction: got"):
        junction([0, 1], [1.0], [1, 1])


def test_rank_constancy_says_where_it_fails():
    assert rank_constancy([0, 5, 9], [4, 4, 4]).holds
    moved = rank_constancy([0, 5, 9, 20], [4, 4, 3, 5])
    assert not moved.holds
    assert (moved.lowest, moved.highest) == (3, 5)
    assert moved.changes == ((5, 9), (9, 20))
    with pytest.raises(ValueError, match="whole numbers"):
        rank_constancy([0, 1], [1.5, 2])
