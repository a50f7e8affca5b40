"""One assignment of a transformer's space as a model of ours: settings, parameters, and the card that says so.

Axis legend: as in ``card``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.card import EVERY_LOGIT, TARGETS
from grokscope.foreign.function.layout import Layout
from grokscope.foreign.function.sizes import Solution, parse_axes
from grokscope.foreign.function.space import Assignment, Tokens, Translate
from grokscope.foreign.function.translation import stored, turned
from grokscope.models import (
    Composed,
    ComposedSettings,
    Model,
    Params,
    Transformer,
    TransformerSettings,
)

PACKINGS = ("(3 H k)", "(H 3 k)", "(H k 3)")
"""Axes of queries, keys and values in one matrix: one after another, head by head, number by number."""


def build_model(layout: Layout, found: Solution, chosen: Assignment) -> tuple[Model, Translate]:
    sizes, tokens = dict(found.sizes), chosen["tokens"]
    heads, kv_heads, width = chosen["heads"]
    sizes |= {"H": heads, "G": kv_heads, "k": width}
    positions, _, pairs = str(chosen["positions"]).partition(" ")
    known = {one.name for one in fields(ComposedSettings)}
    simple = {name: value for name, value in chosen.items() if name in known}
    tied = not layout.has("head")
    has_norm = layout.has("norm1_gain")
    settings = ComposedSettings(
        **{
            **{name: value for name, value in layout.fixed.items() if name in known},
            **simple,
            "d_model": sizes["d"],
            "n_layers": max(len(layout.layers), 1),
            "n_heads": heads,
            "n_kv_heads": 0 if kv_heads == heads else kv_heads,
            "d_head": 0 if heads * width == sizes["d"] else width,
            "d_mlp": sizes.get("m", 0),
            "gated_mlp": layout.has("mlp_gate"),
            "norm": simple.get("norm", "layer") if has_norm else layout.fixed.get("norm", "none"),
            "norm_gain": has_norm,
            "norm_bias": layout.has("norm1_bias"),
            "final_norm": layout.has("final_norm_gain"),
            "embed_norm": layout.has("embedding_norm_gain"),
            "positions": positions,
            "n_positions": _unless(sizes.get("n", 0), len(tokens.prompt)) if positions == "learned" else 0,
            "rotary_pairs": pairs or "halves",
            "query_key_value_bias": layout.has("query_bias"),
            "attention_bias": layout.has("output_bias"),
            "mlp_bias": layout.has("mlp_in_bias"),
            "head_bias": layout.has("head_bias"),
            "tied": tied,
            "prompt": tokens.prompt,
            "d_vocab": sizes["v"],
            "residue_offset": tokens.residue_offset,
            "b_offset": tokens.b_offset,
            "d_vocab_out": 0 if tied else _unless(sizes["c"], tokens.p),
            "out_offset": tokens.out_offset,
        }
    )
    classes, first = tokens.p, 0
    if chosen.get("softmax over") == EVERY_LOGIT:
        classes, first = sizes["v"] if tied else sizes["c"], tokens.out_offset
        settings = replace(settings, d_vocab_out=0, out_offset=0)
        if tied and first:
            settings = _turned_rows(settings, tokens, first, classes)
    plain = _as_plain(settings, tokens.p)
    model: Model
    if plain is not None:
        model = Transformer(plain, tokens.p, classes)
    else:
        model = Composed(settings, tokens.p, classes)
    shapes = model.shapes
    axes = _axes(found, chosen)

    def translate(tensors: Mapping[str, Tensor]) -> Params:
        return turned(translated(layout, axes, sizes, tensors, shapes), first)

    return model, translate


def _turned_rows(settings: ComposedSettings, tokens: Tokens, first: int, rows: int) -> ComposedSettings:
    """The settings of a tied transformer whose first rows are put behind the others, as ``turned`` does."""
    start = min(tokens.residue_offset, tokens.residue_offset + tokens.b_offset) - first
    if start < 0:
        raise GrokscopeError(
            f"building a tied transformer: answers from logit {first} and residues from row {start + first}, "
            "expected no residue before the first answer"
        )
    equals = max(tokens.residue_offset, tokens.residue_offset + tokens.b_offset) + tokens.p
    items = (f"token:{equals}" if item == "=" else item for item in tokens.prompt)
    prompt = tuple(
        f"token:{(int(item[6:]) - first) % rows}" if item.startswith("token:") else item for item in items
    )
    return replace(settings, prompt=prompt, residue_offset=tokens.residue_offset - first)


def _axes(found: Solution, chosen: Assignment) -> dict[tuple[str, ...], str]:
    """The order of the axes of every part under one assignment."""
    axes = found.transposed() if chosen.get("square matrices") == "transposed" else found.axes
    packing = chosen.get("packing", PACKINGS[0])
    return {names: order.replace(PACKINGS[0], packing) for names, order in axes.items()}


def declare_card(layout: Layout, found: Solution, chosen: Assignment) -> dict[str, Any]:
    """The card of one assignment: every setting fixed, every tensor under its role."""
    heads, kv_heads, width = chosen["heads"]
    positions, _, pairs = str(chosen["positions"]).partition(" ")
    tokens: Tokens = chosen["tokens"]
    known = {one.name for one in fields(ComposedSettings)}
    function: dict[str, Any] = {"family": "transformer", **layout.fixed}
    function |= {name: value for name, value in chosen.items() if name in known}
    function |= {"n_heads": heads, "n_kv_heads": 0 if kv_heads == heads else kv_heads, "d_head": width}
    function |= {"positions": positions, "prompt": list(tokens.prompt), "out_offset": tokens.out_offset}
    function |= {"residue_offset": tokens.residue_offset, "b_offset": tokens.b_offset}
    if pairs:
        function["rotary_pairs"] = pairs
    axes = _axes(found, chosen)
    tensors: dict[str, str] = {}
    for part in layout.parts:
        roles, order = " ".join(part.roles), axes[part.names]
        layered = any("{layer}" in TARGETS[role][0] for role in part.roles)
        place = f"{roles}.{layout.layers[part.layer]}" if layered and len(layout.layers) > 1 else roles
        for index, name in enumerate(part.names):
            if len(part.names) > 1:
                # one tensor a head: the pattern of its name says which
                name = re.sub(rf"(?<=[._]){index}(?=[._])(?!.*(?<=[._]){index}[._])", "{head}", name)
                tensors[name] = f"{place}: {' '.join(order.split()[1:])}"
            else:
                tensors[name] = f"{place}: {order}"
    return {"function": function, "tensors": tensors}


def translated(
    layout: Layout,
    orders: Mapping[tuple[str, ...], str],
    sizes: Mapping[str, int],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> Params:
    """Our parameters from one save's tensors; linear in them, zeros where a bias was left out."""
    params: Params = {}
    for part in layout.parts:
        axes = orders[part.names]
        value = tensors[part.names[0]]
        if len(part.names) > 1 or value.ndim < len(parse_axes(axes)):
            value = torch.stack([tensors[name] for name in part.names])
        for role, piece, order in _unpacked(part.roles, value, axes, sizes):
            target, wanted = TARGETS[role]
            letters = {one for axis in parse_axes(order) for one in axis if not one.isdigit()}
            known = {letter: sizes[letter] for letter in letters if letter in sizes}
            ours = rearrange(piece, f"{order} -> {wanted}", **known)
            params[target.format(layer=part.layer)] = stored(ours)
    some = next(iter(params.values()))
    missing = [name for name in shapes if name not in params]
    params |= {
        name: torch.zeros(shapes[name], dtype=some.dtype)
        for name in missing
        if ".b_" in name or name.endswith(".b")
    }
    wrong = [
        name for name, shape in shapes.items() if name not in params or tuple(params[name].shape) != shape
    ]
    if wrong or len(params) != len(shapes):
        name = wrong[0] if wrong else next(one for one in params if one not in shapes)
        raise GrokscopeError(
            f"translating the tensors of a {layout.dialect} file: {name} does not fit the function, expected "
            f"{shapes.get(name, 'no such tensor')}"
        )
    return {name: params[name] for name in shapes}


def _unpacked(
    roles: tuple[str, ...], value: Tensor, axes: str, sizes: Mapping[str, int]
) -> list[tuple[str, Tensor, str]]:
    """Each role packed in a tensor, its piece, and the order of the piece's axes."""
    if len(roles) == 1:
        return [(roles[0], value, axes)]
    number = str(len(roles))
    packed = re.sub(rf"\b{number}\b", "s", axes)
    order = " ".join(re.sub(r"\bs\b", "", packed).split()).replace("( ", "(").replace(" )", ")")
    letters = {one for axis in parse_axes(order) for one in axis if one in sizes}
    known = {letter: sizes[letter] for letter in letters}
    pieces = rearrange(value, f"{packed} -> s {order}", s=len(roles), **known)
    renamed = (order.replace("H", "G") if role.startswith(("key", "value")) else order for role in roles)
    return list(zip(roles, pieces, renamed, strict=True))


def _as_plain(s: ComposedSettings, p: int) -> TransformerSettings | None:
    """The one-layer transformer on [a, b, =] that ``s`` is, where it is one: it has a faster forward."""
    biases = {s.query_key_value_bias, s.attention_bias, s.mlp_bias, s.head_bias}
    plain = (
        s.n_layers == 1
        and s.d_mlp > 0
        and s.activation in ("relu", "gelu")
        and not s.gated_mlp
        and not s.tied
        and not s.embed_norm
        and not s.n_kv_heads
        and s.positions == "learned"
        and s.n_positions in (0, 3)
        and s.attention_share == 1.0
        and s.score_scale == "head"
        and s.embedding_scale == 1.0
        and s.prompt in (("a", "b", f"token:{p}"), ("a", "b", "="))
        and s.d_vocab == p + 1
        and not s.residue_offset
        and not s.b_offset
        and not s.out_offset
        and s.read == "last"
        and len(biases) == 1
    )
    layered = (
        s.norm == "layer"
        and s.norm_place == "pre"
        and s.norm_bias
        and s.final_norm
        and s.norm_epsilon == 1e-5
    )
    if not plain or not ((s.norm == "none" and not s.final_norm) or layered):
        return None
    return TransformerSettings(
        d_model=s.d_model,
        n_heads=s.n_heads,
        d_head=s.d_head,
        d_mlp=s.d_mlp,
        activation=s.activation,
        layer_norm=layered,
        biases=s.head_bias,
        causal=s.attention == "causal",
        d_vocab_out=s.d_vocab_out,
    )


def _unless(value: int, usual: int) -> int:
    return 0 if value == usual else value
