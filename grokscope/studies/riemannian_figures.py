"""Figures of the study ``riemannian``: the slow phase on both clocks, the junction, and the rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from grokscope.probes.drawing import CYCLE, INK
from grokscope.report.figures import Drawing
from grokscope.studies.result import drawing
from grokscope.studies.riemannian_readings import Reading
from grokscope.studies.riemannian_rows import decays_of
from grokscope.studies.riemannian_runs import EXPERIMENTS

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
        figure.legend(
            *panels[0, fullest].get_legend_handles_labels(), loc="outside lower center", ncols=len(every)
        )

    caption = (
        "Norm of the weights' part along the manifold of interpolators, one seed. Above: over time, where the curves "
        "first follow that without decay. Below: over time times decay, where they become one."
    )
    return drawing("Fast and slow phase", caption, draw, "r1", (10.0, 5.0))


def errors_figure(groups: Groups) -> Drawing:
    """The test error over λt, every decay, one seed."""

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(1, len(groups)))
        handles: dict[str, Artist] = {}
        for axes, (words, readings) in zip(panels, groups.items(), strict=True):
            first = min(one.seed for one in readings)
            for place, decay in enumerate(decays_of([one for group in groups.values() for one in group])):
                for one in readings:
                    if (one.seed, one.decay) != (first, decay):
                        continue
                    label = f"λ = {decay:g}"
                    (line,) = axes.plot(
                        decay * one.times[1:], one.error_test[1:], color=CYCLE[place], linewidth=1.2
                    )
                    handles.setdefault(label, line)
                    ends = one.fit_times
                    if ends is not None:
                        at = int(np.searchsorted(one.times, ends[1]))
                        axes.plot(
                            decay * one.times[at], one.error_test[at], "o", color=CYCLE[place], markersize=4
                        )
            axes.axvline(1, color=INK, linewidth=0.6, linestyle=":")
            axes.set_title(words)
            axes.set_xlabel("λt")
            axes.set_xscale("log")
            axes.set_yscale("log")
        panels[0].set_ylabel("test error")
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))

    caption = (
        "Relative squared error on what was not trained on, over time times decay, one seed. Dots: the fit of the "
        "training data. Upright: λt = 1, near which the paper sees the drop."
    )
    return drawing("The drop of the test error", caption, draw, "r3", (10.0, 3.2))


def junction_figure(groups: Groups) -> Drawing:
    """The time of the junction against −ln λ, every run."""

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(1, len(groups)))
        for axes, (words, readings) in zip(panels, groups.items(), strict=True):
            for one in readings:
                ends = one.junction_times
                if ends is None or not one.decay:
                    continue
                x = -math.log(one.decay)
                axes.plot([x, x], ends, color=CYCLE[0], linewidth=3, alpha=0.6)
                if one.exact is not None and one.exact[1] is not None:
                    axes.plot(x, one.exact[1], "_", color=INK, markersize=9)
            for seed in sorted({one.seed for one in readings}):
                known = [
                    (-math.log(one.decay), sum(ends) / 2)
                    for one in readings
                    if one.seed == seed and one.decay and (ends := one.junction_times) is not None
                ]
                axes.plot(*zip(*sorted(known), strict=True), color=CYCLE[0], linewidth=0.6, alpha=0.6)
            axes.set_title(words)
            axes.set_xlabel("−ln λ")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("junction, Σ lr")

    caption = (
        "Time at which the gradient first drops under the decay, as the interval between two saves, a line for "
        "each seed: straight where it goes with −ln λ. Strokes across: the closed form of linear regression."
    )
    return drawing("The junction", caption, draw, "r2", (10.0, 3.0))


def rank_figure(readings: Sequence[Reading]) -> Drawing:
    """The rank of the Jacobian over λt, sparse and low-rank targets beside dense ones."""
    pairs: dict[str, list[str]] = {}
    for name in dict.fromkeys(one.experiment for one in readings):
        pairs.setdefault(EXPERIMENTS[name].kind, []).append(name)

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(1, len(pairs)))
        handles: dict[str, Artist] = {}
        for axes, names in zip(panels, pairs.values(), strict=True):
            for name in names:
                colour = CYCLE[len(handles)]
                for one in readings:
                    if one.experiment != name:
                        continue
                    (line,) = axes.plot(
                        one.decay * one.times[1:], one.rank[1:] / one.rank[0], color=colour, linewidth=1.2
                    )
                    handles.setdefault(EXPERIMENTS[name].words, line)
            axes.set_title(EXPERIMENTS[names[0]].words)
            axes.set_xscale("log")
            axes.set_xlabel("λt")
            axes.set_ylim(0, 1.05)
        panels[0].set_ylabel("rank over that at the start")
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)

    caption = (
        "Rank of the Jacobian of the training outputs, singular values under 1e-8 of the largest left out, every run. "
        "The theory takes it to be constant and so excludes sparse and low-rank targets."
    )
    return drawing("The rank where the target is sparse or of low rank", caption, draw, "r4", (8.0, 3.8))
