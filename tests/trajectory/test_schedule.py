from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.trajectory import expand_schedule, most_after_onset, waits_for_onset


@pytest.mark.parametrize(
    ("windows", "last", "expected"),
    [
        (["0:10:5"], 100, [0, 5, 10]),
        (["0:11:5"], 100, [0, 5, 10, 11]),
        (["3:3:7"], 100, [3]),
        (["0:end:40"], 100, [0, 40, 80, 100]),
        (["0:10:5", "4:6:1"], 100, [0, 4, 5, 6, 10]),
        (["0:1000:30"], 70, [0, 30, 60]),
        (["0:10:5", "50:end:1"], 10, [0, 5, 10]),
        (["90:200:5"], 10, []),
        ([], 10, []),
        (["log:0:1000:4"], 1000, [0, 9, 99, 1000]),
        (["log:5:9:50"], 100, [5, 6, 7, 8, 9]),
        (["log:0:end:1"], 8, [0, 8]),
        ([" 0 : end : 4 "], 8, [0, 4, 8]),
    ],
)
def test_windows_expand_to_known_steps(windows, last, expected):
    steps = expand_schedule(windows, last)
    assert steps.dtype == np.int64
    assert steps.tolist() == expected


@pytest.mark.parametrize(
    "window",
    ["", "0:10", "0:10:5:1", "-1:10:5", "0:-1:5", "0:10:0", "10:5:1", "a:b:c", "0:10:1.5", "log:0:10",
     "log:9:2:3", "log:0:10:0", "lin:0:10:5", "end:10:5", "0:10:end", "0:1e3:10", "0:10:٣",
     "0:10:9999999999999999999"],
)  # fmt: skip
def test_bad_windows_are_refused_in_one_line(window):
    with pytest.raises(GrokscopeError) as refused:
        expand_schedule([window], 100)
    assert repr(window) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "A:B:K" in str(refused.value)


def test_a_negative_last_step_and_a_window_that_is_no_text_are_refused():
    with pytest.raises(GrokscopeError, match="last step is -1"):
        expand_schedule(["0:1:1"], -1)
    with pytest.raises(GrokscopeError, match="save window 5"):
        expand_schedule([5], 10)  # pyright: ignore[reportArgumentType]


def test_a_window_far_beyond_the_run_costs_nothing():
    assert expand_schedule(["0:999999999999999:1"], 3).tolist() == [0, 1, 2, 3]


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 300), st.integers(0, 4000), st.booleans())
def test_any_window_gives_sorted_distinct_steps_in_range(a, span, k, last, logarithmic):
    window = f"{'log:' if logarithmic else ''}{a}:{a + span}:{k}"
    steps = expand_schedule([window], last)
    assert np.all(np.diff(steps) > 0)
    assert np.all((steps >= a) & (steps <= min(a + span, last)))
    if a + span <= last:
        assert (steps[0], steps[-1]) == (a, a + span)
        if logarithmic:
            # All there are when few, else as many as asked (two ends at least).
            assert steps.size == min(max(k, 2), span + 1)
        else:
            assert np.all(np.diff(steps) <= k)
    np.testing.assert_array_equal(expand_schedule([window, window], last), steps)


@given(st.integers(100, 100_000), st.integers(5, 60))
def test_logarithmic_steps_grow_evenly_in_the_logarithm(last, count):
    steps = expand_schedule([f"log:0:end:{count}"], last)
    gaps = np.diff(np.log1p(steps))
    # Where rounding to whole steps is small against the gap, gaps are equal.
    fine = np.diff(steps) > 20
    if fine.sum() >= 2:
        assert gaps[fine].max() / gaps[fine].min() < 1.2


@pytest.mark.parametrize(
    ("windows", "last", "onset", "expected"),
    [
        (["onset:10:5"], 100, None, []),
        (["onset:10:5"], 100, 40, [40, 45, 50]),
        (["onset:11:5"], 100, 40, [40, 45, 50, 51]),
        (["onset:0:1"], 100, 40, [40]),
        (["onset:50:20"], 100, 70, [70, 90]),
        (["onset:50:20"], 100, 101, []),
        (["0:end:50", "onset:4:2"], 100, 49, [0, 49, 50, 51, 53, 100]),
        (["onset:4:2", "onset:9:3"], 100, 7, [7, 9, 10, 11, 13, 16]),
        ([" onset : 4 : 2 "], 100, 7, [7, 9, 11]),
    ],
)
def test_windows_of_the_onset_open_where_it_is(windows, last, onset, expected):
    assert expand_schedule(windows, last, onset).tolist() == expected
    assert waits_for_onset(windows)
    assert not waits_for_onset(["0:end:5", "log:0:end:9"])


@pytest.mark.parametrize(
    "window", ["onset", "onset:5", "onset:5:0", "onset:-5:1", "onset:end:1", "onset:5:1:1", "onst:5:1"]
)
@pytest.mark.parametrize("onset", [None, 3])
def test_bad_windows_of_the_onset_are_refused_whether_it_is_known_or_not(window, onset):
    with pytest.raises(GrokscopeError) as refused:
        expand_schedule(["0:end:1", window], 100, onset)
    assert repr(window) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "onset:LENGTH:K" in str(refused.value)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), max_size=3),
    st.integers(1, 60), st.integers(0, 400), st.integers(0, 400),
)  # fmt: skip
def test_no_onset_gives_more_steps_than_the_bound(windows, spacing, last, onset):
    waiting = [f"onset:{length}:{k}" for length, k in windows]
    fixed = [f"0:end:{spacing}"]
    bound = expand_schedule(fixed, last).size + most_after_onset([*fixed, *waiting], last)
    assert expand_schedule([*fixed, *waiting], last, onset).size <= bound
    assert most_after_onset(fixed, last) == 0
