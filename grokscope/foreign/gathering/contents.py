"""The content of one file: its state dict or state dicts, and everything that was recorded beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from grokscope.foreign.gathering.curves import curves_in, lengths_in
from grokscope.foreign.gathering.many_steps import State, many_in, states_in_list, unslashed, unstacked
from grokscope.foreign.gathering.state_dicts import (
    beside_of,
    is_optimiser,
    optimiser_in,
    single,
    unwrapped,
    with_records,
)


@dataclass(frozen=True)
class Content:
    """What one file holds: no state where it holds no weights, and then ``what`` says what instead.

    Attributes:
        states: one, or one a step where ``many``.
        beside: everything else that is plain data: numbers, settings, histories, splits.
        optimizer: the optimiser's state dict as torch writes it, ``state`` and ``param_groups``.
        notes: what was taken from where, and what was left aside.
        whole: the content as it is where it is no dict and holds no weights, such as a list of pairs.
    """

    states: tuple[State, ...] = ()
    many: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    what: str = ""
    whole: Any = None


def find_states(content: Any) -> Content:
    """The state dict in a file's content, bare or under some key, or all those of a file of many steps."""
    notes: list[str] = []
    if isinstance(content, list):
        found = states_in_list(content, {}, notes)
        if found is None:
            return Content(what=_told(content), whole=content)
        return Content(tuple(found), True, {}, None, tuple(notes))
    if not isinstance(content, Mapping):
        return Content(what=_told(content), whole=content)
    content = with_records(unslashed({str(key): value for key, value in content.items()}), notes)
    optimizer = optimiser_in(content)
    if is_optimiser(content):
        return Content(optimizer=optimizer, what="optimiser state")
    many = many_in(content, (), notes)
    if many is not None:
        states, beside = many
        return Content(tuple(states), True, beside_of(beside, notes), optimizer, tuple(notes))
    one = single(content, notes)
    if one is None:
        # without weights, all of it may be a record
        return Content(beside=beside_of(content, []), optimizer=optimizer, what=_told(content))
    tensors, rest, where = one
    stepped = unstacked(tensors, rest)
    if stepped is not None:
        states, words = stepped
        notes.append(words)
        return Content(tuple(states), True, beside_of(rest, notes), optimizer, tuple(notes))
    if where:
        notes.append(f"the state dict lies under {'.'.join(where)!r}")
    beside = beside_of(rest, notes)
    state = State(unwrapped(tensors, notes), beside)
    return Content((state,), False, beside, optimizer, tuple(notes))


def _told(content: Any) -> str:
    """What a file without weights holds, in words."""
    if isinstance(content, Tensor):
        return f"a single array of shape {tuple(content.shape)}, without a name"
    lists = [value for value in _numbers_lists(content, 0) if len(value) > 1]
    if isinstance(content, Mapping):
        if not content:
            return "nothing"
        curves = curves_in("", content, lengths_in([], ()))
        names = ", ".join(list(map(str, content))[:8])
        if curves:
            return (
                f"loss curves and no weights ({names})"
                if _any_loss(curves)
                else f"curves and no weights ({names})"
            )
        return names
    if isinstance(content, list):
        if not content:
            return "an empty list"
        longest = max((len(value) for value in lists), default=0)
        falling = [value for value in lists if len(value) > 20 and min(value) >= 0 and value[-1] < value[0]]
        if len(falling) * 2 > len([value for value in lists if len(value) > 20]) > 0:
            return f"loss curves and no weights ({len(lists)} lists of up to {longest} numbers)"
        if content and all(isinstance(one, list) for one in content[:100]):
            return f"a list of {len(content)} lists"
        return f"a list of {len(content)} values"
    return f"a {type(content).__name__}"


def _any_loss(curves: Sequence[Any]) -> bool:
    return any(curve.quantity.startswith("loss") for curve in curves)


def _numbers_lists(content: Any, depth: int) -> Iterator[list[float]]:
    if isinstance(content, list) and content:
        if all(isinstance(one, int | float) for one in content):
            yield content
        elif depth < 3:
            for one in content[:1000]:
                yield from _numbers_lists(one, depth + 1)
