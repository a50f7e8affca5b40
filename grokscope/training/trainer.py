"""The trainer: one recipe to one run directory, resumable, and the same bytes every time."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from grokscope.errors import GrokscopeError
from grokscope.models import Params
from grokscope.tasks import check_data, random_stream, task_record
from grokscope.training.evaluation import TIME, Evaluator
from grokscope.training.gradient import TrainingGradient
from grokscope.training.gradient_filters import AVERAGE, WINDOW, GradientFilter
from grokscope.training.interrupts import deferred_interrupt
from grokscope.training.intervene import NormClamp, initial_params, parameter_spans
from grokscope.training.jacobian_penalty import JacobianPenalty
from grokscope.training.machine import process_settings
from grokscope.training.onset import OnsetWatch
from grokscope.training.optimizers import FlatParameters, Optimizer, learning_rate
from grokscope.training.origins import (
    all_said,
    first_step,
    matching_manifest,
    recorded_precision,
    said_end,
)
from grokscope.training.provenance import now, provenance
from grokscope.training.recipe import Recipe
from grokscope.training.scalars import scalar_names
from grokscope.training.until import UntilWatch, read_condition
from grokscope.trajectory import (
    MANIFEST_NAME,
    TrajectoryWriter,
    read_snapshot,
    snapshot_steps,
    write_manifest,
    write_snapshot,
)

SCALAR_ROWS = 32
"""Evaluations committed at a time: a killed run goes back behind its last commit of either kind."""

Report = Callable[[int, Mapping[str, float]], None]
"""Called with the step and its scalars after every evaluation."""


class Witness(Protocol):
    """Compares what is recomputed with what an earlier run stored."""

    def check(self, session: Session, step: int) -> None:
        """Called with the state at ``step`` in place; raises GrokscopeError where it is another."""


@dataclass(frozen=True)
class Outcome:
    """How a call of :func:`train` ended: the last step reached, and whether that is the recipe's last."""

    directory: Path
    step: int
    finished: bool
    seconds: float


def choose_device(name: str) -> torch.device:
    """``auto`` is a GPU when there is one; ``cuda`` without one is an error."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise GrokscopeError(f"choosing a device: {name!r} was given, expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise GrokscopeError("choosing a device: cuda was given and torch sees no GPU, expected cpu or auto")
    return torch.device(name)


def train(
    recipe: Recipe,
    directory: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    report: Report | None = None,
) -> Outcome:
    """Train ``recipe`` into ``directory``.

    With ``resume`` a finished run is left alone, a stopped or killed one goes on from its last usable
    snapshot (what it passes again is compared with what is stored), and a missing one starts. Ctrl-C ends
    the run after the present step with everything so far committed.

    Raises:
        GrokscopeError: the directory exists and ``resume`` is off; its config is another; the loss is no
            longer finite; the disk is full; or recomputed values differ from the stored ones.
    """
    place = choose_device(device)
    if directory.exists() and not resume:
        raise GrokscopeError(
            f"training {recipe.name}: {directory} exists, expected a new name (--name) or --resume"
        )
    precision = recorded_precision(directory)
    with process_settings(recipe.train.threads, place, precision), deferred_interrupt() as interrupted:
        return Session(recipe, directory, place, report, interrupted).run()


class _NotFinite(GrokscopeError):
    """The loss overflowed: the run ends, and what led there is kept."""


class Session:
    """The state of a run while it moves; :meth:`run` is one call of :func:`train`."""

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        device: torch.device,
        report: Report | None,
        interrupted: Callable[[], bool],
        witness: Witness | None = None,
    ) -> None:
        self.recipe, self.directory, self.device = recipe, directory, device
        self.report, self.interrupted, self.witness = report, interrupted, witness
        self.task, self.model = recipe.build()
        dtype = torch.float32 if recipe.train.dtype == "float32" else torch.float64
        drawn = self.model.init(random_stream(recipe.seed, "initial weights"), dtype)
        initial = initial_params(recipe.intervene, self.model, drawn)
        self.flat = FlatParameters.of(initial, device)
        clamp, chosen = recipe.intervene.clamp, recipe.intervene.filter
        self.optimizer = Optimizer(
            recipe.train, self.flat, parameter_spans(recipe.intervene, self.model),
            None if clamp is None else NormClamp([clamp], self.model, self.flat.vector),
            None if chosen is None else GradientFilter(chosen, self.model, self.flat.vector),
        )  # fmt: skip
        self.evaluate = lambda: self.evaluator(self._detached())
        self.company: dict[str, int] = {}
        self.sum_lr = 0.0
        self.onset = OnsetWatch(self.task, recipe.save.onset_fall)
        names = [*scalar_names(self.task), *recipe.save.also]
        condition = read_condition(recipe.train.until, names, f"training {directory.name}: train.until")
        self.until = UntilWatch(condition, recipe.train.until_hold)
        self.first = 0
        stored = recipe.save.precision
        self.stored_dtype = {"float32": np.float32, "float64": np.float64}[
            recipe.train.dtype if stored == "train" else stored
        ]

    @cached_property
    def evaluator(self) -> Evaluator:
        """Of the scalars, on the device."""
        return Evaluator(self.task, self.model, self.recipe, self.device)

    @cached_property
    def gradient(self) -> TrainingGradient:
        """Of the training objective, on the device."""
        dtype = self.flat.vector.dtype
        return TrainingGradient(self.task, self.model, self.recipe.train, self.device, dtype)

    @cached_property
    def penalty(self) -> JacobianPenalty | None:
        """On the Jacobian, where the recipe has one."""
        settings = self.recipe.intervene.jacobian
        if settings is None:
            return None
        return JacobianPenalty(settings, self.model, self.gradient.inputs, self.recipe.seed)

    def run(self) -> Outcome:
        """Train to the end, or to an interruption."""
        walk = self.walk()
        try:
            step, stop = next(walk)
            while True:
                step, stop = walk.send(self._advance(step, stop))
        except StopIteration as ended:
            return ended.value
        finally:
            walk.close()

    def _advance(self, step: int, stop: int) -> int:
        """Move the weights from ``step`` to ``stop``, or until an interruption; the step reached."""
        for at in range(step, stop):
            if at > step and self.interrupted():
                return at
            self._update(at)
        return stop

    def walk(self) -> Generator[tuple[int, int], int, Outcome]:
        """Everything but the updates: yields (step, stop), and is sent the step to which the caller moved the
        weights, which is less than ``stop`` only after an interruption.

        The first pair is twice the step at which this call begins, with nothing evaluated yet. Closing it early
        leaves the run as a kill would.
        """
        began = time.perf_counter()
        path = self.directory / "trajectory.h5"
        columns = {name: (shape, self.stored_dtype) for name, shape in self.model.shapes.items()}
        scalars = [*scalar_names(self.task), *self.recipe.save.also, TIME]
        room = {
            "expected_saves": self.recipe.most_saves() + 1,
            "expected_scalars": self.recipe.most_evaluations() + 1,
        }
        if path.exists():
            manifest = self._matching_manifest()
            last = said_end(manifest, self.recipe)
            writer = TrajectoryWriter.resume(path, columns, scalars, **room)
            stored = (
                len(writer.stored_steps) and writer.stored_steps[-1] == last and writer.resume_bound == last
            )
            # killed between its last commit and its last word in run.json, it goes through its last step again
            if stored and all_said(manifest, self.recipe):
                writer.abandon()
                return Outcome(self.directory, last, True, 0.0)
            start = self.restore(writer.resume_bound)
        else:
            manifest = self._new_run()
            start = self.restore(self.first)
            writer = TrajectoryWriter(path, columns, scalars, scalar_rows=SCALAR_ROWS, **room)
        try:
            reached = yield from self._loop(writer, start)
            writer.close()
        except _NotFinite:
            # the partial blocks too: they are the way there
            writer.close()
            raise
        except BaseException:
            writer.abandon()
            raise
        finished = reached in (self.recipe.train.steps, self.until.step)
        if finished and reached == self.until.step:
            manifest["ended"] = {"step": reached, "until": self.recipe.train.until}
        if self.recipe.waits_for_onset():
            manifest["onset"] = self.onset.as_json()
        if finished:
            seconds = round(time.perf_counter() - began, 3)
            facts = manifest.get("provenance")
            done = {**(facts if isinstance(facts, Mapping) else {}), "finished": now(), "seconds": seconds}
            manifest["provenance"] = done
        if finished or "onset" in manifest:
            write_manifest(self.directory, manifest)
        return Outcome(self.directory, reached, finished, time.perf_counter() - began)

    def _new_run(self) -> dict[str, Any]:
        if (self.directory / MANIFEST_NAME).exists():
            # stopped before its file was there: still the run of its own recipe
            manifest = self._matching_manifest()
            if "parent" in manifest:
                return manifest
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GrokscopeError(
                f"training {self.recipe.name}: cannot make {self.directory}: {error.strerror}"
            ) from None
        manifest = {
            "name": self.directory.name,
            "kind": "trained",
            "config": self.recipe.config(),
            **task_record(self.task),
            "provenance": provenance(self.device, self.recipe.train.threads) | self.company,
        }
        write_manifest(self.directory, manifest)
        return manifest

    def _matching_manifest(self) -> dict[str, Any]:
        manifest = matching_manifest(self.directory, self.recipe, self.device)
        check_data(self.task, manifest, f"resuming {self.directory}")
        self.first = first_step(manifest)
        return manifest

    def restore(self, bound: int) -> int:
        """Load the newest readable snapshot at or before ``bound`` and return its step; without one begin at
        step 0. A run that begins later always has the snapshot of its first step."""
        bound = max(bound, self.first)
        for step in sorted((s for s in snapshot_steps(self.directory) if s <= bound), reverse=True):
            try:
                self._load(*read_snapshot(self.directory, step))
            except (GrokscopeError, KeyError, ValueError):
                continue  # a damaged snapshot costs recomputation, never correctness: an older one serves
            return step
        if self.first:
            raise GrokscopeError(
                f"opening {self.directory}: the snapshot of its first step, {self.first}, is missing or damaged, "
                "expected it, since that state came from another run"
            )
        return 0

    def _load(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        vectors = {"weights": self.flat.vector, **self.optimizer.state}
        if not any(name in arrays for name in (AVERAGE, WINDOW)):
            # a fork that brings in a filter: its parent had none to remember
            arrays = {
                **arrays,
                **{
                    name: np.full(tuple(vectors[name].shape), np.nan)
                    for name in (AVERAGE, WINDOW)
                    if name in vectors
                },
            }
        for name, vector in vectors.items():
            if arrays[name].shape != tuple(vector.shape):
                raise ValueError(f"{name} has shape {arrays[name].shape}")
        sum_lr = float(metadata["sum_lr"])
        self.onset.restore(metadata)
        self.until.restore(metadata)
        self.sum_lr = sum_lr
        for name, vector in vectors.items():
            vector.copy_(torch.from_numpy(arrays[name]))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Everything that what follows depends on, besides the recipe and the step, as a snapshot holds it."""
        vectors = {"weights": self.flat.vector, **self.optimizer.state}
        arrays = {name: vector.cpu().numpy() for name, vector in vectors.items()}
        return arrays, {"sum_lr": repr(self.sum_lr), **self.onset.state(), **self.until.state()}

    def recompute(self, start: int, stop: int) -> int:
        """Move from ``start`` to ``stop``, writing nothing, and return the step reached (interrupted: less).

        The state is then what a snapshot of ``stop`` holds: the evaluation there is still to come.
        """
        evaluations = self._evaluations()
        for step in range(start, stop):
            if step in evaluations and self._seen(step, self._scalars(step)):
                evaluations = self._evaluations()
            if self.witness is not None:
                self.witness.check(self, step)
            if self.interrupted():
                return step
            self._update(step)
            self.sum_lr += learning_rate(self.recipe.train, step)
        return stop

    def _loop(self, writer: TrajectoryWriter, start: int) -> Generator[tuple[int, int], int, int]:
        recipe, last = self.recipe, self.recipe.train.steps
        saves, evaluations = self._saves(), self._evaluations()
        snapshots = frozenset(recipe.snapshot_steps().tolist())
        stops = self.stops()
        step = yield start, start
        while True:
            if step in snapshots and step > start:
                write_snapshot(self.directory, step, *self.state())
            if step in evaluations:
                scalars = self._scalars(step)
                writer.scalar(step, {**scalars, TIME: self.sum_lr})
                if self._seen(step, scalars):
                    saves, evaluations, stops = self._saves(), self._evaluations(), self.stops()
                self.until.observe(step, scalars)
            if step in saves or step == self.until.step:
                writer.save(step, self.weights())
            if self.witness is not None:
                self.witness.check(self, step)
            if step in (last, self.until.step) or self.interrupted():
                return step
            stop = step + 1 if self.witness is not None else stops[bisect_right(stops, step)]
            reached = yield step, stop
            for passed in range(step, reached):
                self.sum_lr += learning_rate(recipe.train, passed)
            if reached < stop:
                return reached
            step = stop

    def stops(self) -> list[int]:
        """Sorted steps at which something is read off the state, as far as they are known now."""
        snapshots = self.recipe.snapshot_steps().tolist()
        return sorted({*self._saves(), *self._evaluations(), *snapshots, self.recipe.train.steps})

    def _saves(self) -> frozenset[int]:
        return frozenset(self.recipe.save_steps(self.onset.step).tolist()) | self._taken_up()

    def _evaluations(self) -> frozenset[int]:
        return frozenset(self.recipe.evaluation_steps(self.onset.step).tolist()) | self._taken_up()

    def _taken_up(self) -> frozenset[int]:
        # the state that came from another run is kept, whatever the schedule says
        return frozenset({self.first} if self.first else ())

    def _scalars(self, step: int) -> dict[str, float]:
        scalars = self.evaluate()
        if not all(math.isfinite(value) for value in scalars.values()):
            raise _NotFinite(
                f"training {self.directory.name}: the loss is not finite at step {step}, expected a rate that "
                f"converges (train.lr = {self.recipe.train.lr}); what was committed is kept"
            )
        return scalars

    def _seen(self, step: int, scalars: Mapping[str, float]) -> bool:
        """Tell the caller of an evaluation; whether it is the onset, so that the schedule grows."""
        if self.report is not None:
            self.report(step, scalars)
        return self.onset.observe(step, scalars)

    def _detached(self) -> Params:
        return {name: value.detach() for name, value in self.flat.params.items()}

    def weights(self) -> dict[str, np.ndarray]:
        """Every tensor as it is stored, by name: views of one array, valid until the next update."""
        # one transfer for all tensors, then views; the writer copies what it keeps
        vector = self.flat.vector.cpu().numpy().astype(self.stored_dtype, copy=False)
        found, offset = {}, 0
        for name, shape in self.model.shapes.items():
            size = math.prod(shape)
            found[name] = vector[offset : offset + size].reshape(shape)
            offset += size
        return found

    def _update(self, step: int) -> None:
        rows = self._batch(step)
        gradient = self.gradient(self.flat.params, rows)
        if self.penalty is not None:
            more = self.penalty(self.flat.params, step, rows)
            gradient = {name: value + more[name] for name, value in gradient.items()}
        self.flat.take(gradient)
        self.optimizer.update(step)

    def _batch(self, step: int) -> torch.Tensor | None:
        """Rows of the training samples for this update, a function of (seed, step) alone."""
        size = self.recipe.train.batch_size
        count = int(self.task.train_mask.sum())
        if not size or size >= count:
            return None
        per_epoch = -(-count // size)
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(count, generator=random_stream(self.recipe.seed, f"epoch {epoch}"))
        return order[position * size : (position + 1) * size].to(self.device)
