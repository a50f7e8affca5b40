"""What a study is assembled from: one experiment with its rows, figures and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grokscope.report.figures import Drawing
from grokscope.studies.result import Finding, Row


@dataclass(frozen=True)
class Part:
    """One experiment of a study.

    Attributes:
        rows, findings, figures: in the order of the page.
        chosen: what the publication left open and what was taken.
        left_out: what was not repeated at this scale.
        data: what the rows were computed from, under the name of the part.
        sentence: what was found, in one sentence.
    """

    rows: tuple[Row, ...]
    sentence: str
    findings: tuple[Finding, ...] = ()
    figures: tuple[Drawing, ...] = ()
    chosen: str = ""
    left_out: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
