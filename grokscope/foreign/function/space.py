"""What names and shapes leave open, as a small discrete space of functions.

A :class:`Space` is a list of choices, each with its options in order of likelihood. An assignment picks one
option of each; ``build`` turns it into a model and into the way its parameters come out of a file. The space is
walked from the likeliest assignment outwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from grokscope.models import Model, Params

Assignment = Mapping[str, Any]
Translate = Callable[[Mapping[str, Tensor]], Params]
"""From a file's tensors to the parameters of our model, float32 or float64; linear in the tensors."""


@dataclass(frozen=True)
class Tokens:
    """How operands become tokens, and logits answers: one option of the choice of that name.

    ``p`` residues whose rows start at ``residue_offset`` (for the second operand ``b_offset`` later), whose
    logits start at ``out_offset``, in a ``prompt`` as the families of ``models`` take it.
    """

    p: int
    prompt: tuple[str, ...] = ("a", "b")
    residue_offset: int = 0
    b_offset: int = 0
    out_offset: int = 0

    def __str__(self) -> str:
        extra = [
            f"{name} {value}"
            for name, value in (
                ("residues from row", self.residue_offset),
                ("second operand", self.b_offset),
                ("answers from logit", self.out_offset),
            )
            if value
        ]
        return f"p = {self.p}, [{', '.join(self.prompt)}]" + (f" ({'; '.join(extra)})" if extra else "")


@dataclass(frozen=True)
class Choice:
    """One thing that had to be supposed.

    ``recorded`` says where the first option is written down, "" where it is only the likeliest. A ``late``
    choice hardly changes an answer, so that its options are compared only once all else is found.
    """

    about: str
    options: tuple[Any, ...]
    recorded: str = ""
    late: bool = False


def choice_of(
    about: str,
    options: tuple[Any, ...],
    fixed: Mapping[str, Any],
    note: tuple[Any, str] | None = None,
    *,
    hint: Any = None,
    late: bool = False,
) -> Choice:
    """A choice whose first option is fixed by a card, noted beside the weights, or hinted at, in this order.

    ``note`` is a value and where it is written down.
    """
    if about in fixed:
        return Choice(about, (fixed[about],), "the card")
    first = note[0] if note is not None else options[0] if hint is None else hint
    rest = tuple(one for one in options if one != first)
    return Choice(about, (first, *rest), note[1] if note is not None else "", late)


@dataclass(frozen=True)
class Space:
    """Functions that a set of tensors may be.

    Attributes:
        title, dialect: what was recognised.
        known: what names and shapes say, one sentence each.
        ignored: name → why the tensor is no weight.
        choices: what is open.
        build: an assignment → a model and its translation. Raises GrokscopeError where the assignment
            does not make a function.
        names: the file's tensors that are weights, in file order.
    """

    title: str
    dialect: str
    known: tuple[str, ...]
    ignored: Mapping[str, str]
    choices: tuple[Choice, ...]
    build: Callable[[Assignment], tuple[Model, Translate]]
    names: tuple[str, ...] = ()
    declare: Callable[[Assignment], dict[str, Any]] = field(default=lambda assignment: {})
    """An assignment → the card that leaves nothing open: ``function`` and ``tensors``."""

    @property
    def size(self) -> int:
        """Number of assignments."""
        total = 1
        for choice in self.choices:
            total *= len(choice.options)
        return total

    def assignments(self) -> Iterator[Assignment]:
        """Every assignment of the choices that are not late, those that depart least from the likeliest first.

        Going twice as far down one list costs about as much as a departure in another.
        """
        start: tuple[int, ...] = (0,) * len(self.choices)
        heap: list[tuple[int, tuple[int, ...]]] = [(0, start)]
        seen: set[tuple[int, ...]] = {start}
        while heap:
            _, indices = heapq.heappop(heap)
            yield {c.about: c.options[i] for c, i in zip(self.choices, indices, strict=True)}
            for position, choice in enumerate(self.choices):
                if indices[position] + 1 < len(choice.options) and not choice.late:
                    further = (*indices[:position], indices[position] + 1, *indices[position + 1 :])
                    if further not in seen:
                        seen.add(further)
                        heapq.heappush(heap, (sum(map(_cost, further)), further))

    def departure(self, assignment: Assignment) -> int:
        """How far an assignment is from the likeliest."""
        return sum(_cost(one.options.index(assignment[one.about])) for one in self.choices)

    def neighbours(self, assignment: Assignment) -> Iterator[Assignment]:
        """Every assignment that differs from one in a single choice."""
        for choice in self.choices:
            for option in choice.options:
                if option != assignment[choice.about]:
                    yield {**assignment, choice.about: option}


def _cost(index: int) -> int:
    """How unlikely an option of a choice is by its place in the list."""
    return 2 * index.bit_length() + (index.bit_length() > 1 and index >= 3 << (index.bit_length() - 2))
