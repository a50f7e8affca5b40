"""Which prompts and moduli people use, from the sizes of their vocabularies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.foreign.function.space import Tokens
from grokscope.foreign.function.tokens import MOST_SPECIALS, token_options

FIRST = [
    # rows, logits, positions, recorded modulus → the likeliest
    ((114, 113, 3, None), Tokens(113, ("a", "b", "token:113"))),
    ((113, 113, 2, None), Tokens(113, ("a", "b"))),
    ((99, 97, 4, None), Tokens(97, ("a", "token:97", "b", "token:98"))),
    ((99, 99, 4, 97), Tokens(97, ("a", "token:97", "b", "token:98"))),
    ((59, 59, None, 59), Tokens(59, ("a", "b"))),
    ((226, 113, 2, None), Tokens(113, ("a", "b"), 0, 113)),
]


@pytest.mark.parametrize(("sizes", "expected"), FIRST)
def test_the_likeliest_comes_first(sizes: tuple, expected: Tokens):
    assert expected in token_options(*sizes)[:3]


def test_specials_before_the_residues():
    options = token_options(100, 100, None, 97)
    wanted = Tokens(97, ("token:0", "a", "token:2", "b", "token:1"), 3, 0, 3)
    assert options.index(wanted) < 96


def test_a_recorded_modulus_comes_before_others():
    options = token_options(64, 64, 3, 50)
    assert {one.p for one in options[:5]} <= {50, 58, 59, 60, 61, 62, 63, 64}
    assert any(one.p == 59 for one in token_options(60, 60, 3)[:2])


@settings(deadline=None)
@given(v=st.integers(4, 40), c=st.integers(4, 40), n=st.none() | st.integers(2, 5))
def test_options_fit_their_tables(v: int, c: int, n: int | None):
    options = token_options(v, c, n)
    assert len(set(options)) == len(options)
    for one in options:
        assert one.out_offset + one.p <= c
        assert one.residue_offset + one.b_offset + one.p <= v
        assert n is None or len(one.prompt) <= n
        assert {"a", "b"} <= set(one.prompt)
        residues = {
            row + start
            for row in range(one.p)
            for start in (one.residue_offset, one.residue_offset + one.b_offset)
        }
        rows = {int(item.removeprefix("token:")) for item in one.prompt if item.startswith("token:")}
        assert all(row < v for row in rows)
        assert not rows & residues
        assert len(rows) <= MOST_SPECIALS


def test_operands_alone_for_a_net_without_prompts():
    assert {one.prompt for one in token_options(13, 13, None, prompts=False)} == {("a", "b")}
