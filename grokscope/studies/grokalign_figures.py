"""Figures of the study ``grokalign``: accuracy, alignment and robustness over steps, and every speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.probes.drawing import CYCLE, NEUTRAL, legend
from grokscope.report.figures import Drawing
from grokscope.studies.grokalign_readings import ALIGNED, NOISE, SHOWN, Reading, Readings
from grokscope.studies.grokalign_rows import speedup
from grokscope.studies.grokalign_runs import BASELINE, Case
from grokscope.studies.result import drawing

Found = Sequence[tuple[Case, Readings]]
WORDS = {
    "accuracy.test": "test accuracy",
    ALIGNED: "largest cosine of a row",
    NOISE: "accuracy under noise",
}
"""Of the series that are shown."""


def course_figure(found: Found) -> Drawing:
    """Test accuracy, alignment and robustness over steps, without and with the penalty, every seed."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(SHOWN), len(found), squeeze=False, sharex="col")
        for column, (case, readings) in enumerate(found):
            for label, colour in ((BASELINE, NEUTRAL), (case.main, CYCLE[1])):
                for place, one in enumerate(readings.get(label, [])):
                    words = ("baseline" if label == BASELINE else "with the penalty") if not place else ""
                    _lines([panels[row, column] for row in range(len(SHOWN))], case, one, colour, words)
            panels[0, column].set_title(case.words, fontsize=9)
            panels[-1, column].set_xlabel("step")
        for row, name in enumerate(SHOWN):
            panels[row, 0].set_ylabel(WORDS[name])
        legend(panels[0, 0])

    caption = (
        "Every seed: test accuracy, the largest cosine of a row of the Jacobian with its input (training samples), and "
        "test accuracy under noise as large as the inputs. A run ends where its test accuracy reaches the stop."
    )
    size = (2.6 * max(2, len(found)), 6.2)
    return drawing("With the penalty and without", caption, draw, "g1", size)


def _lines(panels: Sequence[Axes], case: Case, one: Reading, colour: str, words: str) -> None:
    later = one.saves > 0
    for axes, name in zip(panels, SHOWN, strict=True):
        if name in one.series:
            values = one.series[name][later]
            axes.plot(
                one.saves[later] / case.updates, values, color=colour, linewidth=1.0, alpha=0.8, label=words
            )
        axes.set_xscale("log")


def speed_figure(found: Found) -> Drawing:
    """The speed-up of every method with its interval, by data set."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (case, readings) in zip(panels, found, strict=True):
            labels = [label for label in readings if label != BASELINE]
            for place, label in enumerate(labels):
                if BASELINE not in readings:
                    continue
                ratio = speedup(readings[BASELINE], readings[label])
                if ratio.mean is None:
                    continue
                ends = ratio.interval or (ratio.mean, ratio.mean)
                bound = ratio.unreached or ratio.unreached_baseline
                axes.plot(ends, [place, place], color=CYCLE[0], linewidth=2.5, alpha=0.5)
                axes.plot(ratio.mean, place, "D" if bound else "o", color=CYCLE[0], markersize=5)
            axes.set_yticks(np.arange(len(labels)), labels, fontsize=8)
            axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
            axes.axvline(1, color=NEUTRAL, linewidth=0.8)
            axes.set_xscale("log")
            axes.set_title(case.words, fontsize=9)
            axes.set_xlabel("speed-up in steps")

    caption = (
        "The baseline's steps to the stop over those with each method: geometric mean over seeds with its interval. "
        "Diamonds: some runs did not get there, so that the ratio is a bound."
    )
    return drawing("Speed-up of every method", caption, draw, "g2", (3.2 * max(2, len(found)), 2.8))


def figures_of(found: Found) -> tuple[Drawing, ...]:
    """Both, of the data sets that were run."""
    kept = [(case, readings) for case, readings in found if readings]
    return (course_figure(kept), speed_figure(kept))


def data_of(found: Found, seconds: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    """Run by run, for the page's JSON, from which the study goes on; with the series of those that are drawn."""
    return {
        case.key: {
            "stop": case.stop, "updates_per_step": case.updates, "seconds_per_update": dict(seconds.get(case.key, {})),
            "arms": {
                case.arms()[label].name: {
                    "method": label, "seeds": [one.seed for one in runs],
                    "readings": [one.as_json(whole=label in (BASELINE, case.main)) for one in runs],
                }
                for label, runs in readings.items()
            },
        }
        for case, readings in found
    }  # fmt: skip
