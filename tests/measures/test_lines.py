"""The straight line, against numpy and against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from grokscope.measures.lines import fit_line


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
