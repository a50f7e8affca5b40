"""Several runs on one page: curves overlaid, events side by side, settings that differ, differences over seeds."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from grokscope.errors import GrokscopeError
from grokscope.probes.dense import counted
from grokscope.probes.record import Record
from grokscope.report.compare_figures import compare_figures, drawn_groups, has_medians, styles
from grokscope.report.comparison import (
    FEWEST,
    Between,
    median,
    median_interval,
)
from grokscope.report.formatting import UNDEFINED, crossing, number, ratio, slug, whole
from grokscope.report.frame import render_frame
from grokscope.report.over_seeds import (
    UNBOUNDED,
    SeedQuantity,
    change_between,
    difference_tables,
    ends_of,
    grok_of,
    group_table,
    known,
    percent,
    quantities_of,
    shown,
)
from grokscope.report.page import TONES
from grokscope.report.subjects import (
    UNSET,
    Group,
    Subject,
    delay_between,
    differing_settings,
    groups_of,
    subject_of,
)
from grokscope.report.tables import Table
from grokscope.runs import Run
from grokscope.workspace import write_text

FEWEST_RUNS, MOST_RUNS = 2, 64
_FEW_COLUMNS = 6
_MOST_SETTINGS = 12
_LONGEST = 60
_TAIL = re.compile(r"(?:[-_.]s?)?[-_.0-9]*$")
_SAID = {
    "grokked": "grokked",
    "generalised without delay": "generalised without delay",
    "stalled": "stalled",
    "memorised": "memorised",
    "not fitted": "did not fit",
}


def write_comparison(
    runs: Sequence[Run], records: Sequence[Record], out: Path | str, *, pages: Path | None = None
) -> Path:
    """Write the comparison of ``runs`` to ``out`` and return it; an equal file is left alone.

    Args:
        records: the measurements of each run, in the same order.
        pages: the folder with the runs' own pages, to which the table links where they exist.

    Raises:
        GrokscopeError: fewer than two runs, more than 64, one run twice, or a file that cannot be written.
    """
    out = Path(out)
    links: dict[str, str] = {}
    for run in runs:
        page = None if pages is None else pages / f"{run.path.name}.html"
        if page is not None and page.is_file():
            links[run.path.name] = Path(os.path.relpath(page, out.parent)).as_posix()
    text = render_comparison([subject_of(r, m) for r, m in zip(runs, records, strict=True)], links)
    write_text(out, text.encode("utf-8", "replace").decode())
    return out


def comparison_name(names: Sequence[str]) -> str:
    """A file name for the comparison of the runs ``names``: the names of two, else their number and a hash."""
    if len(names) == 2:
        return f"compare-{slug(names[0])}-{slug(names[1])}.html"
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:6]
    return f"compare-{len(names)}-runs-{digest}.html"


def check_count(names: Sequence[str]) -> None:
    """Raise GrokscopeError unless 2 to 64 different runs are named."""
    if not FEWEST_RUNS <= len(names) <= MOST_RUNS:
        raise GrokscopeError(
            f"comparing runs: {len(names)} were given, expected {FEWEST_RUNS} to {MOST_RUNS} different runs"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GrokscopeError(f"comparing runs: {twice[0]} was given more than once, expected different runs")


def render_comparison(subjects: Sequence[Subject], links: dict[str, str] | None = None) -> str:
    """The comparison as one self-contained HTML file; equal input gives equal bytes.

    Args:
        links: addresses of the runs' own pages by name.
    """
    check_count([s.name for s in subjects])
    groups = groups_of(subjects)
    quantities = quantities_of(subjects)
    figures, drawn = compare_figures(subjects, groups), drawn_groups(subjects, groups)
    return render_frame(
        "compare.html.j2",
        style=["index.css", "compare.css"],
        title=_title(subjects),
        kicker=_kicker(subjects),
        sentence=_sentence(subjects, groups),
        lines=[_line(s, groups, subjects, (links or {}).get(s.name, "")) for s in subjects],
        grouped=len(groups) > 1 and len(groups) < len(subjects),
        # the one text that is not escaped: an <svg> built from a parsed tree, every string in it escaped there
        figures=[(f, [Markup(drawing.svg) for drawing in f.drawings]) for f in figures],
        medians=has_medians(drawn),
        samples=[(g.label, style) for g, style in zip(drawn, styles(drawn), strict=True)],
        events=_event_table(subjects),
        further=_further_events(subjects),
        settings=_settings_tables(subjects, groups),
        over_seeds=[group_table(group, quantities) for group in groups if len(group.members) > 1],
        differences=difference_tables(groups, quantities),
        fewest=FEWEST,
    )


def _title(subjects: Sequence[Subject]) -> str:
    names = [s.name for s in subjects]
    if len(names) <= 3:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    first, last = min(names), max(names)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = _TAIL.sub("", first[:shared])
    return f"{len(names)} runs" + (f" of {start}" if start else "")


def _kicker(subjects: Sequence[Subject]) -> str:
    tasks = list(dict.fromkeys(s.row.task for s in subjects))
    models = list(dict.fromkeys(s.row.model.replace("-", " ") for s in subjects))
    return " · ".join(["comparison", " and ".join(tasks[:3]), " and ".join(models[:3])])


def _line(
    subject: Subject, groups: Sequence[Group], subjects: Sequence[Subject], link: str
) -> dict[str, Any]:
    """One run as the first table shows it; ``style`` is how its curves are drawn."""
    row, record = subject.row, subject.record
    coloured = drawn_groups(subjects, groups)
    at = next(i for i, group in enumerate(coloured) if subject in group.members)
    delayed = delay_between(record)
    return {
        "name": row.name,
        "link": link,
        "style": styles(coloured)[at],
        "origin": row.origin,
        "state": row.state,
        "tone": TONES.get(row.state, ""),
        "sentence": row.sentence,
        "group": next(group.label for group in groups if subject in group.members),
        "fit": _event(record, "fit"),
        "grok": _event(record, counted(record)[0]),
        "delay": UNDEFINED if delayed is None else ratio(delayed.low or None, delayed.high),
        "accuracy": UNDEFINED if row.accuracy is None else number(row.accuracy, 3),
        "step": UNDEFINED if row.step is None else whole(row.step),
        "seed": UNDEFINED if row.seed is None else str(row.seed),
        "checksum": row.checksum[:8],
    }


def _event(record: Record, name: str) -> str:
    return crossing(record.events[name]) if name in record.events else UNDEFINED


def _sentence(subjects: Sequence[Subject], groups: Sequence[Group]) -> str:
    said = [_states(subjects)]
    if len(subjects) == 2:
        said.append(_order_of_two(subjects[0], subjects[1]))
    with_seeds = [group for group in groups if len(group.seeds) >= FEWEST]
    for group in with_seeds[:2]:
        values = known(group, grok_of)
        held = median_interval(values)
        # where half of the seeds were not seen to generalise there is no median to speak of
        if len(values) == len(group.seeds) and held is not None and math.isfinite(median(values).high):
            who = (
                f"The {len(values)} seeds"
                if len(groups) == 1
                else f"The {len(values)} runs with {group.label}"
            )
            said.append(
                f"{who} generalised at a median step of {shown(median(values), True)} ({percent(held)} interval "
                f"{ends_of(held, True)})."
            )
    if len(with_seeds) >= 2:
        change = change_between(with_seeds[0], with_seeds[1], SeedQuantity("", grok_of, steps=True))
        if change is not None and change[0] != UNBOUNDED:
            said.append(
                f"With {with_seeds[1].label} that step is {change[0]} times the one with {with_seeds[0].label} "
                f"({change[2]} interval {change[1]})."
            )
    return " ".join(part for part in said if part)


def _states(subjects: Sequence[Subject]) -> str:
    states = Counter(s.row.state for s in subjects).most_common()
    if len(states) == 1:
        state, count = states[0]
        return f"{'Both' if count == 2 else f'All {count}'} runs {_SAID.get(state, f'are {state}')}."
    said = [
        f"{count} {_SAID.get(state, f'is {state}' if count == 1 else f'are {state}')}"
        for state, count in states
    ]
    return f"Of {len(subjects)} runs {', '.join(said[:-1])} and {said[-1]}."


def _order_of_two(first: Subject, second: Subject) -> str:
    one, two = grok_of(first), grok_of(second)
    if one is None or two is None or (math.isinf(one.high) and math.isinf(two.high)):
        return ""
    if two.high <= one.low:
        first, second, one, two = second, first, two, one
    if one.high <= two.low:
        factor = ratio(two.low / one.high if one.high else None, two.high / one.low if one.low else None)
        then = "did not" if math.isinf(two.high) else "did"
        return (
            f"{first.name} generalised first, {_steps(one)}; {second.name} {then} {_steps(two)}, "
            f"{factor.removesuffix('×')} times later."
        )
    did = [
        f"{s.name} {'did not' if math.isinf(e.high) else 'did'} {_steps(e)}"
        for s, e in ((first, one), (second, two))
    ]
    return f"Which generalised first is not decided, since the intervals overlap: {did[0]}, {did[1]}."


def _steps(value: Between) -> str:
    if math.isinf(value.high):
        return f"by step {whole(int(value.low))}"
    return f"between steps {whole(int(value.low))} and {whole(int(value.high))}"


def _event_table(subjects: Sequence[Subject]) -> Table | None:
    """The run's own events, a row a run."""
    names = list(dict.fromkeys(n for s in subjects for n in s.record.events if "." not in n))
    if not names:
        return None
    rows = [(s.name, *(_event(s.record, name) for name in names)) for s in subjects]
    return Table(("run", *(name.replace("_", " ") for name in names)), rows)


def _further_events(subjects: Sequence[Subject]) -> Table | None:
    """Onsets and half-falls of measured quantities, a column a run, in the order of the first run."""
    names = list(dict.fromkeys(n for s in subjects for n in s.record.events if "." in n))
    if not names:
        return None

    def when(name: str) -> float:
        found = [s.record.events[name].by for s in subjects if name in s.record.events]
        seen = [by for by in found if by is not None]
        return float(np.median(seen)) if seen else math.inf

    rows = [(n, *(_event(s.record, n) for s in subjects)) for n in sorted(names, key=when)]
    return Table(("event", *(s.name for s in subjects)), rows)


def _settings_tables(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Table]:
    """Settings that differ between groups: a column a group where these are few, else a row a group.

    Those that every run has come first; beyond a dozen the others have a table of their own.
    """
    names = differing_settings(subjects)
    if not names:
        return []
    shared = [n for n in names if all(n in g.settings for g in groups)]
    names = [*shared, *(n for n in names if n not in shared)]
    first = names if len(names) <= _MOST_SETTINGS else (shared or names)[:_MOST_SETTINGS]
    parts = [first, names[len(first) :]]
    return [_settings_table(part, groups) for part in parts if part]


def _settings_table(names: Sequence[str], groups: Sequence[Group]) -> Table:
    def text(group: Group, name: str) -> str:
        found = group.settings.get(name, UNSET)
        return (
            found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}… ({whole(len(found))} characters)"
        )

    if len(groups) <= _FEW_COLUMNS:
        rows = [(name, *(text(g, name) for g in groups)) for name in names]
        return Table(("setting", *(g.label for g in groups)), rows)
    return Table(("runs", *names), [(g.label, *(text(g, name) for name in names)) for g in groups])
