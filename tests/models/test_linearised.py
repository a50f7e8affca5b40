"""Hand-written pullbacks against autograd, for every way a pair can enter an MLP and for the transformer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.models import MLP, MLPSettings, Model, Params, Transformer, TransformerSettings
from grokscope.models.anatomy import activate, activate_in_place, activation_pullback
from grokscope.models.operand_rows import OperandRows

P = 7


def pairs(seed: int = 0, count: int = 30) -> Tensor:
    """(count, 2): distinct pairs in a random order."""
    order = torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack([order // P, order % P], dim=1)


def mlp(**changes: object) -> Model:
    return MLP(MLPSettings(**{"d_embed": 6, "hidden": (10,), **changes}), P, P)  # pyright: ignore[reportArgumentType]


def transformer(**changes: object) -> Model:
    sizes = {"d_model": 12, "n_heads": 3, "d_mlp": 20, **changes}
    return Transformer(TransformerSettings(**sizes), P, P)  # pyright: ignore[reportArgumentType]


MODELS = {
    "concatenation": mlp(),
    "sum": mlp(combine="sum"),
    "two layers, biases": mlp(hidden=(9, 8), head_bias=True),
    "separate sum, silu": mlp(combine="sum", embedding="separate", activation="silu"),
    "separate, quadratic, scaled": mlp(
        embedding="separate", hidden_bias=False, activation="quadratic", output_scale=2.0
    ),
    "one-hot": mlp(inputs="one-hot"),
    "one-hot sum, tanh": mlp(inputs="one-hot", combine="sum", activation="tanh"),
    "offsets": mlp(residue_offset=2, out_offset=3, d_vocab=20, d_vocab_out=15, head_bias=True),
    "b in its own rows, gelu": mlp(b_offset=P, activation="gelu"),
    "b in its own one-hots": mlp(b_offset=P, inputs="one-hot", residue_offset=1),
    "transformer": transformer(),
    "transformer, gelu, wide head": transformer(activation="gelu_tanh", d_vocab_out=9),
    "transformer, one narrow head": transformer(n_heads=1, d_head=5),
    "transformer, scaled": transformer(output_scale=-0.7, d_vocab_out=9),
    "transformer with norms and biases, scaled": transformer(layer_norm=True, biases=True, output_scale=0.5),
    "transformer with norms and biases": transformer(layer_norm=True, biases=True),
}


def weights(model: Model, seed: int = 0) -> Params:
    """Weights away from the initial zeros, so that every term counts."""
    generator = torch.Generator().manual_seed(seed)
    drawn = model.init(generator, torch.float64)
    return {
        name: v + 0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for name, v in drawn.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_pullback_are_those_of_autograd(name):
    model, inputs = MODELS[name], pairs()
    params = weights(model)
    logits, pullback = model.linearised(inputs)(params)
    plain, by_graph = Model.linearised(model, inputs)(params)
    torch.testing.assert_close(logits, plain, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(logits, model.forward(params, inputs), rtol=1e-12, atol=1e-13)
    delta = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = pullback(delta.clone()), by_graph(delta)
    assert found.keys() == expected.keys() == params.keys()
    for key, value in expected.items():
        assert found[key].shape == params[key].shape
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in MODELS if "norms" not in name])
def test_runs_share_a_leading_axis(name):
    model = MODELS[name]
    alone = [(weights(model, seed), pairs(seed)) for seed in range(2)]
    stacked = {key: torch.stack([params[key] for params, _ in alone]) for key in alone[0][0]}
    logits, pullback = model.linearised(torch.stack([inputs for _, inputs in alone]))(stacked)
    delta = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = pullback(delta.clone())
    for index, (params, inputs) in enumerate(alone):
        one, one_pullback = model.linearised(inputs)(params)
        torch.testing.assert_close(logits[index], one, rtol=1e-12, atol=1e-13)
        for key, value in one_pullback(delta[index].clone()).items():
            torch.testing.assert_close(found[key][index], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "silu", "quadratic", "tanh"])
def test_an_activation_and_its_pullback(name):
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).requires_grad_()
    above = torch.linspace(1, 2, 41, dtype=torch.float64)
    expected = activate(name, x)
    (gradient,) = torch.autograd.grad(expected, x, above)
    pre, post = activate_in_place(name, x.detach().clone())
    torch.testing.assert_close(post, expected.detach(), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        activation_pullback(name, pre, post, above.clone()), gradient, rtol=0, atol=1e-14
    )


@given(st.integers(0, 2**20), st.integers(1, 3), st.integers(1, 12), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_operand_sums_are_indexing_and_their_transposes_are_adjoint(seed, heads, count, p):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = torch.randint(p, (2, count, 2), generator=generator)  # pairs may repeat, rows may be empty
    rows, by_head = OperandRows(inputs, p), OperandRows(inputs, p, heads)
    tables, values = draw(2, 2 * p, 5), draw(2, count, 5)
    picked = rows.gather(tables)
    for run in range(2):
        a, b = inputs[run].unbind(1)
        torch.testing.assert_close(picked[run], tables[run, a] + tables[run, p + b])
        torch.testing.assert_close(
            rows.select(tables)[run], torch.stack([tables[run, a], tables[run, p + b]], dim=1)
        )
    torch.testing.assert_close((picked * values).sum(), (tables * rows.scatter(values)).sum())
    both = draw(2, count, 2, 5)
    torch.testing.assert_close((rows.select(tables) * both).sum(), (tables * rows.collect(both)).sum())

    headed, weight = draw(2, 2 * p, heads, 5), draw(2, count, 2, heads)
    mixed = by_head.gather_weighted(headed, weight)
    for run in range(2):
        a, b = inputs[run].unbind(1)
        chosen = torch.stack([headed[run, a], headed[run, p + b]], dim=1)
        torch.testing.assert_close(mixed[run], (chosen * weight[run][..., None]).sum(dim=(1, 2)))
    inner = (mixed * values).sum()
    torch.testing.assert_close(inner, (headed * by_head.scatter_weighted(values, weight)).sum())
    torch.testing.assert_close(inner, (weight * by_head.products(headed, values)).sum())
