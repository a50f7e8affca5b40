"""The cyclic axis of a map whose rows are residues: their order, and the frequencies along it.

Shape legend: n points of the axis, F = n // 2 frequencies, d columns of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.fourier import frequency_fraction, square_frequency_power
from grokscope.runs import ResidueAxis, Task


@dataclass(frozen=True)
class CyclicAxis:
    """A residue axis of a task, with the name of its frequencies' dimension in a record."""

    axis: ResidueAxis
    dim: str

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.axis.rows)

    @property
    def overlapping(self) -> bool:
        """Whether its frequencies are those of a², which overlap."""
        return self.axis.kind == "square"

    def ordered(self, table: Tensor) -> Tensor:
        """(…, n, d): rows in axis order, of a table (…, p, d) over all residues."""
        return table if self.axis.kind == "additive" else table[..., self.axis.rows, :]

    def fraction(self, table: Tensor) -> Tensor:
        """Shares of the power by frequency, (…, n, d) to (…, F); ValueError where the map is constant."""
        fraction = frequency_fraction(table)
        if not self.overlapping:
            return fraction
        power = square_frequency_power(table)
        return power / power.sum(-1, keepdim=True)


def axes_of(task: Task) -> tuple[CyclicAxis | Absent, CyclicAxis | Absent]:
    """The axes of operands and of answers; they share a dimension where they have as many frequencies."""
    token, answer = task.token_axis, task.class_axis
    token_axis = token if isinstance(token, Absent) else CyclicAxis(token, "frequency")
    if isinstance(answer, Absent):
        return token_axis, answer
    same = isinstance(token, Absent) or len(token.rows) // 2 == len(answer.rows) // 2
    return token_axis, CyclicAxis(answer, "frequency" if same else "frequency.class")
