"""Recognising the group that a network multiplies in, from the table of its answers alone.

Shape legend: n elements of the group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.effort import Effort, weights_in
from grokscope.foreign.function.search import Budget
from grokscope.foreign.function.space import Assignment, Space
from grokscope.foreign.function.tokens import MOST_SPECIALS
from grokscope.foreign.function.trials import tokens_of
from grokscope.tasks import GroupFit, identify_group
from grokscope.tasks.group_tables import groups_of_order

LEAST_AGREEMENT = 0.3
"""Share of a table's entries from which on a group explains it: by luck one agrees with 1/n."""

MOST_TABLES = 24
MOST_LOOKED_AT = 20000
MOST_DIHEDRAL = 160
"""Elements up to which a table is read for any known group; beyond only for A6 and S6."""


@dataclass(frozen=True)
class FoundGroup:
    """A hypothesis of the space under which the answers are a group's products; ``nats`` as in ``search``."""

    assignment: Assignment
    fit: GroupFit
    nats: float
    tried: int


def find_group(
    space: Space, tensors: Mapping[str, Tensor], task_facts: Mapping[str, Any], budget: Budget
) -> FoundGroup | None:
    """The first hypothesis under which the answers are products in a group, or ``None``.

    Tables are cheap and identification is not, so only hypotheses are read whose residues fill the head.
    """
    effort, tried = Effort(budget.work, seconds_allowed=budget.seconds), 0
    weights = weights_in(tensors, space.names)
    best: FoundGroup | None = None
    fitting = _orders(space, task_facts.get("p"))
    if not fitting:
        return None
    for assignment in islice(space.assignments(), MOST_LOOKED_AT):
        if tried >= min(MOST_TABLES, budget.hypotheses) or effort.over():
            break
        n = tokens_of(assignment).p
        if (_chain(assignment), n) not in fitting:
            continue
        effort.charge(n * n, weights)
        try:
            model, translate = space.build(assignment)
            if model.n_classes != n:
                continue
            pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))
            params = translate(tensors)
            with torch.no_grad():
                answers = torch.cat(
                    [model.forward(params, part).argmax(dim=-1) for part in pairs.split(16384)]
                )
        except GrokscopeError:
            continue
        tried += 1
        fit = identify_group(answers.reshape(n, n))
        if fit is None or fit.agreement < LEAST_AGREEMENT:
            continue
        share = min(fit.agreement, 1 - 1e-12)
        nats = n * n * (share * math.log(share * n) + (1 - share) * math.log((1 - share) / (1 - 1 / n)))
        found = FoundGroup(assignment, fit, nats, tried)
        if best is None or nats > 1.02 * best.nats:
            best = found
        if best.fit.agreement > 0.95:
            break
    return best


def _chain(assignment: Assignment) -> Any:
    """The chain of matrices of an assignment, ``None`` in a transformer."""
    return assignment["chain"][0] if "chain" in assignment else None


def _orders(space: Space, p: int | None) -> set[tuple[Any, int]]:
    """Chains and numbers of elements, nearly as many as there is room for, of which groups are known."""
    options = [
        option if choice.about == "chain" else (None, option)
        for choice in space.choices
        if choice.about in ("tokens", "chain")
        for option in choice.options
    ]
    room: dict[Any, int] = {}
    for chain, tokens in options:
        room[chain] = max(room.get(chain, 0), tokens.p)
    return {
        (chain, tokens.p)
        for chain, tokens in options
        if p in (None, tokens.p)
        and tokens.p >= room[chain] - MOST_SPECIALS
        and (tokens.p <= MOST_DIHEDRAL or tokens.p in (360, 720))
        and groups_of_order(tokens.p)
    }
