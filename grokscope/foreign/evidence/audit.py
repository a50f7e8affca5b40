"""What a reader of an imported run should know before trusting its curves.

Scope: what the weights, the split and the proof say about the run; what documents, names and optimiser state
say against each other is in ``audit_conflicts``, norms in ``audit_norms``.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grokscope.foreign.evidence.audit_conflicts import conflicts, said_about, unrecorded_settings
from grokscope.foreign.evidence.audit_norms import compare_norms, naive_norm
from grokscope.foreign.evidence.findings import AuditContext, Finding, finding, quoted
from grokscope.foreign.evidence.verdicts import BLOCK_OF_PAIRS, FLOAT32_STEP, VERDICTS, Comparison

__all__ = ["AuditContext", "Finding", "audit", "audit_proof", "compare_norms", "finding"]

MOSTLY_MIRRORED = 0.8
GENERALISED = 0.95
SOLVED = 0.99
MOST_SAVES_IN_FLOAT32 = 6
MAX_SENTENCE = 400


def audit(context: AuditContext) -> list[Finding]:
    """Every finding about one run, the gravest first: *warning*, then *note*, each in the order below."""
    found = [
        *_unknown(context),
        *audit_proof(context.proof, context),
        *_one_step_off(context.proof),
        *_unsolved(context),
        *_untrained_pairs(context),
        *_mirrored(context),
        *conflicts(context),
        *_contradicted_split(context),
        *_split_not_stored(context),
        *unrecorded_settings(context),
        *_under_the_floor(context),
        *naive_norm(context),
        *compare_norms(context.norms, context.steps, context.saves, context.model.parts),
        *_updates_made(context),
        *_ignored(context.ignored),
        *_zero_biases(context),
        *_skipped(context),
    ]
    return sorted(found, key=lambda one: one["severity"] != "warning")


def audit_proof(proof: Sequence[Comparison], context: AuditContext | None = None) -> list[Finding]:
    """What the comparison with the record says as a whole."""
    counts = Counter(one.verdict for one in proof)
    recorded = len(proof) - counts["nothing recorded"]
    if not recorded:
        if context is not None and not context.function_known:
            return []
        evidence = "no loss or accuracy is recorded for a saved step"
        resolve = ""
        if context is not None:
            told = "put a metrics.csv (step, train_loss, test_loss) beside the weights, then"
            resolve = f"{told} {context.command('--name NAME')}"
        return [finding("nothing proves the rebuild", evidence, "warning", resolve=resolve)]
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS[:-1] if counts[verdict])
    evidence = f"of {recorded} recorded numbers at saved steps: {told}"
    numbers: dict[str, Any] = {"counts": {verdict: counts[verdict] for verdict in VERDICTS}}
    if counts["conflict"]:
        worst = max(
            (one for one in proof if one.verdict == "conflict"),
            key=lambda one: abs(one.relative if one.relative is not None else one.difference or 0.0),
        )
        ours = "not finite" if worst.ours is None else f"{worst.ours:.6g}"
        evidence += f"; {worst.quantity} at step {worst.step}: {worst.recorded:.6g}, rebuilt {ours}"
        resolve = context.command("--card FILE") if context is not None else ""
        name = "the rebuild does not reproduce everything recorded"
        if 2 * counts["conflict"] > recorded:
            name = "most recorded numbers contradict the rebuild"
        return [finding(name, evidence, "warning", resolve=resolve, **numbers)]
    if counts["one step off"]:
        return [finding("some recorded numbers belong to weights one step away", evidence, **numbers)]
    return [finding("the rebuild reproduces everything recorded", evidence, **numbers)]


def _unknown(context: AuditContext) -> list[Finding]:
    """Which of the two halves of a run nobody could find: its function, its training pairs."""
    found = []
    if context.model.no_function is not None:
        found.append(
            finding(
                "the function is not known",
                context.model.no_function.reason,
                "warning",
                resolve=f"{context.command('--card FILE')} or `--model FILE:FUNCTION`",
            )
        )
    if not context.split_known:
        reason = context.task.no_split.reason if context.task.no_split else "no pair is marked as trained on"
        name = "which pairs were trained on is not known"
        found.append(finding(name, reason, "warning", resolve=context.command("--card FILE")))
    return found


def _one_step_off(proof: Sequence[Comparison]) -> list[Finding]:
    """Where a loop evaluated on the other side of an update than it saved, one finding a source."""
    sources: dict[tuple[str, str], list[Comparison]] = {}
    for row in proof:
        if row.shift is not None or row.verdict == "one step off":
            sources.setdefault((row.source, row.quantity), []).append(row)
    found = []
    for (source, quantity), rows in sources.items():
        sides = Counter(row.shift for row in rows if row.shift is not None)
        side = max(sides, key=lambda shift: sides[shift]) if sides else None
        which = {None: "one update away from", -1: "one update before", 1: "one update after"}[side]
        told = next((row for row in rows if row.shift == side and row.note), rows[0])
        evidence = (
            f"{quoted(source)} belongs to weights {which} the saved ones: step {told.step}: {told.note}"
        )
        numbers: dict[str, Any] = {"quantity": quantity, "shift": side, "steps": [row.step for row in rows]}
        found.append(finding("saved one update away from what was recorded", evidence, **numbers))
    return found


def _unsolved(context: AuditContext) -> list[Finding]:
    if context.right is None or not len(context.right):
        return []
    last = context.right[-1]
    share, n_right = float(last.to(torch.float64).mean()), int(last.sum())
    if share >= SOLVED:
        return []
    evidence = (
        f"at the last step, {context.steps[-1]}, {n_right} of {len(last)} pairs ({share:.1%}) are right"
    )
    if context.split_known:
        train = context.task.train_mask
        parts = {"training": last[train], "test": last[~train]}
        evidence += "".join(
            f", {int(one.sum())} of {len(one)} {name} pairs" for name, one in parts.items() if len(one)
        )
    sure = any(row.verdict == "reproduced" for row in context.proof)
    evidence += "" if sure else " (or the rebuilt function is not theirs: nothing recorded confirms it)"
    resolve = "" if sure else context.command("--card FILE")
    name = "the published model does not solve its task"
    return [finding(name, evidence, "warning", resolve=resolve, right=n_right, of=len(last), accuracy=share)]


def _untrained_pairs(context: AuditContext) -> list[Finding]:
    if context.right is None or not context.split_known or not len(context.right):
        return []
    answered = context.right[-1][context.task.train_mask]
    wrong = int((~answered).sum())
    if not wrong:
        return []
    evidence = f"at step {context.steps[-1]} {wrong} of {len(answered)} training pairs are answered wrongly"
    numbers: dict[str, Any] = {"wrong": wrong, "of": len(answered)}
    return [finding("the last save does not fit its training pairs", evidence, "warning", **numbers)]


def _mirrored(context: AuditContext) -> list[Finding]:
    task, right = context.task, context.right
    if right is None or not context.split_known or task.kind != "classification":
        return []
    mirrored, test = task.mirrored(), ~task.train_mask
    if mirrored is None:
        why = f"swapping the operands of {task.operation} changes the answer, so no test pair is mirrored"
        return [finding("mirrored pairs do not apply", why)]
    unmirrored = test & ~mirrored
    if not mirrored.any() or not unmirrored.any():
        kind = "mirrored" if not mirrored.any() else "unmirrored"
        return [finding("mirrored pairs cannot be told apart", f"no test pair is {kind}")]
    rows = []
    for step, answered in zip(context.steps, right.to(torch.float64), strict=True):
        among = {"test": test, "mirrored": mirrored, "unmirrored": unmirrored}
        rows.append(
            {"step": int(step), **{name: float(answered[mask].mean()) for name, mask in among.items()}}
        )
    n_mirrored, n_test = int(mirrored.sum()), int(test.sum())
    counts = f"{n_mirrored} of {n_test} test pairs (a, b) have (b, a), another pair, in training"
    found: list[Finding] = []
    early = _early(rows, n_mirrored / n_test, task.chance or 0.0)
    if early is not None:
        evidence = f"{_told(early)}; {counts}"
        found.append(finding("early test accuracy is mirrored pairs", evidence, "warning", **early))
    return found + [finding("test accuracy by mirrored pairs", _told(row), **row) for row in rows]


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


def _contradicted_split(context: AuditContext) -> list[Finding]:
    told = (context.split or {}).get("contradiction")
    if not told:
        return []
    resolve = context.command("--card FILE")
    return [
        finding(
            "the split contradicts the recorded seed", quoted(told, MAX_SENTENCE), "warning", resolve=resolve
        )
    ]


def _split_not_stored(context: AuditContext) -> list[Finding]:
    """Whether fraction and seed are written down; explicit lists of pairs make both needless."""
    split = context.split or {}
    if split.get("source") == "explicit":
        return []
    found = []
    for about, key in (("training fraction", "train_fraction"), ("seed", "seed")):
        if said_about(context, about):
            continue
        evidence = f"no {about} is written beside the weights"
        value = split.get(key)
        if context.split_known and isinstance(value, int | float):
            evidence += f"; {value:g} is {split.get('source', 'found')}"
        resolve = "" if context.split_known else context.command("--card FILE")
        found.append(finding(f"the {about} is not stored", evidence, resolve=resolve))
    return found


def _under_the_floor(context: AuditContext) -> list[Finding]:
    """Saves whose training loss float32 cannot resolve, and the share of pairs whose float32 loss is 0."""
    if context.losses is None or not len(context.losses) or not context.function_known:
        return []
    task = context.task
    mask = task.train_mask if context.split_known else torch.ones(len(task.inputs), dtype=torch.bool)
    means = context.losses.to(torch.float64)[:, mask].mean(dim=1)
    under = [index for index in range(len(means)) if float(means[index]) < FLOAT32_STEP]
    if not under:
        return []
    count = min(len(under), MOST_SAVES_IN_FLOAT32)
    chosen = sorted({under[round(i * (len(under) - 1) / max(count - 1, 1))] for i in range(count)})
    rows = []
    for index in chosen:
        zero = _zero_in_float32(context, index, mask)
        rows.append({"step": int(context.steps[index]), "loss": float(means[index]), "zero": zero})
    lowest = min(rows, key=lambda row: row["loss"])
    pairs = "training loss" if context.split_known else "loss over all pairs"
    evidence = (
        f"at {len(under)} of {len(means)} saves the {pairs} is below {FLOAT32_STEP:.2g}; at step "
        f"{lowest['step']} it is {lowest['loss']:.3g}, and evaluated in float32 {lowest['zero']:.1%} of "
        "these pairs have a loss of exactly 0"
    )
    return [finding("losses under the floor of float32", evidence, saves=rows, under=len(under))]


def _zero_in_float32(context: AuditContext, index: int, mask: Tensor) -> float:
    params = {name: value.to(torch.float32) for name, value in context.saves[index].items()}
    inputs, targets = context.task.inputs[mask], context.task.targets[mask]
    zero = 0
    with torch.no_grad():
        for pairs, answers in zip(inputs.split(BLOCK_OF_PAIRS), targets.split(BLOCK_OF_PAIRS), strict=True):
            logits = context.model.forward(params, pairs)
            losses = torch.nn.functional.cross_entropy(logits, answers, reduction="none")
            zero += int((losses == 0).sum())
    return zero / len(targets)


def _updates_made(context: AuditContext) -> list[Finding]:
    """The optimiser's own count of updates beside the step of the last save."""
    state = (context.optimizer or {}).get("state")
    if not isinstance(state, Mapping) or not context.steps:
        return []
    counts = set()
    for entry in state.values():
        count = entry.get("step") if isinstance(entry, Mapping) else None
        count = count.item() if isinstance(count, Tensor) and count.numel() == 1 else count
        if isinstance(count, int | float) and not isinstance(count, bool):
            counts.add(int(count))
    if len(counts) != 1:
        return []
    (made,), step = counts, int(context.steps[-1])
    if made == step:
        return []
    evidence = f"the optimiser had made {made} updates when the save called step {step} was written"
    return [finding("the step is not the number of updates", evidence, step=step, updates=made)]


def _ignored(ignored: Mapping[str, str]) -> list[Finding]:
    if not ignored:
        return []
    listed = ", ".join(f"{quoted(name)} ({quoted(what)})" for name, what in list(ignored.items())[:12])
    more = f" and {len(ignored) - 12} more" if len(ignored) > 12 else ""
    return [finding("not every tensor of the file is a weight", f"left out: {listed}{more}")]


def _zero_biases(context: AuditContext) -> list[Finding]:
    if not context.saves:
        return []
    tensors = context.saves[-1]
    biases = [part.name for part in context.model.parts if part.kind == "bias" and part.name in tensors]
    zero = [name for name in biases if not tensors[name].any()]
    # biases that a file does not have are zero in ours
    held = any(not value.any() for name, value in context.raw.items() if name not in context.ignored)
    if not zero or not held:
        return []
    what = "all biases are zero" if len(zero) == len(biases) else "some biases are zero"
    return [finding(what, f"at the last save: {', '.join(zero[:12])}")]


def _skipped(context: AuditContext) -> list[Finding]:
    if not context.skipped:
        return []
    listed = "; ".join(
        f"{quoted(path)}: {quoted(why, MAX_SENTENCE)}" for path, why in list(context.skipped)[:5]
    )
    more = f"; and {len(context.skipped) - 5} more" if len(context.skipped) > 5 else ""
    evidence = f"{len(context.skipped)} left out: {listed}{more}"
    return [finding("not every file or step was taken", evidence, count=len(context.skipped))]
