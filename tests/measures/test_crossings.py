"""Crossings: known intervals, censoring, and what cannot change them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.measures.crossings import (
    Crossing,
    Direction,
    delay,
    final_median,
    first_hold,
    half_fall,
    lead_lag,
    onset,
)

NAN = float("nan")
TENS = [0, 10, 20, 30, 40, 50, 60, 70]


def hold(values, level=0.5, direction: Direction = "above", q=3):
    return first_hold(TENS[: len(values)], values, level, direction, q)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 1, 1, 1], Crossing(10, 20, False)),
        ([0, 1, 1, 0, 1, 1, 1], Crossing(30, 40, False)),
        ([0.0, 0.5, 0.5, 0.5], Crossing(0, 10, False)),
        ([0, 1, 1, 1, 0, 0], Crossing(0, 10, False)),
        ([1, 1, 1, 0], Crossing(None, 0, False)),
        ([0, 0, 0, 0], Crossing(30, None, True)),
        ([0, 0, 1, 1], Crossing(10, None, True)),
        ([1, 1, 0, 0, 1], Crossing(30, None, True)),
        ([1, 1], Crossing(None, None, True)),
        ([0, NAN, 1, 1, 1], Crossing(0, 20, False)),
        ([0, 1, NAN, 1, 1, 1], Crossing(0, 30, False)),
        ([NAN, NAN, 1, 1, 1], Crossing(None, 20, False)),
        ([0, 1, 1, NAN], Crossing(0, None, True)),
        ([NAN, NAN, NAN], Crossing(None, None, True)),
        ([0, float("inf"), 1, 1], Crossing(0, 10, False)),
    ],
)
def test_first_hold_known_intervals(values, expected):
    assert hold(values) == expected


def test_first_hold_below_is_above_of_the_negative():
    values = [3.0, 0.4, 2.0, 0.5, 0.5, 0.1, 0.0]
    assert hold(values, 0.5, "below") == Crossing(20, 30, False)
    assert hold(values, 0.5, "below") == hold([-v for v in values], -0.5, "above")


def test_first_hold_single_save_confirmation():
    assert hold([0, 1, 0, 1, 1, 1], q=1) == Crossing(0, 10, False)
    assert hold([0, 0, 1], q=1) == Crossing(10, 20, False)


@pytest.mark.parametrize(
    ("steps", "values", "kwargs"),
    [
        ([0, 10], [1.0], {}),
        ([], [], {}),
        ([0, 0], [1.0, 1.0], {}),
        ([10, 0], [1.0, 1.0], {}),
        ([-1, 0], [1.0, 1.0], {}),
        ([0, 1], [1.0, 1.0], {"q": 0}),
        ([0, 1], [1.0, 1.0], {"level": NAN}),
        ([0, 1], [1.0, 1.0], {"direction": "over"}),
        ([0.0, 0.5], [1.0, 1.0], {}),
    ],
)
def test_first_hold_refuses(steps, values, kwargs):
    with pytest.raises(ValueError, match="first_hold: got"):
        first_hold(steps, values, **{"level": 0.5, **kwargs})


def test_crossing_refuses_contradictions_and_is_plain_data():
    with pytest.raises(ValueError, match="censored"):
        Crossing(0, 10, True)
    with pytest.raises(ValueError, match="after < by"):
        Crossing(10, 10, False)
    assert json.dumps(Crossing(3, None, True).as_json()) == '{"after": 3, "by": null}'


def slow_first_hold(steps, values, level, q):
    """Straight from the definition, one save at a time."""
    below = [step for step, value in zip(steps, values, strict=True) if value < level]
    for i in range(len(values) - q + 1):
        if all(value >= level for value in values[i : i + q]):
            before = [step for step in below if step < steps[i]]
            return Crossing(before[-1] if before else None, steps[i], False)
    return Crossing(below[-1] if below else None, None, True)


saves = st.lists(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.just(NAN)), min_size=1, max_size=20)


@given(saves, st.integers(1, 4))
def test_first_hold_matches_the_slow_version(values, q):
    steps = list(range(0, 3 * len(values), 3))
    assert first_hold(steps, values, 0.5, "above", q) == slow_first_hold(steps, values, 0.5, q)


@given(saves, st.lists(st.integers(1, 9), min_size=21, max_size=21))
def test_first_hold_follows_a_monotone_change_of_time(values, jumps):
    steps = list(range(len(values)))
    other = np.cumsum(jumps)[: len(values)].tolist()
    one, two = (first_hold(clock, values, 0.5) for clock in (steps, other))
    assert two.after == (None if one.after is None else other[one.after])
    assert two.by == (None if one.by is None else other[one.by])


@given(st.integers(0, 90), st.sets(st.integers(0, 99), min_size=8), st.sets(st.integers(0, 99)))
def test_refining_the_saves_nests_the_interval(event, coarse, more):
    def interval(steps):
        ordered = sorted(steps)
        return first_hold(ordered, [float(step > event) for step in ordered], 0.5)

    outer, inner = interval(coarse), interval(coarse | more)
    if outer.after is not None:
        assert inner.after is not None
        assert inner.after >= outer.after
    if outer.by is not None:
        assert inner.by is not None
        assert inner.by <= outer.by
    assert inner.after is None or inner.after <= event
    assert inner.by is None or inner.by > event


def test_delay_ends():
    fit = Crossing(30, 40, False)
    assert delay(fit, Crossing(940, 950, False)) == (23.5, 950 / 30)
    assert delay(fit, Crossing(1000, None, True)) == (25.0, None)
    assert delay(fit, Crossing(None, 0, False)) == (None, 0.0)
    assert delay(Crossing(0, 40, False), Crossing(940, 950, False)) == (23.5, None)
    assert delay(Crossing(None, 40, False), Crossing(940, 950, False)) == (23.5, None)
    assert delay(Crossing(None, 0, False), Crossing(940, 950, False)) == (None, None)
    assert delay(Crossing(500, None, True), Crossing(940, 950, False)) == (None, 1.9)


@given(st.floats(1, 50), st.floats(1, 900), st.sets(st.integers(0, 1000), min_size=12))
def test_delay_contains_the_truth(fit_time, grok_time, steps):
    ordered = sorted(steps)
    fit, grok = (
        first_hold(ordered, [float(s >= time) for s in ordered], 0.5) for time in (fit_time, grok_time)
    )
    low, high = delay(fit, grok)
    assert low is None or low <= grok_time / fit_time
    assert high is None or grok_time / fit_time <= high


def test_final_median_window():
    assert final_median(np.arange(100.0)) == 94.5
    assert final_median([5.0, 1.0, 2.0, 9.0]) == 2.0
    assert final_median([1.0]) == 1.0
    assert final_median([1.0, 2.0, NAN, NAN, NAN]) is None
    assert final_median([1.0, NAN, 4.0, 8.0]) == 6.0


def test_half_fall_of_a_fall_and_of_a_rise():
    steps = np.arange(0, 210, 10)
    fall = np.where(steps < 105, 30.0, 10.0)
    # Low before the fit: that is not the fall that is asked for.
    fall[:3] = 1.0
    found = half_fall(steps, fall, start_step=30, band=2.0)
    assert found.crossing == Crossing(100, 110, False)
    assert (found.start, found.final, found.level, found.direction) == (30.0, 10.0, 20.0, "below")
    rise = half_fall(steps, -fall, start_step=30, band=2.0)
    assert rise.crossing == found.crossing
    assert rise.direction == "above"


def test_half_fall_starts_at_the_next_save_of_a_sparser_series():
    steps = [0, 100, 200, 300, 400, 500, 600]
    found = half_fall(steps, [9, 8, 4, 0, 0, 0, 0], start_step=30, band=0)
    assert found.start == 8
    assert found.crossing == Crossing(100, 200, False)


def test_half_fall_band_edge():
    steps, values = np.arange(10), np.r_[np.full(5, 3.0), np.full(5, 1.0)]
    assert half_fall(steps, values, 0, band=1.999).crossing == Crossing(4, 5, False)
    at_band = half_fall(steps, values, 0, band=2.0)
    assert at_band.crossing is None
    assert at_band.reason is not None
    assert "chance band" in at_band.reason
    assert half_fall(steps, np.ones(10), 0, band=0.0).crossing is None


def test_half_fall_says_why_there_is_none():
    steps = np.arange(10)
    late = half_fall(steps, np.arange(10.0), start_step=8, band=0)
    assert late.crossing is None
    assert late.reason == "no defined save between step 8 and the final window"
    assert half_fall(steps, np.full(10, NAN), 0, 0).reason == "the series is undefined over its final window"
    infinite = np.r_[np.inf, np.ones(9)]
    assert "infinite" in (half_fall(steps, infinite, 0, 0).reason or "")
    with pytest.raises(ValueError, match="band"):
        half_fall(steps, steps, 0, band=-1)


def test_half_fall_can_be_censored():
    steps = np.arange(9)
    values = [4, 4, 4, 4, 4, 0, 4, 0, 0]
    assert half_fall(steps, values, 0, band=1).crossing == Crossing(6, None, True)


def test_onset_of_a_ramp():
    steps = np.arange(0, 300, 10)
    values = 50 - np.clip((steps - 100) / 100, 0, 1) * 40
    found = onset(steps, values, baseline=(0, 50))
    # Five per cent of forty is two, passed between 100 (nothing) and 110 (four).
    assert found.crossing == Crossing(100, 110, False)
    assert (found.start, found.final, found.level) == (50.0, 10.0, 48.0)
    wider = onset(steps, values, baseline=(0, 50), fraction=0.25)
    assert wider.crossing == Crossing(120, 130, False)
    mirrored = onset(steps, -values, baseline=(0, 50))
    assert mirrored.crossing == found.crossing


def test_onset_ignores_early_wobbles_and_late_spikes():
    steps = np.arange(40)
    values = np.where(steps < 20, 10.0, 0.0)
    values[10:14] = 8.0
    values[35] = 10.0
    assert onset(steps, values, baseline=(0, 5)).crossing == Crossing(19, 20, False)


def test_onset_uses_the_excursions_of_the_baseline():
    steps = np.arange(40)
    values = np.where(steps < 20, 10.0, 0.0)
    values[2], values[18:20] = 7.0, 8.0
    found = onset(steps, values, baseline=(0, 5))
    assert found.level == 7.0
    assert found.crossing == Crossing(19, 20, False)
    values[2] = 4.0
    nothing = onset(steps, values, baseline=(0, 5))
    assert nothing.crossing is None
    assert "starting band" in (nothing.reason or "")


def test_onset_undefined_and_censored():
    steps = np.arange(10)
    values = np.r_[np.ones(7), 0.0, 0.0, 1.0]
    assert onset(steps, values, baseline=(0, 4)).crossing == Crossing(9, None, True)
    short = onset(steps, values, baseline=(0, 1))
    assert short.reason == "2 defined saves in steps 0 to 1, fewer than 3"
    assert "chance band" in (onset(steps, values, baseline=(0, 4), band=1.0).reason or "")
    with pytest.raises(ValueError, match="onset: got"):
        onset(steps, values, baseline=(0, 4), fraction=0.5)


def test_onset_with_an_undefined_save_in_between():
    values = [5.0, 5.0, 5.0, 5.0, NAN, 0.0, 0.0, 0.0, 0.0]
    assert onset(range(9), values, baseline=(0, 2)).crossing == Crossing(3, 5, False)


def test_lead_lag_is_decided_only_without_overlap():
    a, b, c = Crossing(0, 10, False), Crossing(10, 20, False), Crossing(19, 30, False)
    found = lead_lag({"c": c, "b": b, "a": a})
    assert set(found.pairs) == {("a", "b"), ("a", "c")}
    assert found.undecided == (("c", "b"),)
    assert found.order is None
    total = lead_lag({"b": b, "never": Crossing(25, None, True), "a": a})
    assert total.order == ("a", "b", "never")
    assert total.undecided == ()


def test_lead_lag_censored_and_unbounded():
    never = Crossing(100, None, True)
    assert lead_lag({"x": never, "y": never}).undecided == (("x", "y"),)
    assert lead_lag({"early": Crossing(None, 5, False), "x": Crossing(5, 6, False)}).order == ("early", "x")
    assert lead_lag({"early": Crossing(None, 5, False), "x": Crossing(None, 9, False)}).order is None
    assert lead_lag({}).order == ()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=6))
def test_lead_lag_never_contradicts_a_placing_inside_the_intervals(raw):
    events = {str(i): Crossing(after, after + width, False) for i, (after, width) in enumerate(raw)}
    found = lead_lag(events)
    assert len(found.pairs) + len(found.undecided) == len(raw) * (len(raw) - 1) // 2
    for first, second in found.pairs:
        latest, earliest = events[first].by, events[second].after
        assert latest is not None
        assert earliest is not None
        assert latest <= earliest
    if found.order is not None:
        places = {name: place for place, name in enumerate(found.order)}
        assert all(places[first] < places[second] for first, second in found.pairs)
