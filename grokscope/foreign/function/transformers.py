"""From a layout to the transformers that it may be: what shapes say, what is recorded, what is open.

Axis legend: as in ``card``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grokscope.foreign.function import recorded_settings as recorded
from grokscope.foreign.function.card import TARGETS, softmax_options
from grokscope.foreign.function.hypotheses import told
from grokscope.foreign.function.layout import COMMON_NAMES, SINUSOIDS, Layout, Unrecognised, not_floating
from grokscope.foreign.function.sizes import Contradiction, Solution, solve
from grokscope.foreign.function.space import Assignment, Choice, Space, Tokens, Translate, choice_of
from grokscope.foreign.function.tokens import fitting, token_options
from grokscope.foreign.function.transformer_models import PACKINGS, build_model, declare_card
from grokscope.foreign.gathering.facts import Facts
from grokscope.models import Model

_HEADS = (4, 8, 2, 1, 16, 3, 6, 12, 5, 10)
_PLAIN_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
_EPSILONS = (1e-5, 1e-6, 1e-12)
_RMS_EPSILONS = (1e-6, 1e-5, 2.0**-23, 1e-8)
"""Among them the rounding of float32, which torch's own RMSNorm takes."""

_ONE_PACKING = re.compile(r"in_proj|c_attn")
"""Names that only come with the first."""

_GATED_ACTIVATIONS = ("silu", "gelu", "relu", "gelu_tanh")


def transformer_space(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    facts: Facts,
    inside: Mapping[str, Any],
    task: Mapping[str, Any],
) -> Space | Unrecognised:
    """Every transformer that ``layout`` may be; ``task`` is what a card says of it (``p``, ``operation``)."""
    odd = not_floating({name: tensors[name] for part in layout.parts for name in part.names})
    if odd is not None:
        return odd
    try:
        found = solve(layout.parts, tensors)
    except Contradiction as error:
        return Unrecognised(str(error))
    problem = _unsupported(layout)
    if problem:
        return Unrecognised(problem)
    choices = _choices(layout, tensors, found, facts, inside, task)
    if isinstance(choices, Unrecognised):
        return choices

    def build(assignment: Assignment) -> tuple[Model, Translate]:
        return build_model(layout, found, assignment)

    settled = {one.about: one.options[0] for one in choices if len(one.options) == 1}
    names = tuple(name for name in tensors if any(name in part.names for part in layout.parts))
    return Space(
        title=layout.title,
        dialect=layout.dialect,
        known=tuple(_known(layout, found))
        + tuple(f"{about.replace('_', ' ')}: {told(value)}" for about, value in settled.items()),
        ignored=layout.ignored,
        choices=tuple(choices),
        build=build,
        names=names,
        declare=lambda assignment: declare_card(layout, found, assignment),
    )


def _unsupported(layout: Layout) -> str | None:
    norms = [role for role in ("norm1_gain", "norm2_gain") if layout.has(role)]
    has_mlp = layout.has("mlp_in")
    if has_mlp != layout.has("mlp_out"):
        return "one of the two matrices of the MLP is missing"
    if has_mlp and len(norms) == 1:
        return f"{norms[0].replace('_', ' ')} is there without the other norm of its layer"
    return None


def _choices(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    found: Solution,
    facts: Facts,
    inside: Mapping[str, Any],
    task: Mapping[str, Any],
) -> list[Choice] | Unrecognised:
    sizes, fixed, hints = found.sizes, dict(layout.fixed), dict(layout.hints)
    choices: list[Choice] = []

    def choose(
        about: str, options: tuple[Any, ...], note: tuple[Any, str] | None = None, late: bool = False
    ) -> None:
        choices.append(choice_of(about, options, fixed, note, hint=hints.get(about), late=late))

    heads = _heads(found, facts, inside, fixed)
    if isinstance(heads, Unrecognised):
        return heads
    choices.append(heads)
    if found.doubtful:
        choices.append(Choice("square matrices", ("as their names suggest", "transposed")))
    packed = [part.names[0] for part in layout.parts if part.roles == ("query", "key", "value")]
    if packed and layout.dialect == COMMON_NAMES and not any(map(_ONE_PACKING.search, packed)):
        choices.append(Choice("packing", PACKINGS))
    gated, has_norm = layout.has("mlp_gate"), layout.has("norm1_gain")
    if layout.has("mlp_in"):
        word = recorded.recorded_word(facts, inside, recorded.ACTIVATION_NAMES, recorded.ACTIVATION_WORDS)
        choose("activation", _GATED_ACTIVATIONS if gated else _PLAIN_ACTIVATIONS, word)
    if has_norm:
        first = recorded.recorded_flag(facts, inside, recorded.NORM_FIRST_NAMES)
        place = (("pre" if first[0] else "post"), first[1]) if first else None
        likely = ("pre", "post") if layout.has("final_norm_gain") else ("post", "pre")
        likely = (*likely, "stream") if layout.has("norm1_gain") else likely
        choose("norm_place", likely, place)
        kinds = ("layer",) if layout.has("norm1_bias") or fixed.get("norm") == "layer" else ("rms", "layer")
        choose("norm", kinds)
        epsilon = recorded.recorded_number(facts, inside, recorded.EPSILON_NAMES)
        choose("norm_epsilon", _EPSILONS if kinds == ("layer",) else _RMS_EPSILONS, epsilon, late=True)
    if layout.has("position"):
        choices.append(Choice("positions", ("learned",)))
    else:
        buffers = " ".join(layout.ignored.values())
        likely = ("none", "sinusoidal", "rotary halves", "rotary neighbours")
        if "rotation" in buffers:
            likely = ("rotary halves", "rotary neighbours", "none", "sinusoidal")
        if SINUSOIDS in buffers:
            likely = ("sinusoidal",)
        if fixed.get("positions") == "rotary" and "rotary_pairs" not in fixed:
            choices.append(Choice("positions", ("rotary halves", "rotary neighbours")))
        elif "positions" in fixed:
            kind = f"rotary {fixed['rotary_pairs']}" if fixed["positions"] == "rotary" else fixed["positions"]
            choices.append(Choice("positions", (kind,), "the card"))
        else:
            choices.append(Choice("positions", likely))
        base = recorded.recorded_number(facts, inside, recorded.ROTARY_BASE_NAMES)
        if base:
            choose("rotary_base", (base[0],), base)
    choices += _attention_choices(layout, tensors, facts, inside, choose_from=(fixed, hints))
    _scale_choices(layout, sizes, facts, inside, choose)
    tied = not layout.has("head")
    v = sizes["v"]
    c = v if tied else sizes["c"]
    p = recorded.recorded_whole(facts, inside, recorded.MODULUS_NAMES)
    given_p = task.get("p") or (p[0] if p else None)
    tokens = _tokens(fixed, task, v, c, sizes.get("n"), given_p)
    if not tokens:
        return Unrecognised(f"{v} tokens and {c} logits were given, expected room for at least 2 residues")
    choices.append(Choice("tokens", tokens, (p[1] if p else "") if given_p else ""))
    if "read" in fixed:
        choices.append(Choice("read", (fixed["read"],), "the card"))
    else:
        choices.append(Choice("read", ("last", "mean", "first", "position:1")))
    if any(c > one.p for one in tokens):
        choices.append(Choice("softmax over", softmax_options(task)))
    return choices


def _tokens(
    fixed: Mapping[str, Any], task: Mapping[str, Any], v: int, c: int, n: int | None, p: int | None
) -> tuple[Tokens, ...]:
    options = fitting(token_options(v, c, n, p), fixed, task)
    if "prompt" in fixed:
        wanted = tuple(fixed["prompt"])
        seen: dict[Tokens, None] = {}
        for one in options:
            seen.setdefault(replace(one, prompt=wanted), None)
        options = tuple(seen)
    return options


def _heads(
    found: Solution, facts: Facts, inside: Mapping[str, Any], fixed: Mapping[str, Any]
) -> Choice | Unrecognised:
    """(query heads, key-value heads, head width), known or open."""
    sizes, products = found.sizes, found.products
    if "H" in sizes and "k" in sizes:
        return Choice("heads", ((sizes["H"], sizes.get("G", sizes["H"]), sizes["k"]),))
    query, key = products.get("H k"), products.get("G k", products.get("H k"))
    if query is None or key is None:
        return Unrecognised("the shapes do not tell the width of the attention")
    noted = recorded.recorded_whole(facts, inside, recorded.HEADS_NAMES)
    counts = [int(fixed["n_heads"])] if "n_heads" in fixed else []
    if not counts:
        usual = [one for one in _HEADS if query % one == 0]
        others = [one for one in range(1, min(query, 64) + 1) if query % one == 0 and one not in usual]
        counts = ([noted[0]] if noted and query % noted[0] == 0 else []) + usual + others
    options: list[tuple[int, int, int]] = []
    for heads in dict.fromkeys(counts):
        width = query // heads
        if query % heads == 0 and key % width == 0 and heads % (key // width) == 0:
            options.append((heads, key // width, width))
    if not options:
        return Unrecognised(f"no number of heads fits queries of {query} and keys of {key}")
    return Choice("heads", tuple(options), noted[1] if noted and options[0][0] == noted[0] else "")


def _attention_choices(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    facts: Facts,
    inside: Mapping[str, Any],
    choose_from: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> list[Choice]:
    fixed, hints = choose_from
    share = recorded.recorded_number(facts, inside, recorded.SHARE_NAMES)
    found = []
    if "attention_share" in fixed:
        found.append(Choice("attention_share", (float(fixed["attention_share"]),), "the card"))
    elif share is not None:
        found.append(Choice("attention_share", (share[0], 1.0), share[1]))
    if "attention" in fixed:
        return [*found, Choice("attention", (fixed["attention"],), "the card")]
    mask = _mask(layout, tensors)
    if mask is not None:
        return [
            *found,
            Choice(
                "attention",
                (mask, *[m for m in ("causal", "bidirectional") if m != mask]),
                "the mask in the file",
            ),
        ]
    noted = recorded.recorded_flag(facts, inside, recorded.CAUSAL_NAMES)
    first = ("causal" if noted[0] else "bidirectional") if noted else hints.get("attention", "causal")
    if share is not None:
        first = "bidirectional"
    other = "bidirectional" if first == "causal" else "causal"
    return [*found, Choice("attention", (first, other), noted[1] if noted and share is None else "")]


def _scale_choices(
    layout: Layout, sizes: Mapping[str, int], facts: Facts, inside: Mapping[str, Any], choose: Any
) -> None:
    choose("score_scale", ("head", "none", "width"))
    choose("embedding_scale", (1.0, math.sqrt(sizes["d"])))


def _mask(layout: Layout, tensors: Mapping[str, Tensor]) -> str | None:
    """What the first square mask in the file hides: "causal", "bidirectional" (nothing), or unknown."""
    for name, why in layout.ignored.items():
        if "mask" in why and name in tensors and tensors[name].ndim >= 2:
            square = tensors[name].squeeze().to(torch.float64)
            if square.ndim == 2 and square.shape[0] == square.shape[1] > 1:
                upper = square.triu(1)[torch.triu(torch.ones_like(square), 1) > 0]
                lower = square.tril()[torch.tril(torch.ones_like(square)) > 0]
                if bool((upper == upper[0]).all()) and bool((lower == lower[0]).all()):
                    return "causal" if bool(upper[0] != lower[0]) else "bidirectional"
    return None


def _known(layout: Layout, found: Solution) -> list[str]:
    sizes, layers = found.sizes, max(len(layout.layers), 1)
    known = [
        f"{layers} layer{'s' if layers > 1 else ''} of width {sizes['d']}, {sizes['v']} rows of the embedding"
        + (f", {sizes['n']} positions" if "n" in sizes else ", no table of positions")
    ]
    if "m" in sizes:
        known.append(f"{'a gated MLP' if layout.has('mlp_gate') else 'an MLP'} of {sizes['m']} neurons")
    else:
        known.append("no MLP: attention only")
    known.append(
        f"a head of its own with {sizes['c']} logits"
        if layout.has("head")
        else "no head: tied to the embedding"
    )
    biases = [role.removesuffix("_bias") for role in TARGETS if role.endswith("_bias") and layout.has(role)]
    known.append(f"biases: {', '.join(biases).replace('_', ' ')}" if biases else "no biases")
    if found.doubtful:
        listed = ", ".join([names[0] for names in found.doubtful][:4])
        known.append(f"square, so that the shape does not tell input from output: {listed}")
    return known
