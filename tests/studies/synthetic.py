"""A workplace whose runs are never trained: their logs follow a law that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grokscope.studies.sweep import Arm, Bench, Log, Scale
from grokscope.training import Recipe


@dataclass
class Law:
    """log T = alpha(p)·rho + c(p) + noise; a free run groks when its norm has come down to ``norm(p)``.

    The logit scale is 30 rho²/tau. Of the effect of rho the share ``through_scale`` runs through it, so that
    tau counters it: rho becomes rho·tau^(-through_scale/2). Under the squared error alpha is ``squared_alpha``, with
    the same time at rho = 1, and the logit scale is one. Times go as (learning rate)^-``rate_power``.
    """

    alpha: Callable[[int], float]
    constant: Callable[[int], float]
    norm: Callable[[int], float]
    noise: float = 0.03
    budget: float = math.inf
    free: float = 5128.0
    mirrored_lead: float = 1.1
    through_scale: float = 0.0
    squared_alpha: float = 4.25
    rate_power: float = 0.5

    def log(self, name: str, recipe: Recipe) -> Log:
        """What a run of this recipe would have logged."""
        p = getattr(recipe.task, "p", 0)
        draw = np.random.default_rng([recipe.seed, p, 7])
        clamp, squared = recipe.intervene.clamp, recipe.train.loss == "squared"
        if clamp is None:
            time, size = self.free * math.exp(self.noise * draw.normal()), self.norm(p)
            size *= math.exp(0.01 * draw.normal())
        else:
            held = clamp.rho * recipe.intervene.temperature ** (-self.through_scale / 2)
            alpha = self.squared_alpha if squared else self.alpha(p)
            time = math.exp(
                alpha * (held - 1) + self.alpha(p) + self.constant(p) + self.noise * draw.normal()
            )
            size = clamp.rho * clamp.norm
        time *= (1e-3 / recipe.train.lr) ** self.rate_power
        last = min(recipe.train.steps, self.budget)
        grid = recipe.evaluation_steps()
        steps = grid[grid <= last]
        ramp = np.clip(np.log(np.maximum(steps, 1)) / math.log(time), 0, 1)
        norms = size * (3 - 2 * ramp) if clamp is None else np.full(len(steps), size)
        test = np.where(steps >= time, 0.95, 0.3)
        alone = np.where(steps >= self.mirrored_lead * time, 0.95, 0.0)
        tau = recipe.intervene.temperature
        return Log(
            name,
            recipe.seed,
            {
                "step": steps,
                "accuracy.test": test,
                "accuracy.test_unmirrored": alone,
                "norm.total": norms,
                "logits.norm": (1.0 if squared else 30.0 * (size / self.norm(p)) ** 2 / tau)
                * np.ones(len(steps)),
            },
        )


@dataclass
class SyntheticBench(Bench):
    """Reads runs of a known law; ``trained`` are the names it was asked to train, in that order."""

    law: Law = field(default_factory=lambda: Law(lambda p: 7.64, lambda p: 0.72, lambda p: 54.5))
    trained: list[str] = field(default_factory=list)

    def _is_finished(self, name: str, recipe: Recipe) -> bool:
        return name in self.trained

    def logs(self, arm: Arm) -> list[Log]:
        missing = [name for name, _ in arm.runs() if name not in self.trained]
        assert not missing, f"read before they were trained: {missing}"
        self.tell(arm)
        self.used.update({name: self.workspace / "checkpoints" / name for name, _ in arm.runs()})
        return [self.law.log(name, recipe) for name, recipe in arm.runs()]


def synthetic_bench(place: Path, scale: Scale, law: Law | None = None) -> SyntheticBench:
    """A bench in ``place`` that follows ``law``, by default that of the paper at p = 59."""
    bench = SyntheticBench(place, scale, lambda runs: bench.trained.extend(name for name, _ in runs))
    if law is not None:
        bench.law = law
    return bench
