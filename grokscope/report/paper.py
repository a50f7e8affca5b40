"""A run's figures as files for a paper: the report's own drawings, by matplotlib, without a date in them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from grokscope.errors import GrokscopeError, nearest
from grokscope.probes.drawing import styled
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import FigureSpec, Probe, registered
from grokscope.report.figures import is_builtin, make_figure
from grokscope.report.formatting import slug

FORMATS = ("pdf", "svg", "png")
PNG_DPI = 300


def write_figures(
    record: Record, out: Path, *, kind: str = "pdf", only: Sequence[str] = ()
) -> tuple[list[Path], list[str]]:
    """Write every figure of the record's probes to the folder ``out`` as ``<probe>-<title>.<kind>``.

    Equal records give equal bytes.

    Args:
        kind: ``pdf``, ``svg`` or ``png`` (300 dots an inch, on white).
        only: probes whose figures are written; by default all that ran.

    Returns:
        the files, and a line for each figure of a plug-in that could not be drawn.

    Raises:
        GrokscopeError: an unknown format or probe, no figure at all, or a folder that cannot be written.
    """
    if kind not in FORMATS:
        raise GrokscopeError(
            f"writing figures of {record.run}: the format {kind!r} was given, expected {', '.join(FORMATS)}"
        )
    known = registered()
    ran = [name for name in dict.fromkeys(record.probes) if name in known]
    for name in only:
        if name not in ran:
            raise GrokscopeError(
                f"writing figures of {record.run}: the probe {name!r} was given, expected some of "
                f"{', '.join(ran)}{nearest(name, ran)}"
            )
    drawable = [(known[n], s) for n in only or ran for s in known[n].figures if _measured(record, s)]
    if not drawable:
        raise GrokscopeError(
            f"writing figures of {record.run}: nothing that {', '.join(only or ran) or 'no probe'} measured can "
            "be drawn, expected measurements of at least one figure"
        )
    written: list[Path] = []
    failed: list[str] = []
    for probe, spec in drawable:
        path = out / f"{_stem(probe, spec, written)}.{kind}"
        try:
            figure = make_figure(spec, record)
            _save(figure, path, kind)
        except OSError as error:
            raise GrokscopeError(
                f"writing figures of {record.run}: {path} cannot be written ({error.strerror}), expected a "
                "writable folder"
            ) from None
        except Exception as error:  # a plug-in's drawing may do anything; the others must still be written
            if is_builtin(probe):
                raise
            first = next(iter(str(error).splitlines()), "")
            failed.append(f"drawing {spec.title!r} of {probe.name}: {type(error).__name__}: {first}"[:300])
            continue
        written.append(path)
    return written, failed


def _stem(probe: Probe, spec: FigureSpec, written: Sequence[Path]) -> str:
    stem = f"{slug(probe.name)}-{slug(spec.title).lower()}"
    taken = [path.stem for path in written]
    number = 1
    while (candidate := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return candidate


def _measured(record: Record, spec: FigureSpec) -> bool:
    """Whether all that the figure needs is there, as the report decides it."""
    return all(
        any(Quantity(need, "", "").matches(name) for name in record.measurements)
        if "<" in need
        else bool(record.names(need))
        for need in spec.needs
    )


def _save(figure: Figure, path: Path, kind: str) -> None:
    """Save under a temporary name, then move: without dates, under ids that follow from the drawing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    options: Any = {"svg.hashsalt": "grokscope", "svg.fonttype": "none", "pdf.fonttype": 42}
    try:
        with styled(), matplotlib.rc_context(options), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            if kind == "pdf":
                FigureCanvasPdf(figure).print_pdf(
                    temporary, metadata={"CreationDate": None, "Producer": None}
                )
            elif kind == "svg":
                FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None, "Creator": None})
            else:
                figure.set_dpi(PNG_DPI)
                figure.set_facecolor("white")
                FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
