"""Walking a space of choices, in order and completely."""

from itertools import islice, product

import pytest

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.space import Choice, Space, Tokens


def build(assignment):
    raise GrokscopeError("nothing is built here")


def space(*choices: Choice) -> Space:
    return Space("a title", "a dialect", (), {}, choices, build)


FEW = space(Choice("one", (1, 2, 3)), Choice("two", ("a", "b")), Choice("eps", (0.1, 0.2), late=True))


def test_every_assignment_once_and_late_choices_at_their_first():
    met = [(one["one"], one["two"]) for one in FEW.assignments()]
    assert met[0] == (1, "a")
    assert sorted(met) == sorted(product((1, 2, 3), "ab"))
    assert {one["eps"] for one in FEW.assignments()} == {0.1}
    assert FEW.size == 12


def test_the_likeliest_come_first():
    costs = [FEW.departure(one) for one in FEW.assignments()]
    assert costs == sorted(costs)
    assert costs[0] == 0


def test_the_far_end_of_a_long_list_is_met_early():
    long = space(Choice("long", tuple(range(100))), *[Choice(str(k), (0, 1)) for k in range(6)])
    met = [one["long"] for one in islice(long.assignments(), 1200)]
    assert 60 in met


def test_neighbours_differ_in_one_choice():
    start = {"one": 2, "two": "a", "eps": 0.1}
    found = list(FEW.neighbours(start))
    assert len(found) == 2 + 1 + 1
    assert all(sum(one[about] != start[about] for about in start) == 1 for one in found)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (Tokens(7), "p = 7, [a, b]"),
        (Tokens(7, ("a", "token:7", "b"), 0, 0, 1), "p = 7, [a, token:7, b] (answers from logit 1)"),
        (Tokens(5, ("a", "b"), 2, 5), "p = 5, [a, b] (residues from row 2; second operand 5)"),
    ],
)
def test_tokens_in_words(tokens: Tokens, text: str):
    assert str(tokens) == text
