"""``reports/index.html``: every run of a workspace as a row of one table; and making many reports at once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grokscope.errors import GrokscopeError
from grokscope.probes import Crossing
from grokscope.probes.cache import MEASUREMENTS, measure_run
from grokscope.probes.record import Record
from grokscope.probes.suite import Progress
from grokscope.report.formatting import UNDEFINED, crossing, number, ratio, whole
from grokscope.report.frame import render_frame
from grokscope.report.page import TONES
from grokscope.report.rows import (
    HEIGHT,
    NOT_MEASURED,
    UNREADABLE,
    WIDTH,
    Ends,
    Points,
    Row,
    content_key,
    is_fresh,
    keep_row,
    kept_row,
    page_key,
    row_of,
    stored_record,
)
from grokscope.report.tables import natural
from grokscope.report.write import write_report
from grokscope.runs import Run, open_run
from grokscope.user_code import load_function
from grokscope.work import EVERY_CORE, Lost, Workers, each
from grokscope.workspace import settle_process, write_text

INDEX = "index.html"
OLDER = "older page"
"""The flag of a row whose page was made before its run, its measurements or grokscope changed."""


@dataclass(frozen=True)
class Reported:
    """One run's page: where it is, whether it had to be written, or the one line that says why there is none."""

    given: str
    page: Path | None = None
    written: bool = False
    sentence: str = ""
    error: str = ""


@dataclass(frozen=True)
class _Unit:
    path: str
    reports: str
    suite: str
    plugins: tuple[str, ...]
    model: str | None


def report_run(
    run: Run,
    reports: Path,
    *,
    suite: str | Path = "default",
    plugins: Sequence[str | Path] = (),
    measured: Callable[[Run], Record] | None = None,
    progress: Progress | None = None,
) -> Reported:
    """The page ``<name>.html`` in ``reports``, left as it is where the same one would be written again.

    Args:
        measured: gives the record where a page has to be written; by default
            :func:`~grokscope.probes.cache.measure_run`.
        progress: called before each probe that runs.

    Raises:
        GrokscopeError: as measuring and writing do.
    """
    key = page_key(run, suite, plugins)
    row = is_fresh(reports, run.path.name, key)
    if row is not None:
        return Reported(run.name, reports / row.page, False, row.sentence)
    record = (
        measure_run(run, suite, plugins=plugins, progress=progress) if measured is None else measured(run)
    )
    page = write_report(run, reports / f"{run.path.name}.html", record=record, plugins=plugins)
    row = replace(row_of(run, record), page=page.name)
    keep_row(reports, row, key, content_key(run))
    return Reported(run.name, page, True, row.sentence)


def report_many(
    paths: Sequence[str | Path],
    reports: Path,
    *,
    suite: str = "default",
    plugins: Sequence[str] = (),
    model: str | None = None,
    workers: Workers = EVERY_CORE,
    progress: Callable[[Reported], None] | None = None,
) -> list[Reported]:
    """:func:`report_run` of every run directory, several at once; the results are in the order given.

    A run that fails leaves the others alone.

    Args:
        model: ``FILE:FUNCTION``, a forward of the user's own, whose file runs in every worker.
        progress: called with each run as it is done.

    Raises:
        GrokscopeError: as :func:`grokscope.work.each`.
    """
    folder = str(reports.absolute())
    units = [_Unit(str(Path(p).absolute()), folder, suite, tuple(plugins), model) for p in paths]
    found: dict[int, Reported] = {}
    bugs: list[str] = []
    for index, result in each(_report_unit, units, workers):
        name = Path(paths[index]).name
        if isinstance(result, Lost):
            result = Reported(name, error=f"reporting {name}: {result.reason}")
        elif isinstance(result, str):
            bugs.append(result)
            result = Reported(name, error="a fault of the program")
        if result.page is not None:
            result = replace(result, page=reports / result.page.name)
        found[index] = result
        if progress is not None:
            progress(result)
    if bugs:
        raise RuntimeError(f"{len(bugs)} reports failed; the first:\n{bugs[0]}")
    return [found[index] for index in range(len(paths))]


def _report_unit(unit: _Unit) -> Reported | str:
    settle_process()
    name = Path(unit.path).name
    try:
        run = open_run(unit.path, None if unit.model is None else load_function(unit.model))
        done = report_run(run, Path(unit.reports), suite=unit.suite, plugins=unit.plugins)
        return replace(done, given=name)
    except GrokscopeError as error:
        return Reported(name, error=str(error))
    except MemoryError as error:
        return Reported(name, error=f"reporting {name}: out of memory: {error}")
    except Exception:
        return traceback.format_exc()


def runs_of(workspace: Path) -> list[Path]:
    """The directory of every run of a workspace, by name."""
    found = (path.parent for path in (workspace / "checkpoints").glob("*/run.json"))
    return sorted(found, key=lambda path: natural(path.name))


def write_index(workspace: Path, reports: Path | None = None) -> Path:
    """Write ``reports/index.html`` over every run there is; a file that would not change is left alone.

    A run without a page has a row of what its training log tells; one that cannot be opened says why.

    Raises:
        GrokscopeError: the file cannot be written, or belongs to a run of that name.
    """
    reports = workspace / "reports" if reports is None else reports
    if (workspace / "checkpoints" / Path(INDEX).stem / "run.json").is_file():
        raise GrokscopeError(
            f"writing {reports / INDEX}: it is the page of the run {Path(INDEX).stem!r}, expected no run of that name"
        )
    rows = [_row_for(path, reports) for path in runs_of(workspace)]
    text, out = render_index(rows), reports / INDEX
    try:
        same = out.read_bytes() == text.encode("utf-8", "replace")
    except OSError:
        same = False
    if not same:
        write_text(out, text.encode("utf-8", "replace").decode())
    return out


def _row_for(path: Path, reports: Path) -> Row:
    page = f"{path.name}.html" if (reports / f"{path.name}.html").is_file() else ""
    try:
        run = open_run(path)
        # the digests of a run that was measured are remembered; others would be read for nothing
        content = content_key(run) if (path / MEASUREMENTS).is_file() else ""
    except GrokscopeError as error:
        return Row(path.name, page=page, state=UNREADABLE, sentence=_here(str(error), path))
    kept = kept_row(reports, path.name)
    if kept is not None and page and kept.content == content:
        return replace(kept.row, page=page)
    record = stored_record(run)
    if record is None and kept is not None and page:
        return replace(kept.row, page=page, flags=(*kept.row.flags, OLDER))
    return replace(row_of(run, record), page=page)


def _here(message: str, path: Path) -> str:
    """A message without the way to the workspace, which would differ between machines."""
    return message.replace(str(path), path.name).replace(str(path.absolute()), path.name)


@dataclass(frozen=True)
class Line:
    """A row as the template shows it; the ``sort`` texts order columns by number where there is one."""

    row: Row
    tone: str
    model: str
    seed: str
    fit: str
    grok: str
    delay: str
    step: str
    accuracy: str
    checksum: str
    train: str
    test: str
    described: str
    sort: Mapping[str, str]


def render_index(rows: Sequence[Row]) -> str:
    """The index as one self-contained HTML file; equal rows give equal bytes."""
    lines = [line_of(row) for row in rows]
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    return render_frame(
        "index.html.j2",
        style=["index.css"],
        script="index.js",
        lines=lines,
        states=sorted(states.items(), key=lambda pair: (-pair[1], pair[0])),
        sentence=_sentence(rows, states),
        width=WIDTH,
        height=HEIGHT,
    )


def _sentence(rows: Sequence[Row], states: Mapping[str, int]) -> str:
    if not rows:
        return "There is no run in this workspace yet."
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{len(rows)} run{'s' if len(rows) != 1 else ''}: {counts}."


def line_of(row: Row) -> Line:
    """A row as ready texts."""
    low, high = row.delay or (None, None)
    order: dict[str, float | None] = {
        "seed": row.seed, "step": row.step, "accuracy": row.accuracy,
        "fit": _place(row.fit), "grok": _place(row.grok), "delay": low if low is not None else high,
    }  # fmt: skip
    return Line(
        row=row,
        tone=TONES.get(row.state, ""),
        model=row.model.replace("-", " "),
        seed=UNDEFINED if row.seed is None else str(row.seed),
        fit=_event(row.fit),
        grok=_event(row.grok),
        delay=UNDEFINED if row.delay is None or (low, high) == (None, None) else ratio(low, high),
        step=UNDEFINED if row.step is None else whole(row.step),
        accuracy=UNDEFINED if row.accuracy is None else number(row.accuracy, 3),
        checksum=row.checksum[:8],
        train=_path(row.train),
        test=_path(row.test),
        described=_described(row),
        sort={name: "" if value is None else repr(float(value)) for name, value in order.items()},
    )


def _place(ends: Ends | None) -> float | None:
    """Where an event stands in the order: at its later end, and after all others where it was not seen."""
    return None if ends is None else ends[1]


def _event(ends: Ends | None) -> str:
    if ends is None:
        return UNDEFINED
    after, by = (None if end is None else int(end) for end in ends)
    return crossing(Crossing(after, by, by is None))


def _path(curve: Points) -> str:
    # of one point: a line of no length, which round ends make a dot
    return "M" + "L".join(f"{x} {y}" for x, y in curve) + ("h0" if len(curve) == 1 else "") if curve else ""


def _described(row: Row) -> str:
    """The small curve in words."""
    if not row.test and not row.train:
        return ""
    ends = [
        f"{label} accuracy ends near {number((HEIGHT - 2 - curve[-1][1]) / (HEIGHT - 4), 2)}"
        for label, curve in (("training", row.train), ("test", row.test))
        if curve
    ]
    return ", ".join(ends) + "."


__all__ = [
    "INDEX",
    "NOT_MEASURED",
    "Reported",
    "render_index",
    "report_many",
    "report_run",
    "runs_of",
    "write_index",
]
