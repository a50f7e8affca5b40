"""The condition that ends a run before its steps are over."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grokscope.errors import GrokscopeError, nearest

_FORM = re.compile(r"\s*([a-z_.]+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True)
class Condition:
    """A scalar of a run, at least or at most a level."""

    scalar: str
    at_least: bool
    level: float

    def holds(self, scalars: Mapping[str, float]) -> bool:
        """Whether it holds at an evaluation."""
        value = scalars[self.scalar]
        return value >= self.level if self.at_least else value <= self.level


def read_condition(text: str, scalars: Sequence[str], doing: str) -> Condition | None:
    """``"accuracy.test >= 0.9"``; ``None`` for an empty text.

    Raises GrokscopeError, which ``doing`` begins: not of that form, or a scalar that the run does not have.
    """
    if not text.strip():
        return None
    match = _FORM.fullmatch(text)
    try:
        level = float(match[3]) if match else math.nan
    except ValueError:
        level = math.nan
    if match is None or not math.isfinite(level):
        raise GrokscopeError(f"{doing} is {text!r}, expected SCALAR >= LEVEL or SCALAR <= LEVEL")
    if match[1] not in scalars:
        raise GrokscopeError(
            f"{doing} is {text!r}, expected one of {', '.join(scalars)}{nearest(match[1], list(scalars))}"
        )
    return Condition(match[1], match[2] == ">=", level)


class UntilWatch:
    """Counts the evaluations in a row at which a condition held.

    Attributes:
        step: where it had held often enough; ``None`` before.
    """

    def __init__(self, condition: Condition | None, hold: int) -> None:
        self.condition, self.hold = condition, hold
        self.held = 0
        self.step: int | None = None

    def observe(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take the scalars of an evaluation. Steps come in order."""
        if self.condition is None or self.step is not None:
            return
        self.held = self.held + 1 if self.condition.holds(scalars) else 0
        if self.held >= self.hold:
            self.step = step

    def state(self) -> dict[str, str]:
        """What was counted so far, as the metadata of a snapshot."""
        return {"until_held": str(self.held)} if self.held else {}

    def restore(self, metadata: Mapping[str, str]) -> None:
        """Go back to what :meth:`state` said. Raises ValueError for text that is no number."""
        self.held, self.step = int(metadata.get("until_held", "0")), None
