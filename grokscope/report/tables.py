"""What the page's tables say: summaries of a record as rows of ready text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grokscope.probes import Crossing
from grokscope.probes.record import Measurement, Quantity, Record
from grokscope.probes.registry import Probe
from grokscope.report.figure_data import short_rows, spread
from grokscope.report.formatting import UNDEFINED, crossing, interval, number, ratio, whole

MOST_ROWS = 24
"""Rows that a table shows before the rest goes behind a summary."""
_MOST_ENTRIES = 24
FIGURE_ROWS = 20
"""Rows of the table that stands with a figure where no script makes a whole one."""


@dataclass(frozen=True)
class Vital:
    """One number of the strip at the top: what it is, its value, and a remark."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """Headings and rows; the first column heads its row. ``numeric`` columns align on the right."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    title: str = ""

    @property
    def first(self) -> list[tuple[str, ...]]:
        return self.rows if len(self.rows) <= MOST_ROWS + 6 else self.rows[:MOST_ROWS]

    @property
    def rest(self) -> list[tuple[str, ...]]:
        return self.rows[len(self.first) :]


@dataclass
class Holdings:
    """The names that belong to one probe: measured, and absent with the reason."""

    measured: list[str] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)


def share_out(record: Record, probes: Sequence[Probe]) -> tuple[dict[str, Holdings], Holdings]:
    """What each probe recorded, by probe name, and what none of ``probes`` declares.

    Names come in the order in which their probe declares them, so a record read from a file gives the same
    page as the one just measured.
    """
    held = {probe.name: Holdings() for probe in probes}
    others = Holdings()
    for name, measurement in record.measurements.items():
        (_owner(name, measurement.quantity, probes, held) or others).measured.append(name)
    for name, reason in record.absent.items():
        (_owner(name, None, probes, held) or others).absent.append((name, reason))
    ranks = {probe.name: probe.quantities for probe in probes}
    for probe_name, holdings in (*held.items(), ("", others)):
        quantities = ranks.get(probe_name, ())
        holdings.measured.sort(key=lambda name: (_declared(name, quantities), natural(name)))
        holdings.absent.sort(key=lambda pair: (_declared(pair[0], quantities), natural(pair[0])))
    return held, others


def _owner(
    name: str, quantity: Quantity | None, probes: Sequence[Probe], held: dict[str, Holdings]
) -> Holdings | None:
    for probe in probes:
        if quantity is not None and quantity in probe.quantities:
            return held[probe.name]
    for probe in probes:
        # a quantity that is absent as a whole may be named by its pattern
        if any(q.name == name or q.matches(name) for q in probe.quantities):
            return held[probe.name]
    return None


def _declared(name: str, quantities: Sequence[Quantity]) -> int:
    for position, quantity in enumerate(quantities):
        if quantity.name == name or quantity.matches(name):
            return position
    return len(quantities)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sorting key under which ``layer.10`` comes after ``layer.2``."""
    pieces = re.split(r"(\d+)", name)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces if p)


def moments(record: Record) -> list[tuple[str, int]]:
    """(heading, row) of the saves a table shows: the first, those at fit and at grok, and the last."""
    if not len(record.steps):
        return []
    labels: dict[int, list[str]] = {}
    labels.setdefault(0, []).append("first save")
    for name in ("fit", "grok"):
        event = record.events.get(name)
        if event is not None and event.by is not None:
            later = np.flatnonzero(record.steps >= event.by)
            if later.size:
                labels.setdefault(int(later[0]), []).append(name)
    labels.setdefault(len(record.steps) - 1, []).append("last save")
    order = sorted(labels.items())
    return [(f"{', '.join(names)}\nstep {whole(int(record.steps[row]))}", row) for row, names in order]


def series_table(record: Record, names: Sequence[str]) -> Table | None:
    """One row a series of one number per save (or per interval between saves), at :func:`moments`."""
    columns = moments(record)
    rows: list[tuple[str, ...]] = []
    for name in names:
        m = record.measurements[name]
        if m.dims not in (("step",), ("interval",)):
            continue
        shift = 1 if m.dims == ("interval",) else 0
        cells = (number(m.values[i - shift]) if i >= shift else UNDEFINED for _, i in columns)
        rows.append((name, *cells, unit(m.quantity)))
    return _without_blank_units(Table(("quantity", *(heading for heading, _ in columns), "unit"), rows))


def figure_tables(record: Record, chart: Mapping[str, Any]) -> list[Table]:
    """What a figure shows, in up to ``FIGURE_ROWS`` rows evenly spread, for where no script makes whole tables.

    First the lines over time, at saves; then what else was read off its axes.
    """
    series = _series_rows(record, chart)
    others = short_rows([t for axes in chart["axes"] for t in axes.get("tables", ())], FIGURE_ROWS)
    return [
        *([] if series is None else [series]),
        *(
            Table(head, [(_plain(row[0], head[0]), *map(_plain, row[1:])) for row in rows], title)
            for title, head, rows in others
        ),
    ]


def _series_rows(record: Record, chart: Mapping[str, Any]) -> Table | None:
    columns: dict[str, dict[int, float | None]] = {}
    own: list[list[int]] = []
    for axes in chart["axes"]:
        for line in axes["lines"]:
            name = line["series"]
            if name is not None:
                m = record.measurements.get(name)
                if m is not None and m.values.ndim == 1:
                    over = record.steps[1:] if m.dims == ("interval",) else record.steps
                    columns[name] = dict(zip(over.tolist(), m.values.tolist(), strict=True))
            elif (label := line.get("name") or line["label"]) and len(line["x"]) > 2:
                heading = f"{axes['ylabel']}: {label}"
                columns[heading] = dict(zip(line["x"], line["y"], strict=True))
                own.append(line["x"])
    # lines of their own stand at some of the saves only
    steps = sorted({step for x in own for step in x if step is not None}) if own else record.steps.tolist()
    if not columns or not steps:
        return None
    rows = [
        (whole(int(step)), *(_plain(values.get(step)) for values in columns.values()))
        for step in (steps[at] for at in spread(len(steps), FIGURE_ROWS))
    ]
    return Table(("step", *columns), rows)


def _plain(value: float | str | None, heading: str = "") -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return UNDEFINED
    return whole(int(value)) if heading == "step" else number(value)


def unit(quantity: Quantity) -> str:
    """The unit to show; a pure number has none."""
    return "" if quantity.unit == "1" else quantity.unit


def _without_blank_units(table: Table) -> Table | None:
    """The table, its last column dropped where it is blank in every row; ``None`` without rows."""
    if not table.rows or any(row[-1] for row in table.rows):
        return table if table.rows else None
    return Table(table.head[:-1], [row[:-1] for row in table.rows], table.title)


def single_table(record: Record, names: Sequence[str]) -> Table | None:
    """Quantities of one number for the whole run."""
    rows = [
        (name, number(m.values), unit(m.quantity))
        for name in names
        if (m := record.measurements[name]).values.ndim == 0
    ]
    return _without_blank_units(Table(("quantity", "value", "unit"), rows))


def small_arrays(record: Record, names: Sequence[str]) -> list[Table]:
    """Arrays without a step axis that fit into a few cells: those along the same axis share a table."""
    along: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    squares: list[Table] = []
    for name in small_names(record, names):
        m = record.measurements[name]
        if m.values.ndim == 1:
            row = (name, *map(number, m.values), unit(m.quantity))
            along.setdefault((m.dims[0], *_labels(record, m, 0)), []).append(row)
        else:
            rows = [
                (label, *map(number, row)) for label, row in zip(_labels(record, m, 0), m.values, strict=True)
            ]
            shown = f"{name} ({unit(m.quantity)})" if unit(m.quantity) else name
            squares.append(Table((" \\ ".join(m.dims), *_labels(record, m, 1)), rows, shown))
    lines = [_without_blank_units(Table((*head, "unit"), rows)) for head, rows in along.items()]
    return [*(table for table in lines if table is not None), *squares]


def small_names(record: Record, names: Sequence[str]) -> list[str]:
    """Those of ``names`` whose arrays :func:`small_arrays` shows."""
    return [
        name
        for name in names
        if not {"step", "interval"} & set((m := record.measurements[name]).dims)
        and 0 < m.values.size <= _MOST_ENTRIES
        and m.values.ndim in (1, 2)
    ]


def _labels(record: Record, m: Measurement, axis: int) -> list[str]:
    labels = record.coordinates.get(m.dims[axis], [])
    length = m.values.shape[axis]
    return [_label(v) for v in labels] if len(labels) == length else [str(i) for i in range(length)]


def _label(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def array_table(record: Record, names: Sequence[str]) -> Table | None:
    """Name, axes and unit of every array that the other tables do not show."""
    shown = set(small_names(record, names))
    rows = [
        (name, " × ".join(f"{d} {n}" for d, n in zip(m.dims, m.values.shape, strict=True)), unit(m.quantity))
        for name in names
        if (m := record.measurements[name]).values.ndim and m.dims not in (("step",), ("interval",))
        if name not in shown
    ]
    return _without_blank_units(Table(("array", "axes", "unit"), rows))


def event_tables(record: Record) -> tuple[Table | None, Table | None]:
    """Events as intervals of steps, earliest first, those not seen last: the run's own, and all further ones.

    The run's own are those of fitting and of generalising; the further ones carry the dotted name of the
    quantity that changed.
    """

    def when(pair: tuple[str, Crossing]) -> tuple[float, float]:
        event = pair[1]
        return (np.inf if event.by is None else event.by, -1 if event.after is None else event.after)

    own: list[tuple[str, ...]] = []
    further: list[tuple[str, ...]] = []
    for name, event in sorted(record.events.items(), key=when):
        after = UNDEFINED if event.after is None else whole(event.after)
        row = (name, after, "not seen" if event.by is None else whole(event.by))
        (further if "." in name else own).append(row)
    head = ("event", "after step", "by step")
    return Table(head, own) if own else None, Table(head, further) if further else None


def claim_rows(record: Record) -> list[tuple[str, str, str, str, str]]:
    """(text, value, threshold, interval, mark) of each claim; the mark is ✓, ✗ or –."""
    claims = record.verdict.claims if record.verdict else ()
    marks = {True: "✓", False: "✗", None: UNDEFINED}
    return [
        (c.text, number(c.value), number(c.threshold), interval(c.interval), marks[c.holds]) for c in claims
    ]


def vitals(record: Record) -> list[Vital]:
    """The few numbers that say how the run went, of those that were measured."""
    made: list[Vital] = []
    labels = {"fit": "Fit", "grok": "Grok", "grok_unmirrored": "Grok, unmirrored"}
    for name, label in labels.items():
        if name in record.events:
            event = record.events[name]
            made.append(Vital(label, crossing(event), "steps" if event.by is not None else ""))
    if record.delay is not None:
        over = "grok step over fit step" + (", all test pairs" if "grok_unmirrored" in record.events else "")
        made.append(Vital("Delay", ratio(*record.delay), over))
    fit = record.events.get("fit")
    if fit is not None and fit.by is not None:
        later = np.flatnonzero(record.steps >= fit.by)
        for kind in ("mirrored", "unmirrored"):
            values = record.get(f"accuracy.test_{kind}")
            if values is not None and later.size and values.shape == record.steps.shape:
                at = number(float(values[later[0]]), 3)
                made.append(Vital(f"{kind.capitalize()} test accuracy", at, "at fit"))
    shown = (
        ("loss.train", "Training loss"),
        ("loss.test", "Test loss"),
        ("accuracy.train", "Training accuracy"),
        ("accuracy.test", "Test accuracy"),
    )
    if "loss.all" in record.measurements and "loss.train" not in record.measurements:
        shown = (("loss.all", "Loss on all inputs"), ("accuracy.all", "Accuracy on all inputs"))
    for name, label in shown:
        values = record.get(name)
        if values is not None and values.shape == record.steps.shape and len(values):
            made.append(Vital(label, number(float(values[-1]), 3), f"at step {whole(int(record.steps[-1]))}"))
    return made
