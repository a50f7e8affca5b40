"""The figures of the logit scale, drawn from our runs with the published points beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing
from grokscope.probes.drawing import CYCLE, legend
from grokscope.report.figures import Drawing
from grokscope.studies.logit_scale_cells import BASE, RAISED, Cell, Panel
from grokscope.studies.result import drawing

_PUBLISHED = "#6b7280"


def _dots(axes: Axes, x: float, found: tuple[Crossing, ...], colour: str, label: str = "") -> None:
    """A dot for each run, an open triangle where it had not grokked within its budget."""
    done = [crossing.by for crossing in found if crossing.by is not None]
    axes.plot([x] * len(done), done, ".", color=colour, markersize=4, alpha=0.6, label=label)
    waiting = [crossing.after for crossing in found if crossing.by is None and crossing.after is not None]
    axes.plot([x] * len(waiting), waiting, "^", color=colour, markersize=5, fillstyle="none")


def _curve(axes: Axes, cells: list[Cell], colour: str) -> None:
    """A line through the medians that are known."""
    known = [(cell.scale, cell.median.value) for cell in cells if cell.median.value is not None]
    if known:
        scales, times = zip(*sorted(known), strict=True)
        axes.plot(scales, times, color=colour, linewidth=1.2)


def mediation_figure(panels: Mapping[int, Panel], theirs: Mapping[str, Any]) -> Drawing:
    """Grok step over the effective logit scale: the raised norm at each temperature, and the baseline."""

    def draw(figure: Figure) -> None:
        axes_of = np.atleast_1d(figure.subplots(1, len(panels)))
        for axes, (p, panel) in zip(axes_of, panels.items(), strict=True):
            raised = [panel.cells[RAISED, tau] for tau in panel.temperatures]
            for index, cell in enumerate(raised):
                label = f"ρ = {RAISED:g}" if index == 0 else ""
                _dots(axes, cell.scale, cell.times.all_pairs, CYCLE[0], label)
            _curve(axes, raised, CYCLE[0])
            base = panel.cells[BASE]
            _dots(axes, base.scale, base.times.all_pairs, CYCLE[1], "ρ = 1, τ = 1")
            axes.axvline(base.scale, color=CYCLE[1], linewidth=0.8, linestyle=":")
            printed = theirs[str(p)]
            axes.plot([*printed["L"], printed["L0"]], [*printed["T"], printed["T0"]], "s", color=_PUBLISHED,
                      markersize=4, fillstyle="none", label="published")  # fmt: skip
            axes.set_title(f"p = {p}")
            axes.set_xlabel("effective logit scale L")
        axes_of[0].set_ylabel("grok step")
        legend(axes_of[-1])

    caption = (
        f"The norm is held at {RAISED:g} W_c and the logits are divided by τ, which falls to the right. Dots are "
        "runs at the mean logit scale of their arm, the line runs through the medians, squares are the "
        "published medians. Where the line crosses the dotted one the logit scale is that of the baseline."
    )
    return drawing(
        "Grok step over the logit scale", caption, draw, "s1", (3.4 * max(1, len(panels)) + 1.4, 3.6)
    )


def collapse_figure(panels: Mapping[int, Panel]) -> Drawing:
    """Grok step of every cell of the ρ × τ grid, over L and over ρ."""

    def draw(figure: Figure) -> None:
        axes_of = np.atleast_2d(figure.subplots(len(panels), 2, sharey="row"))
        for (left, right), (p, panel) in zip(axes_of, panels.items(), strict=True):
            held = sorted({rho for rho, _ in panel.cells if rho >= BASE[0]})
            for (rho, _), cell in panel.cells.items():
                value = cell.median.value
                if rho not in held or value is None:
                    continue
                colour = CYCLE[held.index(rho) % len(CYCLE)]
                for axes, x in ((left, cell.scale), (right, rho)):
                    axes.plot([x], [value], "o", color=colour, markersize=4)
            for index, rho in enumerate(held):
                right.plot([], [], "o", color=CYCLE[index % len(CYCLE)], markersize=4, label=f"ρ = {rho:g}")
            for axes in (left, right):
                axes.set_yscale("log")
                axes.set_title(f"p = {p}")
            left.set_xlabel("effective logit scale L")
            right.set_xlabel("held norm ρ (W_c)")
            left.set_ylabel("median grok step")
            legend(right)

    caption = "Medians over seeds of every cell of norm and temperature: on the left they fall on one line, if they do."
    return drawing("Collapse on the logit scale", caption, draw, "s2", (7.5, 3.2 * max(1, len(panels))))


def law_on_norm_figure(panels: Mapping[int, Panel]) -> Drawing:
    """Grok step against the held norm for every modulus."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (p, panel) in enumerate(sorted(panels.items())):
            for place, (rho, cell) in enumerate(panel.law_cells().items()):
                label = f"p = {p}" if place == 0 else ""
                norm = rho * panel.control.critical_norm
                _dots(axes, norm, cell.times.all_pairs, CYCLE[index % len(CYCLE)], label)
        axes.set_yscale("log")
        axes.set_xlabel("held norm")
        axes.set_ylabel("grok step")
        legend(axes)

    return drawing(
        "Grok step over the held norm, by modulus",
        "Dots are runs at a temperature of one.",
        draw,
        "s3",
        (6.4, 4.0),
    )
