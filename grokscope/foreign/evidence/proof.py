"""The proof of a rebuild: its losses and accuracies beside the numbers that the authors recorded.

Many training loops evaluate before an update and save after it, or the other way about, so that a recorded
number belongs to weights one step away. That is a verdict of its own here, and it is never given because
nothing else fits: either a step, replayed from the stored optimiser state, gives the recorded number, or the
same file confirms the function elsewhere and the difference is what one step does to that loss. How a step is
replayed, bounded or read off a curve is in ``one_step``.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from grokscope.errors import Absent
from grokscope.foreign.evidence.losses import CROSS_ENTROPY, Loss
from grokscope.foreign.evidence.moments import Moments, moments_of
from grokscope.foreign.evidence.one_step import CurveLike, Optimiser, first_update
from grokscope.foreign.evidence.verdicts import VERDICTS, Comparison, Judge, Verdict, measured, sets_of_pairs
from grokscope.foreign.gathering.facts import DECAY_NAMES, LEARNING_RATE_NAMES, Facts, Recorded
from grokscope.models import Model, Params
from grokscope.tasks import Task

__all__ = [
    "VERDICTS",
    "Comparison",
    "Moments",
    "Optimiser",
    "first_update",
    "measured",
    "moments_of",
    "prove",
    "recorded_optimiser",
    "typical_error",
    "verdict_by_save",
]


CHANCE_BAND = 0.05
"""Relative distance from chance (ln C for cross-entropy) of a loss that any network has before it learns."""

FLOAT32_ROUNDING = 1e-7


def recorded_optimiser(facts: Facts, inside: Mapping[str, Any]) -> Optimiser | None:
    """Learning rate and weight decay as recorded, where the former is there and sensible."""
    rate, decay = facts.find(LEARNING_RATE_NAMES, inside), facts.find(DECAY_NAMES, inside)
    if rate is None or not isinstance(rate[0], int | float) or not 0 < rate[0] < 10:
        return None
    usable = decay is not None and isinstance(decay[0], int | float) and 0 <= decay[0] < 1e6
    return Optimiser(float(rate[0]), float(decay[0]) if usable and decay is not None else 0.0)


def prove(
    recorded: Sequence[Recorded],
    ours: Mapping[str, Tensor],
    steps: Sequence[int],
    model: Model,
    saves: Sequence[Params],
    task: Task,
    optimiser: Optimiser | None,
    *,
    curves: Sequence[CurveLike] = (),
    states: Sequence[Moments | Absent | None] | None = None,
    dtype_losses: Mapping[str, Tensor] | None = None,
    loss: Loss = CROSS_ENTROPY,
) -> list[Comparison]:
    """Every recorded number compared, in the order given, then one row for each save without any.

    Verdicts, the first that holds:

    - *reproduced*: within ``TOLERANCE``, an accuracy by the same number of pairs;
    - *at the printed precision*: within half the last digit that was printed;
    - *one step off*: a replayed step gives the recorded number;
    - *at the precision floor*: evaluated in float32 it agrees, or both are a few float32 roundings from 0;
    - *one step off*: the recorded curve has our value one row on; or its slope, or the first-order effect of
      a step, covers the difference, and this source confirms the function elsewhere;
    - *conflict*.

    Args:
        recorded: numbers at saved steps; what ``ours`` does not hold is left out.
        ours: (T,) of each quantity, as :func:`measured` gives them.
        saves: the weights of each step, under our names, in the dtype they came in.
        optimiser: recorded settings, for the first update and the bound.
        curves: recorded series, of any source.
        states: the optimiser's moments at each save.
        dtype_losses: (T,) of the losses evaluated in the dtype of training; where absent, losses at the
            floor are evaluated in float32 here.
        loss: what ``ours`` and the record mean by a loss.
    """
    position = {int(step): index for index, step in enumerate(steps)}
    held = {name for name in ours if name.partition(".")[2] in sets_of_pairs(task)}
    usable = [
        one for one in recorded if one.quantity in held and one.step in position and math.isfinite(one.value)
    ]
    judge = Judge(ours, position, model, saves, task, optimiser, curves, states or (), dtype_losses, loss)
    first = [judge.at_once(one) for one in usable]
    confirmed = {
        one.place
        for one, row in zip(usable, first, strict=True)
        if _confirms(one, row, loss.chance(task.n_classes))
    }
    judge.choose_replays([(one, row) for one, row in zip(usable, first, strict=True)])
    rows = [judge.by_replay(one, row) for one, row in zip(usable, first, strict=True)]
    confirmed |= {
        one.place
        for one, row in zip(usable, rows, strict=True)
        if row.verdict == "one step off" and one.quantity.startswith("loss.") and _digits(one)
    }
    rows = [judge.by_loss(one, row, one.place in confirmed) for one, row in zip(usable, rows, strict=True)]
    rows = [judge.by_accuracy(one, row, rows) for one, row in zip(usable, rows, strict=True)]
    spoken = {one.step for one in usable}
    return rows + [judge.unrecorded(int(step)) for step in steps if step not in spoken]


def verdict_by_save(proof: Sequence[Comparison]) -> dict[int, Verdict]:
    """One verdict for each step: the least favourable among its losses, or *conflict* by an accuracy.

    A loss sees every change of the weights that an accuracy counts in whole pairs, so accuracies decide only
    where they contradict, or where no loss is recorded.
    """
    order: dict[Verdict, int] = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
    found: dict[int, Verdict] = {}
    for step in dict.fromkeys(row.step for row in proof):
        rows = [row for row in proof if row.step == step]
        losses: list[Verdict] = [row.verdict for row in rows if row.quantity.startswith("loss")]
        if any(row.verdict == "conflict" for row in rows):
            losses = ["conflict"]
        found[step] = max(losses or [row.verdict for row in rows], key=lambda verdict: order[verdict])
    return found


def typical_error(
    recorded: Sequence[Recorded], ours: Mapping[str, Tensor], steps: Sequence[int]
) -> float | None:
    """Geometric mean of the relative differences from the recorded losses; ``None`` without any.

    A function that is right has some numbers to many digits even where the others are one step off, which a
    geometric mean sees. A loss printed as zero, or to its last digit only, says nothing and is left out.
    """
    position = {int(step): index for index, step in enumerate(steps)}
    errors = [
        max(abs(float(ours[one.quantity][position[one.step]]) - one.value) / abs(one.value), FLOAT32_ROUNDING)
        for one in recorded
        if one.quantity.startswith("loss.") and one.quantity in ours and one.step in position
        if abs(one.value) > 20 * one.resolution and one.value
    ]
    errors = [error for error in errors if math.isfinite(error)]
    return statistics.geometric_mean(errors) if errors else None


def _digits(one: Recorded) -> bool:
    """Whether a number was recorded to three digits at least."""
    return bool(one.value) and one.resolution <= 1e-3 * abs(one.value)


def _confirms(one: Recorded, row: Comparison, chance: float) -> bool:
    """Whether a number speaks for the function: reproduced to three digits, and not what chance gives."""
    away = abs(one.value - chance) > CHANCE_BAND * chance
    return row.verdict == "reproduced" and one.quantity.startswith("loss.") and _digits(one) and away
