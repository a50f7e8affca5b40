"""What a run will take, before it is begun: steps, saves, bytes, and an estimate of its time.

Counts and bytes follow from the recipe. The time is measured: a few real steps of the recipe are made on this
machine, in memory, and multiplied. Nothing is written.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from grokscope.training.evaluation import TIME
from grokscope.training.machine import process_settings
from grokscope.training.recipe import Recipe
from grokscope.training.scalars import scalar_names
from grokscope.training.trainer import SCALAR_ROWS, Session, choose_device
from grokscope.trajectory import save_seconds, trajectory_bytes

BUDGET = 2.0
"""Seconds that are spent measuring, over all recipes that differ in speed."""

_SNAPSHOT_HEADER = 65  # bytes a vector, measured

_BLOCKS = 10
"""Into how many stretches the measured steps are cut, to see how much their speed varies."""


@dataclass(frozen=True)
class Spread:
    """Seconds: the median of what was measured, and the smallest and largest."""

    median: float
    low: float
    high: float

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.median + other.median, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Spread:
        return Spread(factor * self.median, factor * self.low, factor * self.high)

    def as_json(self) -> dict[str, float]:
        return {"estimate": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Speed:
    """Seconds for one of each; ``steps`` is how many steps were made to find out."""

    step: Spread
    evaluation: Spread
    save: Spread
    snapshot: Spread
    steps: int

    def as_json(self) -> dict[str, Any]:
        names = ("step", "evaluation", "save", "snapshot")
        return {**{name: getattr(self, name).as_json() for name in names}, "measured_steps": self.steps}


@dataclass(frozen=True)
class Plan:
    """One run, before it is begun.

    Attributes:
        at_most: whether saves, evaluations and what follows from them are upper bounds, since a window waits for
            the onset or ``train.until`` may end the run.
        weights, scalars, snapshot_bytes: bytes on disk.
    """

    name: str
    steps: int
    saves: int
    evaluations: int
    snapshots: int
    at_most: bool
    weights: int
    scalars: int
    snapshot_bytes: int
    speed: Speed

    @property
    def bytes(self) -> int:
        return self.weights + self.scalars + self.snapshot_bytes

    @property
    def seconds(self) -> Spread:
        """Of the training itself: without starting Python and torch."""
        speed = self.speed
        return (
            speed.step.times(self.steps)
            + speed.evaluation.times(self.evaluations)
            + speed.save.times(self.saves)
            + speed.snapshot.times(self.snapshots)
        )

    def as_json(self) -> dict[str, Any]:
        """For ``plan --json``."""
        counts = ("name", "steps", "saves", "evaluations", "snapshots", "at_most")
        return {
            **{name: getattr(self, name) for name in counts},
            "bytes": {
                "weights": self.weights,
                "scalars": self.scalars,
                "snapshots": self.snapshot_bytes,
                "all": self.bytes,
            },
            "seconds": self.seconds.as_json(),
            "speed": self.speed.as_json(),
        }


def plan_runs(named: Sequence[tuple[str, Recipe]], device: str = "auto") -> list[Plan]:
    """A plan for every (name, recipe). Recipes that differ only in what does not change the speed are measured
    once.

    Raises GrokscopeError when the device is not there.
    """
    place = choose_device(device)
    kinds = list({_kind(recipe): recipe for _, recipe in named}.items())
    speeds = {kind: measure_speed(recipe, place, BUDGET / len(kinds)) for kind, recipe in kinds}
    return [_plan(name, recipe, speeds[_kind(recipe)]) for name, recipe in named]


def measure_speed(recipe: Recipe, device: torch.device, budget: float) -> Speed:
    """Make steps of ``recipe`` for about ``budget`` seconds (at least two), and of everything else one or two."""
    nothing = dataclasses.replace(recipe.save, schedule=(), evaluate=())
    steps_only = dataclasses.replace(recipe, save=nothing)
    with process_settings(recipe.train.threads, device):
        session = Session(steps_only, Path(), device, None, lambda: False)
        done = 0

        def advance(count: int) -> float:
            nonlocal done
            began = time.perf_counter()
            done = session.recompute(done, done + count)
            _finish(device)
            return (time.perf_counter() - began) / count

        advance(1)  # what is set up at the first step
        size = max(1, int(budget / _BLOCKS / max(advance(1), 1e-9)))
        began, blocks = time.perf_counter(), [advance(size)]
        while len(blocks) < 2 or (len(blocks) < _BLOCKS and time.perf_counter() - began < budget):
            blocks.append(advance(size))
        params = _columns(session)
        return Speed(
            step=_spread(blocks),
            evaluation=_repeated(session.evaluate, device),
            save=_spread([save_seconds(params, session.weights()) for _ in range(2)]),
            snapshot=_repeated(lambda: safetensors.numpy.save(session.state()[0]), device),
            steps=done,
        )


def processes(recipes: Sequence[Recipe]) -> int:
    """How many of the runs this machine trains at a time: one a core."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    threads = max(recipe.train.threads for recipe in recipes)
    return max(1, min(len(recipes), len(usable) // threads))


def elapsed(plans: Sequence[Plan], at_a_time: int) -> Spread:
    """How long the runs take together: the longest alone, or all of them shared out evenly, if that is more."""
    whole = plans[0].seconds
    for plan in plans[1:]:
        whole = whole + plan.seconds
    shared, longest = whole.times(1 / at_a_time), max((plan.seconds for plan in plans), key=_median)
    return Spread(*(max(pair) for pair in zip(_ends(shared), _ends(longest), strict=True)))


def _median(seconds: Spread) -> float:
    return seconds.median


def _ends(seconds: Spread) -> tuple[float, float, float]:
    return seconds.median, seconds.low, seconds.high


def _plan(name: str, recipe: Recipe, speed: Speed) -> Plan:
    session_shapes = recipe.build()[1].shapes
    trained = np.dtype(recipe.train.dtype)
    stored = trained if recipe.save.precision == "train" else np.dtype(recipe.save.precision)
    params = {tensor: (shape, stored) for tensor, shape in session_shapes.items()}
    saves, evaluations = recipe.most_saves(), recipe.most_evaluations()
    weights, scalars = trajectory_bytes(params, _scalars(recipe), saves, evaluations, SCALAR_ROWS)
    snapshots = int((recipe.snapshot_steps() > 0).sum())
    vectors = 1 + {"adamw": 2, "sgd": 1, "gd": 0}[recipe.train.optimizer]
    numbers = sum(math.prod(shape) for shape in session_shapes.values())
    return Plan(
        name=name,
        steps=recipe.train.steps,
        saves=saves,
        evaluations=evaluations,
        snapshots=snapshots,
        at_most=recipe.waits_for_onset() or recipe.ends_early(),
        weights=weights,
        scalars=scalars,
        snapshot_bytes=snapshots
        * (vectors * (numbers * trained.itemsize + _SNAPSHOT_HEADER) + _SNAPSHOT_HEADER),
        speed=speed,
    )


def _scalars(recipe: Recipe) -> list[str]:
    return [*scalar_names(recipe.build()[0]), *recipe.save.also, TIME]


def _columns(session: Session) -> dict[str, tuple[tuple[int, ...], Any]]:
    return {name: (shape, session.stored_dtype) for name, shape in session.model.shapes.items()}


def _kind(recipe: Recipe) -> str:
    """What decides how fast a recipe is: all but seeds and the numbers that only scale an update."""
    train = dataclasses.replace(
        recipe.train, steps=1, lr=1.0, weight_decay=1.0, betas=(0.5, 0.5), eps=1.0, warmup=0
    )
    return repr((recipe.task, recipe.model, train, recipe.save.precision, recipe.intervene))


def _repeated(work: Callable[[], object], device: torch.device, times: int = 3) -> Spread:
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        _finish(device)
        seconds.append(time.perf_counter() - began)
    return _spread(seconds)


def _spread(seconds: Sequence[float]) -> Spread:
    return Spread(statistics.median(seconds), min(seconds), max(seconds))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
