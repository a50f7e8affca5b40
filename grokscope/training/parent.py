"""A stored run whose states are computed again: what a replay and a fork take up.

Training is a function of the recipe, the device, the number of threads and the precision of float32 products;
all of them are recorded, so every state of a run can be had again, bit for bit, from an optimiser snapshot
before it. Whatever the run stored on the way is compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from grokscope.claims import claimed
from grokscope.errors import GrokscopeError
from grokscope.tasks import task_record
from grokscope.training.machine import Precision
from grokscope.training.origins import first_step, recorded_precision
from grokscope.training.provenance import provenance
from grokscope.training.recipe import Recipe, recipe_from
from grokscope.training.trainer import Report, Session, choose_device
from grokscope.trajectory import (
    Trajectory,
    read_manifest,
    read_snapshot,
    snapshot_steps,
    write_manifest,
    write_snapshot,
)

_ROWS = 16
"""Saves read at a time for comparing."""


@dataclass(frozen=True)
class Parent:
    """A run that grokscope trained, and the conditions under which its states come out the same.

    Attributes:
        first: the step of its first state: 0, unless it is a replay or a fork itself.
        reached: the last step that it has a save, an evaluation or a snapshot of.
    """

    directory: Path
    manifest: Mapping[str, Any]
    recipe: Recipe
    device: torch.device
    precision: Precision | None
    first: int
    reached: int

    @property
    def name(self) -> str:
        return self.directory.name


def open_parent(directory: Path, doing: str) -> Parent:
    """The run in ``directory``, its device checked; ``doing`` begins every message.

    Raises GrokscopeError: it was imported, has committed nothing, or its device cannot be had here.
    """
    manifest = read_manifest(directory)
    kind, config = manifest.get("kind"), manifest.get("config")
    if kind not in ("trained", "replayed", "forked") or not isinstance(config, Mapping):
        raise GrokscopeError(
            f"{doing}: it is {kind or 'of no known kind'}, expected a run that grokscope trained: of others there "
            "is no optimiser to go on from"
        )
    recipe = recipe_from(config, f"{directory / 'run.json'}")
    facts = manifest.get("provenance")
    facts = facts if isinstance(facts, Mapping) else {}
    try:
        device = choose_device(str(facts.get("device")).partition(":")[0])
    except GrokscopeError:
        raise GrokscopeError(
            f"{doing}: it was trained on {facts.get('device')!s}, which this machine does not have, expected the "
            "same device: on another one its states would differ"
        ) from None
    if facts.get("threads", recipe.train.threads) != recipe.train.threads:
        raise GrokscopeError(
            f"{doing}: run.json says {facts.get('threads')!r} threads under provenance and {recipe.train.threads} "
            "under config, expected the same: sums depend on it"
        )
    if facts.get("runs_on_one_axis"):
        raise GrokscopeError(
            f"{doing}: it was trained on a GPU together with others ({facts['runs_on_one_axis']!s} runs on one axis), "
            "expected a run trained alone: products of a batch round with its size, so its states would differ"
        )
    trajectory = Trajectory(directory / "trajectory.h5")
    ends = [trajectory.steps[-1:], trajectory.scalars["step"][-1:], snapshot_steps(directory)[-1:]]
    reached = max((int(step) for end in ends for step in end), default=-1)
    if reached < 0:
        raise GrokscopeError(
            f"{doing}: nothing of it is committed yet, expected a run with at least one save"
        )
    return Parent(
        directory, manifest, recipe, device, recorded_precision(directory), first_step(manifest), reached
    )


def check_reached(parent: Parent, step: int, doing: str, given: str) -> None:
    """Raise GrokscopeError unless the run has been at ``step``, which the option ``given`` asks for."""
    if step < parent.first:
        origin = parent.manifest.get("parent", {}).get("name", "another run")
        raise GrokscopeError(
            f"{doing}: {given} asks for step {step}, expected {parent.first} or later, where it took up a state of "
            f"{origin}, which holds what came before"
        )
    if step > parent.reached:
        to_go = 0 if "ended" in parent.manifest else parent.recipe.train.steps - parent.reached
        where = f"the last step that it reached, {to_go} before its end" if to_go > 0 else "its last step"
        raise GrokscopeError(
            f"{doing}: {given} asks for step {step}, expected at most {parent.reached}, {where}"
        )


def state_at(
    parent: Parent,
    step: int,
    doing: str,
    *,
    report: Report | None,
    interrupted: Callable[[], bool],
    stored: StoredStates,
) -> Session:
    """The parent moved to ``step``, recomputed from the nearest snapshot at or before it.

    To be called under the parent's process settings. Raises GrokscopeError when interrupted, or where
    something stored on the way is not what comes out.
    """
    session = Session(parent.recipe, parent.directory, parent.device, report, interrupted, stored)
    session.first = parent.first
    begun = session.restore(step)
    stored.begun = begun
    reached = session.recompute(begun, step)
    if reached < step:
        raise GrokscopeError(
            f"{doing}: interrupted at step {reached} on the way to {step}, nothing was written"
        )
    stored.check(session, step)
    return session


class StoredStates:
    """What a parent stored, compared bit for bit with the states that are recomputed.

    Attributes:
        begun: the step of the snapshot that the computation began at.
        saves, snapshots: the steps at which stored weights, and stored optimiser states, were found equal.
    """

    def __init__(self, parent: Parent, doing: str) -> None:
        self.parent, self.doing = parent, doing
        self.begun = 0
        self.saves: set[int] = set()
        self.snapshots: set[int] = set()
        self._trajectory = Trajectory(parent.directory / "trajectory.h5")
        self._rows = {int(step): row for row, step in enumerate(self._trajectory.steps)}
        self._snapshots = set(snapshot_steps(parent.directory))
        self._block: tuple[int, dict[str, np.ndarray]] = (-1, {})

    def __enter__(self) -> Self:
        self._trajectory.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._trajectory.close()

    def check(self, session: Session, step: int) -> None:
        """Compare the state of ``session``; see :class:`~grokscope.training.trainer.Witness`."""
        if step in self._rows and step not in self.saves:
            weights = session.weights()
            for name, saved in self._saved(self._rows[step]).items():
                self._same(step, f"tensor {name!r}", saved, weights[name])
            self.saves.add(step)
        if step in self._snapshots and step not in self.snapshots and step > self.begun:
            try:
                arrays, metadata = read_snapshot(self.parent.directory, step)
            except GrokscopeError:
                return  # damaged: there is nothing to compare with
            state, seen = session.state()
            for name, array in arrays.items():
                self._same(step, f"{name} in the snapshot", array, state.get(name, array[:0]))
            if metadata.get("sum_lr") != seen["sum_lr"]:
                self._differ(step, "the sum of learning rates in the snapshot")
            self.snapshots.add(step)

    def as_json(self) -> dict[str, int]:
        """How much was compared, for ``run.json``."""
        return {"saves": len(self.saves), "snapshots": len(self.snapshots)}

    def _saved(self, row: int) -> dict[str, np.ndarray]:
        start = row // _ROWS * _ROWS
        if self._block[0] != start:
            rows = slice(start, start + _ROWS)
            self._block = start, {name: self._trajectory.read(name, rows) for name in self._trajectory.names}
        return {name: held[row - start] for name, held in self._block[1].items()}

    def _same(self, step: int, what: str, held: np.ndarray, found: np.ndarray) -> None:
        if held.dtype != found.dtype or held.shape != found.shape or held.tobytes() != found.tobytes():
            self._differ(step, what)

    def _differ(self, step: int, what: str) -> None:
        raise GrokscopeError(
            f"{self.doing}: {what} at step {step} differs from the stored one, expected the same bits; "
            f"{self._conditions()}"
        )

    def _conditions(self) -> str:
        """What is not as it was when the run was trained."""
        then = self.parent.manifest.get("provenance", {})
        now = provenance(self.parent.device, self.parent.recipe.train.threads)
        kept = ("grokscope", "git_commit", "torch", "device_name", "matmul_precision")
        changed = [f"{k} {then.get(k)!s} then, {now[k]!s} now" for k in kept if then.get(k) != now[k]]
        return "; ".join(changed) or "versions and processor are as they were: a file may have been changed"


def take_up(
    place: Path, name: str, kind: str, recipe: Recipe, session: Session, step: int, parent: Mapping[str, Any]
) -> None:
    """Make ``place`` a run called ``name`` that begins at ``step`` with the state of ``session``.

    ``parent`` says where it comes from, in ``run.json``. The trainer goes on from there.
    """
    facts = provenance(session.device, recipe.train.threads)
    write_snapshot(place, step, *session.state())
    manifest = {
        "name": name,
        "kind": kind,
        "parent": {**parent, "at": step},
        "config": recipe.config(),
        **task_record(session.task),
        "provenance": facts,
    }
    write_manifest(place, manifest)


def described(parent: Parent) -> dict[str, Any]:
    """Which run it was, at the moment it is taken up."""
    trajectory = Trajectory(parent.directory / "trajectory.h5")
    return {
        "name": parent.name,
        "kind": parent.manifest.get("kind"),
        "checksum": trajectory.checksum(),
        "saves": len(trajectory.steps),
        "reached": parent.reached,
    }


@contextmanager
def made_whole(directory: Path, doing: str) -> Iterator[Path]:
    """A new folder under a temporary name beside ``directory``, which takes that name at the end.

    Where anything fails nothing is left. Raises GrokscopeError when ``directory`` exists or cannot be made, or
    another process is making it.
    """
    if directory.exists():
        raise GrokscopeError(f"{doing}: {directory} exists, expected a new name (--name)")
    with claimed(directory):
        place = directory.with_name(f".{directory.name}.part")
        # what a killed process was making
        shutil.rmtree(place, ignore_errors=True)
        try:
            try:
                place.mkdir()
                yield place
                place.rename(directory)
            except OSError as error:
                raise GrokscopeError(f"{doing}: cannot make {directory}: {error.strerror}") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)
