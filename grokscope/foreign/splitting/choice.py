"""From the candidates of a search to the one recipe that fits, and what speaks for it.

Scope: recorded numbers decide between candidates first, then how likely the losses are under them; where both
say the same, the custom of published code does, and the other reading is named.

Shape legend: N operand pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from grokscope.foreign.splitting.evidence import CLEAR_Z, Evidence, Judgement
from grokscope.foreign.splitting.given import Given
from grokscope.foreign.splitting.outcome import Source, Split, as_split, in_words
from grokscope.foreign.splitting.recipes import (
    COMMON_FRACTIONS,
    COMMON_SEEDS,
    KNOWN_SHARE,
    UNORDERED,
    Arrangement,
    Candidate,
    Search,
    Searched,
    arrangements,
    half,
)
from grokscope.foreign.splitting.recovery import MEMORISED, memorised_saves
from grokscope.tasks import Task

CHANCE = 3.0
"""Powers of ten by which the evidence must exceed the number of candidates tried."""

LEAST_SHARE = 0.3
"""Share of the largest possible separation that a split has at least where it was memorised."""

RARE_SEEDS = 16
"""Common seeds that are tried for a data set of a rare kind."""

HEARD = 0.2
"""Median relative error of the recorded losses up to which they decide between candidates."""

TIE = 1e-9
TELLING_LIKELIHOOD = 3.0
"""Difference in log likelihood from which two candidates are not the same."""

Fitting = tuple[Candidate, Judgement]


def search_recipes(
    task: Task, evidence: Evidence, given: Given, exact: tuple[int, str] | None, most_drawn: int
) -> tuple[Split | None, Searched]:
    """The one recipe that fits, with what was looked at."""
    arranged = arrangements(task.inputs, bool(task.swap))
    found, searched = _search(evidence, arranged, given, exact, most_drawn)
    mirrored = found is not None and UNORDERED in found.recipe
    if not task.swap or (found is not None and not mirrored):
        return found, searched
    # a data set of unordered pairs, of which the saves answer more than it holds
    inside, arrangement = half(task.inputs)
    if not 1 < inside.sum() < len(inside):
        return found, searched
    other, again = _search(evidence.of_pairs(inside), [arrangement], given, None, most_drawn, RARE_SEEDS)
    searched = Searched(searched.tried + again.tried, searched.seeds, searched.finished and again.finished)
    if other is None:
        return found, searched
    mask = torch.zeros(evidence.n, dtype=torch.bool)
    mask[torch.from_numpy(inside)] = other.mask
    other = replace(other, mask=mask)
    if found is not None and _likelihood(evidence, found.mask.numpy()) > _likelihood(evidence, mask.numpy()):
        return found, searched
    return other, searched


def _search(
    evidence: Evidence,
    arranged: list[Arrangement],
    given: Given,
    exact: tuple[int, str] | None,
    most_drawn: int,
    n_seeds: int | None = None,
) -> tuple[Split | None, Searched]:
    known = [fraction for fraction, _ in given.fractions]
    fractions = list(dict.fromkeys([*known, *COMMON_FRACTIONS]))
    seeds = list(dict.fromkeys([*(seed for seed, _ in given.seeds), *COMMON_SEEDS[:n_seeds]]))
    search = Search(evidence, arranged, fractions, known, exact[0] if exact else None)

    jury = _Jury(evidence)

    def accepted() -> list[Fitting]:
        return jury.accepted(search.best(), search.tried)

    searched = search.run(seeds, most_drawn, lambda: bool(search.kept and accepted()))
    fitting = accepted()
    if not fitting:
        return None, searched
    best, judged, others = _choose(evidence, fitting, given, exact)
    said = in_words(evidence, judged)
    twin = next((other for other, found in others if _same(evidence, (best, judged), (other, found))), None)
    sure = min(0.999, 1 - 10 ** -min(judged.strength - math.log10(search.tried), 12.0))
    if _is_memory(evidence, best.mask):
        sure = 0.999
        said += "; these are the pairs that are answered where others are not"
    if twin is not None and not np.array_equal(twin.mask, best.mask):
        said += f"; equally well fits {twin.recipe}"
        sure = 0.9
    elif others:
        said += f"; the best under another order of the pairs has z = {others[0][1].z:.1f}"
    seed_source = dict(given.seeds).get(best.seed)
    source: Source = "recorded" if seed_source is not None else "searched"
    origin = f"recorded ({seed_source})" if seed_source else f"searched: of {search.tried} candidates"
    fraction_source = dict(given.fractions).get(best.fraction)
    if seed_source and fraction_source:
        origin = f"recorded ({', '.join(dict.fromkeys([seed_source, fraction_source]))})"
    split = as_split(evidence, best.mask, judged, source, best.recipe, f"{origin}; {said}", sure)
    return replace(split, seed=best.seed, fraction=float(best.fraction)), searched


class _Jury:
    """Verdicts on the candidates of a search, each of which is judged once however often it is looked at."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.judged: dict[tuple[bytes, float], Judgement] = {}
        self.known: dict[bytes, tuple[bool, bool]] = {}

    def accepted(self, candidates: Sequence[Candidate], tried: int) -> list[Fitting]:
        """Those that fit, where ``tried`` were looked at."""
        fresh = {(one.pairs, one.inflation): one for one in candidates}
        fresh = {key: one for key, one in fresh.items() if key not in self.judged}
        if fresh:
            masks = np.array([one.mask for one in fresh.values()])
            found = self.evidence.judge_all(masks, [one.inflation for one in fresh.values()])
            self.judged |= dict(zip(fresh, found, strict=True))
        judged = [(one, self.judged[one.pairs, one.inflation]) for one in candidates]
        return [(one, found) for one, found in judged if self._fits(one, found, tried)]

    def _fits(self, one: Candidate, judged: Judgement, tried: int) -> bool:
        if one.pairs not in self.known:
            memory = _is_memory(self.evidence, one.mask)
            shows = memory or _shows_where_memorised(self.evidence, one.mask)
            self.known[one.pairs] = memory, shows
        memory, shows = self.known[one.pairs]
        if memory:
            return True
        if judged.strength < math.log10(max(tried, 1)) + CHANCE or not shows:
            return False
        # a function that was not rebuilt exactly misses every number, but its losses still separate
        size = int(one.mask.sum())
        return not judged.refuted or judged.z >= 0.9 * self.evidence.best_separation(size) >= CLEAR_Z


def _is_memory(evidence: Evidence, mask: np.ndarray) -> bool:
    """Whether at a memorised save these are the pairs that are known, almost to the pair.

    So few of all splits of that size are, that it does not matter how the candidate was come by.
    """
    size, save = int(mask.sum()), evidence.ranked[0]
    if save not in memorised_saves(evidence, size / evidence.n) or not 3 < size < evidence.n - 3:
        return False
    scores = evidence.scores[0]
    most = float(evidence.tops[0][size - 1])
    right = evidence.right[save]
    answered = right[mask].mean() >= MEMORISED and right[~mask].mean() < 0.5
    return bool(answered and scores[mask].sum() >= KNOWN_SHARE * most)


def _shows_where_memorised(evidence: Evidence, mask: np.ndarray) -> bool:
    """Whether a save that knows its training pairs and few others, if there is one, knows these."""
    size = int(mask.sum())
    first = evidence.ranked[0]
    if first not in memorised_saves(evidence, size / evidence.n):
        return True
    inside = float(evidence.scores[0][mask].sum())
    return inside >= LEAST_SHARE * float(evidence.tops[0][size - 1])


def _choose(
    evidence: Evidence, fitting: list[Fitting], given: Given, exact: tuple[int, str] | None
) -> tuple[Candidate, Judgement, list[Fitting]]:
    """The candidate that fits best, and those under other orders of the pairs, the better first.

    Recorded numbers decide first, then how likely the losses are; where that tells little, custom does.
    """
    likelihood = {id(one): _likelihood(evidence, one.mask) for one, _ in fitting}
    # numbers of another function than the one rebuilt say nothing about the split
    heard = any(
        (judged.error is not None and judged.error < HEARD) or (judged.misfit or 1.0) < HEARD
        for _, judged in fitting
    )

    def evident(pair: Fitting) -> tuple[bool, bool, float]:
        one, judged = pair
        wrong_size = exact is not None and int(one.mask.sum()) != exact[0]
        if not heard or judged.error is None:
            return heard and judged.refuted, wrong_size, 0.0
        return judged.refuted, wrong_size, round(judged.error, 7)

    ordered = sorted(fitting, key=lambda pair: (*evident(pair), -likelihood[id(pair[0])]))
    first = ordered[0]
    equal = [
        pair
        for pair in ordered
        if evident(pair) == evident(first)
        and likelihood[id(pair[0])] > likelihood[id(first[0])] - TELLING_LIKELIHOOD
    ]
    fractions = dict(given.fractions)
    best, judged = min(
        equal,
        key=lambda pair: (
            pair[0].fraction not in fractions,
            not pair[0].usual,
            " int(" not in pair[0].recipe,
        ),
    )
    return best, judged, [pair for pair in ordered if pair[0].order != best.order]


def _same(evidence: Evidence, one: Fitting, other: Fitting) -> bool:
    """Whether nothing tells two candidates apart."""
    errors = [judged.error or 0.0 for _, judged in (one, other)]
    likelihoods = [_likelihood(evidence, candidate.mask) for candidate, _ in (one, other)]
    alike = abs(likelihoods[0] - likelihoods[1]) < TELLING_LIKELIHOOD
    return alike and abs(errors[0] - errors[1]) <= TIE


def _likelihood(evidence: Evidence, mask: np.ndarray) -> float:
    """How much better two normal distributions of log losses explain the most telling save than one."""
    logs = evidence.log_losses
    spreads = [max(float(part.std()), 1e-9) for part in (logs[mask], logs[~mask])]
    sizes = [int(mask.sum()), int((~mask).sum())]
    inner = sum(n * math.log(spread) for n, spread in zip(sizes, spreads, strict=True))
    return len(logs) * math.log(max(float(logs.std()), 1e-9)) - inner
