"""Which of the hypotheses that answer alike was trained: the one that comes nearest to the recorded losses.

The search leaves what the answers do not tell: exact or approximate GELU, the epsilon of a norm, whether the
softmax runs over spare logits. Recorded losses have many more digits than that needs. From the search's winner
and its finalists the error is followed downhill, one choice at a time, and the winner is given up only for a
hypothesis that is clearly nearer, for a record may be one step off.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from grokscope.foreign.evidence.losses import SQUARED_ERRORS, Loss
from grokscope.foreign.evidence.proof import measured, typical_error
from grokscope.foreign.function.descent import Descent, Nearest, comparable, telling
from grokscope.foreign.function.hypotheses import CLEAR_RATIO, Hypothesis
from grokscope.foreign.function.outcomes import Answered, Outcomes
from grokscope.foreign.function.search import ENOUGH_ACCURACY, SOME_NATS, Searched
from grokscope.foreign.function.space import Space
from grokscope.foreign.function.trials import NEAR, Trial, alike, core, is_tame
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.foreign.gathering.facts import Recorded
from grokscope.foreign.splitting.find import SURE, NoSplit, Split, find_listed

MOST_BY_TRAINING = 24
MOST_RIVALS = 6
MOST_RIVAL_PAIRS = 60_000
"""Pairs of all the rivals together whose training split is looked for, which may take a search each."""

FAR_OFF = 1.1
"""Logarithm of the factor by which a loss may miss what was recorded and still be worth a closer look."""

UNEXPLAINED = 0.02
"""Typical error that one step does not make: the function or the split is another."""


def nearest_to_record(
    source: ForeignRun, space: Space, searched: Searched, numbers: Sequence[Recorded]
) -> Nearest:
    """The hypothesis that comes clearly nearest to the recorded losses, else the search's winner."""
    first = searched.best
    losses = [one for one in numbers if one.quantity.startswith("loss.")]
    if not losses:
        return _by_training(source, space, searched, numbers)
    known = Outcomes(source, space)
    listed = _by_the_lists(known, searched, numbers, losses)
    if listed is not None:
        return listed
    # which pairs were trained on shows under any function that answers them
    answered = known.answered(first, numbers)
    found = Descent(known, searched, losses, answered).run(first)
    error = found.errors.get(id(found.trial))
    if error is not None and error <= UNEXPLAINED:
        return found
    squared = _under_squared_errors(known, searched, numbers, losses, (answered.split, error))
    if squared is not None or error is None:
        return squared or found
    # a pair wrongly among those trained on spoils the training loss, and hardly that of the others
    held_out = [one for one in losses if one.quantity != "loss.train"]
    apart = Descent(known, searched, held_out, answered).run(first) if held_out else found
    for rival in _rivals(space, searched, apart):
        other = known.answered(rival, numbers)
        if _same_split(other.split, answered.split):
            continue
        again = Descent(known, searched, losses, other).run(rival)
        its = again.errors.get(id(again.trial))
        if its is not None and its * CLEAR_RATIO <= error:
            again.trials = [*apart.trials, *again.trials]
            return again
    return found


def _under_squared_errors(
    known: Outcomes,
    searched: Searched,
    numbers: Sequence[Recorded],
    losses: Sequence[Recorded],
    as_entropies: tuple[Split | NoSplit, float | None],
) -> Nearest | None:
    """The hypothesis that explains the record as squared errors, where one does.

    ``as_entropies``: the split and the error that were found taking the losses for cross-entropies.
    """
    first, (split, error) = searched.best, as_entropies
    for loss in _plausible(known, first, losses, split):
        other = Outcomes(known.source, known.space, loss)
        found = Descent(other, searched, losses, other.answered(first, numbers)).run(first)
        its = found.errors.get(id(found.trial))
        if its is not None and its <= UNEXPLAINED and (error is None or its * CLEAR_RATIO <= error):
            return found
    return None


def _plausible(
    known: Outcomes, trial: Trial, losses: Sequence[Recorded], split: Split | NoSplit
) -> list[Loss]:
    """The squared errors that come near enough to what was recorded, the nearest first.

    Without a split: the mean over all pairs lies between those over training and test pairs.
    """
    saves = telling(known.source, losses)
    steps = [known.steps[save] for save in saves]
    off: dict[Loss, float] = {}
    for loss in SQUARED_ERRORS:
        other = Outcomes(known.source, known.space, loss)
        values = torch.stack([other.at(trial, save)[0] for save in saves])
        if isinstance(split, Split):
            task = known.model_of(trial)[2].with_split(split.mask)
            error = typical_error(losses, measured(task, values, values > 0), steps)
            away = [] if error is None else [math.log1p(error)]
        else:
            away = [
                _outside(float(mean), [one.value for one in losses if one.step == step])
                for step, mean in zip(steps, values.mean(dim=1), strict=True)
            ]
        if away:
            off[loss] = sum(away) / len(away)
    return sorted((loss for loss in off if off[loss] <= FAR_OFF), key=lambda loss: off[loss])


def _outside(mean: float, recorded: Sequence[float]) -> float:
    """The logarithm of the factor by which a mean over all pairs lies outside what was recorded of parts."""
    told = [value for value in recorded if value > 0]
    if not told or mean <= 0:
        return 0.0
    above = math.log(mean / max(told)) if len(told) > 1 else 0.0
    return max(math.log(min(told) / mean), above, 0.0)


def _by_the_lists(
    known: Outcomes, searched: Searched, numbers: Sequence[Recorded], losses: Sequence[Recorded]
) -> Nearest | None:
    """The hypothesis that explains the record under a listed split, which the winner of the search contradicts.

    ``None`` where nothing is listed, the winner agrees with it, or nothing explains the record under it: then the
    split has to be searched for.
    """
    first = searched.best
    losses_of_all, right = known.of_all(first)
    listed = find_listed(known.model_of(first)[2], losses_of_all, right, known.steps, numbers, known.pairs)
    if listed is None or listed.confidence > SURE:
        return None
    found = Descent(known, searched, losses, Answered(losses_of_all, right, listed)).run(first)
    error = found.errors.get(id(found.trial))
    if error is None or error > UNEXPLAINED:
        return None
    found.answered = None
    return found


def _same_split(one: Split | NoSplit, other: Split | NoSplit) -> bool:
    if isinstance(one, Split) and isinstance(other, Split):
        return bool(torch.equal(torch.as_tensor(one.mask), torch.as_tensor(other.mask)))
    return type(one) is type(other)


def _rivals(space: Space, searched: Searched, found: Nearest) -> list[Trial]:
    """A few other hypotheses under which the split may show better: the firmest, the nearest to the record."""
    mine = [one for one in (*searched.trials, *found.trials) if comparable(one, found.trial)]
    mine = [one for one in mine if one.nats >= 0.5 * found.trial.nats and not alike(one, searched.best)]
    known = [one for one in mine if found.errors.get(id(one)) is not None]
    firmest = sorted(mine, key=lambda one: (-one.firm_nats, one.departure))
    nearest = sorted(known, key=lambda one: found.errors[id(one)] or 0.0)
    distinct: dict[str, Trial] = {}
    for one in (*nearest[:1], *firmest):
        distinct.setdefault(core(space, one.assignment), one)
    allowed = max(1, min(MOST_RIVALS, MOST_RIVAL_PAIRS // searched.best.p**2))
    return list(distinct.values())[:allowed]


def _by_training(
    source: ForeignRun, space: Space, searched: Searched, numbers: Sequence[Recorded]
) -> Nearest:
    """Without recorded losses: the hypothesis under which the pairs that were trained on are learned best.

    Only where a split shows and the last save answers little else: there training leaves no doubt on any of its
    pairs under the right function, and does under one that is nearly right.
    """
    first = searched.best
    if first.accuracy >= ENOUGH_ACCURACY or first.nats < SOME_NATS:
        return Nearest(first)
    known = Outcomes(source, space)
    answered = known.answered(first, numbers)
    if not isinstance(answered.split, Split):
        return Nearest(first, answered)
    mask, last = torch.as_tensor(answered.split.mask), len(source.snapshots) - 1
    near = [
        one
        for one in searched.trials
        if comparable(one, first)
        and one.firm_nats >= NEAR * first.firm_nats
        and is_tame(one) >= is_tame(first)
    ]
    near = [first, *[one for one in near if one is not first]][:MOST_BY_TRAINING]
    worst: dict[int, float] = {}
    for trial in near:
        losses = known.at(trial, last)[0][mask]
        # a few pairs may be wrongly in the split
        worst[id(trial)] = float(losses.quantile(0.95))
    best = min(near, key=lambda trial: worst[id(trial)])
    if worst[id(first)] < CLEAR_RATIO * worst[id(best)]:
        return Nearest(first, answered)
    close = [one for one in near if worst[id(one)] * CLEAR_RATIO <= worst[id(first)]]
    close = [one for one in close if worst[id(one)] <= CLEAR_RATIO * worst[id(best)]]
    return Nearest(min(close, key=lambda one: one.departure))


def of_loss(nearest: Nearest) -> tuple[Hypothesis, ...]:
    """What the recorded losses are, where it is not cross-entropy."""
    error = nearest.errors.get(id(nearest.trial))
    if not nearest.loss.squared or error is None:
        return ()
    told = f"typical error of the recorded losses {error:.2g}; as cross-entropies they are not explained"
    return (Hypothesis("recorded loss", nearest.loss.name, "tested", told),)


def with_compared(searched: Searched, nearest: Nearest) -> Searched:
    """What was searched, with hypotheses that were tried later."""
    told = searched.stopped or nearest.stopped.replace("it was", "the comparison with the record was", 1)
    return replace(searched, trials=(*searched.trials, *nearest.trials), stopped=told)
