"""A run as a notebook shows it: one sentence, a few numbers and a small curve, in a fragment of its own."""

from __future__ import annotations

from grokscope.errors import GrokscopeError
from grokscope.report.frame import render_frame
from grokscope.report.index import line_of
from grokscope.report.rows import HEIGHT, WIDTH, row_of, stored_record
from grokscope.runs import Run


def run_html(run: Run) -> str:
    """HTML of one run for a notebook: no script, no style sheet, nothing fetched; text only where it is data.

    Nothing is measured: the verdict is that of the stored measurements, where these are still valid.
    """
    try:
        line = line_of(row_of(run, stored_record(run)))
    except GrokscopeError as error:
        return render_frame(
            "display.html.j2", line=None, name=run.name, why=str(error), width=0, height=0, saves=0
        )
    return render_frame(
        "display.html.j2", line=line, name=run.name, why="", width=WIDTH, height=HEIGHT, saves=len(run.steps)
    )
