"""The likelihood of intervals, against least squares and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from grokscope.measures.interval_likelihood import arrange, log_bounds, maximise
from grokscope.measures.resampling import cluster_weights


def law(n=60, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    y = 2 * x + 0.5 + noise * rng.standard_normal(n)
    return np.column_stack([x, np.ones(n)]), y


def by_hand(X, low, high):
    def minus(theta):
        scale, mean = np.exp(theta[2]), X @ theta[:2]
        return -np.sum(np.log(norm.cdf((high - mean) / scale) - norm.cdf((low - mean) / scale)))

    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 5000}
    found = minimize(minus, [2.0, 0.5, -1.0], method="Nelder-Mead", options=options)
    return found.x[:2], np.exp(found.x[2]), -found.fun


def test_points_are_least_squares():
    X, y = law()
    found, b = maximise(X, y, y), np.linalg.lstsq(X, y, rcond=None)[0]
    variance = np.mean((y - X @ b) ** 2)
    assert found.coefficients[0] == pytest.approx(b, rel=1e-10)
    assert found.scale[0] == pytest.approx(np.sqrt(variance), rel=1e-10)
    assert found.log_likelihood[0] == pytest.approx(-30 * (np.log(2 * np.pi * variance) + 1), rel=1e-10)


def test_narrow_intervals_are_least_squares_whatever_way_they_are_taken():
    X, y = law()
    b = np.linalg.lstsq(X, y, rcond=None)[0]
    for width in (1e-12, 1e-7, 2e-5, 4e-5, 1e-3):
        found = maximise(X, y - width / 2, y + width / 2)
        assert found.coefficients[0] == pytest.approx(b, abs=10 * width**2 + 1e-9), width
        # A density becomes a probability by its width.
        density = maximise(X, y, y).log_likelihood[0]
        assert found.log_likelihood[0] - 60 * np.log(width) == pytest.approx(
            density, abs=100 * width + 2e-2 * (width < 1e-9)
        )


@pytest.mark.parametrize("case", ["wide", "right", "left", "all"])
def test_against_a_search_by_hand(case):
    X, y = law()
    low, high = np.floor(y / 0.4) * 0.4, np.floor(y / 0.4) * 0.4 + 0.4
    if case in ("right", "all"):
        low, high = np.where(low > 1, 1.0, low), np.where(low > 1, np.inf, high)
    if case in ("left", "all"):
        low, high = np.where(high < 0, -np.inf, low), np.where(high < 0, 0.0, high)
    found, (b, scale, value) = maximise(X, low, high), by_hand(X, low, high)
    assert found.coefficients[0] == pytest.approx(b, abs=1e-6)
    assert found.scale[0] == pytest.approx(scale, rel=1e-6)
    assert found.log_likelihood[0] == pytest.approx(value, abs=1e-9)


def test_a_batch_is_its_fits_one_by_one_and_a_weight_is_a_repetition():
    X, y = law()
    low, high = np.floor(y / 0.2) * 0.2, np.where(y > 1.5, np.inf, np.floor(y / 0.2) * 0.2 + 0.2)
    weights = cluster_weights(np.arange(60), 5, 3)
    together = maximise(X, low, high, weights)
    for i, counts in enumerate(weights):
        rows = np.repeat(np.arange(60), counts.astype(int))
        alone = maximise(X[rows], low[rows], high[rows])
        assert together.coefficients[i] == pytest.approx(alone.coefficients[0], abs=1e-6)
        assert together.log_likelihood[i] == pytest.approx(alone.log_likelihood[0], abs=1e-8)
    moved = np.stack([low, low - X[:, 0]]), np.stack([high, high - X[:, 0]])
    both = maximise(X, *moved)
    assert both.coefficients[0] - both.coefficients[1] == pytest.approx([1, 0], abs=1e-6)


def test_runs_that_show_nothing_change_nothing():
    X, y = law()
    more = np.append(X, [[9.0, 1.0]], axis=0)
    one = maximise(X, y - 0.1, y + 0.1)
    other = maximise(more, np.append(y - 0.1, -np.inf), np.append(y + 0.1, np.inf))
    assert np.array_equal(one.coefficients, other.coefficients)


def test_a_perfect_fit_ends():
    X, _ = law()
    y = X @ [3.0, 1.0]
    exact = maximise(X, y, y)
    assert exact.coefficients[0] == pytest.approx([3, 1], rel=1e-9)
    assert exact.scale[0] < 1e-8
    inside = maximise(X, y - 0.01, y + 0.01)
    assert inside.log_likelihood[0] == pytest.approx(0, abs=1e-9)
    assert inside.coefficients[0] == pytest.approx([3, 1], abs=0.03)


def test_arrange_forgets_the_order_of_the_input():
    x, low, high = np.array([1.0, 2, 1, 2]), np.array([3.0, 5, 4, 6]), np.array([4.0, 6, 5, np.inf])
    groups, clusters = ["a", "a", "b", "b"], [10, 9, 10, 9]
    one = arrange("t", x, low, high, groups, clusters)
    i = [3, 1, 0, 2]
    other = arrange("t", x[i], low[i], high[i], [groups[k] for k in i], [clusters[k] for k in i])
    for name in ("x", "low", "high", "group", "cluster"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.groups == ("a", "b")
    assert one.clusters == 2
    assert one.slopes_known(np.array([[1.0, 1, 1, 1], [1, 0, 1, 1]])).tolist() == [
        [True, False],
        [False, False],
    ]


@pytest.mark.parametrize(
    ("low", "high"),
    [([], []), ([1], [1, 2]), ([2], [1]), ([-1], [1]), ([np.nan], [1]), ([np.inf], [np.inf]), ([0], [0])],
)
def test_log_bounds_refuses(low, high):
    with pytest.raises(ValueError, match="what: got"):
        log_bounds("what", low, high)


def test_arrange_refuses():
    with pytest.raises(ValueError, match="equally many"):
        arrange("what", [1.0], [1, 2], [2, 3])
    with pytest.raises(ValueError, match="finite x"):
        arrange("what", [1.0, np.nan], [1, 2], [2, 3])
