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

from grokscope.probes import Crossing
from grokscope.probes.dense import Series, counted
from grokscope.probes.drawing import CYCLE, TEST, TRAIN, legend, thin, time_axes
from grokscope.probes.record import Record
from grokscope.probes.registry import FigureSpec
from grokscope.report.comparison import FEWEST
from grokscope.report.figures import THEME, Drawing, figure_svg
from grokscope.report.subjects import Group, Subject

MOST_COLOURS = len(CYCLE)
_LONGEST_NAME = 28
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.2, 1.4), (6, 1.5, 1.2, 1.5))
"""Dashes and gaps in widths of the line; the first is a full one."""
END_TO_END = ("product", "token_to_logit", "mean_active", "neuron_logit", "direct", "embedding")
"""Maps from inputs to outputs, the most complete first; the embedding where nothing else is shared."""


@dataclass(frozen=True)
class Style:
    """How the curves of a group are drawn."""

    colour: str
    dash: tuple[float, ...]

    @property
    def stroke(self) -> str:
        """The colour in CSS: the variable of the page that takes its place, where it has one."""
        return f"var({THEME[self.colour]}, {self.colour})" if self.colour in THEME else self.colour

    @property
    def dasharray(self) -> str:
        """The dash of an SVG line two units wide; empty for a full one."""
        return " ".join(f"{2 * length:g}" for length in self.dash)


@dataclass(frozen=True)
class Panels:
    """One figure of a comparison: drawings side by side under one caption."""

    title: str
    caption: str
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True)
class _Panel:
    title: str
    ylabel: str
    series: Callable[[Subject], Series | None]
    log: bool = False
    unit_range: bool = False


def compare_figures(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Panels]:
    """The figures of a comparison: what the log holds, what probes measured in every run, and the events."""
    wanted = [
        (
            "Accuracy",
            "Share of samples answered right, of those trained on and of all others.",
            [_Panel("training", "accuracy", _dense("accuracy.train"), unit_range=True),
             _Panel("test", "accuracy", _dense("accuracy.test"), unit_range=True)],
        ),
        (
            "Loss",
            "Mean loss over the same samples.",
            [_Panel("training", "loss", _dense("loss.train"), log=True),
             _Panel("test", "loss", _dense("loss.test"), log=True)],
        ),
    ]  # fmt: skip
    measured = _measured_panels(subjects)
    for start in range(0, len(measured), 2):
        pair = measured[start : start + 2]
        wanted.append((" and ".join(p.title for p in pair), "Measured at every save.", pair))
    made: list[Panels] = []
    count = 0
    for title, caption, panels in wanted:
        drawings: list[Drawing] = []
        for panel in panels:
            if any(panel.series(s) is not None for s in subjects):
                count += 1
                shown = f"{title}: {panel.title}" if len(panels) > 1 else title
                drawings.append(_drawn(shown, caption, _curves(panel, subjects, groups), count, (5.3, 3.4)))
        if drawings:
            made.append(Panels(title[:1].upper() + title[1:], caption, tuple(drawings)))
    caption = (
        "Each bar spans the steps between which the event lies, the mark standing at the first evaluation from "
        "which it holds: a dot for fit, a diamond for grok. An open triangle: not seen by that step."
    )
    size = (7.5, min(1.5 + 0.3 * len(subjects), 16.0))
    drawing = _drawn("Fit and grok", caption, _events(subjects), count + 1, size)
    made.append(Panels(drawing.title, caption, (drawing,)))
    return made


def _drawn(
    title: str, caption: str, draw: Callable[[Record, Figure], None], number: int, size: tuple[float, float]
) -> Drawing:
    nothing = Record("", np.zeros(0, np.int64))
    return Drawing(title, caption, figure_svg(FigureSpec(title, caption, draw, size), nothing, f"c{number}"))


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


def styles(groups: Sequence[Group]) -> list[Style]:
    """The style of each group: told apart by colour and dash, up to eight; beyond, shades in their order."""
    if len(groups) <= MOST_COLOURS:
        return [Style(CYCLE[i], DASHES[i % len(DASHES)]) for i in range(len(groups))]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.25, 0.9, len(groups)))
    return [Style(to_hex(shade), DASHES[i % len(DASHES)]) for i, shade in enumerate(shades)]


def drawn_groups(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Group]:
    """What gets a colour: settings where there are several of them with seeds, else single runs."""
    if len(groups) == 1 and len(subjects) <= MOST_COLOURS:
        return [Group(s.name, (s,)) for s in subjects]
    return list(groups)


def has_medians(drawn: Sequence[Group]) -> bool:
    """Whether the curves of some group are drawn thin, under their median."""
    return any(len(group.members) >= FEWEST for group in drawn)


def _curves(
    panel: _Panel, subjects: Sequence[Subject], groups: Sequence[Group]
) -> Callable[[Record, Figure], None]:
    drawn = drawn_groups(subjects, groups)
    steps = np.unique(np.concatenate([s.record.steps for s in subjects]))

    def draw(record: Record, figure: Figure) -> None:
        (axes,) = time_axes(figure, Record("", steps))
        axes.set_title(panel.title)
        axes.set_ylabel(panel.ylabel)
        if panel.log:
            axes.set_yscale("log")
        medians: list[tuple[Series, Style]] = []
        for group, style in zip(drawn, styles(drawn), strict=True):
            found = [series for m in group.members if (series := panel.series(m)) is not None]
            middle = _median_line(found)
            for series in found:
                _line(axes, series, style, panel.log, faint=middle is not None)
            if middle is not None:
                medians.append((middle, style))
        for middle, style in medians:  # above every run
            _line(axes, middle, style, panel.log, faint=False)
        if panel.unit_range:
            axes.set_ylim(-0.03, 1.03)

    return draw


def _line(axes: Axes, found: Series, style: Style, log: bool, *, faint: bool) -> None:
    steps, values = found
    if log:
        values = np.where(values > 0, values, np.nan)
    keep = thin(len(steps))
    dash: Any = "-" if faint or not style.dash else (0, style.dash)
    width, alpha = (0.8, 0.55) if faint else (1.6, 1.0)
    marker = "o" if np.isfinite(values[keep]).sum() == 1 else ""
    axes.plot(
        steps[keep], values[keep], color=style.colour, linestyle=dash, linewidth=width, alpha=alpha,
        marker=marker, markersize=4, clip_on=not marker,
    )  # fmt: skip


def _median_line(series: Sequence[Series]) -> Series | None:
    """The median over three runs or more, where all were evaluated at the same steps."""
    if len(series) < FEWEST or any(not np.array_equal(series[0][0], steps) for steps, _ in series):
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
        axes.set_yticks(range(len(subjects)), [_short(s.name) for s in subjects])
        axes.set_ylim(len(subjects) - 0.4, -0.6)
        axes.grid(False, axis="y")
        legend(axes)

    return draw


def _short(name: str) -> str:
    """A name that leaves the axes their room; its ends are what tells runs apart."""
    return (
        name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 :]}"
    )


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
