"""The causal delay law of the weight norm (arXiv 2606.13753): log T is linear in the norm that is held.

A free run groks when its norm has come down to W_c. A run whose norm is held at ρ·W_c from step 500 on groks at T,
and log T = α ρ + c. Seeds are matched: the same split and initial weights in every arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.measures.censored import (
    LogLinearFit,
    MedianInterval,
    as_bounds,
    log_linear_fit,
    median_interval,
)
from grokscope.measures.crossings import Crossing
from grokscope.studies.sweep import Arm, Bench, Log

ALL, UNMIRRORED = "accuracy.test", "accuracy.test_unmirrored"
LEVEL = 0.9
"""Test accuracy at which the paper counts a run as grokked."""
CLAMP_START = 500
NORM_DIGITS = 3
"""Decimals of W_c in the recipe of a clamped run."""


@dataclass(frozen=True)
class Grid:
    """Which runs: moduli with their values of ρ and seeds. ``extra`` are changes to every recipe."""

    seeds: tuple[int, ...]
    rho: Mapping[int, tuple[float, ...]]
    free: tuple[int, ...] = ()
    extra: tuple[str, ...] = ()
    label: str = ""
    recipe: str = "delay-law"
    start: int = CLAMP_START

    @property
    def moduli(self) -> tuple[int, ...]:
        """Every modulus that is run, the free ones among them."""
        return tuple(sorted({*self.rho, *self.free}))

    def _stem(self, p: int) -> str:
        return f"{self.recipe}.p{p}{self.label}"

    def free_arm(self, p: int) -> Arm:
        """Runs that nothing holds."""
        return Arm(f"{self._stem(p)}.free", self.recipe, (f"task.p={p}", *self.extra), self.seeds)

    def clamped_arm(self, p: int, rho: float, norm: float) -> Arm:
        """Runs held at rho·norm; the norm is in their name, since other controls give another one."""
        held = f"{norm:.{NORM_DIGITS}f}"
        clamp = f"intervene.clamp={{norm = {held}, rho = {rho}, start = {self.start}}}"
        overrides = (f"task.p={p}", *self.extra, clamp)
        return Arm(f"{self._stem(p)}.norm{held}.rho{rho:g}", self.recipe, overrides, self.seeds)


@dataclass(frozen=True)
class Times:
    """Grok steps of one arm, one crossing for each seed, on all test pairs and on those without a mirror image."""

    seeds: tuple[int, ...]
    all_pairs: tuple[Crossing, ...]
    unmirrored: tuple[Crossing, ...]

    @classmethod
    def of(cls, logs: Sequence[Log]) -> Times:
        """Read off the logs of an arm."""
        return cls(
            tuple(log.seed for log in logs),
            tuple(log.reached(ALL, LEVEL) for log in logs),
            tuple(log.reached(UNMIRRORED, LEVEL) for log in logs),
        )

    def of_seeds(self, seeds: Sequence[int]) -> Times:
        """Those of ``seeds`` alone."""
        kept = [place for place, seed in enumerate(self.seeds) if seed in seeds]
        parts = (self.seeds, self.all_pairs, self.unmirrored)
        chosen, every, alone = (tuple(part[place] for place in kept) for part in parts)
        return Times(chosen, every, alone)  # pyright: ignore[reportArgumentType]

    def median(self, *, unmirrored: bool = False) -> MedianInterval:
        """Over seeds."""
        return median_interval(*as_bounds(self.unmirrored if unmirrored else self.all_pairs))

    def as_json(self) -> dict[str, Any]:
        """Seed by seed."""
        return {
            "seeds": list(self.seeds),
            "grok_90": [crossing.as_json() for crossing in self.all_pairs],
            "grok_90_unmirrored": [crossing.as_json() for crossing in self.unmirrored],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Times:
        """What :meth:`as_json` wrote."""
        every, alone = (
            tuple(Crossing.from_json(ends) for ends in record[key])
            for key in ("grok_90", "grok_90_unmirrored")
        )
        return cls(tuple(record["seeds"]), every, alone)


@dataclass(frozen=True)
class Control:
    """The free runs of one modulus: when they grok, and at which norm."""

    times: Times
    norms: tuple[float, ...]

    @property
    def critical_norm(self) -> float:
        """W_c: the median over the grokked seeds, as written into the recipes of clamped runs."""
        return round(float(np.median(self.norms)), NORM_DIGITS)

    @property
    def interval(self) -> MedianInterval:
        """Of the median over seeds; a norm is known at its logged step, so without a width of its own."""
        values = np.asarray(self.norms)
        return median_interval(np.nextafter(values, 0), values)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, relative to the mean."""
        return float(np.std(self.norms, ddof=1) / np.mean(self.norms)) if len(self.norms) > 1 else 0.0

    def of_seeds(self, seeds: Sequence[int]) -> Control:
        """The free runs of ``seeds`` alone."""
        grokked = [
            seed
            for seed, one in zip(self.times.seeds, self.times.all_pairs, strict=True)
            if one.by is not None
        ]
        kept = [norm for seed, norm in zip(grokked, self.norms, strict=True) if seed in seeds]
        return Control(self.times.of_seeds(seeds), tuple(kept))

    def as_json(self) -> dict[str, Any]:
        """Seed by seed."""
        return {**self.times.as_json(), "norm_at_grok": list(self.norms), "W_c": self.critical_norm}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Control:
        """What :meth:`as_json` wrote."""
        return cls(Times.from_json(record), tuple(record["norm_at_grok"]))


def control(logs: Sequence[Log]) -> Control:
    """Grok steps and norms of free runs. Raises GrokscopeError when none of them has grokked."""
    norms = []
    for log in logs:
        step = log.reached(ALL, LEVEL).by
        if step is not None:
            norms.append(log.at("norm.total", step))
    if not norms:
        raise GrokscopeError(
            f"reading the critical norm off {len(logs)} free runs: no free run has grokked, expected at least one "
            "(more train.steps)"
        )
    return Control(Times.of(logs), tuple(norms))


@dataclass(frozen=True)
class Measured:
    """All arms of a grid: controls by modulus, times by (modulus, ρ)."""

    controls: dict[int, Control]
    clamped: dict[tuple[int, float], Times]

    def fit(self, moduli: Sequence[int] | None = None, *, unmirrored: bool = False) -> LogLinearFit:
        """log T on ρ over the runs of ``moduli``, with a constant for each of them and matched seeds as clusters."""
        x, low, high, groups, clusters = self.runs(moduli, unmirrored=unmirrored)
        return log_linear_fit(x, low, high, groups=groups, clusters=clusters)

    def runs(
        self, moduli: Sequence[int] | None = None, *, unmirrored: bool = False
    ) -> tuple[list[float], np.ndarray, np.ndarray, list[int], list[int]]:
        """(ρ, low, high, modulus, seed) of every clamped run."""
        x: list[float] = []
        found: list[Crossing] = []
        groups: list[int] = []
        clusters: list[int] = []
        for (p, rho), times in self.clamped.items():
            if moduli is None or p in moduli:
                x += [rho] * len(times.seeds)
                found += times.unmirrored if unmirrored else times.all_pairs
                groups += [p] * len(times.seeds)
                clusters += times.seeds
        return x, *as_bounds(found), groups, clusters

    def as_json(self) -> dict[str, Any]:
        """Run by run."""
        return {
            "free": {str(p): found.as_json() for p, found in self.controls.items()},
            "clamped": {f"p{p}.rho{rho:g}": times.as_json() for (p, rho), times in self.clamped.items()},
        }


def measure_grid(bench: Bench, grid: Grid, place: tuple[str, ...], norm: float | None = None) -> Measured:
    """Train the free controls of every modulus, then all clamped runs; read both.

    They are held at ρ·W_c of their own controls, or at ρ·``norm``. Arms that the saved result holds at ``place`` are
    taken from there: clamped ones only with their controls, which gave them their norm.
    """
    free = {p: grid.free_arm(p) for p in grid.moduli}
    known = {p: bench.earlier(arm, Control.from_json, *place, "free", str(p)) for p, arm in free.items()}
    bench.train_arms([arm for p, arm in free.items() if known[p] is None])
    controls = {p: known[p] or control(bench.logs(arm)) for p, arm in free.items()}
    arms = {
        (p, rho): grid.clamped_arm(p, rho, controls[p].critical_norm if norm is None else norm)
        for p, values in grid.rho.items()
        for rho in values
    }
    clamped: dict[tuple[int, float], Times] = {}
    for (p, rho), arm in arms.items():
        if known[p] is not None:
            times = bench.earlier(arm, Times.from_json, *place, "clamped", f"p{p}.rho{rho:g}")
            if times is not None:
                clamped[p, rho] = times
    left = {key: arm for key, arm in arms.items() if key not in clamped}
    left = bench.ready(left, enough=bool(clamped))
    bench.train_arms(list(left.values()))
    clamped |= {key: Times.of(bench.logs(arm)) for key, arm in left.items()}
    return Measured(controls, {key: clamped[key] for key in arms if key in clamped})
