"""What strangers call their tensors: tables of names and the parts that they play."""

import pytest
import torch

from grokscope.foreign.function.layout import Layout, Unrecognised, lay_out
from grokscope.foreign.function.vocabulary import axis_count, buffer_named, meanings

V, D, H, K, M, C, N = 13, 8, 2, 4, 20, 11, 3

LINEAR = {"q": (H * K, D), "k": (H * K, D), "v": (H * K, D), "o": (D, H * K)}


def of(**names: str) -> dict[str, torch.Tensor]:
    """Tensors of the shapes that ``nn.Linear`` and ``nn.Embedding`` give, by part."""
    shapes = {
        "embedding": (V, D), "position": (N, D), "query": LINEAR["q"], "key": LINEAR["k"], "value": LINEAR["v"],
        "output": LINEAR["o"], "packed": (3 * H * K, D), "mlp_in": (M, D), "mlp_gate": (M, D), "mlp_out": (D, M),
        "head": (C, D), "norm1_gain": (D,), "norm2_gain": (D,), "final_norm_gain": (D,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shapes[role], generator=generator) for role, name in names.items()}


STYLES: dict[str, dict[str, str]] = {
    "encoder": {
        "embedding": "embedding.weight", "position": "pos_embedding",
        "packed": "encoder.layers.0.self_attn.in_proj_weight",
        "output": "encoder.layers.0.self_attn.out_proj.weight", "mlp_in": "encoder.layers.0.linear1.weight",
        "mlp_out": "encoder.layers.0.linear2.weight", "norm1_gain": "encoder.layers.0.norm1.weight",
        "norm2_gain": "encoder.layers.0.norm2.weight", "head": "classifier.weight",
    },
    "sequential decoder": {
        "embedding": "token_embeddings.weight", "position": "position_embeddings.weight",
        "packed": "model.0.self_attn.in_proj_weight", "output": "model.0.self_attn.out_proj.weight",
        "norm1_gain": "model.0.self_attn_norm.weight", "mlp_in": "model.0.ffn.0.weight",
        "mlp_out": "model.0.ffn.2.weight", "norm2_gain": "model.0.ffn_norm.weight",
        "final_norm_gain": "model.1.weight", "head": "model.2.weight",
    },
    "gpt": {
        "embedding": "transformer.wte.weight", "position": "transformer.wpe.weight",
        "packed": "transformer.h.0.attn.c_attn.weight", "output": "transformer.h.0.attn.c_proj.weight",
        "norm1_gain": "transformer.h.0.ln_1.weight", "norm2_gain": "transformer.h.0.ln_2.weight",
        "mlp_in": "transformer.h.0.mlp.c_fc.weight", "mlp_out": "transformer.h.0.mlp.c_proj.weight",
        "final_norm_gain": "transformer.ln_f.weight", "head": "lm_head.weight",
    },
    "llama": {
        "embedding": "model.embed_tokens.weight", "query": "model.layers.0.self_attn.q_proj.weight",
        "key": "model.layers.0.self_attn.k_proj.weight", "value": "model.layers.0.self_attn.v_proj.weight",
        "output": "model.layers.0.self_attn.o_proj.weight", "mlp_gate": "model.layers.0.mlp.gate_proj.weight",
        "mlp_in": "model.layers.0.mlp.up_proj.weight", "mlp_out": "model.layers.0.mlp.down_proj.weight",
        "norm1_gain": "model.layers.0.input_layernorm.weight", "final_norm_gain": "model.norm.weight",
        "norm2_gain": "model.layers.0.post_attention_layernorm.weight", "head": "lm_head.weight",
    },
    "numbered gates": {
        "embedding": "tok_embeddings.weight", "query": "layers.0.attention.wq.weight",
        "key": "layers.0.attention.wk.weight", "value": "layers.0.attention.wv.weight",
        "output": "layers.0.attention.wo.weight", "mlp_gate": "layers.0.feed_forward.w1.weight",
        "mlp_in": "layers.0.feed_forward.w3.weight", "mlp_out": "layers.0.feed_forward.w2.weight",
        "norm1_gain": "layers.0.attention_norm.weight", "norm2_gain": "layers.0.ffn_norm.weight",
        "final_norm_gain": "norm.weight", "head": "output.weight",
    },
    "words": {
        "embedding": "tok_embed.weight", "position": "pos_embed.weight", "query": "layers.0.attention.query.weight",
        "key": "layers.0.attention.key.weight", "value": "layers.0.attention.value.weight",
        "output": "layers.0.attention.out.weight", "mlp_in": "layers.0.feed_forward.0.weight",
        "mlp_out": "layers.0.feed_forward.2.weight", "head": "unembed.weight",
    },
    "lists of two": {
        "embedding": "to_embedding.weight", "position": "pos_embedding",
        "norm1_gain": "transformer.layers.0.0.norm.weight",
        "packed": "transformer.layers.0.0.to_qkv.weight", "output": "transformer.layers.0.0.to_out.0.weight",
        "norm2_gain": "transformer.layers.0.1.net.0.weight", "mlp_in": "transformer.layers.0.1.net.1.weight",
        "mlp_out": "transformer.layers.0.1.net.4.weight", "final_norm_gain": "transformer.norm.weight",
        "head": "mlp_head.weight",
    },
    "one block": {
        "embedding": "embed.weight", "query": "attn.W_Q.weight", "key": "attn.W_K.weight", "value": "attn.W_V.weight",
        "output": "attn.W_O.weight", "mlp_in": "mlp.fc1.weight", "mlp_out": "mlp.fc2.weight", "head": "fc_out.weight",
    },
    "lens 4": {
        "embedding": "embed.weight", "position": "pos_embed.weight", "query": "blocks.0.attn.q.weight",
        "key": "blocks.0.attn.k.weight", "value": "blocks.0.attn.v.weight", "output": "blocks.0.attn.o.weight",
        "mlp_in": "blocks.0.mlp.in.weight", "mlp_out": "blocks.0.mlp.out.weight", "head": "unembed.weight",
    },
    "image": {
        "embedding": "token_embeddings.weight", "position": "position_embeddings.weight",
        "norm1_gain": "layers.0.ln_1.weight", "norm2_gain": "layers.0.ln_2.weight",
        "packed": "layers.0.attn.in_proj_weight", "output": "layers.0.attn.out_proj.weight",
        "mlp_in": "layers.0.mlp.0.weight", "mlp_out": "layers.0.mlp.2.weight", "final_norm_gain": "ln_f.weight",
        "head": "head.weight",
    },
    "underscores": {
        "embedding": "token_emb.weight", "position": "pos_emb.weight", "query": "blocks_0_attn_wq.weight",
        "key": "blocks_0_attn_wk.weight", "value": "blocks_0_attn_wv.weight", "output": "blocks_0_attn_wo.weight",
        "mlp_in": "blocks_0_mlp_fc1.weight", "mlp_out": "blocks_0_mlp_fc2.weight", "head": "head.weight",
    },
    "to_q": {
        "embedding": "embedding.weight", "position": "positional_embedding", "query": "blocks.0.attn.to_q.weight",
        "key": "blocks.0.attn.to_k.weight", "value": "blocks.0.attn.to_v.weight",
        "output": "blocks.0.attn.to_out.0.weight", "mlp_in": "blocks.0.ff.net.0.weight",
        "mlp_out": "blocks.0.ff.net.2.weight", "norm1_gain": "blocks.0.norm1.weight",
        "norm2_gain": "blocks.0.norm2.weight", "head": "to_logits.weight",
    },
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_read(style: str):
    names = STYLES[style]
    found = lay_out(of(**names))
    assert isinstance(found, Layout), found
    placed = {name: part.roles for part in found.parts for name in part.names}
    expected = {
        name: ("query", "key", "value") if role == "packed" else (role,) for role, name in names.items()
    }
    assert placed == expected


@pytest.mark.parametrize("style", STYLES)
def test_biases_go_with_their_weights(style: str):
    names = STYLES[style]
    tensors = of(**names)
    widths = {"mlp_in": M, "mlp_gate": M, "head": C, "packed": 3 * H * K}
    biases: dict[str, str] = {}
    for role, name in names.items():
        if role in ("embedding", "position") or not name.endswith("weight"):
            continue
        other = name.removesuffix("weight") + "bias"
        biases[other] = role
        tensors[other] = torch.zeros(widths.get(role, D))
    found = lay_out(tensors)
    assert isinstance(found, Layout), found
    placed = {name: part.roles for part in found.parts for name in part.names}
    for name, role in biases.items():
        expected = (
            ("query_bias", "key_bias", "value_bias")
            if role == "packed"
            else (role.removesuffix("_gain") + "_bias",)
        )
        assert placed[name] == expected


@pytest.mark.parametrize(
    ("name", "ndim", "is_float", "word"),
    [
        ("blocks.0.attn.mask", 2, True, "mask"),
        ("transformer.h.0.attn.bias", 4, True, "mask"),
        ("layers.0.self_attn.rotary_emb.inv_freq", 1, True, "rotation"),
        ("embeddings.position_ids", 2, False, "indices"),
        ("bn1.num_batches_tracked", 0, False, "batch norm"),
        ("anything", 2, False, "floating"),
    ],
)
def test_buffers_by_name(name: str, ndim: int, is_float: bool, word: str):
    assert word in (buffer_named(name, ndim, is_float) or "")


def test_a_bias_is_no_mask():
    assert buffer_named("layers.0.attn.bias", 1, True) is None
    assert buffer_named("fc.bias", 1, True) is None


@pytest.mark.parametrize(
    ("name", "ndim", "layer", "head"),
    [
        ("decoder.blocks.1.self_attn.attn_heads.2.query.weight", 2, 1, 2),
        ("h.3.attn.c_attn.weight", 2, 3, None),
        ("layers.0.attention.wq.weight", 2, 0, None),
    ],
)
def test_layers_and_heads_are_read(name: str, ndim: int, layer: int, head: int | None):
    first = next(meanings(name, ndim))
    assert (first.layer, first.head) == (layer, head)
    # the head's own tensor is one slice of three axes
    assert all(axis_count(one) == ndim + (head is not None) for one in first.axes)


def test_what_is_no_transformer_says_so():
    found = lay_out({"conv1.weight": torch.zeros(8, 1, 3, 3), "fc.weight": torch.zeros(10, 8)})
    assert isinstance(found, Unrecognised)
    assert "conv1.weight" in found.why
