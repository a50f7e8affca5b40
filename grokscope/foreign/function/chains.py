"""Multilayer perceptrons, read as chains: operands in, matrices one after another, answers out.

Names of such nets say little (``fc1.weight``, ``W``, ``net.2.weight``), shapes say nearly all: the matrices
must chain from what two operands can be (one-hots or embeddings, summed or side by side) to one logit a class.
Every chain that the shapes allow is an option, those in the order of the file first.

Shape legend: v rows of an embedding, d its width, h neurons, c logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function import recorded_settings as recorded
from grokscope.foreign.function.card import softmax_options
from grokscope.foreign.function.layout import Layout, Unrecognised, listing
from grokscope.foreign.function.space import Assignment, Choice, Space, Tokens, Translate
from grokscope.foreign.function.tokens import token_options
from grokscope.foreign.function.transformers import stored
from grokscope.foreign.gathering.facts import Facts
from grokscope.models import MLP, MLPSettings, Model, Params

MOST_MATRICES = 6
_ACTIVATIONS = ("relu", "gelu", "quadratic", "silu", "tanh", "gelu_tanh")
_EMBEDS = re.compile(r"(?:^|[._/])(?!un)(?:\w*_)?(?:emb\w*|tok\w*|wte|w_e|e)(?:$|[._/])", re.IGNORECASE)
_HEADS = re.compile(
    r"(?:^|[._])(?:un_?emb\w*|w_?u|lm_head|head|out\w*|classifier|readout|decoder|fc_?out|logits|w_out|final\w*)(?:$|[._])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Chain:
    """One way in which matrices make a net.

    ``embeddings`` are no, one or two (name, transposed); ``maps`` the hidden layers and the head in order, each
    (name, transposed): as stored they are (in, out), transposed (out, in).
    """

    embeddings: tuple[tuple[str, bool], ...]
    maps: tuple[tuple[str, bool], ...]
    combine: str
    rows: int
    logits: int

    def __str__(self) -> str:
        first = " and ".join(name for name, _ in self.embeddings) or "one-hot operands"
        joined = "summed" if self.combine == "sum" else "side by side"
        return f"{first}, {joined}, then {' → '.join(name for name, _ in self.maps)}"


def chain_space(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    facts: Facts,
    inside: Mapping[str, Any],
    task: Mapping[str, Any],
) -> Space | Unrecognised:
    """Every multilayer perceptron that the free tensors of ``layout``, or its declared parts, may be."""
    free = {name: tensors[name] for name in layout.free}
    if layout.parts:
        free = {name: tensors[name] for part in layout.parts for name in part.names}
    odd = next((name for name, value in free.items() if not value.dtype.is_floating_point), None)
    if odd:
        return Unrecognised(f"{odd} is {free[odd].dtype}, expected floating point")
    matrices = {name: value for name, value in free.items() if value.ndim == 2}
    vectors = {name: value for name, value in free.items() if value.ndim == 1}
    declared = _declared_biases(layout)
    if len(matrices) > MOST_MATRICES or len(matrices) < 2:
        return Unrecognised(f"{listing(free)}: no transformer, and a chain has 2 to {MOST_MATRICES} matrices")
    chains = _declared(layout, matrices) if layout.parts else list(dict.fromkeys(_chains(matrices)))
    placed = [
        (chain, biases)
        for chain in chains
        if (biases := declared if declared is not None else _biases(chain, matrices, vectors)) is not None
    ]
    if not placed:
        return Unrecognised(f"{listing(free)}: no chain of matrices from two operands to the answers")
    chains = [chain for chain, _ in placed][:8]
    p = recorded.recorded_whole(facts, inside, recorded.MODULUS_NAMES)
    given_p = task.get("p") or (p[0] if p else None)
    options: list[tuple[Chain, Tokens]] = []
    for chain in chains:
        fitting = token_options(chain.rows, chain.logits, None, given_p, prompts=False)
        if task.get("p"):
            fitting = tuple(one for one in fitting if one.p == task["p"])
        for name in ("residue_offset", "b_offset", "out_offset"):
            if name in layout.fixed:
                fitting = tuple(one for one in fitting if getattr(one, name) == layout.fixed[name])
        options += [(chain, one) for one in fitting if _possible(chain, one)]
    if not options:
        return Unrecognised(f"{listing(free)}: no room for at least 2 residues")
    # the likeliest modulus of each chain before the unlikely ones of any
    rank = {chain: index for index, chain in enumerate(chains)}
    counted: dict[Chain, int] = {}
    order = []
    for chain, tokens in options:
        counted[chain] = counted.get(chain, -1) + 1
        order.append((counted[chain] + rank[chain], rank[chain], counted[chain], chain, tokens))
    order.sort(key=lambda one: one[:3])
    word = recorded.recorded_word(facts, inside, recorded.ACTIVATION_NAMES, recorded.ACTIVATION_WORDS)
    fixed = layout.fixed
    activations: tuple[Any, ...] = _ACTIVATIONS
    if "activation" in fixed:
        activations, word = (fixed["activation"],), None
    elif word:
        activations = (word[0], *[one for one in _ACTIVATIONS if one != word[0]])
    choices = (
        Choice("chain", tuple((chain, tokens) for *_, chain, tokens in order)),
        Choice("activation", activations, word[1] if word else ""),
    )
    if any(chain.logits > tokens.out_offset + tokens.p for *_, chain, tokens in order):
        choices = (*choices, Choice("softmax over", softmax_options(task)))
    first = chains[0]
    known = [
        f"{len(first.maps)} matrices in a chain"
        + (
            f" behind {len(first.embeddings)} embedding{'s' if len(first.embeddings) > 1 else ''}"
            if first.embeddings
            else ""
        ),
        f"biases: {', '.join(vectors)}" if vectors else "no biases",
    ]
    by_chain = dict(placed)

    def build(assignment: Assignment) -> tuple[Model, Translate]:
        chosen = assignment
        chain, tokens = chosen["chain"]
        everything = chosen.get("softmax over") == "all logits"
        classes = chain.logits - tokens.out_offset if everything else tokens.p
        return _build(chain, by_chain[chain], tokens, classes, chosen["activation"], free, fixed)

    return Space(
        title=layout.title,
        dialect=layout.dialect,
        known=tuple(known),
        ignored=layout.ignored,
        choices=choices,
        build=build,
        names=tuple(name for name in tensors if name in free),
        declare=lambda assignment: _declare(assignment, by_chain, fixed),
    )


def _declare(
    chosen: Assignment, by_chain: Mapping[Chain, Mapping[str, str]], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of one assignment: the chain link by link, the activation, how operands are combined."""
    chain, tokens = chosen["chain"]
    tensors: dict[str, str] = {}
    roles = ["embedding"] if len(chain.embeddings) == 1 else ["embedding_a", "embedding_b"]
    for role, (name, flipped) in zip(roles, chain.embeddings, strict=False):
        tensors[name] = f"{role}: {'d v' if flipped else 'v d'}"
    biases = by_chain[chain]
    for layer, (name, flipped) in enumerate(chain.maps, start=1):
        last = layer == len(chain.maps)
        place, axes = (
            ("head", "c i" if flipped else "i c")
            if last
            else (f"hidden.{layer}", "o i" if flipped else "i o")
        )
        tensors[name] = f"{place}: {axes}"
        if name in biases:
            tensors[biases[name]] = "head_bias: c" if last else f"hidden_bias.{layer}: o"
    function = {
        "family": "mlp",
        **fixed,
        "combine": chain.combine,
        "activation": chosen["activation"],
        "residue_offset": tokens.residue_offset,
        "b_offset": tokens.b_offset,
        "out_offset": tokens.out_offset,
    }
    return {"function": function, "tensors": tensors}


def _possible(chain: Chain, tokens: Tokens) -> bool:
    """Whether one-hot inputs of the chain can be these residues: they leave no room for other rows."""
    if chain.embeddings:
        return True
    return not tokens.residue_offset and not tokens.b_offset and tokens.p == chain.rows


def _chains(matrices: Mapping[str, Tensor]) -> Iterator[Chain]:
    """Every chain that the shapes allow: embeddings as named, then one-hots, then embeddings by shape."""
    names = list(matrices)
    named = [name for name in names if _EMBEDS.search(name)]
    if 1 <= len(named) <= 2 and len(named) < len(names):
        yield from _with_embeddings(named, names, matrices)
    pairs = [
        [one, other]
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if matrices[one].shape == matrices[other].shape and _differ_by_a_letter(one, other)
    ]
    for pair in pairs:
        if len(names) > 2:
            yield from _with_embeddings(pair, names, matrices)
    yield from _one_hot(names, matrices)
    for name in names:
        if name not in named and len(names) > 2 and not _HEADS.search(name):
            yield from _with_embeddings([name], names, matrices)


def _with_embeddings(embeds: list[str], names: list[str], matrices: Mapping[str, Tensor]) -> Iterator[Chain]:
    rest = [name for name in names if name not in embeds]
    for flipped in (False, True):
        rows, d = _sides(matrices[embeds[0]], flipped)
        embedded = tuple((name, flipped) for name in embeds)
        for combine, width in (("concatenation", 2 * d), ("sum", d)):
            for maps, logits in _orders(rest, matrices, width):
                if logits <= rows + 8 and len(maps) >= 2:
                    yield Chain(embedded, maps, combine, rows, logits)


def _one_hot(names: list[str], matrices: Mapping[str, Tensor]) -> Iterator[Chain]:
    widths = dict.fromkeys(side for value in matrices.values() for side in value.shape)
    for width in widths:
        for combine, rows in (("sum", width), ("concatenation", width // 2)):
            if combine == "concatenation" and width % 2:
                continue
            for maps, logits in _orders(names, matrices, width):
                if logits == rows:
                    yield Chain((), maps, combine, rows, logits)


def _orders(
    names: list[str], matrices: Mapping[str, Tensor], width: int
) -> Iterator[tuple[tuple[tuple[str, bool], ...], int]]:
    """Orders of all matrices that chain from ``width``, and the logits at their end: file order first."""

    def unlikely(order: tuple[str, ...]) -> tuple[int, int]:
        misplaced = sum(1 for name in order[:-1] if _HEADS.search(name))
        inversions = sum(
            1
            for i, one in enumerate(order)
            for other in order[i + 1 :]
            if names.index(one) > names.index(other)
        )
        return misplaced, inversions

    for order in sorted(permutations(names), key=unlikely):
        yield from _oriented(order, matrices, width, ())


def _oriented(
    order: tuple[str, ...], matrices: Mapping[str, Tensor], width: int, before: tuple[tuple[str, bool], ...]
) -> Iterator[tuple[tuple[tuple[str, bool], ...], int]]:
    if not order:
        yield before, width
        return
    name = order[0]
    # nn.Linear stores (out, in), a bare matrix that multiplies from the right (in, out)
    linear = name.endswith("weight")
    for flipped in (linear, not linear):
        inward, outward = _sides(matrices[name], flipped)
        if inward == width:
            yield from _oriented(order[1:], matrices, outward, (*before, (name, flipped)))


def _declared(layout: Layout, matrices: Mapping[str, Tensor]) -> list[Chain]:
    """The chains of a card that names its embeddings, its hidden layers in order and its head."""
    by_role: dict[str, list[tuple[int, str, bool]]] = {}
    for part in layout.parts:
        if part.names[0] in matrices:
            role, axes = part.roles[0], part.axes[0]
            flipped = axes.replace(" ", "") in ("dv", "oi", "cd", "ci", "co")
            by_role.setdefault(role, []).append((part.layer, part.names[0], flipped))
    embeds = [by_role[role][0][1:] for role in ("embedding", "embedding_a", "embedding_b") if role in by_role]
    maps = [one[1:] for one in sorted(by_role.get("hidden", []))] + [
        one[1:] for one in by_role.get("head", [])
    ]
    if len(maps) < 2:
        return []
    found = []
    for combine in ("concatenation", "sum"):
        if layout.fixed.get("combine", combine) != combine:
            continue
        width = _sides(matrices[maps[0][0]], maps[0][1])[0]
        if embeds:
            rows, d = _sides(matrices[embeds[0][0]], embeds[0][1])
        else:
            rows, d = (width if combine == "sum" else width // 2), 0
        fits = not embeds or width == (d if combine == "sum" else 2 * d)
        logits = _sides(matrices[maps[-1][0]], maps[-1][1])[1]
        if fits:
            found.append(Chain(tuple(embeds), tuple(maps), combine, rows, logits))
    return found


def _declared_biases(layout: Layout) -> dict[str, str] | None:
    """Name of a matrix → name of its bias as a card places them; ``None`` without a card."""
    if not layout.parts:
        return None
    by_place = {(part.roles[0], part.layer): part.names[0] for part in layout.parts}
    return {
        by_place[role.removesuffix("_bias"), layer]: name
        for (role, layer), name in by_place.items()
        if role.endswith("_bias") and (role.removesuffix("_bias"), layer) in by_place
    }


def _biases(
    chain: Chain, matrices: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """Name of a matrix → name of its bias; ``None`` where a vector would be left over."""
    found: dict[str, str] = {}
    left = dict(vectors)
    for name, flipped in chain.maps:
        size = _sides(matrices[name], flipped)[1]
        own = [one for one, value in left.items() if len(value) == size and _belongs(one, name)]
        if own:
            found[name] = own[0]
            del left[own[0]]
    for name, flipped in chain.maps:
        size = _sides(matrices[name], flipped)[1]
        fitting = [one for one, value in left.items() if len(value) == size]
        if name not in found and fitting:
            found[name] = fitting[0]
            del left[fitting[0]]
    return None if left else found


def _belongs(bias: str, matrix: str) -> bool:
    """Whether two names are those of one layer: equal but for weight and bias, W and b."""
    strip = re.compile(r"(weight|kernel|bias|(?<![a-z])[wb](?![a-z]))", re.IGNORECASE)
    return strip.sub("", bias) == strip.sub("", matrix)


def _differ_by_a_letter(one: str, other: str) -> bool:
    if len(one) != len(other):
        return False
    odd = [(x, y) for x, y in zip(one, other, strict=True) if x != y]
    return len(odd) == 1 and odd[0] in (
        ("x", "y"),
        ("a", "b"),
        ("1", "2"),
        ("0", "1"),
        ("l", "r"),
        ("A", "B"),
    )


def _sides(matrix: Tensor, flipped: bool) -> tuple[int, int]:
    """(in, out)."""
    rows, columns = matrix.shape
    return (columns, rows) if flipped else (rows, columns)


def _build(
    chain: Chain,
    biases: Mapping[str, str],
    tokens: Tokens,
    classes: int,
    activation: Any,
    matrices: Mapping[str, Tensor],
    fixed: Mapping[str, Any],
) -> tuple[Model, Translate]:
    hidden = tuple(_sides(matrices[name], flipped)[1] for name, flipped in chain.maps[:-1])
    head = chain.maps[-1][0]
    settings = MLPSettings(
        d_embed=_sides(matrices[chain.embeddings[0][0]], chain.embeddings[0][1])[1]
        if chain.embeddings
        else 1,
        hidden=hidden,
        inputs="embedding" if chain.embeddings else "one-hot",
        embedding="separate" if len(chain.embeddings) == 2 else "shared",
        combine=chain.combine,  # pyright: ignore[reportArgumentType]
        activation=activation,
        hidden_bias=any(name in biases for name, _ in chain.maps[:-1]),
        head_bias=head in biases,
        d_vocab=chain.rows if chain.embeddings and chain.rows != tokens.p else 0,
        residue_offset=tokens.residue_offset,
        b_offset=tokens.b_offset,
        d_vocab_out=chain.logits if chain.logits != classes else 0,
        out_offset=tokens.out_offset,
        output_scale=float(fixed.get("output_scale", 1.0)),
    )
    swapped = tokens.prompt[0] == "b"
    model = MLP(settings, tokens.p, classes)

    def translate(tensors: Mapping[str, Tensor]) -> Params:
        params: Params = {}
        ours = ["embed.W_E"] if len(chain.embeddings) == 1 else ["embed_a.W_E", "embed_b.W_E"]
        embeddings = [tensors[name].T if flipped else tensors[name] for name, flipped in chain.embeddings]
        if swapped and len(embeddings) == 2:
            embeddings.reverse()
        for name, value in zip(ours, embeddings, strict=False):
            params[name] = stored(value)
        for layer, (name, flipped) in enumerate(chain.maps, start=1):
            value = tensors[name].T if flipped else tensors[name]
            if swapped and layer == 1 and chain.combine == "concatenation":
                value = torch.cat(tuple(reversed(value.chunk(2))))
            last = layer == len(chain.maps)
            params["head.W_U" if last else f"hidden.{layer}.W"] = stored(value)
            if name in biases:
                params["head.b_U" if last else f"hidden.{layer}.b"] = stored(tensors[biases[name]])
        some = next(iter(params.values()))
        for name, shape in model.shapes.items():
            if name not in params and name.endswith(".b"):
                params[name] = torch.zeros(shape, dtype=some.dtype)
        if {name: tuple(value.shape) for name, value in params.items()} != model.shapes:
            raise GrokscopeError(
                f"translating a chain of matrices: {chain} does not fit its model, expected it to"
            )
        return {name: params[name] for name in model.shapes}

    return model, translate
