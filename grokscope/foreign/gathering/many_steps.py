"""Files that hold many steps: lists and dicts of state dicts, and arrays with the step as first axis.

Scope: plain data in, one :class:`State` a step out, and where each step's number was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from grokscope.foreign.gathering.curves import curves_in, lengths_in
from grokscope.foreign.gathering.numerals import whole
from grokscope.foreign.gathering.quantities import STEP_NAMES, words_of
from grokscope.foreign.gathering.state_dicts import (
    LAYERS,
    MAX_DEPTH,
    Found,
    Tensors,
    alike,
    beside_of,
    flat,
    is_never,
    is_optimiser,
    is_weights,
    may_hold,
    single,
    unwrapped,
)
from grokscope.foreign.gathering.steps import MARKERS, numbers_in

MAX_STEPS = 10_000
"""Most steps that one file is taken to hold."""


@dataclass(frozen=True)
class State:
    """The tensors of one step; ``step`` is ``None`` where the file's content does not say it."""

    tensors: Tensors
    scalars: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    step_from: str = ""


def unslashed(content: dict[str, Any]) -> dict[str, Any]:
    """Names such as ``step_100/W_E`` as the nested dicts that they stand for."""
    heads = {name.partition("/")[0] for name in content if "/" in name}
    if len(heads) > MAX_STEPS or len({_key_step(head) for head in heads} - {None}) < 2:
        return content
    found: dict[str, Any] = {}
    for name, value in content.items():
        head, slash, rest = name.partition("/")
        if slash and _key_step(head) is not None:
            inner = found.setdefault(head, {})
            if isinstance(inner, dict):
                inner[rest] = value
        else:
            found.setdefault(name, value)
    return found


def _key_step(key: str) -> int | None:
    """The step that the key of a dict names: ``100``, ``step_100``, ``epoch 5``."""
    numbers = numbers_in(key)
    if len(numbers) == 1 and numbers[0].kind in ("step", "epoch", "save") and numbers[0].end == len(key):
        return numbers[0].value
    return None


_Many = tuple[list[State], dict[str, Any]]


def many_in(content: Mapping[str, Any], path: tuple[str, ...], notes: list[str]) -> _Many | None:
    """The state dicts of a file that holds many steps, and what lies beside them."""
    if len(path) > MAX_DEPTH or is_optimiser(content):
        return None
    by_key = _from_keys(content, path, notes)
    if by_key is not None:
        return by_key
    for key, value in content.items():
        if is_never(key):
            continue
        found: _Many | None = None
        if isinstance(value, list) and value and isinstance(value[0], Mapping | list):
            rest = _without(content, key)
            states = states_in_list(value, rest, notes, key)
            found = None if states is None else (states, rest)
        elif isinstance(value, Mapping) and any(isinstance(one, dict | list) for one in value.values()):
            found = many_in(_texts(value), (*path, key), notes)
            if found is not None:
                found = found[0], {**found[1], **_without(content, key)}
        if found is not None:
            return _with_last(*found, notes), found[1]
    return None


def _without(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: one for name, one in content.items() if name != key}


def _from_keys(content: Mapping[str, Any], path: tuple[str, ...], notes: list[str]) -> _Many | None:
    """A dict of step → state dict; numbered layers of one network are none."""
    named = [key for key, value in content.items() if isinstance(value, Mapping) and may_hold(value)]
    steps = {key: step for key in named if (step := _key_step(key)) is not None}
    if len(steps) < 2 or len(named) > MAX_STEPS:
        return None
    taken = {key: found for key in steps if (found := single(_texts(content[key]), [])) is not None}
    if len(taken) < 2 or len({steps[key] for key in taken}) < len(taken):
        return None
    if not alike([found[0] for found in taken.values()]):
        return None
    values = sorted(steps[key] for key in taken)
    consecutive = values == list(range(values[0], values[0] + len(values))) and values[0] in (0, 1)
    bare = all(key.isdecimal() for key in taken)
    matrices = sum(value.ndim >= 2 for value in next(iter(taken.values()))[0].values())
    layered = bool(path) and LAYERS.match(path[-1]) is not None
    beside = any(isinstance(value, Mapping | Tensor) and key not in taken and is_weights(flat({key: value}))
                 for key, value in content.items())  # fmt: skip
    if consecutive and bare and (matrices < 2 or layered or beside):
        return None
    where = ".".join(path)
    notes.append(f"one file holds {len(taken)} steps, by the keys{f' under {where!r}' if where else ''}")
    states = [
        State(found[0], beside_of(found[1], []), steps[key], f"the key {key!r}")
        for key, found in taken.items()
    ]
    rest = {key: value for key, value in content.items() if key not in taken}
    for key in list(rest):
        if MARKERS.get(key.lower()) == "init" and isinstance(rest[key], Mapping) and 0 not in values:
            found = single(_texts(rest[key]), [])
            if found is not None and alike([found[0], states[0].tensors]):
                states.insert(0, State(found[0], {}, 0, f"the key {key!r}"))
                del rest[key]
    return _finished(_with_last(states, rest, notes), notes), rest


def states_in_list(
    items: Sequence[Any], rest: Mapping[str, Any], notes: list[str], key: str = ""
) -> list[State] | None:
    """A list of state dicts, of dicts that hold one, or of (step, state dict)."""
    pairs: list[tuple[Any, Mapping[str, Any]]] = []
    for item in items:
        if isinstance(item, Mapping):
            pairs.append((None, _texts(item)))
        elif isinstance(item, list) and len(item) == 2 and isinstance(item[1], Mapping):
            pairs.append((item[0], _texts(item[1])))
        else:
            return None
    found: list[tuple[Any, Found]] = []
    for step, item in pairs:
        one = single(item, []) if not is_optimiser(item) else None
        if one is None:
            return None
        found.append((step, one))
    if not found:
        return None
    steps, words = _steps_of_list(found, rest, key)
    notes.append(f"one file holds {len(found)} steps{f' under {key!r}' if key else ''}")
    states = [
        State(one[0], beside_of(one[1], []), step, words) for (_, one), step in zip(found, steps, strict=True)
    ]
    return _finished(states, notes)


def _steps_of_list(
    found: Sequence[tuple[Any, Found]], rest: Mapping[str, Any], key: str
) -> tuple[list[int], str]:
    told = [whole(step) if step is not None else _own_step(one[1]) for step, one in found]
    known = [step for step in told if step is not None]
    if len(known) == len(found) and len(set(known)) == len(known):
        return known, "the entry itself"
    own = set(words_of(key)) | {word.rstrip("s") for word in words_of(key)}
    lists = []
    for name, value in _lists_in(rest):
        read = [whole(one) for one in (value.tolist() if isinstance(value, Tensor) else value)]
        steps = [one for one in read if one is not None]
        named = {"step", "steps", "epoch", "epochs", "iter", "iters", "iterations", "t"} & set(words_of(name))
        if len(steps) == len(found) and all(a < b for a, b in pairwise(steps)) and named:
            lists.append((not own & set(words_of(name)), name, steps))
    if lists:
        _, name, steps = min(lists)
        return steps, f"{name} in the file itself"
    every = [e for e in lengths_in([rest], ()).every if e > 1]
    if every:
        return [
            index * every[0] for index in range(len(found))
        ], f"its place in the list, one in {every[0]} steps"
    return list(range(len(found))), "its place in the list: the steps are not recorded"


def _lists_in(content: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if (isinstance(value, Tensor) and value.ndim == 1) or (
            isinstance(value, list) and len(value) < 10**6
        ):
            yield key, value
        elif isinstance(value, Mapping) and depth < 2:
            yield from _lists_in({str(k): v for k, v in value.items()}, depth + 1)


def _own_step(beside: Mapping[str, Any]) -> int | None:
    return next((step for name in STEP_NAMES if (step := whole(beside.get(name))) is not None), None)


def _with_last(states: list[State], rest: dict[str, Any], notes: list[str]) -> list[State]:
    """The final weights beside the steps, put behind them where their step is known and they are others."""
    found = single(rest, [])
    if found is None:
        return states
    tensors, others, where = found
    tensors = unwrapped(tensors, [])
    last = max(states, key=lambda one: one.step or 0)
    if not alike([tensors, unwrapped(last.tensors, [])]):
        return states
    for key in where[:1]:
        rest.pop(key, None)
    name = ".".join(where)
    same = all(value.equal(one) for value, one in zip(tensors.values(), last.tensors.values(), strict=True))
    step = _own_step(others)
    words = "the step recorded beside it"
    if step is None:
        lengths = [len(c.steps) for c in curves_in("", others, lengths_in([], ())) if c.spacing != "recorded"]
        step, words = (max(lengths), "the length of the recorded history") if lengths else (None, "")
    if same:
        notes.append(f"{name!r} holds the last of the steps again")
    elif step is None or step <= (last.step or 0):
        notes.append(f"{name!r} holds other weights, left out: their step is not recorded")
    else:
        states = [*states, State(tensors, {}, step, f"{words}, for {name!r}")]
    return states


def _finished(states: list[State], notes: list[str]) -> list[State]:
    said: list[str] = []
    done = [replace(one, tensors=unwrapped(one.tensors, said)) for one in states]
    notes += dict.fromkeys(said)
    return done


def unstacked(tensors: Tensors, rest: Mapping[str, Any]) -> tuple[list[State], str] | None:
    """The steps of arrays that all have the step as their first axis."""
    floating = [value for value in tensors.values() if value.is_floating_point()]
    if not floating or max(value.ndim for value in floating) < 3:
        return None
    for name, value in _lists_in(rest):
        if not {"step", "steps", "epoch", "epochs", "iter", "iters", "iterations"} & set(words_of(name)):
            continue
        read = [whole(one) for one in (value.tolist() if isinstance(value, Tensor) else value)]
        steps = [one for one in read if one is not None]
        rising = len(steps) == len(read) > 1 and all(a < b for a, b in pairwise(steps))
        if rising and all(one.ndim >= 1 and one.shape[0] == len(steps) for one in floating):
            plain = unwrapped(tensors, [])
            states = [
                State(
                    {
                        key: (one[index] if one.ndim and one.shape[0] == len(steps) else one)
                        for key, one in plain.items()
                    },
                    {},
                    step,
                    f"{name} in the file itself",
                )
                for index, step in enumerate(steps)
            ]
            return states, f"the first axis of every array is the step, of which there are {len(steps)}"
    return None


def _texts(content: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in content.items()}
