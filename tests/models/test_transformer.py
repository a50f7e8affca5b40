"""The structured transformer against a plain one: every position, every head, masks and norms spelled out."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import gated_forward
from grokscope.models import Transformer, TransformerSettings

P = 7
CLOSE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
GRID = (
    [
        {
            "layer_norm": layer_norm,
            "biases": biases,
            "causal": causal,
            "activation": activation,
            "d_vocab_out": out,
        }
        for layer_norm, biases, causal, activation, out in itertools.product(
            (False, True), (False, True), (False, True), ("relu", "gelu"), (0, P + 1)
        )
    ]
    + [
        {"layer_norm": True, "norm_gain": gain, "norm_bias": bias, "biases": biases, "output_scale": scale}
        for gain, bias, biases, scale in (
            (False, False, False, 1.0),
            (False, True, True, 0.5),
            (True, False, False, -2.0),
        )
    ]
    + [{"biases": True, "output_scale": 0.25}]
)


def named(changes: dict) -> str:
    return "-".join(f"{name}={value}" for name, value in changes.items())


def settings_of(changes: dict) -> TransformerSettings:
    return TransformerSettings(d_model=6, n_heads=2, d_head=4, d_mlp=9, **changes)


def plain_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * gain + bias


def plain_transformer(
    settings: TransformerSettings, params: dict[str, Tensor], inputs: Tensor, p: int
) -> Tensor:
    """(N, 3, logits) at every position, one head and one sample loop at a time."""
    norm = plain_norm if settings.layer_norm else lambda x, *_: x
    zero = torch.zeros(())

    def get(name: str) -> Tensor:
        return params.get(name, zero)

    tokens = torch.cat([inputs, torch.full((len(inputs), 1), p)], dim=1)
    x = params["embed.W_E"][tokens] + params["pos_embed.W_pos"]
    one = torch.ones(())
    y = norm(x, params.get("blocks.0.ln1.w", one), get("blocks.0.ln1.b"))
    attended = torch.zeros_like(x)
    for head in range(settings.n_heads):
        q, k, v = (
            torch.einsum("npd,dk->npk", y, params[f"blocks.0.attn.W_{one}"][head])
            + (params[f"blocks.0.attn.b_{one}"][head] if settings.biases else 0)
            for one in "QKV"
        )
        scores = torch.einsum("nik,njk->nij", q, k) / math.sqrt(q.shape[-1])
        if settings.causal:
            scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
        pattern = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        mixed = torch.einsum("nij,njk->nik", pattern, v)
        attended = attended + torch.einsum("nik,kd->nid", mixed, params["blocks.0.attn.W_O"][head])
    x = x + attended + get("blocks.0.attn.b_O")
    y = norm(x, params.get("blocks.0.ln2.w", one), get("blocks.0.ln2.b"))
    pre = torch.einsum("npd,dm->npm", y, params["blocks.0.mlp.W_in"]) + get("blocks.0.mlp.b_in")
    if settings.activation == "relu":
        hidden = torch.where(pre > 0, pre, torch.zeros_like(pre))
    else:
        hidden = pre * 0.5 * (1 + torch.erf(pre / math.sqrt(2)))
    x = x + torch.einsum("npm,md->npd", hidden, params["blocks.0.mlp.W_out"]) + get("blocks.0.mlp.b_out")
    x = norm(x, params.get("ln_final.w", one), get("ln_final.b"))
    logits = torch.einsum("npd,dc->npc", x, params["unembed.W_U"]) + get("unembed.b_U")
    return settings.output_scale * logits


@pytest.mark.parametrize("changes", GRID, ids=named)
def test_forward_and_gradients_against_the_plain_transformer(
    changes: dict, random_params, all_pairs, same_gradients
) -> None:
    settings, inputs = settings_of(changes), all_pairs(P)
    model = Transformer(settings, P, P)
    params = random_params(model)

    def oracle(leaves: dict[str, Tensor]) -> Tensor:
        return plain_transformer(settings, leaves, inputs, P)[:, -1, :P]

    same_gradients(params, lambda leaves: model.forward(leaves, inputs), oracle)
    same_gradients(params, lambda leaves: model.forward_grid(leaves).reshape(P * P, P), oracle)


@pytest.mark.parametrize("changes", GRID, ids=named)
def test_the_parts_compose_to_the_whole(changes: dict, random_params, all_pairs) -> None:
    model, inputs = Transformer(settings_of(changes), P, P), all_pairs(P)
    params = random_params(model)
    logits = model.forward(params, inputs)
    z = model.combined(params, inputs)
    assert torch.allclose(model.from_z(params, z), logits, **CLOSE)
    head = model.head_input(params, inputs) @ model.unembedding(params).mT
    bias = params["unembed.b_U"][:P] if model.settings.biases else 0
    assert torch.allclose(model.output_scale * (head + bias), logits, **CLOSE)
    form = model.gated(params)
    if model.settings.layer_norm:
        assert isinstance(form, Absent)
        assert "LayerNorm" in form.reason
    else:
        assert not isinstance(form, Absent)
        (pre,), again = gated_forward(form, z)
        assert torch.allclose(again, logits, **CLOSE)
        grid = model.neuron_grid(params)
        assert torch.allclose(form.activate(pre), grid.reshape(P * P, -1), **CLOSE)
    some = torch.tensor([[3, 1], [0, 6], [3, 1]])
    assert torch.allclose(model.forward(params, some), logits[some[:, 0] * P + some[:, 1]], **CLOSE)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_mask_hides_nothing_from_the_last_position(layer_norm: bool, random_params, all_pairs) -> None:
    causal = Transformer(settings_of({"layer_norm": layer_norm, "causal": True}), P, P)
    open_ = Transformer(settings_of({"layer_norm": layer_norm, "causal": False}), P, P)
    params = random_params(causal)
    assert torch.equal(causal.forward(params, all_pairs(P)), open_.forward(params, all_pairs(P)))


def test_neuron_inputs_are_the_main_effects_of_the_pre_activation(random_params, all_pairs) -> None:
    model = Transformer(settings_of({"biases": True}), P, P)
    params, inputs = random_params(model), all_pairs(P)
    form = model.gated(params)
    assert not isinstance(form, Absent)
    (pre,), _ = gated_forward(form, model.combined(params, inputs))
    grid = pre.reshape(P, P, -1)
    by_a, by_b = model.neuron_inputs(params)
    assert torch.allclose(by_a, torch.stack([grid[a].mean(0) for a in range(P)]), atol=1e-12)
    assert torch.allclose(by_b, torch.stack([grid[:, b].mean(0) for b in range(P)]), atol=1e-12)


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("out", [0, P + 1])
def test_maps_are_explicit_products(steps: int | None, out: int, random_params) -> None:
    model = Transformer(settings_of({"biases": True, "d_vocab_out": out}), P, P)
    stacked = random_params(model, steps=steps)
    maps = model.maps(stacked)
    heads = [f"{kind}.{head}" for kind in ("ov", "qk", "qk_query") for head in range(2)]
    assert set(maps) == {"embedding", "unembedding", "neuron_logit", "direct", *heads}
    for index in range(steps or 1):
        params = stacked if steps is None else {name: value[index] for name, value in stacked.items()}
        e, u = params["embed.W_E"][:P], params["unembed.W_U"][:, :P]
        expected = {
            "embedding": e,
            "unembedding": u.T,
            "neuron_logit": (params["blocks.0.mlp.W_out"] @ u).T,
            "direct": e @ u,
        }
        query = params["embed.W_E"][P] + params["pos_embed.W_pos"][2]
        for head in range(2):
            q, k, v, o = (params[f"blocks.0.attn.W_{one}"][head] for one in "QKVO")
            expected[f"ov.{head}"] = e @ v @ o @ u
            expected[f"qk.{head}"] = e @ q @ k.T @ e.T
            expected[f"qk_query.{head}"] = (query @ q @ k.T @ e.T)[None]
        for name, value in expected.items():
            found = maps[name].matrix()
            found = found if steps is None else found[index]
            assert torch.allclose(found, value, rtol=1e-11, atol=1e-11), name


@pytest.mark.parametrize("steps", [None, 3])
def test_maps_fold_the_gains_and_say_so(steps: int | None, random_params) -> None:
    model = Transformer(settings_of({"layer_norm": True}), P, P)
    stacked = random_params(model, steps=steps)
    maps = model.maps(stacked)
    assert maps["ov.0"].note == maps["qk_query.1"].note == maps["direct"].note == "gain folded, not exact"
    assert maps["embedding"].note == ""
    params = stacked if steps is None else {name: value[-1] for name, value in stacked.items()}
    first, last = params["blocks.0.ln1.w"].diag(), params["ln_final.w"].diag()
    e, u = params["embed.W_E"][:P], params["unembed.W_U"]
    q, k, v, o = (params[f"blocks.0.attn.W_{one}"][1] for one in "QKVO")
    query = params["embed.W_E"][P] + params["pos_embed.W_pos"][2]
    expected = {
        "ov.1": e @ first @ v @ o @ last @ u,
        "qk.1": e @ first @ q @ k.T @ first @ e.T,
        "qk_query.1": (query @ first @ q @ k.T @ first @ e.T)[None],
        "neuron_logit": (params["blocks.0.mlp.W_out"] @ last @ u).T,
        "direct": e @ last @ u,
    }
    for name, value in expected.items():
        found = maps[name].matrix()
        assert torch.allclose(found if steps is None else found[-1], value, rtol=1e-11, atol=1e-11), name


def test_anatomy_names_every_tensor_once() -> None:
    model = Transformer(settings_of({"layer_norm": True, "biases": True}), P, P)
    assert len(model.shapes) == len(model.parts) == 9 + 7 + 6
    assert set(model.matrices.values()) == {"embedding", "position", "attention", "mlp", "head"}
    assert all(not name.rpartition(".")[2].startswith("b") for name in model.matrices)
    assert sum(len(names) for names in model.blocks.values()) == len(model.parts)


def test_init_follows_the_seed_and_the_scales() -> None:
    model = Transformer(TransformerSettings(d_model=64, d_mlp=256, layer_norm=True, biases=True), 113, 113)
    one = model.init(torch.Generator().manual_seed(3))
    again = model.init(torch.Generator().manual_seed(3), torch.float64)
    assert {name: tuple(value.shape) for name, value in one.items()} == model.shapes
    assert all(torch.equal(one[name], again[name].float()) for name in one)
    assert one["blocks.0.mlp.W_in"].std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert one["unembed.W_U"].std().item() == pytest.approx(114**-0.5, rel=0.05)
    assert not one["blocks.0.mlp.b_in"].any()
    assert (one["blocks.0.ln1.w"] == 1).all()


@pytest.mark.parametrize(
    "changes",
    [{"d_model": 0}, {"n_heads": 3}, {"d_mlp": 0}, {"d_head": -1}, {"d_vocab_out": 5}, {"n_heads": 0}],
)
def test_sizes_that_do_not_fit(changes: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        Transformer(TransformerSettings(**{"d_model": 8, "n_heads": 2, "d_mlp": 4, **changes}), P, P)
    assert "\n" not in str(caught.value)
