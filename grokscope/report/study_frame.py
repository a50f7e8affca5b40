"""The frame of a study's page: what was published beside what we found, with a verdict a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from grokscope.errors import GrokscopeError
from grokscope.report.figures import Drawing
from grokscope.report.frame import render_frame

Outcome = Literal["agrees", "differs", "cannot tell"]
_OUTCOMES: dict[str, str] = {"agrees": "good", "differs": "bad", "cannot tell": "open"}

_LONG = 28
"""Characters from which on a value is words, which may break, and no number."""
_FEW = 24
"""Runs up to which their list is open."""


@dataclass(frozen=True)
class StudyRow:
    """One published statement beside ours, as ready text.

    ``verdict`` is ``agrees``, ``differs`` or ``cannot tell``; ``note`` says what it rests on.
    """

    quantity: str
    published: str
    ours: str
    interval: str
    verdict: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in _OUTCOMES:
            raise GrokscopeError(
                f"comparing {self.quantity!r} with what was published: the verdict was {self.verdict!r}, expected "
                f"{', '.join(_OUTCOMES)}"
            )


def study_page(
    title: str,
    sentence: str,
    rows: Sequence[StudyRow],
    figures: Sequence[Drawing],
    runs: Sequence[tuple[str, str]],
    left_out: str,
    *,
    findings: Sequence[tuple[str, str, str, str]] = (),
    chosen: str = "",
) -> str:
    """A study's results as one self-contained HTML file; equal input gives equal bytes.

    Args:
        sentence: the finding, as a person would say it.
        rows: published against ours.
        figures: the published figures drawn again from our runs.
        runs: (name, address) of the pages of the runs behind it; an empty address is no link.
        left_out: what of the publication was not repeated, and why; empty for nothing.
        findings: (quantity, value, interval, note) of what was measured and has no published number.
        chosen: what the publication left open, and what was taken.
    """
    counts = Counter(row.verdict for row in rows)
    return render_frame(
        "study_frame.html.j2",
        style=["index.css", "compare.css"],
        title=title,
        sentence=sentence,
        tally=[(name, counts[name], tone) for name, tone in _OUTCOMES.items() if counts[name]],
        rows=[(row, _OUTCOMES[row.verdict]) for row in rows],
        # the one text that is not escaped: an <svg> built from a parsed tree, every string in it escaped there
        figures=[(figure, Markup(figure.svg)) for figure in figures],
        runs=[(name, address if _is_plain(address) else "") for name, address in runs],
        left_out=left_out,
        findings=findings,
        chosen=chosen,
        long=_LONG,
        few=_FEW,
    )


def _is_plain(address: str) -> bool:
    """Whether an address stays among files: no scheme of its own such as ``javascript:``."""
    return ":" not in address.partition("/")[0]
