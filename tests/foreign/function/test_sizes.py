"""Sizes of axes solved from shapes, by hand and against shapes made from known sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.foreign.function.layout import Placed
from grokscope.foreign.function.sizes import Contradiction, parse_axes, solve


def placed(role: str, *axes: str, name: str = "") -> Placed:
    return Placed((name or role,), tuple(role.split()), 0, axes)


def test_axes_are_parsed():
    assert parse_axes("(3 H k) d") == (("3", "H", "k"), ("d",))
    assert parse_axes("1 n d") == (("1",), ("n",), ("d",))


def test_one_layer_by_hand():
    parts = [
        placed("embedding", "v d", "d v"),
        placed("query", "(H k) d", "d (H k)"),
        placed("mlp_in", "m d", "d m"),
        placed("head", "c d", "d c"),
    ]
    shapes = {"embedding": (12, 8), "query": (6, 8), "mlp_in": (32, 8), "head": (8, 11)}
    found = solve(parts, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert {letter: found.sizes[letter] for letter in "vdmc"} == {"v": 12, "d": 8, "m": 32, "c": 11}
    assert found.products == {"H k": 6}
    assert found.axes["head",] == "d c"
    assert not found.doubtful


def test_a_square_matrix_is_doubtful():
    parts = [placed("embedding", "v d"), placed("query", "(H k) d", "d (H k)")]
    found = solve(parts, {"embedding": torch.zeros(12, 8), "query": torch.zeros(8, 8)})
    assert found.axes["query",] == "(H k) d"
    assert found.doubtful == {("query",): "d (H k)"}
    assert found.transposed()["query",] == "d (H k)"


def test_a_square_matrix_lies_as_the_others_do():
    parts = [
        placed("embedding", "v d"),
        placed("output", "(H k) d", "d (H k)"),
        placed("mlp_in", "d m", "m d"),
        placed("mlp_out", "m d", "d m"),
    ]
    shapes = {"embedding": (12, 8), "output": (8, 8), "mlp_in": (32, 8), "mlp_out": (8, 32)}
    found = solve(parts, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert found.axes["output",] == "d (H k)"
    assert found.doubtful == {("output",): "(H k) d"}


def test_packed_roles_and_heads_apart():
    packed = placed("query key value", "(3 H k) d", "d (3 H k)")
    apart = Placed(("q.0", "q.1"), ("query",), 0, ("H k d",))
    found = solve(
        [placed("embedding", "v d"), packed],
        {"embedding": torch.zeros(12, 8), packed.names[0]: torch.zeros(18, 8)},
    )
    assert found.products["H k"] == 6
    tensors = {"embedding": torch.zeros(12, 8), "q.0": torch.zeros(3, 8), "q.1": torch.zeros(3, 8)}
    found = solve([placed("embedding", "v d"), apart], tensors)
    assert (found.sizes["H"], found.sizes["k"]) == (2, 3)


@pytest.mark.parametrize(
    ("shape", "words"), [((5, 7), ["query", "(5, 7)", "d = 8"]), ((0, 8), ["query", "(0, 8)"])]
)
def test_shapes_that_disagree(shape: tuple[int, ...], words: list[str]):
    parts = [placed("embedding", "v d"), placed("query", "(H k) d", "d (H k)")]
    with pytest.raises(Contradiction) as error:
        solve(parts, {"embedding": torch.zeros(12, 8), "query": torch.zeros(shape)})
    for word in words:
        assert word in str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    v=st.integers(30, 40),
    d=st.integers(9, 20),
    m=st.integers(21, 29),
    flip=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_any_orientation_of_any_sizes(v: int, d: int, m: int, flip: list[bool]):
    shapes = {"embedding": (v, d), "mlp_in": (m, d), "mlp_out": (d, m)}
    tensors = {
        name: torch.zeros(shape[::-1] if turned else shape)
        for (name, shape), turned in zip(shapes.items(), flip, strict=True)
    }
    parts = [
        placed("embedding", "v d", "d v"),
        placed("mlp_in", "m d", "d m"),
        placed("mlp_out", "d m", "m d"),
        placed("head_bias", "c"),
        placed("final_norm_gain", "d"),
    ]
    tensors |= {"head_bias": torch.zeros(7), "final_norm_gain": torch.zeros(d)}
    found = solve(parts, tensors)
    assert [found.sizes[letter] for letter in "vdmc"] == [v, d, m, 7]
