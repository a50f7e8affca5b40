"""What ``run.json`` says of how a run was begun and how it ended; a run that goes on must keep to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope.errors import GrokscopeError
from grokscope.training.machine import Precision
from grokscope.trajectory import MANIFEST_NAME, read_manifest

if TYPE_CHECKING:
    import torch

    from grokscope.training.recipe import Recipe


def recorded_precision(directory: Path) -> Precision | None:
    """The precision of float32 products that the run in ``directory`` was begun with; ``None`` for none."""
    if not (directory / MANIFEST_NAME).exists():
        return None
    facts = read_manifest(directory).get("provenance")
    found = facts.get("matmul_precision") if isinstance(facts, Mapping) else None
    return found if found in ("highest", "medium") else None


def first_step(manifest: Mapping[str, Any]) -> int:
    """The step at which a run begins: 0, or where a replay or a fork took up the state of its parent.

    Raises GrokscopeError when ``run.json`` does not say it in a whole number.
    """
    parent = manifest.get("parent", {})
    at = parent.get("at", 0) if isinstance(parent, Mapping) else None
    if not isinstance(at, int) or isinstance(at, bool) or at < 0:
        raise GrokscopeError(
            f"reading the run {manifest.get('name')!s}: its parent is {parent!r:.60}, expected a table whose "
            "'at' is a step"
        )
    return at


def matching_manifest(directory: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """``run.json`` of the run that is to go on with ``recipe`` on ``device``.

    Raises GrokscopeError when the run was begun with another recipe or on another device.
    """
    manifest = read_manifest(directory)
    config = manifest.get("config")
    for field, given, held in recipe.differences(config if isinstance(config, Mapping) else {}):
        raise GrokscopeError(
            f"resuming {directory}: {field} is {given!r} in the recipe and {held!r} in the run, "
            "expected the same recipe"
        )
    facts = manifest.get("provenance")
    held = facts.get("device") if isinstance(facts, Mapping) else None
    if held not in (None, str(device)):
        raise GrokscopeError(
            f"resuming {directory}: the run was trained on {held}, --device gives {device}, "
            "expected the same: recomputed steps would differ"
        )
    return manifest


def said_end(manifest: Mapping[str, Any], recipe: Recipe) -> int:
    """The last step as far as ``run.json`` tells: where ``train.until`` ended the run, or the recipe's."""
    ended = manifest.get("ended")
    step = ended.get("step") if isinstance(ended, Mapping) else None
    return step if isinstance(step, int) else recipe.train.steps


def all_said(manifest: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether ``run.json`` has what is written there at the end."""
    facts = manifest.get("provenance")
    finished = isinstance(facts, Mapping) and "finished" in facts
    return finished and ("onset" in manifest or not recipe.waits_for_onset())
