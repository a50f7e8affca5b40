"""The classifier's clock of deep linear nets: is T_cls(ε) logarithmic in 1/ε, and where its premises hold?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from grokscope.measures.classification import margin
from grokscope.measures.clocks import (
    ClockFit,
    Contraction,
    Growth,
    classifier_clock,
    fit_clock,
    gap_growth,
    tail_contraction,
)
from grokscope.measures.crossings import Crossing
from grokscope.runs import open_run
from grokscope.studies.classification_figures import clock_figure, margin_figure
from grokscope.studies.part import Part
from grokscope.studies.premises import KEPT, kept_rate, logarithmic_verdict
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Interval, Row
from grokscope.studies.sweep import Arm, Bench, Log, Scale

RECIPE = "linear-classifier"
FIT, HOLD = 0.99, 3
LEVELS = 10.0 ** (-np.arange(4, 25) / 4)
"""ε from 0.1, which every run passes after it is fitted, down to the training loss that the paper reports."""
Premise = Literal["holds", "fails", "not reached"]


@dataclass(frozen=True)
class Setting:
    """How the classifiers of one arm are trained."""

    depth: int
    optimizer: str
    decay: float
    rate: float
    init: float = 1.0

    def label(self) -> str:
        """As rows name it."""
        return f"{'Adam' if self.optimizer == 'adamw' else 'gradient descent'}, decay {self.decay:g}"


@dataclass(frozen=True)
class Grid:
    """Which runs. ``varied`` are further (rate, initial scale) of gradient descent without decay at three layers."""

    depths: tuple[int, ...]
    decays: dict[str, tuple[float, ...]]
    steps: dict[str, int]
    seeds: tuple[int, ...]
    varied: tuple[tuple[float, float], ...] = ()
    extra: tuple[str, ...] = ()

    def arm(self, setting: Setting) -> Arm:
        """The runs of one setting."""
        last = self.steps[setting.optimizer]
        overrides = [
            f"model.depth={setting.depth}", f"train.optimizer={setting.optimizer}", f"train.lr={setting.rate:g}",
            f"train.weight_decay={setting.decay:g}", f"model.init_scale={setting.init:g}", f"train.steps={last}",
            f"save.snapshots={last}",
        ]  # fmt: skip
        name = f"two-clocks.classes.L{setting.depth}.{setting.optimizer}.wd{setting.decay:g}.n{last}"
        if setting.rate != RATES[setting.optimizer] or setting.init != 1.0:
            name += f".lr{setting.rate:g}.init{setting.init:g}"
        return Arm(name, RECIPE, (*overrides, *self.extra), self.seeds)

    def arms(self) -> dict[Setting, Arm]:
        """Every setting with its runs."""
        settings = [
            Setting(depth, optimizer, decay, RATES[optimizer])
            for optimizer, decays in self.decays.items()
            for decay in decays
            for depth in self.depths
        ]
        settings += [Setting(3, "gd", 0.0, rate, init) for rate, init in self.varied]
        return {setting: self.arm(setting) for setting in settings}


RATES = {"gd": 0.1, "adamw": 1e-3}


def grid_of(scale: Scale) -> Grid:
    """Two seeds and a short descent, or eight and a long one."""
    varied = ((0.05, 1.0), (0.1, 0.5))
    if scale == "small":
        decays = {"gd": (0.0, 0.01), "adamw": (0.0, 0.1)}
        return Grid((2, 3, 4), decays, {"gd": 20_000, "adamw": 3000}, (0, 1), varied)
    decays = {"gd": (0.0, 0.001, 0.01), "adamw": (0.0, 0.01, 0.1)}
    return Grid((2, 3, 4), decays, {"gd": 100_000, "adamw": 3000}, tuple(range(8)), varied)


@dataclass(frozen=True, eq=False)
class Reading:
    """One classifier: its clock, the premises of the logarithmic clock, and over which steps they hold."""

    setting: Setting
    seed: int
    fit: Crossing
    crossings: tuple[Crossing, ...]
    clock: ClockFit
    late_power: float | None
    growth: Growth
    contraction: Contraction | None
    growth_kept: float | None
    contraction_kept: float | None
    final_loss: float
    saves: np.ndarray
    margins: np.ndarray

    @property
    def premise(self) -> Premise:
        """Margin growth or contraction at a rate that does not fade over the levels."""
        kept = [value for value in (self.growth_kept, self.contraction_kept) if value is not None]
        if not kept:
            return "not reached"
        return "holds" if max(kept) >= KEPT else "fails"

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the series."""
        power, logarithmic = self.clock.power, self.clock.logarithmic
        return {
            "depth": self.setting.depth, "optimizer": self.setting.optimizer, "decay": self.setting.decay,
            "lr": self.setting.rate, "init_scale": self.setting.init, "seed": self.seed,
            "fit": self.fit.as_json(), "T_cls": [crossing.as_json() for crossing in self.crossings],
            "preferred": self.clock.preferred, "delta_aic": self.clock.delta_aic,
            "logarithmic_slope": None if logarithmic is None else logarithmic.slope,
            "logarithmic_r_squared": None if logarithmic is None else logarithmic.r_squared,
            "power_slope": None if power is None else power.slope,
            "power_r_squared": None if power is None else power.r_squared,
            "late_power": self.late_power, "censored": self.clock.censored,
            "nu": None if self.growth.line is None else self.growth.line.slope, "nu_window": self.growth.window,
            "mu": None if self.contraction is None else self.contraction.mu,
            "mu_window": None if self.contraction is None else self.contraction.window,
            "growth_kept": self.growth_kept, "contraction_kept": self.contraction_kept, "premise": self.premise,
            "final_loss": self.final_loss,
        }  # fmt: skip


def smallest_margins(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and smallest training margins at the saves of a run of features."""
    run = open_run(directory)
    inputs, targets = run.task.inputs[run.task.train_mask], run.task.targets[run.task.train_mask]
    weights = {name: torch.from_numpy(run.trajectory.read(name)).double() for name in run.trajectory.names}
    logits = run.model.forward(weights, inputs)
    return run.trajectory.steps, margin(logits, targets).amin(-1).numpy()


def read_classifier(
    setting: Setting, log: Log, saves: np.ndarray, margins: np.ndarray, levels: np.ndarray = LEVELS
) -> Reading:
    """Everything about one run, from its log and its smallest margins."""
    losses = log.scalars["loss.train"]
    fit = log.reached("accuracy.train", FIT, HOLD)
    crossings = classifier_clock(log.steps, losses, levels, HOLD)
    there = [crossing.by for crossing in crossings if crossing.by is not None]
    growth_kept = contraction_kept = late = None
    if len(there) >= 4:
        growth_kept = kept_rate(saves, margins, there[0], there[-1])
        contraction_kept = kept_rate(log.steps, -np.log(losses), there[0], there[-1])
    reached = [place for place, crossing in enumerate(crossings) if crossing.by is not None]
    if len(reached) >= 5:
        kept = reached[-5:]
        power = fit_clock(levels[kept], [crossings[place] for place in kept]).power
        late = None if power is None else power.slope
    return Reading(
        setting, log.seed, fit, tuple(crossings), fit_clock(levels, crossings), late,
        gap_growth(saves, margins, HOLD),
        None if fit.by is None else tail_contraction(log.steps, losses, fit.by),
        growth_kept, contraction_kept, float(losses[-1]), saves, margins,
    )  # fmt: skip


def measure_classifiers(bench: Bench, grid: Grid) -> list[Reading]:
    """Train what is missing and read all of it."""
    arms = grid.arms()
    bench.train_arms(list(arms.values()))
    units = [(setting, log, bench.used[log.name]) for setting, arm in arms.items() for log in bench.logs(arm)]
    return bench.read("reading classifiers", _read, units)


def _read(unit: tuple[Setting, Log, Path]) -> Reading:
    setting, log, directory = unit
    return read_classifier(setting, log, *smallest_margins(directory))


def classification_part(bench: Bench) -> Part:
    """Classifiers trained by gradient descent and by Adam, with and without decay."""
    grid = grid_of(bench.scale)
    readings = measure_classifiers(bench, grid)
    plain = [
        one for one in readings if one.setting.rate == RATES[one.setting.optimizer] and one.setting.init == 1
    ]
    rows = tuple(
        clock_row([one for one in plain if (one.setting.optimizer, one.setting.decay) == (optimizer, decay)])
        for optimizer, decays in grid.decays.items()
        for decay in decays
    )
    return Part(
        rows=rows,
        sentence=_sentence(plain),
        findings=tuple(_findings(plain, readings)),
        figures=(clock_figure(plain), margin_figure(plain)),
        chosen=(
            "Classification: six Gaussian classes in 20 dimensions, means at distance 1 along three axes, 120 training "
            f"samples, full batch, float64; ε from {LEVELS[0]:g} to {LEVELS[-1]:g}, the loss that the paper reports. "
            "A premise of the logarithmic clock (the smallest margin grows at a rate ν, or the loss contracts at a "
            f"rate μ) counts as holding where its mean rate over the later half of the steps between the first and "
            f"the last level is at least {KEPT:g} of that over the earlier half. Gradient descent at rate "
            f"{RATES['gd']:g}, Adam at {RATES['adamw']:g}, whose growth ends where gradients come down to its eps."
        ),
        left_out="" if bench.scale == "full" else
        "Classification at this scale: two seeds of eight, 20 000 of 100 000 steps of gradient descent, two of three "
        "decays.",
        data={"classification": [one.as_json() for one in readings]},
    )  # fmt: skip


def clock_row(readings: Sequence[Reading]) -> Row:
    """The conditional claim beside runs of one optimiser and decay.

    *Agrees*: where a premise holds the logarithmic clock is preferred, in every run that can be told. *Differs*: the
    power is preferred in every such run. *Cannot tell*: the premises fail in most runs, or runs are of both kinds.
    """
    theory = published("two_clocks")["theory"]["classifier_clock"]
    counted = [one for one in readings if one.premise == "holds" and one.clock.preferred != "cannot tell"]
    verdict = logarithmic_verdict([one.clock.preferred for one in counted], len(readings))
    said, interval = _preferred(readings)
    held = sum(one.premise == "holds" for one in readings)
    note = f"a premise holds over the levels in {held} of {len(readings)} runs"
    failed = [one for one in readings if one.premise == "fails"]
    if failed:
        kept = [max(v for v in (one.growth_kept, one.contraction_kept) if v is not None) for one in failed]
        note += f"; where it fails the rates fade to {_ends(kept, 2)} of what they were"
    if not counted:
        note += "; the claim says nothing about such runs"
    censored = sum(one.clock.censored for one in readings)
    if censored:
        floor = max(one.final_loss for one in readings)
        note += (
            f"; {censored} of {sum(one.clock.levels for one in readings)} levels not reached (loss at most "
        )
        note += f"{floor:.2g} at the end)"
    return Row(
        f"T_cls(ε), {readings[0].setting.label()}, {_depths(readings)} layers",
        theory,
        said,
        interval,
        verdict,
        note,
    )


def _preferred(readings: Sequence[Reading]) -> tuple[str, Interval | None]:
    """Which clock, in how many runs, with its slope; the interval is the range of that slope over runs."""
    kinds = [one.clock.preferred for one in readings]
    most = max(("logarithmic", "power", "cannot tell"), key=kinds.count)
    said = f"{most} in {kinds.count(most)} of {len(kinds)} runs"
    chosen = [one.clock for one in readings if one.clock.preferred == most]
    if most == "cannot tell":
        return said, None
    lines = [line for clock in chosen if (line := getattr(clock, most)) is not None]
    slopes = [line.slope for line in lines]
    fits = [line.r_squared for line in lines if line.r_squared is not None]
    middle = float(np.median(slopes))
    what = f"{middle:.3g} steps for a factor e in ε" if most == "logarithmic" else f"T ∝ ε^-{middle:.2f}"
    quality = f", R² at least {math.floor(1000 * min(fits)) / 1000:.3f}" if fits else ""
    return f"{said}: {what}{quality}", (min(slopes), max(slopes))


def _findings(plain: Sequence[Reading], readings: Sequence[Reading]) -> list[Finding]:
    found = []
    for optimizer in dict.fromkeys(one.setting.optimizer for one in plain):
        for decay in dict.fromkeys(one.setting.decay for one in plain if one.setting.optimizer == optimizer):
            group = [one for one in plain if (one.setting.optimizer, one.setting.decay) == (optimizer, decay)]
            label = group[0].setting.label()
            grown = [
                (one.setting.depth, one.growth.line.slope, one.growth.window)
                for one in group
                if one.growth.line is not None and one.growth.window is not None
            ]
            held = [
                (one.setting.depth, one.contraction.mu, one.contraction.window)
                for one in group
                if one.contraction is not None
                and one.contraction.mu is not None
                and one.contraction.window is not None
            ]
            if grown:
                found.append(_rate_finding(f"gap-growth rate ν, {label}", "logit a step", grown, len(group)))
            if held:
                found.append(_rate_finding(f"contraction μ, {label}", "a step", held, len(group)))
    found += _decay_findings(plain)
    late = [one for one in plain if one.setting.optimizer == "gd" and one.setting.decay == 0]
    powers = [one.late_power for one in late if one.late_power is not None]
    if powers:
        found.append(
            Finding("exponent of T in 1/ε over the last decade reached, gradient descent without decay",
                    float(np.median(powers)), (min(powers), max(powers)),
                    "median and range over runs; 1 is the clock of one layer", 3)
        )  # fmt: skip
    for setting in dict.fromkeys(one.setting for one in readings if one not in plain):
        group = [one for one in readings if one.setting == setting]
        said, interval = _preferred(group)
        found.append(
            Finding(f"T_cls(ε), gradient descent at rate {setting.rate:g}, initial scale {setting.init:g}, "
                    f"{setting.depth} layers", said, interval, "another choice of what was not published")
        )  # fmt: skip
    return found


def _rate_finding(
    name: str, unit: str, rates: Sequence[tuple[int, float, tuple[int, int]]], runs: int
) -> Finding:
    """A rate that holds over a window: over all runs, and depth by depth with the window of the first."""
    values = [rate for _, rate, _ in rates]
    said = []
    for depth in sorted({depth for depth, _, _ in rates}):
        mine = [(rate, window) for d, rate, window in rates if d == depth]
        (begin, end) = mine[0][1]
        said.append(f"L = {depth}: {np.median([rate for rate, _ in mine]):.3g} over steps {begin} to {end}")
    return Finding(
        name, float(np.median(values)), (min(values), max(values)),
        f"{unit}, median and range over {len(rates)} of {runs} runs; {', '.join(said)}", 3,
    )  # fmt: skip


def _decay_findings(plain: Sequence[Reading]) -> list[Finding]:
    """T at the last level with decay over T without, seed by seed."""
    found = []
    for optimizer in dict.fromkeys(one.setting.optimizer for one in plain):
        free = {
            (one.setting.depth, one.seed): one.crossings[-1].by
            for one in plain
            if one.setting.optimizer == optimizer and one.setting.decay == 0
        }
        for decay in sorted(
            {one.setting.decay for one in plain if one.setting.optimizer == optimizer} - {0.0}
        ):
            group = [one for one in plain if (one.setting.optimizer, one.setting.decay) == (optimizer, decay)]
            pairs = [(one.crossings[-1].by, free.get((one.setting.depth, one.seed))) for one in group]
            ratios = [a / b for a, b in pairs if a is not None and b is not None]
            if ratios:
                found.append(
                    Finding(f"T_cls({LEVELS[-1]:g}) with decay {decay:g} over without, {group[0].setting.label()}",
                            float(np.median(ratios)), (min(ratios), max(ratios)),
                            f"matched seeds, {len(ratios)} of {len(group)} pairs reach the level", 3)
                )  # fmt: skip
    return found


def _sentence(plain: Sequence[Reading]) -> str:
    holds = [one for one in plain if one.premise == "holds"]
    fails = [one for one in plain if one.premise == "fails"]
    logs = sum(one.clock.preferred == "logarithmic" for one in holds)
    powers = sum(one.clock.preferred == "power" for one in fails)
    return (
        f"Linear classifiers: the clock of the loss is logarithmic in {logs} of {len(holds)} runs whose margin or loss "
        f"keeps its rate, and a power in {powers} of {len(fails)} whose rate fades."
    )


def _depths(readings: Sequence[Reading]) -> str:
    depths = sorted({one.setting.depth for one in readings})
    return f"{depths[0]} to {depths[-1]}" if len(depths) > 1 else str(depths[0])


def _ends(values: Sequence[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}g}", f"{max(values):.{digits}g}"
    return low if low == high else f"{low} to {high}"
