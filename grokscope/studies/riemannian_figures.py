"""Figures of the study ``riemannian``: the slow phase on both clocks, and the junction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from grokscope.probes.drawing import CYCLE, INK, legend
from grokscope.report.figures import Drawing
from grokscope.studies.result import drawing
from grokscope.studies.riemannian_readings import Reading
from grokscope.studies.riemannian_rows import decays_of

Groups = Mapping[str, Sequence[Reading]]
"""Words of an experiment → its runs."""


def phases_figure(groups: Groups) -> Drawing:
    """‖P w‖ over t and over λt, every decay, one seed."""
    every = [*decays_of([one for group in groups.values() for one in group]), 0.0]

    def draw(figure: Figure) -> None:
        panels = np.atleast_2d(figure.subplots(2, len(groups), squeeze=False, sharey="col"))
        for column, (words, readings) in enumerate(groups.items()):
            first = min(one.seed for one in readings)
            for place, decay in enumerate(every):
                for one in readings:
                    if (one.seed, one.decay) != (first, decay) or len(one.times) < 2:
                        continue
                    colour, label = CYCLE[place], f"λ = {decay:g}"
                    panels[0, column].plot(
                        one.times[1:], one.tangents[1:], color=colour, linewidth=1.2, label=label
                    )
                    if decay:
                        panels[1, column].plot(
                            decay * one.times[1:], one.tangents[1:], color=colour, linewidth=1.2
                        )
            panels[0, column].set_title(words)
            panels[0, column].set_xlabel("t = Σ lr")
            panels[1, column].set_xlabel("λt")
            for row in range(2):
                panels[row, column].set_xscale("log")
        for row in range(2):
            panels[row, 0].set_ylabel("‖P w‖")
        # the experiment that was run at the most decays has a line of each
        fullest = int(np.argmax([len(panels[0, column].get_lines()) for column in range(len(groups))]))
        figure.legend(*panels[0, fullest].get_legend_handles_labels(), loc="outside right upper")

    caption = (
        "Norm of the weights' part along the manifold of interpolators, one seed. Above: over time, where the curves "
        "first follow that without decay. Below: over time times decay, where they become one."
    )
    return drawing("Fast and slow phase", caption, draw, "r1", (10.0, 4.6))


def junction_figure(groups: Groups) -> Drawing:
    """The time of the junction against −ln λ, every run."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (words, readings) in enumerate(groups.items()):
            label = words
            for one in readings:
                ends = one.junction_times
                if ends is None or not one.decay:
                    continue
                x = -math.log(one.decay)
                axes.plot([x, x], ends, color=CYCLE[place], linewidth=3, alpha=0.6, label=label)
                label = ""
                if one.exact is not None and one.exact[1] is not None:
                    axes.plot(x, one.exact[1], "_", color=INK, markersize=9)
        axes.set_xlabel("−ln λ")
        axes.set_ylabel("junction, Σ lr")
        axes.set_ylim(bottom=0)
        legend(axes)

    caption = (
        "Time at which the gradient first drops under the decay, as the interval between two saves, every run; strokes "
        "across: the closed form of linear regression."
    )
    return drawing("The junction", caption, draw, "r2", (6.5, 3.6))
