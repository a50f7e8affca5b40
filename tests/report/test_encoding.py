"""Arrays of the page: what a browser reads back is what was given, to the stated error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from grokscope.errors import GrokscopeError
from grokscope.probes.views import Frames
from grokscope.report.encoding import decoded, deflated, encoded


@settings(deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=3, max_side=9)))
def test_bits_come_back_exactly(values):
    assert np.array_equal(decoded(encoded(Frames(values, "bits"))), values)


@settings(deadline=None)
@given(arrays(bool, st.integers(1, 300).map(lambda frames: (frames, 3)), elements=st.booleans()))
def test_rare_flips_come_back_exactly_whatever_the_distances(values):
    values = values & (np.arange(values.size).reshape(values.shape) % 97 < 2)
    assert np.array_equal(decoded(encoded(Frames(values, "bits"))), values)


def test_flips_of_a_few_bits_are_told_one_by_one_and_many_as_they_stand():
    draw = np.random.default_rng(2)
    few = np.tile(draw.random(900) < 0.5, (400, 1))
    few[:, :60] ^= np.cumsum(draw.random((400, 60)) < 0.1, axis=0) % 2 == 1
    draw.shuffle(few, axis=1)
    held = encoded(Frames(few, "bits"))
    assert held["coding"] == "flips"
    assert np.array_equal(decoded(held), few)
    as_they_stand = few.copy()
    as_they_stand[1:] ^= few[:-1]
    assert len(held["data"]) < 0.8 * len(deflated(np.packbits(as_they_stand, axis=1)))
    assert encoded(Frames(draw.random((20, 900)) < 0.5, "bits"))["coding"] == "xor"


def test_grids_that_never_change_take_no_room():
    still = np.tile(np.random.default_rng(3).random(500) < 0.5, (1000, 1))
    held = encoded(Frames(still, "bits"))
    assert len(held["data"]) < 900
    assert np.array_equal(decoded(held), still)
    nothing = encoded(Frames(np.zeros((4, 9)), "bits"))
    assert np.array_equal(decoded(nothing), np.zeros((4, 9)))


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


def test_a_byte_can_say_that_there_is_no_number():
    values = np.array([[0.0, 0.25, 1.0], [np.nan, np.nan, np.nan], [np.inf, 0.5, -np.inf]])
    held = encoded(Frames(values, "byte", low=0.0, high=1.0))
    assert held["top"] == 254
    found = decoded(held)
    assert np.array_equal(np.isnan(found), ~np.isfinite(values))
    fine = np.isfinite(values)
    assert np.abs(found[fine] - values[fine]).max() <= held["error"] * 1.01
    assert encoded(Frames(values[:1], "byte"))["top"] == 255


def test_nothing_but_undefined_bytes():
    assert np.isnan(decoded(encoded(Frames(np.full((3, 4), np.nan), "byte")))).all()


def test_whole_numbers_beside_an_undefined_one_are_exact_up_to_254():
    values = np.arange(255.0).reshape(3, 85)
    values[1, 3] = np.nan
    held = encoded(Frames(values, "byte", low=0, high=255))
    assert held["error"] == 0
    assert np.array_equal(decoded(held), values, equal_nan=True)
    values[0, 0] = 255
    rounded = encoded(Frames(values, "byte", low=0, high=255))
    assert 0 < rounded["error"] < 1
    assert np.nanmax(np.abs(decoded(rounded) - values)) <= rounded["error"] * 1.01


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
