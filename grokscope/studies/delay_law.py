"""The study ``delay-law``: does log T rise linearly with the norm that is held, and how steeply?"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from grokscope.measures.censored import LogLinearFit, median_interval
from grokscope.measures.exponents import SharedExponent, power_law_fit, shared_exponent
from grokscope.measures.lines import fit_line
from grokscope.studies.clamp_grid import Grid, Measured, measure_grid
from grokscope.studies.delay_law_figures import critical_norm_figure, law_figure, scan_figure
from grokscope.studies.delay_law_levers import CHOSEN as LEVERS_CHOSEN
from grokscope.studies.delay_law_levers import LAYER_NORM, TRANSFORMER, lever_parts
from grokscope.studies.delay_law_parity import CHOSEN as PARITY_CHOSEN
from grokscope.studies.delay_law_parity import PARITY, sparse_parity
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Interval, Row, StudyResult, compared
from grokscope.studies.rows import fit_interval, median_row, shared_findings, with_norm_told
from grokscope.studies.sweep import Bench, Scale, UnfinishedError

TITLE = "The causal delay law of the weight norm (arXiv 2606.13753)"
DENSE = 59
DENSE_PART, SCAN_PART = "dense", "p_scan"
"""Names under which the data of these parts is saved."""
_R2_ALLOWED = 0.02
_NO_BIAS_NOISE = (
    "Biases start at zero (published: 1e-6 of a Gaussian). Test accuracy is evaluated on 360 geometrically spaced "
    "steps up to 40 000, a grid of 3 %: its length was not published. A run ends once 90 % of the unmirrored test "
    "pairs have been right at two evaluations in a row, which is after its grok step on all pairs. Initial weights and "
    "splits are drawn by grokscope, so no single run is the published one."
)


def run_delay_law(bench: Bench) -> StudyResult:
    """Free controls, the clamp grid over ρ with matched seeds, and what the paper printed beside them."""
    facts = published("delay_law")
    dense = facts["dense_p59"]
    scan = facts["p_scan"]
    if bench.scale == "small":
        main = Grid(tuple(range(4)), {DENSE: (0.85, 0.9, 0.95, 1.0, 1.05)})
        across = None
    else:
        main = Grid(tuple(range(16)), {DENSE: tuple(dense["rho"])})
        others = {p: tuple(scan["rho"]) for p in (41, 53, 71)}
        across = Grid(tuple(range(12)), others, free=(31,))
    found = measure_grid(bench, main, (DENSE_PART,))
    if len(found.clamped) < 2:
        raise UnfinishedError(
            f"the law needs two held norms, and of {len(main.rho[DENSE])} one has all its runs finished"
        )
    rows, findings = _dense_rows(found, dense), _dense_findings(found)
    figures = [law_figure(found, dense, DENSE)]
    data: dict[str, Any] = {DENSE_PART: found.as_json()}
    shared, chosen = None, [_NO_BIAS_NOISE]
    if across is not None:
        scanned = bench.part("the scan over moduli", lambda: measure_grid(bench, across, (SCAN_PART,)))
        if scanned is not None:
            together = _joined(found, scanned, across)
            rows += _scan_rows(together, scan)
            if _is_whole(together, scan):
                shared = _shared(together)
                findings += shared_findings(shared)
            figures += [scan_figure(together, scan), critical_norm_figure(together, scan["W_c"])]
            data[SCAN_PART] = together.as_json()
        parts = {**lever_parts(bench, found, facts), PARITY: partial(sparse_parity, bench)}
        for name, measure in parts.items():
            part = bench.part(name.replace("_", " "), measure)
            if part is not None:
                rows += part.rows
                findings += part.findings
                data[name] = part.data
        if {TRANSFORMER, LAYER_NORM} & data.keys():
            chosen.append(LEVERS_CHOSEN)
        if PARITY in data:
            chosen.append(PARITY_CHOSEN)
    return StudyResult(
        study="delay-law",
        scale=bench.scale,
        title=TITLE,
        sentence=_sentence(found.fit(), dense["fit"], shared),
        rows=tuple(rows),
        findings=tuple(findings),
        figures=tuple(figures),
        chosen=" ".join(chosen),
        left_out=_left_out(bench.scale),
        data=data,
    )


def _dense_rows(found: Measured, dense: dict[str, Any]) -> list[Row]:
    control, fit = found.controls[DENSE], found.fit()
    rows = [
        median_row("W_c at p = 59", dense["W_c"], control.interval, tolerance=0.03, note="3 % allowed"),
        median_row("grok step, free", dense["free_T_grok"], control.times.median(), tolerance=0.03,
                   note="3 % allowed: the spacing of the evaluations"),
    ]  # fmt: skip
    for rho, middle, low, high in zip(
        dense["rho"], dense["T_grok_median"], dense["lo"], dense["hi"], strict=True
    ):
        if (DENSE, rho) in found.clamped:
            median = found.clamped[DENSE, rho].median()
            rows.append(median_row(f"grok step at ρ = {rho:.2f}", middle, median, (low, high)))
    published_fit = dense["fit"]
    rows.append(
        compared(
            "α in log T = α ρ + c", published_fit["alpha"], fit.alpha, fit_interval(fit),
            published_interval=tuple(published_fit["ci"]), no_effect=0.0, digits=3,
            note=f"all runs, censored ones as bounds; matched seeds resampled; R² {_r2(fit.r_squared)}",
        )
    )  # fmt: skip
    rows += _through_medians(fit, dense, {rho for _, rho in found.clamped})
    if (DENSE, 1.0) in found.clamped:
        rows.append(_sooner(found, dense))
    lever = _lever(found, dense)
    return rows if lever is None else [*rows, lever]


def _through_medians(fit: LogLinearFit, dense: dict[str, Any], run: set[float]) -> list[Row]:
    """The line through the medians, as the paper fits it, through the published ones of the arms that were run."""
    ours = fit.of_medians
    arms = [place for place, rho in enumerate(dense["rho"]) if rho in run]
    if ours is None or len(arms) < 3:
        return []
    theirs = fit_line([dense["rho"][i] for i in arms], np.log([dense["T_grok_median"][i] for i in arms]))
    several = (
        f"{len(arms)} of the {len(dense['rho'])} published medians"
        if len(arms) < len(dense["rho"])
        else "all"
    )
    note = f"published: the line through {several}, computed here"
    close = ours.r_squared is not None and ours.r_squared >= (theirs.r_squared or 0.0) - _R2_ALLOWED
    return [
        compared("α of the line through the medians of these arms", round(theirs.slope, 2), ours.alpha,
                 (ours.low, ours.high), no_effect=0.0, digits=3, note=note),
        Row("R² of that line", round(float(theirs.r_squared or 0.0), 3), ours.r_squared, None,
            "agrees" if close else "differs", f"{note}; agrees means at most {_R2_ALLOWED} less", digits=3),
    ]  # fmt: skip


def _sooner(found: Measured, dense: dict[str, Any]) -> Row:
    """How much sooner a run held at W_c groks than the same run left free, seed by seed."""
    free, held = found.controls[DENSE].times.all_pairs, found.clamped[DENSE, 1.0].all_pairs
    ratios = np.asarray(
        [h.by / f.by for h, f in zip(held, free, strict=True) if h.by is not None and f.by is not None]
    )
    medians = dict(zip(dense["rho"], dense["T_grok_median"], strict=True))
    theirs = round(1 - medians[1.0] / dense["free_T_grok"], 2)
    if not ratios.size:
        return Row(
            "share by which ρ = 1 groks sooner", theirs, None, None, "cannot tell", "no pair of seeds grokked"
        )
    middle = median_interval(np.nextafter(ratios, 0), ratios)
    return compared(
        "share by which ρ = 1 groks sooner than free", theirs, 1 - middle.by, (1 - middle.high, 1 - middle.low),
        digits=2, note=f"{middle.n} matched seeds, interval of {100 * middle.coverage:.0f} %",
    )  # fmt: skip


def _lever(found: Measured, dense: dict[str, Any]) -> Row | None:
    """The factor in time over the whole range of ρ that was run."""
    rho = sorted(r for p, r in found.clamped if p == DENSE)
    first, last = (found.clamped[DENSE, r].median() for r in (rho[0], rho[-1]))
    if first.value is None or last.value is None:
        return None
    medians = dict(zip(dense["rho"], dense["T_grok_median"], strict=True))
    return compared(
        f"lever of the norm: T at ρ = {rho[-1]:g} over T at ρ = {rho[0]:g}",
        round(medians[rho[-1]] / medians[rho[0]], 2), last.value / first.value,
        (last.low / first.high, last.high / first.low), tolerance=0.1, digits=3,
        note="10 % allowed; ends from those of the two medians",
    )  # fmt: skip


def _dense_findings(found: Measured) -> list[Finding]:
    """All pairs against unmirrored ones, and how tight W_c is."""
    every, alone = found.fit(), found.fit(unmirrored=True)
    control = found.controls[DENSE]
    later = [
        found.clamped[key].median(unmirrored=True).by / found.clamped[key].median().by
        for key in found.clamped
        if math.isfinite(found.clamped[key].median(unmirrored=True).by)
    ]
    overlap = _overlap(fit_interval(every), fit_interval(alone))
    return [
        Finding("spread of W_c over seeds (standard deviation over mean)", control.spread, None,
                f"{len(control.norms)} free runs", 2),
        Finding("α on unmirrored test pairs alone", alone.alpha, fit_interval(alone),
                f"against {every.alpha:.3g} on all test pairs; the intervals "
                f"{'overlap: the law does not rest on mirrored pairs' if overlap else 'do not overlap'}", 3),
        Finding("grok step on unmirrored over grok step on all test pairs",
                float(np.median(later)) if later else None,
                (min(later), max(later)) if later else None, "medians over seeds; range over ρ", 3),
        Finding("scatter of log T about the law", every.scale, None,
                f"standard deviation over {every.n} runs, {every.censored} of them bounds", 2),
    ]  # fmt: skip


def _joined(dense: Measured, scanned: Measured, grid: Grid) -> Measured:
    """The scan with the dense runs of the same ρ and seeds."""
    rho = {r for _, r in scanned.clamped}
    clamped = {key: times.of_seeds(grid.seeds) for key, times in dense.clamped.items() if key[1] in rho}
    controls = {**scanned.controls, **dense.controls}
    return Measured(dict(sorted(controls.items())), dict(sorted({**scanned.clamped, **clamped}.items())))


def _is_whole(found: Measured, scan: dict[str, Any]) -> bool:
    return all((int(p), rho) in found.clamped for p in scan["alpha_per_p"] for rho in scan["rho"])


def _scan_rows(found: Measured, scan: dict[str, Any]) -> list[Row]:
    """Of the arms that are there; an exponent for every modulus that is there whole, the shared one for all of them."""
    rows = []
    for p, norm in scan["W_c"].items():
        rows.append(median_row(f"W_c at p = {p}", norm, found.controls[int(p)].interval, tolerance=0.03))
    for p, medians in scan["T_grok_median"].items():
        for rho, middle in zip(scan["rho"], medians, strict=True):
            if (int(p), rho) in found.clamped:
                median = found.clamped[int(p), rho].median()
                row = median_row(f"grok step at p = {p}, ρ = {rho:.2f}", middle, median, tolerance=0.03)
                ours = found.controls[int(p)].critical_norm
                rows.append(with_norm_told(row, rho * ours, rho * scan["W_c"][p], rho * found.fit().alpha))
    for p, alpha in scan["alpha_per_p"].items():
        if all((int(p), rho) in found.clamped for rho in scan["rho"]):
            fit = found.fit([int(p)])
            rows.append(
                compared(
                    f"α at p = {p}",
                    alpha,
                    fit.alpha,
                    fit_interval(fit),
                    no_effect=0.0,
                    digits=3,
                    note="published without an interval",
                )
            )
    if _is_whole(found, scan):
        fit, shared = found.fit(), scan["shared_fit"]
        rows.append(
            compared("α shared by all moduli", shared["alpha"], fit.alpha, fit_interval(fit),
                     published_interval=tuple(shared["ci"]), no_effect=0.0, digits=3,
                     note=f"R² with a constant for each modulus {_r2(fit.r_squared)}")
        )  # fmt: skip
    moduli = sorted(found.controls)
    for name, left_out in (("exponent_all_five", ()), ("exponent_without_31", (31,))):
        kept = [p for p in moduli if p not in left_out]
        law = power_law_fit(kept, [found.controls[p].critical_norm for p in kept])
        words = "all five moduli" if not left_out else "without p = 31"
        rows.append(
            compared(f"exponent of W_c in p, {words}", scan["W_c_power_law"][name], law.exponent,
                     (law.low, law.high), no_effect=0.0, digits=3,
                     note=f"R² {_r2(law.r_squared)}; interval from the scatter of {len(kept)} points")
        )  # fmt: skip
    return rows


def _shared(found: Measured) -> SharedExponent:
    x, low, high, groups, clusters = found.runs()
    return shared_exponent(x, low, high, groups, clusters)


def _overlap(one: Interval, other: Interval) -> bool:
    low = max(-math.inf if end[0] is None else end[0] for end in (one, other))
    high = min(math.inf if end[1] is None else end[1] for end in (one, other))
    return low <= high


def _r2(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _sentence(fit: LogLinearFit, theirs: dict[str, Any], shared: SharedExponent | None) -> str:
    low, high = fit_interval(fit)
    ends = "with an open interval" if low is None or high is None else f"({low:.2f} to {high:.2f})"
    said = (
        f"Holding the norm at ρ·W_c multiplies the time to grok by {math.exp(0.1 * fit.alpha):.2f} for every 0.1 in ρ: "
        f"α = {fit.alpha:.2f} {ends}, published {theirs['alpha']} ({theirs['ci'][0]} to {theirs['ci'][1]})."
    )
    if shared is not None:
        verdicts = {
            "shared": "The moduli share one exponent as far as these runs tell.",
            "separate": "The exponent is not the same for all moduli.",
            "cannot tell": "Whether the moduli share one exponent, these runs cannot tell.",
        }
        said += " " + verdicts[shared.verdict]
    return said


def _left_out(scale: Scale) -> str:
    if scale == "full":
        return (
            "Other decays, widths and optimisers, the one-shot clamp, the largest norms of the learning-rate grid, and "
            "the norms above W_c of the transformer."
        )
    return (
        "At this scale: p = 59 alone, ρ up to 1.05, four seeds of sixteen. The four largest ρ, the other moduli, the "
        "dependence of W_c on p, the question of a shared exponent, the lever of the learning rate, the transformers "
        "with and without LayerNorm and sparse parity are left to --scale full."
    )
