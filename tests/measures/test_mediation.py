"""The recovery fraction and the collapse: closed forms, the published medians, seeds and censored runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.measures.lines import fit_line
from grokscope.measures.mediation import collapse, recovery, recovery_fraction

# Medians of arXiv 2606.18465 at rho = 1.15, by temperature.
P59 = ([12600, 9100, 6825, 4700, 3450], [34.31, 29.46, 26.5, 23.13, 20.89])
P97 = ([6050, 4200, 3050, 2188, 1762], [43.01, 38.8, 35.1, 31.49, 29.1])
SCALES = [30.0, 20.0, 10.0]


def test_closed_form():
    # T2 = 1500 at l0 = 15
    assert recovery_fraction(1000, 3000, 15, SCALES, [3000, 2000, 1000]) == pytest.approx(0.75)
    assert recovery_fraction(1000, 3000, 10, SCALES, [3000, 2000, 1000]) == 1
    assert recovery_fraction(1000, 3000, 30, SCALES, [3000, 2000, 1000]) == 0
    # The arms may even overshoot.
    assert recovery_fraction(1500, 3000, 10, SCALES, [3000, 2000, 750]) == pytest.approx(1.5)


def test_published_fractions():
    one = recovery_fraction(3675, 12600, 23.87, P59[1], P59[0])
    other = recovery_fraction(1775, 6050, 31.71, P97[1], P97[0])
    assert one is not None
    assert other is not None
    assert (round(one, 2), round(other, 2)) == (0.83, 0.89)


def test_nothing_is_extrapolated():
    assert recovery_fraction(1000, 3000, 9.9, SCALES, [3000, 2000, 1000]) is None
    assert recovery_fraction(1000, 3000, 30.1, SCALES, [3000, 2000, 1000]) is None
    times = np.full((3, 4), 2000.0)
    found = recovery(([1000] * 4, [1000] * 4), (times, times), 9.9, SCALES)
    assert (found.fraction, found.at_least, found.low) == (None, None, None)
    assert found.reason == "the scale 9.9 lies outside that of the arms, 10 to 30"


@given(st.permutations(range(5)), st.floats(0.1, 10), st.floats(0.1, 10))
def test_order_and_units_do_not_matter(order, time, scale):
    times, scales = np.asarray(P59[0]) * time, np.asarray(P59[1]) * scale
    found = recovery_fraction(
        3675 * time, 12600 * time, 23.87 * scale, scales[list(order)], times[list(order)]
    )
    assert found == pytest.approx(0.83287, abs=1e-5)


@pytest.mark.parametrize(
    ("t0", "t1", "scales", "times"),
    [
        (3, 2, [1, 2], [1, 2]),
        (1, math.inf, [1, 2], [1, 2]),
        (1, 2, [1, 1], [1, 2]),
        (1, 2, [1, 2], [1]),
        (1, 2, [], []),
    ],
)
def test_fraction_refuses(t0, t1, scales, times):
    with pytest.raises(ValueError, match="recovery_fraction: got"):
        recovery_fraction(t0, t1, 1, scales, times)


def seeds_of(medians, count=7, spread=0.05, seed=0):
    """Times of matched seeds, a common factor each, whose medians are the given ones exactly."""
    factors = np.exp(spread * np.sort(np.random.default_rng(seed).standard_normal(count)))
    factors /= np.median(factors)
    return np.asarray(medians, dtype=float)[:, None] * factors


def test_recovery_of_medians_is_that_of_the_numbers():
    arms, base = seeds_of(P59[0]), seeds_of([3675])[0]
    found = recovery((base - 25, base), (arms - 25, arms), 23.87, P59[1], resamples=100)
    expected = recovery_fraction(3675, 12600, 23.87, P59[1], P59[0])
    assert found.fraction == pytest.approx(expected)
    assert found.matched == pytest.approx(12600 - 0.8328720212 * (12600 - 3675))
    # A factor common to all arms of a seed cancels in a matched bootstrap.
    assert (found.low, found.high) == pytest.approx((expected, expected))
    assert (found.at_least, found.at_most, found.reason) == (found.fraction, found.fraction, None)
    assert (found.seeds, found.resamples) == (7, 100)


def test_interval_of_the_recovery_over_seeds():
    rng = np.random.default_rng(0)
    truth = recovery_fraction(3675, 12600, 23.87, P59[1], P59[0])
    assert truth is not None
    held = 0
    for _ in range(60):
        times = np.asarray([3675, *P59[0]])[:, None] * np.exp(0.08 * rng.standard_normal((6, 12)))
        found = recovery((times[0], times[0]), (times[1:], times[1:]), 23.87, P59[1], resamples=100)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert 51 <= held <= 60


def test_scales_that_are_known_from_the_seeds_are_resampled_with_them():
    """Means over seeds of scales that scatter: taken for known, the interval is too narrow."""
    truth = recovery_fraction(3675, 12600, 23.87, P59[1], P59[0])
    assert truth is not None
    rng, held, known = np.random.default_rng(1), 0, 0
    for _ in range(60):
        times = np.asarray([3675, *P59[0]])[:, None] * np.exp(0.02 * rng.standard_normal((6, 12)))
        each = np.asarray([23.87, *P59[1]])[:, None] * np.exp(0.1 * rng.standard_normal((6, 12)))
        base, arms, mean = (times[0], times[0]), (times[1:], times[1:]), each.mean(1)

        def scales_of(chosen, each=each):
            middle = each[:, chosen].mean(1)
            return float(middle[0]), middle[1:]

        found = recovery(base, arms, mean[0], mean[1:], resamples=100, scales_of=scales_of)
        fixed = recovery(base, arms, mean[0], mean[1:], resamples=100)
        assert found.fraction == fixed.fraction
        held += (found.low or 9) <= truth <= (found.high or 0)
        known += (fixed.low or 9) <= truth <= (fixed.high or 0)
    assert held >= 51
    assert known <= 30


def test_censored_runs_are_bounds():
    arms, base = seeds_of([3000, 2000, 1000], spread=0.01), seeds_of([1000], spread=0.01)[0]
    low, high = arms.copy(), arms.copy()
    # Four of seven runs of the slowest arm were stopped at 2500.
    low[0, :4], high[0, :4] = 2500, math.inf
    found = recovery((base, base), (low, high), 15, SCALES, resamples=50)
    assert found.fraction is None
    assert found.reason == "a median falls among runs that did not get there"
    assert found.at_least == pytest.approx((2500 - 1500) / (2500 - 1000), rel=0.01)
    assert found.at_most == 1
    assert found.matched == pytest.approx(1500)
    assert found.low is not None
    assert found.at_least is not None
    assert found.low <= found.at_least + 0.02
    assert found.high == 1
    # One of seven that was stopped later than the median leaves it as it is.
    low, high = arms.copy(), arms.copy()
    low[0, -1], high[0, -1] = 3010, math.inf
    assert recovery((base, base), (low, high), 15, SCALES, resamples=50).fraction == pytest.approx(0.75)


def test_a_censored_arm_beside_the_baseline_s_scale_leaves_no_lower_bound():
    arms, base = seeds_of([3000, 2000, 1000]), seeds_of([1000])[0]
    low, high = arms.copy(), arms.copy()
    low[1], high[1] = 1900, math.inf
    found = recovery((base, base), (low, high), 15, SCALES, resamples=50)
    assert (found.fraction, found.at_least, found.low, found.matched) == (None, None, None, None)
    assert found.at_most == pytest.approx((3000 - 1450) / 2000)


def test_no_effect_is_undefined():
    arms, base = seeds_of([1000, 900, 800]), seeds_of([1000])[0]
    found = recovery((base, base), (arms, arms), 15, SCALES, resamples=20)
    assert found.fraction is None
    assert found.reason == "the median of the raised arm is not later than that of the baseline"


@pytest.mark.parametrize("raised", [-1, 3])
def test_recovery_refuses(raised):
    arms = seeds_of([3000, 2000, 1000])
    with pytest.raises(ValueError, match="raised"):
        recovery((arms[2], arms[2]), (arms, arms), 15, SCALES, raised=raised)
    with pytest.raises(ValueError, match="shape"):
        recovery((arms[2, :3], arms[2, :3]), (arms, arms), 15, SCALES)
    with pytest.raises(ValueError, match="interval"):
        recovery((arms[2], arms[2]), (arms, arms - 1), 15, SCALES)


def cells(seed=0):
    rng = np.random.default_rng(seed)
    rho, tau = np.repeat([1, 1.05, 1.1, 1.15], 3), np.tile([1, 1.3, 1.7], 4)
    scale = 25 * rho**3 / tau
    return rho, scale, np.exp(0.09 * scale + 6 + 0.02 * rng.standard_normal(12))


def test_collapse_is_ordinary_r_squared():
    rho, scale, time = cells()
    found = collapse(time, time, scale, rho)
    assert found.on_scale == pytest.approx(fit_line(scale, np.log(time)).r_squared)
    assert found.on_norm == pytest.approx(fit_line(rho, np.log(time)).r_squared)
    X, y = np.column_stack([scale, rho, np.ones(12)]), np.log(time)
    rest = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    assert found.on_both == pytest.approx(1 - rest.var() / y.var())
    assert found.on_scale is not None
    assert found.on_norm is not None
    assert found.on_scale > 0.99 > 0.7 > found.on_norm
    assert (found.n, found.censored) == (12, 0)


@settings(max_examples=20)
@given(st.permutations(range(12)), st.floats(0.1, 100))
def test_collapse_forgets_order_and_units(order, unit):
    rho, scale, time = cells()
    high = np.where(time > 3500, math.inf, time)
    low = np.where(time > 3500, 3400, time)
    one, i = collapse(low, high, scale, rho), list(order)
    other = collapse(unit * low[i], unit * high[i], unit * scale[i], 2 * rho[i])
    assert one.censored > 0
    for name in ("on_scale", "on_norm", "on_both"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5)


def test_collapse_keeps_censored_cells():
    rho, scale, time = cells()
    late = time > np.sort(time)[-4]
    found = collapse(np.where(late, 2000, time), np.where(late, math.inf, time), scale, rho)
    assert found.censored == 3
    assert found.on_scale is not None
    assert found.on_scale > 0.98


@pytest.mark.parametrize(
    ("scale", "norm"),
    [([1] * 5, [1, 2, 3, 4, 5]), ([1, 2, 3, 4], [1, 2, 3, 4, 5]), ([1, 2, 3, 4, math.nan], [1, 2, 3, 4, 5])],
)
def test_collapse_refuses(scale, norm):
    with pytest.raises(ValueError, match="collapse: got"):
        collapse([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], scale, norm)
