"""The layers of a composed transformer, on vectors that know which operands they depend on.

At the first layer a vector depends on its token and position alone, so it is computed once for a constant and
once for each residue; attention joins what its visible positions depend on. Only what depends on both operands
is computed for each pair.

Shape legend: R rows (1, p or N), N pairs, H heads, G key-value heads, k head width, d model width, m neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding as rows_of
from torch.nn.functional import layer_norm

from grokscope.models.anatomy import Params, activate
from grokscope.models.composed_parts import ComposedSettings, Layout, has_norm


class Rows(NamedTuple):
    """Vectors at one position: one ("", R = 1), one for each residue ("a" or "b", R = p) or pair ("ab", N)."""

    values: Tensor
    of: str


def lift(rows: Rows, of: str, a: Tensor, b: Tensor) -> Tensor:
    """(R, …): ``rows`` for every row of what depends on ``of``, which includes all that they depend on."""
    if rows.of in (of, ""):
        return rows.values
    values = rows.values
    return rows_of(a if rows.of == "a" else b, values.flatten(1)).unflatten(-1, values.shape[1:])


def join(of: Sequence[str]) -> str:
    """What depends on all that these depend on."""
    return "".join(sorted(set("".join(of))))


def norm(s: ComposedSettings, params: Params, name: str, x: Tensor) -> Tensor:
    """LayerNorm or RMSNorm over the last axis, ``x`` itself where there is no norm of that name."""
    if not has_norm(s, name):
        return x
    gain, bias = params.get(f"{name}.w"), params.get(f"{name}.b")
    if s.norm == "layer":
        return layer_norm(x, (x.shape[-1],), gain, bias, s.norm_epsilon)
    x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + s.norm_epsilon)
    return x if gain is None else x * gain


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width) float64: sin(i/10000^(2j/d)) in column 2j and the cosine beside it (arXiv 1706.03762)."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, width, 2, dtype=torch.float64) / width
    )
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def rotate(s: ComposedSettings, x: Tensor, position: int) -> Tensor:
    """Queries or keys (…, k) turned by their position, pair by pair (arXiv 2104.09864)."""
    if s.positions != "rotary":
        return x
    half = x.shape[-1] // 2
    angles = position * s.rotary_base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    if s.rotary_pairs == "halves":
        left, right = x[..., :half], x[..., half:]
        return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
    left, right = x[..., 0::2], x[..., 1::2]
    return torch.stack([left * cos - right * sin, left * sin + right * cos], dim=-1).flatten(-2)


def embed(s: ComposedSettings, layout: Layout, params: Params) -> list[Rows]:
    """The residual stream before the first layer, one entry a position."""
    table, fixed, found = params["embed.W_E"], None, []
    if s.positions == "learned":
        fixed = params["pos_embed.W_pos"]
    elif s.positions == "sinusoidal":
        fixed = sinusoids(len(layout.slots), s.d_model).to(table)
    for position, slot in enumerate(layout.slots):
        if slot.row is None:
            x = torch.zeros_like(table[:1])
        else:
            x = table[slot.row : slot.row + (layout.n_tokens if slot.of else 1)] * s.embedding_scale
        if fixed is not None:
            x = x + fixed[position]
        found.append(Rows(norm(s, params, "embed.ln", x), slot.of))
    return found


def visible(s: ComposedSettings, position: int, length: int) -> range:
    """The positions that ``position`` attends to."""
    return range(position + 1 if s.attention == "causal" else length)


def attend(
    s: ComposedSettings,
    layout: Layout,
    params: Params,
    layer: int,
    stream: Sequence[Rows | None],
    queries: Sequence[int],
    a: Tensor,
    b: Tensor,
) -> list[Rows]:
    """The residual stream after attention, before any norm that follows, at the positions ``queries``.

    ``stream`` needs an entry only where some query attends.
    """
    prefix, heads, groups = f"blocks.{layer}.attn.", s.n_heads, layout.n_kv_heads
    seen = sorted({j for i in queries for j in visible(s, i, len(stream))})
    inputs: dict[int, Rows] = {}
    for j in seen:
        x = stream[j]
        assert x is not None
        normed = norm(s, params, f"blocks.{layer}.ln1", x.values) if s.norm_place != "post" else x.values
        inputs[j] = Rows(normed, x.of)

    def project(x: Tensor, which: str, count: int) -> Tensor:
        weight = params[f"{prefix}W_{which}"].transpose(0, 1).flatten(1)
        y = (x @ weight).unflatten(-1, (count, layout.d_head))
        return y + params[f"{prefix}b_{which}"] if s.query_key_value_bias else y

    # (R, G, 1, k), so that a key-value head meets the H/G query heads of its group
    keys = {
        j: Rows(rotate(s, project(x.values, "K", groups), j)[:, :, None], x.of) for j, x in inputs.items()
    }
    values = {j: Rows(project(x.values, "V", groups)[:, :, None], x.of) for j, x in inputs.items()}
    scale = {"head": layout.d_head**-0.5, "width": s.d_model**-0.5, "none": 1.0}[s.score_scale]
    found = []
    for i in queries:
        query = rotate(s, project(inputs[i].values, "Q", heads), i).unflatten(1, (groups, heads // groups))
        query = Rows(query * scale, inputs[i].of)
        scores = []
        for j in visible(s, i, len(stream)):
            of = join([query.of, keys[j].of])
            product = lift(query, of, a, b) * lift(keys[j], of, a, b)
            scores.append(Rows(product.sum(-1), of))
        of = join([score.of for score in scores])
        lifted = torch.broadcast_tensors(*(lift(score, of, a, b) for score in scores))
        pattern = torch.softmax(torch.stack(lifted, dim=-1), dim=-1)
        if s.attention_share != 1.0:
            pattern = s.attention_share * pattern + (1.0 - s.attention_share)
        mixed = sum(
            pattern[..., number, None] * lift(values[j], of, a, b)
            for number, j in enumerate(visible(s, i, len(stream)))
        )
        assert isinstance(mixed, Tensor)
        written = mixed.flatten(1) @ params[f"{prefix}W_O"].flatten(0, 1)
        if s.attention_bias:
            written = written + params[f"{prefix}b_O"]
        before = inputs[i] if s.norm_place == "stream" else stream[i]
        assert before is not None
        found.append(Rows(lift(before, of, a, b) + written, of))
    return found


def neurons(s: ComposedSettings, params: Params, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations (…, m), of the gate where there is one, and activations (…, m), from ``attend``'s result.

    The caller has applied the norm that follows attention in a post-norm block.
    """
    x = norm(s, params, f"blocks.{layer}.ln2", z) if s.norm_place != "post" else z
    prefix = f"blocks.{layer}.mlp."

    def inward(which: str) -> Tensor:
        y = x @ params[f"{prefix}W_{which}"]
        return y + params[f"{prefix}b_{which}"] if s.mlp_bias else y

    if not s.gated_mlp:
        pre = inward("in")
        return pre, activate(s.activation, pre)
    pre = inward("gate")
    return pre, activate(s.activation, pre) * inward("in")


def finish_layer(s: ComposedSettings, params: Params, layer: int, z: Tensor) -> Tensor:
    """The residual stream after the layer from the one after its attention."""
    x = after_attention(s, params, layer, z)
    if not s.d_mlp:
        return x
    y = x + neurons(s, params, layer, x)[1] @ params[f"blocks.{layer}.mlp.W_out"]
    if s.mlp_bias:
        y = y + params[f"blocks.{layer}.mlp.b_out"]
    return norm(s, params, f"blocks.{layer}.ln2", y) if s.norm_place == "post" else y


def after_attention(s: ComposedSettings, params: Params, layer: int, z: Tensor) -> Tensor:
    """What the MLP's residual branch starts from: z, through ln1 in a post-norm block."""
    return norm(s, params, f"blocks.{layer}.ln1", z) if s.norm_place == "post" else z
