"""Measurements as files: JSON of everything, CSV a probe, and both as links inside a page."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grokscope.probes.record import Measurement, Record
from grokscope.probes.registry import Probe
from grokscope.report.formatting import natural_size, slug
from grokscope.report.tables import share_out

MOST_ENTRIES = 20_000
"""Entries of the largest array that a page embeds."""
BUDGET = 640_000
"""Characters that measurements may take on a page as JSON, and again as CSV."""
_PLAIN = 120_000
"""Bytes up to which a file is embedded as it is; a larger one is compressed."""


@dataclass(frozen=True)
class Download:
    """One link: a file name, its size in words, and the data: address that holds it."""

    filename: str
    size: str
    href: str


@dataclass(frozen=True)
class Embedded:
    """What a page carries, and the names it leaves out."""

    files: list[Download]
    left_out: list[str]
    files_left_out: list[str]


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


def embed(record: Record, probes: Sequence[Probe], name: str, room: int = 2 * BUDGET) -> Embedded:
    """The record as links for a page: JSON, and CSV by probe, without the arrays that would not fit.

    What is left out is chosen by size alone: every array of more than 20 000 entries, then the largest ones
    until the rest fits into its share of ``room``, the characters there are for all links together.
    """
    share = min(BUDGET, room // 2)
    sizes = {n: _packed(m) for n, m in record.measurements.items()}
    kept = {n for n, m in record.measurements.items() if m.values.size <= MOST_ENTRIES}
    taken = sum(sizes[n] for n in kept)
    for largest in sorted(kept, key=lambda n: (-sizes[n], n)):
        if taken <= share:
            break
        kept.discard(largest)
        taken -= sizes[largest]
    left_out = [n for n in record.measurements if n not in kept]
    carried = reduced(record, kept)
    shape = carried.to_json()
    if left_out:
        shape["left_out"] = left_out
    made = [
        _download(f"{slug(name)}.json", "application/json", json.dumps(shape, separators=(",", ":")), share)
    ]
    for filename, text in csv_files(carried, probes).items():
        made.append(_download(f"{slug(name)}-{filename}", "text/csv", text, share))
    files: list[Download] = []
    for link in made:
        if len(link.href) <= room:
            files.append(link)
            room -= len(link.href)
    return Embedded(files, left_out, [link.filename for link in made if link not in files])


def reduced(record: Record, kept: Collection[str]) -> Record:
    """The record with the named arrays only."""
    smaller = Record(record.run, record.steps)
    smaller.measurements = {n: m for n, m in record.measurements.items() if n in kept}
    used = {dim for m in smaller.measurements.values() for dim in m.dims}
    smaller.coordinates = {d: v for d, v in record.coordinates.items() if d in used}
    smaller.events, smaller.delay, smaller.verdict = record.events, record.delay, record.verdict
    smaller.absent, smaller.notes, smaller.alerts = record.absent, record.notes, record.alerts
    smaller.probes = record.probes
    return smaller


def _packed(m: Measurement) -> int:
    """Bytes that an array takes on the page: its JSON, compressed, in base64."""
    if m.values.size > MOST_ENTRIES:
        return m.values.size * 12
    return len(zlib.compress(repr(m.values.tolist()).encode(), 6)) * 4 // 3


def _download(filename: str, kind: str, text: str, share: int) -> Download:
    data = text.encode("utf-8", "replace")
    if len(data) > min(_PLAIN, share // 6):
        # a fixed time keeps equal records equal; mtime would be the only thing to differ
        data, filename, kind = gzip.compress(data, 9, mtime=0), f"{filename}.gz", "application/gzip"
    return Download(
        filename, natural_size(len(data)), f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    )
