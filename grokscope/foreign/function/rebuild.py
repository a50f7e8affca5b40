"""Choosing the function: search the space, let the record decide among its finalists, say what speaks for it.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from grokscope.foreign.evidence.losses import CROSS_ENTROPY, Loss
from grokscope.foreign.function import recorded_settings as written
from grokscope.foreign.function.groups import FoundGroup, find_group
from grokscope.foreign.function.hypotheses import Hypothesis, of_choices
from grokscope.foreign.function.nearest import nearest_to_record, of_loss, with_compared
from grokscope.foreign.function.outcomes import Answered, answered_by
from grokscope.foreign.function.search import SOME_NATS, Budget, Searched, search
from grokscope.foreign.function.space import Assignment, Space, Translate
from grokscope.foreign.function.trials import (
    answer_table,
    operation_task,
    orders,
    swapped_space,
    tokens_of,
)
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.models import Model
from grokscope.tasks import GroupSettings, ModularSettings, Task

__all__ = ["Answered", "Function", "answered_by", "choose_function"]


@dataclass(frozen=True)
class Function:
    """A rebuilt function and what it learned; ``answers`` says what speaks for it apart from the record."""

    model: Model
    translate: Translate
    task: Task
    task_settings: ModularSettings | GroupSettings
    operation: str
    p: int
    hypotheses: tuple[Hypothesis, ...]
    searched: Searched | None
    space: Space
    assignment: Assignment
    nats: float
    answers: str
    answered: Answered | None = None
    loss: Loss = CROSS_ENTROPY


def choose_function(
    source: ForeignRun, space: Space, task_facts: Mapping[str, Any], budget: Budget
) -> Function | str:
    """The likeliest function of ``space``, or why there is none."""
    named = task_facts.get("operation")
    operations = (named,) if named and named != "group" else ()
    searched, tensors = None, source.snapshots[-1].tensors
    if named != "group" and "group" not in task_facts:
        for index in _tried(len(source.snapshots)):
            # an earlier save is a second look, and gets a third of the budget
            share = budget if searched is None else budget.part(3)
            found = search(space, source.snapshots[index].tensors, operations, share)
            if found is None:
                break
            if searched is None or found.best.nats > searched.best.nats:
                searched, tensors = found, source.snapshots[index].tensors
            if searched.best.nats >= SOME_NATS:
                break
    if searched is None or searched.best.nats < SOME_NATS or searched.best.accuracy < 0.5:
        group = find_group(space, tensors, task_facts, budget)
        if group is not None and (searched is None or group.nats > searched.best.nats):
            found = _group_function(source, space, group, tensors, budget)
            if found is not None:
                return found
    if searched is None:
        return "no hypothesis about the function fits the shapes of the tensors"
    if searched.best.nats < SOME_NATS:
        known = _by_record(source, searched, task_facts)
        if known is None:
            best = searched.best
            return (
                f"the function is not proved: of {len(searched.trials)} hypotheses tried the best answers "
                f"{best.accuracy:.1%} of a sample of pairs as {best.named} modulo {best.p}, chance is {best.chance:.1%}"
            )
        searched = known
    return _modular_function(source, space, searched, operations)


def _by_record(source: ForeignRun, searched: Searched, task_facts: Mapping[str, Any]) -> Searched | None:
    """The hypotheses of the recorded modulus from the likeliest, where it and the operation are written down."""
    inside = dict(source.snapshots[-1].scalars)
    p = written.recorded_whole(source.facts, inside, written.MODULUS_NAMES)
    word = written.recorded_word(source.facts, inside, written.OPERATION_NAMES, written.OPERATION_WORDS)
    modulus, operation = task_facts.get("p") or (p[0] if p else None), task_facts.get("operation")
    if modulus is None or (operation is None and (word is None or word[0] == "group")):
        return None
    trials = sorted((one for one in searched.trials if one.p == modulus), key=lambda one: one.departure)
    return replace(searched, trials=tuple(trials)) if trials else None


def _tried(count: int) -> list[int]:
    """Positions of saves to search on until one tells: the last, then the middle ones and the first."""
    return list(dict.fromkeys((count - 1, (2 * count) // 3, count // 3, 0)))


def _modular_function(
    source: ForeignRun, space: Space, searched: Searched, operations: Sequence[str]
) -> Function:
    """The function of the search's winner, chosen among its finalists by the recorded losses."""
    nearest = nearest_to_record(source, space, searched, source.numbers)
    winner, searched = nearest.trial, with_compared(searched, nearest)
    operation, swapped = str(winner.operation), winner.swapped
    word = written.recorded_word(
        source.facts, dict(source.snapshots[-1].scalars), written.OPERATION_NAMES, written.OPERATION_WORDS
    )
    if winner.nats < SOME_NATS and word and word[0] != "group" and not operations:
        operation, swapped = word[0], False
    assignment = swapped_space(winner.assignment) if swapped else winner.assignment
    model, translate = space.build(assignment)
    p = tokens_of(assignment).p
    extra = model.n_classes - p
    task = operation_task(operation, p, extra)
    about = _about_operation(model, translate, source, operation, swapped, p, word, bool(operations))
    answers = (
        f"it answers {winner.accuracy:.1%} of a sample of pairs as {task.description}, chance is {1 / p:.1%}"
    )
    return Function(
        model=model,
        translate=translate,
        task=task,
        task_settings=ModularSettings(op=operation, p=p, train_fraction=0.5, extra_classes=extra),
        operation=operation,
        p=p,
        hypotheses=(*about, *of_choices(space, searched, winner, nearest.errors), *of_loss(nearest)),
        searched=searched,
        space=space,
        assignment=assignment,
        nats=winner.nats,
        answers=answers,
        answered=nearest.answered if operation == winner.operation else None,
        loss=nearest.loss,
    )


def _about_operation(
    model: Model,
    translate: Translate,
    source: ForeignRun,
    operation: str,
    swapped: bool,
    p: int,
    word: tuple[Any, str] | None,
    given: bool,
) -> tuple[Hypothesis, Hypothesis]:
    """What speaks for the operation and for the order of its operands, over the whole grid."""
    best: dict[tuple[Any, bool], float] = {}
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    for index in _tried(len(source.snapshots))[:2]:
        params = translate(source.snapshots[index].tensors)
        with torch.no_grad():
            answers = torch.cat([model.forward(params, part).argmax(dim=-1) for part in pairs.split(8192)])
        for op, other_way in orders(p):
            table = answer_table(op, p)
            targets = (table.T if other_way != (swapped and op == operation) else table).reshape(-1)
            defined = targets >= 0
            share = float((answers == targets)[defined].to(torch.float64).mean())
            best[op, other_way] = max(best.get((op, other_way), 0.0), share)
    mine = best[operation, swapped]
    others = {key: value for key, value in best.items() if key[0] != operation}
    (second, _), runner = max(others.items(), key=lambda item: item[1])
    evidence = f"accuracy on all pairs {mine:.3f}, {runner:.3f} under {second}"
    clear = mine - runner >= 0.1
    if word is not None:
        agrees = "recorded" if word[0] == operation else f"although {word[0]} is recorded"
        evidence = f"{agrees} ({word[1]}); {evidence}"
    basis = (
        "tested"
        if clear
        else ("recorded" if (word is not None and word[0] == operation) or given else "ambiguous")
    )
    about = Hypothesis("operation", operation, basis, evidence)
    if operation not in ("sub", "div"):
        return about, Hypothesis(
            "operand order", "a, b", "ambiguous", f"the answer of {operation} does not depend on it"
        )
    other = best[operation, not swapped]
    text = f"accuracy {mine:.3f} in this order, {other:.3f} in the other"
    return about, Hypothesis(
        "operand order", "b, a" if swapped else "a, b", "tested" if mine - other >= 0.1 else "ambiguous", text
    )


def _group_function(
    source: ForeignRun, space: Space, group: FoundGroup, tensors: Mapping[str, Tensor], budget: Budget
) -> Function | None:
    """The function of a group: the table told which, and the search goes on with its product for targets."""
    fit = group.fit
    settings = replace(fit.settings, train_fraction=0.5)
    searched = search(space, tensors, (settings,), budget, group.assignment)
    if searched is None:
        return None
    nearest = nearest_to_record(source, space, searched, source.numbers)
    winner, searched = nearest.trial, with_compared(searched, nearest)
    model, translate = space.build(winner.assignment)
    about = Hypothesis(
        "operation",
        f"the group {settings.group}, {settings.composition} composition",
        "tested",
        f"{fit.agreement:.1%} of the table of answers agree ({fit.method})",
    )
    return Function(
        model=model,
        translate=translate,
        task=operation_task(settings, model.n_classes),
        task_settings=settings,
        operation=settings.group,
        p=model.n_classes,
        hypotheses=(about, *of_choices(space, searched, winner, nearest.errors), *of_loss(nearest)),
        searched=searched,
        space=space,
        assignment=winner.assignment,
        nats=winner.nats,
        answers=f"{winner.accuracy:.1%} of its answers are products in {settings.group}",
        answered=nearest.answered,
        loss=nearest.loss,
    )
