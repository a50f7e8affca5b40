"""One hypothesis about a function on one save: what it answers, and how much that speaks for it.

A hypothesis is scored by how often and how firmly it gives an operation's answer over a sample of the input
grid: under the function that was trained, the pairs that were trained on are answered with a small loss, under
another with a doubtful one.

Shape legend: N operand pairs, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.space import Assignment, Space, Tokens
from grokscope.measures.classification import cross_entropy
from grokscope.measures.cyclic import is_prime
from grokscope.tasks import OPERATIONS, GroupSettings, ModularSettings, Task, group_task, modular_task

SAMPLE = 1024
FIRM = 1e-3
"""Loss at which a right answer counts in full; one of 1 counts nothing."""
NEAR = 0.95
FAR_LOSS = 5.0
_SAME = 1e-5
_UNBOUNDED = ("quadratic",)
"""Activations that grow faster than their input: a net run with them has huge logits and no loss at all."""


Operation = str | GroupSettings
"""An operation modulo p by its name, or the product of a group."""


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


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Hypotheses from the best: of those with nearly the most evidence, the likeliest.

    Evidence is that of the firm answers where there are some. A loss several times that of another in the
    group puts a hypothesis behind; a smaller one says little, for nets have been seen to reach a lower loss
    under an activation that they were not trained with.
    """
    firmly = by_firmness(trials)
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


def by_firmness(trials: Sequence[Trial]) -> bool:
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
    answers, posed = logits.argmax(dim=-1), _posed(p, tuple(operations))
    # an operation is answered nowhere that it is not defined
    counts = (answers == posed.targets).sum(dim=1).tolist()
    shares = [count / size for count, size in zip(counts, posed.sizes, strict=True)]
    best = max(range(len(shares)), key=lambda k: (shares[k] - posed.chances[k], -k))
    operation, swapped = posed.named[best]
    targets, accuracy = posed.targets[best], shares[best]
    if posed.sizes[best] < len(targets):
        defined = targets >= 0
        logits, targets, answers = logits[defined], targets[defined], answers[defined]
    losses = cross_entropy(logits, targets)
    # a loss below 1 is not yet a right answer: two classes may share it
    weight = (losses.clamp(min=FIRM).log10() / math.log10(FIRM)).clamp(min=0.0) * (answers == targets)
    return Trial(
        assignment,
        operation,
        swapped,
        accuracy,
        loss=float(losses.mean()),
        pairs=len(targets),
        firm=float(weight.to(torch.float64).mean()),
        chance=posed.chances[best],
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


@dataclass(frozen=True)
class Posed:
    """O operations on the sample of pairs, each in the orders of the operands that make a difference.

    ``targets`` (O, N) is −1 where an operation is not defined; ``sizes`` counts where it is, ``chances`` are the
    shares of the commonest answers, which a constant would give.
    """

    named: tuple[tuple[Operation, bool], ...]
    targets: Tensor
    sizes: tuple[int, ...]
    chances: tuple[float, ...]


@lru_cache(maxsize=512)
def _posed(p: int, operations: tuple[Operation, ...]) -> Posed:
    named, pairs = tuple(orders(p, operations)), sample_of_pairs(p)
    rows, sizes, chances = [], [], []
    for operation, swapped in named:
        table = answer_table(operation, p)
        targets = (table.T if swapped else table)[pairs[:, 0], pairs[:, 1]]
        defined = targets[targets >= 0]
        rows.append(targets)
        sizes.append(len(defined))
        # 0 is the product of many pairs where the modulus is composite
        chances.append(float(defined.bincount().max()) / len(defined))
    return Posed(named, torch.stack(rows), tuple(sizes), tuple(chances))


@lru_cache(maxsize=64)
def sample_of_pairs(p: int) -> Tensor:
    """(N, 2) int64: every pair, or a fixed sample of ``SAMPLE``."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    if len(pairs) <= SAMPLE:
        return pairs
    return pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:SAMPLE]]


@lru_cache(maxsize=16)
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
