"""When did each thing happen, how many times later, and which quantity moved first?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from grokscope.measures import clocks as laws
from grokscope.measures.crossings import (
    Change,
    Crossing,
    delay,
    final_median,
    first_hold,
    half_fall,
    lead_lag,
    onset,
)
from grokscope.measures.states import normalised_skill
from grokscope.measures.tails import FEWEST_POINTS, tail_fit
from grokscope.probes import clocks_drawing as drawing
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.verdict import judge
from grokscope.runs import Run

Q = 3
FEW_PAIRS = 30
ENDS = ["after", "by"]
FRACTIONS = (0.3, 0.1, 0.03, 0.01)
GAPS = {
    "stable_rank": "the stable rank of {map} above its final median",
    "schatten_two_over_depth": "Σσ^(2/L) of {map} above its final median",
}
TC = "arXiv 2606.05863"

QUANTITIES = (
    Quantity(
        "clocks.classifier",
        "step",
        "T_cls(ε): the interval in which the training loss falls to ε and stays for 3 evaluations; an "
        "unreached level has no later end.",
        TC,
    ),
    Quantity("clocks.classifier.time", "Σ lr", "T_cls(ε) on the clock of summed learning rates.", TC),
    Quantity(
        "clocks.classifier.logarithmic", "step", "Line of T_cls on log(1/ε): slope, 95 % interval, R².", TC
    ),
    Quantity("clocks.classifier.power", "1", "Line of log T_cls on log(1/ε): slope, 95 % interval, R².", TC),
    Quantity(
        "clocks.representation.<gap>",
        "step",
        "T_rep(η): the interval in which a structural gap falls to η and stays for 3 saves. A gap is the "
        "excess over the final median, so its last levels come early by construction.",
        TC,
    ),
    Quantity(
        "clocks.separation.<gap>",
        "1",
        "T_rep/T_cls at equal fractions of the gap and of the loss at their first save, as an interval.",
        TC,
    ),
    Quantity(
        "clocks.gap_growth",
        "logit/step",
        "Slope of the smallest training margin after it turned positive, while it stays a straight line: "
        "slope and 95 % interval.",
        TC,
    ),
    Quantity(
        "clocks.tail_contraction",
        "1/step",
        "μ = 1 − L(t+1)/L(t) of the training loss after the fit, while one μ describes it: value and interval.",
        TC,
    ),
    Quantity(
        "clocks.tail",
        "1",
        "Power β of the tail (t − t₀)^−β of the test loss after grokking, with its 95 % interval and the "
        "ratio of its rolling-origin prediction error to an exponential's (under 0.8: a power is preferred).",
        TC,
    ),
)


@register(
    "clocks",
    title="Clocks and events",
    question="When did each thing happen, how many times later than the fit, and which quantity moved first?",
    quantities=QUANTITIES,
    caveat="An event is the interval between the last evaluation below its level and the first of three that "
    "hold it; nothing finer than the evaluations is claimed. Order is stated only where intervals do not "
    "overlap. Levels of one trajectory are correlated, so the intervals of clock slopes are too narrow.",
    after=("loss", "norms", "fourier", "spectra", "regions", "gradients"),
)
def clocks(run: Run, record: Record) -> None:
    """Events as step intervals, the two clocks, the order of onsets, and the verdict."""
    dense = dense_series(run, record)
    _events(run, record, dense)
    _structural_events(run, record)
    _classifier(record, dense)
    _representation(record, dense)
    _growth(record, dense)
    judge(run, record, dense)


Series = tuple[NDArray[np.int64], NDArray[np.float64]]


def dense_series(run: Run, record: Record) -> dict[str, Series]:
    """Every loss and accuracy at the densest steps there are: the training log, else the saves."""
    scalars = run.scalars
    names = {
        n for n in (*record.names(), *scalars) if n.split(".")[0] in ("loss", "accuracy", "error", "time")
    }
    found: dict[str, Series] = {}
    for name in sorted(names):
        if name in scalars:
            found[name] = (scalars["step"].astype(np.int64), scalars[name])
            continue
        values = record.get(name)
        if values is not None and values.ndim == 1:
            found[name] = (record.steps, values.astype(np.float64))
    return found


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
            ("grok_unmirrored", unmirrored_name(record), levels.grok),
        ]
        for event, name, level in wanted:
            if name in dense:
                steps, values = dense[name]
                record.events[event] = first_hold(steps, normalised_skill(values, chance), level, "above", Q)
    if "fit" in record.events and "grok" in record.events:
        record.delay = delay(record.events["fit"], record.events["grok"])


def unmirrored_name(record: Record) -> str:
    """The accuracy that verdicts are read from: unmirrored test pairs, or all where those are too few."""
    pairs = record.notes.get("pairs", {})
    few = pairs.get("test_unmirrored", 0) < FEW_PAIRS
    return "accuracy.test" if few or "test_mirrored" not in pairs else "accuracy.test_unmirrored"


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
        record.notes["no_structural_events"] = "the run never held its training level"
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
    record.notes["lead_lag"] = {
        "pairs": [list(pair) for pair in order.pairs],
        "undecided": [list(pair) for pair in order.undecided],
        "order": None if order.order is None else list(order.order),
    }
    record.notes["no_change"] = reasons


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
    ]


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


def _ends(crossings: list[Crossing]) -> NDArray[np.float64]:
    """(K, 2) float: after and by, NaN for an unbounded end."""
    return np.array(
        [[np.nan if end is None else float(end) for end in (c.after, c.by)] for c in crossings]
    ).reshape(-1, 2)


def _line(record: Record, name: str, line: laws.LineFit | None, why: str | None) -> None:
    if line is None:
        record.skip(name, why or "no line could be fitted")
        return
    parts = (line.slope, line.low, line.high, line.r_squared)
    record.coordinate("line", ["slope", "low", "high", "r_squared"])
    record.add(name, np.array([np.nan if part is None else part for part in parts]), ("line",))


def _classifier(record: Record, dense: Mapping[str, Series]) -> None:
    names = [q.name for q in QUANTITIES if q.name.startswith("clocks.classifier")]
    if "loss.train" not in dense or not (dense["loss.train"][1] > 0).any():
        for name in names:
            record.skip(name, "the run has no positive training loss")
        return
    steps, values = dense["loss.train"]
    grid = laws.log_grid(values)
    if not len(grid):
        for name in names:
            record.skip(name, "the training loss passes no level of the grid")
        return
    crossings = laws.classifier_clock(steps, values, grid, Q)
    record.coordinate("epsilon", grid.tolist())
    record.coordinate("end", ENDS)
    record.add("clocks.classifier", _ends(crossings), ("epsilon", "end"))
    fit = laws.fit_clock(grid, crossings)
    _line(record, "clocks.classifier.logarithmic", fit.logarithmic, fit.reason)
    _line(record, "clocks.classifier.power", fit.power, fit.reason)
    record.notes["classifier_clock"] = {
        "preferred": fit.preferred, "delta_aic": fit.delta_aic, "reason": fit.reason, "levels": fit.levels,
        "used": fit.used, "censored": fit.censored, "unbounded": fit.unbounded,
    }  # fmt: skip
    if "time.sum_lr" in dense:
        time = dict(zip(dense["time.sum_lr"][0].tolist(), dense["time.sum_lr"][1].tolist(), strict=True))
        ends = _ends(crossings)
        in_time = [[time.get(int(e), np.nan) if np.isfinite(e) else np.nan for e in pair] for pair in ends]
        record.add("clocks.classifier.time", np.array(in_time), ("epsilon", "end"))
    else:
        record.skip("clocks.classifier.time", "the learning rates of the run are not recorded")


def structural_gaps(record: Record) -> dict[str, Series]:
    """Structural gaps S(t) that fall as the representation settles, by name."""
    gaps: dict[str, Series] = {}
    for target in ("product", "mean_active", "neuron_logit", "embedding"):
        for suffix in GAPS:
            values = record.get(f"spectra.{target}.{suffix}")
            if (
                values is not None
                and np.isfinite(values).all()
                and target not in {n.split(".")[1] for n in gaps}
            ):
                final = final_median(values)
                assert final is not None
                gaps[f"{suffix}.{target}"] = (record.steps, np.maximum(values - final, 0.0))
        if gaps:
            break
    for name in ("regions.rule_gap", "regions.class_separation.normalised"):
        values = record.get(name)
        if values is not None and np.isfinite(values).all():
            gaps[name.split(".")[1]] = (record.steps, values.astype(np.float64))
    return gaps


def _representation(record: Record, dense: Mapping[str, Series]) -> None:
    gaps = structural_gaps(record)
    if not gaps:
        for name in ("clocks.representation.<gap>", "clocks.separation.<gap>"):
            record.skip(name, "no structural gap was measured (run the spectra or regions probe)")
        return
    record.coordinate("end", ENDS)
    record.coordinate("fraction", FRACTIONS)
    for name, (steps, values) in gaps.items():
        start = float(values[0])
        if start <= 0:
            record.skip(f"clocks.representation.{name}", "the gap is zero at the first save")
            continue
        grid = start * np.array(FRACTIONS)
        crossings = laws.representation_clock(steps, values, grid, Q)
        record.add(f"clocks.representation.{name}", _ends(crossings), ("fraction", "end"))
        if "loss.train" in dense and dense["loss.train"][1][0] > 0:
            times, losses = dense["loss.train"]
            early = laws.classifier_clock(times, losses, losses[0] * np.array(FRACTIONS), Q)
            ratio = laws.separation(crossings, early)
            array = np.array([[np.nan if end is None else end for end in pair] for pair in ratio])
            record.add(f"clocks.separation.{name}", array, ("fraction", "end"))


def _growth(record: Record, dense: Mapping[str, Series]) -> None:
    margins, fit, grok = record.get("margin.min"), record.events.get("fit"), record.events.get("grok")
    if margins is None:
        record.skip("clocks.gap_growth", "margins were not measured or are not defined")
    else:
        growth = laws.gap_growth(record.steps, margins, Q)
        _line(record, "clocks.gap_growth", growth.line, growth.reason)
        record.notes["gap_growth"] = {
            "window": growth.window,
            "to_end": growth.to_end,
            "reason": growth.reason,
        }
    if fit is None or fit.by is None or "loss.train" not in dense:
        record.skip("clocks.tail_contraction", "the run never held its training level")
    else:
        tail = laws.tail_contraction(*dense["loss.train"], fit.by)
        if tail.mu is None:
            record.skip("clocks.tail_contraction", tail.reason or "no single rate describes the loss")
        else:
            record.coordinate("rate", ["mu", "low", "high"])
            parts = (tail.mu, tail.low, tail.high)
            record.add(
                "clocks.tail_contraction", np.array([np.nan if p is None else p for p in parts]), ("rate",)
            )
            record.notes["tail_contraction"] = {"window": tail.window, "to_end": tail.to_end}
    _tail(record, dense, grok)


def _tail(record: Record, dense: Mapping[str, Series], grok: Crossing | None) -> None:
    if grok is None or grok.by is None or "loss.test" not in dense:
        record.skip("clocks.tail", "the run did not generalise, so its test loss has no tail")
        return
    steps, values = dense["loss.test"]
    late = np.flatnonzero((steps >= grok.by) & (values > 0))
    if len(late) < FEWEST_POINTS:
        record.skip(
            "clocks.tail", f"{len(late)} evaluations after grokking, at least {FEWEST_POINTS} are needed"
        )
        return
    late = late[np.unique(np.linspace(0, len(late) - 1, min(len(late), 60)).round().astype(int))]
    fit = tail_fit(steps[late], values[late])
    ratio = (
        fit.power.prediction_error / fit.exponential.prediction_error
        if fit.exponential.prediction_error
        else np.nan
    )
    parts = (fit.power.beta, fit.power.low, fit.power.high, ratio)
    record.coordinate("tail", ["beta", "low", "high", "prediction_error_ratio"])
    record.add("clocks.tail", np.array([np.nan if p is None else p for p in parts]), ("tail",))
    record.notes["tail"] = {
        "state": fit.state, "reason": fit.reason, "theta": fit.theta,
        "theta_low": fit.theta_low, "theta_high": fit.theta_high, "theta_in_theory": fit.theta_in_theory,
    }  # fmt: skip


clocks.figure(
    "What happened when",
    "Every event as the interval in which it happened. A bar is as wide as the spacing of the evaluations; "
    "two events are ordered only where their bars do not overlap.",
    needs=("loss.train",),
    size=(8.0, 4.2),
)(drawing.draw_events)


clocks.figure(
    "The classifier's clock",
    "T_cls(ε) against 1/ε with the better of the two lines. Bars are the intervals of the crossings.",
    needs=("clocks.classifier", "clocks.classifier.power"),
)(drawing.draw_classifier)
