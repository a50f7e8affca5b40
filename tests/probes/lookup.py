"""Networks that are lookup tables, so that every accuracy of a run is known without running it.

With one-hot embeddings that are summed, z = e_a + e_b, the neuron relu(z_a + z_b − 1) of an unordered pair
{a, b} is 1 on (a, b) and (b, a). It is 1 on (a, a) and (b, b) too, so diagonal pairs of the table have a
neuron of their own with a larger say.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from grokscope.models import MLPSettings, Params
from grokscope.tasks import Task

STRENGTH = 20.0


def lookup_settings(p: int) -> MLPSettings:
    """An MLP with one neuron for each unordered pair."""
    return MLPSettings(d_embed=p, hidden=(p * (p + 1) // 2,), combine="sum", hidden_bias=True)


def pairs_of(p: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(p) for b in range(a, p)]


def table_network(p: int, answers: dict[tuple[int, int], int]) -> Params:
    """The network that answers the unordered pairs of ``answers`` and says 0 everywhere else."""
    pairs = pairs_of(p)
    weight, head = torch.zeros(p, len(pairs)), torch.zeros(len(pairs), p)
    for neuron, (a, b) in enumerate(pairs):
        weight[a, neuron] = weight[b, neuron] = 1.0
        if (a, b) in answers:
            head[neuron, answers[a, b]] = STRENGTH * (100 if a == b else 1)
    return {
        "embed.W_E": torch.eye(p, dtype=torch.float64),
        "hidden.1.W": weight.double(),
        "hidden.1.b": -torch.ones(len(pairs), dtype=torch.float64),
        "head.W_U": head.double(),
    }


def silent_network(p: int) -> Params:
    """All logits zero: the loss is log p, the argmax is class 0."""
    return table_network(p, {})


def answers_for(task: Task, samples: Iterable[int]) -> dict[tuple[int, int], int]:
    """Unordered pair → answer, for the samples given."""
    found = {}
    for index in samples:
        a, b = sorted(int(x) for x in task.inputs[index])
        found[a, b] = int(task.targets[index])
    return found


def memoriser(task: Task) -> Params:
    """Right on every training pair and on its mirror image."""
    assert task.n_tokens is not None
    return table_network(task.n_tokens, answers_for(task, task.train_mask.nonzero().flatten().tolist()))


def perfect(task: Task) -> Params:
    """Right on every pair."""
    assert task.n_tokens is not None
    return table_network(task.n_tokens, answers_for(task, range(len(task.inputs))))


def predicted(task: Task, answers: dict[tuple[int, int], int]) -> Tensor:
    """(N,) what the lookup network answers, by counting votes without running it."""
    assert task.n_tokens is not None
    votes_of = torch.zeros(len(task.inputs), task.n_tokens, dtype=torch.float64)
    for index, (a, b) in enumerate(task.inputs.tolist()):
        for (c, d), answer in answers.items():
            if a != b:
                active = {a, b} == {c, d}
                votes_of[index, answer] += active
            else:
                votes_of[index, answer] += (a in (c, d)) if c != d else 3 * 100 * (a == c)
    return votes_of.argmax(1)
