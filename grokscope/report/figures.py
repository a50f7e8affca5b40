"""A probe's figure as SVG to be placed inside a page: deterministic, themed, and closed in itself."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from grokscope.probes.drawing import BAND, CYCLE, FAINT, INK, finish, flatten, new_figure, styled
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import FigureSpec, Probe
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.report.live_charts import describe

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_STRAIGHT = re.compile(r"[MLz\s\d.e+-]+")
_CORNER = re.compile(r"([ML])\s*(\S+)\s+(\S+)|z")
_FONT = re.compile(r"font: ?([^;]*?)([\d.]+)px[^;]*")  # as matplotlib wrote it before 3.11
_FONT_SIZE = re.compile(r"font-size: ?([\d.]+)px")
_FONT_FAMILY = re.compile(r"font-family: ?[^;]*;? ?")
_NO_TURN = re.compile(r"^rotate\(-?0(\.0*)?[ ,)][^)]*\)?$")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")

THEME = {
    INK: "--ink",
    "#000000": "--ink",
    FAINT: "--soft",
    "#ffffff": "--paper",
    BAND: "--band",
    **{colour: f"--c{position}" for position, colour in enumerate(CYCLE, 1)},
}
"""Colours of the drawing style by the variable of the page's style sheet that takes their place."""

POINTS_PER_REM = 12.0
"""Scale of every figure on the page, so that text has one size in wide and narrow ones; 9 inches fill it."""

MOST_CHARACTERS = 300_000
"""Length of an SVG beyond which the curves of a figure become pixels; its text stays text."""

_COLOUR = re.compile("|".join(THEME))
_KEPT = {"svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "circle", "image", "line",
         "polyline", "polygon", "ellipse", "linearGradient", "radialGradient", "stop", "pattern", "filter",
         "feColorMatrix", "title", "desc"}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """One figure on the page: SVG text, or in its place the ``failure`` in one line.

    ``chart`` is what the page needs to draw its axes over time again; see :mod:`grokscope.report.live_charts`.
    """

    title: str
    caption: str
    svg: str
    failure: str = ""
    key: str = ""
    chart: Mapping[str, Any] | None = None
    needs: tuple[str, ...] = ()


def draw_figures(
    probe: Probe, record: Record, prefix: str, *, strict: bool, kept: KeptDrawings | None = None
) -> list[Drawing]:
    """Every figure of ``probe`` whose needs were measured; one of grokscope's own is taken from ``kept``.

    A figure that cannot be drawn becomes a line that says so, unless ``strict`` is set and the probe is one
    of grokscope's own: then its error is raised. Of a run without any weight there is nothing to draw: that is told.
    """
    drawn: list[Drawing] = []
    for position, spec in enumerate(probe.figures, 1):
        if not all(_measured(record, name) for name in spec.needs):
            continue
        key = f"{prefix}-{position}"
        name, chart_name = f"{probe.name}/{key}", f"{probe.name}/{key}/chart"
        mine = kept if is_builtin(probe) else None
        if mine is not None:
            svg, chart = mine.get(name), mine.get(chart_name)
            if svg is not None and chart is not None:
                drawn.append(Drawing(spec.title, spec.caption, svg, "", key, json.loads(chart), spec.needs))
                continue
        try:
            svg, chart = draw_figure(spec, record, key)
        except Exception as error:  # whatever a plug-in's drawing does, the page must stand
            why = _why_nothing(record) if is_builtin(probe) else ""
            if strict and is_builtin(probe) and not why:
                raise
            first = next(iter(str(error).splitlines()), "")
            failure = why or f"{type(error).__name__}: {first}"[:300]
            drawn.append(Drawing(spec.title, spec.caption, "", failure, needs=spec.needs))
            continue
        if mine is not None:
            mine.put(name, svg)
            mine.put(chart_name, json.dumps(chart))
        drawn.append(Drawing(spec.title, spec.caption, svg, "", key, chart, spec.needs))
    return drawn


def _why_nothing(record: Record) -> str:
    """Why a figure may have nothing to show of the whole run; empty where the weights give no reason."""
    sizes = record.get("norm.total")
    if sizes is None or (np.nan_to_num(sizes, nan=0.0, posinf=0.0) > 0).any():
        return ""
    finite = np.isfinite(sizes)
    if not finite.any():
        return "no save has finite weights, so what it shows is not defined."
    where = "at every save" if finite.all() else "at every save that is finite"
    return f"all weights are zero {where}, so what it shows is not defined."


def _measured(record: Record, need: str) -> bool:
    """Whether a name, anything under a prefix, or an instance of a name with ``<placeholders>`` is there."""
    if "<" in need:
        pattern = Quantity(need, "", "")
        return any(pattern.matches(name) for name in record.measurements)
    return bool(record.names(need))


def is_builtin(probe: Probe) -> bool:
    """Whether the probe ships with grokscope."""
    return probe.measure.__module__.split(".")[0] == "grokscope"


def make_figure(spec: FigureSpec, record: Record) -> Figure:
    """The figure drawn in the house style; save it under :func:`~grokscope.probes.drawing.styled`."""
    with styled():
        return _drawn(spec, record)


def _drawn(spec: FigureSpec, record: Record) -> Figure:
    figure = new_figure(spec.size)
    spec.draw(record, figure)
    finish(figure)
    return figure


def figure_svg(spec: FigureSpec, record: Record, prefix: str) -> str:
    """``spec`` drawn from ``record`` as an ``<svg>`` element for inlining; see :func:`draw_figure`."""
    return draw_figure(spec, record, prefix)[0]


def draw_figure(spec: FigureSpec, record: Record, prefix: str) -> tuple[str, dict[str, Any] | None]:
    """``spec`` drawn from ``record`` as an ``<svg>`` element for inlining, and what its time axes show.

    Equal records give equal text. Ids start with ``prefix``, nothing points outside the element, text is
    text, colours of the drawing style are CSS variables with the light theme's colour as a fallback.
    """
    with styled(), matplotlib.rc_context({"svg.hashsalt": "grokscope", "svg.fonttype": "none"}):
        figure = _drawn(spec, record)
        text = _printed(figure)
        if len(text) > MOST_CHARACTERS:
            flatten(figure)
            text = _printed(figure)
        chart = describe(figure, THEME)
    return _inlined(text, prefix, spec.title, spec.caption), chart


def _printed(figure: Figure) -> str:
    written = io.StringIO()
    with warnings.catch_warnings():
        # a letter that the font of the layout lacks is drawn by the reader's own fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _inlined(text: str, prefix: str, title: str, caption: str) -> str:
    root = ElementTree.fromstring(_CONTROL.sub("\ufffd", text))
    referenced = set(_REFERENCE.findall(text))
    referenced |= {e.get(_HREF, "")[1:] for e in root.iter() if e.get(_HREF, "").startswith("#")}
    names = {name: f"{prefix}-{position}" for position, name in enumerate(sorted(referenced), 1)}
    _clean(root, names)
    for sheet in root.findall("g"):
        for part in sheet:  # the page tells the parts of a figure by the groups on this level
            _unwrap(part)
    box = root.get("viewBox", "0 0 576 260")
    width = float(box.split()[2])
    root.attrib.clear()
    root.attrib.update({
        "viewBox": box,
        "class": "figure",
        "data-figure": prefix,
        "style": f"max-width: {width / POINTS_PER_REM:.4g}rem",
        "role": "img",
        "aria-labelledby": f"{prefix}-title {prefix}-desc",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    })  # fmt: skip
    described = ElementTree.Element("desc", {"id": f"{prefix}-desc"})
    described.text = _CONTROL.sub("\ufffd", caption)
    titled = ElementTree.Element("title", {"id": f"{prefix}-title"})
    titled.text = _CONTROL.sub("\ufffd", title)
    root[:0] = [titled, described]
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, names: dict[str, str]) -> None:
    """Drop what a page cannot use, rename ids, shorten numbers, and swap colours for the page's own."""
    element.tag = str(element.tag).removeprefix(_SVG)
    for child in list(element):
        # the style sheet of a file of its own would apply to the whole page; metadata says nothing to it
        if str(child.tag).removeprefix(_SVG) in _KEPT:
            _clean(child, names)
        else:
            if str(child.tag).removeprefix(_SVG) == "a":  # a link's contents stay, the link goes
                _clean(child, names)
                place = list(element).index(child)
                element[place : place + 1] = list(child)
                continue
            element.remove(child)
    target = element.attrib.pop(_HREF, None)
    for key, value in list(element.attrib.items()):
        if key == "id":
            if value.startswith("legend"):
                element.set("class", "legend")  # its texts have no room to grow
            if value in names:
                element.set("id", names[value])
            else:
                del element.attrib["id"]
            continue
        if key.startswith(("{", "on")) or (key == "transform" and _NO_TURN.match(value)):
            del element.attrib[key]
            continue
        value = _REFERENCE.sub(lambda m: f"url(#{names[m[1]]})", value)
        if key in ("style", "fill", "stroke"):
            value = _FONT_FAMILY.sub("", _FONT_SIZE.sub(_font_size, _FONT.sub(_font, value)))
            value = _COLOUR.sub(lambda m: f"var({THEME[m[0]]}, {m[0]})", value)
            if key != "style":  # a variable works in a style only
                del element.attrib[key]
                element.set("style", f"{key}:{value};{element.get('style', '')}".rstrip(";"))
                continue
        if key == "d" and _STRAIGHT.fullmatch(value):
            value = _strokes(value)
        elif key in ("d", "points", "x", "y", "width", "height", "transform"):
            value = " ".join(_NUMBER.sub(_shorter, value).split())
        element.set(key, value.replace("; ", ";").replace(": ", ":") if key == "style" else value)
    if target is not None and target.startswith("#") and target[1:] in names:
        element.set("href", f"#{names[target[1:]]}")
    elif target is not None and target.startswith("data:image/png"):
        element.set("href", target.replace("\n", ""))
    if element.tag not in ("text", "tspan"):
        element.text = (element.text or "").strip() or None
    element.tail = (element.tail or "").strip() or None


def _strokes(path: str) -> str:
    """A path of straight strokes, each point to a tenth of a unit and told from the one before: half the length."""
    written: list[str] = []
    x = y = 0
    for command in _CORNER.finditer(path):
        if command[0] == "z":
            written.append("z")
            continue
        across, down = (round(10 * float(value)) for value in (command[2], command[3]))
        if command[1] == "M":
            written += ["M", _tenths(across), _tenths(down)]
        elif (across, down) != (x, y) or written[-3:-2] == ["M"]:  # a dot is a stroke of no length
            if written[-3:-2] == ["M"] or written[-1:] == ["z"]:
                written.append("l")
            written += [_tenths(across - x), _tenths(down - y)]
        x, y = across, down
    text = ""
    for piece in written:
        apart = text and (text[-1].isdigit()) and (piece[0].isdigit() or piece[0] == ".")
        text += f" {piece}" if apart else piece
    return text


def _tenths(value: int) -> str:
    sign, (whole, rest) = "-" if value < 0 else "", divmod(abs(value), 10)
    return f"{sign}{whole or ''}.{rest}" if rest else f"{sign}{whole}"


def _unwrap(element: ElementTree.Element) -> None:
    """Take the groups that do nothing out of ``element``, keeping what is in them."""
    for child in list(element):
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            place = list(element).index(child)
            element[place : place + 1] = list(child)


def _shorter(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1].strip()}; " if match[1].strip() in ("bold", "600", "700") else ""
    return f"{weight}font-size: {match[2]}px"


def _font_size(match: re.Match[str]) -> str:
    # the page enlarges the text of figures on narrow screens
    return f"font-size: calc({match[1]}px * var(--figure-text, 1))"
