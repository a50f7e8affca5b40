"""Events and the classifier's clock as notebooks read them off the logged curves, in loops over the evaluations.

The clocks are read once a run and not save by save.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

HELD = 3


def first_hold(
    steps: np.ndarray, values: np.ndarray, level: float, above: bool
) -> tuple[float | None, float | None]:
    """The last evaluation before, and the first of three, at which the level is held."""
    holds = [bool(value >= level) if above else bool(value <= level) for value in values]
    by = None
    for index in range(len(holds) - HELD + 1):
        if all(holds[index : index + HELD]):
            by = index
            break
    outside = [i for i, held in enumerate(holds) if not held and (by is None or i < by)]
    after = float(steps[outside[-1]]) if outside else None
    return after, None if by is None else float(steps[by])


def measure(curves: Mapping[str, np.ndarray], chance: float) -> dict[str, tuple[float | None, float | None]]:
    """Steps of ``fit``, ``grok``, ``grok_90`` and ``grok_99``, and of every level of ``clocks.classifier``.

    ``curves`` holds ``step``, ``accuracy.train``, ``accuracy.test`` and ``loss.train`` of every evaluation.
    """
    steps = curves["step"]
    found = {}
    for event, name, level in (
        ("fit", "accuracy.train", 0.99),
        ("grok", "accuracy.test", 0.95),
        ("grok_90", "accuracy.test", 0.90),
        ("grok_99", "accuracy.test", 0.99),
    ):
        skill = [(value - chance) / (1 - chance) for value in curves[name]]
        found[event] = first_hold(steps, np.array(skill), level, above=True)
    losses = curves["loss.train"]
    positive = losses[losses > 0]
    highest = math.floor(4 * math.log10(positive.max()) + 1e-9)
    lowest = math.ceil(4 * math.log10(positive.min()) - 1e-9)
    for index, power in enumerate(range(highest, lowest - 1, -1)):
        found[f"clocks.classifier.{index}"] = first_hold(steps, losses, 10 ** (power / 4), above=False)
    return found
