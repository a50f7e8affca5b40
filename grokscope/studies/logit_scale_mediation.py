"""How much of the delay goes through the logit scale: the recovery fraction and the collapse (arXiv 2606.18465)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grokscope.measures.censored import as_bounds
from grokscope.measures.mediation import Collapse, Recovery, collapse, recovery, recovery_fraction
from grokscope.measures.resampling import cluster_weights, expanded_percentile
from grokscope.studies.logit_scale_cells import BASE, RAISED, Cell, Panel, Place
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row, compared
from grokscope.studies.rows import median_row, with_norm_told

ALLOWED = 0.03
"""Published medians carry no interval; this share is allowed for theirs."""
RESAMPLES = 100


def recover(panel: Panel) -> Recovery:
    """The recovery fraction at ρ = 1.15 against the baseline, with its interval over matched seeds."""
    arms = [panel.cells[RAISED, tau] for tau in panel.temperatures]
    bounds = [as_bounds(cell.times.all_pairs) for cell in arms]
    low, high = (np.stack([ends[side] for ends in bounds]) for side in (0, 1))
    base = panel.cells[BASE]

    def scales_of(chosen: np.ndarray) -> tuple[float, list[float]]:
        return base.scale_of(chosen), [cell.scale_of(chosen) for cell in arms]

    return recovery(
        as_bounds(base.times.all_pairs), (low, high), base.scale, [cell.scale for cell in arms],
        raised=panel.temperatures.index(1.0), scales_of=scales_of,
    )  # fmt: skip


def mediation_rows(panel: Panel, theirs: Mapping[str, Any], found: Recovery) -> list[Row]:
    """Grok steps and logit scales of the baseline and of the raised arms, and what the temperature brings back."""
    p, rows = panel.part.p, []
    facts = published("logit_scale")
    norm, exponents = facts["W_c"][str(p)], facts["log_T_on_norm"]
    law = dict(zip(exponents["p"], exponents["alpha_times_W_c"], strict=True))
    table = [(BASE, theirs["T0"], theirs["L0"])]
    for tau, time, scale in zip(theirs["tau"], theirs["T"], theirs["L"], strict=True):
        table.append(((RAISED, float(tau)), time, scale))
    for (rho, tau), time, scale in table:
        cell = panel.cells.get((rho, tau))
        if cell is None:
            continue
        where = f"at p = {p}, ρ = {rho:g}, τ = {tau:g}"
        row = median_row(f"grok step {where}", time, cell.median, tolerance=ALLOWED, note="3 % allowed")
        rows.append(with_norm_told(row, rho * panel.control.critical_norm, rho * norm, rho * law[p]))
        rows.append(
            compared(f"logit scale {where}", scale, cell.scale, cell.scale_interval, tolerance=ALLOWED,
                     note=f"3 % allowed; mean of {len(cell.scales)} seeds; {np.mean(cell.own):.3g} at each seed's own "
                          "grok step")
        )  # fmt: skip
    reason = found.reason or (
        f"linear interpolation over {len(panel.temperatures)} temperatures; {found.seeds} matched seeds resampled"
    )
    number, ends, said = _published_recovery(theirs, panel.temperatures)
    rows.append(
        compared(f"recovery fraction at p = {p}", number, found.fraction, (found.low, found.high),
                 published_interval=ends, no_effect=0.0, note=f"{reason}{said}", digits=3)
    )  # fmt: skip
    return rows


def _published_recovery(
    theirs: Mapping[str, Any], temperatures: Sequence[float]
) -> tuple[float, tuple[float, float], str]:
    """The published fraction and its interval; over fewer temperatures, what their own table gives there."""
    low, high = theirs["ci"]
    kept = [place for place, tau in enumerate(theirs["tau"]) if tau in temperatures]
    if len(kept) == len(theirs["tau"]):
        return theirs["recovery"], (low, high), ""
    scales, times = ([theirs[name][place] for place in kept] for name in ("L", "T"))
    fraction = recovery_fraction(theirs["T0"], theirs["T1"], theirs["L0"], scales, times)
    if fraction is None:
        return theirs["recovery"], (low, high), f"; published over τ = {theirs['tau']}"
    moved = fraction - theirs["recovery"]
    return (
        round(fraction, 3),
        (round(low + moved, 3), round(high + moved, 3)),
        f"; published: computed here from the table at the same temperatures ({theirs['recovery']:g} over all "
        f"{len(theirs['tau'])}), the interval moved with it",
    )


def mediation_findings(panel: Panel, found: Recovery) -> list[Finding]:
    """What the paper's table leaves unsaid: T2 itself, and the fraction on the logarithm of time."""
    base, raised = panel.cells[BASE].median.value, panel.cells[RAISED, 1.0].median.value
    said = [
        Finding(f"grok step at p = {panel.part.p}, ρ = {RAISED:g} where L is that of the baseline", found.matched,
                None, "interpolated; with full mediation that of the baseline"
                + ("" if base is None else f", {base:.4g}"))
    ]  # fmt: skip
    if base is not None and raised is not None and found.matched is not None:
        share = math.log(raised / found.matched) / math.log(raised / base)
        said.append(
            Finding(f"recovery at p = {panel.part.p} on the logarithm of time", share, None,
                    "the published fraction is linear in T, which lets the slow arm count most", 3)
        )  # fmt: skip
    return said


def collapse_of(cells: Mapping[Place, Cell], seeds: np.ndarray | None = None) -> Collapse | None:
    """R² of log T (medians over ``seeds``, places that may repeat) on L and on ρ; ``None`` where it has none."""
    low, high, scales, rho = [], [], [], []
    for (held, _), cell in cells.items():
        bounds = as_bounds(cell.times.all_pairs)
        picked = np.arange(len(bounds[0])) if seeds is None else seeds
        after, by = (float(np.median(end[picked])) for end in bounds)
        low.append(after if math.isinf(by) else by)
        high.append(by)
        scales.append(cell.scale_of(picked))
        rho.append(held)
    if np.isfinite(high).sum() < 4 or len(set(rho)) < 2:
        return None
    try:
        return collapse(low, high, scales, rho)
    except ValueError:
        return None


def collapse_rows(panel: Panel, theirs: Mapping[str, Any]) -> tuple[list[Row], list[Finding]]:
    """R² of log T on the logit scale and on the norm alone, over the grid of ρ and τ that was published."""
    wanted = [(float(rho), float(tau)) for rho in theirs["rho"] for tau in theirs["tau"]]
    cells = {place: panel.cells[place] for place in wanted if place in panel.cells}
    found = collapse_of(cells)
    if found is None:
        return [], []
    p, whole = panel.part.p, len(cells) == len(wanted)
    counts = cluster_weights(np.arange(len(panel.part.seeds)), RESAMPLES, 0).astype(np.int64)
    every = [collapse_of(cells, np.repeat(np.arange(counts.shape[1]), row)) for row in counts]
    rows: list[Row] = []
    findings: list[Finding] = []
    for words, key, value, drawn in (
        ("the logit scale", "R2_logT_on_L", found.on_scale, [one.on_scale for one in every if one]),
        ("ρ alone", "R2_on_rho_alone", found.on_norm, [one.on_norm for one in every if one]),
    ):
        quantity = f"R² of log T on {words} at p = {p}"
        interval = expanded_percentile([one for one in drawn if one is not None], counts.shape[1])
        note = (
            f"medians of {found.n} cells of ρ and τ, {found.censored} of them bounds; matched seeds resampled"
        )
        number = theirs[key].get(str(p))
        if whole and number is not None:
            rows.append(compared(quantity, number, value, interval, tolerance=0.02, note=f"{note}; 2 % allowed",
                                 digits=3))  # fmt: skip
        else:
            findings.append(
                Finding(quantity, value, interval, f"{note}; published over {len(wanted)} cells: {number}", 3)
            )
    if found.on_both is not None and found.on_scale is not None:
        findings.append(
            Finding(f"what ρ adds to the logit scale at p = {p}", found.on_both - found.on_scale, None,
                    "R² of log T on both, less R² on the logit scale", 3)
        )  # fmt: skip
    return rows, findings
