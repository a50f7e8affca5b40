"""Curves of several strengths of decay: those of one law are one curve in λt, others are not."""

from __future__ import annotations

import numpy as np
import pytest

from grokscope.measures.collapse import collapse, spread_of_curves
from grokscope.measures.linear_regression import linear_regression

DECAYS = np.array([1e-3, 1e-4, 1e-5])


def test_equal_curves_have_no_spread_and_unrelated_ones_have_all():
    times = np.geomspace(1, 100, 4000)
    curve = np.sin(times)[None]
    np.testing.assert_array_equal(spread_of_curves([times, times], [curve, curve], 1, 100), 0)
    noise = np.random.default_rng(0).normal(size=(2, 1, 4000))
    assert spread_of_curves([times, times], list(noise), 1, 100, points=4000)[0] == pytest.approx(1, abs=0.03)


def test_the_spread_of_two_known_curves():
    """f = x and f = x + c in x = log t on (0, 1): c² apart, variance 1/12 + c²/4 about the mean of both."""
    x, c = np.linspace(0, 1, 2001), 0.3
    found = spread_of_curves([np.exp(x)] * 2, [x[None], x[None] + c], 1, np.e, points=2001)
    assert found[0] == pytest.approx(np.sqrt(c**2 / (2 * (1 / 12 + c**2 / 4))), rel=1e-3)


def test_curves_straight_in_log_time_are_read_between_saves():
    few, many = np.array([0.0, 1.0, 10.0, 100.0]), np.geomspace(1, 100, 57)
    curves = [np.array([[9.0, 0.0, 1.0, 2.0]]), np.log10(many)[None]]
    assert spread_of_curves([few, many], curves, 1, 100)[0] < 1e-14


def test_linear_regression_collapses_on_the_clock_of_decay():
    rng = np.random.default_rng(1)
    times, curves = [], []
    design, targets = rng.normal(size=(5, 12)), rng.normal(size=5)
    starts = rng.normal(size=(4, 12))
    for decay in DECAYS:
        own = np.geomspace(1e-3 / decay, 20 / decay, 200)
        problem = linear_regression(design, targets, decay)
        times.append(own)
        curves.append(np.stack([problem.flow(start, own) for start in starts]))
    found = collapse(times, curves, DECAYS, 0.02, 15.0)
    assert found.scaled < 2e-3
    assert found.interval is not None
    assert found.interval[0] <= found.scaled <= found.interval[1] < 3e-3
    assert found.plain is not None
    assert found.plain > 0.3
    # a change of units changes nothing
    again = collapse([7 * t for t in times], [3 * c for c in curves], DECAYS / 7, 0.02, 15.0)
    assert again.scaled == pytest.approx(found.scaled, rel=1e-9)


def test_another_clock_does_not_collapse():
    times = [np.geomspace(1, 1e6, 300)] * 3
    curves = [np.exp(-t * decay**0.5)[None] for t, decay in zip(times, DECAYS, strict=True)]
    found = collapse(times, curves, DECAYS, 0.001, 9.0)
    assert found.scaled > 0.2
    assert found.interval is None


def test_without_a_common_time_there_is_no_plain_spread():
    times = [np.geomspace(0.01, 10, 50) / decay for decay in (1.0, 1e-6)]
    curves = [np.log(t * decay)[None] for t, decay in zip(times, (1.0, 1e-6), strict=True)]
    found = collapse(times, curves, [1.0, 1e-6], 0.02, 5.0)
    assert found.scaled < 1e-12
    assert found.plain is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"decays": [1.0]}, "at least two"),
        ({"decays": [1.0, 1.0]}, "different"),
        ({"low": 0.0}, "range"),
        ({"high": 100.0}, "span"),
        ({"curves": [np.ones((1, 20)), np.ones((1, 20))]}, "constant"),
        ({"curves": [np.ones((1, 3)), np.ones((1, 20))]}, "curves"),
        ({"times": [np.geomspace(1, 10, 20)]}, "series of times"),
    ],
)
def test_bad_input_is_refused(change, match):
    times = np.geomspace(1, 10, 20)
    given = {
        "times": [times, times / 2],
        "curves": [np.log(times)[None]] * 2,
        "decays": [1.0, 2.0],
        "low": 2.0,
        "high": 9.0,
    }
    collapse(**given)
    with pytest.raises(ValueError, match=match):
        collapse(**(given | change))
