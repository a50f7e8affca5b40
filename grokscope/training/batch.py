"""Runs of equal shape on one leading axis: deep linear nets on a CPU, every model that stacks on a GPU.

Each run keeps its directory, its files and its schedule, and is resumed, replayed and read like any other. The
updates alone are made together. On a GPU a step is one captured graph, and what an evaluation or a save needs is
copied aside at its step, so that the steps after it do not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.training.batch_optimizer import SCALARS, BatchOptimizer
from grokscope.training.evaluation import Evaluator
from grokscope.training.gradient import TrainingGradient
from grokscope.training.gradient_filters import GradientFilter
from grokscope.training.intervene import NormClamp, parameter_spans
from grokscope.training.machine import Precision, process_settings
from grokscope.training.optimizers import FlatParameters
from grokscope.training.recipe import Recipe, TrainSettings
from grokscope.training.trainer import (
    Outcome,
    Report,
    Session,
    choose_device,
    deferred_interrupt,
    recorded_precision,
)

EVALUATED_TOGETHER = 64
"""Runs evaluated at a time: their logits on the whole grid are the largest tensors there are."""

_WARM_UP = 3  # steps before a capture, which torch asks for; their effect is taken back


def together(recipe: Recipe, device: str) -> Any:
    """What runs must have in common to be trained together on ``device`` (hashable), ``None`` for one alone.

    Everything but the name, the seed, the initial scale, the size and the start of a norm clamp, and the scalars of
    ``[train]``: learning rate, decay, betas, eps, momentum and warm-up may differ run by run. On a CPU only deep
    linear nets gain, those of more than one output in float64.
    """
    _, model = recipe.build()
    if recipe.train.batch_size or recipe.intervene.jacobian is not None or not model.stacks:
        return None
    # a matrix times a vector is summed in another order when several are made at once, and so is, on some processors,
    # a product in single precision
    if device != "cuda" and (
        recipe.model.family != "deep-linear" or model.n_classes == 1 or recipe.train.dtype != "float64"
    ):
        return None
    defaults = TrainSettings()
    train = replace(recipe.train, **{name: getattr(defaults, name) for name in SCALARS})
    shape = recipe.model
    if any(field.name == "init_scale" for field in fields(shape)):
        shape = replace(shape, init_scale=1.0)  # pyright: ignore[reportCallIssue]
    intervene = recipe.intervene
    if intervene.clamp is not None:
        intervene = replace(intervene, clamp=replace(intervene.clamp, norm=1.0, rho=1.0, start=1))
    return recipe.task, shape, train, recipe.save, repr(intervene)


def train_batch(
    recipes: Sequence[Recipe],
    directories: Sequence[Path],
    *,
    device: str = "auto",
    resume: bool = False,
    reports: Sequence[Report | None] | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> list[Outcome | GrokscopeError]:
    """Train every recipe into its directory as :func:`~grokscope.training.train` would, updates made together.

    On a CPU the files hold the same bytes as those of a run alone, on a GPU the same numbers to rounding.

    Args:
        recipes: of equal :func:`together`.
        reports: one a run, called with the step and its scalars after every evaluation.
        interrupted: asked between steps whether to end; Ctrl-C where none is given.

    Returns:
        For each run how it ended: an error ends one run and leaves the others alone.

    Raises:
        GrokscopeError: a directory exists and ``resume`` is off, or runs that are not of one shape.
    """
    place = choose_device(device)
    shapes = {together(recipe, place.type) for recipe in recipes}
    if len(shapes) != 1 or None in shapes:
        raise GrokscopeError(
            f"training {len(recipes)} runs together on {place.type}: their recipes differ in more than seeds and "
            "scalars, or cannot share an axis, expected runs of one shape"
        )
    for directory in directories:
        if directory.exists() and not resume:
            raise GrokscopeError(
                f"training {directory.name}: {directory} exists, expected a new name (--name) or --resume"
            )
    precisions: set[Precision] = {found for d in directories if (found := recorded_precision(d)) is not None}
    if len(precisions) > 1:
        raise GrokscopeError(
            f"training {len(recipes)} runs together: they were begun with different products "
            f"({', '.join(sorted(precisions))}), expected one kind: resume them one by one"
        )
    waiting = deferred_interrupt() if interrupted is None else nullcontext(interrupted)
    threads = recipes[0].train.threads
    with process_settings(threads, place, next(iter(precisions), None)), waiting as stop:
        told = reports or [None] * len(recipes)
        sessions = [
            Session(recipe, directory, place, report, stop)
            for recipe, directory, report in zip(recipes, directories, told, strict=True)
        ]
        if place.type == "cuda" and len(sessions) > 1:
            for session in sessions:  # there the rounding of a product depends on how many share the axis
                session.company = {"runs_on_one_axis": len(sessions)}
        return _run(sessions, place, stop)


Walk = Generator[tuple[int, int], int, Outcome]


@dataclass
class _Row:
    """One run of a batch on its way."""

    index: int
    session: Session
    walk: Walk
    step: int
    stop: int


def _run(
    sessions: Sequence[Session], device: torch.device, interrupted: Callable[[], bool]
) -> list[Outcome | GrokscopeError]:
    ended: dict[int, Outcome | GrokscopeError] = {}
    rows = [_Row(index, session, session.walk(), 0, 0) for index, session in enumerate(sessions)]
    try:
        rows = [row for row in rows if _advance_walk(row, None, ended)]
        # runs that were stopped at different steps catch up apart
        for start in sorted({row.step for row in rows}):
            here = [row for row in rows if row.step == start]
            _Batch(here, device).run(interrupted, ended)
    finally:
        for row in rows:
            row.walk.close()
    return [ended[index] for index in range(len(sessions))]


def _advance_walk(row: _Row, reached: int | None, ended: dict[int, Outcome | GrokscopeError]) -> bool:
    """Let a run read off what it wants of the state at ``reached``; whether it goes on."""
    try:
        row.step, row.stop = next(row.walk) if reached is None else row.walk.send(reached)
    except StopIteration as stopped:
        ended[row.index] = stopped.value
        return False
    except GrokscopeError as error:
        ended[row.index] = error
        return False
    return True


class _Batch:
    """The weights of runs that stand at the same step, and how they move together."""

    def __init__(self, rows: list[_Row], device: torch.device) -> None:
        self.rows, self.device = rows, device
        first = rows[0].session
        recipes = [row.session.recipe for row in rows]
        tasks = [row.session.task for row in rows]
        self.model, self.start = first.model, rows[0].step
        vector = torch.stack([row.session.flat.vector for row in rows])
        self.flat = FlatParameters.over(vector, self.model.shapes)
        self.params = self.flat.detached()
        clamps = [recipe.intervene.clamp for recipe in recipes if recipe.intervene.clamp is not None]
        chosen = recipes[0].intervene.filter
        self.optimizer = BatchOptimizer(
            [recipe.train for recipe in recipes], self.flat, parameter_spans(recipes[0].intervene, self.model),
            NormClamp(clamps, self.model, vector) if clamps else None,
            None if chosen is None else GradientFilter(chosen, self.model, vector),
        )  # fmt: skip
        for name, held in self.optimizer.state.items():
            held.copy_(torch.stack([row.session.optimizer.state[name] for row in rows]))
        self.gradient = TrainingGradient(tasks, self.model, recipes[0].train, device, vector.dtype)
        cuts = range(0, len(rows), EVALUATED_TOGETHER)
        self.evaluators = [
            (slice(at, at + EVALUATED_TOGETHER),
             Evaluator(tasks[at : at + EVALUATED_TOGETHER], self.model, recipes[0], device))
            for at in cuts
        ]  # fmt: skip
        # a window that waits for the onset opens at an evaluation, which the next steps then have to wait for
        self.ahead = device.type == "cuda" and not recipes[0].waits_for_onset()
        self.aside = _Aside(self) if device.type == "cuda" else None
        self.optimizer.begin(self.start)
        self.update: Callable[[int], None] = self._captured() if self.aside is not None else self._update

    def run(self, interrupted: Callable[[], bool], ended: dict[int, Outcome | GrokscopeError]) -> None:
        """Train to the end, or to an interruption."""
        rows, step = self.rows, self.start
        stops = iter(stop for stop in rows[0].session.stops() if stop > step)
        while rows:
            read = self._read(step)
            reached = self._advance(step, next(stops, step), interrupted) if self.ahead else step
            read()
            rows = [row for row in rows if row.stop > step or _advance_walk(row, step, ended)]
            if not rows:
                return
            if not self.ahead:
                reached = self._advance(step, min(row.stop for row in rows), interrupted)
                if reached < min(row.stop for row in rows):
                    read = self._read(reached)
                    read()
                    for row in rows:
                        _advance_walk(row, reached, ended)
                    return
            step = reached

    def _advance(self, step: int, stop: int, interrupted: Callable[[], bool]) -> int:
        for at in range(step, stop):
            if at > step and not self.ahead and interrupted():
                return at
            self.update(at)
        return stop

    def _update(self, step: int) -> None:
        self.flat.take(self.gradient(self.params))
        self.optimizer.update(step)

    def _read(self, step: int) -> Callable[[], None]:
        """Begin to read the state at ``step`` off the device; the result shows it to the runs."""
        if self.aside is not None:
            return self.aside.take(step)

        def show() -> None:
            known: list[dict[str, float]] = []

            def scalars(place: int) -> dict[str, float]:
                if not known:
                    known.extend(self.scalars(self.params))
                return known[place]

            self.show(self.flat.vector, self.optimizer.state, scalars)

        return show

    def scalars(self, params: dict[str, Tensor]) -> list[dict[str, float]]:
        """The scalars of every run."""
        found: list[dict[str, float]] = []
        for where, evaluator in self.evaluators:
            found += evaluator.of_each({name: value[where] for name, value in params.items()})
        return found

    def show(
        self, vector: Tensor, state: dict[str, Tensor], scalars: Callable[[int], dict[str, float]]
    ) -> None:
        """Let every run see its row of the state."""
        for place, row in enumerate(self.rows):
            session = row.session
            session.flat.vector = vector[place]
            for name, held in state.items():
                session.optimizer.state[name] = held[place]
            session.evaluate = lambda place=place: scalars(place)

    def _captured(self) -> Callable[[int], None]:
        """A step as one CUDA graph, replayed."""
        kept = [tensor.clone() for tensor in (self.flat.vector, *self.optimizer.state.values())]
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._update(self.start)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._update(self.start)
        tensors = (self.flat.vector, *self.optimizer.state.values())
        for tensor, before in zip(tensors, kept, strict=True):
            tensor.copy_(before)
        self.optimizer.begin(self.start)
        return lambda step: graph.replay()


class _Aside:
    """Copies of the state of one step, evaluated and brought to pinned memory on a stream of their own."""

    def __init__(self, batch: _Batch) -> None:
        self.batch = batch
        self.stream = torch.cuda.Stream(batch.device)
        self.names = ("vector", *batch.optimizer.state)
        self.pinned = {
            name: torch.empty_like(tensor, device="cpu", pin_memory=True)
            for name, tensor in self._live().items()
        }

    def _live(self) -> dict[str, Tensor]:
        return {"vector": self.batch.flat.vector, **self.batch.optimizer.state}

    def take(self, step: int) -> Callable[[], None]:
        """Copy the state on the device now; the result waits for it, evaluates it and shows it to the runs."""
        batch = self.batch
        main = torch.cuda.current_stream(batch.device)
        held = {name: tensor.clone() for name, tensor in self._live().items()}
        self.stream.wait_stream(main)

        def show() -> None:
            with torch.cuda.stream(self.stream):
                for name, tensor in held.items():
                    tensor.record_stream(self.stream)
                    self.pinned[name].copy_(tensor, non_blocking=True)
                known: list[dict[str, float]] = []

                def scalars(place: int) -> dict[str, float]:
                    if not known:
                        with torch.cuda.stream(self.stream):
                            flat = FlatParameters.over(held["vector"], batch.model.shapes)
                            known.extend(batch.scalars(flat.detached()))
                    return known[place]

            self.stream.synchronize()
            state = {name: self.pinned[name] for name in self.names[1:]}
            batch.show(self.pinned["vector"], state, scalars)

        return show
