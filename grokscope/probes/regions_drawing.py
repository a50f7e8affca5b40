"""Figures of the regions probe: when gates freeze, how near they are, the maps, and the classes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.probes.drawing import BAND, CYCLE, NEUTRAL, TEST, TRAIN, band, curve, thin, time_axes
from grokscope.probes.record import Record


def draw_flips(record: Record, figure: Figure) -> None:
    """Flipped gates and frozen samples."""
    left, right = time_axes(figure, record, 2)
    curve(left, record, "regions.flipped", "flipped gates", TRAIN)
    values = record.get("regions.flipped")
    if values is not None and np.nanmax(values) > 0:
        positive = values[values > 0]
        left.set_yscale("symlog", linthresh=float(positive.min()), linscale=0.3)
        left.set_ylim(bottom=0)
    left.set_ylabel("share of entries flipped")
    curve(right, record, "regions.frozen_samples", "frozen samples", TRAIN)
    since = record.get("regions.frozen_since")
    if since is not None:
        right.axvline(float(since), color=NEUTRAL, linewidth=1.2, label="99 % hold")
        right.legend(loc="best")
    right.set_ylabel("share of samples frozen")
    right.set_ylim(-0.03, 1.03)


FROZEN = (
    ("regions.flipped", "90 % of gates", 0.9),
    ("regions.flipped", "99 % of gates", 0.99),
    ("regions.flipped", "99.9 % of gates", 0.999),
    ("regions.frozen_samples", "half of the samples", 0.5),
    ("regions.frozen_samples", "99 % of the samples", 0.99),
    ("regions.frozen_samples", "all samples", 1.0),
)
"""Rows of the timeline: the series, its label, and the share that must be kept from save to save."""


def draw_frozen(record: Record, figure: Figure) -> None:
    """Stretches between saves over which at least a given share of gates, or of whole patterns, was kept."""
    axes = time_axes(figure, record)[0]
    rows = [row for row in FROZEN if record.get(row[0]) is not None]
    for place, (name, _, share) in enumerate(rows):
        values = np.asarray(record[name], dtype=float)
        kept = 1 - values if name == "regions.flipped" else values
        found = stretches(np.nan_to_num(kept) >= share)
        colour = CYCLE[0] if name == "regions.flipped" else CYCLE[2]
        for first, last in found:
            ends = [float(record.steps[first]), float(record.steps[last])]
            axes.plot(ends, [place, place], color=colour, linewidth=9, solid_capstyle="butt")
        if not found:
            axes.annotate(
                "never", (0.01, place), xycoords=("axes fraction", "data"), va="center", color=NEUTRAL
            )
    axes.set_yticks(range(len(rows)), [label for _, label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")


def stretches(holds: np.ndarray) -> list[tuple[int, int]]:
    """Longest runs of true entries of (T − 1,) intervals, as positions (first save, last save)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def draw_margins(record: Record, figure: Figure) -> None:
    """Quantiles of the gate margin, and the local complexity."""
    left, right = time_axes(figure, record, 2)
    values = record.get("regions.gate_margin")
    assert values is not None
    keep = thin(len(record.steps))
    labels = ("minimum", "1 %", "10 %", "median")
    chance = record.get("regions.gate_margin.null")
    for column, (label, colour) in enumerate(zip(labels, (BAND, *CYCLE[:3]), strict=True)):
        left.plot(record.steps[keep], values[keep, column], label=label, color=colour)
        if chance is not None:
            last = column == len(labels) - 1
            band(left, float(chance[0, column]), float(chance[-1, column]), "random weights" if last else "")
    left.set_yscale("log")
    left.set_ylabel("|pre| / (‖w‖‖x‖ + |b|)")
    left.legend(loc="best", ncols=2)
    _chance_band(right, record, "regions.local_complexity")
    curve(right, record, "regions.local_complexity", "local complexity", TRAIN)
    right.set_ylabel("gates crossed per sample")
    right.legend(loc="best")
    right.set_ylim(bottom=0)


def draw_maps(record: Record, figure: Figure) -> None:
    """Stable rank of the maps and the rule gap, with what chance gives."""
    shown = {"regions.stable_rank_mean": "mean stable rank", "regions.rule_gap": "rule gap"}
    shown = {name: label for name, label in shown.items() if record.get(name) is not None}
    for axes, (name, label) in zip(time_axes(figure, record, len(shown)), shown.items(), strict=True):
        _chance_band(axes, record, name)
        curve(axes, record, name, label, TRAIN)
        axes.set_ylabel(label)
        axes.legend(loc="best")
        if name == "regions.rule_gap":
            axes.set_ylim(-0.03, 1.03)
        else:
            axes.set_ylim(bottom=0)


def draw_classes(record: Record, figure: Figure) -> None:
    """Class separation of what the head reads and of the logits, and the simplex gap."""
    left, right = time_axes(figure, record, 2)
    _chance_band(left, record, "regions.class_separation.normalised")
    _chance_band(left, record, "regions.class_separation.logits.normalised", "")
    curve(left, record, "regions.class_separation.normalised", "head's input", TRAIN)
    curve(left, record, "regions.class_separation.logits.normalised", "logits", TEST)
    left.set_yscale("log")
    left.set_ylabel("within / between (normalised)")
    left.legend(loc="best")
    _chance_band(right, record, "regions.simplex_gap")
    curve(right, record, "regions.simplex_gap", "head's input", TRAIN)
    right.set_ylabel("simplex gap")
    right.legend(loc="best")


def _chance_band(axes: Axes, record: Record, name: str, label: str = "random weights") -> None:
    levels = record.get(f"{name}.null")
    if levels is not None:
        band(axes, float(levels[0]), float(levels[-1]), label)


FIGURES = (
    (
        "When the gates freeze",
        "Share of (sample, gate) entries that changed since the previous save (left), and share of training "
        "samples whose whole pattern did not change (right). Both depend on the spacing of the saves; the grey "
        "line is the first save from which 99 % of samples hold their final pattern.",
        ("regions.flipped",),
        draw_flips,
    ),
    (
        "Frozen stretches",
        "Stretches of training over which, from each save to the next, so many gates (sample by sample) or so many "
        "whole gate patterns stayed as they were. Only for samples whose whole pattern is kept does the linear "
        "reduction hold through the stretch, and only as far as the saves can tell.",
        ("regions.flipped",),
        draw_frozen,
    ),
    (
        "How near the gates are",
        "Left: quantiles of the relative distance of pre-activations from zero. Right: gates that cross a small "
        "cross-polytope around a training sample, whose radius is fixed in the units of the combined input. Grey: "
        "weights drawn as the initial ones are, each band the chance of one line.",
        ("regions.gate_margin", "regions.local_complexity"),
        draw_margins,
    ),
    (
        "Linear maps of the regions",
        "Mean stable rank of the map A_i that the network is in a sample's region; to the right, where it is "
        "defined, the rule gap: share of the mean map outside the key Fourier functions of the class. Grey: "
        "random weights of the same shapes.",
        ("regions.stable_rank_mean",),
        draw_maps,
    ),
    (
        "Separation of classes",
        "Left: scatter within classes over scatter between them on training samples, normalised; small is "
        "separated. Right: distance of the class means from a simplex. Grey: random weights of the same shapes.",
        ("regions.class_separation",),
        draw_classes,
    ),
)
"""(title, caption, quantities it needs, function) of each figure."""
