"""The runs behind a study: arms of matched seeds, trained resumably, and what their logs say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.measures.crossings import Crossing, first_hold
from grokscope.training import Recipe, read_recipe
from grokscope.training.fleet import is_finished
from grokscope.trajectory import Trajectory
from grokscope.work import EVERY_CORE, Lost, Workers, each
from grokscope.workspace import checked_name

Scale = Literal["small", "full"]
T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")


class UnfinishedError(GrokscopeError):
    """Runs that a part of a study needs are not finished, and none is to be trained now."""


TrainRuns = Callable[[Sequence[tuple[str, Recipe]]], None]
"""Trains every (name, recipe) that is not finished; raises GrokscopeError where one could not be."""


Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows how far a piece of work is: from what is done and how often, to what is called after each."""


@contextmanager
def _no_bar(words: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone. The same seed means the same split and initial weights in every arm.

    ``name`` begins the names of the runs, ``overrides`` are ``FIELD=VALUE`` changes to the built-in ``recipe``.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[tuple[str, Recipe]]:
        """(name, recipe) of every seed."""
        return [
            (checked_name(f"{self.name}-s{seed}"), read_recipe(self.recipe, self.overrides, seed))
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class Log:
    """The evaluations of one finished run."""

    name: str
    seed: int
    scalars: dict[str, np.ndarray]

    @property
    def steps(self) -> np.ndarray:
        """(E,) int64 evaluated steps."""
        return self.scalars["step"]

    def reached(self, scalar: str, level: float, hold: int = 1) -> Crossing:
        """When ``scalar`` reached ``level`` from below, held for ``hold`` evaluations; censored where it did not."""
        return first_hold(self.steps, self.scalars[scalar], level, q=hold)

    def at(self, scalar: str, step: float) -> float:
        """The value at the evaluated step nearest to ``step`` in logarithm."""
        place = np.argmin(np.abs(np.log(np.maximum(self.steps, 1)) - np.log(max(step, 1.0))))
        return float(self.scalars[scalar][place])


@dataclass
class Bench:
    """Where a study trains its runs and reads them.

    Attributes:
        workspace: holds ``checkpoints/`` and ``reports/``.
        train: trains what is missing.
        workers: who measures the runs.
        bar: shows how far the measuring is.
        data: a folder of data that a study can use and does not bring; ``None`` where none was given.
        only_finished: train nothing, and leave out what rests on runs that are not finished.
        omitted: what was left out so, and why.
        saved: an earlier result of this study at this scale: the arms it holds are not trained again.
        taken: the arms that were read from there.
        recipes: name → settings of the first run of every arm that was read, wherever from.
    """

    workspace: Path
    scale: Scale
    train: TrainRuns
    workers: Workers = EVERY_CORE
    bar: Bar = _no_bar
    data: Path | None = None
    only_finished: bool = False
    omitted: list[str] = field(default_factory=list)
    saved: Mapping[str, Any] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    recipes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def used(self) -> dict[str, Path]:
        """Name → directory of every run that was read, in that order."""
        return {}

    def train_arms(self, arms: Sequence[Arm]) -> None:
        """Train every run of ``arms`` that is not finished, as one fleet.

        Raises UnfinishedError where some are not and :attr:`only_finished` is set.
        """
        runs = [run for arm in arms for run in arm.runs()]
        names = [name for name, _ in runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"training the arms of a study: {twice[0]} would be two runs")
        if not self.only_finished:
            self.train(runs)
            return
        left = [name for name, recipe in runs if not self._is_finished(name, recipe)]
        if left:
            raise UnfinishedError(f"{len(left)} of {len(names)} runs are not finished ({left[0]}, ...)")

    def read(self, words: str, reader: Callable[[T], R], units: Sequence[T]) -> list[R]:
        """``reader`` of every unit on all cores, shown on the bar as ``words``; results in the order of the units.

        Raises GrokscopeError where the processes that worked on a unit died.
        """
        found: dict[int, R] = {}
        with self.bar(words, len(units)) as tick:
            for index, result in each(reader, units, self.workers):
                if isinstance(result, Lost):
                    raise GrokscopeError(
                        f"{words}: piece {index + 1} of {len(units)} gave nothing: {result.reason}"
                    )
                found[index] = result
                tick()
        return [found[index] for index in range(len(units))]

    def ready(self, arms: Mapping[K, Arm], *, enough: bool = False) -> dict[K, Arm]:
        """Those of ``arms`` that can be had: all of them, unless only finished ones are to be used.

        Raises UnfinishedError where none can, unless what there is without them is ``enough``.
        """
        if not self.only_finished:
            return dict(arms)
        found = {key: arm for key, arm in arms.items() if all(self._is_finished(*run) for run in arm.runs())}
        if arms and not found and not enough:
            raise UnfinishedError(f"none of {len(arms)} arms has all its runs finished")
        self.omitted += [f"{arm.name} is not finished" for key, arm in arms.items() if key not in found]
        return found

    def part(self, name: str, measure: Callable[[], T]) -> T | None:
        """What ``measure`` gives, or ``None``, noted, where its runs are not finished."""
        try:
            return measure()
        except UnfinishedError as error:
            self.omitted.append(f"{name}: {error}")
            return None

    def earlier(self, arm: Arm, load: Callable[[Mapping[str, Any]], T], *place: str) -> T | None:
        """What ``load`` makes of what the saved result holds at ``place`` of ``arm``, ``None`` where it holds nothing.

        A record of other seeds, or of an arm that was trained under other settings, is of other runs and not taken.

        Raises GrokscopeError where the record is not one that a study wrote.
        """
        record: Any = self.saved.get("data")
        for key in place:
            record = record.get(key) if isinstance(record, Mapping) else None
        if record is None:
            return None
        try:
            if tuple(record["seeds"]) != arm.seeds or not self._saved_as(arm):
                return None
            found = load(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GrokscopeError(
                f"reading {' / '.join(place)} of a saved result: {error!r}, expected what a study wrote"
            ) from None
        self.taken.append(arm.name)
        self.tell(arm)
        return found

    def _saved_as(self, arm: Arm) -> bool:
        """Whether the saved result's arm of that name had the same settings."""
        config = self.saved["recipes"].get(arm.name)
        return isinstance(config, Mapping) and not list(arm.runs()[0][1].differences(config))

    def tell(self, arm: Arm) -> None:
        """Record the settings of an arm that is read."""
        self.recipes[arm.name] = arm.runs()[0][1].config()

    def _is_finished(self, name: str, recipe: Recipe) -> bool:
        return is_finished(recipe, self.workspace / "checkpoints" / name)

    def logs(self, arm: Arm) -> list[Log]:
        """The logs of an arm's runs, in the order of its seeds."""
        found = []
        self.tell(arm)
        for name, recipe in arm.runs():
            directory = self.workspace / "checkpoints" / name
            with Trajectory(directory / "trajectory.h5") as stored:
                scalars = dict(stored.scalars)
            if not len(scalars.get("step", ())):
                raise GrokscopeError(f"reading {directory}: it has no evaluations, expected a trained run")
            self.used[name] = directory
            found.append(Log(name, recipe.seed, scalars))
        return found
