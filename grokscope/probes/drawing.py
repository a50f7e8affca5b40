"""Drawing aids that give every figure the same colours, the same time axis and the same event bands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text
from matplotlib.ticker import (
    FixedLocator,
    Formatter,
    FuncFormatter,
    LogFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from grokscope.probes.record import Record

TRAIN, TEST = "#1f6fb4", "#d1495b"
MIRRORED, UNMIRRORED = "#e8a33d", "#7a2e8e"
NEUTRAL, BAND = "#6b7280", "#9ca3af"
CYCLE = ("#1f6fb4", "#d1495b", "#2f8f5b", "#7a2e8e", "#e8a33d", "#0f8b8d", "#8d5a2b", "#6b7280")
EVENT_COLOURS = {"fit": TRAIN, "grok": TEST}
MAX_POINTS = 300
_CHANCE_POINTS = 60

TIME, EVENT, CHANCE, SERIES = "time", "event", "chance", "series:"
"""What the artists of a figure are called, so that a page can tell a time axis, the marks of events, the band of
chance and the lines of measured series (followed by their name) from everything else."""

_UNDRAWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

INK, FAINT = "#1b2430", "#5b6675"
"""Colours of text and of axes; the report swaps these and the ones above for brighter ones in the dark."""

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # shipped with matplotlib, so the layout is the same on every machine
    "font.size": 10.0,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 18.0,
    "axes.labelsize": 9.5,
    "axes.labelpad": 7.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "grid.color": BAND,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.labelcolor": INK,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.3,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "savefig.facecolor": "none",
    "image.cmap": "viridis",
}
"""Settings of matplotlib under which every figure is drawn; see :func:`styled`."""


_LEFT_ALONE = ("backend", "backend_fallback", "interactive", "toolbar", "timezone", "date.epoch")


def styled() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in the house style, whatever the user's own settings are."""
    settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _LEFT_ALONE}
    settings.update(STYLE)
    return matplotlib.rc_context(settings)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of ``size`` inches, laid out so that no label is cut; make it inside :func:`styled`."""
    return Figure(figsize=size, dpi=144, layout="constrained")


def time_axes(figure: Figure, record: Record, rows: int = 1, *, log: bool = True) -> list[Axes]:
    """``rows`` axes side by side over training steps, the bands of ``fit`` and ``grok`` drawn in each.

    The axis is logarithmic (linear near 0, so that step 0 shows) unless ``log`` is off or the run is
    too short for it.
    """
    made = list(np.atleast_1d(figure.subplots(1, rows)).ravel())
    last = int(record.steps[-1]) if len(record.steps) else 1
    for axes in made:
        axes.set_gid(TIME)
        if log and last >= 100:
            positive = record.steps[record.steps > 0]
            threshold = float(max(1, positive[0]))
            axes.set_xscale("symlog", linthresh=threshold, linscale=0.4)
            axes.xaxis.set_major_locator(FixedLocator(_decades(threshold, last, sparse=rows > 1)))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(step_label))
        axes.set_xlim(0, max(last, 1))
        axes.set_xlabel("training step")
        axes.grid(True, which="major", alpha=0.25, linewidth=0.6)
        mark_events(axes, record)
    return made


def _decades(threshold: float, last: int, *, sparse: bool) -> list[float]:
    """0 and the powers of ten up to the last step; every second one where a narrow axis has many."""
    powers = [10.0**n for n in range(int(np.ceil(np.log10(threshold))), int(np.log10(last)) + 1)]
    if sparse and len(powers) > 4:
        powers = powers[len(powers) % 2 == 0 :: 2]
    return [0.0, *powers]


def step_label(value: float, position: object = None) -> str:
    """A step as a short label: 500, 20k, 1.5M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (abs(value) >= 1e4 or value % 1000 == 0):
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def mark_events(axes: Axes, record: Record, names: Sequence[str] = ("fit", "grok")) -> None:
    """Draw events as bands from the last save below to the first save that holds.

    The limits of the time axis must be set before. Names stand above the axes, and on the outer sides of
    two events that lie close together.
    """
    found = [(n, record.events[n]) for n in names if n in record.events]
    marks = sorted(((e.by, e, n) for n, e in found if e.by is not None), key=lambda mark: mark[0])
    place = axes.transScale + axes.transLimits
    spots = [float(place.transform((by, 0.0))[0]) for by, _, _ in marks]
    for position, (by, event, name) in enumerate(marks):
        colour = EVENT_COLOURS.get(name, NEUTRAL)
        start = by if event.after is None else event.after
        axes.axvspan(start, by, color=colour, alpha=0.18, linewidth=0, gid=EVENT)
        axes.axvline(by, color=colour, alpha=0.7, linewidth=0.9, linestyle=(0, (3, 2)), gid=EVENT)
        room = (spots[position + 1] if position + 1 < len(spots) else 1.06) - spots[position]
        side = "left" if room > 0.09 else "right"
        axes.annotate(
            name, (by, 1), xycoords=("data", "axes fraction"), xytext=(-2 if side == "left" else 2, 3),
            color=colour, textcoords="offset points", va="bottom", ha=side, fontsize=8.5, gid=EVENT,
        )  # fmt: skip


def curve(
    axes: Axes, record: Record, name: str, label: str, colour: str, *, steps: Any = None, **style: Any
) -> bool:
    """Draw the series ``name`` over steps, thinned to at most 300 points; False where it is absent."""
    values = record.get(name)
    if values is None:
        return False
    over = record.steps if steps is None else np.asarray(steps)
    if len(values) == len(over) - 1:
        over = over[1:]
    keep = thin(len(over))
    # a series over other steps than the saves is no series of the page
    if steps is None:
        style.setdefault("gid", f"{SERIES}{name}")
    axes.plot(over[keep], np.asarray(values, dtype=float)[keep], label=label, color=colour, **style)
    return True


def band(axes: Axes, low: float, high: float, label: str = "chance") -> None:
    """Shade the values that chance gives, from ``low`` to ``high``, behind every curve."""
    # with an edge, so that a band narrower than a pixel is seen
    axes.axhspan(low, high, color=BAND, alpha=0.3, linewidth=0.6, zorder=0, label=label, gid=CHANCE)


def chance_lines(axes: Axes, steps: Any, levels: Any, label: str = "", colour: str = BAND) -> None:
    """The ends of a band that moves: thin dotted lines at ``levels`` (T, 3), quantiles last, at most 60 points each.

    For chance that depends on the save, such as random weights of its norms.
    """
    over, ends = np.asarray(steps), np.asarray(levels, dtype=float)[:, [0, -1]]
    keep = np.unique(np.linspace(0, len(over) - 1, min(len(over), _CHANCE_POINTS)).round().astype(int))
    for column in range(2):
        axes.plot(
            over[keep], ends[keep, column], color=colour, linewidth=0.9, linestyle=":", zorder=1, gid=CHANCE,
            label=label if column == 0 else "",
        )  # fmt: skip


def legend(axes: Axes, **options: Any) -> None:
    """A legend outside the axes, on the right, so that it covers no curve; nothing where no label is set."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**{"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), **options})


def thin(count: int) -> np.ndarray:
    """Indices of at most 300 of ``count`` points, ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))


class PowerLabel(Formatter):
    """Labels of a logarithmic axis as plain text, 10⁻³, which every font can draw; 1, 2 and 5 in a decade."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        if x == 0:
            return "0"
        power = int(np.floor(np.log10(abs(x)) + 1e-9))
        mantissa = abs(x) / 10.0**power
        if abs(mantissa - round(mantissa)) > 1e-6:
            return ""
        sign = "−" if x < 0 else ""
        if -3 < power <= 3:
            return f"{sign}{round(mantissa) * 10.0**power:g}"
        leading = "" if round(mantissa) == 1 else f"{round(mantissa)}×"
        return f"{sign}{leading}10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _label_logarithm(axis: Axis) -> None:
    """Ticks at the powers of ten, at 1, 2 and 5 where those are few, at every digit where these are too."""
    low, high = sorted(float(v) for v in axis.get_view_interval())
    if axis.get_scale() != "log" or low <= 0:
        axis.set_major_formatter(PowerLabel())
        axis.set_minor_locator(NullLocator())
        return
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)

    def count(digits: Sequence[int]) -> int:
        return sum(low <= d * 10.0**n <= high for d in digits for n in exponents)

    for digits in ((1,), (1, 2, 5), range(1, 10)):
        if count(digits) >= 3:
            if len(digits) > 1:
                axis.set_major_locator(LogLocator(subs=list(digits), numticks=99))
            axis.set_major_formatter(PowerLabel())
            axis.set_minor_locator(NullLocator())
            return
    axis.set_major_locator(MaxNLocator(4))  # less than a third of a decade
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _is_mathematics(text: str) -> bool:
    try:
        MathTextParser("path").parse(text)
    except ValueError:
        return False
    return True


def _texts(figure: Figure) -> Iterator[Text]:
    """Every text but the labels of ticks, which a walk over all artists would create one by one."""
    yield from figure.texts
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        yield from (axes._left_title, axes._right_title)  # pyright: ignore[reportAttributeAccessIssue]
    for legend in (*figure.legends, *(a.get_legend() for a in figure.axes)):
        if legend is not None:
            yield from (*legend.get_texts(), legend.get_title())


def finish(figure: Figure) -> None:
    """Last touches on a drawn figure: plain-text labels on logarithmic axes, no crowd of small marks, and
    texts that can be drawn whatever is in them."""
    for text in _texts(figure):
        text.set_text(_UNDRAWABLE.sub("\ufffd", text.get_text()))
        if text.get_text().count("$") > 1 and not _is_mathematics(text.get_text()):
            text.set_parse_math(False)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                _label_logarithm(axis)
        for collection in axes.collections:
            cells = collection.get_array()
            if len(collection.get_paths()) > 400 or (cells is not None and np.size(cells) > 400):
                collection.set_rasterized(True)


def flatten(figure: Figure) -> None:
    """Draw everything inside the axes of ``figure`` as pixels: for figures of too many strokes."""
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.collections, *axes.patches):
            artist.set_rasterized(True)
