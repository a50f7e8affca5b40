"""What the tensors do not say, found by trying: every hypothesis that they allow, scored by what it answers.

A hypothesis is a function (activation, heads, prompt, …) with an operation and a modulus; ``trials`` scores it.
The search walks outwards from the likeliest hypothesis and climbs from the best that it has met, one choice at
a time. Distance from the recorded losses comes afterwards. What scores alike stays ambiguous and is reported
so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from grokscope.foreign.function.effort import LAST_RESORT, Effort, weights_in
from grokscope.foreign.function.space import Assignment, Space
from grokscope.foreign.function.trials import (
    SAMPLE,
    Operation,
    Trial,
    alike,
    by_firmness,
    core,
    ranked,
    tokens_of,
    tried,
)

ENOUGH_ACCURACY = 0.9
SOME_NATS = 30.0
"""Evidence from which on a hypothesis is more than luck: e^−30 times thousands of hypotheses is nothing."""

ENOUGH_NATS, ENOUGH_SHARE = 100.0, 0.2
"""Evidence at which a search stops, and the share of all that the pairs can give which is enough as well:
a function that is nearly right reaches some."""

STRIDE = 48
"""Hypotheses between one climb and the next."""

MOST_PROMPTS = 96
"""Prompts and moduli compared with the leader of a climb: there may be hundreds."""

BEAM = 4
"""Hypotheses whose neighbours are tried before a climb ends."""

CLEAR_STEP = 1.5
FINALISTS = 8


@dataclass(frozen=True)
class Budget:
    """How much a search may try: a number of hypotheses, and ``work`` as ``effort`` counts it.

    ``seconds`` is the last resort: a search that it ends says so.
    """

    hypotheses: int = 1200
    work: float = 4e11
    seconds: float = LAST_RESORT

    def part(self, of: int) -> Budget:
        """One in ``of`` of it."""
        return Budget(self.hypotheses // of, self.work / of, self.seconds / of)


@dataclass(frozen=True)
class Searched:
    """What a search tried, best first, and what it spent; ``stopped`` says what ended it too early, if anything."""

    trials: tuple[Trial, ...]
    size: int
    seconds: float
    budget: Budget
    stopped: str = ""

    @property
    def best(self) -> Trial:
        return self.trials[0]

    def finalists(self) -> list[Trial]:
        """The best hypotheses that differ in what they answer, those of nearly the best accuracy."""
        found: list[Trial] = []
        for trial in self.trials:
            if trial.nats >= 0.5 * self.best.nats and not any(alike(trial, other) for other in found):
                found.append(trial)
        return found[:FINALISTS]


def enough_nats(p: int) -> float:
    """Evidence from which on a function of residues modulo ``p`` is beyond doubt."""
    return min(ENOUGH_NATS, ENOUGH_SHARE * min(p * p, SAMPLE) * math.log(p))


def search(
    space: Space,
    tensors: Mapping[str, Tensor],
    operations: Sequence[Operation] = (),
    budget: Budget | None = None,
    first: Assignment | None = None,
) -> Searched | None:
    """Try the hypotheses of ``space`` on one save; ``None`` where none of them makes a function.

    ``operations`` limits the operations; by default all are tried, in both orders of the operands where that
    makes a difference. ``first`` is an assignment to begin with.
    """
    budget = budget or Budget()
    effort = Effort(budget.work, seconds_allowed=budget.seconds)
    weights = weights_in(tensors, space.names)
    trials: list[Trial] = []
    seen: set[str] = set()

    def spent() -> bool:
        return len(trials) >= budget.hypotheses or effort.over()

    def attempt(assignment: Assignment) -> Trial | None:
        key = repr(sorted((name, str(value)) for name, value in assignment.items()))
        if key in seen:
            return None
        seen.add(key)
        trial = tried(space, tensors, assignment, operations)
        effort.charge(trial.pairs if trial else 0, weights)
        if trial is not None:
            trials.append(trial)
        return trial

    def climb() -> None:
        """Try what differs from the best in one thing until nothing is better: these are its runners-up.

        Those that come next are left in the same way, for two things may be wrong that make up for each other.
        """
        left: set[str] = set()
        while not spent():
            leader, best = ranked(trials)[0], sorted(trials, key=score, reverse=True)
            fresh = {core(space, one.assignment): one for one in reversed([leader, *best[: 4 * BEAM]])}
            near = list(reversed(fresh.items()))[:BEAM]
            start = next((item for item in near if item[0] not in left and score(item[1]) > 0), None)
            if start is None:
                return
            left.add(start[0])
            for assignment in _near(space, start[1].assignment, prompts=start[1] is leader):
                if spent():
                    return
                trial = attempt(assignment)
                if trial and score(trial) > max(CLEAR_STEP * score(leader), score(leader) + SOME_NATS / 5):
                    break

    def score(trial: Trial) -> float:
        return trial.firm_nats if by_firmness(trials) else trial.nats

    def enough() -> bool:
        best = max(trials, key=lambda trial: trial.nats)
        return best.nats >= enough_nats(best.p)

    def scan() -> None:
        """Try the prompts under the likeliest function of each kind of positions, while nothing is found."""
        start = next(iter(space.assignments()))
        for kind in next((one.options for one in space.choices if one.about == "positions"), (None,)):
            likely = start if kind is None else {**start, "positions": kind}
            for assignment in _near(space, likely, every=True):
                if spent() or (trials and enough()):
                    return
                if kind is None or assignment["positions"] == kind:
                    attempt(assignment)

    if first is not None:
        attempt(first)
    walk = space.assignments()
    climbed: Trial | None = None
    while not spent():
        met = 0
        for assignment in islice(walk, STRIDE):
            met += 1
            trial = attempt(assignment)
            if spent() or (trial and trial.accuracy >= ENOUGH_ACCURACY and trial.nats >= SOME_NATS):
                break
        if not trials:
            if not met:
                return None
            continue
        if climbed is None and not enough():
            scan()
        if ranked(trials)[0] is not climbed:
            climb()
            climbed = ranked(trials)[0]
        if enough() or not met:
            break
    if not trials:
        return None
    return Searched(tuple(ranked(trials)), space.size, effort.seconds, budget, effort.why)


def _near(
    space: Space, leader: Assignment, *, every: bool = False, prompts: bool = True
) -> Iterator[Assignment]:
    """What differs from ``leader`` in one choice; of prompts and moduli the likeliest near ones, at the end.

    With ``every`` modulus, and not those near the leader's first; without ``prompts`` only in other choices.
    """
    mine = tokens_of(leader)
    others: list[Assignment] = []
    for assignment in space.neighbours(leader):
        tokens = tokens_of(assignment)
        if tokens == mine:
            yield assignment
        elif every or abs(tokens.p - mine.p) <= 2:
            others.append(assignment)
    if not every:
        others.sort(key=lambda one: tokens_of(one).p != mine.p)
    yield from others[: MOST_PROMPTS * prompts]
