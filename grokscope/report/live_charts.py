"""What a drawn figure shows, read off it, so that the page can draw it again at every save and on another time axis.

Only axes over training steps are described whole, and only where lines, bands and levels are all there is in them;
of the others the page learns where the time axis lies, to move a cursor over the drawing, and the data as tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.spines import Spine
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator

from grokscope.probes.drawing import CHANCE, EVENT, SERIES, TIME
from grokscope.report.figure_data import tables_of

_DASHES = {"--": [4, 3], "-.": [5, 2, 1, 2], ":": [1, 2]}
_SCALES = ("linear", "log", "symlog")


def describe(figure: Figure, colours: dict[str, str]) -> dict[str, Any] | None:
    """The axes of a laid-out ``figure`` that run over time or hold data, ``None`` where it has none.

    Args:
        figure: after it was printed, when its layout is known.
        colours: variables of the page's style sheet by the colour they stand for.
    """
    width, height = (float(size) * 72 for size in figure.get_size_inches())
    found = []
    for axes in figure.axes:
        if axes.get_gid() == TIME:
            shown = _axes(axes, width, height, colours)
            tables = [] if shown["live"] else tables_of(axes)
            found.append({**shown, "tables": tables} if tables else shown)
        elif tables := tables_of(axes):
            found.append({"time": False, "live": False, "lines": [], "tables": tables})
    return {"box": [round(width, 2), round(height, 2)], "axes": found} if found else None


def series_of(chart: dict[str, Any]) -> list[str]:
    """Names of the measured series that a chart draws."""
    names = [line["series"] for axes in chart["axes"] for line in axes["lines"] if line["series"] is not None]
    return list(dict.fromkeys(names))


def _axes(axes: Axes, width: float, height: float, colours: dict[str, str]) -> dict[str, Any]:
    box = axes.get_position()
    lines, levels, bands, live = [], [], [], True
    chance = ""
    for line in axes.lines:
        if line.get_gid() == EVENT:
            continue
        if line.get_gid() == CHANCE and line.get_transform() == axes.transData:
            # the ends of a band that moves, of which the lower one has its name; tables tell them apart
            end, chance = ("low", _label(line)) if _label(line) else ("high", chance)
            lines.append(_line(line, colours) | {"name": f"{chance or 'chance'}, {end}"})
            continue
        if line.get_transform() == axes.get_xaxis_transform(which="grid"):
            lines.append(_line(line, colours) | {"y": [float(end) for end in axes.get_ylim()]})
        elif _is_level(axes, line):
            levels.append({"at": float(np.asarray(line.get_ydata())[0]), "label": _label(line)})
        else:
            lines.append(_line(line, colours))
    for patch in axes.patches:
        if patch.get_gid() == CHANCE and isinstance(patch, Rectangle):
            low = float(patch.get_y())
            bands.append({"from": low, "to": low + float(patch.get_height()), "label": _label(patch)})
        elif patch.get_gid() != EVENT:
            live = False
    if axes.collections or axes.images or axes.tables or axes.artists or axes.get_yscale() not in _SCALES:
        live = False
    if isinstance(axes.yaxis.get_major_locator(), FixedLocator):  # rows with names, not numbers
        live = False
    if any(not isinstance(child, _UNDERSTOOD) for child in axes.get_children()):
        live = False
    if any(not isinstance(text, Annotation) or text.get_gid() != EVENT for text in axes.texts):
        live = False
    transform: Any = axes.xaxis.get_transform()
    upright: Any = axes.yaxis.get_transform()
    return {
        "title": axes.get_title(loc="left") or axes.get_title(),
        "ylabel": axes.get_ylabel(),
        "yscale": axes.get_yscale(),
        "ylim": [float(end) for end in axes.get_ylim()],
        "ylinthresh": float(getattr(upright, "linthresh", 1.0)),
        "ylinscale": float(getattr(upright, "linscale", 1.0)),
        "rect": [
            round(float(end), 2)
            for end in (box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height)
        ],
        "time": True,
        "live": live,
        "xscale": axes.get_xscale(),
        "linthresh": float(getattr(transform, "linthresh", 1.0)),
        "linscale": float(getattr(transform, "linscale", 1.0)),
        "xlim": [float(end) for end in axes.get_xlim()],
        "lines": lines,
        "bands": bands,
        "levels": levels,
    }  # fmt: skip


_UNDERSTOOD = (Line2D, Patch, Spine, Text, Legend, Axis)


def _line(line: Line2D, colours: dict[str, str]) -> dict[str, Any]:
    gid = str(line.get_gid() or "")
    colour = to_hex(line.get_color())  # pyright: ignore[reportArgumentType]
    series = gid.removeprefix(SERIES) if gid.startswith(SERIES) else None
    shown: dict[str, Any] = {
        "label": _label(line),
        "colour": colours.get(colour, colour),
        "dash": _DASHES.get(str(line.get_linestyle())),
        "width": round(float(line.get_linewidth()), 2),
        "series": series,
    }
    if series is None:
        shown["x"], shown["y"] = _numbers(line.get_xdata(), 9), _numbers(line.get_ydata(), 4)
    return shown


def _numbers(data: Any, digits: int) -> list[float | int | None]:
    values = np.ma.filled(np.ma.asarray(data, dtype=float), np.nan)
    return [_number(float(f"{value:.{digits}g}")) if np.isfinite(value) else None for value in values]


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _is_level(axes: Axes, line: Line2D) -> bool:
    """Whether it is a horizontal line across the axes, in the coordinates that ``axhline`` uses."""
    return line.get_transform() == axes.get_yaxis_transform(which="grid")


def _label(artist: Line2D | Patch) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label
