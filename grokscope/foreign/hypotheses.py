"""What the tensors do not say, tested on the weights: the operation that was learned and the activation.

Scope: rebuild the function under each hypothesis, look at how well it answers or how near it comes to what
was recorded, and say which fits and by how much. What cannot be told apart stays a guess, reported as one.

Shape legend: T saves, N operand pairs, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grokscope.measures.classification import correct, cross_entropy
from grokscope.measures.cyclic import is_prime
from grokscope.models import Params, Transformer, TransformerSettings, as_float64
from grokscope.models.anatomy import Activation
from grokscope.tasks import OPERATIONS, ModularSettings, Task, modular_task

OPERATION_ALIASES: dict[str, str] = {
    **{name: name for name in OPERATIONS},
    **dict.fromkeys(("addition", "plus", "+", "x+y", "a+b", "modular_addition", "cyclicgroup"), "add"),
    **dict.fromkeys(("subtraction", "subtract", "minus", "-", "x-y", "a-b"), "sub"),
    **dict.fromkeys(("multiplication", "multiply", "times", "*", "x*y", "a*b"), "mul"),
    **dict.fromkeys(("division", "divide", "/", "x/y", "a/b"), "div"),
}
"""What people write for an operation, in lower case → our name."""

ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu")
ACTIVATION_ALIASES: dict[str, Activation] = {"relu": "relu", "gelu": "gelu"}

MOST_SAVES = 6
CLEAR_ACCURACY = 0.1
CLEAR_RATIO = 3.0
_BLOCK_ELEMENTS = 2**22


@dataclass(frozen=True)
class Hypothesis:
    """One thing that had to be supposed, and what speaks for it.

    ``basis``: *recorded* beside the weights, *tested* on them, or *assumed* because they do not tell.
    """

    about: str
    value: str
    basis: Literal["recorded", "tested", "assumed"]
    evidence: str

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def operation_task(operation: str, p: int) -> Task:
    """The task of ``operation`` with a placeholder split."""
    return modular_task(ModularSettings(op=operation, p=p, train_fraction=0.5), 0)


def pair_outcomes(model: Transformer, params: Params, task: Task) -> tuple[Tensor, Tensor]:
    """(N,) float64 cross-entropy and (N,) bool correctness of every pair of the task."""
    losses, right = [], []
    for chosen, logits in _logits(model, params, task):
        losses.append(cross_entropy(logits, task.targets[chosen]))
        right.append(correct(logits, task.targets[chosen]))
    return torch.cat(losses), torch.cat(right)


def find_operation(
    settings: TransformerSettings, p: int, saves: Sequence[Params], recorded: tuple[Any, str] | None
) -> tuple[str, tuple[Hypothesis, ...]]:
    """The operation that the weights answer best, over a few saves and the last.

    ``recorded`` is what is written beside the weights, and where; an unknown word is ignored. Accuracy
    hardly depends on the activation, so both are tried and neither is chosen here.
    """
    chosen = [as_float64(saves[index]) for index in _spread(len(saves))]
    named = _named_operation(recorded, p)
    operations = [named] if named else [op for op in OPERATIONS if op != "div" or is_prime(p)]
    accuracy = dict.fromkeys(operations, 0.0)
    tasks, grid = {op: operation_task(op, p) for op in operations}, operation_task("add", p)
    for activation in ACTIVATIONS:
        model = Transformer(dataclasses.replace(settings, activation=activation), p, p)
        for params in chosen:
            answers = torch.cat([logits.argmax(dim=-1) for _, logits in _logits(model, params, grid)])
            for op, task in tasks.items():
                right = answers[task.inputs[:, 0] * p + task.inputs[:, 1]] == task.targets
                accuracy[op] = max(accuracy[op], float(right.to(torch.float64).mean()))
    operation, about = _operation(accuracy, recorded if named else None)
    depends = operation in ("sub", "div")
    effect = "changes with it, and this one fits" if depends else "does not depend on it"
    evidence = f"the answer of {operation} {effect}"
    return operation, (
        about,
        Hypothesis("operand order", "a, b", about.basis if depends else "assumed", evidence),
    )


def find_activation(
    recorded: tuple[Any, str] | None, errors: Mapping[Activation, float | None]
) -> tuple[Activation, Hypothesis]:
    """ReLU or GELU: as written down, else the one whose losses are nearer to the recorded ones.

    ``errors`` holds the typical relative error of the recorded losses under each, ``None`` where
    nothing is recorded. The loss itself says nothing: networks trained with ReLU have been seen to reach
    a lower loss when they are run with GELU.
    """
    word = ACTIVATION_ALIASES.get(str(recorded[0]).strip().lower()) if recorded else None
    if recorded and word:
        written = f"{recorded[0]!r} is recorded as {recorded[1]}"
        return word, Hypothesis("activation", word, "recorded", written)
    relu, gelu = errors["relu"], errors["gelu"]
    if relu is None or gelu is None:
        untested = "no loss is recorded beside the weights to test it"
        return "relu", Hypothesis("activation", "relu", "assumed", untested)
    evidence = f"typical relative error of the recorded losses {relu:.2g} with ReLU, {gelu:.2g} with GELU"
    low, high = min(relu, gelu), max(relu, gelu)
    if high >= CLEAR_RATIO * low and high > 0:
        better: Activation = "relu" if relu < gelu else "gelu"
        return better, Hypothesis("activation", better, "tested", evidence)
    return "relu", Hypothesis("activation", "relu", "assumed", f"the record does not tell: {evidence}")


def _named_operation(recorded: tuple[Any, str] | None, p: int) -> str | None:
    word = OPERATION_ALIASES.get(str(recorded[0]).strip().lower().replace(" ", "")) if recorded else None
    return None if word == "div" and not is_prime(p) else word


def _operation(accuracy: Mapping[str, float], recorded: tuple[Any, str] | None) -> tuple[str, Hypothesis]:
    # ties keep the order of the table, in which addition comes first
    ranked = sorted(accuracy, key=lambda op: -accuracy[op])
    first = ranked[0]
    evidence = f"best accuracy on all pairs {accuracy[first]:.3f}"
    if recorded is not None:
        evidence = f"{recorded[0]!r} is recorded as {recorded[1]}; {evidence}"
        return first, Hypothesis("operation", first, "recorded", evidence)
    second = ranked[1]
    evidence += f", {accuracy[second]:.3f} under {second}"
    if accuracy[first] - accuracy[second] >= CLEAR_ACCURACY:
        return first, Hypothesis("operation", first, "tested", evidence)
    return "add", Hypothesis("operation", "add", "assumed", f"the weights do not tell: {evidence}")


def _spread(count: int) -> list[int]:
    """At most ``MOST_SAVES`` positions over the saves, the last among them."""
    if count <= MOST_SAVES:
        return list(range(count))
    return sorted({round(index * (count - 1) / (MOST_SAVES - 1)) for index in range(MOST_SAVES)})


def _logits(model: Transformer, params: Params, task: Task) -> Iterator[tuple[slice, Tensor]]:
    """Logits in blocks of bounded memory, for a modulus of any size."""
    width = max(model.n_classes, model.settings.d_mlp, model.settings.n_heads * model.d_head)
    block = max(1, _BLOCK_ELEMENTS // width)
    for start in range(0, len(task.inputs), block):
        chosen = slice(start, start + block)
        yield chosen, model.forward(params, task.inputs[chosen])
