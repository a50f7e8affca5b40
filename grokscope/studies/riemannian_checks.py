"""Whether the runs can be trusted: their step size, and what was chosen where the paper says nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grokscope.studies.result import Finding, Row
from grokscope.studies.riemannian_ends import end_rows
from grokscope.studies.riemannian_readings import Reading, relative
from grokscope.studies.riemannian_rows import drift_rows, over_seeds
from grokscope.studies.riemannian_runs import EXPERIMENTS
from grokscope.studies.riemannian_steps import LOOKED_AT, RULE


def step_findings(main: Sequence[Reading], halved: Sequence[Reading], words: str) -> list[Finding]:
    """The largest learning rate × curvature, and how far a run at half the rate is at the same time."""
    findings = []
    stiff = [one.stiffness for one in main if one.stiffness is not None]
    if stiff:
        worst = max(stiff)
        said = "kept by all runs" if worst < RULE else f"broken by {sum(one >= RULE for one in stiff)} runs"
        findings.append(Finding(
            f"{words}: largest learning rate × curvature", worst, (min(stiff), worst),
            f"of the loss with its decay, at {LOOKED_AT} saves of each of {len(stiff)} runs; range over runs; the rule "
            f"is under {RULE:g}, so that no update steps over a valley: {said}",
        ))  # fmt: skip
    distances: list[float] = []
    ends: list[float] = []
    for half in halved:
        same = [one for one in main if (one.decay, one.seed) == (half.decay, half.seed)]
        if same:
            distances.append(half_rate_distance(same[0], half))
            ends.append(relative(half.weights[-1], same[0].weights[-1]))
    if distances:
        findings.append(Finding(
            f"{words}: distance from a run at half the rate, decay {halved[0].decay:g}", float(np.median(distances)),
            (min(distances), max(distances)),
            f"the largest over {len(halved[0].steps) - 1} saves at equal Σ lr, relative to the weights; at the end "
            f"{max(ends):.2g} at most; "
            f"{over_seeds(len(distances))}",
        ))  # fmt: skip
    return findings


def half_rate_distance(whole: Reading, half: Reading) -> float:
    """The largest relative distance of the weights over the saves of ``half``, at half their steps in ``whole``."""
    found = []
    for place, step in enumerate(half.steps.tolist()):
        at = int(np.searchsorted(whole.steps, step // 2))
        if step and at < len(whole.steps) and 2 * whole.steps[at] == step:
            found.append(relative(half.weights[place], whole.weights[at]))
    if not found:
        raise ValueError("half_rate_distance: got runs without a save at the same time, expected one")
    return max(found)


def varied_findings(main: Sequence[Reading], varied: Sequence[Reading]) -> list[Finding]:
    """Whether the verdicts on drift and end change where what the paper leaves open is taken otherwise."""
    findings = []
    for name in dict.fromkeys(one.experiment for one in varied):
        group = [one for one in varied if one.experiment == name]
        kind, words = EXPERIMENTS[name].kind, EXPERIMENTS[name].words
        seeds = {one.seed for one in group}
        base = [
            one
            for one in main
            if one.experiment == kind and one.decay == group[0].decay and one.seed in seeds
        ]
        if not base:
            continue
        expected = {row.quantity: row for row in verdicts(base, "")}
        found = {row.quantity: row for row in verdicts(group, "")}
        shared = [key for key in expected if key in found]
        changed = [key for key in shared if found[key].verdict != expected[key].verdict]
        listed = "; ".join(
            f"{key.removeprefix(': ')} {_value(found[key])}, was {_value(expected[key])}" for key in changed
        )
        findings.append(Finding(
            f"{words}: verdicts as in the main runs", f"{len(shared) - len(changed)} of {len(shared)}", None,
            f"drift and end at decay {group[0].decay:g}, {len(seeds)} seeds" + (f"; {listed}" if listed else ""),
        ))  # fmt: skip
    return findings


def verdicts(group: Sequence[Reading], words: str) -> list[Row]:
    """The rows that one decay alone decides."""
    return [*drift_rows(group, words)[0], *end_rows(group, words)[0]]


def _value(row: Row) -> str:
    return f"{row.ours:.3g} ({row.verdict})" if isinstance(row.ours, float) else row.verdict
