"""The figures of the delay law drawn from our runs, the published points beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.measures.censored import LogLinearFit
from grokscope.probes.drawing import CYCLE, legend
from grokscope.report.figures import Drawing
from grokscope.studies.clamp_grid import Measured, Times
from grokscope.studies.result import drawing

_PUBLISHED = "#6b7280"


def _runs(axes: Axes, x: float, times: Times, colour: str, label: str, *, unmirrored: bool = False) -> None:
    """A dot for each run, an open triangle where it had not grokked within its budget."""
    found = times.unmirrored if unmirrored else times.all_pairs
    done = [crossing.by for crossing in found if crossing.by is not None]
    axes.plot([x] * len(done), done, ".", color=colour, markersize=4, alpha=0.6, label=label)
    waiting = [crossing.after for crossing in found if crossing.by is None and crossing.after is not None]
    axes.plot([x] * len(waiting), waiting, "^", color=colour, markersize=5, fillstyle="none")


def _line(axes: Axes, fit: LogLinearFit, group: int, rho: list[float], colour: str, label: str = "") -> None:
    constant = fit.constants.get(group)
    if constant is not None:
        ends = np.asarray([min(rho), max(rho)])
        axes.plot(ends, np.exp(fit.alpha * ends + constant), color=colour, linewidth=1.4, label=label)


def law_figure(found: Measured, dense: dict[str, Any], p: int) -> Drawing:
    """Grok step against ρ, all pairs and unmirrored ones."""
    rho = sorted(value for modulus, value in found.clamped if modulus == p)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, unmirrored, title in (
            (left, False, "all test pairs"),
            (right, True, "unmirrored test pairs"),
        ):
            for index, value in enumerate(rho):
                label = "a run" if index == 0 else ""
                _runs(axes, value, found.clamped[p, value], CYCLE[0], label, unmirrored=unmirrored)
            _line(axes, found.fit(unmirrored=unmirrored), p, rho, CYCLE[0], "fit")
            axes.set_yscale("log")
            axes.set_title(title)
            axes.set_xlabel("held norm ρ (W_c)")
        shown = [i for i, value in enumerate(dense["rho"]) if value in rho]
        middle, low, high = (np.asarray(dense[name])[shown] for name in ("T_grok_median", "lo", "hi"))
        left.errorbar(
            np.asarray(dense["rho"])[shown] + 0.008, middle, yerr=[middle - low, high - middle], fmt="s",
            markersize=4, color=_PUBLISHED, fillstyle="none", linewidth=1, label="published",
        )  # fmt: skip
        left.set_ylabel("grok step")
        legend(left)

    caption = (
        f"Step at which 90 % of the test pairs are right, p = {p}, with the norm held at ρ·W_c from step 500. Dots are "
        "runs, open triangles runs that had not grokked at the end of their budget; squares, moved aside, are the "
        "published medians with their intervals. The line is the fit to all runs."
    )
    return drawing("Grok step over the held norm", caption, draw, "s1", (7.5, 3.6))


def scan_figure(found: Measured, scan: dict[str, Any]) -> Drawing:
    """Grok step against ρ for every modulus."""
    moduli = sorted({p for p, _ in found.clamped})

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, p in enumerate(moduli):
            colour = CYCLE[index]
            rho = sorted(value for modulus, value in found.clamped if modulus == p)
            for place, value in enumerate(rho):
                shifted = value + 0.006 * (index - len(moduli) / 2)
                _runs(axes, shifted, found.clamped[p, value], colour, f"p = {p}" if place == 0 else "")
            if len(rho) > 1:
                _line(axes, found.fit([p]), p, rho, colour)
            axes.plot(
                scan["rho"], scan["T_grok_median"][str(p)], "s", color=colour, markersize=5, fillstyle="none"
            )
        axes.set_yscale("log")
        axes.set_xlabel("held norm ρ (W_c of that modulus)")
        axes.set_ylabel("grok step")
        legend(axes)

    caption = "Dots are runs, lines the fit of each modulus alone, open squares the published medians."
    return drawing("Grok step over the held norm, by modulus", caption, draw, "s2", (6.4, 4.0))


def critical_norm_figure(found: Measured, theirs: dict[str, float]) -> Drawing:
    """W_c against p."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (p, control) in enumerate(found.controls.items()):
            label = "a run" if index == 0 else ""
            axes.plot(
                [p] * len(control.norms),
                control.norms,
                ".",
                color=CYCLE[0],
                markersize=4,
                alpha=0.6,
                label=label,
            )
        axes.plot([int(p) for p in theirs], list(theirs.values()), "s", color=_PUBLISHED, fillstyle="none",
                  label="published")  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        moduli = list(found.controls)
        axes.set_xticks(moduli, [str(p) for p in moduli])
        axes.minorticks_off()
        axes.set_yticks([40, 50, 60], ["40", "50", "60"])
        axes.set_xlabel("modulus p")
        axes.set_ylabel("norm at the grok step (free run)")
        legend(axes)

    caption = "Norm of the weight matrices at the step at which a free run groks; its median is W_c."
    return drawing("Critical norm over the modulus", caption, draw, "s3", (5.6, 3.6))
