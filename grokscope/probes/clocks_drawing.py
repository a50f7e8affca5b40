"""Figures of the clocks probe: what happened when, and the classifier's clock."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grokscope.probes.drawing import BAND, EVENT_COLOURS, NEUTRAL, TEST, TRAIN
from grokscope.probes.record import Record


def draw_events(record: Record, figure: Figure) -> None:
    """Events on one time axis, earliest at the top."""
    axes = figure.subplots()
    shown = [(name, e) for name, e in record.events.items() if e.by is not None]
    shown.sort(key=lambda pair: (pair[1].by or 0, pair[0]))
    major = [pair for pair in shown if "." not in pair[0]]
    minor = [pair for pair in shown if "." in pair[0]][: max(0, 16 - len(major))]
    shown = sorted(major + minor, key=lambda pair: (pair[1].by or 0, pair[0]))
    for row, (name, event) in enumerate(shown):
        colour = EVENT_COLOURS.get(name.split("_")[0], NEUTRAL)
        after, by = event.after or 0, event.by or 0
        axes.plot([after, by], [row, row], color=colour, linewidth=6, solid_capstyle="butt")
        axes.plot([by], [row], marker="|", color=colour, markersize=9)
    axes.set_yticks(range(len(shown)), [readable(name) for name, _ in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    positive = record.steps[record.steps > 0]
    if len(positive) and positive[-1] >= 100:
        axes.set_xscale("symlog", linthresh=float(max(1, positive[0])), linscale=0.4)
    axes.set_xlim(0, max(int(record.steps[-1]), 1))
    axes.set_xlabel("training step")
    axes.grid(True, axis="x", alpha=0.25, linewidth=0.6)


def readable(event: str) -> str:
    """An event's name as a reader would say it."""
    for prefix, words in (
        ("half_fall.", "half-fall of "),
        ("rise.", "half-rise of "),
        ("onset.", "onset of "),
    ):
        if event.startswith(prefix):
            rest = event.removeprefix(prefix).removeprefix("spectra.").removeprefix("fourier.")
            return words + rest.replace("_", " ").replace(".", ": ")
    return event.replace("_", " ")


def draw_classifier(record: Record, figure: Figure) -> None:
    """T_cls over 1/epsilon, with the preferred line."""
    axes = figure.subplots()
    ends, grid = record.measurements["clocks.classifier"].values, np.array(record.coordinates["epsilon"])
    fine = np.isfinite(ends).all(axis=1) & (ends[:, 1] > 0)
    x, after, by = 1 / grid[fine], np.maximum(ends[fine, 0], 0.5), ends[fine, 1]
    axes.vlines(x, after, by, color=TRAIN, linewidth=3)
    axes.plot(x, by, ".", color=TRAIN, label="T_cls(ε)")
    preferred = record.notes["clocks.classifier"]["preferred"]
    axes.set_title(f"preferred: {preferred}", fontsize=9, color=NEUTRAL)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("1/ε (1/nat)")
    axes.set_ylabel("training step")
    axes.grid(True, alpha=0.25)
    for name, colour in (("fit", TRAIN), ("grok", TEST)):
        event = record.events.get(name)
        if event is not None and event.by:
            axes.axhline(event.by, color=colour, linewidth=0.8, linestyle="--", label=name)
    axes.axhline(float(record.steps[-1]), color=BAND, linewidth=0.8, label="end of the run")
    axes.legend(loc="best")
