"""A plain composed transformer: every position of every sample, with torch's own norms and attention."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from grokscope.models import Composed, ComposedSettings

P = 5
SMALL = ComposedSettings(d_model=8, n_heads=4, d_head=6, d_mlp=9)
BIASES: dict[str, Any] = {
    "query_key_value_bias": True,
    "attention_bias": True,
    "mlp_bias": True,
    "head_bias": True,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"output_scale": -0.5, "norm": "layer", "tied": True, "head_bias": True},
    "biases": BIASES,
    "pre-layer": {"norm": "layer", **BIASES},
    "pre-layer-no-final": {"norm": "layer", "final_norm": False, "activation": "gelu_tanh"},
    "bare-layer": {"norm": "layer", "norm_gain": False, "norm_bias": False, "n_layers": 2},
    "gainless-layer": {"norm": "layer", "norm_gain": False, "norm_epsilon": 0.1},
    "pre-rms": {"norm": "rms", "norm_epsilon": 1e-3, "n_layers": 2, "tied": True},
    "post-layer": {
        "norm": "layer",
        "norm_place": "post",
        "final_norm": False,
        "n_layers": 2,
        "activation": "gelu",
        **BIASES,
    },
    "post-final": {"norm": "layer", "norm_place": "post", "n_layers": 2, **BIASES},
    "post-final-rms": {"norm": "rms", "norm_place": "post", "d_mlp": 0, "read": "mean"},
    "attention-norm": {"norm": "layer", "mlp_norm": False, "final_norm": False, "n_layers": 2},
    "attention-norm-final": {"norm": "rms", "mlp_norm": False, "norm_gain": False},
    "mlp-norm": {"norm": "rms", "attention_norm": False, "final_norm": False, "n_layers": 2, **BIASES},
    "post-attention-norm": {"norm": "rms", "norm_place": "post", "mlp_norm": False, "final_norm": False},
    "post-mlp-norm": {
        "norm": "layer",
        "norm_place": "post",
        "attention_norm": False,
        "final_norm": False,
        "n_layers": 2,
    },
    "final-norm-alone": {"norm": "layer", "attention_norm": False, "mlp_norm": False, **BIASES},
    "embed-norm-alone": {
        "norm": "rms",
        "embed_norm": True,
        "attention_norm": False,
        "mlp_norm": False,
        "final_norm": False,
    },
    "norms-off": {"attention_norm": False, "final_norm": False},
    "post-rms-llama": {
        "norm": "rms",
        "norm_place": "post",
        "final_norm": False,
        "n_layers": 3,
        "gated_mlp": True,
        "activation": "silu",
        "positions": "rotary",
        "n_kv_heads": 2,
        "mlp_bias": True,
    },
    "one-kv-head": {"n_kv_heads": 1, "query_key_value_bias": True, "score_scale": "width"},
    "rotary-neighbours": {
        "positions": "rotary",
        "rotary_pairs": "neighbours",
        "rotary_base": 100.0,
        "n_layers": 2,
        "attention": "bidirectional",
    },
    "sinusoidal": {"positions": "sinusoidal", "embedding_scale": 8**0.5, "embed_norm": True, "norm": "layer"},
    "no-positions": {"positions": "none", "attention": "bidirectional", "n_layers": 2, "tied": True},
    "mixed": {"prompt": ("a", "b"), "attention": "bidirectional", "attention_share": 0.3, "b_offset": P},
    "mixed-causal": {"attention_share": -0.5, "n_layers": 2, "activation": "tanh"},
    "no-softmax": {"attention_share": 0.0, "score_scale": "none", "activation": "quadratic"},
    "rows": {
        "prompt": ("token:0", "b", "token:15", "a", "zero"),
        "residue_offset": 9,
        "b_offset": -7,
        "d_vocab": 17,
        "d_vocab_out": 12,
        "out_offset": 4,
        "n_positions": 7,
        "n_layers": 2,
        "head_bias": True,
    },
    "mean": {"read": "mean", "attention": "bidirectional", "mlp_bias": True},
    "mean-causal-normed": {"read": "mean", "norm": "layer", "n_layers": 2},
    "first": {"read": "first", "attention": "bidirectional", "n_layers": 2},
    "first-causal": {"read": "first", "n_layers": 2},
    "middle": {"read": "position:1", "prompt": ("a", "b", "="), "gated_mlp": True, "n_layers": 2},
    "twice": {"prompt": ("a", "b", "a", "="), "n_layers": 2, "attention": "bidirectional"},
    "attention-only": {"d_mlp": 0, "n_layers": 2, "attention_bias": True},
    "attention-only-post": {"d_mlp": 0, "norm": "layer", "norm_place": "post", "final_norm": False},
    "tied-rows": {"tied": True, "residue_offset": 2, "out_offset": 2, "d_vocab": 11, "head_bias": True},
}  # fmt: skip


def case(name: str, **more: Any) -> Composed:
    return Composed(replace(SMALL, **{**CASES[name], **more}), P, P)


def calmed(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Smaller weights, so that softmax and powers over three layers keep their digits."""
    return {name: 0.6 * value for name, value in params.items()}


def act(name: str, x: Tensor) -> Tensor:
    match name:
        case "relu":
            return torch.where(x > 0, x, torch.zeros_like(x))
        case "gelu":
            return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        case "gelu_tanh":
            return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        case "silu":
            return x / (1 + torch.exp(-x))
        case "quadratic":
            return x * x
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def turned(x: Tensor, base: float, pairs: str) -> Tensor:
    """Rotary positions of (…, length, k) as multiplication by complex numbers."""
    half = x.shape[-1] // 2
    frequency = torch.tensor([base ** (-2 * i / x.shape[-1]) for i in range(half)], dtype=torch.float64)
    angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * frequency
    turn = torch.polar(torch.ones_like(angle), angle)
    if pairs == "halves":
        y = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turn
        return torch.cat([y.real, y.imag], dim=-1)
    y = torch.view_as_complex(x.unflatten(-1, (half, 2)).contiguous()) * turn
    return torch.view_as_real(y).flatten(-2)


def tokens_of(s: ComposedSettings, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(N, length) embedding rows and which of them are zeroed."""
    equals = s.residue_offset + max(0, s.b_offset) + P
    columns = []
    for item in s.prompt:
        if item in ("a", "b"):
            start = s.residue_offset + (s.b_offset if item == "b" else 0)
            columns.append(inputs[:, "ab".index(item)] + start)
        else:
            row = {"=": equals, "zero": 0}.get(item)
            row = int(item.split(":")[1]) if row is None else row
            columns.append(torch.full((len(inputs),), row))
    return torch.stack(columns, dim=1), torch.tensor([item == "zero" for item in s.prompt])


def plain(s: ComposedSettings, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """(N, C) logits: every position of every sample, torch's own norms and attention."""
    d, h, length = s.d_model, s.n_heads, len(s.prompt)
    k = s.d_head or d // h

    def norm(name: str, x: Tensor) -> Tensor:
        gain, bias = params.get(f"{name}.w"), params.get(f"{name}.b")
        if s.norm == "layer":
            return functional.layer_norm(x, (d,), gain, bias, s.norm_epsilon)
        return functional.rms_norm(x, (d,), gain, s.norm_epsilon) if s.norm == "rms" else x

    def bias(name: str) -> Tensor | float:
        return params.get(name, 0.0)

    rows, zeroed = tokens_of(s, inputs)
    x = params["embed.W_E"][rows] * s.embedding_scale * (~zeroed)[:, None]
    if s.positions == "learned":
        x = x + params["pos_embed.W_pos"][:length]
    if s.positions == "sinusoidal":
        table = [[i / 10000 ** ((j - j % 2) / d) for j in range(d)] for i in range(length)]
        wave = [[math.cos(v) if j % 2 else math.sin(v) for j, v in enumerate(row)] for row in table]
        x = x + torch.tensor(wave, dtype=torch.float64)
    if s.embed_norm:
        x = norm("embed.ln", x)
    mask = torch.ones(length, length, dtype=torch.bool)
    mask = mask.tril() if s.attention == "causal" else mask
    for layer in range(s.n_layers):
        block, pre = f"blocks.{layer}", s.norm_place == "pre"
        y = norm(f"{block}.ln1", x) if pre and s.attention_norm else x
        heads = {}
        for which in "QKV":
            weight = params[f"{block}.attn.W_{which}"]
            value = torch.einsum("nld,hdk->nhlk", y, weight)
            if s.query_key_value_bias:
                value = value + params[f"{block}.attn.b_{which}"][:, None, :]
            if which != "V" and s.positions == "rotary":
                value = turned(value, s.rotary_base, s.rotary_pairs)
            heads[which] = value.repeat_interleave(h // weight.shape[0], dim=1)
        scale = {"head": 1 / math.sqrt(k), "width": 1 / math.sqrt(d), "none": 1.0}[s.score_scale]
        mixed = functional.scaled_dot_product_attention(
            heads["Q"], heads["K"], heads["V"], attn_mask=mask, scale=scale
        )
        share = s.attention_share
        mixed = share * mixed + (1 - share) * (mask.double() @ heads["V"])
        written = torch.einsum("nhlk,hkd->nld", mixed, params[f"{block}.attn.W_O"])
        x = x + written + bias(f"{block}.attn.b_O")
        x = norm(f"{block}.ln1", x) if not pre and s.attention_norm else x
        if not s.d_mlp:
            continue
        y = norm(f"{block}.ln2", x) if pre and s.mlp_norm else x
        inner = y @ params[f"{block}.mlp.W_in"] + bias(f"{block}.mlp.b_in")
        if s.gated_mlp:
            gate = y @ params[f"{block}.mlp.W_gate"] + bias(f"{block}.mlp.b_gate")
            inner = act(s.activation, gate) * inner
        else:
            inner = act(s.activation, inner)
        x = x + inner @ params[f"{block}.mlp.W_out"] + bias(f"{block}.mlp.b_out")
        x = norm(f"{block}.ln2", x) if not pre and s.mlp_norm else x
    if s.final_norm:
        x = norm("ln_final", x)
    place = {"first": 0, "last": -1}
    if s.read == "mean":
        x = x.mean(dim=1)
    else:
        x = x[:, place[s.read] if s.read in place else int(s.read.split(":")[1])]
    head = params["embed.W_E"].T if s.tied else params["unembed.W_U"]
    return s.output_scale * (x @ head + bias("unembed.b_U"))[:, s.out_offset : s.out_offset + P]
