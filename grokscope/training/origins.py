"""What ``run.json`` says of how a run was begun, and a run that goes on must keep to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grokscope.errors import GrokscopeError
from grokscope.training.machine import Precision
from grokscope.trajectory import MANIFEST_NAME, read_manifest


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
