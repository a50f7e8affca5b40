"""Rank intervals against closed forms, enumeration and simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.report.comparison import (
    Between,
    Interval,
    exponential,
    logarithm,
    median,
    median_interval,
    shift,
    shift_interval,
)
from grokscope.report.comparison import _mann_whitney as mann_whitney


def exact(*values: float) -> list[Between]:
    return [Between(v, v) for v in values]


def test_the_median_of_exact_values_is_numpys():
    for values in ([3.0], [1.0, 4.0], [5.0, 1.0, 2.0], [4.0, 1.0, 2.0, 9.0]):
        found = median(exact(*values))
        assert found.low == found.high == np.median(values)


def test_the_median_keeps_what_is_not_known():
    assert median([Between(1, 2), Between(4, 6), Between(9, math.inf)]) == Between(4, 6)
    assert median([Between(1, 2), Between(9, math.inf)]) == Between(5, math.inf)
    assert median([Between(9, math.inf), Between(9, math.inf)]) == Between(9, math.inf)


def test_fewer_than_three_have_no_interval():
    assert median_interval(exact(1, 2)) is None
    assert shift_interval(exact(1, 2), exact(1, 2, 3)) is None
    assert shift_interval(exact(1, 2, 3), exact(1, 2)) is None


def test_median_intervals_have_the_coverage_of_the_binomial():
    assert median_interval(exact(1, 2, 3)) == Interval(1, 3, 0.75)
    assert median_interval(exact(1, 2, 3, 4, 5)) == Interval(1, 5, 0.9375)
    assert median_interval(exact(*range(6))) == Interval(0, 5, 1 - 2 / 64)
    # the textbook's n = 10: the second smallest and the second largest
    found = median_interval(exact(*range(10)))
    assert found is not None
    assert (found.low, found.high) == (1, 8)
    assert found.coverage == pytest.approx(1 - 2 * 11 / 1024)


def test_the_distribution_of_mann_whitney_is_that_of_enumeration():
    for n, m in ((1, 1), (2, 3), (3, 3), (4, 2), (5, 4)):
        counts = np.zeros(n * m + 1)
        for ranks in combinations(range(n + m), n):
            counts[sum(rank - position for position, rank in enumerate(ranks))] += 1
        np.testing.assert_allclose(mann_whitney(n, m), counts / counts.sum())


def test_shift_intervals_of_small_groups():
    found = shift_interval(exact(1, 2, 3), exact(11, 12, 13))
    assert found is not None
    assert (found.low, found.high, found.coverage) == (8, 12, pytest.approx(0.9))
    assert shift(exact(1, 2, 3), exact(11, 12, 13)) == Between(10, 10)
    # the table of critical values at n = m = 5, two-sided 5 %: U ≤ 2 is rejected, so k = 3
    five = shift_interval(exact(*range(5)), exact(*range(10, 60, 10)))
    assert five is not None
    differences = sorted(y - x for x in range(5) for y in range(10, 60, 10))
    assert (five.low, five.high) == (differences[2], differences[-3])
    assert five.coverage == pytest.approx(1 - 2 * 4 / 252)


def test_an_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    medians, shifts, wanted = 0, 0, (0.0, 0.0)
    for _ in range(4000):
        first = exact(*random.exponential(size=5))
        second = exact(*(random.exponential(size=4) + 2))
        one, two = median_interval(first), shift_interval(first, second)
        assert one is not None
        assert two is not None
        medians += one.low <= math.log(2) <= one.high
        shifts += two.low <= 2 <= two.high
        wanted = (one.coverage, two.coverage)
    assert medians / 4000 == pytest.approx(wanted[0], abs=0.015)
    assert shifts / 4000 == pytest.approx(wanted[1], abs=0.015)


ends = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(lambda pair: Between(min(pair), max(pair)))


@given(st.lists(ends, min_size=3, max_size=8), st.lists(ends, min_size=3, max_size=8), st.data())
def test_whatever_the_values_are_between_their_ends_the_statistics_are_too(first, second, data):
    def chosen(values: list[Between]) -> list[Between]:
        return exact(*(data.draw(st.floats(v.low, v.high)) for v in values))

    one, two = chosen(first), chosen(second)
    for outer, inner in (
        (median(first), median(one)),
        (shift(first, second), shift(one, two)),
        (median_interval(first), median_interval(one)),
        (shift_interval(first, second), shift_interval(one, two)),
    ):
        assert outer is not None
        assert inner is not None
        slack = 1e-9 * (abs(inner.low) + abs(inner.high))
        assert outer.low <= inner.low + slack
        assert inner.high <= outer.high + slack


def test_logarithms_make_ratios():
    assert logarithm([Between(0, 1)]) == [Between(-math.inf, 0)]
    assert logarithm([Between(1, math.inf)]) == [Between(0, math.inf)]
    assert logarithm([Between(-1, 1)]) is None
    assert exponential(-math.inf, math.log(2)) == (0, pytest.approx(2))
    assert exponential(0, math.inf) == (1, math.inf)


def test_what_cannot_be_is_refused_in_one_line():
    for fails in (lambda: Between(2, 1), lambda: median([]), lambda: shift([], exact(1))):
        with pytest.raises(GrokscopeError) as told:
            fails()
        assert "\n" not in str(told.value)
