"""Two clocks in deep linear matrix completion: the fit does not wait for the decay, the rank does.

Layerwise decay acts on the product A as (decay L / 2) sum sigma(A)^{2/L} once the layers are balanced (arXiv
2606.05863). Time is the sum of learning rates; multiplied by the decay it is the clock of the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grokscope.studies.deep_linear_figures import clocks_figure, flow_figure, spectrum_figure
from grokscope.studies.deep_linear_findings import (
    depth_findings,
    flow_findings,
    init_findings,
    long_findings,
    tolerance_findings,
)
from grokscope.studies.deep_linear_flow import TOLERANCE, FlowReading, read_flow
from grokscope.studies.deep_linear_readings import Reading, read_completion
from grokscope.studies.deep_linear_rows import (
    IDENTITY,
    ends_of,
    fit_rows,
    identity_row,
    level_row,
    middle,
    rank_rows,
    rate_rows,
    shown,
    tail_row,
)
from grokscope.studies.part import Part
from grokscope.studies.result import Interval, Row
from grokscope.studies.sweep import Arm, Bench, Log, Scale
from grokscope.training import read_recipe

RECIPE = "deep-linear"
RATE = 0.05
SPAN = 8.0
"""Σ lr times the decay at the end of a run: layers that see no gradient have shrunk by e^-8."""
LONG = 40.0
"""The same for the runs that show how two layers end."""
DENSE_FROM = 0.2
"""The same product from which weights are saved densely in logarithm."""
FLOWS = 3
"""Seeds whose flow is integrated."""


@dataclass(frozen=True)
class Setting:
    """What the runs of one arm have in common."""

    depth: int
    decay: float
    rate: float = RATE
    init: float = 1.0
    span: float = SPAN

    @property
    def is_plain(self) -> bool:
        """Whether nothing but depth and decay was changed."""
        return (self.rate, self.init, self.span) == (RATE, 1.0, SPAN)


@dataclass(frozen=True)
class Grid:
    """Which runs: every depth with every decay, and single settings besides."""

    depths: tuple[int, ...]
    decays: tuple[float, ...]
    seeds: tuple[int, ...]
    varied: tuple[Setting, ...] = ()
    at: tuple[int, float] = (3, 0.03)
    d: int = 30
    saves: int = 150

    def arm(self, setting: Setting) -> Arm:
        """Runs of one setting."""
        last = round(setting.span / (setting.rate * setting.decay))
        early = min(200, last // 2)
        dense = max(round(DENSE_FROM / setting.span * last), early)
        saves = round(self.saves * (1 + 0.4 * (setting.span > SPAN)))
        overrides = [
            f"task.d={self.d}", f"model.depth={setting.depth}", f"train.weight_decay={setting.decay:g}",
            f"train.steps={last}", f"save.schedule=['0:{early}:5', 'log:{dense}:end:{saves}']",
            f"save.evaluate=['0:{early}:1', 'log:{early}:end:400']", f"save.snapshots={last}",
        ]  # fmt: skip
        name = f"two-clocks.completion.L{setting.depth}.wd{setting.decay:g}"
        if self.d != 30:
            name += f".d{self.d}"
        for word, field, value, usual in (
            ("lr", "train.lr", setting.rate, RATE), ("init", "model.init_scale", setting.init, 1.0),
        ):  # fmt: skip
            if value != usual:
                overrides.append(f"{field}={value:g}")
                name += f".{word}{value:g}"
        if setting.span != SPAN:
            name += f".span{setting.span:g}"
        return Arm(name, RECIPE, tuple(overrides), self.seeds)

    def arms(self) -> dict[Setting, Arm]:
        """Every setting with its runs."""
        settings = [Setting(depth, decay) for depth in self.depths for decay in self.decays]
        return {setting: self.arm(setting) for setting in (*settings, *self.varied)}


def grid_of(scale: Scale) -> Grid:
    """One decade of decays and three seeds, or two decades and eight."""
    varied = (Setting(3, 0.03, rate=0.025), Setting(3, 0.03, init=0.7), Setting(2, 0.03, span=LONG))
    if scale == "small":
        return Grid((2, 3, 4), (0.003, 0.01, 0.03), (0, 1, 2), varied)
    more = (*varied, Setting(3, 0.03, init=1.4))
    return Grid((2, 3, 4), (0.001, 0.003, 0.01, 0.03, 0.1), tuple(range(8)), more)


@dataclass(frozen=True, eq=False)
class Measured:
    """Every run by its setting, and the flows: once, and some with a tenth of the tolerance."""

    runs: dict[Setting, list[Reading]]
    flows: list[FlowReading]
    finer: list[FlowReading]

    def where(self, *, plain: bool) -> list[Reading]:
        """Those in which nothing but depth and decay was changed, or the others."""
        return [one for setting, group in self.runs.items() for one in group if setting.is_plain is plain]


def deep_linear_part(bench: Bench) -> Part:
    """Completion over depth and decay, the theory's own flow beside it."""
    grid = grid_of(bench.scale)
    return assemble(grid, measure_completions(bench, grid), bench.scale)


def measure_completions(bench: Bench, grid: Grid) -> Measured:
    """Train what is missing, read all of it, and integrate the flows at the decay at which things were varied."""
    arms = grid.arms()
    bench.train_arms(list(arms.values()))
    runs: dict[Setting, list[Reading]] = {setting: [] for setting in arms}
    logs = [(setting, log) for setting, arm in arms.items() for log in bench.logs(arm)]
    units = [(log, bench.used[log.name]) for _, log in logs]
    for (setting, _), one in zip(logs, bench.read("reading completions", _read, units), strict=True):
        runs[setting].append(one)
    beside = [
        _Flow(one, grid.arm(setting).overrides)
        for setting in (Setting(depth, grid.at[1]) for depth in grid.depths)
        for one in runs.get(setting, [])[:FLOWS]
    ]
    finer = [
        replace(flow, tolerance=1e-4)
        for flow in beside
        if (flow.trained.depth, flow.trained.seed) == (grid.at[0], grid.seeds[0])
    ]
    # the finer take the longest: they go first
    found = bench.read("integrating flows", _integrate, [*finer, *beside])
    return Measured(runs, found[len(finer) :], found[: len(finer)])


def _read(unit: tuple[Log, Path]) -> Reading:
    return read_completion(*unit)


@dataclass(frozen=True, eq=False)
class _Flow:
    """The flow beside one run, whose task the ``overrides`` of its recipe say."""

    trained: Reading
    overrides: tuple[str, ...]
    tolerance: float = TOLERANCE


def _integrate(flow: _Flow) -> FlowReading:
    task, _ = read_recipe(RECIPE, flow.overrides, flow.trained.seed).build()
    return read_flow(flow.trained, task, flow.tolerance)


def assemble(grid: Grid, found: Measured, scale: Scale) -> Part:
    """Rows, findings and figures from what was measured."""
    plain = found.where(plain=True)
    by_depth = {depth: [one for one in plain if one.depth == depth] for depth in grid.depths}
    long = [one for setting, group in found.runs.items() if setting.span > SPAN for one in group]
    usual = [one for setting, group in found.runs.items() if setting.span == SPAN for one in group]
    rows = [row for depth, group in by_depth.items() for row in fit_rows(depth, group)]
    rows += [row for depth, group in by_depth.items() for row in rank_rows(depth, group)]
    rows += rate_rows(grid.at, usual)
    rows += [identity_row(depth, group) for depth, group in by_depth.items()]
    for depth, group in by_depth.items():
        rows.append(tail_row(depth, group, [one for one in long if one.depth == depth]))
    rows.append(level_row(plain))
    findings = [one for depth, group in by_depth.items() for one in depth_findings(depth, group)]
    findings += long_findings(long)
    findings += init_findings(grid.at, usual)
    for depth in grid.depths:
        findings += flow_findings([flow for flow in found.flows if flow.depth == depth], plain)
    findings += tolerance_findings(found.flows, found.finer)
    ticks = {
        depth: ends_of([middle(one.ticks(one.rank)) for one in group]) for depth, group in by_depth.items()
    }
    return Part(
        rows=tuple(rows),
        sentence=sentence_of(rows, ticks, found.flows),
        findings=tuple(findings),
        figures=(clocks_figure(plain), spectrum_figure(plain, grid.at[1]), flow_figure(found.flows)),
        chosen=_chosen(grid),
        left_out="" if scale == "full" else
        "Completion at this scale: one decade of decays of two, three seeds of eight, one other initial scale of two.",
        data={
            "completion": [one.as_json() for group in found.runs.values() for one in group],
            "flow": [one.as_json() for one in (*found.flows, *found.finer)],
        },
    )  # fmt: skip


def _chosen(grid: Grid) -> str:
    return (
        f"Completion: a {grid.d} × {grid.d} matrix of rank 2 from half its entries, loss ½ Σ over observed entries, "
        f"gradient descent at rate {RATE:g} with decoupled decay, float64, Gaussian weights of variance 1/d, runs up "
        f"to Σ lr × decay = {SPAN:g}. Fitted: relative squared error 1e-2; rank reached: effective rank (Roy and "
        "Vetterli) at most 1.25 times that of the target. The flow on the product has the same energy, beginning and "
        "time; it is integrated with an implicit step of the penalty, without a smoothing at zero. Rate and initial "
        f"scale are varied at L = {grid.at[0]}, decay {grid.at[1]:g}."
    )


def sentence_of(rows: Sequence[Row], ticks: dict[int, Interval], flows: Sequence[FlowReading]) -> str:
    """What the page says first of this part."""
    constants = ", ".join(f"{shown(ends)} at L = {depth}" for depth, ends in ticks.items())
    said = f"Matrix completion: the rank comes at steps × lr × decay = {constants}; "
    clocks = [row for row in rows if row.quantity.startswith(("fit clock", "rank clock"))]
    kept = sum(row.verdict == "agrees" for row in clocks)
    if kept == len(clocks):
        said += "neither that nor the fit depends on the decay."
    else:
        said += f"in {kept} of {len(clocks)} comparisons over a decade the clock is as the theory has it"
        said += "".join(f"; {words}" for words in _exceptions(clocks)) + "."
    worst = max((flow.distance for flow in flows if flow.depth > 2), default=None)
    if worst is not None:
        met = "ends where the factors end" if worst < IDENTITY else "ends elsewhere"
        said += f" The flow on the product {met} for more than two layers, on another way."
    return said


def _exceptions(clocks: Sequence[Row]) -> list[str]:
    """What does not agree, once for all depths: the quantity, the verdict, and how far it moves."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in clocks:
        if row.verdict != "agrees":
            moved = found.setdefault((row.quantity.split(", largest")[0], row.verdict), [])
            if isinstance(row.ours, float):
                moved.append(row.ours)
    return [
        f"{words}: {verdict}" + (f", {shown((min(moved), max(moved)))} times" if moved else "")
        for (words, verdict), moved in found.items()
    ]
