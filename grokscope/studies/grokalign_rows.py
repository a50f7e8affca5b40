"""Speed-up of GrokAlign over training without it, in steps and in time, and what goes with it; each with its rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from grokscope.measures.censored import MedianInterval, as_bounds, median_interval
from grokscope.studies.grokalign_readings import ALIGNED, NOISE, Reading, Readings
from grokscope.studies.grokalign_runs import BASELINE, Case
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Interval, Row, compared

SIGNS = 0.975
"""Quantile of Student's t: intervals of means over seeds are at 95 %."""


@dataclass(frozen=True)
class Speedup:
    """The baseline's steps to the stop over a method's, seed by seed, and their geometric mean.

    A run that did not get there has its budget in the place of its steps: ``unreached_baseline`` of them make the
    ratio a lower bound, ``unreached`` of the method's make it an upper bound. Seeds of which neither run got there
    say nothing and are not in it; ``mean`` is ``None`` where no other is left.
    """

    ratios: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None
    unreached_baseline: int
    unreached: int


def speedup(baseline: Sequence[Reading], method: Sequence[Reading]) -> Speedup:
    """Of the seeds that both have. Raises ValueError where they share none."""
    ours = {one.seed: one for one in method}
    pairs = [(one, ours[one.seed]) for one in baseline if one.seed in ours]
    if not pairs:
        raise ValueError("speedup: got runs without a common seed, expected some")
    unreached_baseline = sum(plain.reached.by is None for plain, _ in pairs)
    unreached = sum(other.reached.by is None for _, other in pairs)
    told = [
        (plain, other)
        for plain, other in pairs
        if plain.reached.by is not None or other.reached.by is not None
    ]
    ratios = tuple(_steps(plain) / _steps(other) for plain, other in told)
    if not ratios:
        return Speedup((), None, None, unreached_baseline, unreached)
    logs = np.log(ratios)
    ends = mean_interval(logs)
    return Speedup(
        ratios,
        math.exp(float(logs.mean())),
        None if ends is None else (math.exp(ends[0]), math.exp(ends[1])),
        unreached_baseline,
        unreached,
    )


def _steps(one: Reading) -> float:
    """Where the stop was reached, the middle of its interval; the last step of a run that did not get there."""
    by, after = one.reached.by, one.reached.after or 0
    return max(1.0, float(after if by is None else (after + by) / 2))


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Of the mean at 95 %, by Student's t; ``None`` for fewer than three."""
    count = len(values)
    if count < 3:
        return None
    half = float(stdtrit(count - 1, SIGNS)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def faster(found: Speedup) -> str:
    """*agrees* where the method is faster, *differs* where it is slower; an end that is only a bound proves nothing."""
    if found.interval is None:
        return "cannot tell"
    low, high = found.interval
    if low > 1 and not found.unreached:
        return "agrees"
    return "differs" if high < 1 and not found.unreached_baseline else "cannot tell"


def speed_rows(case: Case, readings: Readings) -> tuple[list[Row], list[Finding]]:
    """The main method's ratio as a row, the others' as findings, and the steps of every method."""
    rows: list[Row] = []
    findings: list[Finding] = []
    baseline = readings.get(BASELINE)
    for label, runs in readings.items():
        middle = steps_to_stop(runs)
        findings.append(Finding(
            f"{case.words}, {label}: steps to test accuracy {case.stop:g}", shown_steps(case, middle.value),
            (shown_steps(case, middle.low), shown_steps(case, middle.high)),
            f"median of {middle.n} seeds, interval of {100 * middle.coverage:.0f} %; a step is "
            + (f"{case.updates} updates" if case.updates > 1 else "an update")
            + (f"; {middle.censored} did not get there in {case.steps // case.updates}" if middle.censored else ""),
        ))  # fmt: skip
        if label == BASELINE or baseline is None:
            continue
        found = speedup(baseline, runs)
        quantity = f"{case.words}, {label}: speed-up in steps"
        note = _note(found, len(found.ratios))
        if label == case.main:
            rows.append(_speed_row(case, quantity, found, note))
        else:
            findings.append(Finding(quantity, found.mean, found.interval, note, 3))
    return rows, findings


def _speed_row(case: Case, quantity: str, found: Speedup, note: str) -> Row:
    if case.speedup is None:
        return Row(quantity, _claimed(case), found.mean, found.interval, _against(case, faster(found)),
                   f"{note}; agrees: {_rule(case)}", digits=3)  # fmt: skip
    ours = published("grokalign")["accelerate"]["speedup_steps"][case.speedup]
    value, deviation = ours["grokalign"], ours["sd"]
    if case.key.startswith("mnist"):
        return compared(quantity, value, found.mean, found.interval, no_effect=1.0, digits=3,
                        published_interval=(value - deviation, value + deviation), note=note)  # fmt: skip
    return Row(quantity, f"{value:g} on MNIST (sd {deviation:g})", found.mean, found.interval, faster(found),
               f"{note}; agrees: the interval lies above 1; the size belongs to the data", digits=3)  # fmt: skip


def _claimed(case: Case) -> str:
    if case.key.startswith("transformer"):
        return published("grokalign")["transformer"]["reported"]
    return "faster"


def _rule(case: Case) -> str:
    if case.key == "transformer.learned":
        return "the interval does not lie above 1"
    return "the interval lies above 1"


def _against(case: Case, found: str) -> str:
    """What ``found`` means for what was claimed; with learned embeddings that is no speed-up."""
    if case.key != "transformer.learned":
        return found
    return {"agrees": "differs", "differs": "agrees"}.get(found, "cannot tell")


def _note(found: Speedup, count: int) -> str:
    if not count:
        return "no run got there, with it or without it"
    said = f"geometric mean of {count} seeds, each over the baseline of its own split and weights"
    if found.unreached_baseline:
        said += f"; {found.unreached_baseline} baselines did not get there: a lower bound"
    if found.unreached:
        said += f"; {found.unreached} did not get there with it: an upper bound"
    return said


def steps_to_stop(runs: Sequence[Reading]) -> MedianInterval:
    """The median over seeds, in updates."""
    return median_interval(*as_bounds([one.reached for one in runs]))


def shown_steps(case: Case, updates: float | None) -> float | None:
    """Updates as published steps."""
    return None if updates is None or not math.isfinite(updates) else updates / case.updates


def time_rows(case: Case, readings: Readings, seconds: Mapping[str, float]) -> list[Row]:
    """The same in time: the ratio of steps over the ratio of the seconds that a step takes."""
    if BASELINE not in readings or case.main not in readings or not {BASELINE, case.main} <= seconds.keys():
        return []
    found, cost = speedup(readings[BASELINE], readings[case.main]), seconds[case.main] / seconds[BASELINE]
    ends: Interval | None = (
        None if found.interval is None else (found.interval[0] / cost, found.interval[1] / cost)
    )
    note = f"a step with the penalty took {cost:.3g} times as long on this machine, one thread"
    mean = None if found.mean is None else found.mean / cost
    timed = Speedup(found.ratios, mean, ends, found.unreached_baseline, found.unreached)  # pyright: ignore[reportArgumentType]
    theirs = published("grokalign")["accelerate"]["speedup_time"].get(case.speedup or "")
    said = f"{theirs['grokalign']:g} on MNIST" if theirs else _claimed(case)
    return [Row(f"{case.words}, {case.main}: speed-up in time", said, timed.mean, ends, _against(case, faster(timed)),
                f"{note}; {_note(found, len(found.ratios))}; agrees: {_rule(case)}", digits=3)]  # fmt: skip


def delay_findings(case: Case, readings: Readings) -> list[Finding]:
    """Whether there is anything to be sped up: the test accuracy at the fit and at the end of the baseline."""
    runs = readings.get(BASELINE, [])
    at_fit = [one.at_fit for one in runs if one.at_fit is not None]
    if not at_fit:
        return []
    fits = median_interval(*as_bounds([one.fit for one in runs]))
    ends = [one.final for one in runs]
    return [
        Finding(f"{case.words}, {BASELINE}: step at which 99 % of the training samples are right",
                shown_steps(case, fits.value), (shown_steps(case, fits.low), shown_steps(case, fits.high)),
                f"median of {fits.n} seeds, interval of {100 * fits.coverage:.0f} %"),
        Finding(f"{case.words}, {BASELINE}: test accuracy at that step", float(np.median(at_fit)),
                (min(at_fit), max(at_fit)), f"median and range over {len(at_fit)} seeds", 3),
        Finding(f"{case.words}, {BASELINE}: test accuracy at the end", float(np.median(ends)), (min(ends), max(ends)),
                f"median and range over {len(ends)} seeds; a run ends at {case.stop:g} or after "
                f"{case.steps // case.updates} steps", 3),
    ]  # fmt: skip


def alignment_rows(case: Case, readings: Readings) -> list[Row]:
    """Whether the penalty leaves Jacobians that lie more along their inputs, and which rose first."""
    rows: list[Row] = []
    baseline, ours = readings.get(BASELINE), readings.get(case.main)
    if baseline is None or ours is None:
        return rows
    kind = case.speedup
    theirs = published("grokalign")["accelerate"]["row_alignment"]
    said = "larger"
    if kind == "mse":
        said = f"{theirs['mse_baseline'][1]:g} to {theirs['mse_grokalign'][1]:g} on MNIST"
    elif kind == "ce":
        said = f"{theirs['ce_baseline'][1]:g} to {theirs['ce_grokalign'][1]:g} on MNIST"
    for name, words, published_words in (
        (ALIGNED, "largest cosine of a row of the Jacobian with its input", said),
        (NOISE, "test accuracy under noise as large as the inputs", "more robust"),
    ):
        pairs = paired(baseline, ours, name)
        if not len(pairs):
            continue
        ends = mean_interval(pairs[:, 1] - pairs[:, 0])
        rows.append(Row(
            f"{case.words}, {case.main} less {BASELINE}: {words}, at the end", published_words,
            float(np.mean(pairs[:, 1] - pairs[:, 0])), ends,
            "cannot tell" if ends is None else "agrees" if ends[0] > 0 else "differs" if ends[1] < 0 else "cannot tell",
            f"from {np.mean(pairs[:, 0]):.3g} to {np.mean(pairs[:, 1]):.3g}, means of {len(pairs)} seeds; agrees: the "
            "interval of the difference lies above 0", digits=3,
        ))  # fmt: skip
    runs = [one for group in (baseline, ours) for one in group]
    counts = {
        name: sum(one.first == name for one in runs)
        for name in ("alignment", "accuracy", "overlap", "no onset")
    }
    decided = counts["alignment"] + counts["accuracy"]
    verdict = "cannot tell"
    if decided > len(runs) / 2:
        verdict = (
            "agrees" if not counts["accuracy"] else "differs" if not counts["alignment"] else "cannot tell"
        )
    rows.append(Row(
        f"{case.words}: runs in which the alignment rises before the test accuracy", "alignment leads",
        f"{counts['alignment']} of {len(runs)}", None, verdict,
        f"in {counts['accuracy']} after it, in {counts['overlap']} the intervals between saves overlap, in "
        f"{counts['no onset']} one of them has no onset after the fit; agrees: most runs are decided, all for it",
    ))  # fmt: skip
    return rows


def paired(baseline: Sequence[Reading], ours: Sequence[Reading], name: str) -> np.ndarray:
    """(seeds, 2): the finite values at the last save without and with the method."""
    other = {one.seed: one for one in ours}
    found = []
    for one in baseline:
        if one.seed in other and name in one.ends and name in other[one.seed].ends:
            ends = [of.ends[name] for of in (one, other[one.seed])]
            if np.isfinite(ends).all():
                found.append(ends)
    return np.asarray(found, dtype=np.float64).reshape(-1, 2)
