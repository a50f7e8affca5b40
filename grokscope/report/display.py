"""A run as a notebook shows it: one sentence, a few numbers and a small curve, in a fragment of its own."""

from __future__ import annotations

from grokscope.errors import GrokscopeError
from grokscope.probes.cache import MEASUREMENTS, cache_key, chosen_probes
from grokscope.probes.record import load_record
from grokscope.probes.suite import read_suite
from grokscope.report.frame import render_frame
from grokscope.report.index import line_of
from grokscope.report.rows import HEIGHT, WIDTH, row_of
from grokscope.runs import Run


def run_html(run: Run) -> str:
    """HTML of one run for a notebook: no script, no style sheet, nothing fetched; text only where it is data.

    Nothing is measured: the verdict is that of the stored measurements, where these are still valid.
    """
    record = None
    try:
        if (run.path / MEASUREMENTS).is_file():
            key = cache_key(run, read_suite("default"), chosen_probes(), None)
            record = load_record(run.path / MEASUREMENTS, key)
        line = line_of(row_of(run, record))
    except GrokscopeError as error:
        return render_frame(
            "display.html.j2", line=None, name=run.name, why=str(error), width=0, height=0, saves=0
        )
    return render_frame(
        "display.html.j2", line=line, name=run.name, why="", width=WIDTH, height=HEIGHT, saves=len(run.steps)
    )
