"""What the runs of the ReLU network say beside the published numbers, row by row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grokscope.measures.censored import MedianInterval, as_bounds, log_linear_fit, median_interval
from grokscope.measures.crossings import Crossing, delay
from grokscope.studies.matched_trend import Trend, within_seed_trend
from grokscope.studies.published import published
from grokscope.studies.relu_readings import FLAT, MAPS, SCALES, Reading
from grokscope.studies.result import Finding, Row, compared
from grokscope.studies.rows import fit_interval

ABOUT = 0.15
"""What the paper's "about" is taken to allow, as a fraction."""
_EVENTS = {"flat": "training loss flat", "half": "test loss halved", "grok": "95 % of the test pairs right"}
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Printed:
    """The published numbers, read out of the sentences in which they stand."""

    p: int
    level: float
    fit: float
    drop: tuple[float, float]
    rank: float
    ranks: tuple[float, float]
    late: float
    gap: float


def printed() -> Printed:
    """From the published values of the paper."""
    facts = published("two_clocks")
    told = {
        name: [float(text) for text in _NUMBER.findall(words)] for name, words in facts["reported"].items()
    }
    level, fit = told["train_loss"]
    rank, low, high = told["stable_rank"]
    early, late, gap = told["clock_gap"]
    first, last = told["test_loss_drop"]
    p = int(_NUMBER.findall(facts["setup"]["task"])[-1])
    assert early == fit
    return Printed(p, level, fit, (first, last), rank, (low, high), late, gap)


@dataclass(frozen=True)
class Found:
    """Every reading: the main grid by decay, and what was varied, each with its name and its decay."""

    p: int
    main: Mapping[float, Sequence[Reading]]
    varied: Mapping[str, Sequence[Reading]]

    @property
    def runs(self) -> list[Reading]:
        """Those of the main grid."""
        return [reading for some in self.main.values() for reading in some]


def median_time(readings: Sequence[Reading], event: str) -> MedianInterval:
    """Of a clock over runs, those that did not get there as bounds."""
    return median_interval(*as_bounds([getattr(reading.clocks, event) for reading in readings]))


def median_gap(readings: Sequence[Reading], event: str) -> MedianInterval:
    """How many times later than the flat training loss ``event`` comes, run by run."""
    return ratios((reading.clocks.flat, getattr(reading.clocks, event)) for reading in readings)


def ratios(pairs: Iterator[tuple[Crossing, Crossing | None]]) -> MedianInterval:
    """Median of the second over the first; an end that is not known is open."""
    ends = [(0.0, math.inf) if later is None else delay(first, later) for first, later in pairs]
    low = [0.0 if end[0] is None else end[0] for end in ends]
    return median_interval(low, [math.inf if end[1] is None else end[1] for end in ends])


def median_value(readings: Sequence[Reading], value: Callable[[Reading], float]) -> MedianInterval:
    """Of a positive number over runs; one that is not known is open on both sides."""
    values = np.asarray([value(reading) for reading in readings])
    known = np.isfinite(values)
    return median_interval(np.where(known, values, 0.0), np.where(known, values, np.inf))


def final_rank(readings: Sequence[Reading], name: str) -> MedianInterval:
    """Of a stable rank at the end; of a run that has not generalised it is no more than an upper bound."""
    ends = [reading.last(reading.ranks[name]) for reading in readings]
    there = [reading.clocks.grok.by is not None for reading in readings]
    return median_interval([end if done else 0.0 for end, done in zip(ends, there, strict=True)], ends)


def trend_of(found: Found, event: str) -> Trend | None:
    """Of an event of the main grid over the decays, over the seeds that ran at all of them."""
    by_seed = [{reading.seed: reading for reading in some} for some in found.main.values()]
    seeds = sorted(set.intersection(*(set(some) for some in by_seed)))
    times = [[_time(getattr(some[seed].clocks, event)) for some in by_seed] for seed in seeds]
    return within_seed_trend(list(found.main), times) if len(by_seed) > 1 and seeds else None


def _time(crossing: Crossing) -> float:
    return math.inf if crossing.by is None else float(crossing.by)


def rows_of(found: Found) -> list[Row]:
    """Every published number with ours beside it."""
    told, runs = printed(), found.runs

    def here(quantity: str, value: float | str, of: MedianInterval, **options: Any) -> Row:
        """A step, a loss, a rank or a gap is the published one at the published modulus alone."""
        row = _row(quantity, value, of, **options)
        if found.p == told.p:
            return row
        note = f"p = {found.p} here, {told.p} in the paper: not to be compared; {_counted(of)}"
        return replace(row, verdict="cannot tell", note=note)

    decays = sorted(found.main)
    rows = [
        here(f"training loss at step {told.fit:g}", told.level,
             median_value(runs, lambda r: r.loss_at(told.fit)),
             around=(told.level / 2, told.level * 2), note="a factor of two allowed", digits=2),
        here(f"step from which the training loss is at most {told.level:g}", told.fit,
             median_time(runs, "level"), tolerance=ABOUT,
             note="decay keeps the loss above this level in some runs"),
        here("step at which the training loss is flat", told.fit, median_time(runs, "flat"), tolerance=ABOUT,
             note=f"within a factor of {FLAT:g} of its final median"),
        *(
            here(f"step at which the test loss {words}, decay {decay:g}", step, median_time(found.main[decay], event),
                 tolerance=ABOUT, note=_drop(found.main[decay]))
            for event, words in (("half", "has halved"), ("end", "is down to a tenth"))
            for decay, step in ((decays[-1], told.drop[0]), (decays[0], told.drop[1]))
        ),
        here("step at which the test loss has halved, all decays", told.late, median_time(runs, "half"),
             tolerance=ABOUT),
        _trend_row(trend_of(found, "half")),
        here("test loss halved over training loss flat", told.gap, median_gap(runs, "half"), tolerance=ABOUT,
             note="in steps, run by run", digits=3),
        here("95 % of the test pairs right over training loss flat", told.gap, median_gap(runs, "grok"),
             tolerance=ABOUT, note="the same clock gap where the later clock is that of the accuracy", digits=3),
    ]  # fmt: skip
    for name, words in MAPS.items():
        start = median_value(runs, lambda r, of=name: r.at(r.ranks[of], r.from_flat))
        rows += [
            here(f"stable rank when the training loss is flat: {words}", told.rank, start, tolerance=ABOUT,
                 digits=3),
            here(f"stable rank at the end: {words}", f"{told.ranks[0]:g} to {told.ranks[1]:g}",
                 final_rank(runs, name), around=told.ranks, digits=3),
        ]  # fmt: skip
    for name in falling(rows) or ("embedding",):
        begun = ratios((reading.clocks.flat, reading.fall(name)) for reading in runs)
        rows.append(
            _row(f"fall of the stable rank begins, over training loss flat: {MAPS[name]}", 1.0, begun,
                 around=(1.0, 1.5), digits=3, note="right after is taken as up to half as late again")
        )  # fmt: skip
    for end, words in SCALES.items():
        inside = median_value(runs, lambda r, of=end: r.in_window(r.ratios[of]))
        rows.append(_above_one(f"head over embedding, gradient by {words}", inside))
    return rows


def falling(rows: Sequence[Row]) -> list[str]:
    """Maps whose stable rank agrees with the published one both when the training loss is flat and at the end."""
    verdicts = {row.quantity: row.verdict for row in rows}
    return [
        name for name, words in MAPS.items()
        if verdicts.get(f"stable rank when the training loss is flat: {words}") == "agrees"
        and verdicts.get(f"stable rank at the end: {words}") == "agrees"
    ]  # fmt: skip


def _row(
    quantity: str,
    value: float | str,
    found: MedianInterval,
    *,
    around: tuple[float, float] | None = None,
    tolerance: float | None = None,
    note: str = "",
    digits: int = 4,
) -> Row:
    """A median over runs beside a published number, or beside a range that stands for itself."""
    counted = _counted(found)
    middle = float(np.mean(around)) if isinstance(value, str) and around else value
    row = compared(
        quantity, middle, found.value, (found.low, found.high), published_interval=around, tolerance=tolerance,
        note="; ".join(part for part in (counted, note) if part), digits=digits,
    )  # fmt: skip
    if isinstance(value, str):
        return replace(row, published=value, published_interval=None)
    return row


def _counted(found: MedianInterval) -> str:
    counted = f"{found.n} runs, interval of {100 * found.coverage:.0f} %"
    return counted + (f", {found.censored} not there within the budget" if found.censored else "")


def _drop(readings: Sequence[Reading]) -> str:
    """From where to where the test loss falls."""
    start, end = median_time(readings, "start"), median_time(readings, "end")
    last = "the end of the run" if end.value is None else f"{end.value:g}"
    return f"from 90 % of its largest value at {start.by:g} to 10 % at {last}"


def _trend_row(found: Trend | None) -> Row:
    quantity, theirs = (
        "rank correlation of the decay with the step of the halved test loss",
        "below 0: earlier for larger decay",
    )
    if found is None:
        return Row(quantity, theirs, None, None, "cannot tell", "no two decays differ in it")
    sure = found.p_value < 0.05
    verdict = "cannot tell" if not sure else "agrees" if found.mean < 0 else "differs"
    note = f"{len(found.each)} matched seeds at {found.n} decays, exact p = {found.p_value:.2g}; range over seeds"
    return Row(quantity, theirs, found.mean, (min(found.each), max(found.each)), verdict, note, digits=3)


def _above_one(quantity: str, found: MedianInterval) -> Row:
    verdict = "agrees" if found.low > 1 else "differs" if found.high < 1 else "cannot tell"
    note = f"median over the saves from the flat training loss to generalisation; {found.n} runs"
    ends = (found.low, found.high if math.isfinite(found.high) else None)
    return Row(quantity, "above 1: the head first", found.value, ends, verdict, note, digits=3)


def findings_of(found: Found) -> list[Finding]:
    """What the paper has no number for."""
    runs = found.runs
    findings = [
        _finding("training loss when the test loss has halved, over that at the end",
                 [_still(r) for r in runs],
                 "near 1 the training loss is flat all the while; range over runs"),
        _finding("steps × learning rate × decay when the test loss has halved",
                 [_time(r.clocks.half) * r.rate * r.decay for r in runs],
                 "one number for all decays if the clock were that of the decay alone; range over runs"),
        _finding("the same when 95 % of the test pairs are right",
                 [_time(r.clocks.grok) * r.rate * r.decay for r in runs], "range over runs"),
    ]  # fmt: skip
    findings.append(
        Finding("stable ranks when 95 % of the test pairs are right", _ranks_at(runs), None,
                "medians over runs; the same maps as above")
    )  # fmt: skip
    if len(found.main) > 1:
        findings += [_exponent(runs, "half", "the test loss has halved"),
                     _exponent(runs, "flat", "the training loss is flat")]  # fmt: skip
    findings += _gate_findings(runs)
    for end, words in SCALES.items():
        findings.append(
            _finding(f"head over embedding at the fit, gradient by {words}",
                     [r.at(r.ratios[end], r.clocks.fit.by) for r in runs], "range over runs")
        )  # fmt: skip
    findings.append(
        _finding("head over embedding, relative step of the optimiser", [r.in_window(r.updates) for r in runs],
                 "what moved between saves in the same window, each relative to its block; range over runs")
    )  # fmt: skip
    for block in runs[0].slack:
        findings.append(
            _finding(f"gradient of a pair over its chain-rule bound: {block}",
                     [r.in_window(r.slack[block]) for r in runs],
                     "1 is tight; mean over training pairs, median over the window, range over runs")
        )  # fmt: skip
    findings.append(
        _finding("share of pairs whose head gradient exceeds the bound of the embedding's",
                 [r.in_window(r.forced) for r in runs],
                 "where it does the bounds alone put the head first; range over runs")
    )  # fmt: skip
    for name, some in found.varied.items():
        findings += _varied(name, some)
    return findings


def _still(reading: Reading) -> float:
    half = reading.clocks.half.by
    return math.nan if half is None else reading.loss_at(half) / float(np.median(reading.loss[-3:]))


def _ranks_at(runs: Sequence[Reading]) -> str | None:
    there = [run for run in runs if run.clocks.grok.by is not None]
    if not there:
        return None
    middles = {
        name: float(np.median([r.at(r.ranks[name], r.clocks.grok.by) for r in there])) for name in MAPS
    }
    return ", ".join(f"{words} {middles[name]:.3g}" for name, words in MAPS.items())


def _gate_findings(runs: Sequence[Reading]) -> list[Finding]:
    held = "from the flat training loss to generalisation"
    lives = median_interval(*as_bounds([_length(r) for r in runs]))
    found = [
        _finding(f"share of training pairs that keep their activation pattern {held}",
                 [r.weighed.held[r.window()][-1] for r in runs],
                 "over this share the argument of one fixed linear map is exact; range over runs"),
        _finding("share of gates that are at generalisation as they were at the flat training loss",
                 [r.weighed.same[r.window()][-1] for r in runs], "range over runs"),
        Finding("steps until half of the pairs have left their pattern", lives.value, (lives.low, lives.high),
                "counted from the flat training loss; interval of the median, as coarse as the saves"),
    ]  # fmt: skip
    spacings = sorted({spacing for r in runs for spacing in r.frozen_by_spacing()})
    for spacing in spacings:
        values = [r.frozen_by_spacing()[spacing] for r in runs if spacing in r.frozen_by_spacing()]
        found.append(
            _finding(f"share of pairs that keep their pattern over {spacing} steps", values,
                     "median over pairs of saves in that window; range over runs")
        )  # fmt: skip
    settled = [r.frozen_since for r in runs if r.frozen_since is not None]
    found.append(
        Finding("runs in which 99 % of the pairs ever settle on their last pattern", f"{len(settled)} of {len(runs)}",
                None, "before the last save" if not settled else f"from step {min(settled)} on at the earliest")
    )  # fmt: skip
    for subset in ("train", "test"):
        old = [r.weighed.accuracy[subset][0] for r in runs]
        own = [r.weighed.accuracy[subset][1] for r in runs]
        found.append(
            _finding(f"accuracy ({subset}) of the last weights with the gates of the flat training loss", old,
                     f"{float(np.median(own)):.3g} with their own gates; range over runs")
        )  # fmt: skip
    found.append(
        _finding("largest reduction residual", [float(np.nanmax(r.residual)) for r in runs],
                 "at every save the network is its own fixed-gate map to rounding; range over runs", 2)
    )  # fmt: skip
    return found


def _length(reading: Reading) -> Crossing:
    """The half-life of the patterns, counted from the reference."""
    left, start = reading.half_life(), reading.weighed.reference
    after = None if left.after is None else left.after - start
    return Crossing(after, None if left.by is None else left.by - start, left.censored)


def _exponent(runs: Sequence[Reading], event: str, words: str) -> Finding:
    low, high = as_bounds([getattr(reading.clocks, event) for reading in runs])
    quantity = f"exponent of the step at which {words} in the decay"
    try:
        fit = log_linear_fit([math.log(r.decay) for r in runs], low, high, clusters=[r.seed for r in runs])
    except ValueError:
        return Finding(quantity, None, None, "too few runs got there")
    return Finding(quantity, fit.alpha, fit_interval(fit), f"{fit.n} runs, {fit.censored} of them bounds", 3)


def _varied(name: str, readings: Sequence[Reading]) -> list[Finding]:
    found = []
    for event, words in _EVENTS.items():
        time = median_time(readings, event)
        found.append(Finding(f"{name}: {words}", time.value, (time.low, time.high), f"step; {time.n} runs"))
    gap = median_gap(readings, "half")
    start = median_value(readings, lambda r: r.at(r.ranks["embedding"], r.from_flat))
    end = final_rank(readings, "embedding")
    return [
        *found,
        Finding(f"{name}: test loss halved over training loss flat", gap.value, (gap.low, gap.high), "", 3),
        Finding(
            f"{name}: stable rank of the embedding, flat and at the end", f"{start.by:.3g}, {end.by:.3g}"
        ),
        _finding(
            f"{name}: head over embedding, gradient by ‖g‖",
            [r.in_window(r.ratios[""]) for r in readings],
            "range over runs",
        ),
    ]


def _finding(quantity: str, values: Sequence[float], note: str, digits: int = 3) -> Finding:
    """Median and range over the runs that have the number; an infinite one is an open end."""
    known = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if not known.size:
        return Finding(quantity, None, None, "no run has it")
    low, middle, high = float(known.min()), float(np.median(known)), float(known.max())
    ends = (low, high if math.isfinite(high) else None)
    return Finding(quantity, middle if math.isfinite(middle) else None, ends, note, digits)


def data_of(found: Found) -> dict[str, Any]:
    """Run by run."""
    main = {reading.name: reading.as_json() for reading in found.runs}
    varied = {reading.name: reading.as_json() for some in found.varied.values() for reading in some}
    trend = trend_of(found, "half")
    told = None if trend is None else {"mean": trend.mean, "seeds": list(trend.each), "p": trend.p_value}
    return {"p": found.p, "trend": told, "runs": main, "varied": varied}
