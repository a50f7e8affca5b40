"""What a probe gives the page for every save: arrays with the precision that a picture needs, and how to draw them.

A view is a picture that follows the time cursor. Its content is plain data in which every array over saves is a
:class:`Frames`; the page has one way to draw each ``kind``:

=========  ====================================================================================================
kind       content
=========  ====================================================================================================
answers    ``p``; ``right``: bits (T, p²), pairs (a, b) row by row; ``train``: bits (1, p²) or None; ``mirrored``:
           whether a test pair whose swap is in training is a mirrored one
bars       ``layers``: [{label, values (T, n)}], ``labels`` of the n bars, ``xlabel``, ``ylabel``, ``chance`` or None
plane      ``layers``: [{label, points (T, n, 2) in ±1, extent (1, T), order: the n points as they are joined and
           coloured, None for theirs}], ``labels`` of the n points
values     ``layers``: [{label, values (T, r), ranks: of the r values}], ``ylabel``: values by rank, logarithmic
matrix     ``layers``: [{label, values (T, rows, cols)}], ``rows``, ``cols``, ``diverging``
neurons    ``frequency`` (T, h) in whole numbers, ``share`` (T, h), ``n_frequencies``
phases     ``x``, ``y``: (T, h) radians, ``weight`` (T, h) in [0, 1], ``xlabel``, ``ylabel``
shares     ``labels``: [n], ``values`` (T, n), shares of a whole
=========  ====================================================================================================

Shape legend: T saves (or the keyframes among them), p residues, h neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from grokscope.probes.record import Record
from grokscope.runs import Run

Kind = Literal["answers", "bars", "plane", "values", "matrix", "neurons", "phases", "shares"]
Precision = Literal["bits", "byte", "log16", "float32"]

MOST_KEYFRAMES = 64
"""Saves at which larger arrays stand on a page."""
MOST_MAPS = 16
"""Saves at which maps over all pairs of residues stand on a page."""

MOST_RANKS = 32
"""Singular values of one map on a page."""

Content = Mapping[str, Any]
Make = Callable[[Run, Record], "Content | None"]


@dataclass(frozen=True)
class Frames:
    """An array over saves, and how exactly the page holds it.

    Attributes:
        values: (T, …), NaN where undefined (a bit cannot say so: it becomes 0).
        precision: one bit, 8 bits between ``low`` and ``high``, 16 bits of the logarithm between them, or float32.
        rows: positions among the record's saves at which it stands, increasing; ``None`` for all of them.
        low, high: ends of the range, by default those of the finite (for ``log16``: positive) values; for 8 bits
            one number or one for each frame.
        unit: of the values.
    """

    values: np.ndarray
    precision: Precision
    rows: np.ndarray | None = None
    low: float | np.ndarray | None = None
    high: float | np.ndarray | None = None
    unit: str = ""


@dataclass(frozen=True)
class ViewSpec:
    """One picture that follows the time cursor: its title, what it shows in a sentence, and what makes it."""

    name: str
    title: str
    caption: str
    kind: Kind
    make: Make = field(repr=False)


def finite_rows(run: Run, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows``, positions among the run's saves, at which all weights are finite."""
    fine = [all(bool(value.isfinite().all()) for value in run.params(int(row)).values()) for row in rows]
    return rows[np.array(fine, bool)]


def keyframes(record: Record, most: int = MOST_KEYFRAMES) -> np.ndarray:
    """Positions of at most ``most`` saves, increasing: first and last, and dense around fit and grok.

    Half of them are spread evenly over the logarithm of the step, the other half within about a factor of two
    around the events.
    """
    steps = np.asarray(record.steps, dtype=float)
    if len(steps) <= most:
        return np.arange(len(steps))
    after = np.log1p(steps - steps[0])
    place = after / after[-1]
    events = [record.events[name] for name in ("fit", "grok") if name in record.events]
    centres = [np.log1p(event.by - steps[0]) for event in events if event.by is not None]
    for centre in centres:
        place = place + (1 + np.tanh((after - centre) / 0.35)) / 2 / len(centres)
    wanted = np.linspace(place[0], place[-1], most)
    chosen = set(np.abs(place[:, None] - wanted).argmin(0).tolist())
    while (
        len(chosen) < most
    ):  # where several places fell onto one save: into the widest gaps that hold another
        rows = np.array(sorted(chosen))
        wide = np.where(np.diff(rows) > 1, np.diff(place[rows]), -1.0)
        left = int(rows[wide.argmax()])
        right = int(rows[wide.argmax() + 1])
        middle = (place[left] + place[right]) / 2
        chosen.add(left + 1 + int(np.abs(place[left + 1 : right] - middle).argmin()))
    return np.array(sorted(chosen))
