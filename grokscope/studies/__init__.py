"""Studies: the runs behind a published result, the law fitted to them, and the published numbers beside ours."""

from __future__ import annotations

from collections.abc import Callable

from grokscope.errors import GrokscopeError, nearest
from grokscope.studies.delay_law import run_delay_law
from grokscope.studies.grokalign import run_grokalign
from grokscope.studies.logit_scale import run_logit_scale
from grokscope.studies.result import Finding, Row, StudyResult, read_saved, write_result
from grokscope.studies.riemannian import run_riemannian
from grokscope.studies.sweep import Bench, Scale, TrainRuns
from grokscope.studies.two_clocks import run_two_clocks

STUDIES: dict[str, Callable[[Bench], StudyResult]] = {
    "delay-law": run_delay_law,
    "grokalign": run_grokalign,
    "logit-scale": run_logit_scale,
    "riemannian": run_riemannian,
    "two-clocks": run_two_clocks,
}
"""Name → what trains the runs that are missing, reads all of them and compares."""
TAKES_DATA = {"grokalign"}
"""Studies that can use a folder of data which the user brings."""
CONTINUES = {"delay-law", "grokalign"}
"""Studies whose saved result holds all that they read off their runs, so that they can go on from it."""


def choose_study(name: str) -> Callable[[Bench], StudyResult]:
    """The study of that name. Raises GrokscopeError for another."""
    if name not in STUDIES:
        raise GrokscopeError(
            f"choosing a study: {name!r} was given, expected one of {', '.join(STUDIES)}{nearest(name, STUDIES)}"
        )
    return STUDIES[name]


__all__ = [
    "CONTINUES",
    "STUDIES",
    "TAKES_DATA",
    "Bench",
    "Finding",
    "Row",
    "Scale",
    "StudyResult",
    "TrainRuns",
    "choose_study",
    "read_saved",
    "write_result",
]
