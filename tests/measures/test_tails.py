"""Power or exponential: recovered where the data decide, and left open where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from grokscope.measures import clocks
from grokscope.measures.tails import tail_fit, theta_from_gradient

TIMES = np.linspace(1, 2000, 100)


def noisy(values, scale, seed=0):
    return values * np.exp(scale * np.random.default_rng(seed).standard_normal(values.size))


def test_the_tails_are_public_with_the_clocks():
    assert clocks.tail_fit is tail_fit
    assert clocks.theta_from_gradient is theta_from_gradient


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_power_recovered_with_a_joint_limit(beta):
    fit = tail_fit(TIMES, noisy(0.001 + 3 * (TIMES + 20) ** -beta, 0.01))
    assert fit.state == "power"
    assert fit.aic_agrees is True
    assert fit.power.beta == pytest.approx(beta, abs=0.1 * max(beta, 1.0))
    assert fit.power.low is not None
    assert fit.power.high is not None
    assert fit.power.low <= beta <= fit.power.high
    assert fit.theta == pytest.approx((1 + 1 / beta) / 2, abs=0.05)
    if beta != 1.0:
        assert fit.theta_in_theory == (beta > 1)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_power_recovered_with_a_given_limit(beta):
    values = 0.5 + noisy(3 * (TIMES + 20) ** -beta, 0.05)
    fit = tail_fit(TIMES, values, limit=0.5)
    assert (fit.state, fit.limit_given, fit.excluded) == ("power", True, 0)
    assert fit.power.limit == 0.5
    assert fit.power.beta == pytest.approx(beta, abs=0.12)


def test_exact_power_gives_its_parameters():
    fit = tail_fit(TIMES, 0.5 + 3 * (TIMES + 20) ** -2.0)
    assert fit.power.beta == pytest.approx(2, rel=1e-4)
    assert fit.power.t0 == pytest.approx(-20, abs=0.01)
    assert fit.power.limit == pytest.approx(0.5, rel=1e-6)
    assert fit.power.amplitude == pytest.approx(3 / 21**2, rel=1e-4)
    np.testing.assert_allclose(fit.power.by_origin, 2, rtol=1e-2)


def test_a_known_origin_of_time_is_kept():
    fit = tail_fit(TIMES, noisy(3 * (TIMES + 20) ** -1.5, 0.02), limit=0.0, t0=-20.0)
    assert fit.power.t0 == -20.0
    assert fit.power.beta == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("limit", [0.0, 0.01])
def test_exponential_recovered(limit):
    fit = tail_fit(TIMES, noisy(limit + 3 * np.exp(-TIMES / 150), 0.01))
    assert fit.state == "exponential"
    assert fit.aic_agrees is True
    assert fit.exponential.tau == pytest.approx(150, rel=0.01)
    assert fit.exponential.limit == pytest.approx(limit, abs=1e-3)
    # The power only imitates it, with its exponent at the bound: then there is no theta.
    assert fit.theta is None


@pytest.mark.parametrize("seed", range(2))
def test_short_noisy_tails_cannot_be_told(seed):
    t = np.linspace(100, 200, 24)
    fit = tail_fit(t, noisy(1 + 100 / t, 0.3, seed))
    assert fit.state == "cannot tell"
    assert fit.reason is not None
    assert fit.aic_agrees is None


def test_the_last_value_is_no_limit():
    t = np.geomspace(10, 1000, 80)[20:]
    values = 0.3 + 50 * t**-2.0
    joint = tail_fit(t, values)
    assert joint.power.beta == pytest.approx(2, abs=1e-3)
    wrong = tail_fit(t, values, limit=float(values[-1]))
    assert wrong.excluded == 1
    assert wrong.power.beta is not None
    assert wrong.power.low is not None
    assert wrong.power.beta > 2.9
    assert wrong.power.low > 2.5
    # So it does in a straight line through the logarithms, with no origin of time to hide in.
    line = clocks.fit_line(np.log(t[-20:-1]), np.log(values[-20:-1] - values[-1]))
    assert line.slope < -3


def test_scale_of_values_and_of_time_do_not_matter():
    values = noisy(0.001 + 3 * (TIMES + 20) ** -1.0, 0.02)
    one, two = tail_fit(TIMES, values), tail_fit(7 * TIMES, 1e-5 * values)
    assert one.state == two.state == "power"
    assert one.power.beta is not None
    assert two.power.beta == pytest.approx(one.power.beta, rel=1e-3)
    assert two.power.limit == pytest.approx(1e-5 * one.power.limit, rel=1e-2)


def test_theta_agrees_with_beta_on_a_gradient_flow():
    # dDelta/dt = -Delta^(2 theta) with theta = 3/4 has beta = 2.
    gap = (TIMES + 20) ** -2.0
    norm = np.sqrt(2 * (TIMES + 20) ** -3.0)
    assert theta_from_gradient(gap, norm).slope == pytest.approx(0.75, rel=1e-9)
    assert tail_fit(TIMES, gap, limit=0.0).theta == pytest.approx(0.75, rel=1e-4)
    with pytest.raises(ValueError, match="theta_from_gradient"):
        theta_from_gradient([0.0, 1.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("t", "values", "kwargs"),
    [
        (np.arange(10), np.ones(10), {}),
        (np.arange(20), np.ones(19), {}),
        (np.arange(20)[::-1], np.ones(20), {}),
        (np.arange(20), np.zeros(20), {}),
        (np.arange(20), np.ones(20), {"limit": 1.0}),
        (np.arange(20), np.ones(20), {"t0": 0.0}),
    ],
)
def test_refuses(t, values, kwargs):
    with pytest.raises(ValueError, match="tail_fit: got"):
        tail_fit(t, values, **kwargs)
