"""Recorded norms of the weights: which tensors and which norm give them, and what a naive one would be.

Scope: a state dict also holds what is no weight (masks, the score of masked positions, copies of an
embedding), so that a norm over all of it is another number, sometimes by orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grokscope.foreign.evidence.findings import AuditContext, Finding, finding, quoted
from grokscope.foreign.gathering.facts import Recorded
from grokscope.models import Params, Part

NORM_TOLERANCE = 0.005
CORRUPTED = 1e-3
"""Relative change of a norm by what is no weight from which on it is worth a word."""

_NORMS: dict[str, Callable[[Sequence[Tensor]], float]] = {
    "the root of the sum of squares": lambda tensors: math.sqrt(_squares(tensors)),
    "the sum of squares": lambda tensors: _squares(tensors),
    "the sum of the tensors' norms": lambda tensors: sum(math.sqrt(_squares([one])) for one in tensors),
}
_NOMINAL = {"norm.total": "the root of the sum of squares", "norm.squared": "the sum of squares"}


def compare_norms(
    recorded_norms: Sequence[Recorded],
    steps: Sequence[int],
    saves: Sequence[Params],
    parts: Sequence[Part],
    raw: Sequence[Mapping[str, Tensor]] = (),
) -> list[Finding]:
    """Which convention gives the recorded norms, one finding for each source and quantity.

    Tried are all parameters, the matrices alone, and (where ``raw`` is given) every tensor of the file, under
    the norms of the table above. A convention counts where most of a source's numbers agree within
    ``NORM_TOLERANCE``; numbers that agree under none are a warning.

    Args:
        steps, saves: the saves and their steps.
        parts: the roles of the parameters.
        raw: every tensor of each save's file under its own name; may be empty.
    """
    position = {int(step): index for index, step in enumerate(steps)}
    sources: dict[tuple[str, str], list[Recorded]] = {}
    for one in recorded_norms:
        if one.step in position and one.quantity in _NOMINAL and math.isfinite(one.value):
            sources.setdefault((one.source, one.quantity), []).append(one)
    matrices = {part.name for part in parts if part.kind == "matrix"}
    found: list[Finding] = []
    for (source, quantity), rows in sources.items():
        candidates: dict[tuple[str, str], list[float]] = {}
        for one in rows:
            index = position[one.step]
            params = saves[index]
            sets = {
                "all parameters": list(params.values()),
                "the matrices alone": [value for name, value in params.items() if name in matrices],
            }
            if index < len(raw):
                sets["every tensor of the file, buffers and copies too"] = _numeric(raw[index])
            for which, tensors in sets.items():
                for norm, value in _NORMS.items():
                    candidates.setdefault((norm, which), []).append(value(tensors))
        found.append(_best(source, quantity, rows, candidates))
    return found


def naive_norm(context: AuditContext) -> list[Finding]:
    """What the norm over all tensors of the file would be, beside that of the weights."""
    beside = [context.raw[name] for name in context.ignored if name in context.raw]
    if not beside:
        return []
    every = math.sqrt(_squares(_numeric(context.raw)))
    weights = math.sqrt(
        _squares(_numeric({n: v for n, v in context.raw.items() if n not in context.ignored}))
    )
    if not (math.isfinite(every) and math.isfinite(weights)) or abs(every - weights) <= CORRUPTED * weights:
        return []
    squares = {
        name: _squares(_numeric({name: context.raw[name]})) for name in context.ignored if name in context.raw
    }
    worst = max(squares, key=lambda name: squares[name])
    evidence = (
        f"over all tensors of the last file it is {every:.6g}, of the weights {weights:.6g}: most of the "
        f"difference is {quoted(worst)} ({quoted(context.ignored[worst])})"
    )
    severity = "warning" if abs(every - weights) > 0.05 * weights else "note"
    return [
        finding(
            "a naive norm would count what is no weight", evidence, severity, naive=every, weights=weights
        )
    ]


def _best(
    source: str,
    quantity: str,
    rows: Sequence[Recorded],
    candidates: Mapping[tuple[str, str], Sequence[float]],
) -> Finding:
    def errors(values: Sequence[float]) -> list[float]:
        return [
            max(abs(value - one.value) - one.resolution, 0.0) / abs(one.value)
            if one.value
            else (0.0 if value <= one.resolution else math.inf)
            for value, one in zip(values, rows, strict=True)
        ]

    def rank(key: tuple[str, str]) -> tuple[int, float, bool]:
        each = errors(candidates[key])
        within = sum(error <= NORM_TOLERANCE for error in each)
        # rounded so that equal conventions (no biases, no buffers) fall to the one that the name speaks of
        return -within, round(sorted(each)[len(each) // 2], 6), key[0] != _NOMINAL[quantity]

    chosen = min(candidates, key=rank)
    within = -rank(chosen)[0]
    if within * 2 <= len(rows):
        chosen = (_NOMINAL[quantity], "all parameters")
    values = candidates[chosen]
    each = errors(values)
    worst = max(range(len(rows)), key=lambda index: each[index])
    shown, ours = rows[worst], values[worst]
    numbers: dict[str, Any] = {
        "quantity": quantity,
        "step": shown.step,
        "recorded": shown.value,
        "ours": ours,
        "reproduced": within,
        "of": len(rows),
    }
    told = f"{quoted(source)} at step {shown.step}: {shown.value:.6g}, ours {ours:.6g}"
    if within * 2 <= len(rows):
        evidence = f"{told} ({chosen[0]} over {chosen[1]}; no other convention tried gives it)"
        return finding("the recorded norm is not that of these weights", evidence, "warning", **numbers)
    evidence = (
        f"{chosen[0]} over {chosen[1]} gives {within} of {len(rows)} within {NORM_TOLERANCE:.1%}; {told}"
    )
    numbers |= {"norm": chosen[0], "tensors": chosen[1]}
    if chosen[0] != _NOMINAL[quantity] or chosen[1].startswith("every"):
        return finding("the recorded norm is another than its name says", evidence, "warning", **numbers)
    if within < len(rows):
        return finding("some recorded norms are not those of these weights", evidence, "warning", **numbers)
    return finding("the recorded norm is reproduced", evidence, **numbers)


def _squares(tensors: Sequence[Tensor]) -> float:
    return float(sum(float(value.to(torch.float64).square().sum()) for value in tensors))


def _numeric(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for value in tensors.values() if not value.is_complex()]
