"""The factorised MLP against an ordinary one: embeddings gathered per sample, layers applied in turn."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.measures.regions import gated_forward
from grokscope.models import MLP, MLPSettings

P = 6
CLOSE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
GRID = [
    {
        "embedding": embedding,
        "combine": combine,
        "hidden": hidden,
        "activation": activation,
        "hidden_bias": hidden_bias,
        "head_bias": head_bias,
    }
    for embedding, combine, hidden, activation, (hidden_bias, head_bias) in itertools.product(
        ("shared", "separate"),
        ("concatenation", "sum"),
        ((8,), (8, 5), (8, 5, 7)),
        ("relu", "gelu"),
        ((False, False), (True, False), (True, True), (False, True)),
    )
]


def named(changes: dict) -> str:
    depth = len(changes["hidden"])
    biases = "".join(name[0:4] for name in ("hidden_bias", "head_bias") if changes[name])
    return f"{changes['embedding']}-{changes['combine']}-{depth}-{changes['activation']}-{biases or 'none'}"


def model_of(changes: dict) -> MLP:
    return MLP(MLPSettings(d_embed=3, **changes), P, P)


def plain_mlp(
    settings: MLPSettings, params: dict[str, Tensor], inputs: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Logits (N, C) and the activations of every hidden layer."""
    shared = settings.embedding == "shared"
    first = params["embed.W_E" if shared else "embed_a.W_E"][inputs[:, 0]]
    second = params["embed.W_E" if shared else "embed_b.W_E"][inputs[:, 1]]
    x = torch.cat([first, second], dim=1) if settings.combine == "concatenation" else first + second
    layers = []
    for layer in range(1, len(settings.hidden) + 1):
        pre = torch.einsum("ni,ij->nj", x, params[f"hidden.{layer}.W"])
        if settings.hidden_bias:
            pre = pre + params[f"hidden.{layer}.b"]
        if settings.activation == "relu":
            x = torch.where(pre > 0, pre, torch.zeros_like(pre))
        else:
            x = pre * 0.5 * (1 + torch.erf(pre / math.sqrt(2)))
        layers.append(x)
    logits = torch.einsum("ni,ij->nj", x, params["head.W_U"])
    return logits + params["head.b_U"] if settings.head_bias else logits, layers


@pytest.mark.parametrize("changes", GRID, ids=named)
def test_against_the_plain_mlp(changes: dict, random_params, all_pairs, same_gradients) -> None:
    model, inputs = model_of(changes), all_pairs(P)
    params = random_params(model)

    def oracle(leaves: dict[str, Tensor]) -> Tensor:
        return plain_mlp(model.settings, leaves, inputs)[0]

    same_gradients(params, lambda leaves: model.forward(leaves, inputs), oracle)
    same_gradients(params, lambda leaves: model.forward_grid(leaves).reshape(P * P, P), oracle)

    logits, layers = plain_mlp(model.settings, params, inputs)
    z = model.combined(params, inputs)
    assert z.shape == (P * P, model.z_width)
    assert torch.allclose(model.from_z(params, z), logits, **CLOSE)
    pre, gated = gated_forward(model.gated(params), z)
    assert torch.allclose(gated, logits, **CLOSE)
    assert len(pre) == len(changes["hidden"])
    assert torch.allclose(model.head_input(params, inputs), layers[-1], **CLOSE)
    bias = params["head.b_U"] if changes["head_bias"] else 0
    assert torch.allclose(
        model.head_input(params, inputs) @ model.unembedding(params).mT + bias, logits, **CLOSE
    )
    assert torch.allclose(model.neuron_grid(params).reshape(P * P, -1), layers[-1], **CLOSE)
    one_hot = torch.nn.functional.one_hot(inputs + torch.tensor([0, P]), 2 * P).sum(1).double()
    assert torch.allclose(one_hot @ model.slots(params).mT, z, **CLOSE)


@pytest.mark.parametrize("changes", GRID[:24:5], ids=named)
def test_neuron_inputs_sum_to_the_pre_activation_of_one_layer(
    changes: dict, random_params, all_pairs
) -> None:
    model, inputs = model_of(changes), all_pairs(P)
    params = random_params(model)
    pre, _ = gated_forward(model.gated(params), model.combined(params, inputs))
    by_a, by_b = model.neuron_inputs(params)
    grid = pre[-1].reshape(P, P, -1)
    if len(changes["hidden"]) == 1:
        assert torch.allclose(by_a[:, None] + by_b[None, :], grid, atol=1e-11)
    else:
        assert torch.allclose(by_a, grid.mean(1), atol=1e-11)
        assert torch.allclose(by_b, grid.mean(0), atol=1e-11)


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("embedding", ["shared", "separate"])
def test_maps(steps: int | None, embedding: str, random_params) -> None:
    model = MLP(MLPSettings(d_embed=3, hidden=(8, 5), embedding=embedding), P, P)  # type: ignore[arg-type]
    stacked = random_params(model, steps=steps)
    maps = model.maps(stacked)
    tables = {"embedding": "embed.W_E"}
    if embedding == "separate":
        tables = {"embedding_a": "embed_a.W_E", "embedding_b": "embed_b.W_E"}
    assert set(maps) == {*tables, "unembedding", "neuron_logit"}
    for name, tensor in tables.items():
        assert torch.equal(maps[name].matrix(), stacked[tensor])
    assert torch.equal(maps["unembedding"].matrix(), stacked["head.W_U"].mT)
    assert torch.equal(maps["neuron_logit"].matrix(), stacked["head.W_U"].mT)


def test_slots_pass_a_step_axis_through(random_params) -> None:
    for combine in ("concatenation", "sum"):
        model = MLP(MLPSettings(d_embed=3, hidden=(8,), combine=combine, embedding="separate"), P, P)  # type: ignore[arg-type]
        stacked = random_params(model, steps=4)
        slots = model.slots(stacked)
        for index in range(4):
            alone = model.slots({name: value[index] for name, value in stacked.items()})
            assert torch.equal(slots[index], alone)


def test_init_follows_the_seed_and_the_scales() -> None:
    model = MLP(MLPSettings(d_embed=64, hidden=(256,), init_scale=2.0), 59, 59)
    params = model.init(torch.Generator().manual_seed(0))
    assert {name: tuple(value.shape) for name, value in params.items()} == model.shapes
    assert params["hidden.1.W"].std().item() == pytest.approx(2 * 128**-0.5, rel=0.03)
    assert params["embed.W_E"].std().item() == pytest.approx(2 * 64**-0.5, rel=0.05)
    assert not params["hidden.1.b"].any()
    assert torch.equal(params["head.W_U"], model.init(torch.Generator().manual_seed(0))["head.W_U"])


@pytest.mark.parametrize("changes", [{"hidden": ()}, {"hidden": (4, 0)}, {"d_embed": 0}])
def test_sizes_that_do_not_fit(changes: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        MLP(MLPSettings(**changes), P, P)
    assert "\n" not in str(caught.value)
