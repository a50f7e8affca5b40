"""Figures of the linear classifiers: their clocks and their smallest margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from grokscope.probes.drawing import CYCLE, legend
from grokscope.report.figures import Drawing
from grokscope.studies.result import drawing

if TYPE_CHECKING:
    from grokscope.studies.classification_clocks import Reading

_STYLES = ("-", "--", ":")
_TITLES = {"gd": "gradient descent", "adamw": "Adam"}


def _panels(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """By optimiser, one seed of each setting: the first."""
    found: dict[str, list[Reading]] = {}
    first = min((one.seed for one in readings), default=0)
    for one in readings:
        if one.seed == first:
            found.setdefault(one.setting.optimizer, []).append(one)
    return found


def _look(one: Reading, panel: Sequence[Reading]) -> dict[str, str]:
    depths = sorted({other.setting.depth for other in panel})
    decays = sorted({other.setting.decay for other in panel})
    return {
        "color": CYCLE[depths.index(one.setting.depth)],
        "linestyle": _STYLES[decays.index(one.setting.decay) % len(_STYLES)],
        "label": f"L = {one.setting.depth}, decay {one.setting.decay:g}",
    }


def clock_figure(readings: Sequence[Reading], levels: Sequence[float] | None = None) -> Drawing:
    """T_cls against 1/ε."""
    from grokscope.studies.classification_clocks import LEVELS

    inverse = 1 / np.asarray(LEVELS if levels is None else levels)

    def draw(figure: Figure) -> None:
        panels = _panels(readings)
        for axes, (optimizer, panel) in zip(
            np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
        ):
            for one in panel:
                there = [
                    (x, (crossing.after + crossing.by) / 2)
                    for x, crossing in zip(inverse, one.crossings, strict=True)
                    if crossing.by is not None and crossing.after is not None
                ]
                if there:
                    x, y = zip(*there, strict=True)
                    axes.plot(x, y, linewidth=1.2, **_look(one, panel))
            axes.set_xscale("log")
            if optimizer == "gd":
                axes.set_yscale("log")
            axes.set_title(_TITLES[optimizer])
            axes.set_xlabel("1/ε")
            axes.set_ylabel("T_cls(ε), step")
            legend(axes)

    caption = (
        "Step from which the training loss stays at or below ε, one seed. Logarithmic time against 1/ε on the left, "
        "where a power is a straight line; linear time on the right, where a logarithm is."
    )
    return drawing("The classifier's clock of deep linear nets", caption, draw, "c1", (8.0, 3.8))


def margin_figure(readings: Sequence[Reading]) -> Drawing:
    """Smallest training margin against the step, with the stretch over which it grows straight."""

    def draw(figure: Figure) -> None:
        panels = _panels(readings)
        for axes, (optimizer, panel) in zip(
            np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
        ):
            for one in panel:
                look = _look(one, panel)
                axes.plot(np.maximum(one.saves, 1), one.margins, linewidth=1.0, **look)
                if one.growth.window is not None:
                    inside = (one.saves >= one.growth.window[0]) & (one.saves <= one.growth.window[1])
                    axes.plot(
                        one.saves[inside], one.margins[inside], color=look["color"], linewidth=3, alpha=0.35
                    )
            axes.axhline(0, color="#6b7280", linewidth=0.6)
            if optimizer == "gd":
                axes.set_xscale("log")
            axes.set_title(_TITLES[optimizer])
            axes.set_xlabel("step")
            axes.set_ylabel("smallest training margin")
            legend(axes)

    caption = (
        "Smallest margin of a training sample, one seed. Thick: the stretch from its first positive save on over which "
        "it grows along one straight line. Without decay gradient descent goes on as the logarithm of time."
    )
    return drawing("The smallest margin of deep linear nets", caption, draw, "c2", (8.0, 3.8))
