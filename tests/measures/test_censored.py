"""Medians and laws of censored times: closed forms, the published tables, and laws whose exponent is known."""

from __future__ import annotations

import math
from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtri

from grokscope.measures.censored import as_bounds, log_linear_fit, median_interval
from grokscope.measures.crossings import Crossing
from grokscope.measures.lines import fit_line

RHO = [0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25]
# Median grok steps of arXiv 2606.13753 at p = 59, and of its scan over p at rho 0.85, 1 and 1.15.
DENSE = [1495, 1781, 2469.5, 3999, 6380, 9433, 13030, 19407, 26929]
SCAN = {
    41: [2850, 9718, 30661],
    53: [1668, 5010, 16090],
    59: [1439.5, 4053.5, 13323],
    71: [1191, 2767, 9929],
}
SCAN_ALPHA = {41: 7.92, 53: 7.56, 59: 7.42, 71: 7.07}


def simulated(seed, seeds=16, rho=RHO, alpha=7.6, noise=0.15, common=0.1, budget=np.inf, tilt=0.0):
    """Runs of a known law on a grid of steps 3 % apart, a common part for each seed, and a budget."""
    rng = np.random.default_rng(seed)
    x, label = np.tile(rho, seeds), np.repeat(np.arange(seeds), len(rho))
    level, slope = common * rng.standard_normal(seeds), tilt * rng.standard_normal(seeds)
    time = np.exp(
        alpha * (x - 1) + 8.3 + level[label] + slope[label] * (x - 1) + noise * rng.standard_normal(x.size)
    )
    grid = np.append(0, np.geomspace(10, 1e6, 400))
    at = np.searchsorted(grid, time)
    low, high = grid[at - 1], grid[at]
    late = high > budget
    return x, np.where(late, grid[grid <= budget].max(), low), np.where(late, np.inf, high), label


# --- medians --------------------------------------------------------------------------------------


def test_as_bounds():
    low, high = as_bounds([Crossing(10, 20, False), Crossing(None, 10, False), Crossing(50, None, True)])
    assert low.tolist() == [10, 0, 50]
    assert high.tolist() == [20, 10, math.inf]


def test_median_of_an_odd_and_of_an_even_number():
    odd = median_interval([1, 5, 3], [2, 6, 4])
    assert (odd.value, odd.after, odd.by, odd.n, odd.censored) == (4, 3, 4, 3, 0)
    even = median_interval([1, 3, 5, 7], [2, 4, 6, 8])
    assert (even.value, even.after, even.by) == (5, 4, 5)


def test_interval_of_a_median_is_that_of_order_statistics():
    low = np.arange(16.0)
    found = median_interval(low, low + 1)
    # ranks 4 and 13 of 16: 1 - 2 (1 + 16 + 120 + 560) / 2^16
    assert (found.low, found.high) == (3, 13)
    assert found.coverage == pytest.approx(1 - 2 * 697 / 2**16)
    six = median_interval(low[:6], low[:6] + 1)
    assert (six.low, six.high, six.coverage) == (0, 6, 1 - 2 / 64)
    assert median_interval(low, low + 1, confidence=0.9).coverage == pytest.approx(1 - 2 * 2517 / 2**16)


def test_few_runs_say_what_their_range_covers():
    four = median_interval([1, 2, 3, 4], [2, 3, 4, 5])
    assert (four.low, four.high, four.coverage) == (1, 5, 0.875)
    one = median_interval([1], [2])
    assert (one.low, one.high, one.coverage) == (1, 2, 0)


def test_a_median_among_censored_runs_is_a_bound():
    found = median_interval([10, 20, 90, 90], [11, 21, math.inf, math.inf])
    assert (found.value, found.after, found.by, found.censored) == (None, 55, math.inf, 2)
    late = median_interval([10, 20, 30, 90, 90], [11, 21, 31, math.inf, math.inf])
    assert (late.value, late.low, late.high) == (31, 10, math.inf)


def test_coverage_of_the_median_interval():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        time = np.exp(rng.standard_normal(16))
        found = median_interval(time, time)
        held += found.low <= 1 <= found.high
    assert 0.95 <= held / 400 <= 1


@pytest.mark.parametrize("confidence", [0, 1, 2])
def test_median_refuses(confidence):
    with pytest.raises(ValueError, match="confidence"):
        median_interval([1], [2], confidence)


# --- closed forms of the law ----------------------------------------------------------------------


def test_exact_times_are_least_squares():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.8, 1.3, 40)
    y = 7 * x + 0.2 * rng.standard_normal(40)
    fit, line = log_linear_fit(x, np.exp(y), np.exp(y), resamples=0), fit_line(x, y)
    assert line.r_squared is not None
    assert fit.alpha == pytest.approx(line.slope, rel=1e-9)
    assert fit.constants[None] == pytest.approx(line.intercept, rel=1e-9)
    assert fit.r_squared == pytest.approx(line.r_squared, rel=1e-9)
    variance = (1 - line.r_squared) * np.var(y)
    assert fit.scale == pytest.approx(np.sqrt(variance), rel=1e-9)
    # n log(rss(alpha) / rss) = chi squared
    half = np.sqrt(variance * np.expm1(chdtri(1, 0.05) / 40) / np.var(x))
    assert (fit.profile_low, fit.profile_high) == pytest.approx((line.slope - half, line.slope + half))
    assert (fit.low, fit.resamples) == (None, 0)


def test_groups_are_constants_of_their_own():
    x = np.tile(RHO, 2)
    group = np.repeat(["p59", "p41"], 9)
    y = 7 * x + np.where(group == "p41", 2.0, 1.0) + 0.1 * np.cos(np.arange(18))
    X = np.column_stack([x, group == "p41", group == "p59"]).astype(float)
    b = np.linalg.lstsq(X, y, rcond=None)[0]
    fit = log_linear_fit(x, np.exp(y), np.exp(y), list(group), resamples=0)
    assert fit.alpha == pytest.approx(b[0], rel=1e-9)
    assert list(fit.constants) == ["p41", "p59"]
    assert list(fit.constants.values()) == pytest.approx(list(b[1:]), rel=1e-9)
    assert fit.r_squared == pytest.approx(1 - np.var(y - X @ b) / np.var(y), rel=1e-9)


def test_law_without_noise():
    x = np.tile(RHO, 3)
    time = np.exp(7.5 * x + 1)
    fit = log_linear_fit(x, time, time, clusters=list(np.repeat([0, 1, 2], 9)), resamples=20)
    assert (fit.alpha, fit.low, fit.high) == pytest.approx((7.5, 7.5, 7.5), rel=1e-7)
    assert (fit.profile_low, fit.profile_high) == pytest.approx((7.5, 7.5), rel=1e-6)
    assert fit.r_squared == pytest.approx(1)
    assert fit.of_medians is not None
    assert fit.of_medians.alpha == pytest.approx(7.5)


def test_one_constant_for_everything_has_no_r_squared():
    fit = log_linear_fit([0, 1, 2], [10, 10, 10], [20, 20, 20], resamples=0)
    assert fit.r_squared is None
    assert fit.alpha == pytest.approx(0, abs=1e-6)


def test_a_group_that_never_got_there_keeps_its_place_and_moves_nothing():
    x, low, high, _ = simulated(0, seeds=4)
    alone = log_linear_fit(x, low, high, ["a"] * x.size, resamples=0)
    rho = [0.85, 1.0, 1.15]
    both = log_linear_fit(
        [*x, *rho], [*low, *[15000] * 3], [*high, *[math.inf] * 3], ["a"] * x.size + ["b"] * 3, resamples=0
    )
    assert both.alpha == pytest.approx(alone.alpha, rel=1e-6)
    assert both.constants["a"] == pytest.approx(alone.constants["a"])
    assert both.constants["b"] is None
    assert (both.n, both.censored) == (39, 3)


@pytest.mark.parametrize(
    ("x", "high"), [([1, 1], [20, 20]), ([0, 1], [20, math.inf]), ([0, 1], [math.inf, math.inf])]
)
def test_law_refuses_what_does_not_identify_alpha(x, high):
    with pytest.raises(ValueError, match=r"log_linear_fit: got \d of 2 runs bounded"):
        log_linear_fit(x, [10, 10], high)


def test_law_refuses_settings():
    with pytest.raises(ValueError, match="confidence"):
        log_linear_fit([0, 1], [1, 2], [2, 3], confidence=1)
    with pytest.raises(ValueError, match="lengths"):
        log_linear_fit([0, 1], [1, 2], [2, 3], clusters=[1])


# --- the published tables -------------------------------------------------------------------------


def test_published_dense_law_is_the_fit_of_its_medians():
    fit = log_linear_fit(RHO, DENSE, DENSE, resamples=0)
    assert fit.of_medians is not None
    assert round(fit.of_medians.alpha, 2) == 7.64
    assert fit.of_medians.r_squared is not None
    assert round(fit.of_medians.r_squared, 3) == 0.994
    # One exact time an arm: the same fit.
    assert fit.alpha == pytest.approx(fit.of_medians.alpha)
    assert fit.r_squared == pytest.approx(fit.of_medians.r_squared)


def test_published_scan_over_p():
    for p, times in SCAN.items():
        fit = log_linear_fit([0.85, 1, 1.15], times, times, resamples=0)
        assert round(fit.alpha, 2) == SCAN_ALPHA[p]
    times = [time for row in SCAN.values() for time in row]
    groups = [p for p in SCAN for _ in range(3)]
    shared = log_linear_fit([0.85, 1, 1.15] * 4, times, times, groups, resamples=0)
    assert round(shared.alpha, 2) == 7.49
    assert shared.r_squared is not None
    assert round(shared.r_squared, 3) == 0.996


def test_published_law_of_the_transformer_leaves_its_last_arm_out():
    rho, times = [0.85, 1.0, 1.15, 1.2], [718, 6608, 73966, 99920]
    three = log_linear_fit(rho[:3], times[:3], times[:3], resamples=0)
    assert round(three.alpha, 2) == 15.45
    assert three.r_squared is not None
    assert round(three.r_squared, 3) == 0.999
    assert round(log_linear_fit(rho, times, times, resamples=0).alpha, 2) == 14.57


# --- laws whose exponent is known -----------------------------------------------------------------


@pytest.mark.parametrize("seeds", [4, 5])
def test_medians_of_the_arms_are_those_of_their_first_evaluations(seeds):
    x, low, high, label = simulated(2, seeds=seeds)
    fit = log_linear_fit(x, low, high, clusters=list(label), resamples=50)
    line = fit_line(RHO, [np.log(np.median(high[x == rho])) for rho in RHO])
    assert fit.of_medians is not None
    assert fit.of_medians.alpha == pytest.approx(line.slope)
    assert fit.of_medians.r_squared == pytest.approx(line.r_squared)
    assert (fit.of_medians.arms, fit.of_medians.used) == (9, 9)


def test_an_arm_whose_median_is_a_bound_is_counted_and_not_used():
    x, low, high, label = simulated(2, seeds=5, budget=9000)
    finite = [rho for rho in RHO if np.isfinite(np.median(high[x == rho]))]
    fit = log_linear_fit(x, low, high, clusters=list(label), resamples=50)
    line = fit_line(finite, [np.log(np.median(high[x == rho])) for rho in finite])
    assert fit.of_medians is not None
    assert fit.of_medians.alpha == pytest.approx(line.slope)
    assert (fit.of_medians.arms, fit.of_medians.used) == (9, len(finite))
    assert len(finite) < 9


def test_dropping_censored_runs_biases_alpha_low_and_keeping_them_does_not():
    ours, dropped = [], []
    for seed in range(30):
        # Two fifths of the runs, in the upper four arms, do not get there.
        x, low, high, _ = simulated(seed, seeds=8, noise=0.5, common=0.0, budget=6000)
        done = np.isfinite(high)
        ours.append(log_linear_fit(x, low, high, resamples=0).alpha)
        dropped.append(log_linear_fit(x[done], low[done], high[done], resamples=0).alpha)
    error = np.std(ours) / np.sqrt(len(ours))
    assert abs(np.mean(ours) - 7.6) < 3 * error
    assert error < 0.15
    assert np.mean(dropped) < 7.6 - 1.5


@pytest.mark.parametrize(
    ("budget", "tilt", "seeds"), [(np.inf, 0.0, 16), (8000, 0.0, 16), (8000, 0.8, 16), (8000, 0.0, 4)]
)
def test_coverage_of_the_interval_of_alpha(budget, tilt, seeds):
    arms = [0.85, 0.95, 1.05, 1.15]
    resampled = profile = 0
    for seed in range(60):
        x, low, high, label = simulated(seed, seeds, arms, budget=budget, tilt=tilt, noise=0.2)
        fit = log_linear_fit(x, low, high, clusters=list(label), resamples=100)
        assert fit.low is not None
        assert fit.high is not None
        assert fit.profile_low is not None
        assert fit.profile_high is not None
        resampled += fit.low <= 7.6 <= fit.high
        profile += fit.profile_low <= 7.6 <= fit.profile_high
    assert 51 <= resampled <= 60
    if tilt == 0 and seeds == 16:
        assert 51 <= profile <= 60


def test_matched_seeds_are_one_cluster_each():
    # Seeds with slopes of their own: the runs of one seed tell less than as many independent runs.
    x, low, high, label = simulated(0, tilt=2.0, noise=0.05, common=0.3)
    matched, apart = (log_linear_fit(x, low, high, clusters=c, resamples=300) for c in (list(label), None))
    assert matched.low is not None
    assert matched.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert (matched.clusters, apart.clusters) == (16, 144)
    assert matched.alpha == pytest.approx(apart.alpha)
    assert matched.high - matched.low > 1.5 * (apart.high - apart.low)


def test_two_clusters_have_no_interval_over_seeds():
    x, low, high, label = simulated(0, seeds=2)
    fit = log_linear_fit(x, low, high, clusters=list(label), resamples=50)
    assert (fit.low, fit.high, fit.clusters) == (None, None, 2)
    assert fit.profile_low is not None


def test_resamples_that_do_not_identify_alpha_are_counted():
    fit = log_linear_fit([0, 0, 1, 1], [10, 11, 20, 21], [11, 12, 21, 22], resamples=400)
    # All four from one arm: 2 x (1/2)^4
    assert 325 <= fit.resamples <= 375


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.sampled_from([4000.0, 1e9]))
def test_scaling_time_shifts_the_constant_only(seed, factor, budget):
    x, low, high, label = simulated(seed, seeds=4, budget=budget)
    one, other = (
        log_linear_fit(x, k * low, k * high, clusters=list(label), resamples=20) for k in (1.0, factor)
    )
    assert one.constants[None] is not None
    assert other.constants[None] == pytest.approx(one.constants[None] + np.log(factor), abs=1e-5)
    keep = ("alpha", "low", "high", "profile_low", "profile_high", "scale", "r_squared")
    for name in keep:
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5), name


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_runs_changes_nothing(seed, random, clustered):
    x, low, high, label = simulated(seed, seeds=4, budget=9000)
    order = list(range(x.size))
    random.shuffle(order)
    clusters = list(label) if clustered else None
    mixed = [label[i] for i in order] if clustered else None
    one = log_linear_fit(x, low, high, clusters=clusters, resamples=20)
    other = log_linear_fit(x[order], low[order], high[order], clusters=mixed, resamples=20)
    assert astuple(one) == astuple(other)
    assert median_interval(low, high) == median_interval(low[order], high[order])


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([4000.0, 1e9]))
def test_turning_x_round_flips_alpha(seed, budget):
    x, low, high, label = simulated(seed, seeds=4, budget=budget)
    one, other = (log_linear_fit(sign * x, low, high, clusters=list(label), resamples=20) for sign in (1, -1))
    assert other.alpha == pytest.approx(-one.alpha, rel=1e-6)
    assert one.low is not None
    assert one.high is not None
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), rel=1e-6)
    assert one.profile_low is not None
    assert one.profile_high is not None
    assert (other.profile_low, other.profile_high) == pytest.approx(
        (-one.profile_high, -one.profile_low), rel=1e-4
    )


def test_settings_of_the_bootstrap_matter_and_repeat():
    x, low, high, label = simulated(3, seeds=6)
    fits = [log_linear_fit(x, low, high, clusters=list(label), resamples=30, seed=s) for s in (0, 0, 1)]
    assert fits[0] == fits[1]
    assert fits[0].alpha == fits[2].alpha
    assert (fits[0].low, fits[0].high) != (fits[2].low, fits[2].high)
    wide = log_linear_fit(x, low, high, clusters=list(label), resamples=300, confidence=0.99)
    less = log_linear_fit(x, low, high, clusters=list(label), resamples=300, confidence=0.8)
    for lower, upper in product(("low", "profile_low"), ("high", "profile_high")):
        if lower.startswith("profile") == upper.startswith("profile"):
            assert getattr(wide, lower) < getattr(less, lower)
            assert getattr(wide, upper) > getattr(less, upper)
