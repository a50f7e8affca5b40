"""Replay: a stretch of a trained run computed again, at another density, to the same bits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from grokscope.errors import GrokscopeError
from grokscope.training.interrupts import deferred_interrupt
from grokscope.training.machine import process_settings
from grokscope.training.parent import (
    Parent,
    StoredStates,
    check_reached,
    described,
    made_whole,
    state_at,
    take_up,
)
from grokscope.training.recipe import Recipe
from grokscope.training.trainer import Report, Session
from grokscope.trajectory import read_manifest, write_manifest


@dataclass(frozen=True)
class Replay:
    """What a call of :func:`replay_run` made.

    Attributes:
        begun: the step of the snapshot that the computation began at, 0 for the initial weights.
        saves: how many saves it holds.
        same_saves, same_snapshots: how many stored saves and snapshots of the original were met on the way, all
            of them equal bit for bit.
    """

    directory: Path
    begun: int
    saves: int
    same_saves: int
    same_snapshots: int


@dataclass(frozen=True)
class Stretch:
    """The steps A to B, both included, every K."""

    first: int
    last: int
    spacing: int

    @property
    def window(self) -> str:
        return f"{self.first}:{self.last}:{self.spacing}"

    @property
    def name(self) -> str:
        """What is put behind the name of the run by default."""
        return f".replay-{self.first}-{self.last}-{self.spacing}"


def read_stretch(text: str, parent: Parent, doing: str) -> Stretch:
    """``"A:B:K"``, of which each may be left out (its first step, the last it reached, 1).

    Raises GrokscopeError when it does not read, or asks for steps that the run was never at.
    """
    pieces = [piece.strip() for piece in text.split(":")]
    whole = all(piece == "" or (piece.isascii() and piece.isdigit() and len(piece) <= 15) for piece in pieces)
    if len(pieces) not in (2, 3) or not whole:
        raise GrokscopeError(
            f"{doing}: --steps was {text!r}, expected A:B:K in whole numbers, both ends included"
        )
    first, last, spacing = [int(piece) if piece else None for piece in (*pieces, "")[:3]]
    first = parent.first if first is None else first
    last = parent.reached if last is None else last
    spacing = 1 if spacing is None else spacing
    if spacing < 1 or first > last or last < 1:
        raise GrokscopeError(f"{doing}: --steps was {text!r}, expected A:B:K with A <= B, B >= 1 and K >= 1")
    check_reached(parent, first, doing, f"--steps {text}")
    check_reached(parent, last, doing, f"--steps {text}")
    return Stretch(first, last, spacing)


def replay_run(parent: Parent, stretch: Stretch, directory: Path, *, report: Report | None = None) -> Replay:
    """Compute ``stretch`` of ``parent`` again into the new run ``directory``.

    The computation begins at the nearest optimiser snapshot at or before the first step, on the same device,
    with the same threads and matrix products. Every save and snapshot of the original that it passes is
    compared bit for bit. The result is a run of its own, of kind *replayed*, with its own snapshots.

    Raises:
        GrokscopeError: ``directory`` exists; the conditions cannot be had here; interrupted; or something
            differs from what is stored, naming the step and the tensor. Nothing is left then.
    """
    doing = f"replaying {parent.name}"
    recipe = _recipe(parent, stretch)
    settings = process_settings(parent.recipe.train.threads, parent.device, parent.precision)
    with (
        made_whole(directory, doing) as place,
        settings,
        deferred_interrupt() as interrupted,
        StoredStates(parent, doing) as stored,
    ):
        session = state_at(
            parent, stretch.first, doing, report=report, interrupted=interrupted, stored=stored
        )
        origin = {**described(parent), "steps": stretch.window}
        take_up(place, directory.name, "replayed", recipe, session, stretch.first, origin)
        outcome = Session(recipe, place, parent.device, report, interrupted, stored).run()
        if not outcome.finished:
            raise GrokscopeError(f"{doing}: interrupted at step {outcome.step}, nothing was written")
        manifest = read_manifest(place)
        write_manifest(place, {**manifest, "parent": {**manifest["parent"], "same": stored.as_json()}})
    return Replay(directory, stored.begun, len(recipe.save_steps()), len(stored.saves), len(stored.snapshots))


def _recipe(parent: Parent, stretch: Stretch) -> Recipe:
    """The same training, which ends with the stretch and saves it."""
    windows = (stretch.window,)
    train = dataclasses.replace(parent.recipe.train, steps=stretch.last, until="")
    save = dataclasses.replace(parent.recipe.save, schedule=windows, evaluate=windows)
    return dataclasses.replace(parent.recipe, train=train, save=save)
