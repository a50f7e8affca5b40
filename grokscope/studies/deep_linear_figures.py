"""Figures of matrix completion: both clocks over the decay, the spectrum, and the theory's own flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from grokscope.probes.drawing import CYCLE, legend
from grokscope.report.figures import Drawing
from grokscope.studies.result import drawing

if TYPE_CHECKING:
    from grokscope.studies.deep_linear_flow import FlowReading
    from grokscope.studies.deep_linear_readings import Reading

SHOWN = 6
"""Singular values drawn."""


def clocks_figure(readings: Sequence[Reading]) -> Drawing:
    """Fit and rank step against 1/(lr × decay), and T_cls against 1/ε."""
    from grokscope.studies.deep_linear_readings import LEVELS

    depths = sorted({one.depth for one in readings})

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for place, depth in enumerate(depths):
            group = [one for one in readings if one.depth == depth]
            for marker, event, label in (("o", "rank", "rank"), ("x", "fit", "fit")):
                points = [
                    (1 / (one.rate * one.decay), crossing.by)
                    for one in group
                    if (crossing := getattr(one, event)).by is not None
                ]
                if points:
                    left.plot(*zip(*points, strict=True), marker, color=CYCLE[place], markersize=4, fillstyle="none",
                              label=f"{label}, L = {depth}")  # fmt: skip
        left.set_xlabel("1 / (lr × decay)")
        left.set_ylabel("step")
        left.set_xscale("log")
        left.set_yscale("log")
        legend(left)
        first = min(one.seed for one in readings)
        decays = sorted({one.decay for one in readings})
        ends = (decays[0], decays[-1])
        for place, depth in enumerate(depths):
            for decay, style in zip(ends, ("-", "--"), strict=True):
                for one in readings:
                    if (one.depth, one.decay, one.seed) == (depth, decay, first):
                        there = [
                            (1 / e, c.by)
                            for e, c in zip(LEVELS, one.crossings, strict=True)
                            if c.by is not None
                        ]
                        if there:
                            right.plot(*zip(*there, strict=True), style, color=CYCLE[place], linewidth=1.2,
                                       label=f"L = {depth}, decay {decay:g}")  # fmt: skip
        right.set_xscale("log")
        right.set_xlabel("1/ε, relative squared error on observed entries")
        right.set_ylabel("T_cls(ε), step")
        legend(right)

    caption = (
        "Left: the step of the fit and the step at which the rank is reached, every run. Right: the step from which "
        "the error on observed entries stays at or below ε, at the smallest and the largest decay, one seed."
    )
    return drawing("Two clocks of matrix completion", caption, draw, "d1", (8.0, 3.8))


def spectrum_figure(readings: Sequence[Reading], decay: float) -> Drawing:
    """Singular values of the product, and the balance gap."""
    first = min(one.seed for one in readings)
    shown = [one for one in readings if (one.seed, one.decay) == (first, decay)]

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(1, len(shown) + 1))
        for axes, one in zip(panels[:-1], shown, strict=True):
            ticks = one.decay * one.times
            for place in range(min(SHOWN, one.sigma.shape[1])):
                axes.plot(
                    ticks,
                    np.maximum(one.sigma[:, place], 1e-12),
                    color=CYCLE[place % len(CYCLE)],
                    linewidth=1,
                )
            if one.rank.by is not None:
                axes.axvline(
                    one.rank.by * one.rate * one.decay, color="#6b7280", linewidth=0.8, linestyle=":"
                )
            axes.set_yscale("log")
            axes.set_title(f"L = {one.depth}")
            axes.set_xlabel("Σ lr × decay")
        panels[0].set_ylabel("singular values of the product")
        for place, one in enumerate(shown):
            panels[-1].plot(one.decay * one.times, np.maximum(one.gaps, 1e-12), color=CYCLE[place], linewidth=1.2,
                            label=f"L = {one.depth}")  # fmt: skip
        panels[-1].set_yscale("log")
        panels[-1].set_title("balance gap")
        panels[-1].set_xlabel("Σ lr × decay")
        legend(panels[-1])

    caption = (
        f"The largest {SHOWN} singular values at decay {decay:g}, one seed; dotted, where the rank is reached. "
        "Right: summed squared norms less L Σσ^(2/L), over the summed squared norms."
    )
    return drawing("Singular values and balance", caption, draw, "d2", (9.0, 3.4))


def flow_figure(flows: Sequence[FlowReading]) -> Drawing:
    """Singular values and effective rank of the flow on the product beside those of the factors."""
    first = min(one.seed for one in flows)
    shown = [one for one in flows if one.seed == first]

    def draw(figure: Figure) -> None:
        panels = np.atleast_2d(figure.subplots(2, len(shown), sharex="col", squeeze=False))
        for column, one in enumerate(shown):
            top, bottom = panels[0, column], panels[1, column]
            for place in range(min(SHOWN, one.sigma.shape[1])):
                colour = CYCLE[place % len(CYCLE)]
                top.plot(one.ticks, one.trained_sigma[:, place], color=colour, linewidth=1)
                top.plot(one.ticks, one.sigma[:, place], "--", color=colour, linewidth=1)
            top.set_yscale("symlog", linthresh=1e-3)
            top.set_title(f"L = {one.depth}")
            bottom.plot(one.ticks, one.trained_ranks, color=CYCLE[0], linewidth=1.2, label="factors")
            bottom.plot(
                one.ticks, one.ranks, "--", color=CYCLE[1], linewidth=1.2, label="flow on the product"
            )
            bottom.set_xlabel("Σ lr × decay")
        panels[0, 0].set_ylabel("singular values")
        panels[1, 0].set_ylabel("effective rank")
        legend(panels[1, -1])

    caption = (
        "Gradient flow of the same energy on the product (dashed) beside the trained factors (solid), from the same "
        "weights and in the same time, one seed. Singular values are linear below 0.001: those of the flow reach zero."
    )
    return drawing("The theory's own flow beside the factors", caption, draw, "d3", (9.0, 5.2))
