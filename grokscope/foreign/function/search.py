"""What the tensors do not say, found by trying: every hypothesis that they allow, scored by what it answers.

A hypothesis is a function (activation, heads, prompt, …) with an operation and a modulus. It is scored by how
often and how firmly it gives the operation's answer over a sample of the input grid: under the function that
was trained, the pairs that were trained on are answered with a small loss, under another with a doubtful one.
The search walks outwards from the likeliest hypothesis and climbs from the best that it has met, one choice at
a time. Distance from the recorded losses comes afterwards. What scores alike stays ambiguous and is reported
so.

Shape legend: N operand pairs, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.space import Assignment, Space, Tokens, Translate
from grokscope.measures.classification import correct, cross_entropy
from grokscope.measures.cyclic import is_prime
from grokscope.models import Model, as_float64
from grokscope.tasks import OPERATIONS, GroupSettings, ModularSettings, Task, group_task, modular_task

SAMPLE = 1024
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
FIRM = 1e-3
"""Loss at which a right answer counts in full; one of 1 counts nothing."""
FINALISTS = 8
NEAR = 0.95
FAR_LOSS = 5.0
_SAME = 1e-5
_UNBOUNDED = ("quadratic",)
"""Activations that grow faster than their input: a net run with them has huge logits and no loss at all."""


Operation = str | GroupSettings
"""An operation modulo p by its name, or the product of a group."""


@dataclass(frozen=True)
class Budget:
    """How much a search may try: a number of hypotheses and seconds."""

    hypotheses: int = 1200
    seconds: float = 20.0


@dataclass(frozen=True)
class Trial:
    """One hypothesis tried: its share of right answers and its loss over the sample of pairs.

    ``firm`` is the share of right answers with each weighted by −log₁₀ of its loss, from 0 at a loss of 1 to 1
    at one of ``FIRM`` and below; ``chance`` the share of the commonest answer, which a constant would give;
    ``departure`` how far the assignment is from the likeliest.
    """

    assignment: Assignment
    operation: Operation
    swapped: bool
    accuracy: float
    loss: float
    pairs: int
    firm: float = 0.0
    chance: float = 0.0
    departure: int = 0

    @property
    def p(self) -> int:
        return tokens_of(self.assignment).p

    @property
    def named(self) -> str:
        """The operation by its name."""
        return self.operation if isinstance(self.operation, str) else self.operation.group

    @cached_property
    def nats(self) -> float:
        """Evidence against guessing: pairs times the divergence of the accuracy from that of chance.

        It makes hypotheses of different moduli comparable: a few pairs answered by luck weigh little.
        """
        return self._against_chance(self.accuracy)

    @cached_property
    def firm_nats(self) -> float:
        """As ``nats``, of the firm answers: guesses that come out right weigh little in it."""
        return self._against_chance(self.firm)

    def _against_chance(self, share: float) -> float:
        chance = self.chance or 1 / self.p
        if share <= chance:
            return 0.0
        wrong = (1 - share) * math.log((1 - share) / (1 - chance)) if share < 1 else 0.0
        return self.pairs * (share * math.log(share / chance) + wrong)


@dataclass(frozen=True)
class Searched:
    """What a search tried, best first, and what it spent."""

    trials: tuple[Trial, ...]
    size: int
    seconds: float
    budget: Budget

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


def tokens_of(assignment: Assignment) -> Tokens:
    """The prompt and modulus of an assignment."""
    return assignment["tokens"] if "tokens" in assignment else assignment["chain"][1]


def alike(one: Trial, other: Trial) -> bool:
    """Whether two hypotheses answer and score alike, as the same function does."""
    return (
        one.accuracy == other.accuracy
        and one.operation == other.operation
        and abs(one.loss - other.loss) <= _SAME * (abs(one.loss) + 1e-12)
    )


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
    start = time.monotonic()
    trials: list[Trial] = []
    seen: set[str] = set()

    def spent() -> bool:
        return len(trials) >= budget.hypotheses or time.monotonic() - start > budget.seconds

    def attempt(assignment: Assignment) -> Trial | None:
        key = repr(sorted((name, str(value)) for name, value in assignment.items()))
        if key in seen:
            return None
        seen.add(key)
        trial = tried(space, tensors, assignment, operations)
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
        return trial.firm_nats if _by_firmness(trials) else trial.nats

    def enough() -> bool:
        best = max(trials, key=lambda trial: trial.nats)
        return best.nats >= min(ENOUGH_NATS, ENOUGH_SHARE * best.pairs * math.log(best.p))

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
    return Searched(tuple(ranked(trials)), space.size, time.monotonic() - start, budget) if trials else None


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Hypotheses from the best: of those with nearly the most evidence, the likeliest.

    Evidence is that of the firm answers where there are some. A loss several times that of another in the
    group puts a hypothesis behind; a smaller one says little, for nets have been seen to reach a lower loss
    under an activation that they were not trained with.
    """
    firmly = _by_firmness(trials)
    nats = {id(trial): trial.firm_nats if firmly else trial.nats for trial in trials}
    most = max(nats.values())
    near = [trial for trial in trials if nats[id(trial)] >= NEAR * most]
    tame = [trial for trial in near if is_tame(trial)] or near
    floor = min(trial.loss for trial in tame)
    plausible = [trial for trial in tame if trial.loss <= FAR_LOSS * floor]
    plausible.sort(key=lambda trial: trial.departure)
    chosen = {id(trial) for trial in plausible}
    behind = sorted((trial for trial in near if id(trial) not in chosen), key=lambda trial: trial.loss)
    rest = sorted(
        (trial for trial in trials if nats[id(trial)] < NEAR * most), key=lambda trial: -nats[id(trial)]
    )
    return plausible + behind + rest


def _by_firmness(trials: Sequence[Trial]) -> bool:
    """Whether losses tell anything: under another loss than cross-entropy a net answers rightly, never firmly."""
    best = max(trials, key=lambda trial: trial.nats)
    return max(trial.firm for trial in trials if trial.nats >= 0.5 * best.nats) >= 0.3 * best.accuracy


def is_tame(trial: Trial) -> bool:
    """Whether nothing in a hypothesis inflates the logits, which would make its loss small by itself."""
    given = trial.assignment
    return given.get("activation") not in _UNBOUNDED and given.get("embedding_scale", 1.0) <= 1.0


def core(space: Space, assignment: Assignment) -> str:
    """An assignment without the choices that hardly change an answer, as a key."""
    late = {choice.about for choice in space.choices if choice.late} | {"softmax over"}
    return repr(sorted((about, str(value)) for about, value in assignment.items() if about not in late))


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


def tried(
    space: Space, tensors: Mapping[str, Tensor], assignment: Assignment, operations: Sequence[Operation]
) -> Trial | None:
    """One hypothesis on one save, under the operation that it answers best; ``None`` where it is none."""
    try:
        model, translate = space.build(assignment)
        params = translate(tensors)
        p = tokens_of(assignment).p
        for operation in operations:
            if isinstance(operation, GroupSettings) and model.n_classes != len(answer_table(operation, p)):
                return None
        pairs = sample_of_pairs(p)
        with torch.no_grad():
            logits = model.forward(params, pairs)
    except GrokscopeError:
        return None
    trial = _judged(assignment, logits, pairs, p, operations)
    return None if trial is None else replace(trial, departure=space.departure(assignment))


def _judged(
    assignment: Assignment, logits: Tensor, pairs: Tensor, p: int, operations: Sequence[Operation]
) -> Trial | None:
    if not bool(logits.isfinite().all()):
        return None
    answers, best = logits.argmax(dim=-1), None
    for operation, swapped in orders(p, operations):
        targets = (
            answer_table(operation, p)[pairs[:, 1], pairs[:, 0]]
            if swapped
            else answer_table(operation, p)[pairs[:, 0], pairs[:, 1]]
        )
        defined = targets >= 0
        accuracy = float((answers == targets)[defined].to(torch.float64).mean())
        # 0 is the product of many pairs where the modulus is composite
        chance = float(targets[defined].bincount().max()) / int(defined.sum())
        if best is None or accuracy - chance > best[0] - best[1]:
            best = accuracy, chance, operation, swapped, targets, defined
    assert best is not None
    accuracy, chance, operation, swapped, targets, defined = best
    losses = cross_entropy(logits[defined], targets[defined])
    # a loss below 1 is not yet a right answer: two classes may share it
    weight = (losses.clamp(min=FIRM).log10() / math.log10(FIRM)).clamp(min=0.0) * (answers == targets)[
        defined
    ]
    firm = float(weight.to(torch.float64).mean())
    return Trial(
        assignment, operation, swapped, accuracy, float(losses.mean()), int(defined.sum()), firm, chance
    )


def orders(p: int, operations: Sequence[Operation] = ()) -> Iterator[tuple[Operation, bool]]:
    """Operations modulo p, and whether the operands are exchanged, each where it makes a difference."""
    for operation in operations or OPERATIONS:
        if operation == "div" and not is_prime(p):
            continue
        yield operation, False
        if operation in ("sub", "div"):
            yield operation, True


@lru_cache(maxsize=64)
def answer_table(operation: Operation, p: int) -> Tensor:
    """(p, p) int64 answers, −1 where the operation is not defined."""
    task = operation_task(operation, p)
    table = torch.full((p, p), -1)
    table[task.inputs[:, 0], task.inputs[:, 1]] = task.targets
    return table


@lru_cache(maxsize=8)
def sample_of_pairs(p: int) -> Tensor:
    """(N, 2) int64: every pair, or a fixed sample of ``SAMPLE``."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    if len(pairs) <= SAMPLE:
        return pairs
    return pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:SAMPLE]]


def operation_task(operation: Operation, p: int, extra_classes: int = 0) -> Task:
    """The task of ``operation`` with a placeholder split.

    Raises:
        GrokscopeError: a group of another order than p, or with more classes than elements.
    """
    if isinstance(operation, GroupSettings):
        task = group_task(replace(operation, train_fraction=0.5), 0)
        if task.n_classes != p + extra_classes:
            raise GrokscopeError(
                f"learning {operation.group}: {p + extra_classes} classes were given, expected {task.n_classes}"
            )
        return task
    return modular_task(
        ModularSettings(op=operation, p=p, train_fraction=0.5, extra_classes=extra_classes), 0
    )


def outcomes(
    model: Model, translate: Translate, tensors: Mapping[str, Tensor], task: Task
) -> tuple[Tensor, Tensor]:
    """(N,) float64 cross-entropy and (N,) bool correctness of every pair of the task, in float64."""
    params = as_float64(translate(tensors))
    with torch.no_grad():
        logits = grid_logits(model, params, task)
    return cross_entropy(logits, task.targets), correct(logits, task.targets)


def grid_logits(model: Model, params: Mapping[str, Tensor], task: Task) -> Tensor:
    """(N, C) logits of every pair, by the model's grid where the task is one."""
    if task.is_grid:
        grid = model.forward_grid(dict(params))
        if isinstance(grid, Tensor):
            return grid.flatten(0, 1)
    return model.forward(dict(params), task.inputs)


def swapped_space(assignment: Assignment) -> dict[str, Any]:
    """The assignment with its operands exchanged in the prompt."""
    exchange = {"a": "b", "b": "a"}
    if "tokens" in assignment:
        tokens = assignment["tokens"]
        prompt = tuple(exchange.get(item, item) for item in tokens.prompt)
        return {**assignment, "tokens": replace(tokens, prompt=prompt)}
    chain, tokens = assignment["chain"]
    prompt = tuple(exchange.get(item, item) for item in tokens.prompt)
    return {**assignment, "chain": (chain, replace(tokens, prompt=prompt))}
