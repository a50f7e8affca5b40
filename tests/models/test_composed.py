"""Composed transformers against a plain one (every sample, every position), torch's own layers, and ours."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import gated_forward
from grokscope.models import Composed, ComposedSettings, Transformer, TransformerSettings
from grokscope.models import composed as module
from grokscope.models.composed_layers import rotate, sinusoids
from tests.models.plain_composed import BIASES, CASES, SMALL, P, calmed, case, plain, tokens_of, turned

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def norms_after_attention(s: ComposedSettings) -> bool:
    """Whether any norm follows the last attention: all but the first one of a pre-norm block do."""
    own = s.attention_norm and s.norm_place == "post"
    return s.norm != "none" and (own or (s.mlp_norm and s.d_mlp > 0) or s.final_norm)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_against_the_plain_transformer(
    name: str, random_params, all_pairs, same_gradients
) -> None:
    model, inputs = case(name), all_pairs(P)
    params = calmed(random_params(model))

    def oracle(leaves: dict[str, Tensor]) -> Tensor:
        return plain(model.settings, leaves, inputs)

    same_gradients(params, lambda leaves: model.forward(leaves, inputs), oracle)
    expected = oracle(params)
    scale = float(expected.abs().max())
    assert torch.allclose(model.forward(params, inputs), expected, rtol=1e-12, atol=1e-12 * scale)
    assert torch.allclose(
        model.forward_grid(params).reshape(P * P, P), expected, rtol=1e-12, atol=1e-12 * scale
    )
    some = torch.tensor([[3, 1], [0, 4], [3, 1]])
    few = plain(model.settings, params, some)
    assert torch.allclose(model.forward(params, some), few, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("name", CASES)
def test_the_parts_compose_to_the_whole(name: str, random_params, all_pairs, monkeypatch) -> None:
    model, inputs = case(name), all_pairs(P)
    params = calmed(random_params(model))
    logits = model.forward(params, inputs)
    z = model.combined(params, inputs)
    assert z.shape == (P * P, 8 * len(model.layout.read))
    assert torch.allclose(model.from_z(params, z), logits, rtol=1e-11, atol=1e-11)
    bias = params["unembed.b_U"] if model.settings.head_bias else torch.zeros(99, dtype=torch.float64)
    first = model.settings.out_offset
    read = model.head_input(params, inputs) @ model.unembedding(params).mT + bias[first : first + P]
    assert torch.allclose(model.output_scale * read, logits, rtol=1e-11, atol=1e-11)
    assert set(params) == set(model.init(torch.Generator().manual_seed(0)))
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 2000)
    assert torch.allclose(model.forward(params, inputs), logits, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_the_gated_form_is_the_function_or_says_why_there_is_none(
    name: str, random_params, all_pairs
) -> None:
    model, inputs = case(name), all_pairs(P)
    params = calmed(random_params(model))
    form, s = model.gated(params), model.settings
    if not s.d_mlp:
        reason = "attention alone"
    elif norms_after_attention(s):
        reason = {"layer": "LayerNorm", "rms": "RMSNorm"}[s.norm]
    elif s.gated_mlp:
        reason = "multiplies"
    else:
        reason = "" if s.activation in ("relu", "gelu") else f"the activation is {s.activation}"
    if reason:
        assert isinstance(form, Absent)
        assert reason in form.reason
    else:
        assert not isinstance(form, Absent)
        (pre,), logits = gated_forward(form, model.combined(params, inputs))
        assert torch.allclose(logits, model.forward(params, inputs), rtol=1e-11, atol=1e-11)
        count = len(model.layout.read)
        active = form.activate(pre).unflatten(1, (count, -1)).mean(dim=1)
        grid = model.neuron_grid(params)
        assert isinstance(grid, Tensor)
        assert torch.allclose(active, grid.reshape(P * P, -1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_neurons_write_what_the_head_reads(name: str, random_params, all_pairs) -> None:
    """With no norm after it the logits change by neuron_logit times the activation of a neuron cut off."""
    model, inputs = case(name), all_pairs(P)
    params = calmed(random_params(model))
    by_neuron, grid, sides = (f(params) for f in (model.neuron_logit, model.neuron_grid, model.neuron_inputs))
    if not model.settings.d_mlp:
        assert all(isinstance(part, Absent) for part in (by_neuron, grid, sides))
        return
    assert isinstance(by_neuron, Tensor)
    assert isinstance(grid, Tensor)
    assert isinstance(sides, tuple)
    assert (by_neuron.shape, grid.shape, sides[0].shape) == ((P, 9), (P, P, 9), (P, 9))
    assert torch.allclose(sides[0].mean(0), sides[1].mean(0), rtol=1e-11, atol=1e-11)
    out = f"blocks.{model.last}.mlp.W_out"
    s = model.settings
    if s.norm == "none" or not (s.final_norm or (s.norm_place == "post" and s.mlp_norm)):
        without = dict(params)
        without[out] = params[out].clone()
        without[out][2] = 0.0
        change = model.forward(params, inputs) - model.forward(without, inputs)
        expected = grid.reshape(P * P, -1)[:, 2, None] * by_neuron[:, 2]
        assert torch.allclose(change, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("out", [0, P + 1])
def test_a_plain_one_layer_net_is_the_structured_transformer(
    layer_norm: bool, biases: bool, out: int, random_params, all_pairs, same_gradients
) -> None:
    theirs = Transformer(
        TransformerSettings(
            d_model=8,
            n_heads=2,
            d_mlp=9,
            layer_norm=layer_norm,
            biases=biases,
            activation="gelu",
            d_vocab_out=out,
        ),
        P,
        P,
    )
    more = BIASES if biases else {}
    norm = "layer" if layer_norm else "none"
    ours = Composed(
        replace(SMALL, n_heads=2, d_head=0, norm=norm, activation="gelu", d_vocab_out=out, **more), P, P
    )
    assert ours.shapes == theirs.shapes
    assert ours.matrices == theirs.matrices
    assert {b: set(names) for b, names in ours.blocks.items()} == {
        b: set(names) for b, names in theirs.blocks.items()
    }
    assert (ours.gated_block, ours.n_layers, ours.combine) == ("mlp", theirs.n_layers, theirs.combine)
    params, inputs = random_params(ours), all_pairs(P)
    same_gradients(params, ours.forward_grid, theirs.forward_grid)
    for method in ("combined", "head_input"):
        one, other = (getattr(model, method)(params, inputs) for model in (ours, theirs))
        assert torch.allclose(one, other, **CLOSE), method
    for method in ("neuron_grid", "neuron_logit", "unembedding"):
        one, other = (getattr(model, method)(params) for model in (ours, theirs))
        assert torch.allclose(one, other, **CLOSE), method
    for one, other in zip(ours.neuron_inputs(params), theirs.neuron_inputs(params), strict=True):  # type: ignore[arg-type]
        assert torch.allclose(one, other, **CLOSE)
    stacked = random_params(ours, steps=3)
    maps, expected = ours.maps(stacked), theirs.maps(stacked)
    assert set(maps) == set(expected)
    for name, view in expected.items():
        assert maps[name].note == view.note, name
        assert len(maps[name].factors) == len(view.factors), name
        assert torch.allclose(maps[name].matrix(), view.matrix(), **CLOSE), name


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_against_torch_encoder_layers(
    norm_first: bool, final_norm: bool, causal: bool, activation: Any, random_params, all_pairs
) -> None:
    """Two layers of ``nn.TransformerEncoderLayer`` with packed projections, and its norm after them."""
    d, heads, m, inputs = 8, 2, 9, all_pairs(P)
    s = ComposedSettings(
        d_model=d,
        n_layers=2,
        n_heads=heads,
        d_mlp=m,
        activation=activation,
        norm="layer",
        norm_place="pre" if norm_first else "post",
        final_norm=final_norm,
        attention="causal" if causal else "bidirectional",
        **{**BIASES, "head_bias": False},
    )
    model = Composed(s, P, P)
    params = random_params(model)
    x = params["embed.W_E"][tokens_of(s, inputs)[0]] + params["pos_embed.W_pos"]
    mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64) if causal else None
    for layer in range(2):
        theirs = nn.TransformerEncoderLayer(
            d, heads, m, 0.0, activation, batch_first=True, norm_first=norm_first, dtype=torch.float64
        )
        block, state = f"blocks.{layer}.", {}
        packed = [params[f"{block}attn.W_{x}"].transpose(1, 2).reshape(d, d) for x in "QKV"]
        state["self_attn.in_proj_weight"] = torch.cat(packed)
        state["self_attn.in_proj_bias"] = torch.cat([params[f"{block}attn.b_{x}"].flatten() for x in "QKV"])
        state["self_attn.out_proj.weight"] = params[f"{block}attn.W_O"].reshape(d, d).T
        state["self_attn.out_proj.bias"] = params[f"{block}attn.b_O"]
        for number, end in (("1", "in"), ("2", "out")):
            state[f"linear{number}.weight"] = params[f"{block}mlp.W_{end}"].T
            state[f"linear{number}.bias"] = params[f"{block}mlp.b_{end}"]
            state[f"norm{number}.weight"] = params[f"{block}ln{number}.w"]
            state[f"norm{number}.bias"] = params[f"{block}ln{number}.b"]
        theirs.load_state_dict(state)
        x = theirs(x, src_mask=mask)
    if final_norm:
        x = functional.layer_norm(x, (d,), params["ln_final.w"], params["ln_final.b"])
    expected = (x[:, -1] @ params["unembed.W_U"]).detach()
    assert torch.allclose(model.forward(params, inputs), expected, rtol=1e-12, atol=1e-11)


vectors = st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@settings(max_examples=60, deadline=None)
@given(
    query=vectors,
    key=vectors,
    i=st.integers(0, 40),
    j=st.integers(0, 40),
    shift=st.integers(0, 40),
    base=st.floats(2, 1e5),
    pairs=st.sampled_from(["halves", "neighbours"]),
)
def test_rotary_scores_depend_on_relative_position_only(query, key, i, j, shift, base, pairs) -> None:
    s = ComposedSettings(positions="rotary", rotary_base=base, rotary_pairs=pairs)
    here = rotate(s, query, i) @ rotate(s, key, j)
    there = rotate(s, query, i + shift) @ rotate(s, key, j + shift)
    assert float(there) == pytest.approx(float(here), abs=1e-10)
    assert float(rotate(s, query, i).norm()) == pytest.approx(float(query.norm()), abs=1e-10)
    sequence = query.expand(i + 1, 6)
    assert torch.allclose(rotate(s, query, i), turned(sequence, base, pairs)[i], rtol=1e-9, atol=1e-9)
    assert torch.equal(rotate(replace(s, positions="none"), query, i), query)


def test_sinusoids_by_hand() -> None:
    table = sinusoids(3, 5)
    assert table[0].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert table[2].tolist() == pytest.approx(
        [math.sin(2), math.cos(2), math.sin(2 * 10**-1.6), math.cos(2 * 10**-1.6), math.sin(2 * 10**-3.2)]
    )


def test_uniform_attention_has_a_closed_form(all_pairs) -> None:
    """With no softmax share, identity projections and no MLP, every visible token is added once."""
    s = ComposedSettings(
        d_model=P + 1, n_heads=1, d_mlp=0, positions="none", attention_share=0.0, tied=True
    )  # fmt: skip
    model, inputs = Composed(s, P, P), all_pairs(P)
    params = {
        name: torch.eye(P + 1, dtype=torch.float64).reshape(shape) for name, shape in model.shapes.items()
    }
    one_hot = functional.one_hot(inputs, P).sum(dim=1).double()
    assert torch.equal(model.forward(params, inputs), one_hot)
    at_b = Composed(replace(s, read="position:0"), P, P).forward(params, inputs)
    assert torch.equal(at_b, 2 * functional.one_hot(inputs[:, 0], P).double())


def test_an_early_position_does_not_see_later_operands(random_params, all_pairs) -> None:
    model, inputs = case("first-causal"), all_pairs(P)
    params = random_params(model)
    grid = model.forward_grid(params)
    # equal to rounding: a row of a product may be summed in another order than the next
    torch.testing.assert_close(grid, grid[:, :1].expand(P, P, P), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(grid[0], grid[1])
    constant = case("plain", prompt=("=", "a", "b"), read="first")
    logits = constant.forward(random_params(constant), inputs)
    torch.testing.assert_close(logits, logits[:1].expand(P * P, P), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["post-rms-llama", "sinusoidal", "rows", "mixed"])
def test_any_floating_type(name: str, dtype: torch.dtype, random_params, all_pairs) -> None:
    model = case(name)
    params = {key: value.to(dtype) for key, value in random_params(model).items()}
    logits = model.forward(params, all_pairs(P))
    assert logits.dtype == model.forward_grid(params).dtype == dtype
    expected = plain(model.settings, {key: value.double() for key, value in params.items()}, all_pairs(P))
    assert float((logits.double() - expected).abs().max() / expected.abs().max()) < (
        1e-4 if dtype == torch.float32 else 1e-12
    )


def test_embeddings_and_head_are_cut_to_residues_and_classes(random_params) -> None:
    rows = case("rows")
    params = random_params(rows)
    tables = rows.embeddings(params)
    assert torch.equal(tables["embedding_a"], params["embed.W_E"][9:14])
    assert torch.equal(tables["embedding_b"], params["embed.W_E"][2:7])
    assert torch.equal(rows.unembedding(params), params["unembed.W_U"][:, 4:9].T)
    tied = case("tied-rows")
    params = random_params(tied)
    assert list(tied.embeddings(params)) == ["embedding"]
    assert torch.equal(tied.unembedding(params), params["embed.W_E"][2:7])
    assert tied.tied
    assert "head" not in tied.blocks
    assert tied.blocks["head_bias"] == ("unembed.b_U",)
    separate = case("mixed")
    assert separate.shapes["embed.W_E"] == (2 * P, 8)
    # "=" stands after the residues of both operands
    assert case("mixed", prompt=("a", "b", "=")).shapes["embed.W_E"] == (2 * P + 1, 8)


def test_parts_carry_their_layer() -> None:
    deep = case("post-rms-llama")
    expected = {
        "embedding",
        "norm",
        "head",
        *[f"{kind}.{n}" for kind in ("attention", "mlp") for n in range(3)],
    }
    assert set(deep.blocks) == expected
    assert deep.gated_block == "mlp.2"
    assert deep.blocks["mlp.1"] == (
        "blocks.1.mlp.W_in",
        "blocks.1.mlp.W_gate",
        "blocks.1.mlp.W_out",
        "blocks.1.mlp.b_in",
        "blocks.1.mlp.b_gate",
        "blocks.1.mlp.b_out",
    )
    assert deep.shapes["blocks.2.attn.W_K"] == (2, 8, 6)
    kinds = {part.kind for part in deep.parts if part.block == "norm"}
    assert kinds == {"gain"}
    assert "ln_final.w" not in deep.shapes
    assert [name for name in case("post-final-rms").shapes if "ln" in name] == [
        "blocks.0.ln1.w",
        "ln_final.w",
    ]
    for name, norms in (
        ("attention-norm", {"blocks.0.ln1", "blocks.1.ln1"}),
        ("mlp-norm", {"blocks.0.ln2", "blocks.1.ln2"}),
        ("final-norm-alone", {"ln_final"}),
        ("norms-off", set()),
    ):
        assert {part.name[:-2] for part in case(name).parts if part.block == "norm"} == norms
    assert case("mean").gated_block is None
    assert case("attention-only").gated_block is None
    assert case("attention-only").blocks["attention.0"][-1] == "blocks.0.attn.b_O"
    assert case("sinusoidal").shapes["embed.ln.b"] == (8,)
    assert case("gainless-layer").shapes["ln_final.b"] == (8,)
    assert "ln_final.w" not in case("gainless-layer").shapes


def test_maps_of_several_layers_and_grouped_queries(random_params) -> None:
    model = case("post-rms-llama")
    params = random_params(model, steps=2)
    maps = model.maps(params)
    heads = [f"{kind}.{layer}.{h}" for kind in ("ov", "qk") for layer in range(3) for h in range(4)]
    neurons = [f"neuron_logit.{layer}" for layer in range(3)]
    assert set(maps) == {"embedding", "unembedding", "direct", *heads, *neurons}
    one = {name: value[1] for name, value in params.items()}
    e, u = one["embed.W_E"][:P], one["unembed.W_U"]

    def gain(*names: str) -> Tensor:
        return torch.stack([one[f"blocks.{name}.w"] for name in names]).prod(0).diag()

    q, o = (one[f"blocks.1.attn.W_{x}"][3] for x in "QO")
    k, v = (one[f"blocks.1.attn.W_{x}"][1] for x in "KV")  # heads 2 and 3 read group 1
    read = e @ gain("0.ln1", "0.ln2")
    later = gain("1.ln1", "1.ln2", "2.ln1", "2.ln2")
    expected = {
        "ov.1.3": read @ v @ o @ later @ u,
        "qk.1.3": read @ q @ k.T @ read.T,
        "neuron_logit.1": (one["blocks.1.mlp.W_out"] @ gain("1.ln2", "2.ln1", "2.ln2") @ u).T,
        "neuron_logit.2": (one["blocks.2.mlp.W_out"] @ gain("2.ln2") @ u).T,
        "direct": e @ gain("0.ln1", "0.ln2") @ later @ u,
    }
    for name, value in expected.items():
        assert torch.allclose(maps[name].matrix()[1], value, rtol=1e-11, atol=1e-11), name
    for piece in ("gain folded, not exact", "without the rotation", "past the other layers"):
        assert piece in maps["qk.1.0"].note
    assert "folded" not in maps["qk.0.0"].note  # the first layer of a post-norm net reads the bare embedding
    assert "rotation" not in maps["ov.0.0"].note


def test_maps_fold_scales_gains_and_rows(random_params) -> None:
    model = case("sinusoidal")
    params = random_params(model)
    maps = model.maps(params)
    e = params["embed.W_E"][:P] * 8**0.5 * params["embed.ln.w"]
    last = params["ln_final.w"].diag() @ params["unembed.W_U"]
    assert torch.allclose(maps["direct"].matrix(), e @ last, **CLOSE)
    w_v, w_o = (params[f"blocks.0.attn.W_{x}"][2] for x in "VO")
    assert torch.allclose(
        maps["ov.2"].matrix(), e * params["blocks.0.ln1.w"] @ w_v @ w_o @ last, rtol=1e-11, atol=1e-11
    )
    bare = case("bare-layer", n_layers=1)
    assert bare.maps(random_params(bare))["ov.0"].note == "norm left out, not exact"
    separate = case("mixed")
    found = separate.maps(random_params(separate))
    assert found["ov.0"].note == found["direct"].note == "of operand a's rows"
    assert {"embedding_a", "embedding_b"} <= set(found)
    assert "qk_query.0" not in found  # the last position holds an operand
    zero = case("plain", prompt=("a", "b", "zero"))
    params = random_params(zero)
    q, k = (params[f"blocks.0.attn.W_{x}"][1] for x in "QK")
    expected = params["pos_embed.W_pos"][2:3] @ q @ k.T @ params["embed.W_E"][:P].T
    assert torch.allclose(zero.maps(params)["qk_query.1"].matrix(), expected, rtol=1e-11, atol=1e-11)


def test_notes_of_maps_name_only_norms_on_their_path(random_params) -> None:
    folded = "gain folded, not exact"
    for name, expected in (
        ("attention-norm", {"direct": "", "neuron_logit.1": "", "ov.1.0": folded, "qk.1.0": folded}),
        ("mlp-norm", {"direct": "", "neuron_logit.1": "", "ov.1.0": "", "qk.1.0": ""}),
        ("final-norm-alone", {"direct": folded, "neuron_logit": folded, "ov.0": folded, "qk.0": ""}),
        ("post-attention-norm", {"direct": folded, "neuron_logit": "", "ov.0": folded, "qk.0": ""}),
        ("post-mlp-norm", {"direct": folded, "neuron_logit.1": folded, "ov.1.0": folded}),
        ("embed-norm-alone", {"direct": folded, "neuron_logit": "", "ov.0": folded, "qk.0": folded}),
        ("norms-off", {"direct": "", "neuron_logit": "", "ov.0": "", "qk.0": ""}),
    ):
        maps = case(name).maps(random_params(case(name)))
        found = {key: maps[key].note.removesuffix("past the other layers").rstrip("; ") for key in expected}
        assert found == expected, name
    model = case("post-final")
    params = random_params(model)
    last = params["blocks.1.ln2.w"] * params["ln_final.w"]
    expected = (params["blocks.1.mlp.W_out"] * last @ params["unembed.W_U"]).T
    assert torch.allclose(model.maps(params)["neuron_logit.1"].matrix(), expected, rtol=1e-11, atol=1e-11)


def test_a_bare_path_is_what_the_map_says(random_params, all_pairs) -> None:
    """With the last layer's attention uniform and everything else off, logits are sums of rows of maps."""
    model, inputs = case("mixed", attention_share=0.0, d_mlp=0, positions="none"), all_pairs(P)
    params = random_params(model)
    e_b = model.embeddings(params)["embedding_b"]
    maps = model.maps(params)
    over_heads = torch.stack([maps[f"ov.{h}"].matrix() for h in range(4)]).sum(0)
    w_vo = torch.einsum("hdk,hke->de", params["blocks.0.attn.W_V"], params["blocks.0.attn.W_O"])
    from_b = e_b @ w_vo @ params["unembed.W_U"] + e_b @ params["unembed.W_U"]
    expected = over_heads[inputs[:, 0]] + from_b[inputs[:, 1]]
    assert torch.allclose(model.forward(params, inputs), expected, rtol=1e-11, atol=1e-11)


def test_init_follows_the_seed_and_the_scales() -> None:
    model = Composed(ComposedSettings(d_model=64, norm="rms", head_bias=True, init_scale=2.0), 113, 113)
    params = model.init(torch.Generator().manual_seed(3))
    again = model.init(torch.Generator().manual_seed(3), torch.float64)
    assert {name: tuple(value.shape) for name, value in params.items()} == model.shapes
    assert all(torch.equal(params[name], again[name].float()) for name in params)
    assert params["blocks.0.mlp.W_in"].std().item() == pytest.approx(2 * 64**-0.5, rel=0.05)
    assert params["unembed.W_U"].std().item() == pytest.approx(2 * 114**-0.5, rel=0.05)
    assert not params["unembed.b_U"].any()
    assert (params["ln_final.w"] == 1).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 0},
        {"n_layers": 0},
        {"n_layers": 9},
        {"n_heads": 3, "d_head": 0},
        {"n_kv_heads": 3},
        {"n_kv_heads": -1},
        {"d_mlp": -1},
        {"activation": "swish"},
        {"d_head": 5, "positions": "rotary"},
        {"embed_norm": True},
        {"norm_epsilon": -1.0},
        {"rotary_base": 0.0},
        {"attention_share": math.inf},
        {"prompt": ()},
        {"prompt": ("a", "=")},
        {"prompt": ("a", "b", "c")},
        {"prompt": ("a", "b", "token:-1")},
        {"prompt": ("a", "b", "token:x")},
        {"read": "middle"},
        {"read": "position:3"},
        {"read": "position:-1"},
        {"read": "1"},
        {"residue_offset": -1},
        {"b_offset": 2},
        {"b_offset": -P},
        {"d_vocab": P},
        {"d_vocab": P + 1, "prompt": ("a", "b", "token:9")},
        {"n_positions": 2},
        {"d_vocab_out": P - 1},
        {"d_vocab_out": P, "out_offset": 1},
        {"out_offset": -1},
        {"tied": True, "d_vocab_out": 4},
        {"tied": True, "d_vocab": P + 1, "out_offset": 2},
    ],
)
def test_settings_that_do_not_fit(changes: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        Composed(replace(SMALL, **changes), P, P)
    assert "\n" not in str(caught.value)
