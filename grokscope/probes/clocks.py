"""When did each thing happen, how many times later, and which quantity moved first?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from grokscope.measures.crossings import Change, Crossing, delay, first_hold, half_fall, lead_lag, onset
from grokscope.measures.states import normalised_skill
from grokscope.probes import clocks_drawing as drawing
from grokscope.probes.clock_readings import QUANTITIES, Q, read_clocks
from grokscope.probes.dense import Series, counted, dense_series
from grokscope.probes.record import Record
from grokscope.probes.registry import register
from grokscope.probes.verdict import begins_fitted, judge, judge_without_clocks
from grokscope.runs import Run


@register(
    "clocks",
    title="Clocks and events",
    question="When did each thing happen, how many times later than the fit, and which quantity moved first?",
    quantities=QUANTITIES,
    caveat="An event is the interval between the last evaluation below its level and the first of three that "
    "hold it; nothing finer than the evaluations is claimed. Order is stated only where intervals do not "
    "overlap. Levels of one trajectory are correlated, so the intervals of clock slopes are too narrow.",
    after=("loss", "norms", "fourier", "spectra", "regions", "gradients", "manifold"),
)
def clocks(run: Run, record: Record) -> None:
    """Events as step intervals, the two clocks, the order of onsets, and the verdict."""
    dense = dense_series(run, record)
    lacking = run.lacks("function", "split")
    if lacking is not None:
        for quantity in QUANTITIES:
            record.skip(quantity.name, lacking.reason)
        judge_without_clocks(run, record)
        return
    _events(run, record, dense)
    _structural_events(run, record)
    read_clocks(record, dense)
    judge(run, record, dense)


def _events(run: Run, record: Record, dense: Mapping[str, Series]) -> None:
    levels, chance = run.task.levels, run.task.chance
    if levels.quantity == "error":
        for event, name, level in (("fit", "error.train", levels.fit), ("grok", "error.test", levels.grok)):
            if name in dense:
                record.events[event] = first_hold(*dense[name], level, "below", Q)
    elif chance is not None:
        wanted = [
            ("fit", "accuracy.train", levels.fit),
            ("grok", "accuracy.test", levels.grok),
            ("grok_90", "accuracy.test", 0.90),
            ("grok_99", "accuracy.test", 0.99),
        ]
        if run.task.swap is not None:
            wanted.append(("grok_unmirrored", counted(record)[1], levels.grok))
        for event, name, level in wanted:
            if name in dense:
                steps, values = dense[name]
                record.events[event] = first_hold(steps, normalised_skill(values, chance), level, "above", Q)
    if "fit" in record.events and "grok" in record.events:
        record.delay = delay(record.events["fit"], record.events["grok"])


def _structural_events(run: Run, record: Record) -> None:
    """Half-changes and onsets of structural quantities and of the test loss, after the fit."""
    fit = record.events.get("fit")
    rank_factor = run.task.levels.rank_factor
    product = record.get("spectra.product.effective_rank")
    if rank_factor is not None and run.task.rank is not None and product is not None:
        record.events["rank_reached"] = first_hold(
            record.steps, product, rank_factor * run.task.rank, "below", Q
        )
    if fit is None or fit.by is None:
        record.notes["clocks.no_structural_events"] = "the run never held its training level"
        return
    if begins_fitted(record, fit):
        # what moved between the fit and the first save is not in it, so a start cannot be read off
        record.notes["clocks.no_structural_events"] = (
            f"the run begins at step {record.steps[0]}, fitted already: what moved before that is not in it"
        )
        return
    reasons: dict[str, str] = {}
    for name in ("loss.test", *structural_names(record)):
        if record.get(name) is None:
            continue
        values = record.measurements[name].values.astype(np.float64)
        kind = "rise" if name.endswith("gini") else "half_fall"
        change = half_fall(record.steps, values, fit.by, _band(record, name), Q)
        if change.crossing is not None and (change.direction == "above") == (kind == "rise"):
            record.events[f"{kind}.{name}"] = change.crossing
        elif change.reason:
            reasons[name] = change.reason
    moved: dict[str, Crossing] = {}
    for name in ("loss.test", *structural_names(record)):
        values = record.get(name)
        if values is None:
            continue
        change = turning_point(record.steps, values.astype(np.float64), fit.by, _band(record, name),
                               falls=not name.endswith("gini"))  # fmt: skip
        if change.crossing is not None:
            moved[name] = record.events[f"onset.{name}"] = change.crossing
    order = lead_lag(moved)
    record.notes["clocks.lead_lag"] = {
        "pairs": [list(pair) for pair in order.pairs],
        "undecided": [list(pair) for pair in order.undecided],
        "order": None if order.order is None else list(order.order),
    }
    record.notes["clocks.no_change"] = reasons


def structural_names(record: Record) -> list[str]:
    """Series whose half-change and onset are events: effective and stable ranks, and Fourier gini."""
    return [
        name
        for name, m in record.measurements.items()
        if m.dims == ("step",)
        and (
            (name.startswith("spectra.") and name.endswith((".effective_rank", ".stable_rank")))
            or (name.startswith("fourier.") and name.endswith(".gini"))
        )
        and np.isfinite(m.values).all()
        and not _same_as_unembedding(record, name)
    ]


def _same_as_unembedding(record: Record, name: str) -> bool:
    """The last layer of an MLP goes by two names; it is one quantity that moves once."""
    other = name.replace(".neuron_logit.", ".unembedding.")
    return other != name and other in record.measurements and np.array_equal(record[name], record[other])


def _band(record: Record, name: str) -> float:
    """Width of the chance band of a quantity, 0 where none was measured."""
    null = record.get(f"{name}.null")
    return 0.0 if null is None else float(np.nanmax(null) - np.nanmin(null))


def turning_point(
    steps: NDArray[np.int64], values: NDArray[np.float64], start: int, band: float, *, falls: bool
) -> Change:
    """The onset of the change that follows the extreme after ``start``.

    The test loss of a grokking run rises after the fit before it falls, so the starting band is read from
    the three saves around the largest value (for a rising quantity the smallest) between ``start`` and the
    half-change; a quantity that is already falling at ``start`` has its onset there.
    """
    sign = 1.0 if falls else -1.0
    after = np.flatnonzero(steps >= start)
    if len(after) < 2 * Q:
        return Change(None, f"{len(after)} saves after the fit, fewer than {2 * Q}")
    extreme = int(after[0] + np.argmax(sign * values[after]))
    first = min(max(extreme - 1, int(after[0])), len(steps) - Q)
    window = (int(steps[first]), int(steps[first + Q - 1]))
    change = onset(steps, values, window, q=Q, band=band)
    if change.crossing is not None and (change.direction == "below") != falls:
        return Change(None, "it moves the other way", change.start, change.final)
    return change


clocks.figure(
    "What happened when",
    "Every event as the interval in which it happened. A bar is as wide as the spacing of the evaluations; "
    "two events are ordered only where their bars do not overlap.",
    needs=("loss.train",),
    size=(8.0, 4.2),
)(drawing.draw_events)


clocks.figure(
    "Which quantity moved first",
    "The interval in which each quantity began its change after the fit, as wide as the spacing of the saves. ◀: "
    "before the test loss (●) began to fall; ▶: after it; no sign: the intervals overlap and nothing is claimed.",
    needs=("loss.test",),
    size=(8.0, 4.2),
)(drawing.draw_onsets)


clocks.figure(
    "The classifier's clock",
    "T_cls(ε) against 1/ε with the better of the two lines. Bars are the intervals of the crossings.",
    needs=("clocks.classifier", "clocks.classifier.power"),
)(drawing.draw_classifier)
