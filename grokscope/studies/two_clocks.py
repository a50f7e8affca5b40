"""The study ``two-clocks``: how long the loss takes, and how long the representation (arXiv 2606.05863)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from grokscope.studies.classification_clocks import classification_part
from grokscope.studies.deep_linear_clocks import deep_linear_part
from grokscope.studies.part import Part
from grokscope.studies.relu_clocks import relu_part
from grokscope.studies.result import StudyResult
from grokscope.studies.sweep import Bench, UnfinishedError

TITLE = "Two training clocks (arXiv 2606.05863)"

PARTS: tuple[Callable[[Bench], Part], ...] = (
    deep_linear_part,
    classification_part,
    relu_part,
)
"""In the order of the page."""


def run_two_clocks(bench: Bench, parts: Sequence[Callable[[Bench], Part]] = PARTS) -> StudyResult:
    """Matrix completion and classification by deep linear nets, and the ReLU network of the paper."""
    measured = [bench.part(_words(part), partial(part, bench)) for part in parts]
    found = [part for part in measured if part is not None]
    if not found:
        raise UnfinishedError(
            f"reading two-clocks: {'; '.join(bench.omitted)}, expected one finished part at least"
        )
    data: dict[str, Any] = {}
    for part in found:
        twice = sorted(set(data) & set(part.data))
        if twice:
            raise ValueError(f"joining the parts of a study: two of them have data under {twice[0]!r}")
        data |= part.data
    return StudyResult(
        study="two-clocks",
        scale=bench.scale,
        title=TITLE,
        sentence=" ".join(part.sentence for part in found),
        rows=tuple(row for part in found for row in part.rows),
        findings=tuple(finding for part in found for finding in part.findings),
        figures=tuple(figure for part in found for figure in part.figures),
        chosen=" ".join(part.chosen for part in found if part.chosen),
        left_out=" ".join(part.left_out for part in found if part.left_out),
        data=data,
    )


def _words(part: Callable[[Bench], Part]) -> str:
    """The name of a part from that of what measures it."""
    return getattr(part, "__name__", "a part").removesuffix("_part").replace("_", " ")
