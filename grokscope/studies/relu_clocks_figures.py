"""The figures of the ReLU network: ranks, the drop of the test loss, gates and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from grokscope.probes.drawing import CYCLE, NEUTRAL, legend, step_label, thin
from grokscope.report.figures import Drawing
from grokscope.studies.relu_readings import MAPS, Reading
from grokscope.studies.relu_rows import Found, Printed, median_time
from grokscope.studies.result import drawing

Series = Callable[[Reading], tuple[np.ndarray, np.ndarray]]


def _colours(found: Found) -> dict[float, str]:
    return {decay: CYCLE[index % len(CYCLE)] for index, decay in enumerate(sorted(found.main))}


def _over_steps(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("training step")
    axes.xaxis.set_major_formatter(FuncFormatter(step_label))


def _curves(axes: Axes, found: Found, values: Series) -> None:
    """A line for each run of the main grid, coloured by decay, from the first step on."""
    for decay, colour in _colours(found).items():
        for index, reading in enumerate(found.main[decay]):
            steps, y = values(reading)
            keep = thin(len(steps))
            keep = keep[steps[keep] >= 30]
            axes.plot(
                steps[keep], y[keep], color=colour, linewidth=1.0, alpha=0.85,
                label=f"decay {decay:g}" if index == 0 else "",
            )  # fmt: skip


def rank_figure(found: Found, told: Printed) -> Drawing:
    """Stable rank of every map over steps."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(3, 3, sharex=True)
        for index, ((name, words), axes) in enumerate(zip(MAPS.items(), grid.ravel(), strict=True)):
            _over_steps(axes)
            if index < 6:
                axes.set_xlabel("")
            axes.set_title(words, fontsize=9)
            if found.p == told.p:
                axes.axhspan(*told.ranks, color=NEUTRAL, alpha=0.2, linewidth=0)
                axes.axhline(told.rank, color=NEUTRAL, linewidth=0.9, linestyle="--")
            _curves(axes, found, lambda r, of=name: (r.steps, r.ranks[of]))
            axes.set_ylim(bottom=0)
            if index % 3 == 0:
                axes.set_ylabel("stable rank")
        legend(grid[0, 2])

    caption = "Stable rank of every map that may be the published one, a line for each run."
    if found.p == told.p:
        caption += " Dashed and grey: the published values at the beginning and at the end of its fall."
    return drawing("Stable rank of every map", caption, draw, "s11", (8.6, 6.6))


def drop_figure(found: Found, told: Printed) -> Drawing:
    """When the training loss is flat and the test loss falls, over the decay."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        marks = (("flat", CYCLE[0], "training loss flat"), ("half", CYCLE[1], "test loss halved"),
                 ("grok", CYCLE[2], "95 % of the test pairs right"))  # fmt: skip
        for event, colour, words in marks:
            label = words
            for decay, some in found.main.items():
                for reading in some:
                    crossing = getattr(reading.clocks, event)
                    reached = crossing.by is not None
                    place = crossing.by if reached else reading.steps[-1]
                    axes.plot([decay], [place], "." if reached else "^", color=colour, label=label,
                              fillstyle="full" if reached else "none", markersize=6)  # fmt: skip
                    label = ""
            middles = [median_time(some, event).value for some in found.main.values()]
            shown = [np.nan if middle is None else middle for middle in middles]
            axes.plot(list(found.main), shown, color=colour, linewidth=1.0)
        for decay, some in found.main.items():
            for reading in some:
                start, end = reading.clocks.start.by, reading.clocks.end.by
                if start is not None and end is not None:
                    axes.plot([decay, decay], [start, end], color=CYCLE[1], linewidth=4, alpha=0.15)
        if found.p == told.p:
            axes.axhspan(*told.drop, color=NEUTRAL, alpha=0.15, linewidth=0, label="published drop")
            axes.axhline(told.fit, color=NEUTRAL, linewidth=0.9, linestyle="--", label="published fit")
        axes.set_yscale("log")
        axes.set_xlabel("weight decay")
        axes.set_ylabel("training step")
        legend(axes)

    caption = (
        "The two clocks over the weight decay, a dot for each run and a line through medians; an open triangle at the "
        "last step where a run did not get there. The pale bar is the fall of the test loss from 90 to 10 % of its "
        "largest value."
    )
    return drawing("The two clocks over the weight decay", caption, draw, "s12", (6.8, 4.0))


def gates_figure(found: Found) -> Drawing:
    """How long patterns hold, and head over embedding, over steps."""

    def held(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        return reading.steps - reading.weighed.reference, reading.weighed.held

    def same(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        return reading.steps - reading.weighed.reference, reading.weighed.same

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3)
        _since(left, found, held)
        left.set_ylabel("share of training pairs")
        left.set_title("whole pattern held", fontsize=9)
        _since(middle, found, same)
        middle.set_ylabel("share of gates")
        middle.set_title("gates as they were", fontsize=9)
        _over_steps(right)
        right.set_yscale("log")
        right.axhline(1, color=NEUTRAL, linewidth=0.9, linestyle="--")
        _curves(right, found, lambda r: (r.steps, r.ratios[""]))
        right.set_ylabel("‖g‖ of head / embedding")
        right.set_title("gradients", fontsize=9)
        legend(right)

    caption = (
        "Left: training pairs whose whole activation pattern has been, at every save since, the one they had when "
        "the training loss became flat. Middle: single gates that are as they were then. Right: norm of the gradient "
        "of the head over that of the embedding."
    )
    return drawing("Frozen patterns, and head over embedding", caption, draw, "s13", (8.8, 3.2))


def _since(axes: Axes, found: Found, values: Series) -> None:
    for decay, colour in _colours(found).items():
        for reading in found.main[decay]:
            x, y = values(reading)
            axes.plot(x[x >= 0], y[x >= 0], ".-", color=colour, linewidth=0.8, markersize=2.5, alpha=0.85)
    axes.set_xscale("symlog", linthresh=10, linscale=0.4)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("steps since the flat training loss")
    axes.xaxis.set_major_formatter(FuncFormatter(step_label))
