"""The runs behind the logit scale (arXiv 2606.18465): the norm held at ρ·W_c, the logits divided by τ.

The setting is that of the delay law with decay applied after the Adam update and an evaluation every 25 steps. A
part is one modulus under one loss: free controls that fix its W_c, and cells (ρ, τ) of the same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from grokscope.measures.censored import MedianInterval, as_bounds, median_interval
from grokscope.measures.crossings import Crossing
from grokscope.studies.clamp_grid import Control, Grid, Times, control
from grokscope.studies.sweep import Arm, Bench, Log, Scale, UnfinishedError

LOGITS = "logits.norm"
BASE = (1.0, 1.0)
"""(ρ, τ) of the baseline."""
RAISED = 1.15
"""ρ of the arms that the temperature has to bring back."""
HOLD = 21
"""Evaluations for which a run goes on after its grok step: 500 steps, so that the median seed's step is logged."""
SETUP = ("train.decay=after", 'save.evaluate=["0:end:25"]', f"train.until_hold={HOLD}")
JUMP = 2.5
"""A logit scale this many times that of the next lower ρ is the onset of softmax collapse (the paper's rule)."""

Place = tuple[float, float]
"""ρ and τ of a cell."""


@dataclass(frozen=True)
class Part:
    """One modulus under one loss: seeds, and the cells that are run besides the free controls.

    ``eps`` is that of Adam. Adam does not see the scale of a loss but through it: dividing the loss by k is
    multiplying eps by k.
    """

    p: int
    seeds: tuple[int, ...]
    cells: tuple[Place, ...]
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"
    eps: float | None = None

    def grid(self, tau: float = 1.0) -> Grid:
        """The arms of one temperature."""
        extra, label = list(SETUP), ".after"
        if self.loss == "squared":
            extra.append("train.loss=squared")
            label += ".squared"
        if self.eps is not None:
            extra.append(f"train.eps={self.eps!r}")
            label += f".eps{self.eps:g}"
        if tau != 1.0:
            extra.append(f"intervene.temperature={tau!r}")
            label += f".tau{tau:g}"
        return Grid(self.seeds, {}, extra=tuple(extra), label=label)

    def free_arm(self) -> Arm:
        """Runs that nothing holds, at a temperature of one."""
        return self.grid().free_arm(self.p)

    def arms(self, norm: float) -> dict[Place, Arm]:
        """The arm of each cell, held at ρ times ``norm``."""
        return {(rho, tau): self.grid(tau).clamped_arm(self.p, rho, norm) for rho, tau in self.cells}


@dataclass(frozen=True)
class Cell:
    """One arm: its grok steps, and the logit scale of each seed.

    ``scales`` are taken at the evaluated step nearest to the median grok step (nearest to its lower bound where the
    median run had not grokked), ``own`` at the seed's own grok step.
    """

    times: Times
    scales: tuple[float, ...]
    own: tuple[float, ...]
    logs: tuple[Log, ...]

    @property
    def median(self) -> MedianInterval:
        """Of the grok step, on all test pairs."""
        return self.times.median()

    @property
    def scale(self) -> float:
        """The effective logit scale L: the mean over seeds."""
        return float(np.mean(self.scales))

    def scale_of(self, chosen: np.ndarray) -> float:
        """L when the seeds in these places are taken, which may repeat: at their own median grok step."""
        low, high = as_bounds([self.times.all_pairs[place] for place in chosen])
        at = _step_of(median_interval(low, high))
        return float(np.mean([self.logs[place].at(LOGITS, at) for place in chosen]))

    @property
    def scale_interval(self) -> tuple[float, float] | None:
        """Of the mean over seeds, by Student's t; ``None`` for fewer than three."""
        from scipy.special import stdtrit

        count = len(self.scales)
        if count < 3:
            return None
        half = float(stdtrit(count - 1, 0.975)) * float(np.std(self.scales, ddof=1)) / math.sqrt(count)
        return self.scale - half, self.scale + half

    def as_json(self) -> dict[str, Any]:
        """Seed by seed."""
        return {
            **self.times.as_json(),
            "logit_scale": list(self.scales),
            "logit_scale_at_own_grok": list(self.own),
        }


def read_cell(logs: Sequence[Log]) -> Cell:
    """Grok steps and logit scales off the logs of an arm."""
    times = Times.of(logs)
    at = _step_of(times.median())
    own = [_by(crossing, log) for crossing, log in zip(times.all_pairs, logs, strict=True)]
    return Cell(
        times,
        tuple(log.at(LOGITS, at) for log in logs),
        tuple(log.at(LOGITS, step) for step, log in zip(own, logs, strict=True)),
        tuple(logs),
    )


def _step_of(middle: MedianInterval) -> float:
    """Where the logit scale is read: the median grok step, or its lower bound."""
    return middle.after if middle.value is None else middle.value


def _by(crossing: Crossing, log: Log) -> float:
    return float(log.steps[-1]) if crossing.by is None else crossing.by


@dataclass(frozen=True)
class Panel:
    """What one part found."""

    part: Part
    control: Control
    cells: dict[Place, Cell]

    @property
    def temperatures(self) -> list[float]:
        """τ of the cells at ρ = 1.15, in order."""
        return sorted(tau for rho, tau in self.cells if rho == RAISED)

    def law_cells(self) -> dict[float, Cell]:
        """ρ → cell at τ = 1, up to the onset of softmax collapse."""
        found = sorted((rho, cell) for (rho, tau), cell in self.cells.items() if tau == 1.0)
        kept: dict[float, Cell] = {}
        last = math.inf
        for rho, cell in found:
            if cell.scale > JUMP * last:
                break
            kept[rho], last = cell, cell.scale
        return kept

    def collapsed(self) -> list[float]:
        """The ρ at τ = 1 that :meth:`law_cells` leaves out."""
        kept = self.law_cells()
        return sorted(rho for rho, tau in self.cells if tau == 1.0 and rho not in kept)

    def runs(self) -> Iterator[tuple[float, Crossing, int]]:
        """(ρ, grok step, seed) of every run at τ = 1 before the onset of softmax collapse."""
        for rho, cell in self.law_cells().items():
            for seed, crossing in zip(cell.times.seeds, cell.times.all_pairs, strict=True):
                yield rho, crossing, seed

    def as_json(self) -> dict[str, Any]:
        """Run by run."""
        return {
            "W_c": self.control.critical_norm,
            "free": {**self.control.times.as_json(), "norm_at_grok": list(self.control.norms)},
            "cells": {f"rho{rho:g}.tau{tau:g}": cell.as_json() for (rho, tau), cell in self.cells.items()},
        }


def measure_parts(bench: Bench, parts: Mapping[str, Part]) -> dict[str, Panel]:
    """Train the free controls of every part, then all cells at their ρ·W_c; read both."""
    if not bench.only_finished:
        return _measured(bench, parts)
    found: dict[str, Panel] = {}
    for name, part in parts.items():
        found |= bench.part(name, partial(_measured, bench, {name: part})) or {}
    if not found:
        raise UnfinishedError(
            f"reading {len(parts)} parts: {'; '.join(bench.omitted)}, expected a finished one"
        )
    return found


def _measured(bench: Bench, parts: Mapping[str, Part]) -> dict[str, Panel]:
    free = {name: part.free_arm() for name, part in parts.items()}
    bench.train_arms(list(free.values()))
    controls = {name: control(bench.logs(arm)) for name, arm in free.items()}
    held = {name: bench.ready(part.arms(controls[name].critical_norm)) for name, part in parts.items()}
    for name, arms in held.items():
        lacking = [
            place for place in (BASE, (RAISED, 1.0)) if place in parts[name].cells and place not in arms
        ]
        if lacking:
            raise UnfinishedError(
                f"the runs at ρ = {lacking[0][0]:g} are not finished, beside which the others are read"
            )
    bench.train_arms([arm for arms in held.values() for arm in arms.values()])
    return {
        name: Panel(
            parts[name],
            controls[name],
            {place: read_cell(bench.logs(arm)) for place, arm in sorted(arms.items())},
        )
        for name, arms in held.items()
    }


def logit_scale_arms(scale: Scale, norms: Mapping[str, float]) -> list[Arm]:
    """Every arm of the study: the free controls, and the clamped ones of the parts whose W_c ``norms`` names."""
    parts = logit_scale_parts(scale)
    free = [part.free_arm() for part in parts.values()]
    return free + [
        arm for name, part in parts.items() if name in norms for arm in part.arms(norms[name]).values()
    ]


def logit_scale_parts(scale: Scale) -> dict[str, Part]:
    """The parts of the study by name: the modulus, ``…-squared`` under the squared error."""
    if scale == "small":
        temperatures = (1.0, 1.3, 1.7)
        cells = tuple((rho, tau) for rho in (1.0, RAISED) for tau in temperatures)
        return {"59": Part(59, tuple(range(4)), cells)}
    law = tuple((rho, 1.0) for rho in (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, RAISED))
    grid = [(rho, tau) for rho in (1.0, 1.05, 1.1, RAISED) for tau in (1.0, 1.3, 1.7)]
    curve = [(RAISED, tau) for tau in (1.0, 1.15, 1.3, 1.5, 1.7)]
    whole = tuple(sorted({*law, *grid, *curve}))
    few, many = tuple(range(8)), tuple(range(12))
    squared = (BASE, (RAISED, 1.0))
    return {
        "59": Part(59, many, whole),
        "97": Part(97, many, whole),
        "43": Part(43, few, tuple(place for place in law if place[0] <= 1.05)),
        "67": Part(67, few, law),
        "113": Part(113, few, law),
        # the published code sums the squares over the classes; ours is half of that, so that half its eps is its loss
        "59-squared": Part(59, many, squared, "squared", 5e-9),
        "97-squared": Part(97, many, squared, "squared", 5e-9),
        # a mean over samples and classes is ours times 2/59
        "59-squared-mean": Part(59, few, squared, "squared", 2.95e-7),
    }
