"""Curves and events of several runs in one axis, in the house style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing
from grokscope.probes.dense import Series, counted
from grokscope.probes.drawing import CYCLE, TEST, TRAIN, legend, thin, time_axes
from grokscope.probes.record import Record
from grokscope.probes.registry import FigureSpec
from grokscope.report.figures import Drawing, figure_svg
from grokscope.report.subjects import Group, Subject

MOST_COLOURS = len(CYCLE)
DASHES: tuple[object, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
END_TO_END = ("product", "token_to_logit", "mean_active", "neuron_logit", "direct", "embedding")
"""Maps from inputs to outputs, the most complete first; the embedding where nothing else is shared."""


@dataclass(frozen=True)
class _Panel:
    title: str
    ylabel: str
    series: Callable[[Subject], Series | None]
    log: bool = False
    unit_range: bool = False


def compare_figures(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Drawing]:
    """The figures of a comparison: what the log holds, what probes measured in every run, and the events."""
    panels = [
        (
            "Accuracy",
            "Share of pairs answered right, on the pairs trained on and on all others.",
            [_Panel("training", "accuracy", _dense("accuracy.train"), unit_range=True),
             _Panel("test", "accuracy", _dense("accuracy.test"), unit_range=True)],
        ),
        (
            "Loss",
            "Mean loss over the same pairs.",
            [_Panel("training", "loss", _dense("loss.train"), log=True),
             _Panel("test", "loss", _dense("loss.test"), log=True)],
        ),
    ]  # fmt: skip
    measured = _measured_panels(subjects)
    for start in range(0, len(measured), 2):
        pair = measured[start : start + 2]
        panels.append((" and ".join(p.title for p in pair), "Measured at every save.", pair))
    made: list[Drawing] = []
    for title, caption, held in panels:
        kept = [panel for panel in held if any(panel.series(s) is not None for s in subjects)]
        if kept:
            shown = title[:1].upper() + title[1:]
            made.append(
                _drawn(
                    shown,
                    caption + _legend_note(drawn_groups(subjects, groups)),
                    _curves(kept, subjects, groups),
                    len(made),
                    3.7,
                )
            )
    height = min(1.5 + 0.3 * len(subjects), 16.0)
    made.append(
        _drawn(
            "Fit and grok",
            "Each bar spans the steps between which the event lies, the mark standing at the first evaluation "
            "from which it holds: a dot for fit, a diamond for grok. An open triangle: not seen by that step.",
            _events(subjects), len(made), height,
        )
    )  # fmt: skip
    return made


def _drawn(
    title: str, caption: str, draw: Callable[[Record, Figure], None], position: int, height: float
) -> Drawing:
    spec = FigureSpec(title, caption, draw, (9.0, height))
    nothing = Record("", np.zeros(0, np.int64))
    return Drawing(title, caption, figure_svg(spec, nothing, f"c{position + 1}"))


def _dense(name: str) -> Callable[[Subject], Series | None]:
    return lambda subject: subject.dense.get(name)


def _saved(name: str) -> Callable[[Subject], Series | None]:
    def series(subject: Subject) -> Series | None:
        values = subject.record.get(name)
        return None if values is None else (subject.record.steps, values.astype(np.float64))

    return series


def end_to_end(subjects: Sequence[Subject]) -> str | None:
    """The most complete map whose effective rank every subject has."""
    for name in END_TO_END:
        if all(f"spectra.{name}.effective_rank" in s.record.measurements for s in subjects):
            return name
    return None


def _measured_panels(subjects: Sequence[Subject]) -> list[_Panel]:
    """Series over saves that every subject has, of those that matter."""
    wanted = [("norm.total", "weight norm", "Frobenius norm", False)]
    if (name := end_to_end(subjects)) is not None:
        shown = name.replace("_", " ")
        wanted.append(
            (f"spectra.{name}.effective_rank", f"effective rank ({shown})", "effective rank", False)
        )
    wanted += [
        ("fourier.embedding.gini", "Fourier concentration of the embedding", "Gini coefficient", False),
        ("gradients.head_over_embedding", "head over embedding gradient", "ratio of norms", True),
        ("regions.local_complexity", "local complexity", "gates", False),
        ("logits.norm", "norm of the logits", "norm (logit)", False),
    ]
    return [
        _Panel(title, ylabel, _saved(name), log)
        for name, title, ylabel, log in wanted
        if all(
            name in s.record.measurements and s.record.measurements[name].dims == ("step",) for s in subjects
        )
    ]


def styles(groups: Sequence[Group]) -> list[tuple[str, object]]:
    """(colour, dash) of each group: told apart by both, up to eight; beyond, shades in their order."""
    if len(groups) <= MOST_COLOURS:
        return [(CYCLE[i], DASHES[i % len(DASHES)]) for i in range(len(groups))]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.25, 0.9, len(groups)))
    return [(to_hex(shade), DASHES[i % len(DASHES)]) for i, shade in enumerate(shades)]


def drawn_groups(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Group]:
    """What gets a colour: settings where there are several of them with seeds, else single runs."""
    if len(groups) == 1 and len(subjects) <= MOST_COLOURS:
        return [Group(s.name, (s,)) for s in subjects]
    return list(groups)


def _legend_note(groups: Sequence[Group]) -> str:
    """``groups`` are those that are drawn."""
    if any(len(group.members) >= 3 for group in groups):
        return " Thin lines are runs; a thick one is the median over the seeds of a setting."
    return ""


def _curves(
    panels: Sequence[_Panel], subjects: Sequence[Subject], groups: Sequence[Group]
) -> Callable[[Record, Figure], None]:
    coloured = drawn_groups(subjects, groups)
    medians = [group for group in coloured if len(group.members) >= 3]
    faint = medians_members(medians)
    steps = np.unique(np.concatenate([s.record.steps for s in subjects]))

    def draw(record: Record, figure: Figure) -> None:
        every = time_axes(figure, Record("", steps), len(panels))
        for axes, panel in zip(every, panels, strict=True):
            axes.set_title(panel.title)
            axes.set_ylabel(panel.ylabel)
            if panel.log:
                axes.set_yscale("log")
            for group, (colour, dash) in zip(coloured, styles(coloured), strict=True):
                for member in group.members:
                    found = panel.series(member)
                    if found is not None:
                        first = member is group.members[0] and group not in medians
                        label = group.label if first else None
                        _line(axes, found, colour, dash, panel.log, member in faint, label)
            for group in medians:
                colour, dash = _style_of(group, coloured)
                middle = _median_line([panel.series(m) for m in group.members])
                if middle is not None:
                    label = group.label if len(coloured) > 1 else "median"
                    _line(axes, middle, colour, dash, panel.log, False, label)
            if panel.unit_range:
                axes.set_ylim(-0.03, 1.03)
        if len(coloured) <= 2 * MOST_COLOURS:
            legend(every[-1])

    return draw


def medians_members(groups: Sequence[Group]) -> list[Subject]:
    """Every member of the groups whose median is drawn."""
    return [member for group in groups for member in group.members]


def _style_of(group: Group, coloured: Sequence[Group]) -> tuple[str, object]:
    return styles(coloured)[next(i for i, other in enumerate(coloured) if other is group)]


def _line(
    axes: Axes, found: Series, colour: str, dash: object, log: bool, faint: bool, label: str | None
) -> None:
    steps, values = found
    if log:
        values = np.where(values > 0, values, np.nan)
    keep = thin(len(steps))
    width, alpha = (0.8, 0.55) if faint else (1.6, 1.0)
    axes.plot(
        steps[keep], values[keep], color=colour, linestyle="-" if faint else dash, linewidth=width, alpha=alpha,
        label=label,
    )  # fmt: skip


def _median_line(found: Sequence[Series | None]) -> Series | None:
    """The median over runs where all were evaluated at the same steps."""
    series = [one for one in found if one is not None]
    if len(series) < 3 or any(not np.array_equal(series[0][0], steps) for steps, _ in series):
        return None
    values = np.stack([values for _, values in series])
    defined = np.isfinite(values).all(axis=0)
    return series[0][0], np.where(defined, np.median(np.where(defined, values, 0.0), axis=0), np.nan)


def _events(subjects: Sequence[Subject]) -> Callable[[Record, Figure], None]:
    steps = np.unique(np.concatenate([s.record.steps for s in subjects]))

    def draw(record: Record, figure: Figure) -> None:
        (axes,) = time_axes(figure, Record("", steps))
        labelled: set[str] = set()
        for lane, subject in enumerate(subjects):
            last = int(subject.record.steps[-1])
            axes.plot(
                [int(subject.record.steps[0]), last], [lane, lane], color="#9ca3af", linewidth=0.6, alpha=0.6
            )
            grok = counted(subject.record)[0]
            for name, colour, marker in (("fit", TRAIN, "o"), (grok, TEST, "D")):
                event = subject.record.events.get(name)
                if event is None:
                    continue
                label = "grok" if name == grok else "fit"
                _mark(axes, event, lane, last, colour, marker, None if label in labelled else label)
                labelled.add(label)
        axes.set_yticks(range(len(subjects)), [s.name for s in subjects])
        axes.set_ylim(len(subjects) - 0.4, -0.6)
        axes.grid(False, axis="y")
        legend(axes)

    return draw


def _mark(
    axes: Axes, event: Crossing, lane: int, last: int, colour: str, marker: str, label: str | None
) -> None:
    if event.by is None:
        open_end: dict[str, Any] = {
            "marker": ">",
            "markersize": 6,
            "markerfacecolor": "none",
            "linestyle": "none",
        }
        axes.plot([last], [lane], color=colour, clip_on=False, **open_end)
        return
    low = event.by if event.after is None else event.after
    axes.plot([low, event.by], [lane, lane], color=colour, linewidth=4.5, alpha=0.45, solid_capstyle="butt")
    axes.plot([event.by], [lane], marker=marker, markersize=5, color=colour, linestyle="none", label=label)
