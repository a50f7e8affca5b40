"""The settings of a composed transformer, what its prompt means, and the tensors that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from grokscope.errors import GrokscopeError
from grokscope.models.anatomy import Activation, Part

MOST_LAYERS = 8


@dataclass(frozen=True)
class ComposedSettings:
    """``[model]`` of a recipe or a card: a transformer composed of known parts.

    Sizes: ``d_head`` 0 means d_model / n_heads, ``n_kv_heads`` 0 means n_heads (fewer: grouped queries, query
    head h reads key-value head h // (n_heads / n_kv_heads)), ``d_mlp`` 0 means attention alone.

    Blocks: a pre-norm block is x + attn(ln1 x), then x + mlp(ln2 x); a post-norm block is ln1(x + attn x), then
    ln2(x + mlp x); in a "stream" block the first norm replaces the stream: y = ln1 x, then z = y + attn y, then
    z + mlp(ln2 z). ``attention_norm`` is whether there is an ln1, ``mlp_norm`` an ln2, ``final_norm`` an
    ``ln_final`` before the head, after blocks of either kind; all three mean nothing where ``norm`` is "none".
    ``norm_epsilon`` stands inside the root. ``norm_bias`` is for LayerNorm alone. ``embed_norm`` norms the sum
    of token and position. A ``gated_mlp`` is act(x W_gate + b_gate) · (x W_in + b_in).

    Attention: the pattern is c·softmax(scores) + (1 − c) with c = ``attention_share``, on visible positions
    only: what a causal mask hides stays 0. Scores are scaled by 1/√d_head, 1/√d_model or 1. Rotary angles are
    position · base^(−2i/d_head), of the pair (i, i + d_head/2) for "halves", (2i, 2i + 1) for "neighbours".

    Prompt: each item is "a", "b", "zero" (a zero vector in place of a token's row; its position is added),
    "token:<row>", or "=", short for the row after the residues of both operands. Residue x of a is row
    ``residue_offset`` + x of the embedding, of b ``b_offset`` rows further: 0, or at least the number of
    residues, so that no row serves both. ``embedding_scale`` multiplies the rows, not the positions.

    Read: "last", "first", "position:<i>" from 0, or "mean" over positions, after the final norm.
    ``d_vocab``, ``n_positions`` and ``d_vocab_out`` are the rows or logits of larger tables, 0 for what is
    needed; class c is logit ``out_offset`` + c, for a tied head row ``out_offset`` + c of the embedding.
    ``output_scale`` is a constant on the logits.

    Weights start as N(0, init_scale²/d_model), an untied head as N(0, init_scale²/(classes + 1)), biases at
    zero, gains at one.
    """

    family: Literal["composed"] = "composed"
    d_model: int = 128
    n_layers: int = 1
    n_heads: int = 4
    n_kv_heads: int = 0
    d_head: int = 0
    d_mlp: int = 512
    activation: Activation = "relu"
    gated_mlp: bool = False
    norm: Literal["none", "layer", "rms"] = "none"
    norm_place: Literal["pre", "post", "stream"] = "pre"
    norm_gain: bool = True
    norm_bias: bool = True
    attention_norm: bool = True
    mlp_norm: bool = True
    final_norm: bool = True
    embed_norm: bool = False
    norm_epsilon: float = 1e-5
    positions: Literal["none", "learned", "sinusoidal", "rotary"] = "learned"
    n_positions: int = 0
    rotary_base: float = 10000.0
    rotary_pairs: Literal["halves", "neighbours"] = "halves"
    attention: Literal["causal", "bidirectional"] = "causal"
    attention_share: float = 1.0
    score_scale: Literal["head", "width", "none"] = "head"
    query_key_value_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    tied: bool = False
    embedding_scale: float = 1.0
    prompt: tuple[str, ...] = ("a", "b", "=")
    d_vocab: int = 0
    residue_offset: int = 0
    b_offset: int = 0
    read: str = "last"
    d_vocab_out: int = 0
    out_offset: int = 0
    output_scale: float = 1.0
    init_scale: float = 1.0


class Slot(NamedTuple):
    """What stands at one position of the prompt."""

    of: Literal["", "a", "b"]
    """The operand whose residue stands here, "" for a constant."""
    row: int | None
    """Row of the embedding: of residue 0 for an operand, of the token for a constant, ``None`` for zero."""


@dataclass(frozen=True)
class Layout:
    """The resolved sizes and places of ``settings`` for residues 0 … p − 1 and C classes."""

    n_tokens: int
    n_classes: int
    slots: tuple[Slot, ...]
    read: tuple[int, ...]
    d_head: int
    n_kv_heads: int
    d_vocab: int
    n_positions: int
    d_vocab_out: int

    def row_of(self, operand: str) -> int:
        """The embedding's row of residue 0 of ``operand``."""
        return next(slot.row for slot in self.slots if slot.of == operand and slot.row is not None)


def resolve(settings: ComposedSettings, n_tokens: int, n_classes: int) -> Layout:
    """What ``settings`` mean for a task of ``n_tokens`` residues and ``n_classes`` classes.

    Raises:
        GrokscopeError: sizes, a prompt or a place to read that do not fit.
    """
    s = settings
    _check_sizes(s)
    first, last = s.residue_offset, s.residue_offset + s.b_offset
    if first < 0 or last < 0 or 0 < abs(s.b_offset) < n_tokens:
        raise _misfit(
            f"model.residue_offset = {s.residue_offset} and model.b_offset = {s.b_offset}",
            f"rows from 0 and a b_offset of 0 or at least the {n_tokens} residues away",
        )
    slots = tuple(_slot(item, first, last, max(first, last) + n_tokens) for item in s.prompt)
    if not {"a", "b"} <= {slot.of for slot in slots}:
        raise _misfit(f"model.prompt = {list(s.prompt)}", "'a' and 'b' among its items")
    needed = 1 + max(slot.row + (n_tokens - 1 if slot.of else 0) for slot in slots if slot.row is not None)
    positions, out = s.n_positions or len(slots), s.out_offset + n_classes
    out_given = s.d_vocab_out
    if s.tied:
        vocab = s.d_vocab or max(needed, out)
        if out_given not in (0, vocab):
            raise _misfit(f"a tied head and model.d_vocab_out = {out_given}", f"0 or the {vocab} rows")
        out_given = vocab
    for name, given, least in (
        ("d_vocab", s.d_vocab, max(needed, out) if s.tied else needed),
        ("n_positions", s.n_positions, len(slots)),
        ("d_vocab_out", out_given, out),
    ):
        if given and given < least:
            raise _misfit(f"model.{name} = {given}", f"0 or at least {least}")
    return Layout(
        n_tokens=n_tokens,
        n_classes=n_classes,
        slots=slots,
        read=_read(s.read, len(slots)),
        d_head=s.d_head or s.d_model // s.n_heads,
        n_kv_heads=s.n_kv_heads or s.n_heads,
        d_vocab=s.d_vocab or (max(needed, out) if s.tied else needed),
        n_positions=positions,
        d_vocab_out=out_given or out,
    )


def has_norm(s: ComposedSettings, name: str) -> bool:
    """Whether there is a norm called ``name``: ``blocks.<l>.ln1``, ``blocks.<l>.ln2``, ``ln_final``, ``embed.ln``."""
    if s.norm == "none":
        return False
    places = {
        "ln1": s.attention_norm,
        "ln2": s.mlp_norm and s.d_mlp > 0,
        "ln_final": s.final_norm,
        "ln": s.embed_norm,
    }
    return places[name.rpartition(".")[2]]


def list_parts(s: ComposedSettings, layout: Layout) -> tuple[Part, ...]:
    """Every tensor, from the embedding to the head."""
    d, m, h, k, groups = s.d_model, s.d_mlp, s.n_heads, layout.d_head, layout.n_kv_heads
    parts = [Part("embed.W_E", (layout.d_vocab, d), "matrix", "embedding")]

    def norm(name: str) -> None:
        if not has_norm(s, name):
            return
        if s.norm_gain:
            parts.append(Part(f"{name}.w", (d,), "gain", "norm"))
        if s.norm == "layer" and s.norm_bias:
            parts.append(Part(f"{name}.b", (d,), "bias", "norm"))

    if s.positions == "learned":
        parts.append(Part("pos_embed.W_pos", (layout.n_positions, d), "matrix", "position"))
    norm("embed.ln")
    for layer in range(s.n_layers):
        place, number = f"blocks.{layer}", "" if s.n_layers == 1 else f".{layer}"
        attention, mlp = f"attention{number}", f"mlp{number}"
        norm(f"{place}.ln1")
        widths = {"Q": h, "K": groups, "V": groups}
        parts += [Part(f"{place}.attn.W_{x}", (n, d, k), "matrix", attention) for x, n in widths.items()]
        parts.append(Part(f"{place}.attn.W_O", (h, k, d), "matrix", attention))
        if s.query_key_value_bias:
            parts += [Part(f"{place}.attn.b_{x}", (n, k), "bias", attention) for x, n in widths.items()]
        if s.attention_bias:
            parts.append(Part(f"{place}.attn.b_O", (d,), "bias", attention))
        if not m:
            continue
        norm(f"{place}.ln2")
        inward = ("in", "gate") if s.gated_mlp else ("in",)
        parts += [Part(f"{place}.mlp.W_{x}", (d, m), "matrix", mlp) for x in inward]
        parts.append(Part(f"{place}.mlp.W_out", (m, d), "matrix", mlp))
        if s.mlp_bias:
            parts += [Part(f"{place}.mlp.b_{x}", (m,), "bias", mlp) for x in inward]
            parts.append(Part(f"{place}.mlp.b_out", (d,), "bias", mlp))
    norm("ln_final")
    if not s.tied:
        parts.append(Part("unembed.W_U", (d, layout.d_vocab_out), "matrix", "head"))
    if s.head_bias:
        parts.append(Part("unembed.b_U", (layout.d_vocab_out,), "bias", "head_bias" if s.tied else "head"))
    return tuple(parts)


def _misfit(given: str, expected: str) -> GrokscopeError:
    return GrokscopeError(f"building a composed transformer: {given}, expected {expected}")


def _check_sizes(s: ComposedSettings) -> None:
    if s.activation not in get_args(Activation):
        raise _misfit(f"model.activation = {s.activation!r}", f"one of {', '.join(get_args(Activation))}")
    if not 1 <= s.n_layers <= MOST_LAYERS:
        raise _misfit(f"model.n_layers = {s.n_layers}", f"1 to {MOST_LAYERS}")
    if min(s.d_model, s.n_heads) < 1 or min(s.d_head, s.d_mlp, s.n_kv_heads) < 0:
        raise _misfit(
            f"model.d_model = {s.d_model}, model.n_heads = {s.n_heads}, model.d_head = {s.d_head}, "
            f"model.d_mlp = {s.d_mlp}, model.n_kv_heads = {s.n_kv_heads}",
            "positive sizes (0 where it has a meaning)",
        )
    if not s.d_head and s.d_model % s.n_heads:
        raise _misfit(
            f"model.d_model = {s.d_model} and model.n_heads = {s.n_heads}",
            "heads that divide d_model where d_head is 0",
        )
    if s.n_heads % (s.n_kv_heads or s.n_heads):
        raise _misfit(f"model.n_kv_heads = {s.n_kv_heads}", f"a divisor of the {s.n_heads} heads")
    if min(s.d_vocab, s.n_positions, s.d_vocab_out, s.out_offset) < 0:
        raise _misfit(
            f"model.d_vocab = {s.d_vocab}, model.n_positions = {s.n_positions}, model.d_vocab_out = "
            f"{s.d_vocab_out}, model.out_offset = {s.out_offset}",
            "none below 0",
        )
    if s.positions == "rotary" and (s.d_head or s.d_model // s.n_heads) % 2:
        raise _misfit(
            f"rotary positions and heads of width {s.d_head or s.d_model // s.n_heads}", "an even width"
        )
    if s.embed_norm and s.norm == "none":
        raise _misfit("model.embed_norm and model.norm = 'none'", "'layer' or 'rms' with it")
    if not (s.norm_epsilon >= 0 and s.rotary_base > 0 and math.isfinite(s.attention_share)):
        raise _misfit(
            f"model.norm_epsilon = {s.norm_epsilon}, model.rotary_base = {s.rotary_base}, "
            f"model.attention_share = {s.attention_share}",
            "an epsilon of at least 0, a base above 0 and a finite share",
        )


def _slot(item: str, first: int, second: int, equals: int) -> Slot:
    if item in ("a", "b"):
        return Slot(item, first if item == "a" else second)  # pyright: ignore[reportArgumentType]
    if item == "zero":
        return Slot("", None)
    if item == "=":
        return Slot("", equals)
    row = item.removeprefix("token:")
    if row == item or not (row.isascii() and row.isdigit()):
        raise _misfit(f"model.prompt has the item {item!r}", "'a', 'b', '=', 'zero' or 'token:<row>'")
    return Slot("", int(row))


def _read(read: str, length: int) -> tuple[int, ...]:
    if read == "mean":
        return tuple(range(length))
    place = {"last": str(length - 1), "first": "0"}.get(read, read.removeprefix("position:"))
    known = read in ("last", "first") or read.startswith("position:")
    if not known or not (place.isascii() and place.isdigit()) or int(place) >= length:
        raise _misfit(
            f"model.read = {read!r}",
            f"'last', 'first', 'mean' or 'position:<i>' with i from 0 to {length - 1}",
        )
    return (int(place),)
