"""The straight line, against numpy and against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from grokscope.measures import states
from grokscope.measures.lines import block_slope, fit_blocks, fit_line


def test_exact_line():
    fit = fit_line([0, 1, 2, 3], [1, 3, 5, 7])
    assert (fit.slope, fit.intercept, fit.low, fit.high, fit.r_squared, fit.n) == (2, 1, 2, 2, 1, 4)


def test_against_scipy():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(30)
    y = 2 * x + rng.standard_normal(30)
    ours = fit_line(x, y, 0.9)
    theirs: Any = stats.linregress(x, y)
    half = stats.t.ppf(0.95, 28) * theirs.stderr
    assert ours.slope == pytest.approx(theirs.slope, rel=1e-12)
    assert ours.intercept == pytest.approx(theirs.intercept, rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.slope - half, theirs.slope + half), rel=1e-10)
    assert ours.r_squared == pytest.approx(theirs.rvalue**2, rel=1e-12)


def test_two_points_have_no_interval_and_a_constant_no_r_squared():
    assert fit_line([0, 1], [0, 1]).low is None
    assert fit_line([0, 1, 2], [0.1, 0.1, 0.1]).r_squared is None


@pytest.mark.parametrize(
    ("x", "y"), [([1, 1], [0, 1]), ([1], [1]), ([1, 2], [1]), ([1, 2], [1, float("nan")])]
)
def test_refuses(x, y):
    with pytest.raises(ValueError, match="fit_line: got"):
        fit_line(x, y)


def test_block_slope_of_a_line_and_a_constant():
    steps = np.arange(0, 500, 7)
    slope = block_slope(steps, 0.1 + 2e-3 * steps)
    assert slope == pytest.approx((2e-3, 2e-3, 2e-3), rel=1e-9)
    assert block_slope(steps, np.full(steps.size, 0.1)) == (0.0, 0.0, 0.0)
    assert block_slope([0, 1, 2], [0, 1, 2]) is None
    with pytest.raises(ValueError, match="blocks"):
        block_slope(steps, steps, blocks=2)


def autoregressive(rng, n, rho):
    noise = rng.standard_normal(n)
    for i in range(1, n):
        noise[i] += rho * noise[i - 1]
    return noise


def test_block_slope_is_honest_where_residuals_are_correlated():
    rng = np.random.default_rng(0)
    steps = np.arange(240)
    wrong = [0, 0]
    for _ in range(400):
        y = autoregressive(rng, steps.size, 0.7)
        found = block_slope(steps, y)
        assert found is not None
        wrong[0] += not found[1] <= 0 <= found[2]
        line, cov = np.polyfit(steps, y, 1, cov=True)
        wrong[1] += abs(line[0]) > 1.97 * np.sqrt(cov[0, 0])
    # The nominal rate is one in twenty; least squares on the saves errs several times as often.
    assert wrong[0] < 40
    assert wrong[1] > 100


def test_block_slope_sees_a_smooth_rise():
    steps = np.arange(100)
    for rise in (1 / (1 + np.exp(-(steps - 50) / 8)), 1 - np.exp(-steps / 30), (steps / 100) ** 3):
        found = block_slope(steps, rise)
        assert found is not None
        assert found[1] > 0


def test_block_slope_has_one_definition():
    assert states.block_slope is block_slope


def test_fit_blocks_is_the_line_with_the_slope_of_block_means():
    rng = np.random.default_rng(1)
    steps = np.arange(0, 400, 4)
    y = 3 + 0.01 * steps + rng.standard_normal(steps.size)
    fit, plain = fit_blocks(steps, y), fit_line(steps, y)
    assert (fit.slope, fit.low, fit.high) == block_slope(steps, y)
    assert fit.intercept == pytest.approx(y.mean() - fit.slope * steps.mean(), rel=1e-12)
    assert (fit.r_squared, fit.n) == (plain.r_squared, 100)
    # with a save a block there is nothing to average, and both are one line
    few, same = fit_blocks(steps[:6], y[:6]), fit_line(steps[:6], y[:6])
    assert (few.slope, few.intercept, few.low, few.high) == pytest.approx(
        (same.slope, same.intercept, same.low, same.high), rel=1e-9
    )
    with pytest.raises(ValueError, match="fit_blocks: got 3 saves"):
        fit_blocks([0, 1, 2], [0, 1, 2])
