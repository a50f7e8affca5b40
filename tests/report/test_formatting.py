"""Numbers, intervals and settings as text."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.measures.crossings import Crossing
from grokscope.report.formatting import (
    as_toml,
    crossing,
    flattened,
    interval,
    number,
    ratio,
    slug,
    whole,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1"), (3, "3"), (-7, "−7"), (12_345, "12\u202f345"), (0.5, "0.5000"),
        (0.99986, "0.9999"), (123.456, "123.5"), (12345.6, "12\u202f346"), (1234.6, "1235"),
        (-99999.7, "−100\u202f000"), (1.5e-9, "1.500×10⁻⁹"),
        (-2.5e12, "−2.500×10¹²"), (0.000123, "1.230×10⁻⁴"), (0.00123, "0.001230"), (True, "yes"),
        (math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "–"), (None, "–"), ("text", "text"),
        (9.99996, "10.00"),
    ],
)  # fmt: skip
def test_numbers(value: Any, text: str) -> None:
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_to_its_digits(value: float) -> None:
    text = (
        number(value, 6)
        .replace("−", "-")
        .replace("\u202f", "")
        .translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    )
    mantissa, _, power = text.partition("×10")
    assert math.isclose(float(mantissa) * 10.0 ** int(power or 0), value, rel_tol=1e-5, abs_tol=5e-324)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Crossing(30, 40, False), "30 to 40"),
        (Crossing(None, 0, False), "by step 0"),
        (Crossing(900, None, True), "not seen by step 900"),
        (Crossing(None, None, True), "not seen"),
    ],
)
def test_crossings(event: Crossing, text: str) -> None:
    assert crossing(event) == text


def test_ratios_and_intervals_say_which_end_is_open() -> None:
    assert ratio(23.5, 31.7) == "23.5 to 31.7×"
    assert ratio(2, None) == "at least 2×"
    assert ratio(None, 2) == "at most 2×"
    assert ratio(None, math.inf) == "not bounded"
    assert interval(None) == "–"
    assert interval((0.5, None)) == "≥ 0.5000"
    assert interval((None, 3.0)) == "≤ 3"
    assert interval((1.0, 3.0)) == "1 to 3"
    assert interval((None, None)) == "unbounded"


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LEAVES = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), NAMES
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, NESTED, max_size=4))
def test_a_recipe_as_toml_reads_back(config: dict[str, Any]) -> None:
    assert tomllib.loads(as_toml(config)) == config


def test_an_unset_value_is_a_comment_and_a_mistake_in_encoding_is_replaced() -> None:
    text = as_toml({"a": None, "t": {"x": "\ud800", "n": None}})
    assert "# a is not set" in text
    assert tomllib.loads(text) == {"t": {"x": "\ufffd"}}


def test_flattening_names_every_leaf() -> None:
    nested = {
        "a": {"b": 1, "command": ["x", "two words"]},
        "files": ["p", "q"],
        "none": None,
        "on": True,
        "e": {},
    }
    assert list(flattened(nested)) == [
        ("a.b", "1"), ("a.command", "x 'two words'"), ("files", "p, q"), ("none", "not recorded"),
        ("on", "yes"),
    ]  # fmt: skip


@given(st.text(max_size=80))
def test_a_slug_is_safe_anywhere(text: str) -> None:
    made = slug(text)
    assert made
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not made.startswith((".", "-"))


def test_sizes_and_whole_numbers() -> None:
    assert whole(9999) == "9999"
    assert whole(-1_234_567) == "−1\u202f234\u202f567"
