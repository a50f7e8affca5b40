"""The factorised MLP against an ordinary one: embeddings gathered per sample, layers applied in turn."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import GatedForm, gated_forward
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


def form_of(model: MLP, params: dict[str, Tensor]) -> GatedForm:
    form = model.gated(params)
    assert not isinstance(form, Absent)
    return form


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
    pre, gated = gated_forward(form_of(model, params), z)
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
    pre, _ = gated_forward(form_of(model, params), model.combined(params, inputs))
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


TABLES: dict[str, dict[str, Any]] = {
    "one-hot-sum": {"inputs": "one-hot", "combine": "sum", "hidden_bias": False},
    "one-hot-sum-deep": {"inputs": "one-hot", "combine": "sum", "hidden": (8, 5), "activation": "gelu"},
    "one-hot-pair": {"inputs": "one-hot", "activation": "quadratic", "head_bias": True},
    "one-hot-rows": {
        "inputs": "one-hot",
        "combine": "sum",
        "d_vocab": 20,
        "residue_offset": 8,
        "b_offset": -7,
    },
    "one-hot-pair-rows": {"inputs": "one-hot", "d_vocab": 9, "residue_offset": 2, "output_scale": -0.5},
    "rows": {"d_vocab": 15, "residue_offset": 1, "b_offset": 7, "d_vocab_out": 9, "out_offset": 2},
    "rows-sum": {"combine": "sum", "b_offset": P, "activation": "silu"},
    "rows-separate": {"embedding": "separate", "residue_offset": 3, "b_offset": P, "activation": "tanh"},
    "scaled": {"output_scale": 3.0, "head_bias": True, "out_offset": 1, "hidden": (8, 5)},
    "tanh-gelu": {"activation": "gelu_tanh"},
}


def activation_of(name: str, x: Tensor) -> Tensor:
    return {
        "relu": lambda: x.clamp(min=0),
        "gelu": lambda: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda: x * 0.5 * (1 + torch.tanh((x + 0.044715 * x**3) * math.sqrt(2 / math.pi))),
        "silu": lambda: x / (1 + torch.exp(-x)),
        "quadratic": lambda: x * x,
        "tanh": lambda: torch.sinh(x) / torch.cosh(x),
    }[name]()


@pytest.mark.parametrize("changes", TABLES.values(), ids=TABLES)
def test_one_hots_offsets_and_scales_against_matrices(
    changes: dict, random_params, all_pairs, same_gradients
) -> None:
    """One-hot vectors times whole tables, whatever rows and columns are used."""
    settings = MLPSettings(**{"d_embed": 3, "hidden": (8,), **changes})
    model, inputs = MLP(settings, P, P), all_pairs(P)
    params = random_params(model)
    first, second = settings.residue_offset, settings.residue_offset + settings.b_offset
    vocab = settings.d_vocab or max(first, second) + P
    hots = [
        torch.nn.functional.one_hot(inputs[:, i] + row, vocab).double()
        for i, row in enumerate((first, second))
    ]

    def z_of(leaves: dict[str, Tensor]) -> Tensor:
        tables = [leaves.get(f"embed_{x}.W_E", leaves.get("embed.W_E")) for x in "ab"]
        read = [hot if table is None else hot @ table for hot, table in zip(hots, tables, strict=True)]
        return torch.cat(read, dim=1) if settings.combine == "concatenation" else read[0] + read[1]

    def oracle(leaves: dict[str, Tensor]) -> Tensor:
        x = z_of(leaves)
        for layer in range(1, len(settings.hidden) + 1):
            x = x @ leaves[f"hidden.{layer}.W"]
            x = activation_of(settings.activation, x + leaves.get(f"hidden.{layer}.b", 0.0))
        logits = (x @ leaves["head.W_U"] + leaves.get("head.b_U", 0.0)) * settings.output_scale
        return logits[:, settings.out_offset : settings.out_offset + P]

    same_gradients(params, lambda leaves: model.forward(leaves, inputs), oracle)
    same_gradients(params, lambda leaves: model.forward_grid(leaves).reshape(P * P, P), oracle)
    logits, z = oracle(params), z_of(params)
    assert torch.allclose(model.combined(params, inputs), z, **CLOSE)
    assert torch.allclose(model.from_z(params, z), logits, **CLOSE)
    both = torch.nn.functional.one_hot(inputs + torch.tensor([0, P]), 2 * P).sum(1).double()
    assert torch.allclose(both @ model.slots(params).mT, z, **CLOSE)
    bias = params["head.b_U"] if settings.head_bias else torch.zeros(99, dtype=torch.float64)
    read = model.head_input(params, inputs) @ model.unembedding(params).mT
    scaled = settings.output_scale * (read + bias[settings.out_offset : settings.out_offset + P])
    assert torch.allclose(scaled, logits, **CLOSE)
    form = model.gated(params)
    if settings.activation in ("relu", "gelu"):
        assert not isinstance(form, Absent)
        assert torch.allclose(gated_forward(form, z)[1], logits, **CLOSE)
        assert torch.allclose(form.head, model.neuron_logit(params).mT)
    else:
        assert isinstance(form, Absent)
        assert form.reason == f"no region: the activation is {settings.activation}"


def test_without_an_embedding_the_first_layer_plays_its_part(random_params) -> None:
    pair = MLP(MLPSettings(inputs="one-hot", hidden=(8,)), P, P)
    params = random_params(pair, steps=2)
    assert [part.name for part in pair.parts] == ["hidden.1.W", "hidden.1.b", "head.W_U"]
    tables = pair.embeddings(params)
    assert torch.equal(tables["embedding_a"], params["hidden.1.W"][:, :P])
    assert torch.equal(tables["embedding_b"], params["hidden.1.W"][:, P:])
    assert pair.maps(params)["embedding_a"].note == "rows of the first layer"
    assert pair.separate_embeddings
    both = MLP(MLPSettings(inputs="one-hot", hidden=(8,), combine="sum", d_vocab=9, residue_offset=2), P, P)
    params = random_params(both)
    assert not both.separate_embeddings
    assert torch.equal(both.embeddings(params)["embedding"], params["hidden.1.W"][2 : 2 + P])
    first, second = both.neuron_inputs(params)
    bias = both.neuron_bias(params)
    assert bias is not None
    assert torch.allclose(first - bias, second, **CLOSE)
    deep = MLP(MLPSettings(inputs="one-hot", hidden=(8, 4)), P, P)
    assert deep.neuron_bias(random_params(deep)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": ()},
        {"hidden": (4, 0)},
        {"d_embed": 0},
        {"d_vocab": P - 1},
        {"d_vocab": 2 * P - 1, "b_offset": P},
        {"residue_offset": -1},
        {"b_offset": 1},
        {"b_offset": -P},
        {"d_vocab_out": P - 1},
        {"d_vocab_out": P, "out_offset": 1},
        {"out_offset": -1},
        {"output_scale": 0.0},
        {"output_scale": math.inf},
    ],
)
def test_sizes_that_do_not_fit(changes: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        MLP(MLPSettings(**changes), P, P)
    assert "\n" not in str(caught.value)
