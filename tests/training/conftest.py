"""A recipe small enough to be trained in a test, and the checksum of what a run stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grokscope.training import Recipe, recipe_from
from grokscope.trajectory import apply_overrides, verify_trajectory

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "task": {"name": "modular", "op": "add", "p": 7, "train_fraction": 0.6},
    "model": {"family": "mlp", "d_embed": 6, "hidden": [12]},
    "train": {"steps": 60, "lr": 1e-2, "weight_decay": 1.0},
    "save": {"schedule": ["0:end:2"], "evaluate": ["0:end:1"], "snapshots": 10},
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """Sixty steps of an MLP on addition modulo 7, changed by ``FIELD=VALUE`` texts."""

    def make(*overrides: str) -> Recipe:
        return recipe_from(apply_overrides(TINY, overrides), "the tiny recipe")

    return make


@pytest.fixture(scope="session")
def checksum() -> Callable[[Path], str | None]:
    """SHA-256 of the arrays that a run directory holds."""
    return lambda directory: verify_trajectory(directory / "trajectory.h5").checksum
