"""Fork: the state of a trained run at a step, continued under changed settings.

A fork shares weights, optimiser state, elapsed time, batch order and whatever its schedule had triggered with
its parent at the step where they part; from there on only what was changed is different, so that what follows
is an effect of the change. Steps go on counting from the parent's: a warm-up, for one, is over where its steps
are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from grokscope.training.recipe import Recipe, recipe_from
from grokscope.training.trainer import Outcome, Report, train
from grokscope.trajectory import apply_overrides, read_manifest

FIXED = ("seed", "task", "model", "train.optimizer", "train.dtype", "intervene.init")
"""Fields that say what a state is: under another value it could not be gone on with."""


@dataclass(frozen=True)
class Fork:
    """One fork to be made: where, and under which recipe."""

    directory: Path
    recipe: Recipe


def forked_recipe(parent: Parent, overrides: Sequence[str] = ()) -> Recipe:
    """The parent's recipe with ``FIELD=VALUE`` overrides. Raises GrokscopeError; see :func:`check_fork`."""
    config = json.loads(json.dumps(parent.recipe.config()))
    return recipe_from(apply_overrides(config, overrides), f"the fork of {parent.name}")


def check_fork(parent: Parent, at: int, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The fields that ``recipe`` changes, each ``{"from", "to"}``.

    Raises GrokscopeError: a field of :data:`FIXED` is changed, the parent was never at step ``at``, or the fork
    would have no step to make.
    """
    doing = f"forking {parent.name}"
    check_reached(parent, at, doing, f"--at {at}")
    changed = {}
    for field, new, old in recipe.differences(parent.recipe.config()):
        if any(field == fixed or field.startswith(f"{fixed}.") for fixed in FIXED):
            raise GrokscopeError(
                f"{doing}: {field} was set to {new!r}, expected {old!r}: another {field} would give the state "
                "another meaning; what may change is how it moves on (train.*) and what is kept of it (save.*)"
            )
        changed[field] = {"from": old, "to": new}
    if recipe.train.steps <= at:
        raise GrokscopeError(
            f"{doing}: --at is {at} and train.steps {recipe.train.steps}, expected a step before the last "
            f"(or --set train.steps=N, N above {at})"
        )
    return changed


def prepare_forks(
    parent: Parent, at: int, forks: Sequence[Fork], *, resume: bool = False, report: Report | None = None
) -> None:
    """Make the directory of every fork, with the state at step ``at`` in it; training them is left to do.

    The state is recomputed from the nearest snapshot, once for all of them, and compared with what the parent
    stored on the way. With ``resume`` forks that exist are left as they are.

    Raises:
        GrokscopeError: a recipe cannot be a fork's (see :func:`check_fork`); a directory exists without
            ``resume``, or is no fork of this parent at this step; interrupted; or a state differs from the
            stored one.
    """
    doing = f"forking {parent.name}"
    changes = [check_fork(parent, at, fork.recipe) for fork in forks]
    missing = [index for index, fork in enumerate(forks) if not _exists(parent, at, fork, resume)]
    if not missing:
        return
    settings = process_settings(parent.recipe.train.threads, parent.device, parent.precision)
    with settings, deferred_interrupt() as interrupted, StoredStates(parent, doing) as stored:
        session = state_at(parent, at, doing, report=report, interrupted=interrupted, stored=stored)
        origin = {**described(parent), "same": stored.as_json()}
        for index in missing:
            fork, changed = forks[index], {"changed": changes[index]}
            with made_whole(fork.directory, doing) as place:
                name = fork.directory.name
                take_up(place, name, "forked", fork.recipe, session, at, {**origin, **changed})


def fork_run(
    parent: Parent,
    at: int,
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    report: Report | None = None,
) -> Outcome:
    """Go on from the state of ``parent`` at step ``at`` under changed settings, into the run ``directory``.

    The new run holds the steps from ``at`` on, ``at`` itself among its saves. With nothing changed it is the
    parent, bit for bit. It is resumed like any run.

    Raises:
        GrokscopeError: as :func:`prepare_forks` and :func:`~grokscope.training.train`.
    """
    recipe = forked_recipe(parent, overrides)
    prepare_forks(parent, at, [Fork(directory, recipe)], resume=resume, report=report)
    return train(recipe, directory, device=parent.device.type, resume=True, report=report)


def _exists(parent: Parent, at: int, fork: Fork, resume: bool) -> bool:
    """Whether the fork is there already; an error where it is another run, or not to be resumed."""
    doing = f"forking {parent.name}"
    if not fork.directory.exists():
        return False
    if not resume:
        raise GrokscopeError(f"{doing}: {fork.directory} exists, expected a new name (--name) or --resume")
    manifest = read_manifest(fork.directory)
    origin = manifest.get("parent")
    found = (origin.get("name"), origin.get("at")) if isinstance(origin, dict) else None
    if manifest.get("kind") != "forked" or found != (parent.name, at):
        is_ = f"a fork of {found[0]} at step {found[1]}" if found else f"a run of kind {manifest.get('kind')}"
        raise GrokscopeError(
            f"{doing}: {fork.directory} is {is_}, expected the fork of {parent.name} at step {at} to resume"
        )
    return True
