"""The two clocks on trajectories whose clocks are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.measures.clocks import (
    classifier_clock,
    fit_clock,
    fit_line,
    gap_growth,
    log_grid,
    representation_clock,
    separation,
    tail_contraction,
)
from grokscope.measures.crossings import Crossing


@pytest.fixture(scope="module")
def separable_loss():
    """Gradient descent, lr 1, on log(1 + exp(-w)) from w = 0: one separable sample, no decay."""
    w, loss = 0.0, np.empty(20_000)
    for step in range(loss.size):
        loss[step] = np.log1p(np.exp(-w))
        w += 1 / (1 + np.exp(w))
    return loss


def slope_and_interval(fit):
    assert fit is not None
    assert fit.low is not None
    assert fit.high is not None
    return fit.slope, fit.low, fit.high


def test_classifier_clock_of_separable_logistic_data(separable_loss):
    clock = classifier_clock(np.arange(separable_loss.size), separable_loss, [1e-1, 1e-2, 1e-3, 1e-4])
    assert [crossing.by for crossing in clock] == [10, 102, 1003, 10004]
    fit = fit_clock([1e-1, 1e-2, 1e-3, 1e-4], clock)
    assert fit.preferred == "power"
    slope, low, high = slope_and_interval(fit.power)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert low < slope < high < 1.1
    assert fit.power is not None
    assert fit.power.r_squared is not None
    assert fit.power.r_squared > 0.999


def test_power_clock_survives_sparse_saves(separable_loss):
    steps = np.unique(np.geomspace(1, separable_loss.size, 60).astype(int)) - 1
    levels = log_grid(separable_loss)
    fit = fit_clock(levels, classifier_clock(steps, separable_loss[steps], levels))
    assert fit.preferred == "power"
    assert fit.power is not None
    assert fit.power.slope == pytest.approx(1.0, abs=0.1)
    # The last level is reached at the last save but one: too few saves to confirm it.
    assert (fit.levels, fit.used, fit.censored, fit.unbounded) == (17, 16, 1, 0)


def test_exponential_decay_prefers_the_logarithmic_clock():
    steps = np.arange(2000)
    loss = np.exp(-steps / 100)
    levels = log_grid(loss)
    fit = fit_clock(levels, classifier_clock(steps, loss, levels))
    assert fit.preferred == "logarithmic"
    assert fit.delta_aic is not None
    assert fit.delta_aic < -10
    slope, low, high = slope_and_interval(fit.logarithmic)
    assert slope == pytest.approx(100, abs=0.05)
    assert low <= 100 <= high
    # The level 1 holds at step 0 already; it is counted, not fitted.
    assert (fit.levels, fit.used, fit.censored, fit.unbounded) == (35, 34, 0, 1)


def test_two_clocks_within_the_resolution_of_the_saves_cannot_be_told():
    # Both a + b x and a power pass through these wide intervals.
    levels = [1e-1, 1e-2, 1e-3, 1e-4]
    wide = [
        Crossing(1, 200, False),
        Crossing(2, 300, False),
        Crossing(3, 400, False),
        Crossing(4, 520, False),
    ]
    fit = fit_clock(levels, wide)
    assert fit.preferred == "cannot tell"
    assert fit.reason is not None
    assert "AIC" in fit.reason


def test_three_levels_are_too_few():
    steps = np.arange(400)
    loss = np.exp(-steps / 40)
    levels = [1e-1, 1e-2, 1e-3, 1e-8]
    fit = fit_clock(levels, classifier_clock(steps, loss, levels))
    assert (fit.preferred, fit.used, fit.censored) == ("cannot tell", 3, 1)
    assert fit.logarithmic is not None
    assert fit.logarithmic.slope == pytest.approx(40, rel=0.01)
    none = fit_clock([1e-8, 1e-9], classifier_clock(steps, loss, [1e-8, 1e-9]))
    assert (none.logarithmic, none.power, none.preferred, none.censored) == (None, None, "cannot tell", 2)
    assert none.reason is not None


def test_levels_that_share_one_crossing_are_one_observation():
    same = [Crossing(10, 20, False)] * 6
    assert fit_clock(np.geomspace(1e-1, 1e-6, 6), same).logarithmic is None


def test_grid_range_of_the_slope_is_reached_at_the_corners():
    levels = [1e-1, 1e-2, 1e-3, 1e-4]
    crossings = [
        Crossing(10, 14, False),
        Crossing(20, 23, False),
        Crossing(31, 40, False),
        Crossing(44, 45, False),
    ]
    x = np.log(1 / np.asarray(levels))
    corners = np.array(np.meshgrid(*[(c.after, c.by) for c in crossings])).reshape(4, -1).T
    fit = fit_clock(levels, crossings)
    for ends, rows in ((fit.logarithmic_grid, corners), (fit.power_grid, np.log(corners))):
        slopes = [np.polyfit(x, row, 1)[0] for row in rows]
        assert ends == pytest.approx((min(slopes), max(slopes)), rel=1e-9)


def test_delta_aic_of_exact_observations_matches_the_jacobian_formula():
    # Intervals that are tiny beside the residuals leave the textbook formula.
    rng = np.random.default_rng(1)
    levels = np.geomspace(1e-1, 1e-6, 12)
    by = (10**6 * np.sort(rng.uniform(1, 10, 12))).astype(int)
    fit = fit_clock(levels, [Crossing(int(step) - 1, int(step), False) for step in by])
    x, mid = np.log(1 / levels), by - 0.5

    def aic(y, jacobian):
        rss = np.sum((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2)
        return 12 * np.log(2 * np.pi * rss / 12) + 12 + 2 * jacobian + 6

    assert fit.delta_aic == pytest.approx(aic(mid, 0) - aic(np.log(mid), np.sum(np.log(mid))), abs=1e-4)


def test_another_clock_of_time():
    steps = np.arange(0, 2000, 10)
    loss = np.exp(-steps / 100)
    levels = log_grid(loss)
    clock = classifier_clock(steps, loss, levels)
    inner_time = {int(step): 1e-3 * float(step) for step in steps}
    plain, scaled = fit_clock(levels, clock), fit_clock(levels, clock, inner_time)
    assert plain.logarithmic is not None
    assert scaled.logarithmic is not None
    assert scaled.logarithmic.slope == pytest.approx(1e-3 * plain.logarithmic.slope, rel=1e-9)
    assert scaled.delta_aic == pytest.approx(plain.delta_aic, abs=1e-3)
    with pytest.raises(ValueError, match="no time for step"):
        fit_clock(levels, clock, {0: 0.0})


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20), st.integers(1, 6))
def test_log_grid_lies_between_the_extremes_on_one_lattice(values, per_decade):
    grid = log_grid(values, per_decade)
    assert np.all(grid >= min(values) * (1 - 1e-6))
    assert np.all(grid <= max(values) * (1 + 1e-6))
    exponents = np.log10(grid) * per_decade
    np.testing.assert_allclose(exponents, np.round(exponents), atol=1e-6)
    assert np.all(np.diff(np.round(exponents)) == -1)
    decades = per_decade * (np.log10(max(values)) - np.log10(min(values)))
    assert abs(grid.size - decades) <= 1 + 1e-6


def test_log_grid_values():
    np.testing.assert_allclose(log_grid([1.0, 0.1, 0.0, np.inf, np.nan]), 10.0 ** (-np.arange(5) / 4))
    assert log_grid([2.0, 2.1]).size == 0
    with pytest.raises(ValueError, match="log_grid"):
        log_grid([0.0, -1.0])


def test_separation_of_the_clocks():
    steps = np.arange(0, 4000, 10)
    fast, slow = np.exp(-steps / 50), np.exp(-steps / 200)
    levels = [1e-1, 1e-2, 1e-3]
    ratios = separation(representation_clock(steps, slow, levels), classifier_clock(steps, fast, levels))
    for low, high in ratios:
        assert low is not None
        assert high is not None
        assert low <= 4.0 <= high
    never = representation_clock(steps, slow + 1, levels)
    assert separation(never, classifier_clock(steps, fast, levels))[0] == (3990 / 120, None)
    with pytest.raises(ValueError, match="equally many"):
        separation(never, [])


@pytest.mark.parametrize("levels", [[0.0], [-1.0], [np.inf], [[0.1]]])
def test_clocks_refuse_levels(levels):
    with pytest.raises(ValueError, match="positive finite"):
        classifier_clock([0, 1], [1.0, 1.0], levels)


def test_fit_clock_refuses():
    with pytest.raises(ValueError, match="equally many"):
        fit_clock([0.1], [])
    pair = [Crossing(1, 2, False), Crossing(2, 3, False)]
    with pytest.raises(ValueError, match="clock that advances"):
        fit_clock([0.1, 0.01], pair, {1: 0.0, 2: 0.0, 3: 1.0})


def test_gap_growth_window_ends_where_the_line_does():
    steps = np.arange(0, 2000, 10)
    margin = np.minimum(0.02 * steps - 4, 10.0)
    growth = gap_growth(steps, margin)
    assert growth.positive == Crossing(200, 210, False)
    assert growth.line is not None
    assert growth.window is not None
    assert growth.window[0] == 210
    # The plateau starts at 700; past it the second half grows too flat, well before R squared says so.
    assert 700 <= growth.window[1] <= 810
    assert not growth.to_end
    straight = gap_growth(steps, 0.02 * steps - 4)
    assert straight.to_end
    assert straight.line is not None
    assert straight.line.slope == pytest.approx(0.02, rel=1e-9)


def slow_window(steps, values, r_squared=0.95, at_least=5):
    """The longest straight window from the first point, one candidate after the other."""
    for n in range(len(steps), at_least - 1, -1):
        x, y = steps[:n], values[:n]
        whole, first, second = (
            np.polyfit(x[part], y[part], 1)[0]
            for part in (slice(None), slice(0, (n + 1) // 2), slice(n // 2, n))
        )
        straight = np.corrcoef(x, y)[0, 1] ** 2 >= r_squared
        if whole > 0 and straight and max(abs(first - whole), abs(second - whole)) <= whole / 4:
            return n
    return None


@pytest.mark.parametrize("seed", range(6))
def test_the_window_is_the_longest_that_is_straight_in_both_halves(seed):
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 30, 80))
    margin = np.sqrt(steps) + rng.normal(0, 0.3 * seed, steps.size).clip(-2) + 3
    n = slow_window(steps, margin)
    growth = gap_growth(steps, margin)
    assert growth.window == (None if n is None else (steps[0], steps[n - 1]))


def test_a_curve_with_halves_of_different_slopes_is_no_line():
    """1 - e^{-t}: R squared alone accepts t up to 1.79, where the slopes of the halves differ 2.4 times."""
    steps = np.arange(1, 400)
    margin = 1 - np.exp(-steps / 100)
    assert np.corrcoef(steps[:179], margin[:179])[0, 1] ** 2 > 0.95
    growth = gap_growth(steps, margin)
    assert growth.window is not None
    assert growth.line is not None
    # The slope of 1 - e^{-t} over [u, v] falls as e^{-t}: halves e^{v/2} apart, which 25 % each way allows to
    # be no more than 5/3.
    assert 60 < growth.window[1] < 200 * np.log(5 / 3)
    assert growth.line.slope == pytest.approx(0.01 * np.exp(-growth.window[1] / 200), rel=0.03)


def test_intervals_of_a_rate_hold_the_truth_where_residuals_are_correlated():
    rng = np.random.default_rng(0)
    steps = np.arange(240)
    missed = [0, 0, 0]
    for _ in range(200):
        noise = 0.02 * rng.standard_normal(steps.size)
        for i in range(1, steps.size):
            noise[i] += 0.9 * noise[i - 1]
        growth = gap_growth(steps, 1 + 0.01 * steps + noise)
        assert growth.to_end
        _, low, high = slope_and_interval(growth.line)
        missed[0] += not low <= 0.01 <= high
        tail = tail_contraction(steps, np.exp(-0.01 * steps + noise), start_step=0)
        assert tail.low is not None
        assert tail.high is not None
        missed[1] += not tail.low <= 1 - np.exp(-0.01) <= tail.high
        _, low, high = slope_and_interval(fit_line(steps, 0.01 * steps + noise))
        missed[2] += not low <= 0.01 <= high
    # one in twenty is what the intervals promise; taken as independent, most of them miss
    assert max(missed[:2]) < 40
    assert missed[2] > 80


def test_gap_growth_absent_with_a_reason():
    steps = np.arange(100)
    assert gap_growth(steps, -np.ones(100)).reason == "the margin is not positive for 3 saves"
    assert gap_growth(steps, np.zeros(100)).positive.censored
    falling = gap_growth(steps, 100.0 - steps)
    assert falling.line is None
    assert "no straight rise" in (falling.reason or "")
    assert "halves within 25%" in (falling.reason or "")


def test_tail_contraction_of_a_geometric_loss():
    steps = np.arange(0, 300, 3)
    found = tail_contraction(steps, 5 * 0.9**steps, start_step=10)
    np.testing.assert_allclose(found.rates, 0.1, rtol=1e-9)
    assert (found.mu, found.smallest) == pytest.approx((0.1, 0.1), rel=1e-9)
    assert found.window == (12, 297)
    assert found.to_end
    assert found.steps[0] == 12


def test_tail_contraction_stops_at_a_floor_and_before_a_zero():
    steps = np.arange(400)
    floor = tail_contraction(steps, np.maximum(0.9**steps, 1e-6), start_step=0)
    assert floor.window is not None
    assert 131 <= floor.window[1] < 165
    assert not floor.to_end
    assert floor.mu is not None
    assert 0.09 < floor.mu < 0.1
    zero = tail_contraction(steps, np.where(steps < 50, 0.9**steps, 0.0), start_step=0)
    assert zero.window == (0, 49)
    assert zero.mu == pytest.approx(0.1, rel=1e-9)
    assert not zero.to_end


def test_tail_contraction_of_a_power_law_is_short(separable_loss):
    steps = np.arange(separable_loss.size)
    found = tail_contraction(steps, separable_loss, start_step=10)
    assert found.window is None or found.window[1] < 1000
    rising = tail_contraction(np.arange(50), np.exp(np.arange(50) / 10), start_step=0)
    assert rising.mu is None
    assert "no straight fall" in (rising.reason or "")
    assert np.all(rising.rates < 0)


def test_tail_contraction_without_saves_after_the_start():
    found = tail_contraction(np.arange(10), np.ones(10), start_step=100)
    assert found.rates.size == 0
    assert found.window is None
