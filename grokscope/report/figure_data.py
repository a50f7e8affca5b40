"""The data behind the marks of a drawn figure that are not lines over time: bars, dots, spans and heat maps, as tables.

They are read off the axes of matplotlib, so that a figure has its table whoever drew it. A table is plain data: columns
of numbers or words of equal length; a heat map instead holds its values at 8 bits, as the page's other maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

from grokscope.probes.drawing import CHANCE, EVENT, TIME
from grokscope.probes.views import Frames
from grokscope.report.encoding import decoded, encoded

Column = list[float | int | str | None]


def tables_of(axes: Axes) -> list[dict[str, Any]]:
    """Everything in ``axes`` that is data and no line over time, each kind as one table; colour bars have none.

    A table is ``title`` (possibly empty), ``head`` and ``columns``; or, for a heat map, ``head`` of one name, ``x``,
    ``labels`` and ``values``: an encoded (x, labels) array.
    """
    if axes.get_label() == "<colorbar>":
        return []
    title = axes.get_title(loc="left") or axes.get_title()
    rows = _rows(axes) if isinstance(axes.yaxis.get_major_locator(), FixedLocator) else None
    if rows is not None:
        found = [rows]
    else:
        found = [_maps(axes, mesh) for mesh in axes.collections if isinstance(mesh, QuadMesh)]
        found += [_picture(axes, image) for image in axes.images]
        found += [_dots(axes, dots) for dots in axes.collections if isinstance(dots, PathCollection)]
        found += [_spans(axes, spans) for spans in axes.collections if isinstance(spans, LineCollection)]
        found += [_bars(axes), *([] if axes.get_gid() == TIME else [*_curves(axes), _levels(axes)])]
    return [{"title": title, **table} for table in _joined(table for table in found if table is not None)]


def short_rows(
    tables: Sequence[dict[str, Any]], most: int
) -> list[tuple[str, tuple[str, ...], list[list[Any]]]]:
    """(title, head, rows) of each table with at most ``most`` rows, evenly spread, and as few columns of a heat map."""
    found = []
    for table in tables:
        head, columns = tuple(table["head"]), table.get("columns")
        if columns is None:
            values = decoded(table["values"])
            shown = spread(values.shape[1], most // 2)
            head = (*head, *(str(table["labels"][at]) for at in shown))
            columns = [table["x"], *values[:, shown].T.tolist()]
        rows = [[column[at] for column in columns] for at in spread(len(columns[0]), most)]
        found.append((table["title"], head, rows))
    return found


def _joined(tables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring tables over the same first column as one."""
    found: list[dict[str, Any]] = []
    for table in tables:
        last = found[-1] if found else {}
        key = (table["head"][0], table.get("columns", [None])[0])
        if "columns" in table and key == (last.get("head", [""])[0], last.get("columns", [None])[0]):
            last["head"] += table["head"][1:]
            last["columns"] += table["columns"][1:]
        else:
            found.append(table)
    return found


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices up to ``count``, ends included, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _rows(axes: Axes) -> dict[str, Any] | None:
    """Named rows, and the stretches that each of them shows."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    found: list[tuple[str, float | None, float | None]] = []
    for place, name in zip(axes.get_yticks(), names, strict=False):
        drawn = [_data(line) for line in axes.lines if line.get_gid() != EVENT]
        ends = [
            (x.min(), x.max()) for x, y in drawn if x.size and np.isfinite(x).all() and (y == place).all()
        ]
        # a single point that is the end of a stretch is a mark on it
        stretches = [pair for pair in ends if pair[0] < pair[1]]
        points = [pair for pair in ends if pair[0] == pair[1] and not any(pair[0] in s for s in stretches)]
        pairs = sorted(set(stretches + points))
        found += [(str(name), float(first), float(last)) for first, last in pairs] or [
            (str(name), None, None)
        ]
    if all(first is None for _, first, _ in found):
        return None
    label = "step" if axes.get_gid() == TIME else axes.get_xlabel() or "x"
    head = [axes.get_ylabel() or "name", f"after {label}", f"by {label}"]
    return {"head": head, "columns": [list(column) for column in zip(*found, strict=True)]}


def _data(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def _maps(axes: Axes, mesh: QuadMesh) -> dict[str, Any]:
    """Cells of a map: where each begins along x, the middle of each along y."""
    corners = np.asarray(mesh.get_coordinates(), dtype=float)
    values = np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan)
    shape = (corners.shape[0] - 1, corners.shape[1] - 1)
    if values.size != shape[0] * shape[1]:  # shaded between its corners: the values stand at these
        shape = corners.shape[:2]
    x = corners[0, : shape[1], 0]
    y = corners[:, 0, 1]
    middles = (y[1:] + y[:-1]) / 2 if len(y) > shape[0] else y
    return _map(axes, mesh, x, middles, values.reshape(shape))


def _picture(axes: Axes, image: Any) -> dict[str, Any] | None:
    values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
    if values.ndim != 2:
        return None  # colours, not numbers
    left, right, foot, top = image.get_extent()
    if image.origin == "upper":
        foot, top = top, foot
    x, y = (
        first + (np.arange(count) + 0.5) * (last - first) / count
        for first, last, count in ((left, right, values.shape[1]), (foot, top, values.shape[0]))
    )
    return _map(axes, image, x, y, values)


def _map(axes: Axes, drawn: Any, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    bar = drawn.colorbar
    what = bar.ax.get_ylabel() if bar is not None else ""
    across = axes.get_ylabel() or "y"
    name = "step" if axes.get_gid() == TIME else axes.get_xlabel() or "x"
    title = f"{what or 'value'} by {name} and {across}"
    return {
        "title": title, "head": [name], "x": _column(x), "labels": [f"{value:.6g}" for value in y],
        "values": encoded(Frames(values.T, "byte")),
    }  # fmt: skip


def _dots(axes: Axes, dots: PathCollection) -> dict[str, Any] | None:
    places = np.ma.filled(np.ma.asarray(dots.get_offsets(), dtype=float), np.nan)
    if not len(places):
        return None
    columns = [_column(places[:, 0]), _column(places[:, 1])]
    head = [axes.get_xlabel() or "x", axes.get_ylabel() or "y"]
    values = dots.get_array()
    if values is not None and np.size(values) == len(places):
        columns.append(_column(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)))
        head.append("value")
    return {"head": head, "columns": columns}


def _spans(axes: Axes, spans: LineCollection) -> dict[str, Any] | None:
    """Strokes from place to place, such as intervals drawn upright or level."""
    ends = [np.asarray(segment, dtype=float)[[0, -1]] for segment in spans.get_segments() if len(segment) > 1]
    if not ends or spans.colorbar is not None:
        return None
    whole = np.array(ends)  # (n, 2 ends, 2 coordinates)
    head, columns = [], []
    for side, label in enumerate((axes.get_xlabel() or "x", axes.get_ylabel() or "y")):
        if np.array_equal(whole[:, 0, side], whole[:, 1, side]):
            head.append(label)
            columns.append(_column(whole[:, 0, side]))
        else:
            head += [f"{label}, from", f"{label}, to"]
            columns += [_column(whole[:, 0, side]), _column(whole[:, 1, side])]
    return {"head": head, "columns": columns}


def _bars(axes: Axes) -> dict[str, Any] | None:
    boxes = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_gid() not in (EVENT, CHANCE)]
    if not boxes:
        return None
    x, y = axes.get_xlabel() or "x", axes.get_ylabel() or "y"
    ends = np.array([
        (b.get_x(), b.get_x() + b.get_width(), b.get_y(), b.get_y() + b.get_height()) for b in boxes
    ])  # fmt: skip
    return {
        "head": [f"{x}, from", f"{x}, to", f"{y}, from", f"{y}, to"],
        "columns": list(map(_column, ends.T)),
    }


def _curves(axes: Axes) -> list[dict[str, Any]]:
    """Lines of axes that are not over time, each by its own x."""
    found = []
    for line in axes.lines:
        if line.get_gid() == EVENT or line.get_transform() != axes.transData or not np.size(line.get_xdata()):
            continue
        label = str(line.get_label())
        name = (
            axes.get_ylabel() if label.startswith("_") else f"{axes.get_ylabel()}: {label}".removeprefix(": ")
        )
        head = [axes.get_xlabel() or "x", name or "y"]
        found.append({"head": head, "columns": [_column(values) for values in _data(line)]})
    return found


def _levels(axes: Axes) -> dict[str, Any] | None:
    """Named horizontal lines across the axes."""
    across = axes.get_yaxis_transform(which="grid")
    named = [
        (str(line.get_label()), float(_data(line)[1][0]))
        for line in axes.lines
        if line.get_transform() == across and not str(line.get_label()).startswith("_")
    ]
    if not named:
        return None
    return {
        "head": ["level", axes.get_ylabel() or "y"],
        "columns": [list(c) for c in zip(*named, strict=True)],
    }


def _column(values: np.ndarray) -> Column:
    return [
        float(f"{value:.9g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)
    ]
