"""How matrices chain: every way in which the shapes of a file make a multilayer perceptron.

Scope: from two operands, as one-hots or embeddings, summed or side by side, to one logit a class. Embeddings as
they are named come first, then one-hots, then embeddings by their shape alone.

Shape legend: v rows of an embedding, d its width, c logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor

from grokscope.foreign.function.layout import Layout

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


def chains_of(matrices: Mapping[str, Tensor]) -> Iterator[Chain]:
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
        rows, d = sides_of(matrices[embeds[0]], flipped)
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
        inward, outward = sides_of(matrices[name], flipped)
        if inward == width:
            yield from _oriented(order[1:], matrices, outward, (*before, (name, flipped)))


def declared_chains(layout: Layout, matrices: Mapping[str, Tensor]) -> list[Chain]:
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
        width = sides_of(matrices[maps[0][0]], maps[0][1])[0]
        if embeds:
            rows, d = sides_of(matrices[embeds[0][0]], embeds[0][1])
        else:
            rows, d = (width if combine == "sum" else width // 2), 0
        fits = not embeds or width == (d if combine == "sum" else 2 * d)
        logits = sides_of(matrices[maps[-1][0]], maps[-1][1])[1]
        if fits:
            found.append(Chain(tuple(embeds), tuple(maps), combine, rows, logits))
    return found


def declared_biases(layout: Layout) -> dict[str, str] | None:
    """Name of a matrix → name of its bias as a card places them; ``None`` without a card."""
    if not layout.parts:
        return None
    by_place = {(part.roles[0], part.layer): part.names[0] for part in layout.parts}
    return {
        by_place[role.removesuffix("_bias"), layer]: name
        for (role, layer), name in by_place.items()
        if role.endswith("_bias") and (role.removesuffix("_bias"), layer) in by_place
    }


def biases_of(
    chain: Chain, matrices: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """Name of a matrix → name of its bias; ``None`` where a vector would be left over."""
    found: dict[str, str] = {}
    left = dict(vectors)
    for name, flipped in chain.maps:
        size = sides_of(matrices[name], flipped)[1]
        own = [one for one, value in left.items() if len(value) == size and _belongs(one, name)]
        if own:
            found[name] = own[0]
            del left[own[0]]
    for name, flipped in chain.maps:
        size = sides_of(matrices[name], flipped)[1]
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


def sides_of(matrix: Tensor, flipped: bool) -> tuple[int, int]:
    """(in, out)."""
    rows, columns = matrix.shape
    return (columns, rows) if flipped else (rows, columns)
