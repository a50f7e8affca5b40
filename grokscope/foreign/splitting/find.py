"""Which pairs were trained on: listed, drawn again from a seed, or read off the weights.

Scope: four ways in turn. Lists beside the weights; the recorded seed and fraction under every known recipe;
common seeds and fractions; and recovery from checkpoints that had memorised their training pairs. Every
candidate answers to the same evidence (``split_evidence``): the numbers that were recorded, and how far its
training losses lie below the others. Where nothing can tell, that is the answer.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.facts import Facts, Recorded
from grokscope.foreign.splitting.choice import CHANCE, LEAST_SHARE, search_recipes
from grokscope.foreign.splitting.evidence import CLEAR_Z, Evidence, Judgement, separation
from grokscope.foreign.splitting.given import Given, recorded_settings
from grokscope.foreign.splitting.lists import PairListLike, read_lists
from grokscope.foreign.splitting.outcome import CONVENTION, NoSplit, Split, as_split, in_words
from grokscope.foreign.splitting.recipes import COMMON_FRACTIONS
from grokscope.foreign.splitting.recovery import (
    Recovery,
    guess_count,
    is_symmetric,
    memorised_saves,
    mirror_of,
    recover,
)
from grokscope.tasks import Task

__all__ = ["CLEAR_Z", "CONVENTION", "NoSplit", "Split", "find_split", "recorded_settings", "separation"]

LEAST_CONFIDENCE = 0.15

SURE = 0.5
"""Confidence from which on a listed split is taken and none is searched for."""

MOST_DRAWN = 10**8
"""Enough for every seed and recipe up to p of about 230."""


def find_split(
    task: Task,
    losses: Tensor,
    right: Tensor,
    steps: Sequence[int],
    facts: Facts,
    inside: Mapping[str, Any],
    recorded: Sequence[Recorded],
    pairs: Sequence[PairListLike] = (),
    most_drawn: int = MOST_DRAWN,
    names: Sequence[str] = (),
) -> Split | NoSplit:
    """The training split of a run, with the evidence, or why there is none.

    Args:
        task: the problem with every pair; its own split is not looked at.
        losses, right: (T, N) loss and correctness of every pair at every save.
        facts, inside: what lies beside the weights and in the last file.
        recorded: losses and accuracies that the authors wrote down.
        pairs: lists of training or test samples found beside the weights.
        most_drawn: items that the search through recipes puts in random order at most, which is what it
            takes time for; the first seed is tried in any case.
        names: file and folder names that may tell a seed or a fraction, beside those of ``facts``.

    Raises:
        GrokscopeError: losses whose shape is not that of the task and the steps.
    """
    evidence = _evidence_of(task, losses, right, steps, recorded)
    if not evidence.steps:
        return NoSplit("no save has finite losses on all pairs")
    given = recorded_settings(facts, inside, names)
    listed = _explicit(task, evidence, pairs)
    if isinstance(listed, Split) and listed.confidence > SURE:
        return _against(listed, given, evidence)
    exact = evidence.training_pairs()
    found, searched = search_recipes(task, evidence, given, exact, most_drawn)
    if found is not None:
        return _noted(_against(found, given, evidence), listed)
    tried = (
        f"{searched.tried} candidates under {searched.seeds} seeds were tried"
        f"{'' if searched.finished else ' before the search reached its limit'}, none of which fits"
    )
    recovered = _recover(task, evidence, given, exact)
    if isinstance(recovered, Split):
        recovered = replace(recovered, evidence=f"{recovered.evidence}; {tried}")
        return _noted(_against(recovered, given, evidence), listed)
    if isinstance(listed, Split):
        return listed
    unconfirmed = _unconfirmed(evidence, given)
    if unconfirmed is not None:
        return unconfirmed
    remarks = [listed] if listed else []
    remarks += [f"the recorded seed {given.seeds[0][0]} fits under no known recipe"] if given.seeds else []
    return NoSplit("; ".join([recovered, *remarks, tried]))


def find_listed(
    task: Task,
    losses: Tensor,
    right: Tensor,
    steps: Sequence[int],
    recorded: Sequence[Recorded],
    pairs: Sequence[PairListLike],
) -> Split | None:
    """The split that lists beside the weights tell, ``None`` without any; arguments as of :func:`find_split`.

    Its confidence is low where the losses and what was recorded contradict it, as they do under a function that
    was not rebuilt rightly.
    """
    if not pairs:
        return None
    evidence = _evidence_of(task, losses, right, steps, recorded)
    listed = _explicit(task, evidence, pairs) if evidence.steps else ""
    return listed if isinstance(listed, Split) else None


def _evidence_of(
    task: Task, losses: Tensor, right: Tensor, steps: Sequence[int], recorded: Sequence[Recorded]
) -> Evidence:
    if losses.ndim != 2 or losses.shape[1] != len(task.inputs):
        raise GrokscopeError(
            f"finding the training split: losses have shape {tuple(losses.shape)}, expected (saves, pairs) "
            f"with the task's {len(task.inputs)} pairs"
        )
    return Evidence(losses, right, steps, recorded)


def _explicit(task: Task, evidence: Evidence, pairs: Sequence[PairListLike]) -> Split | str:
    """The split that lists beside the weights tell, or why they tell none ("" without lists)."""
    readings, problems = read_lists(task, pairs)
    if not readings:
        return "; ".join(problems)
    judged = [evidence.judge(one.mask) for one in readings]
    best = max(range(len(readings)), key=lambda k: (not judged[k].refuted, *_better(judged[k]), -k))
    if judged[best].strength - judged[0].strength < 1 and not judged[0].refuted:
        best = 0
    listed, found = readings[best], judged[best]
    said, sure, contradiction = in_words(evidence, found), 0.9, ""
    if found.strength >= CHANCE and not found.refuted:
        sure = 0.99
    elif found.refuted or _should_separate(evidence, int(listed.mask.sum()), found.z):
        sure, contradiction = 0.4, f"the lists {listed.sources} do not fit what the weights know"
    else:
        said = f"nothing can confirm it: {said}"
    split = as_split(
        evidence, listed.mask, found, "explicit", f"{listed.sources}, {listed.words}", f"listed; {said}", sure
    )
    return replace(split, contradiction=contradiction)


def _better(judged: Judgement) -> tuple[float, float]:
    """For ``max``: the smaller error of recorded losses where there are any, then the larger separation."""
    return (-round(judged.error, 9) if judged.error is not None else 0.0, judged.z)


def _should_separate(evidence: Evidence, size: int, z: float) -> bool:
    """Whether some save knows its training pairs, though this split does not show it."""
    fraction = size / evidence.n
    return bool(memorised_saves(evidence, fraction)) and z < min(
        CLEAR_Z, LEAST_SHARE * evidence.best_separation(size)
    )


def _recover(task: Task, evidence: Evidence, given: Given, exact: tuple[int, str] | None) -> Split | str:
    """The split that memorised saves show, or why they show none."""
    n = evidence.n
    sizes = [(exact[0], exact[1], 1.0)] if exact else []
    sizes += [
        (count, f"{fraction:.4g} of the pairs by {where}", 1.0)
        for fraction, where in given.fractions
        for count in dict.fromkeys((int(fraction * n), round(fraction * n)))
        if 0 < count < n
    ]
    mirror = mirror_of(task)
    saves = memorised_saves(evidence, sizes[0][0] / n if sizes else None)
    if saves and is_symmetric(evidence, saves, mirror):
        return (
            "the network answers (a, b) and (b, a) alike, so that no loss can tell a pair that was trained "
            "on from its mirror image"
        )
    attempts = _attempts(task, evidence, mirror, sizes[:4])
    if all(sure < 0.5 for *_, sure in attempts):
        attempts += _attempts(task, evidence, mirror, _guessed(evidence, mirror))
    if not attempts:
        return _no_memory(evidence, sizes[0][0] / n if sizes else None)
    found, judged, about, sure = min(
        attempts, key=lambda one: (one[1].refuted, round(one[1].error or 0.0, 6), -round(one[3], 2))
    )
    said = _recovered_words(evidence, found, judged, about)
    if sure < LEAST_CONFIDENCE:
        return f"recovery from memorised saves is too unsure (confidence {sure:.2f}): {said}"
    recipe = "recovered from the losses of memorised saves"
    split = as_split(evidence, found.mask, judged, "recovered", recipe, f"recovered: {said}", sure)
    return replace(split, fraction=_plain_fraction(found.n_train, n, given))


def _attempts(
    task: Task, evidence: Evidence, mirror: np.ndarray, sizes: Sequence[tuple[int, str, float]]
) -> list[tuple[Recovery, Judgement, str, float]]:
    """A recovery for each number of training pairs, with how sure it is."""
    made: list[tuple[Recovery, Judgement, str, float]] = []
    for count, about, weight in sizes:
        saves = memorised_saves(evidence, count / evidence.n)
        if saves:
            found = recover(evidence, saves, mirror, count, task)
            judged = evidence.judge(found.mask)
            sure = found.confidence() * weight * (0.3 if judged.refuted else 1.0)
            made.append((found, judged, about, sure))
    return made


def _guessed(evidence: Evidence, mirror: np.ndarray) -> list[tuple[int, str, float]]:
    """How many pairs were trained on by the losses alone, which is said and believed less."""
    n, saves = evidence.n, memorised_saves(evidence, None)
    count = guess_count(evidence, saves, mirror) if saves else None
    if count is None:
        return []
    near = {int(fraction * n): fraction for fraction in COMMON_FRACTIONS}
    nearest = min(near, key=lambda size: abs(size - count))
    if abs(nearest - count) <= max(2, 0.004 * n):
        return [(nearest, f"int({near[nearest]:.4g} · N), near what the losses suggest", 0.8)]
    return [(count, "as many as the losses suggest", 0.7)]


def _plain_fraction(count: int, n: int, given: Given) -> float:
    """The written or common fraction of which ``count`` pairs are the whole number, else their share."""
    for fraction in (*(fraction for fraction, _ in given.fractions), *COMMON_FRACTIONS):
        if count in (int(fraction * n), round(fraction * n)):
            return fraction
    return count / n


def _recovered_words(evidence: Evidence, found: Recovery, judged: Judgement, about: str) -> str:
    steps = ", ".join(str(evidence.steps[save]) for save in found.saves)
    said = [
        f"{found.n_train} training pairs ({about}) from the losses at steps {steps}",
        f"{found.expected_wrong:.2g} pairs expected wrong",
    ]
    if found.unstable is not None:
        said.append(f"{found.unstable} change without one of the saves")
    if found.margin is not None:
        said.append(f"the worst loss over the saves has a gap of a factor {found.margin:.3g} at the boundary")
    else:
        said.append(f"the ranking by worst loss alone differs in {found.moved}")
    if found.odd:
        said.append(f"no random draw: {found.odd}")
    return ", ".join([*said, in_words(evidence, judged)])


def _no_memory(evidence: Evidence, fraction: float | None) -> str:
    low, high = float(evidence.accuracy.min()), float(evidence.accuracy.max())
    saves = f"{len(evidence.steps)} saves answer {low:.1%} to {high:.1%} of all pairs"
    if len(evidence.steps) == 1:
        saves = f"the only save answers {high:.1%} of all pairs"
    if fraction is None:
        return f"no fraction was recorded and no save has memorised a part of the pairs: {saves}"
    return f"no save has memorised its training pairs ({fraction:.1%} of all) and no more: {saves}"


def _unconfirmed(evidence: Evidence, given: Given) -> Split | None:
    """The recorded seed and fraction under the usual recipe, where no save and no number can tell."""
    if not given.seeds or not given.fractions:
        return None
    (seed, seed_source), (fraction, fraction_source) = given.seeds[0], given.fractions[0]
    size = int(fraction * evidence.n)
    if not 0 < size < evidence.n:
        return None
    mask = np.zeros(evidence.n, dtype=bool)
    order = torch.randperm(evidence.n, generator=torch.Generator().manual_seed(seed)).numpy()
    mask[order[:size]] = True
    judged = evidence.judge(mask)
    shares = evidence.accuracy
    telling = bool(((shares > 0.5 * fraction) & (shares < 0.95)).any()) or judged.misfit is not None
    if telling:
        return None
    said = (
        f"recorded ({seed_source}, {fraction_source}) and drawn as most published code does; no save can "
        f"confirm it: largest z = {judged.z:.1f} at step {evidence.steps[judged.save]}"
    )
    split = as_split(evidence, mask, judged, "recorded", CONVENTION, said, 0.3)
    return replace(split, seed=seed, fraction=fraction)


def _against(split: Split, given: Given, evidence: Evidence) -> Split:
    """The split with what was recorded otherwise."""
    said = [split.contradiction] if split.contradiction else []
    size, n = int(split.mask.sum()), evidence.n
    sizes = {rule(fraction * n) for fraction, _ in given.fractions for rule in (int, round, math.ceil)}
    if given.fractions and split.fraction not in dict(given.fractions) and size not in sizes:
        fraction, where = given.fractions[0]
        said.append(f"the recorded fraction {fraction:.4g} ({where}) is not that of {size} of {n} pairs")
    if given.seeds and split.source in ("searched", "recovered"):
        seed, where = given.seeds[0]
        said.append(f"the recorded seed {seed} ({where}) gives other pairs under every known recipe")
    return replace(split, contradiction="; ".join(said))


def _noted(split: Split, listed: Split | str) -> Split:
    """The split with what is wrong with the lists beside it."""
    about = listed.contradiction if isinstance(listed, Split) else listed
    return replace(split, contradiction="; ".join(part for part in (split.contradiction, about) if part))
