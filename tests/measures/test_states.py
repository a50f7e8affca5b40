"""Every state reached by a run made for it, and both edges of every threshold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.measures.crossings import Crossing
from grokscope.measures.states import (
    Claim,
    State,
    StateInputs,
    Thresholds,
    count_spikes,
    inputs_from_accuracy,
    normalised_skill,
    run_state,
)

NAN = float("nan")
STEPS = np.arange(0, 1000, 10)
FIT_AT = 50


def ramp(at, low=0.0, high=1.0):
    """A series that jumps from low to high at a step."""
    return np.where(at <= STEPS, high, low)


def state_of(test, train=None, loss=None, **kwargs) -> State:
    train = ramp(FIT_AT) if train is None else train
    return run_state(inputs_from_accuracy(STEPS, train, test, loss, **kwargs))


def claim(state: State, name: str) -> Claim:
    (found,) = [each for each in state.evidence if each.name == name]
    return found


def test_not_applicable():
    assert run_state(StateInputs(STEPS, None, None)).state == "not applicable"


def test_not_fitted_and_its_flag():
    unfit = np.full(STEPS.size, 0.98)
    neither = state_of(ramp(500, 0, 0.9), unfit)
    assert (neither.state, neither.flags) == ("not fitted", ())
    both = state_of(ramp(500), unfit)
    assert (both.state, both.flags) == ("not fitted", ("generalised_unfitted",))
    gone = ramp(500)
    gone[-10:] = 0.2
    assert state_of(gone, unfit).flags == ()


@pytest.mark.parametrize(("level", "expected"), [(0.99, "memorised"), (0.9899, "not fitted")])
def test_fit_edge(level, expected):
    assert state_of(np.zeros(STEPS.size), ramp(FIT_AT, 0, level)).state == expected


def test_lost():
    test = ramp(300)
    test[-20:] = 0.3
    found = state_of(test)
    assert found.state == "lost"
    assert claim(found, "grok_reached").interval == (290.0, 300.0)
    assert claim(found, "test_holds_at_end") == Claim("test_holds_at_end", 0.3, 0.95, None, False)


@pytest.mark.parametrize(("last", "expected"), [(1, "grokked"), (2, "lost")])
def test_the_end_is_the_median_of_three_saves(last, expected):
    test = ramp(300)
    test[-last:] = 0.3
    assert state_of(test).state == expected


@pytest.mark.parametrize(("level", "expected"), [(0.95, "grokked"), (0.9499, "stalled")])
def test_grok_edge(level, expected):
    assert state_of(ramp(300, 0, level)).state == expected


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        ((2.0, 3.0), "grokked"),
        ((2.0, None), "grokked"),
        ((1.999, 3.0), "inconclusive"),
        ((1.0, 2.0), "inconclusive"),
        ((1.0, 1.999), "generalised without delay"),
        ((None, 1.5), "generalised without delay"),
        ((None, None), "inconclusive"),
        ((1.0, None), "inconclusive"),
    ],
)
def test_delay_edges(delay, expected):
    inputs = inputs_from_accuracy(STEPS, ramp(FIT_AT), ramp(500))
    found = run_state(replace(inputs, delay=delay))
    assert found.state == expected
    assert claim(found, "delayed").interval == delay


def test_delay_from_the_series():
    assert state_of(ramp(500)).state == "grokked"
    assert state_of(ramp(FIT_AT)).state == "generalised without delay"
    # (90, 100] over (40, 50] contains 2.
    assert state_of(ramp(100)).state == "inconclusive"


def spiky(times, accuracy=0.9, height=10.0):
    loss, train = np.full(STEPS.size, 1e-3), ramp(FIT_AT)
    loss[STEPS < FIT_AT] = 1.0
    for time in times:
        loss[time == STEPS] *= height
        train[time == STEPS] = accuracy
    return loss, train


@pytest.mark.parametrize(
    ("times", "accuracy", "height", "flags"),
    [
        ((400, 600), 0.9, 10.0, ("unstable",)),
        ((400,), 0.9, 10.0, ()),
        ((400, 600), 0.9, 9.99, ()),
        ((400, 600), 0.99, 10.0, ()),
        ((400, 600), 0.9899, 10.0, ("unstable",)),
        ((400, 410), 0.9, 10.0, ()),
        ((10, 20), 0.9, 10.0, ()),
    ],
)
def test_unstable_edges(times, accuracy, height, flags):
    loss, train = spiky(times, accuracy, height)
    found = state_of(ramp(300, 0.3, 0.7), train, loss)
    assert found.flags == flags
    assert found.state == ("unstable" if flags else "stalled")
    # On a run that grokked it is a flag and not the state.
    grokked = state_of(ramp(300), train, loss)
    assert (grokked.state, grokked.flags) == ("grokked", flags)


def test_unstable_comes_before_memorised_and_after_lost():
    loss, train = spiky((400, 600))
    assert state_of(np.zeros(STEPS.size), train, loss).state == "unstable"
    lost = np.where((STEPS >= 300) & (STEPS < 700), 1.0, 0.0)
    assert (state_of(lost, train, loss).state, state_of(lost, train, loss).flags) == ("lost", ("unstable",))


@pytest.mark.parametrize(("level", "expected"), [(0.4999, "memorised"), (0.5, "stalled")])
def test_memorised_edge(level, expected):
    assert state_of(np.full(STEPS.size, level)).state == expected


def test_memorised_counts_only_saves_after_the_fit():
    early = np.where(STEPS < FIT_AT, 0.8, 0.2)
    assert state_of(early).state == "memorised"
    once = np.where(STEPS == FIT_AT, 0.6, 0.2)
    assert state_of(once).state == "inconclusive"
    assert claim(state_of(once), "highest_skill_after_fit").value == pytest.approx(0.6)


def test_memorised_is_judged_on_the_skill():
    accuracy = np.full(STEPS.size, 0.6)
    assert state_of(accuracy).state == "stalled"
    assert state_of(accuracy, chance=0.5).state == "memorised"


def test_still_moving_either_way():
    rise = np.clip((STEPS - 300) / 1000, 0.2, 0.9)
    found = state_of(rise)
    assert found.state == "still moving"
    slope = claim(found, "slope_of_last_part")
    assert slope.value == pytest.approx(1e-3)
    assert slope.threshold == 0.0
    assert slope.interval is not None
    assert state_of(1 - rise).state == "still moving"


def test_only_the_last_quarter_moves_a_run():
    early = np.clip(STEPS / 1000, 0.0, 0.7)
    assert state_of(early).state == "stalled"
    late = np.clip((STEPS - 700) / 1000 + 0.6, 0.6, 0.9)
    assert state_of(late).state == "still moving"


def test_noise_does_not_move():
    noise = 0.7 + 0.02 * np.random.default_rng(3).standard_normal(STEPS.size)
    assert state_of(noise).state == "stalled"


@pytest.mark.parametrize(("level", "expected"), [(0.5, "stalled"), (0.4999, "inconclusive")])
def test_stalled_edge(level, expected):
    # Over a half once, so that it is not memorised.
    assert state_of(np.where(STEPS < 200, 0.7, level)).state == expected


@pytest.mark.parametrize(("early", "late", "expected"), [(12, 4, "stalled"), (12, 3, "inconclusive")])
def test_the_slope_is_of_saves_in_the_last_quarter_alone(early, late, expected):
    """A rise that ended before the last quarter: with too few saves there it is not called moving."""
    steps = np.concatenate([np.linspace(0, 740, early), np.linspace(750, 1000, late)]).astype(int)
    skill = np.where(steps < 750, np.clip(steps / 1000, 0.2, 0.7), 0.7)
    found = run_state(inputs_from_accuracy(steps, np.ones(steps.size), skill))
    assert found.state == expected
    slope = claim(found, "slope_of_last_part")
    assert slope.value == (0.0 if late == 4 else None)
    assert not slope.holds


def test_undefined_saves_at_the_end_are_no_slope():
    skill = np.clip(STEPS / 1000, 0.2, 0.7)
    skill[STEPS >= 760] = NAN
    assert claim(state_of(skill), "slope_of_last_part").value is None
    skill[-4:] = 0.7
    assert claim(state_of(skill), "slope_of_last_part").value == 0.0


def test_too_short_to_have_a_slope_is_inconclusive():
    steps = [0, 10, 20]
    inputs = inputs_from_accuracy(steps, [1, 1, 1], [0.7, 0.7, 0.7])
    found = run_state(inputs)
    assert found.state == "inconclusive"
    assert claim(found, "slope_of_last_part").value is None


def test_undefined_skill_and_missing_series():
    nothing = state_of(np.full(STEPS.size, NAN))
    assert nothing.state == "inconclusive"
    assert claim(nothing, "highest_skill_after_fit").value is None
    holes = ramp(500)
    holes[::2] = NAN
    # No three saves in a row are defined, so the level is never confirmed, high as the skill ends.
    assert state_of(holes).state == "stalled"
    assert not claim(state_of(holes), "grok_reached").holds
    assert claim(state_of(holes), "final_skill").value == 1.0
    fit = Crossing(10, 20, False)
    assert run_state(StateInputs(STEPS, fit, Crossing(990, None, True))).state == "inconclusive"
    assert run_state(StateInputs(STEPS, fit, None)).state == "inconclusive"
    assert run_state(StateInputs(STEPS, None, fit)).state == "inconclusive"


def test_a_regression_enters_by_its_crossings_alone():
    fit, grok = Crossing(10, 20, False), Crossing(390, 400, False)
    inputs = StateInputs(STEPS, fit, grok, (19.5, 40.0), grok_at_end=True)
    assert run_state(inputs).state == "grokked"
    assert run_state(replace(inputs, grok_at_end=False)).state == "lost"
    # Whether it still holds is not known: then nothing is claimed.
    assert run_state(replace(inputs, grok_at_end=None)).state == "inconclusive"
    never = replace(inputs, fit=Crossing(990, None, True))
    assert (run_state(never).state, run_state(never).flags) == ("not fitted", ("generalised_unfitted",))


def test_thresholds_are_settings():
    skill = ramp(300, 0, 0.9)
    assert state_of(skill).state == "stalled"
    easier = Thresholds(grok=0.9)
    inputs = inputs_from_accuracy(STEPS, ramp(FIT_AT), skill, thresholds=easier)
    found = run_state(inputs, easier)
    assert found.state == "grokked"
    assert claim(found, "grok_reached").threshold == 0.9
    with pytest.raises(ValueError, match="Thresholds"):
        Thresholds(last_share=0)


def test_evidence_is_plain_data():
    loss, train = spiky((400, 600))
    for test in (ramp(500), np.zeros(STEPS.size), ramp(300, 0.6, 0.7), np.full(STEPS.size, NAN)):
        for state in (state_of(test, train, loss), state_of(test)):
            assert len({each.name for each in state.evidence}) == len(state.evidence)
            json.dumps([each.as_json() for each in state.evidence], allow_nan=False)


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.97, 1.0, NAN]), min_size=4, max_size=30),
    st.lists(st.sampled_from([0.0, 0.97, 0.99, 1.0]), min_size=30, max_size=30),
    st.integers(2, 9),
)
def test_scaling_time_does_not_change_the_state(test, train, factor):
    steps = np.arange(len(test))
    states = [
        run_state(inputs_from_accuracy(clock, train[: len(test)], test)) for clock in (steps, factor * steps)
    ]
    assert states[0].state == states[1].state
    assert states[0].flags == states[1].flags


def test_normalised_skill():
    np.testing.assert_allclose(normalised_skill([0.5, 0.75, 1.0, 0.25], 0.5), [0, 0.5, 1, -0.5])
    assert np.isnan(normalised_skill([NAN], 0.1))[0]
    for chance in (1.0, -0.1):
        with pytest.raises(ValueError, match="normalised_skill"):
            normalised_skill([0.5], chance)


def test_count_spikes():
    low = [1.0] * 4
    assert count_spikes([*low, 10, *low, 10, 1], [1.0] * 4 + [0.5] + [1.0] * 4 + [0.5, 1.0]) == 2
    # A level lost for good is one spike, however long it lasts.
    assert count_spikes([*low, *[100.0] * 20], [0.1] * 24) == 1
    # A slow climb over three decades is none.
    assert count_spikes(np.geomspace(1e-6, 1e-3, 60), np.full(60, 0.5)) == 0
    # The accuracy may fall at any save of the spike; the same spike does not count twice.
    assert count_spikes([*low, 20, 30, 20, 1], [1.0] * 5 + [0.5, 0.5, 1.0]) == 1
    assert count_spikes([0.0, 0.0, 1e-9, 0.0], [1, 1, 0.5, 1]) == 1
    assert count_spikes([0.0] * 9, [0.5] * 9) == 0
    assert count_spikes([1.0, NAN, 10.0, 1.0], [1, 1, 0.5, 1]) == 1
