"""Arrays of the page: what a browser reads back is what was given, to the stated error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from grokscope.errors import GrokscopeError
from grokscope.probes.views import Frames
from grokscope.report.encoding import decoded, encoded


@settings(deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=3, max_side=9)))
def test_bits_come_back_exactly(values):
    assert np.array_equal(decoded(encoded(Frames(values, "bits"))), values)


@settings(deadline=None)
@given(arrays(np.float64, (5, 3, 2), elements=st.floats(-1e6, 1e6)))
def test_a_byte_is_within_its_stated_error(values):
    held = encoded(Frames(values, "byte"))
    assert np.abs(decoded(held) - values).max() <= held["error"] * 1.01 + 1e-12


@settings(deadline=None)
@given(arrays(np.float64, (4, 6), elements=st.floats(1e-9, 1e9)))
def test_a_logarithm_is_within_its_stated_relative_error(values):
    held = encoded(Frames(values, "log16"))
    assert np.abs(decoded(held) / values - 1).max() <= held["error"] * 1.01 + 1e-12


def test_no_logarithm_is_zero():
    held = encoded(Frames(np.array([[0.0, 1e-3, 1.0], [np.nan, 10.0, 0.1]]), "log16"))
    found = decoded(held)
    assert found[0, 0] == found[1, 0] == 0
    assert np.allclose(found[:, 1], [1e-3, 10.0], rtol=held["error"] * 1.01)


@settings(deadline=None)
@given(arrays(np.float32, (3, 7), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_single_precision_comes_back_exactly(values):
    assert np.array_equal(decoded(encoded(Frames(values, "float32"))), values)


def test_undefined_single_precision_stays_undefined():
    assert np.isnan(decoded(encoded(Frames(np.array([[np.nan, 1.0]]), "float32")))[0, 0])


def test_whole_numbers_up_to_255_are_exact():
    values = np.arange(256.0).reshape(2, 128)
    held = encoded(Frames(values, "byte", low=0, high=255))
    assert held["error"] == 0
    assert np.array_equal(decoded(held), values)


def test_a_range_for_each_frame():
    values = np.array([[0.0, 1.0], [0.0, 100.0]])
    held = encoded(Frames(values, "byte", low=np.zeros(2), high=np.array([1.0, 100.0])))
    assert np.allclose(decoded(held), values)


def test_a_slow_array_takes_less_room_as_differences():
    slow = np.linspace(0, 1, 400)[:, None] + np.random.default_rng(0).random(64)
    held = encoded(Frames(slow, "byte"))
    assert held["coding"] == "delta"
    assert np.abs(decoded(held) - slow).max() <= held["error"] * 1.01


def test_a_constant_is_no_division_by_zero():
    assert np.allclose(decoded(encoded(Frames(np.full((3, 2), 7.0), "byte"))), 7.0)


def test_a_range_of_the_wrong_shape_is_refused():
    with pytest.raises(GrokscopeError, match="one for each frame"):
        encoded(Frames(np.zeros((3, 2)), "byte", low=np.zeros(2), high=1.0))


def test_equal_arrays_give_equal_text():
    values = np.random.default_rng(1).random((20, 30))
    assert encoded(Frames(values, "byte")) == encoded(Frames(values.copy(), "byte"))
