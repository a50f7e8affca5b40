"""Figures of the clocks probe: what happened when, and the classifier's clock."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing, lead_lag
from grokscope.probes.drawing import BAND, EVENT_COLOURS, MIRRORED, NEUTRAL, TEST, TRAIN, time_axes
from grokscope.probes.record import Record

TEST_ONSET = "onset.loss.test"
MOST_ONSETS = 18


def draw_events(record: Record, figure: Figure) -> None:
    """Events on one time axis, earliest at the top."""
    shown = [(name, e) for name, e in record.events.items() if e.by is not None]
    shown.sort(key=lambda pair: (pair[1].by or 0, pair[0]))
    major = [pair for pair in shown if "." not in pair[0]]
    minor = [pair for pair in shown if "." in pair[0]][: max(0, 16 - len(major))]
    shown = sorted(major + minor, key=lambda pair: (pair[1].by or 0, pair[0]))
    colours = [EVENT_COLOURS.get(name.split("_")[0], NEUTRAL) for name, _ in shown]
    _intervals(figure, record, [(readable(name), event) for name, event in shown], colours)


def draw_onsets(record: Record, figure: Figure) -> None:
    """Onset intervals of all quantities, coloured by whether they lie before or after that of the test loss."""
    found = {name: e for name, e in record.events.items() if name.startswith("onset.") and e.by is not None}
    reference = found.get(TEST_ONSET)
    shown = sorted(found.items(), key=lambda pair: (pair[1].by or 0, pair[1].after or 0, pair[0]))
    if len(shown) > MOST_ONSETS:  # the test loss stays
        others = [pair for pair in shown if pair[0] != TEST_ONSET][: MOST_ONSETS - 1]
        shown = [pair for pair in shown if pair in others or pair[0] == TEST_ONSET]
    colours, labels = [], []
    for name, event in shown:
        order = "it" if name == TEST_ONSET else compared(event, reference)
        colours.append({"before": TRAIN, "after": MIRRORED, "it": TEST}.get(order, NEUTRAL))
        # a sign beside the colour, so that the order can be read without it
        sign = {"before": "◀ ", "after": "▶ ", "it": "● "}.get(order, "")
        labels.append((sign + readable(name).removeprefix("onset of "), event))
    _intervals(figure, record, labels, colours)


def compared(event: Crossing, reference: Crossing | None) -> str:
    """``before``, ``after`` or ``open``, decided only where the two intervals do not overlap."""
    if reference is None:
        return "open"
    order = lead_lag({"one": event, "other": reference})
    return "open" if not order.pairs else "before" if order.pairs[0][0] == "one" else "after"


def _intervals(figure: Figure, record: Record, shown: list[tuple[str, Crossing]], colours: list[str]) -> None:
    """Named intervals on one time axis, the first at the top."""
    axes = time_axes(figure, record)[0]
    for row, ((_, event), colour) in enumerate(zip(shown, colours, strict=True)):
        after, by = event.after or 0, event.by or 0
        axes.plot([after, by], [row, row], color=colour, linewidth=6, solid_capstyle="butt")
        axes.plot([by], [row], marker="|", color=colour, markersize=9)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(False, axis="y")


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
