"""Linear regression with decay: the closed form against integration, against updates one by one, and at its ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from grokscope.measures.linear_regression import linear_regression
from grokscope.measures.manifold import drift_between, instantaneous_drift, kernel_projection


def drawn(n: int = 5, p: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) / math.sqrt(p), rng.normal(size=n), rng.normal(size=p)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("n", "p"), [(5, 12), (12, 5), (1, 3)])
def test_fixed_points_are_where_nothing_moves(n, p, mean):
    design, targets, start = drawn(n, p)
    decay, rate, weight = 0.03, 0.2, 1 / n if mean else 1.0
    problem = linear_regression(design, targets, decay, mean=mean)

    def gradient(w):
        return weight * design.T @ (design @ w - targets)

    flow = problem.fixed_point()
    np.testing.assert_allclose(gradient(flow) + decay * flow, 0, atol=1e-14)
    ridge = np.linalg.solve(weight * design.T @ design + decay * np.eye(p), weight * design.T @ targets)
    np.testing.assert_allclose(flow, ridge, atol=1e-10)
    before, after = problem.fixed_point(rate, "before"), problem.fixed_point(rate, "after")
    np.testing.assert_allclose((1 - rate * decay) * before - rate * gradient(before), before, atol=1e-14)
    np.testing.assert_allclose((1 - rate * decay) * (after - rate * gradient(after)), after, atol=1e-14)
    assert np.linalg.norm(before - after) > 1e-4
    np.testing.assert_allclose(problem.gradient(start), gradient(start), atol=1e-13)
    # long runs end there to 1e-10
    np.testing.assert_allclose(problem.flow(start, [40 / decay])[0], flow, atol=1e-10)
    np.testing.assert_allclose(problem.descent(start, rate, [20_000], "after")[0], after, atol=1e-10)
    np.testing.assert_allclose(problem.descent(start, rate, [20_000], "before")[0], before, atol=1e-10)


def test_the_discrete_end_of_the_table():
    """(1 − ηλ)σ²z*/(σ² + λ − ηλσ²), one component at a time."""
    sigma, y, decay, rate = np.array([2.0, 0.7]), np.array([1.0, -3.0]), 0.1, 0.2
    found = linear_regression(np.diag(sigma), y, decay).fixed_point(rate, "after")
    z = y / sigma
    expected = (1 - rate * decay) * sigma**2 * z / (sigma**2 + decay - rate * decay * sigma**2)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_flow_solves_its_equation():
    design, targets, start = drawn()
    problem = linear_regression(design, targets, 0.05)
    times = np.array([0.0, 0.3, 2.0, 30.0])
    slow = solve_ivp(
        lambda _, w: -design.T @ (design @ w - targets) - 0.05 * w,
        (0, 30),
        start,
        t_eval=times,
        rtol=1e-11,
        atol=1e-12,
        method="DOP853",
    ).y.T
    np.testing.assert_allclose(problem.flow(start, times), slow, atol=1e-9)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("decay", [0.0, 0.07])
def test_descent_is_the_updates_one_by_one(order, decay):
    design, targets, start = drawn(seed=2)
    problem, rate, w = linear_regression(design, targets, decay), 0.3, start.copy()
    path = [w]
    for _ in range(40):
        step = rate * design.T @ (design @ w - targets)
        w = (1 - rate * decay) * w - step if order == "before" else (1 - rate * decay) * (w - step)
        path.append(w)
    found = problem.descent(start, rate, np.arange(41), order)
    np.testing.assert_allclose(found, path, atol=1e-13)


def test_components_relax_at_their_own_rates():
    """σ² + λ along a direction that X sees, λ where it sees nothing, from any distance."""
    design = np.array([[3.0, 0, 0], [0, 0.5, 0]])
    problem = linear_regression(design, [1.0, 2.0], 0.01)
    start, end, time = np.array([1.0, 1.0, 1.0]), problem.fixed_point(), 0.7
    found = (problem.flow(start, [time])[0] - end) / (start - end)
    np.testing.assert_allclose(found, np.exp(-time * np.array([9.01, 0.26, 0.01])), rtol=1e-12)
    # over N = 2 samples the curvatures halve
    halved = linear_regression(design, [1.0, 2.0], 0.01, mean=True)
    end = halved.fixed_point()
    found = (halved.flow(start, [time])[0] - end) / (start - end)
    np.testing.assert_allclose(found, np.exp(-time * np.array([4.51, 0.135, 0.01])), rtol=1e-12)


@pytest.mark.parametrize(("decay", "time"), [(1e-2, 5.516117), (1e-3, 7.793651), (1e-4, 10.092328)])
def test_the_three_junctions_of_the_table(decay, time):
    problem, start = linear_regression([[1.0, 0.0]], [1.0], decay), np.array([0.0, 1.0])
    found = problem.junction(start)
    assert found is not None
    assert found == pytest.approx(time, abs=1e-6)
    # by its definition, on either side
    for moment, over in ((found - 1e-6, True), (found + 1e-6, False)):
        w = problem.flow(start, [moment])[0]
        gradient = abs(w[0] - 1.0)
        assert bool(gradient > decay * np.linalg.norm(w)) is over


def test_the_junction_moves_with_the_logarithm_of_decay():
    design, targets, start = drawn(4, 10, 5)
    decays = np.array([1e-5, 1e-6, 1e-7])
    times = [linear_regression(design, targets, decay).junction(start) for decay in decays]
    assert None not in times
    slowest = np.linalg.svd(design, compute_uv=False)[-1] ** 2
    np.testing.assert_allclose(np.diff(np.array(times, dtype=float)) * slowest, math.log(10), rtol=1e-3)


def test_a_start_without_a_kernel_part_has_no_junction():
    """Gradient and decay then meet at the end only, from above."""
    assert linear_regression([[1.0, 0.0]], [1.0], 1e-3).junction([0.0, 0.0]) is None
    assert linear_regression([[1.0, 0.0]], [1.0], 1e-3).junction([1.0, 3.0]) == 0.0


@pytest.mark.parametrize("order", ["before", "after"])
def test_late_descent_is_the_predicted_drift(order):
    design, targets, start = drawn(4, 10, 6)
    decay, rate = 1e-3, 0.1
    problem = linear_regression(design, targets, decay)
    first, second = 20_000, 20_400
    before, after = problem.descent(start, rate, [first, second], order)
    tangent = kernel_projection(design, before).vector
    np.testing.assert_allclose(tangent, (1 - rate * decay) ** first * problem.split(start)[1], atol=1e-12)
    found = drift_between(before, after, tangent, np.full(second - first, rate), decay)
    assert found.cosine == pytest.approx(1, abs=1e-10)
    assert found.speed == pytest.approx(1, rel=1e-8)
    now = instantaneous_drift(before, problem.gradient(before), tangent, decay)
    slack = 1e-9 if order == "before" else 1e-2
    assert now.speed == pytest.approx(1, rel=slack)


def test_what_lies_outside_the_range_moves_nothing():
    design, targets, start = drawn(8, 3, 9)
    u = np.linalg.svd(design)[0]
    shifted = targets + 5 * u[:, -1]
    plain, other = (linear_regression(design, y, 0.1).flow(start, [1.0]) for y in (targets, shifted))
    np.testing.assert_allclose(plain, other, atol=1e-13)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="linear_regression: got X"):
        linear_regression(np.zeros((2, 2)), np.ones(2), 0.1)
    with pytest.raises(ValueError, match="linear_regression: got X"):
        linear_regression(np.ones((2, 2)), np.ones(3), 0.1)
    with pytest.raises(ValueError, match="linear_regression: got X"):
        linear_regression(np.ones((2, 2)), np.ones(2), -0.1)
    problem = linear_regression(np.ones((1, 2)), [1.0], 0.5)
    with pytest.raises(ValueError, match="rate=2"):
        problem.descent(np.ones(2), 2.0, [1])
    with pytest.raises(ValueError, match="whole numbers"):
        problem.descent(np.ones(2), 0.1, [1.5])
    with pytest.raises(ValueError, match="flow: got times"):
        problem.flow(np.ones(2), [-1.0])
    with pytest.raises(ValueError, match="weights of shape"):
        problem.gradient(np.ones(3))
    with pytest.raises(ValueError, match="decay=0"):
        linear_regression(np.ones((1, 2)), [1.0], 0.0).junction(np.ones(2))
