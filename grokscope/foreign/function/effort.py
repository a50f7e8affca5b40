"""How much a search may do, counted in arithmetic and not timed, so that its result is that of any machine.

Scope: a unit is one weight met by one pair of operands, of which a core does some 10¹⁰ a second. A clock stands
behind the count as a last resort, far beyond what the count lets through; where it strikes, the search says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

A_HYPOTHESIS = 2_000_000
"""What building and judging a hypothesis costs apart from the arithmetic, also where it turns out to be none."""

LAST_RESORT = 600.0
"""Seconds after which a search ends whatever the count says."""


@dataclass
class Effort:
    """What is spent of ``allowed`` units of work."""

    allowed: float
    spent: float = 0.0
    seconds_allowed: float = LAST_RESORT
    timed_out: bool = False
    began: float = field(default_factory=lambda: time.monotonic())

    def charge(self, pairs: int, weights: int) -> None:
        """Count one hypothesis of ``weights`` weights on ``pairs`` pairs."""
        self.spent += pairs * weights + A_HYPOTHESIS

    @property
    def seconds(self) -> float:
        """Since the beginning; for the reader, no decision rests on it."""
        return time.monotonic() - self.began

    def over(self) -> bool:
        """Whether there is nothing left."""
        if self.seconds > self.seconds_allowed:
            self.timed_out = True
        return self.timed_out or self.spent >= self.allowed

    @property
    def why(self) -> str:
        """What ended the search before it was through, "" where nothing did."""
        if self.timed_out:
            return (
                f"it was ended by the clock after {self.seconds_allowed:.0f} s, so that a faster machine may "
                "find more"
            )
        return "it was ended after as much work as is allowed" if self.spent >= self.allowed else ""


def weights_in(tensors: Mapping[str, Tensor], names: Sequence[str]) -> int:
    """How many numbers the tensors of these names hold, all of them where none is named."""
    return sum(tensors[name].numel() for name in names or tensors)
