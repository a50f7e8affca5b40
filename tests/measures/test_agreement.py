"""Verdicts on a row of a table, ours beside the published value."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.measures.agreement import agreement, printed_interval


@pytest.mark.parametrize(
    ("number", "low", "high"),
    [
        (0.83, 0.825, 0.835),
        ("0.83", 0.825, 0.835),
        ("7.50", 7.495, 7.505),
        (7.5, 7.45, 7.55),
        (1495, 1494.5, 1495.5),
        (1495.0, 1494.5, 1495.5),
        (2469.5, 2469.45, 2469.55),
        ("-1.2e3", -1250, -1150),
        (0, -0.5, 0.5),
    ],
)
def test_printed_interval(number, low, high):
    assert printed_interval(number) == pytest.approx((low, high))


@pytest.mark.parametrize("number", ["nan", "about 4", math.inf, math.nan, ""])
def test_printed_interval_refuses(number):
    with pytest.raises(ValueError, match="expected a finite number"):
        printed_interval(number)


def test_overlap_agrees_and_distance_differs():
    assert agreement(7.4, 7.6, 7.64, (7.47, 7.81)).verdict == "agrees"
    assert agreement(7.81, 8.0, 7.64, (7.47, 7.81)).verdict == "agrees"
    found = agreement(7.82, 8.0, 7.64, (7.47, 7.81))
    assert found.verdict == "differs"
    assert found.reason == "[7.82, 8] and [7.47, 7.81] do not overlap"
    assert (found.published_low, found.published_high) == (7.47, 7.81)


def test_without_an_interval_the_printed_digits_or_a_tolerance_count():
    assert agreement(0.80, 0.825, 0.83).verdict == "agrees"
    assert agreement(0.80, 0.8249, 0.83).verdict == "differs"
    assert agreement(53.0, 53.2, 54.5, tolerance=0.03).verdict == "agrees"
    assert agreement(52.0, 52.8, 54.5, tolerance=0.03).verdict == "differs"
    # A tolerance below the rounding does not sharpen what was printed.
    assert agreement(54.52, 54.54, 54.5, tolerance=1e-6).verdict == "agrees"


def test_what_would_agree_with_anything_cannot_tell():
    assert agreement(None, None, 7.64).verdict == "cannot tell"
    assert agreement(2.0, 14.0, 7.64).verdict == "cannot tell"
    assert agreement(4.0, 15.0, 7.64).verdict == "agrees"
    assert agreement(4.0, 15.0, 7.64, factor=1.5).verdict == "cannot tell"
    assert agreement(-20.0, 0.0, -7.64).verdict == "cannot tell"
    held = agreement(-0.5, 8.0, 7.64, no_effect=0)
    assert held.verdict == "cannot tell"
    assert held.reason == "[-0.5, 8] holds 0, no effect, as well as [7.635, 7.645]"
    # Where the published interval holds no effect too, agreeing with it is agreeing.
    assert agreement(-0.5, 0.5, 0.1, (-0.2, 0.4), no_effect=0, factor=20).verdict == "agrees"


def test_a_bound_can_differ_but_not_agree():
    assert agreement(20_000, math.inf, 13_030, (12_651, 13_822)).verdict == "differs"
    assert agreement(20_000, None, 13_030, (12_651, 13_822)).verdict == "differs"
    found = agreement(10_000, math.inf, 13_030, (12_651, 13_822))
    assert found.verdict == "cannot tell"
    assert found.reason == "[10000, inf] is open on one side and does not exclude [12651, 13822]"
    assert agreement(None, 10_000, 13_030).verdict == "differs"


def test_small_study_against_the_published_medians():
    # The range of four seeds against the bootstrap interval of sixteen.
    assert agreement(1271, 1580, 1495, (1387, 1653)).verdict == "agrees"


@given(st.floats(-100, 100), st.floats(0, 20), st.floats(1, 100), st.floats(0, 20))
def test_turning_the_sign_turns_nothing(low, width, published, around):
    interval = (published - around, published + around)
    one = agreement(low, low + width, published, interval, no_effect=0)
    other = agreement(-low - width, -low, -published, (-interval[1], -interval[0]), no_effect=0)
    assert one.verdict == other.verdict


@pytest.mark.parametrize(
    "given_",
    [
        {"ours_low": 2, "ours_high": 1},
        {"ours_low": math.nan},
        {"published_interval": (2, 1)},
        {"published_interval": (1, math.inf)},
        {"tolerance": -0.1},
        {"factor": 1.0},
    ],
)
def test_refuses(given_):
    settings = {"ours_low": 1, "ours_high": 2, "published": 1.5, **given_}
    with pytest.raises(ValueError, match="agreement: got"):
        agreement(**settings)
