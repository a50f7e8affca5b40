"""The trainer: one recipe to one run directory, resumable, and the same bytes every time."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grokscope.errors import GrokscopeError
from grokscope.models import Params
from grokscope.tasks import pack_mask, random_stream
from grokscope.training.evaluation import TIME, Evaluator, objective
from grokscope.training.optimizers import FlatParameters, Optimizer, learning_rate
from grokscope.training.provenance import now, provenance
from grokscope.training.recipe import Recipe
from grokscope.trajectory import (
    MANIFEST_NAME,
    TrajectoryWriter,
    read_manifest,
    read_snapshot,
    snapshot_steps,
    write_manifest,
    write_snapshot,
)

SCALAR_ROWS = 32
"""Evaluations committed at a time: a killed run goes back behind its last commit of either kind."""

Report = Callable[[int, Mapping[str, float]], None]
"""Called with the step and its scalars after every evaluation."""


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
    with process_settings(recipe.train.threads, place), _deferred_interrupt() as interrupted:
        return _Session(recipe, directory, place, report, interrupted).run()


@contextmanager
def process_settings(threads: int, device: torch.device) -> Iterator[None]:
    """Thread count and deterministic kernels for the duration, restored afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    # only where it changes something: setting the flag, to anything, imports torch's compiler (two seconds)
    changes = device.type == "cuda" and not before[1]
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if changes:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if changes:
            torch.use_deterministic_algorithms(False)


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a flag that the loop reads between steps; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop.is_set
        return

    def handler(signum: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stop.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _Session:
    """One call of :func:`train`: the state of a run while it moves."""

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        device: torch.device,
        report: Report | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self.recipe, self.directory, self.device = recipe, directory, device
        self.report, self.interrupted = report, interrupted
        self.task, self.model = recipe.build()
        dtype = torch.float32 if recipe.train.dtype == "float32" else torch.float64
        initial = self.model.init(random_stream(recipe.seed, "initial weights"), dtype)
        self.flat = FlatParameters.of(initial, device)
        self.optimizer = Optimizer(recipe.train, self.flat)
        self.evaluator = Evaluator(self.task, self.model, recipe.train, device)
        self.objective = objective(self.task, self.model, recipe.train, device)
        self.sum_lr = 0.0
        stored = recipe.save.precision
        self.stored_dtype = {"float32": np.float32, "float64": np.float64}[
            recipe.train.dtype if stored == "train" else stored
        ]

    def run(self) -> Outcome:
        began = time.perf_counter()
        path, last = self.directory / "trajectory.h5", self.recipe.train.steps
        columns = {name: (shape, self.stored_dtype) for name, shape in self.model.shapes.items()}
        scalars = [*self.evaluator.names, TIME]
        room = {
            "expected_saves": len(self.recipe.save_steps()),
            "expected_scalars": len(self.recipe.evaluation_steps()),
        }
        if path.exists():
            manifest = self._matching_manifest()
            writer = TrajectoryWriter.resume(path, columns, scalars, **room)
            if len(writer.stored_steps) and writer.stored_steps[-1] == last and writer.resume_bound == last:
                writer.abandon()
                return Outcome(self.directory, last, True, 0.0)
            start = self._restore(writer.resume_bound)
        else:
            manifest, start = self._new_run(), 0
            writer = TrajectoryWriter(path, columns, scalars, scalar_rows=SCALAR_ROWS, **room)
        try:
            reached = self._loop(writer, start)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        finished = reached == last
        if finished:
            seconds = round(time.perf_counter() - began, 3)
            facts = manifest.get("provenance")
            done = {**(facts if isinstance(facts, Mapping) else {}), "finished": now(), "seconds": seconds}
            write_manifest(self.directory, {**manifest, "provenance": done})
        return Outcome(self.directory, reached, finished, time.perf_counter() - began)

    def _new_run(self) -> dict[str, Any]:
        if (self.directory / MANIFEST_NAME).exists():
            # stopped before its file was there: still the run of its own recipe
            self._same_config(read_manifest(self.directory))
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
            "split": pack_mask(self.task.train_mask),
            "provenance": provenance(self.device, self.recipe.train.threads),
        }
        write_manifest(self.directory, manifest)
        return manifest

    def _matching_manifest(self) -> dict[str, Any]:
        manifest = read_manifest(self.directory)
        self._same_config(manifest)
        facts = manifest.get("provenance")
        device = facts.get("device") if isinstance(facts, Mapping) else None
        if device not in (None, str(self.device)):
            raise GrokscopeError(
                f"resuming {self.directory}: the run was trained on {device}, --device gives {self.device}, "
                "expected the same: recomputed steps would differ"
            )
        return manifest

    def _same_config(self, manifest: Mapping[str, Any]) -> None:
        config = manifest.get("config")
        stored = _dotted(config) if isinstance(config, Mapping) else {}
        given = _dotted(self.recipe.config())
        for field in [*given, *stored]:
            if stored.get(field) != given.get(field):
                raise GrokscopeError(
                    f"resuming {self.directory}: {field} is {given.get(field)!r} in the recipe and "
                    f"{stored.get(field)!r} in the run, expected the same recipe"
                )

    def _restore(self, bound: int) -> int:
        """Load the newest readable snapshot at or before ``bound``; without one begin at step 0."""
        for step in sorted((s for s in snapshot_steps(self.directory) if s <= bound), reverse=True):
            try:
                arrays, metadata = read_snapshot(self.directory, step)
            except GrokscopeError:
                continue  # a damaged snapshot costs recomputation, never correctness: an older one serves
            self.flat.vector.copy_(torch.from_numpy(arrays["weights"]))
            for name, vector in self.optimizer.state.items():
                vector.copy_(torch.from_numpy(arrays[name]))
            self.sum_lr = float(metadata["sum_lr"])
            return step
        return 0

    def _snapshot(self, step: int) -> None:
        arrays = {"weights": self.flat.vector, **self.optimizer.state}
        write_snapshot(
            self.directory,
            step,
            {name: vector.cpu().numpy() for name, vector in arrays.items()},
            {"sum_lr": repr(self.sum_lr)},
        )

    def _loop(self, writer: TrajectoryWriter, start: int) -> int:
        recipe = self.recipe
        saves, evaluations, snapshots = (
            frozenset(steps.tolist())
            for steps in (recipe.save_steps(), recipe.evaluation_steps(), recipe.snapshot_steps())
        )
        for step in range(start, recipe.train.steps + 1):
            if step in snapshots and step > start:
                self._snapshot(step)
            if step in evaluations:
                self._evaluate(writer, step)
            if step in saves:
                writer.save(step, self._weights())
            if step == recipe.train.steps:
                break
            if self.interrupted():
                return step
            self._update(step)
        return recipe.train.steps

    def _evaluate(self, writer: TrajectoryWriter, step: int) -> None:
        scalars = self.evaluator(self._detached())
        if not all(math.isfinite(value) for value in scalars.values()):
            writer.close()
            raise GrokscopeError(
                f"training {self.directory.name}: the loss is not finite at step {step}, expected a rate that "
                f"converges (train.lr = {self.recipe.train.lr}); what was committed is kept"
            )
        writer.scalar(step, {**scalars, TIME: self.sum_lr})
        if self.report is not None:
            self.report(step, scalars)

    def _detached(self) -> Params:
        return {name: value.detach() for name, value in self.flat.params.items()}

    def _weights(self) -> dict[str, np.ndarray]:
        # one transfer for all tensors, then views; the writer copies what it keeps
        vector = self.flat.vector.cpu().numpy().astype(self.stored_dtype, copy=False)
        found, offset = {}, 0
        for name, shape in self.model.shapes.items():
            size = math.prod(shape)
            found[name] = vector[offset : offset + size].reshape(shape)
            offset += size
        return found

    def _update(self, step: int) -> None:
        self.flat.gradient.zero_()
        self.objective(self.flat.params, self._batch(step)).backward()
        with torch.no_grad():
            self.optimizer.update(step)
        self.sum_lr += learning_rate(self.recipe.train, step)

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


def _dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
