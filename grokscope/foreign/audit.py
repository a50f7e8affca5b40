"""What a reader of an imported run should know before trusting its curves.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grokscope.foreign.proof import Comparison
from grokscope.tasks import Task

Finding = dict[str, Any]
"""``finding`` and ``evidence``, one sentence each; some carry their numbers beside them."""

MOSTLY_MIRRORED = 0.8
GENERALISED = 0.95


def audit(
    task: Task, steps: Sequence[int], right: Tensor, ignored: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> list[Finding]:
    """Every finding about one run.

    Args:
        task: with the run's own split.
        right: (T, N) bool, which pairs are answered correctly at each save.
        ignored: names of what is no weight, and why.
        tensors: the parameters of the last save, under our names.
    """
    return [*_mirrored(task, steps, right), *_ignored(ignored), *_zero_biases(tensors)]


def audit_proof(proof: Sequence[Comparison]) -> list[Finding]:
    """What the comparison with the record says as a whole."""
    if not proof:
        evidence = "no loss or accuracy is recorded for a saved step"
        return [{"finding": "nothing proves the rebuild", "evidence": evidence}]
    counts = Counter(one.verdict for one in proof)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("agrees", "one step off", "differs"))
    evidence = f"of {len(proof)} recorded numbers at saved steps: {told}"
    if counts["differs"]:
        worst = max((one for one in proof if one.verdict == "differs"), key=lambda one: abs(one.difference))
        evidence += f"; {worst.quantity} at step {worst.step}: {worst.recorded:.6g}, rebuilt {worst.ours:.6g}"
        return [{"finding": "the rebuild does not reproduce everything recorded", "evidence": evidence}]
    if counts["one step off"]:
        return [{"finding": "some recorded numbers belong to weights one step away", "evidence": evidence}]
    return [{"finding": "the rebuild reproduces everything recorded", "evidence": evidence}]


def _mirrored(task: Task, steps: Sequence[int], right: Tensor) -> list[Finding]:
    mirrored, test = task.mirrored(), ~task.train_mask
    if mirrored is None:
        why = f"swapping the operands of {task.operation} changes the answer, so no test pair is mirrored"
        return [{"finding": "mirrored pairs do not apply", "evidence": why}]
    unmirrored = test & ~mirrored
    if not mirrored.any() or not unmirrored.any():
        kind = "mirrored" if not mirrored.any() else "unmirrored"
        return [{"finding": "mirrored pairs cannot be told apart", "evidence": f"no test pair is {kind}"}]
    rows = []
    for step, answered in zip(steps, right.to(torch.float64), strict=True):
        among = {"test": test, "mirrored": mirrored, "unmirrored": unmirrored}
        rows.append({"step": step, **{name: float(answered[mask].mean()) for name, mask in among.items()}})
    n_mirrored, n_test = int(mirrored.sum()), int(test.sum())
    counts = f"{n_mirrored} of {n_test} test pairs (a, b) have (b, a), another pair, in training"
    findings: list[Finding] = []
    early = _early(rows, n_mirrored / n_test, task.chance or 0.0)
    if early is not None:
        evidence = f"{_told(early)}; {counts}"
        findings.append({"finding": "early test accuracy is mirrored pairs", "evidence": evidence})
    return findings + [
        {"finding": "test accuracy by mirrored pairs", "evidence": _told(row), **row} for row in rows
    ]


def _early(rows: list[dict[str, Any]], share: float, chance: float) -> dict[str, Any] | None:
    """The save of highest test accuracy before generalisation whose right answers are mostly mirrored."""
    found = None
    for row in rows:
        if row["unmirrored"] >= GENERALISED:
            break
        above_chance = row["test"] > chance + 0.05
        if above_chance and row["mirrored"] * share >= MOSTLY_MIRRORED * row["test"]:
            found = row if found is None or row["test"] > found["test"] else found
    return found


def _told(row: Mapping[str, Any]) -> str:
    parts = f"{row['mirrored']:.3f} mirrored, {row['unmirrored']:.3f} unmirrored"
    return f"step {row['step']}: {row['test']:.3f} = {parts}"


def _ignored(ignored: Mapping[str, str]) -> list[Finding]:
    if not ignored:
        return []
    listed = ", ".join(f"{name} ({what})" for name, what in ignored.items())
    return [{"finding": "not every tensor of the file is a weight", "evidence": f"left out: {listed}"}]


def _zero_biases(tensors: Mapping[str, Tensor]) -> list[Finding]:
    biases = {name: value for name, value in tensors.items() if ".b_" in name}
    zero = [name for name, value in biases.items() if not value.any()]
    if not zero:
        return []
    what = "all biases are zero" if len(zero) == len(biases) else "some biases are zero"
    return [{"finding": what, "evidence": f"at the last save: {', '.join(zero)}"}]
