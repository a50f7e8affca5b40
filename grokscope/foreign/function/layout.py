"""Which tensor plays which part: a set of named tensors under a card, or under the common vocabulary.

Every tensor must be accounted for. One that is neither a weight of the function, nor a buffer, nor a copy,
means another function than the one that would be rebuilt, and then nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from grokscope.foreign.function.card import TARGETS, Card, Family, builtin_cards
from grokscope.foreign.function.tensors import is_sinusoidal, listing, same
from grokscope.foreign.function.vocabulary import axis_count, buffer_named, meanings

MOST_LAYERS = 8
COMMON_NAMES = "common names"
NOT_TRAINED = "the same at every save: not trained"
SINUSOIDS = "a table of sinusoids (positions)"
_NUMBERED = re.compile(r"(?:w|linear|fc)_?([13])(?:\.weight)?$")
_BRIDGE = "._original_component"
_BODY = re.compile(r"^(?:model|transformer|backbone|net|network|gpt|decoder|module|_orig_mod)\.")
"""A module that holds all but the head, which heads of language models stand beside."""


@dataclass(frozen=True)
class Placed:
    """One tensor (or one a head, in order) in its part.

    ``roles`` are those packed in it, ``axes`` the alternatives left for the order of its axes.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    layer: int
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Tensors in their parts, before anything is known of sizes or of the function.

    Attributes:
        ignored: name → why the tensor is no weight.
        free: names of weights that no part has claimed; only an MLP, read as a chain of maps, has any.
        fixed, hints: settings that the card states, and those it tries first.
        layers: the numbers of the layers in the file, in order.
    """

    family: Family
    dialect: str
    title: str
    parts: tuple[Placed, ...]
    layers: tuple[int, ...]
    ignored: Mapping[str, str]
    free: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    hints: Mapping[str, Any] = field(default_factory=dict)

    def has(self, role: str) -> bool:
        return any(role in part.roles for part in self.parts)


@dataclass(frozen=True)
class Unrecognised:
    """Why a set of tensors is under no layout; ``matched`` counts the tensors that were understood."""

    why: str
    matched: int = 0


def lay_out(
    tensors: Mapping[str, Tensor], card: Card | None = None, constant: Iterable[str] = ()
) -> Layout | Unrecognised:
    """The layout of ``tensors``: that of ``card`` if one is given, else of the first dialect that fits.

    ``constant`` names tensors that are the same at every save of a run: no training reached them.
    """
    tensors, ignored = without_aliases(tensors)
    fixed_values = set(constant)
    if card is not None:
        return _under(card, tensors, ignored, fixed_values)
    tried = [(one, _under(one, tensors, ignored, fixed_values)) for one in builtin_cards()]
    for _, found in tried:
        if isinstance(found, Layout):
            return found
    loose = _by_vocabulary(tensors, ignored, fixed_values)
    if isinstance(loose, Layout):
        return loose
    closest, why = max(
        ((one, found) for one, found in tried if isinstance(found, Unrecognised)),
        key=lambda pair: pair[1].matched,
    )
    if why.matched > max(loose.matched, len(tensors) / 2):
        return Unrecognised(f"the names are those of the dialect {closest.name}, but {why.why}", why.matched)
    return loose


def short_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with wrapped components called by their plain names, where no other has that name."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        short = name.replace(_BRIDGE, "")
        found[name if short in tensors or short in found else short] = value
    return found


def without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors without the doubled names of wrapped components, and those that were dropped."""
    plain: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for name, value in tensors.items():
        short = name.replace(_BRIDGE, "")
        if short in plain and same(plain[short], value):
            dropped[name] = f"a copy of {short}"
        else:
            plain[short if short not in plain else name] = value
    return plain, dropped


def _under(
    card: Card, tensors: Mapping[str, Tensor], dropped: Mapping[str, str], constant: set[str]
) -> Layout | Unrecognised:
    ignored, placed = dict(dropped), {}
    over: list[str] = []
    for name, value in tensors.items():
        why = next(
            (why for pattern, why in card.ignored if pattern.match(name) or pattern.match(_inner(name))), None
        )
        original = next((of for pattern, of in card.copies if pattern.match(name)), None)
        if why is None and is_sinusoidal(value):
            why = SINUSOIDS
        if why is not None:
            ignored[name] = why
        elif original is not None and original in tensors and same(value, tensors[original]):
            ignored[name] = f"a copy of {original}"
        elif not _claim(card, name, value, placed):
            over.append(name)
    for name in list(over):
        why = _no_weight(name, tensors, placed, constant)
        if why:
            ignored[name] = why
            over.remove(name)
    matched = len(placed)
    _without_second_head(tensors, placed, ignored)
    if over:
        listed = listing({name: tensors[name] for name in over})
        return Unrecognised(f"{listed} would be left over", matched)
    return _laid(card.family, card.name, card.title, placed, ignored, card.function, card.hints)


_Placing = dict[tuple[tuple[str, ...], int], dict[int, tuple[str, tuple[str, ...]]]]
"""(roles, layer) → head (−1 for all) → (name, axes)."""


def _claim(card: Card, name: str, value: Tensor, placed: _Placing) -> bool:
    for rule in card.rules:
        match = rule.pattern.match(name) or rule.pattern.match(_inner(name))
        if not match:
            continue
        groups = match.groupdict()
        head = int(groups["head"]) if groups.get("head") is not None else -1
        axes = tuple(one for one in rule.axes if axis_count(one) == value.ndim)
        key = (rule.roles, int(groups.get("layer") or rule.layer))
        if axes and head not in placed.get(key, {}):
            placed.setdefault(key, {})[head] = (name, axes)
            return True
    return False


def _inner(name: str) -> str:
    return _BODY.sub("", name)


def _by_vocabulary(
    tensors: Mapping[str, Tensor], dropped: Mapping[str, str], constant: set[str]
) -> Layout | Unrecognised:
    ignored, placed = dict(dropped), {}
    over: list[str] = []
    for name, value in tensors.items():
        why = buffer_named(name, value.ndim, value.dtype.is_floating_point)
        if why is None and is_sinusoidal(value):
            why = SINUSOIDS
        if why is None:
            why = _second_name(name, value, tensors, placed)
        if why is not None:
            ignored[name] = why
        elif not _understand(name, value, placed):
            over.append(name)
    if not any("query" in roles for roles, _ in placed):
        free = tuple(name for name in tensors if name not in ignored and name not in constant)
        ignored |= {name: NOT_TRAINED for name in tensors if name in constant and name not in ignored}
        weights = [name for name in free if tensors[name].ndim == 2]
        if not weights or any(tensors[name].ndim > 2 for name in free):
            return Unrecognised(f"{listing(tensors)}: neither a transformer nor a chain of matrices", 0)
        return Layout("mlp", "chain of matrices", "a multilayer perceptron", (), (), ignored, free)
    for name in list(over):
        why = _no_weight(name, tensors, placed, constant)
        if why:
            ignored[name] = why
        if why or _by_elimination(name, tensors, placed):
            over.remove(name)
    _without_second_head(tensors, placed, ignored)
    _gates_in_place(placed)
    if over:
        listed = listing({name: tensors[name] for name in over})
        return Unrecognised(f"{listed} would be left over in a transformer of common names", len(placed))
    title = "a transformer, its tensors named as is common"
    return _laid("transformer", COMMON_NAMES, title, placed, ignored, {}, {})


def _understand(name: str, value: Tensor, placed: _Placing) -> bool:
    """Place a tensor under the first meaning of its name whose place is free; a bias goes with its weight."""
    key = _beside_its_weight(name, placed) if value.ndim == 1 else None
    if key is not None and key not in placed:
        placed[key] = {-1: (name, _BIAS_AXES[key[0][0]])}
        return True
    for meaning in meanings(name, value.ndim):
        key, head = (meaning.roles, meaning.layer or 0), -1 if meaning.head is None else meaning.head
        if head not in placed.get(key, {}) and (head >= 0 or key not in placed):
            # nn.Linear says (out, in); a bare parameter that multiplies from the right is the transpose
            axes = meaning.axes if name.endswith("weight") else tuple(reversed(meaning.axes))
            placed.setdefault(key, {})[head] = (name, axes)
            return True
    return False


_BIAS_AXES = {
    **dict.fromkeys(("norm1_bias", "norm2_bias", "final_norm_bias", "embedding_norm_bias"), ("d",)),
    **dict.fromkeys(("output_bias", "mlp_out_bias"), ("d",)),
    **dict.fromkeys(("mlp_in_bias", "mlp_gate_bias"), ("m",)),
    "head_bias": ("c",),
}


def _beside_its_weight(name: str, placed: _Placing) -> tuple[tuple[str, ...], int] | None:
    """Where the bias of a placed weight belongs."""
    stem, _, last = name.replace("/", ".").rpartition(".")
    if last != "bias" or not stem:
        return None
    for (roles, layer), by_head in placed.items():
        if len(roles) == 1 and len(by_head) == 1 and -1 in by_head:
            other, _, word = by_head[-1][0].replace("/", ".").rpartition(".")
            role = roles[0].removesuffix("_gain") + "_bias"
            if other == stem and word in ("weight", "kernel", "scale") and role in _BIAS_AXES:
                return (role,), layer
    return None


def _gates_in_place(placed: _Placing) -> None:
    """Give w1 the part of the gate and w3 that of the map in, as everyone does who numbers three of them."""
    for roles, layer in list(placed):
        inward = placed.get((("mlp_in",), layer), {}).get(-1)
        gate = placed[roles, layer].get(-1)
        if roles == ("mlp_gate",) and inward and gate and _NUMBERED.search(gate[0]):
            first = _NUMBERED.search(inward[0])
            if first and first[1] == "1":
                for ending in ("", "_bias"):
                    one, other = ((f"mlp_gate{ending}",), layer), ((f"mlp_in{ending}",), layer)
                    if one in placed and other in placed:
                        placed[one], placed[other] = placed[other], placed[one]


def _by_elimination(name: str, tensors: Mapping[str, Tensor], placed: _Placing) -> bool:
    """Place what only its shape tells: the last norm and the head, where a sequence numbers its modules."""
    value, stem = tensors[name], name.rpartition(".")[0]
    head = placed.get((("head",), 0), {}).get(-1)
    if value.ndim == 2 and head is None:
        placed[("head",), 0] = {-1: (name, ("c d", "d c"))}
        return True
    if value.ndim != 1:
        return False
    if head is not None and head[0].rpartition(".")[0] == stem and name.endswith("bias"):
        placed[("head_bias",), 0] = {-1: (name, ("c",))}
        return True
    for role, ending in (("final_norm_gain", "weight"), ("final_norm_bias", "bias")):
        sibling = tensors.get(f"{stem}.{'bias' if ending == 'weight' else 'weight'}")
        lone = sibling is None or sibling.ndim == 1
        if name.endswith(ending) and lone and ((role,), 0) not in placed:
            placed[(role,), 0] = {-1: (name, ("d",))}
            return True
    return False


def _without_second_head(tensors: Mapping[str, Tensor], placed: _Placing, ignored: dict[str, str]) -> None:
    """Leave out a head that is the embedding under a second name: the two are tied."""
    head, table = placed.get((("head",), 0), {}), placed.get((("embedding",), 0), {})
    if len(head) == 1 and len(table) == 1:
        (name, _), (original, _) = *head.values(), *table.values()
        if same(tensors[name], tensors[original]):
            del placed[("head",), 0]
            ignored[name] = f"a copy of {original}: the head is tied to it"


def _second_name(name: str, value: Tensor, tensors: Mapping[str, Tensor], placed: _Placing) -> str | None:
    """Which tensor of the same meaning a tensor repeats, as wrapped components have it."""
    for meaning in meanings(name, value.ndim):
        claimed = placed.get((meaning.roles, meaning.layer or 0), {})
        original = claimed.get(-1 if meaning.head is None else meaning.head)
        if original and same(value, tensors[original[0]]) and _varies(value):
            return f"a copy of {original[0]}"
    return None


def _varies(value: Tensor) -> bool:
    """Whether entries differ: biases at zero and gains at one are equal without being copies."""
    return bool((value != value.flatten()[:1]).any())


def _copy_of(value: Tensor, tensors: Mapping[str, Tensor], placed: _Placing) -> str | None:
    """Which claimed tensor a tensor repeats."""
    if not _varies(value):
        return None
    claimed = (one for by_head in placed.values() for one, _ in by_head.values())
    original = next((one for one in claimed if same(value, tensors[one])), None)
    return f"a copy of {original}" if original else None


def _no_weight(name: str, tensors: Mapping[str, Tensor], placed: _Placing, constant: set[str]) -> str | None:
    """Why a tensor that no part claims is no weight; ``None`` where it may be one."""
    value = tensors[name]
    why = buffer_named(name, value.ndim, value.dtype.is_floating_point)
    why = why or _copy_of(value, tensors, placed)
    if why is None and name in constant:
        why = NOT_TRAINED
    return why


def _laid(
    family: Family,
    dialect: str,
    title: str,
    placed: _Placing,
    ignored: Mapping[str, str],
    fixed: Mapping[str, Any],
    hints: Mapping[str, Any],
) -> Layout | Unrecognised:
    layered = {layer for (roles, layer) in placed if _is_layered(roles[0])}
    layers = tuple(sorted(layered))
    if family == "transformer":
        missing = _missing(placed, layers)
        if missing:
            return Unrecognised(f"{missing} is missing", len(placed))
        if len(layers) > MOST_LAYERS:
            return Unrecognised(
                f"{len(layers)} layers were found, expected at most {MOST_LAYERS}", len(placed)
            )
    parts = []
    for (roles, layer), by_head in placed.items():
        heads = sorted(by_head)
        if len(heads) > 1 and heads != list(range(len(heads))):
            return Unrecognised(
                f"heads {heads} of {roles[0]} were found, expected 0 to {len(heads) - 1}", len(placed)
            )
        names = tuple(by_head[head][0] for head in heads)
        axes = by_head[heads[0]][1]
        if heads[0] >= 0 and not axes[0].startswith(("H ", "G ")):
            # one tensor a head: stacked in front
            axes = tuple(f"{'G' if roles[0].startswith(('key', 'value')) else 'H'} {one}" for one in axes)
        position = layers.index(layer) if layer in layers and _is_layered(roles[0]) else 0
        parts.append(Placed(names, roles, position, axes))
    return Layout(family, dialect, title, tuple(parts), layers, ignored, (), fixed, hints)


def _is_layered(role: str) -> bool:
    return "{layer}" in TARGETS[role][0]


def _missing(placed: _Placing, layers: tuple[int, ...]) -> str | None:
    """The first tensor without which there is no transformer, in words."""
    here = {(role, layer) for roles, layer in placed for role in roles}
    if not any(role == "embedding" for role, _ in here):
        return "the embedding"
    if not any(role == "query" for role, _ in here):
        return "attention"
    usual = {role for role, layer in here if _is_layered(role)}
    for layer in layers:
        for role in ("query", "key", "value", "output"):
            if (role, layer) not in here:
                return f"the {role} matrix of layer {layer}"
        for role in sorted(usual):
            if (role, layer) not in here:
                return f"the {role.replace('_', ' ')} of layer {layer}, which other layers have,"
    return None


def not_floating(tensors: Mapping[str, Tensor]) -> Unrecognised | None:
    """Why tensors are no weights: one of them holds whole numbers, say."""
    for name, value in tensors.items():
        if not value.dtype.is_floating_point:
            return Unrecognised(f"{name} is {value.dtype}, expected floating point")
    return None
