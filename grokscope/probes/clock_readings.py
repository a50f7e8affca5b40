"""The two training clocks and the laws of a run's tail, read from the series of a record.

Shape legend: K levels, 2 the ends (after, by) of a crossing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from grokscope.measures import clocks as laws
from grokscope.measures.crossings import Crossing, final_median
from grokscope.measures.tails import FEWEST_POINTS, tail_fit
from grokscope.probes.dense import Series
from grokscope.probes.record import Quantity, Record

Q = 3
"""Saves or evaluations for which a level must hold."""
ENDS = ("after", "by")
FRACTIONS = (0.3, 0.1, 0.03, 0.01)
TARGETS = ("product", "mean_active", "neuron_logit", "embedding")
TAIL_POINTS = 60
TC = "arXiv 2606.05863"
NEVER_FITTED = "the run never held its training level"
UNTIMED = "the learning rate of every step is not recorded"

# LaTeX of the time that the lines are fitted to
_MIDDLE = r" \\ \bar{T}\text{ the middle of the interval}"

QUANTITIES = (
    Quantity(
        "clocks.classifier",
        "step",
        "T_cls(ε): the interval in which the training loss falls to ε and stays for 3 evaluations; an "
        "unreached level has no later end.",
        TC,
        formula=r"T=\min\left\{t_j:L_j,L_{j+1},L_{j+2}\le\varepsilon\right\} \\ "
        r"T_{\text{cls}}(\varepsilon)\in\left(\max\left\{t_j<T:L_j>\varepsilon\right\},\,T\right]",
    ),
    Quantity(
        "clocks.classifier.time",
        "Σ lr",
        "T_cls(ε) on the clock of summed learning rates.",
        TC,
        formula=r"\sum_{s=1}^{T_{\text{cls}}(\varepsilon)}\text{lr}_s",
    ),
    Quantity(
        "clocks.classifier.logarithmic",
        "step",
        "Line of T_cls on log(1/ε): slope, 95 % interval, R².",
        TC,
        formula=r"\bar{T}_{\text{cls}}(\varepsilon)\approx c+s\,\ln\frac{1}{\varepsilon}" + _MIDDLE,
    ),
    Quantity(
        "clocks.classifier.power",
        "1",
        "Line of log T_cls on log(1/ε): slope, 95 % interval, R².",
        TC,
        formula=r"\ln\,\bar{T}_{\text{cls}}(\varepsilon)\approx c+s\,\ln\frac{1}{\varepsilon}" + _MIDDLE,
    ),
    Quantity(
        "clocks.representation.<gap>.time",
        "Σ lr",
        "T_rep(η) on the clock of summed learning rates.",
        TC,
        formula=r"\sum_{s=1}^{T_{\text{rep}}(\eta)}\text{lr}_s",
    ),
    Quantity(
        "clocks.representation.<gap>",
        "step",
        "T_rep(η): the interval in which a structural gap falls to η and stays for 3 saves, η being a fraction "
        "of the largest gap after the fit and the clock starting there: a dip before the fit is not counted. "
        "Gaps of ranks and Schatten energies are the excess over the final median, so their last levels come "
        "early by construction.",
        TC,
        formula=r"T=\min\left\{t_j\ge t_0:S_j,S_{j+1},S_{j+2}\le\eta\right\} \\ "
        r"T_{\text{rep}}(\eta)\in\left(\max\left\{t_j<T:S_j>\eta\right\},\,T\right] \\ "
        r"\eta=\rho\,S(t_0),\quad t_0=\argmax_{t\ge t_{\text{fit}}}S(t)",
    ),
    Quantity(
        "clocks.separation.<gap>",
        "1",
        "T_rep/T_cls as an interval: the gap at a fraction of its largest value after the fit, the training "
        "loss at the same fraction of its first value.",
        TC,
        formula=r"\frac{T_{\text{rep}}(\rho\,S(t_0))}{T_{\text{cls}}(\rho\,L(0))}",
    ),
    Quantity(
        "clocks.gap_growth",
        "logit/step",
        "Slope of the smallest training margin after it turned positive, over the longest stretch that is one "
        "straight line (R² ≥ 0.95, both halves within 25 % of the whole): slope, 95 % interval from block means, "
        "and R².",
        TC,
        formula=r"\min_{i\in\text{train}}\left(z_{i,y_i}-\max_{m\ne y_i}z_{i,m}\right)\approx c+s\,t",
    ),
    Quantity(
        "clocks.tail_contraction",
        "1/step",
        "μ = 1 − L(t+1)/L(t) of the training loss after the fit, over the longest stretch that one μ describes "
        "(log loss straight, both halves within 25 % of the whole): value and 95 % interval from block means.",
        TC,
        formula=r"\mu=1-e^{s},\quad\ln\,L(t)\approx c+s\,t",
    ),
    Quantity(
        "clocks.tail",
        "1",
        "Tail (t − t₀)^−β of the test loss after grokking: β with its 95 % interval, the ratio of its "
        "rolling-origin prediction error to an exponential's (0.8 or less prefers the power), the difference "
        "of AIC, and θ = (1 + 1/β)/2 with its interval.",
        TC,
        formula=r"L(t)\approx L_\infty+c\,(t-t_0)^{-\beta},\quad\theta=\frac{1}{2}\left(1+\frac{1}{\beta}\right)",
    ),
)


def read_clocks(record: Record, dense: Mapping[str, Series]) -> None:
    """Record both clocks, the growth of the margin and the tail of the loss, or why they are absent."""
    longest = max((len(steps) for steps, _ in dense.values()), default=0)
    if longest < Q:
        saves = "one save dates" if longest == 1 else f"{longest} saves date"
        for quantity in QUANTITIES:
            record.skip(quantity.name, f"{saves} nothing: {Q} are needed")
        return
    _classifier(record, dense)
    _representation(record, dense)
    _growth(record)
    _contraction(record, dense)
    _tail(record, dense)


def _numbers(*parts: float | None) -> NDArray[np.float64]:
    return np.array([np.nan if part is None else part for part in parts], dtype=np.float64)


def _ends(crossings: list[Crossing]) -> NDArray[np.float64]:
    """(K, 2): after and by, NaN for an unbounded end."""
    return np.array([_numbers(c.after, c.by) for c in crossings]).reshape(-1, 2)


def _line(record: Record, name: str, line: laws.LineFit | None, why: str | None) -> None:
    if line is None:
        record.skip(name, why or "no line could be fitted")
        return
    record.coordinate("line", ["slope", "low", "high", "r_squared"])
    record.add(name, _numbers(line.slope, line.low, line.high, line.r_squared), ("line",))


def _on_time(ends: NDArray[np.float64], dense: Mapping[str, Series]) -> NDArray[np.float64] | None:
    """Steps as sums of learning rates, where those are recorded at the same steps."""
    if "time.sum_lr" not in dense:
        return None
    steps, times = dense["time.sum_lr"]
    known = dict(zip(steps.tolist(), times.tolist(), strict=True))
    return np.array([[known.get(end, np.nan) for end in pair] for pair in ends.tolist()]).reshape(-1, 2)


def _classifier(record: Record, dense: Mapping[str, Series]) -> None:
    names = [q.name for q in QUANTITIES if q.name.startswith("clocks.classifier")]
    steps, values = dense.get("loss.train", (np.zeros(0, np.int64), np.zeros(0)))
    grid = laws.log_grid(values) if (values > 0).any() else np.zeros(0)
    if not len(grid):
        for name in names:
            record.skip(name, "the training loss is not positive, or passes no level of the grid")
        return
    crossings = laws.classifier_clock(steps, values, grid, Q)
    record.coordinate("epsilon", grid.tolist())
    record.coordinate("end", ENDS)
    record.add("clocks.classifier", _ends(crossings), ("epsilon", "end"))
    fit = laws.fit_clock(grid, crossings)
    _line(record, "clocks.classifier.logarithmic", fit.logarithmic, fit.reason)
    _line(record, "clocks.classifier.power", fit.power, fit.reason)
    record.notes["clocks.classifier"] = {
        "preferred": fit.preferred, "delta_aic": fit.delta_aic, "reason": fit.reason, "levels": fit.levels,
        "used": fit.used, "censored": fit.censored, "unbounded": fit.unbounded,
    }  # fmt: skip
    times = _on_time(_ends(crossings), dense)
    if times is None:
        record.skip("clocks.classifier.time", UNTIMED)
    else:
        record.add("clocks.classifier.time", times, ("epsilon", "end"))


def structural_gaps(record: Record) -> dict[str, Series]:
    """Structural gaps S(t) that fall as the representation settles, by name.

    Excess of the stable rank and of Σσ^(2/L) over their final medians, for the first end-to-end map that the
    run has; the rule gap and the normalised class separation as they are.
    """
    gaps: dict[str, Series] = {}
    for target in TARGETS:
        for suffix in ("stable_rank", "schatten_two_over_depth"):
            values = record.get(f"spectra.{target}.{suffix}")
            if values is not None and np.isfinite(values).all():
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
    gaps, fit = structural_gaps(record), record.events.get("fit")
    general = ("clocks.representation.<gap>", "clocks.representation.<gap>.time", "clocks.separation.<gap>")
    if not gaps or fit is None or fit.by is None:
        why = NEVER_FITTED if gaps else "no structural gap was measured (run the spectra or regions probe)"
        for name in general:
            record.skip(name, why)
        return
    record.coordinate("end", ENDS)
    record.coordinate("fraction", FRACTIONS)
    for name, (steps, values) in gaps.items():
        names = [pattern.replace("<gap>", name) for pattern in general]
        after = np.flatnonzero(steps >= fit.by)
        start = int(after[0] + np.argmax(values[after])) if len(after) else 0
        if len(after) < Q or values[start] <= 0:
            few = f"{len(after)} saves after the fit, fewer than {Q}"
            why = few if len(after) < Q else "after the fit it is never above its final median"
            for absent in names:
                record.skip(absent, why)
            continue
        grid = values[start] * np.array(FRACTIONS)
        crossings = laws.representation_clock(steps[start:], values[start:], grid, Q)
        record.add(names[0], _ends(crossings), ("fraction", "end"))
        times = _on_time(_ends(crossings), dense)
        if times is None:
            record.skip(names[1], UNTIMED)
        else:
            record.add(names[1], times, ("fraction", "end"))
        _separation(record, dense, names[2], crossings)


def _separation(record: Record, dense: Mapping[str, Series], name: str, late: list[Crossing]) -> None:
    if "loss.train" not in dense or dense["loss.train"][1][0] <= 0:
        record.skip(name, "the run has no positive training loss at its first evaluation")
        return
    steps, losses = dense["loss.train"]
    early = laws.classifier_clock(steps, losses, losses[0] * np.array(FRACTIONS), Q)
    ratio = np.array([_numbers(*pair) for pair in laws.separation(late, early)])
    if np.isfinite(ratio).any():
        record.add(name, ratio, ("fraction", "end"))
    else:
        record.skip(name, "no level is reached by both clocks")


def _growth(record: Record) -> None:
    margins = record.get("margin.min")
    if margins is None:
        record.skip("clocks.gap_growth", "margins were not measured or are not defined")
        return
    growth = laws.gap_growth(record.steps, margins, Q)
    _line(record, "clocks.gap_growth", growth.line, growth.reason)
    record.notes["clocks.gap_growth"] = {"window": growth.window, "to_end": growth.to_end}


def _contraction(record: Record, dense: Mapping[str, Series]) -> None:
    fit, name = record.events.get("fit"), "clocks.tail_contraction"
    if fit is None or fit.by is None or "loss.train" not in dense:
        record.skip(name, NEVER_FITTED)
        return
    tail = laws.tail_contraction(*dense["loss.train"], fit.by)
    if tail.mu is None:
        record.skip(name, tail.reason or "no single rate describes the loss")
        return
    record.coordinate("rate", ["mu", "low", "high"])
    record.add(name, _numbers(tail.mu, tail.low, tail.high), ("rate",))
    record.notes[name] = {"window": tail.window, "to_end": tail.to_end}


def _tail(record: Record, dense: Mapping[str, Series]) -> None:
    grok = record.events.get("grok")
    if grok is None or grok.by is None or "loss.test" not in dense:
        record.skip("clocks.tail", "the test level was never held, so the test loss has no tail")
        return
    steps, values = dense["loss.test"]
    late = np.flatnonzero((steps >= grok.by) & (values > 0))
    if len(late) < FEWEST_POINTS:
        record.skip("clocks.tail", f"{len(late)} evaluations after grokking, {FEWEST_POINTS} are needed")
        return
    late = late[np.unique(np.linspace(0, len(late) - 1, min(len(late), TAIL_POINTS)).round().astype(int))]
    fit = tail_fit(steps[late], values[late])
    record.notes["clocks.tail"] = {
        "state": fit.state, "reason": fit.reason, "theta_in_theory": fit.theta_in_theory,
        "aic_agrees": fit.aic_agrees,
    }  # fmt: skip
    if fit.theta is None:
        record.skip("clocks.tail", f"no power law: its exponent runs to its bound ({fit.state} is preferred)")
        return
    against = fit.exponential.prediction_error
    ratio = fit.power.prediction_error / against if against > 0 else None
    record.coordinate(
        "tail",
        ["beta", "low", "high", "prediction_error_ratio", "delta_aic", "theta", "theta_low", "theta_high"],
    )
    parts = _numbers(
        fit.power.beta, fit.power.low, fit.power.high, ratio, fit.power.aic - fit.exponential.aic,
        fit.theta, fit.theta_low, fit.theta_high,
    )  # fmt: skip
    record.add("clocks.tail", parts, ("tail",))
