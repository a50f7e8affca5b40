"""Multilayer perceptrons by shape: the right chain is among the first, and says the same as the net it is."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grokscope.foreign.function.chains import chain_space
from grokscope.foreign.function.layout import Layout, Unrecognised, lay_out
from grokscope.foreign.function.space import Space
from grokscope.foreign.function.trials import swapped_space
from grokscope.foreign.gathering.facts import Facts

P, D, M = 7, 5, 9


GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def space_of(tensors: dict[str, Tensor]) -> Space | Unrecognised:
    layout = lay_out(tensors)
    assert isinstance(layout, Layout)
    return chain_space(layout, tensors, Facts(), {}, {})


def first_logits(tensors: dict[str, Tensor], swapped: bool = False) -> Tensor:
    """(p, p, C) under the likeliest chain of p = 7, with ReLU."""
    space = space_of(tensors)
    assert isinstance(space, Space)
    chosen = next(one for one in space.assignments() if one["chain"][1].p == P)
    model, translate = space.build(swapped_space(chosen) if swapped else chosen)
    grid = model.forward_grid(translate(tensors))
    assert isinstance(grid, Tensor)
    return grid


A, B = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
ONE_HOTS = torch.cat([F.one_hot(A, P), F.one_hot(B, P)], -1).double()


def linear(name: str, out: int, inward: int, bias: bool = True) -> dict[str, Tensor]:
    weights = {f"{name}.weight": randn(out, inward)}
    return weights | ({f"{name}.bias": randn(out)} if bias else {})


def applied(tensors: dict[str, Tensor], names: tuple[str, ...], x: Tensor) -> Tensor:
    for name in names:
        x = F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))
        x = x if name == names[-1] else torch.relu(x)
    return x.view(P, P, -1)


def test_embeddings_side_by_side():
    tensors = {"embedding.weight": randn(P, D), **linear("fc1", M, 2 * D), **linear("fc2", P, M)}
    table = tensors["embedding.weight"]
    expected = applied(tensors, ("fc1", "fc2"), torch.cat([table[A], table[B]], -1))
    torch.testing.assert_close(first_logits(tensors), expected)
    torch.testing.assert_close(first_logits(tensors, swapped=True), expected.transpose(0, 1))


def test_embeddings_summed():
    tensors = {"embedding.weight": randn(P, D), **linear("fc1", M, D), **linear("fc2", P, M)}
    table = tensors["embedding.weight"]
    torch.testing.assert_close(first_logits(tensors), applied(tensors, ("fc1", "fc2"), table[A] + table[B]))


def test_two_tables():
    tensors = {"embed_a.weight": randn(P, D), "embed_b.weight": randn(P, D) + 1}
    tensors |= {**linear("fc1", M, 2 * D), **linear("head", P, M, bias=False)}
    x = torch.cat([tensors["embed_a.weight"][A], tensors["embed_b.weight"][B]], -1)
    expected = applied(tensors, ("fc1", "head"), x)
    torch.testing.assert_close(first_logits(tensors), expected)
    torch.testing.assert_close(first_logits(tensors, swapped=True), expected.transpose(0, 1))


@pytest.mark.parametrize("bias", [True, False])
def test_one_hots(bias: bool):
    tensors = {
        **linear("net.0", M, 2 * P, bias),
        **linear("net.2", M, M, bias),
        **linear("net.4", P, M, bias),
    }
    expected = applied(tensors, ("net.0", "net.2", "net.4"), ONE_HOTS)
    torch.testing.assert_close(first_logits(tensors), expected)
    torch.testing.assert_close(first_logits(tensors, swapped=True), expected.transpose(0, 1))


def test_matrices_that_multiply_from_the_right():
    tensors = {"W_in": randn(2 * P, M), "W_out": randn(M, P)}
    expected = (torch.relu(ONE_HOTS @ tensors["W_in"]) @ tensors["W_out"]).view(P, P, P)
    torch.testing.assert_close(first_logits(tensors), expected)


def test_spare_logits_are_a_choice():
    space = space_of({"embedding.weight": randn(P, D), **linear("fc1", M, 2 * D), **linear("fc2", P + 2, M)})
    assert isinstance(space, Space)
    assert "softmax over" in [choice.about for choice in space.choices]


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({"0.weight": randn(20, 78), "2.weight": randn(10, 20)}, "no chain"),
        ({"fc.weight": randn(4, 4)}, "2 to 6 matrices"),
        ({"fc1.weight": randn(M, 2 * P), "fc2.weight": randn(P, M), "gain": randn(3)}, "no chain"),
        ({"fc1.weight": randn(M, 2 * P), "fc2.weight": torch.ones(P, M).int()}, "2 to 6 matrices"),
    ],
)
def test_what_is_no_chain_says_why(tensors: dict[str, Tensor], word: str):
    space = space_of(tensors)
    assert isinstance(space, Unrecognised)
    assert word in space.why
