"""When the slow phase shows, and where it ends: rows on its clock, on its end points, and on the rank."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row
from grokscope.studies.riemannian_readings import DROP, FIT, LEAST_DROP, MIDDLE, Reading, Since
from grokscope.studies.riemannian_rows import (
    LOGARITHMIC,
    Times,
    decays_of,
    judged,
    near,
    over_seeds,
    powers_of,
    rank_words,
    verdict,
)
from grokscope.studies.riemannian_runs import EXPERIMENTS, RANK_OF_COMPLETION, Kind

CONVEX = 0.1
"""Largest relative distance from the minimum of the convex problem at which the end counts as that minimum."""
REPORTED = {
    "diagonal": "diagonal_linear",
    "completion": "matrix_completion",
    "relu": "two_layer_relu",
}
"""Kinds of models → what the paper calls their experiment."""
END: dict[Kind, str] = {"diagonal": "l1", "completion": "singular values"}
"""What that says of the end."""
STATIONARY = 0.05
"""Largest share of the weights along the manifold at which the end counts as a point of stationary norm."""
ON_THE_CLOCK = 0.25
"""Largest distance from 1 of a power of 1/λ that counts as the clock 1/λ."""
NEAR = 10**0.5
"""Factor within which a time is near another: half a decade, what can be read off a logarithmic axis."""
DROPS = {"diagonal": MIDDLE, "relu": DROP}
"""Share of the drop that is compared with 1/λ: the paper says when it is (diagonal network), or when it starts."""
ZERO = 1e-2
"""Largest relative squared error that counts as none, the level of the fit."""


def theirs(kind: Kind, about: str) -> str:
    """The part of what the paper reported of one of its experiments in which a word stands."""
    said = published("riemannian")["experiments"][REPORTED[kind]]["reported"]
    return next(part for part in re.split("[,;] ", said) if about in part)


def kind_of(readings: Sequence[Reading]) -> Kind:
    """What model it is."""
    return EXPERIMENTS[readings[0].experiment].kind


def end_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """Whether the end has a norm that is stationary on the manifold, and how far it is from a convex minimum."""
    rows: list[Row] = []
    findings: list[Finding] = []
    for decay in decays_of(readings):
        group = [one for one in readings if one.decay == decay]
        counted = over_seeds(len(group))
        if decay in judged(readings):
            shares = [one.tangent_share[1] for one in group]
            ends = (min(shares), max(shares))
            rows.append(Row(
                f"{words}: share of the weights along the manifold at the end, decay {decay:g}",
                "0: a KKT point of the norm", float(np.median(shares)), ends,
                verdict(ends[1] <= STATIONARY, ends[0] > STATIONARY),
                f"it was {np.median([one.tangent_share[0] for one in group]):.3g} at the start; what only decays is "
                f"left with {math.exp(-_ticks(group)):.2g} of its size; {counted}; agrees: at most {STATIONARY:g} for "
                f"all; {rank_words(group)}",
            ))  # fmt: skip
        for name in group[0].ends:
            values = [one.ends[name] for one in group]
            said, ends = (
                f"{words}: distance of the end from the {name}, decay {decay:g}",
                (min(values), max(values)),
            )
            if decay not in judged(readings):
                findings.append(Finding(said, float(np.median(values)), ends, f"relative; {counted}"))
                continue
            rows.append(Row(
                said, f"0: {theirs(kind_of(group), END[kind_of(group)])}", float(np.median(values)), ends,
                verdict(ends[1] <= CONVEX, ends[0] > CONVEX),
                f"relative; {counted}; agrees: at most {CONVEX:g} for all, with what decay has not taken away by then",
            ))  # fmt: skip
        errors = [float(one.error_test[-1]) for one in group]
        ends = (min(errors), max(errors))
        said = f"{words}: test error at the end, decay {decay:g}"
        if kind_of(group) == "diagonal" and decay in judged(readings):
            rows.append(Row(
                said, f"0: {theirs('diagonal', 'test loss')}", float(np.median(errors)), ends,
                verdict(ends[1] <= ZERO, ends[0] > ZERO),
                f"relative squared error; {counted}; agrees: at most {ZERO:g} for all",
            ))  # fmt: skip
        else:
            findings.append(
                Finding(said, float(np.median(errors)), ends, f"relative squared error; {counted}")
            )
    return rows, findings


def clock_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """What the paper says of times: when the fit settles, when the test error drops, when the tail is gone."""
    kind = kind_of(readings)
    if kind == "linear":
        return [], []  # the paper says nothing of its times, and all of them are known in closed form
    rows, findings = _fit_rows(readings, words, kind)
    if kind in ("diagonal", "relu"):
        share = DROPS[kind]
        what = f"{100 * share:g} % of the drop of the test error is done"
        rule = f"from the junction on, where it falls by {100 * LEAST_DROP:g} % at least"
        made, said = _slow_clock(readings, words, kind, what, rule, lambda one: one.drop_times(share))
        rows, findings = rows + made, findings + said
        if made:
            rows += _near_rows(readings, words, kind)
        findings += _drop_findings(readings, words, DROP + MIDDLE - share, "junction")
        findings += _drop_findings(readings, words, DROP, "fit")
    if kind == "completion":
        what = f"the tail after {RANK_OF_COMPLETION} singular values is down by e"
        rule = "its sum against that at the fit"
        made, said = _slow_clock(
            readings, words, kind, what, rule, lambda one: one.tail_times(RANK_OF_COMPLETION)
        )
        rows, findings = rows + made, findings + said
    return rows, findings


def _fit_rows(readings: Sequence[Reading], words: str, kind: Kind) -> tuple[list[Row], list[Finding]]:
    """Time of the fit at every decay; beside the paper's where it printed one."""
    rows: list[Row] = []
    findings: list[Finding] = []
    for decay in decays_of(readings):
        group = [one for one in readings if one.decay == decay]
        known = [ends for one in group if (ends := one.fit_times) is not None]
        if not known:
            findings.append(Finding(f"{words}: time of the fit, decay {decay:g}", "not within the run", None,
                                    f"training error at most {FIT:g}; {len(group)} seeds"))  # fmt: skip
            continue
        value = float(np.median([sum(ends) / 2 for ends in known]))
        ends = (min(low for low, _ in known), max(high for _, high in known))
        note = f"training error at most {FIT:g}; {over_seeds(len(known))}"
        note += f"; {len(group) - len(known)} not within the run" if len(known) < len(group) else ""
        said = f"{words}: time of the fit, decay {decay:g}"
        if kind != "diagonal" or decay not in judged(readings):
            findings.append(Finding(said, value, ends, note))
            continue
        rows.append(Row(
            said, f"1e2: {theirs(kind, 'interpolates')}", value, ends, _within(100.0, ends),
            f"Σ lr; {note}; agrees: within a factor {NEAR:.3g} of 100 for all. The paper's step size, sample and "
            "sparsity are not published, and this time goes with them",
        ))  # fmt: skip
    powers, last = powers_of(readings, fit_of), decays_of(readings)[-2:]
    if kind == "completion" and powers:
        ends = (min(low for low, _, _ in powers), max(high for *_, high in powers))
        rows.append(Row(
            f"{words}: power of 1/λ in the time of the fit, decays {last[0]:g} and {last[1]:g}",
            f"0: {theirs(kind, 'early')}", float(np.median([middle for _, middle, _ in powers])), ends,
            verdict(max(map(abs, ends)) < LOGARITHMIC, min(map(abs, ends)) >= LOGARITHMIC),
            f"training error at most {FIT:g}; {over_seeds(len(powers))}, the spacing of saves counted; agrees: under "
            f"{LOGARITHMIC:g} either way for all, where a time of order 1/λ has 1",
        ))  # fmt: skip
    return rows, findings


def fit_of(one: Reading) -> tuple[float, float] | None:
    """The ends of the fit in time."""
    return one.fit_times


def _slow_clock(
    readings: Sequence[Reading], words: str, kind: Kind, what: str, rule: str, times: Times
) -> tuple[list[Row], list[Finding]]:
    """The power of 1/λ in a time, between the two smallest decays, and λ times it at each."""
    findings: list[Finding] = []
    for decay in decays_of(readings):
        group = [one for one in readings if one.decay == decay]
        known = [ends for one in group if (ends := times(one)) is not None]
        if known and kind in DROPS and decay in judged(readings):
            continue  # a row says it
        value = float(np.median([decay * sum(ends) / 2 for ends in known])) if known else None
        ends = (
            (decay * min(low for low, _ in known), decay * max(high for _, high in known)) if known else None
        )
        findings.append(Finding(
            f"{words}: λt at which {what}, decay {decay:g}", value, ends,
            f"{rule}; {len(known)} of {len(group)} seeds show it",
        ))  # fmt: skip
    powers, last = powers_of(readings, times), decays_of(readings)[-2:]
    if not powers or len(last) < 2:
        return [], findings
    ends = (min(low for low, _, _ in powers), max(high for *_, high in powers))
    return [Row(
        f"{words}: power of 1/λ in the time at which {what}, decays {last[0]:g} and {last[1]:g}",
        f"1: {theirs(kind, '1/lambda')}", float(np.median([middle for _, middle, _ in powers])), ends,
        near(ends, 1, ON_THE_CLOCK),
        f"{rule}; {over_seeds(len(powers))}, the spacing of saves counted; agrees: within {ON_THE_CLOCK:g} of 1 for "
        "all",
    )], findings  # fmt: skip


def _near_rows(readings: Sequence[Reading], words: str, kind: Kind) -> list[Row]:
    """Whether the drop is near 1/λ, at the paper's decays."""
    rows = []
    for decay in judged(readings):
        group = [one for one in readings if one.decay == decay]
        known = [ends for one in group if (ends := one.drop_times(DROPS[kind])) is not None]
        if not known:
            continue
        ends = (decay * min(low for low, _ in known), decay * max(high for _, high in known))
        rows.append(Row(
            f"{words}: λt at which {100 * DROPS[kind]:g} % of the drop of the test error is done, decay {decay:g}",
            f"1: {theirs(kind, '1/lambda')}", float(np.median([decay * sum(one) / 2 for one in known])), ends,
            _within(1.0, ends),
            f"{len(known)} of {len(group)} seeds show a drop; {over_seeds(len(known))}; agrees: within a factor "
            f"{NEAR:.3g} of 1 for all",
        ))  # fmt: skip
    return rows


def _drop_findings(readings: Sequence[Reading], words: str, share: float, since: Since) -> list[Finding]:
    """The power of 1/λ in the same time, taken otherwise."""

    def times(one: Reading) -> tuple[float, float] | None:
        return one.drop_times(share, since)

    powers, last = powers_of(readings, times), decays_of(readings)[-2:]
    if not powers:
        return []
    known = [
        last[1] * sum(ends) / 2
        for one in readings
        if one.decay == last[1] and (ends := times(one)) is not None
    ]
    return [Finding(
        f"{words}: power of 1/λ in the time at which {100 * share:g} % of the drop counted from the {since} is done",
        float(np.median([middle for _, middle, _ in powers])),
        (min(low for low, _, _ in powers), max(high for *_, high in powers)),
        f"decays {last[0]:g} and {last[1]:g}; at the smaller λt = {np.median(known):.3g}; {over_seeds(len(powers))}",
    )]  # fmt: skip


def _within(value: float, ends: tuple[float, float]) -> str:
    """Whether all are within the factor `NEAR`, or all outside."""
    low, high = ends
    inside = low >= value / NEAR and high <= value * NEAR
    return verdict(inside, high < value / NEAR or low > value * NEAR)


def rank_finding(readings: Sequence[Reading], words: str) -> Finding:
    """Whether the rank of the Jacobian held after the junction, in how many runs."""
    decayed = [one for one in readings if one.decay > 0]
    held = sum(one.ranks[0] == one.ranks[1] for one in decayed)
    return Finding(
        f"{words}: runs whose rank holds after the junction", f"{held} of {len(decayed)}", None,
        f"{rank_words(decayed)}; singular values of at least 1e-8 of the largest",
    )  # fmt: skip


def long_findings(readings: Sequence[Reading]) -> list[Finding]:
    """What the rank does in runs far beyond the others: sparse and low-rank targets beside dense ones."""
    findings = []
    for name in dict.fromkeys(one.experiment for one in readings):
        group = [one for one in readings if one.experiment == name]
        words, decay = EXPERIMENTS[name].words, group[0].decay
        starts, ends = [float(one.rank[0]) for one in group], [float(one.rank[-1]) for one in group]
        lost = [one.decay * one.times[int(np.argmax(one.rank < one.rank[0]))] for one in group if (
            one.rank < one.rank[0]).any()]  # fmt: skip
        note = f"{np.median(starts):g} at the start; {over_seeds(len(group))}"
        note += (
            f"; the first is lost at λt from {min(lost):.3g} to {max(lost):.3g} in {len(lost)} of them"
            if lost
            else "; constant in all of them, as the theory assumes"
        )
        if EXPERIMENTS[name].kind == "completion" and group[0].sigma is not None:
            free = RANK_OF_COMPLETION * (2 * group[0].sigma.shape[1] - RANK_OF_COMPLETION)
            note += f"; matrices of rank {RANK_OF_COMPLETION} have {free} directions"
        findings.append(Finding(
            f"{words}: rank of the Jacobian at λt = {_ticks(group):.0f}, decay {decay:g}", float(np.median(ends)),
            (min(ends), max(ends)), note,
        ))  # fmt: skip
    return findings


def _ticks(group: Sequence[Reading]) -> float:
    return min(one.decay * float(one.times[-1]) for one in group)
