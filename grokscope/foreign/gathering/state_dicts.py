"""Where in one file's content the weights lie: the state dict, or the many of a file that holds many steps.

Scope: plain data in, named tensors out, with what lies beside them. Optimiser state, averaged copies and
generator states are never taken for weights. What the tensors mean is for others to say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from grokscope.foreign.gathering.quantities import STEP_NAMES, norm_of, quantity_of, words_of
from grokscope.foreign.reading.conversion import state_dict_of_record

STATE_KEYS = (
    "model_state_dict", "state_dict", "model_state", "model", "net", "network", "params", "parameters",
    "weights", "module", "net_state_dict", "model_dict", "model_params", "model_weights", "state", "variables",
    "transformer", "target",
)  # fmt: skip
"""Where a checkpoint keeps its state dict, the likeliest first."""
WRAPPERS = (
    "module.", "_orig_mod.", "_forward_module.", "model.", "net.", "network.", "transformer_model.",
    "lit_model.", "_module.",
)  # fmt: skip
MAX_DEPTH = 4
MAX_TREE = 12
METADATA = "__metadata__"

_NEVER = re.compile(
    r"^(optim.*|opt|opt_.*|.*optimi[sz]er.*|.*scheduler.*|lr_sched.*|.*scaler|amp|.*rng.*|random_states?.*|"
    r"param_groups|exp_avg.*|momentum.*|callbacks|loops|grads?|gradients?|cache|activations|logits|"
    r"__metadata__|__class__)$",
    re.IGNORECASE,
)
_AVERAGED = re.compile(r"^(.*[_.])?(ema|swa|shadow|averaged|polyak)([_.].*)?$", re.IGNORECASE)
LAYERS = re.compile(r"^(layers?|blocks?|h|modules|mlp|net|encoder|decoder|resblocks)$", re.IGNORECASE)
_DATA = re.compile(
    r"^((train|test|val|valid|eval|all)[_.]?(data|set|x|y|inputs?|labels?|targets?|pairs?|idxs?|ind(ex|ices)|"
    r"mask|tokens)|[xy]_?(train|test|val|all)|inputs?|labels?|targets?|data(set)?|idx|ind(ex|ices)|perm(utation)?|"
    r"is_?train|is_?test|train|test|logits|probs|predictions|loss(es)?|acc(s|uracy|uracies)?|key_freqs|"
    r"activations?|hidden|cache|grads?|gradients?)$",
    re.IGNORECASE,
)

_MODELS = {"seed", "run", "trial", "model", "net", "exp", "experiment", "fold", "p", "wd", "network"}
"""Words of keys under which whole networks lie side by side, of which one is taken."""

Tensors = dict[str, Tensor]


def unwrapped(tensors: Tensors, notes: list[str]) -> Tensors:
    """The tensors without the names of wrappers that all of them share, such as ``module.``."""
    again = True
    while again and len(tensors) > 0:
        again = False
        for wrapper in WRAPPERS:
            if all(name.startswith(wrapper) and len(name) > len(wrapper) for name in tensors):
                notes.append(f"{wrapper!r} taken off every name: it comes from a wrapper around the model")
                tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
                again = True
    return tensors


def is_optimiser(value: Any) -> bool:
    """Whether a value is the state dict of an optimiser."""
    if not isinstance(value, Mapping):
        return False
    groups = value.get("param_groups")
    if isinstance(groups, list) and "state" in value:
        return True
    entries = [one for one in value.values() if isinstance(one, Mapping)]
    return bool(entries) and all("exp_avg" in one or "momentum_buffer" in one for one in entries)


def optimiser_in(content: Any, depth: int = 0) -> Mapping[str, Any] | None:
    """The first optimiser's state dict in a file's content, its parameters numbered by int as torch has them."""
    if is_optimiser(content) and "param_groups" in content:
        state = content["state"] if isinstance(content["state"], Mapping) else {}
        numbered = {int(key) if str(key).isdecimal() else key: one for key, one in state.items()}
        return {**content, "state": numbered}
    if isinstance(content, list):
        nested: Sequence[Any] = content[:4]
    elif isinstance(content, Mapping):
        nested = [value for key, value in content.items() if depth == 0 or _NEVER.match(str(key))]
    else:
        return None
    if depth < 3:
        for value in nested:
            if isinstance(value, Mapping | list) and (found := optimiser_in(value, depth + 1)) is not None:
                return found
    return None


def beside_of(content: Mapping[str, Any], notes: list[str], depth: int = 0) -> dict[str, Any]:
    """What was recorded in a file besides weights: numbers, settings, histories, splits.

    Of an optimiser only its settings stay, and they come last; other sets of weights are left aside.
    """
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
            value = value.item()
        if key == METADATA and isinstance(value, Mapping):
            found |= {name: _read_text(text) for name, text in value.items() if name not in content}
        elif is_optimiser(value) or (isinstance(value, list) and value and is_optimiser(value[0])):
            first: Any = value[0] if isinstance(value, list) else value
            groups = first.get("param_groups")
            settings[key] = {"param_groups": [_settings_of(group) for group in groups or []]}
        elif (_NEVER.match(key) and key != "__class__") or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            continue
        elif isinstance(value, Mapping):
            if is_weights(flat(value)):
                kind = "averaged weights" if _AVERAGED.match(key) else "other weights"
                notes.append(f"{kind} under {key!r} ignored")
            elif depth < MAX_TREE:
                found[key] = beside_of({str(k): v for k, v in value.items()}, notes, depth + 1)
        else:
            found[key] = value
    return found | settings


def is_never(key: str) -> bool:
    """Whether what lies under a key is no model's weights, or an averaged copy of them."""
    return _NEVER.match(key) is not None or _AVERAGED.match(key) is not None


def with_records(content: dict[str, Any], notes: list[str], depth: int = 0) -> dict[str, Any]:
    """The content with every model that was pickled whole replaced by its state dict."""
    found = state_dict_of_record(content) if "__class__" in content else None
    if found is not None:
        tensors, buffers = found
        held = f", buffers {', '.join(buffers[:8])}" if buffers else ""
        notes.append(
            f"a whole model ({content['__class__']}) was pickled; its state dict was read off it{held}"
        )
        beside = {key: value for key, value in content.items() if not key.startswith("_")}
        return {**beside, "state_dict": dict(tensors)} if depth == 0 else dict(tensors)
    if depth > MAX_DEPTH:
        return content
    changed: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            changed[key] = with_records(value, notes, depth + 1)
    return {**content, **changed} if changed else content


def _settings_of(group: Any) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        return {}
    return {str(key): value for key, value in group.items() if key != "params" and value is not None}


def _read_text(text: Any) -> Any:
    """A value from the metadata of a file that can only hold text: a number or settings where it reads so."""
    if not isinstance(text, str) or len(text) > 2**20:
        return text
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return text
    return text if value is None else value


def flat(tree: Any, depth: int = 0) -> Tensors | None:
    """The tensors of nested dicts under dotted names; ``None`` where anything else lies in them."""
    if not isinstance(tree, Mapping) or depth > MAX_TREE:
        return None
    found: Tensors = {}
    for key, value in tree.items():
        name = str(key).replace("/", ".")
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            below = flat(value, depth + 1)
            if below is None:
                return None
            found |= {f"{name}.{inner}": one for inner, one in below.items()}
        elif value is not None and key not in ("__class__", METADATA):
            return None
    return found


def is_weights(tensors: Tensors | None) -> bool:
    return bool(tensors) and any(
        value.is_floating_point() and value.ndim >= 2 and min(value.shape) > 0 and not _is_data(name)
        for name, value in (tensors or {}).items()
    )


def _is_data(name: str) -> bool:
    return _DATA.match(name) is not None or quantity_of((name,)) is not None


def _is_beside(name: str, value: Tensor) -> bool:
    """A bare array that records something, among arrays that are weights."""
    if "." in name:
        return False
    counts = bool(set(words_of(name)) & {"step", "steps", "epoch", "epochs"}) and value.ndim <= 1
    number = value.ndim == 0 and (name.lower() in STEP_NAMES or norm_of(name) is not None)
    return counts or number or _is_data(name)


Found = tuple[Tensors, dict[str, Any], tuple[str, ...]]


def single(content: Mapping[str, Any], notes: list[str]) -> Found | None:
    """The state dict, what lies beside it, and under which keys; averaged weights only for want of others."""
    found = _select(content, 0, False)
    if found is None:
        found = _select(content, 0, True)
        if found is not None:
            notes.append("only averaged weights are in the file")
    return found


def _select(content: Mapping[str, Any], depth: int, averaged: bool) -> Found | None:
    if depth > MAX_DEPTH or is_optimiser(content):
        return None
    usable = {
        key: value
        for key, value in content.items()
        if isinstance(key, str)
        and not _NEVER.match(key)
        and (averaged or not _AVERAGED.match(key))
        and isinstance(value, Mapping | Tensor)
    }
    for key in (*STATE_KEYS, *(key for key in usable if key.lower().endswith("state_dict"))):
        below = usable.get(key)
        if isinstance(below, Mapping) and (found := _below(below, depth, averaged)) is not None:
            return _with_rest(found, content, key)
    bare = {key: value for key, value in usable.items() if isinstance(value, Tensor)}
    own = {key: value for key, value in bare.items() if not _is_beside(key, value)}
    trees: dict[str, Tensors] = {}
    for key, value in usable.items():
        tree = None if isinstance(value, Tensor) else flat(value)
        if tree:
            trees[key] = tree
    heavy = [key for key, tree in trees.items() if is_weights(tree)]
    if is_weights(own) or _are_parts({key: trees[key] for key in heavy}):
        parts: Tensors = {}
        rest: dict[str, Any] = {}
        large = set(heavy)
        for key, value in content.items():
            if key in own:
                parts[key.replace("/", ".")] = own[key]
            elif key in trees and (key in large or _is_part(trees[key])):
                parts |= {f"{key.replace('/', '.')}.{name}": one for name, one in trees[key].items()}
            else:
                rest[key] = value
        return parts, rest, ()
    largest: tuple[Found, str] | None = None
    for key, value in usable.items():
        found = _below(value, depth, averaged) if isinstance(value, Mapping) else None
        if found is not None and (largest is None or len(found[0]) > len(largest[0][0])):
            largest = found, key
    return _with_rest(largest[0], content, largest[1]) if largest else None


def _with_rest(found: Found, content: Mapping[str, Any], key: str) -> Found:
    """What was found under a key, with what lies beside that key."""
    tensors, others, where = found
    rest = {name: value for name, value in content.items() if name != key}
    return tensors, {**others, **rest}, (key, *where)


def _are_parts(trees: Mapping[str, Tensors]) -> bool:
    """Whether several trees are the layers of one network, rather than networks of one shape."""
    if len(trees) < 2 or not alike(list(trees.values())):
        return len(trees) > 1
    matrices = sum(value.ndim >= 2 for value in next(iter(trees.values())).values())
    counted = [words_of(key)[-1:] for key in trees]
    numbers = sorted(int(last[0]) for last in counted if last and last[0].isdecimal() and len(last[0]) < 9)
    if any(_MODELS & set(words_of(key)) for key in trees):
        return False
    return matrices < 2 or numbers in (list(range(len(trees))), list(range(1, len(trees) + 1)))


def _is_part(tree: Tensors) -> bool:
    return all(not _is_data(name.rpartition(".")[2]) for name in tree)


def _below(content: Mapping[Any, Any], depth: int, averaged: bool) -> Found | None:
    """The state dict in what lies under one key; a tree that is nothing but tensors is one as a whole."""
    if not may_hold(content):
        return None
    below = {str(name): value for name, value in content.items()}
    tree = flat(below)
    inner = [name for name, value in below.items() if name in STATE_KEYS and isinstance(value, Mapping)]
    only: Any = below
    while isinstance(only, Mapping) and len(only) == 1:
        only = next(iter(only.values()))
    if only is not below and isinstance(only, Mapping):
        # a root that holds nothing else is no part of the names
        inner = list(below)
    whole = tree is not None and not inner and not any(_NEVER.match(name) for name in below)
    if whole and tree is not None and is_weights(tree) and not is_optimiser(below):
        return tree, {}, ()
    return _select(below, depth + 1, averaged)


def may_hold(content: Mapping[Any, Any]) -> bool:
    """Whether anything in a dict could be or hold tensors, which a glance at its values shows."""
    return any(isinstance(value, Tensor | dict) for value in content.values())


def alike(trees: Sequence[Tensors]) -> bool:
    """Whether sets of tensors have the same names and shapes."""
    shapes = [{name: tuple(value.shape) for name, value in tree.items()} for tree in trees]
    return all(one == shapes[0] for one in shapes)
