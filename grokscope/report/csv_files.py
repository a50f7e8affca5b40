"""Measurements as CSV: a table or two a probe, and the definitions of every name."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from grokscope.probes.record import Measurement, Record
from grokscope.probes.registry import Probe
from grokscope.report.formatting import slug
from grokscope.report.tables import share_out


def probe_csv(record: Record, names: Sequence[str]) -> str:
    """Arrays over saves as one CSV table: a row a save, a column a number.

    A column is named by its quantity, and by its place on further axes: ``norm.total``,
    ``fourier.embedding.fraction[7]``. A quantity between two saves stands in the row of the later one;
    undefined entries are empty. Arrays without a step axis are not in it; see :func:`arrays_csv`.
    """
    columns: list[tuple[str, list[str]]] = [("step", [str(int(step)) for step in record.steps])]
    for name in names:
        m = record.measurements[name]
        if not m.dims or m.dims[0] not in ("step", "interval"):
            continue
        blank = [""] if m.dims[0] == "interval" and len(record.steps) else []
        for place, label in _places(record, m, skip=1):
            columns.append((name + label, [*blank, *_cells(m.values[(slice(None), *place)])]))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([_inert(heading) for heading, _ in columns])
    writer.writerows(zip(*(cells for _, cells in columns), strict=True))
    return written.getvalue()


def arrays_csv(record: Record, names: Sequence[str]) -> str:
    """Arrays without a step axis, one row a number: ``quantity, at, value``; empty without any."""
    rows = [
        (_inert(name), _inert(label.strip("[]")), _cell(m.values[place]))
        for name in names
        if not {"step", "interval"} & set((m := record.measurements[name]).dims[:1])
        for place, label in _places(record, m, skip=0)
    ]
    return _table(("quantity", "at", "value"), rows) if rows else ""


def definitions_csv(record: Record) -> str:
    """Unit, meaning and source of every measured name."""
    rows = [
        tuple(map(_inert, (name, m.quantity.unit, m.quantity.meaning, m.quantity.source)))
        for name, m in record.measurements.items()
    ]
    return _table(("quantity", "unit", "meaning", "source"), rows)


def csv_files(record: Record, probes: Sequence[Probe]) -> dict[str, str]:
    """File name → text of every CSV of a record: one or two a probe, and ``definitions.csv``."""
    held, others = share_out(record, probes)
    files: dict[str, str] = {}
    for probe_name, holdings in (*held.items(), ("other", others)):
        if any(record.measurements[n].dims[:1] in (("step",), ("interval",)) for n in holdings.measured):
            files[f"{slug(probe_name)}.csv"] = probe_csv(record, holdings.measured)
        if text := arrays_csv(record, holdings.measured):
            files[f"{slug(probe_name)}-arrays.csv"] = text
    files["definitions.csv"] = definitions_csv(record)
    return files


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return written.getvalue()


def _places(record: Record, m: Measurement, *, skip: int) -> list[tuple[tuple[int, ...], str]]:
    """Every index over the axes from ``skip`` on, with its label in brackets."""
    axes: list[list[str]] = []
    for dim, length in zip(m.dims[skip:], m.values.shape[skip:], strict=True):
        labels = record.coordinates.get(dim, [])
        axes.append([str(v) for v in labels] if len(labels) == length else [str(i) for i in range(length)])
    ranges = [range(len(labels)) for labels in axes]
    return [
        (place, f"[{','.join(labels[i] for labels, i in zip(axes, place, strict=True))}]" if place else "")
        for place in itertools.product(*ranges)
    ]


def _cells(values: np.ndarray) -> list[str]:
    """Numbers as text that reads back to the same ones; empty where they are not finite."""
    if values.dtype.kind != "f":
        return [_cell(value) for value in values]
    return [
        repr(value) if fine else "" for value, fine in zip(values.tolist(), np.isfinite(values), strict=True)
    ]


def _cell(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return repr(value) if np.isfinite(value) else ""
    return str(value)


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
