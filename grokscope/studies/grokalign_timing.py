"""Seconds an update takes under each method, measured in turns on one machine and kept beside the runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from grokscope.studies.sweep import Arm
from grokscope.training.plan import measure_speed
from grokscope.training.trainer import choose_device

ROUNDS = 5
BUDGET = 0.5
"""Seconds of one turn of one method."""


def seconds_per_update(arms: Mapping[str, Arm], kept: Path) -> dict[str, float]:
    """Label → seconds of an update: the median of turns, the methods one after the other in each.

    What was measured before is read from ``kept``, so that a page that is made again says the same.
    """
    names = {label: arm.name for label, arm in arms.items()}
    known: dict[str, float] = {}
    if kept.is_file():
        try:
            known = {
                str(name): float(value)
                for name, value in json.loads(kept.read_text(encoding="utf-8")).items()
            }
        except (ValueError, AttributeError, TypeError):
            known = {}
    if not set(names.values()) <= known.keys():
        recipes = {label: arm.runs()[0][1] for label, arm in arms.items()}
        device = choose_device("cpu")
        turns: dict[str, list[float]] = {label: [] for label in arms}
        for _ in range(ROUNDS):
            for label, recipe in recipes.items():
                turns[label].append(measure_speed(recipe, device, BUDGET).step.median)
        known |= {names[label]: statistics.median(values) for label, values in turns.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return {label: known[name] for label, name in names.items()}
