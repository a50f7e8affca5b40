"""What a pickle is made of here: names, records that keep what they are given, and what was met on the way.

Scope: the values of the machine in ``inert`` that are not plain data yet. None of them does anything.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grokscope.foreign.reading.inert import Machine


class Malformed(Exception):
    """The pickle does not follow its own format, or asks for what no file of weights needs."""


class Global:
    """A class or function that a file names and that is not known here: a name, never the thing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Known:
    """A global that is known: its name, and a function of ours that takes its place when it is called."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name = name
        self.make = make


class Record:
    """What a file wanted made of a class that is not known here: its name, and all that it was given."""

    __slots__ = ("args", "attributes", "items", "kwargs", "name", "pairs", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.attributes: dict[str, Any] | None = None
        self.items: list[Any] | None = None
        self.pairs: dict[str, Any] | None = None
        self.state: Any = None

    def build(self, machine: Machine, state: Any) -> None:
        """Keep a state: a dict of attributes, or that and a dict of slots, as attributes; others as such."""
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            self.state = state
            return
        for part in parts:
            if isinstance(part, dict):
                kept = self.attributes or {}
                machine.budget.values(len(part) + len(kept))
                self.attributes = {**kept, **part}


class Buildable(abc.ABC):
    """What ``rebuilt`` makes of a known class that takes its content in a second step."""

    __slots__ = ()

    @abc.abstractmethod
    def build(self, machine: Machine, state: Any) -> None:
        """Take the content, ``state``, as plain data."""


class Met:
    """What was met while unpickling: the classes replaced, and what torch's own reader is not to see."""

    def __init__(self) -> None:
        self.replaced: Counter[str] = Counter()
        self.numpy = False
        self.tensors = 0
        self.beyond: dict[str, None] = {}
        """Reasons why ``torch.load(weights_only=True)`` is not asked."""


Finder = Callable[[str, str], Global | Known]
"""Module and name → the stand-in for that global."""
