"""The study ``logit-scale``: does the norm act on the grok step through the scale of the logits?

At a held norm a temperature τ lowers the effective logit scale L alone. If the delay that a larger norm brings is gone
where L is back at its baseline, the norm acts through L (arXiv 2606.18465).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grokscope.measures.censored import LogLinearFit, as_bounds, log_linear_fit
from grokscope.measures.exponents import SharedExponent, shared_exponent
from grokscope.measures.mediation import Recovery
from grokscope.studies.logit_scale_cells import (
    BASE,
    HOLD,
    JUMP,
    RAISED,
    Panel,
    logit_scale_parts,
    measure_parts,
)
from grokscope.studies.logit_scale_figures import collapse_figure, law_on_norm_figure, mediation_figure
from grokscope.studies.logit_scale_mediation import (
    ALLOWED,
    collapse_rows,
    mediation_findings,
    mediation_rows,
    recover,
)
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row, StudyResult, compared
from grokscope.studies.rows import fit_interval, median_row, ratio_of, shared_findings
from grokscope.studies.sweep import Bench, Scale

TITLE = "The logit scale between the weight norm and grokking (arXiv 2606.18465)"
_CHOSEN = (
    f"A run goes on for {25 * (HOLD - 1)} steps after 90 % of the unmirrored test pairs are right, so that its logit "
    "scale is known at the median seed's grok step; the published runs of an arm go on until the last seed has "
    "grokked. L is read every 25 steps (published: every 200). Biases start at zero. Initial weights and splits are "
    "drawn by grokscope, so no single run is the published one. "
)
_SQUARED = (
    "Under the squared error W_c is that of its own free controls. The published code sums the squares over classes "
    "and takes the mean over samples, twice our loss; Adam does not see the scale of a loss but through its eps, so "
    "eps = 5e-9 makes our updates theirs. A mean over the classes as well (eps = 2.95e-7 for p = 59) is run beside it."
)


def run_logit_scale(bench: Bench) -> StudyResult:
    """The temperature experiment, the collapse, the law on the norm by modulus, and the squared error."""
    facts = published("logit_scale")
    panels = measure_parts(bench, logit_scale_parts(bench.scale))
    entropy = {panel.part.p: panel for panel in panels.values() if panel.part.loss == "cross-entropy"}
    rows: list[Row] = []
    findings: list[Finding] = []
    recoveries: dict[int, Recovery] = {}
    data: dict[str, Any] = {name: panel.as_json() for name, panel in panels.items()}
    for p, theirs in facts["mediation_rho_1.15"].items():
        panel = entropy.get(int(p))
        if panel is not None:
            recoveries[int(p)] = found = recover(panel)
            rows += mediation_rows(panel, theirs, found)
            findings += mediation_findings(panel, found)
            made, said = collapse_rows(panel, facts["collapse"])
            rows, findings = rows + made, findings + said
    rows += norm_rows(entropy, facts)
    shared = _shared(entropy)
    if shared is not None:
        findings += _law_findings(shared, facts)
    findings += _collapse_onsets(entropy)
    for name, panel in panels.items():
        if panel.part.loss == "squared":
            made, said = squared_rows(panel, facts["squared_error"], varied=name.endswith("-mean"))
            rows, findings = rows + made, findings + said
    raised = [p for p in recoveries if entropy[p].temperatures]
    figures = [mediation_figure({p: entropy[p] for p in raised}, facts["mediation_rho_1.15"])]
    figures.append(collapse_figure({p: entropy[p] for p in raised}))
    if len(entropy) > 1:
        figures.append(law_on_norm_figure(entropy))
    return StudyResult(
        study="logit-scale",
        scale=bench.scale,
        title=TITLE,
        sentence=_sentence(recoveries, facts, shared),
        rows=tuple(rows),
        findings=tuple(findings),
        figures=tuple(figures),
        chosen=_CHOSEN + (_SQUARED if bench.scale == "full" else ""),
        left_out=_left_out(bench.scale),
        data=data,
    )


def norm_rows(panels: Mapping[int, Panel], facts: Mapping[str, Any]) -> list[Row]:
    """W_c of each modulus, and log T on the held norm with its exponent per unit of norm and per W_c."""
    law = facts["log_T_on_norm"]
    rows: list[Row] = []
    for p, panel in sorted(panels.items()):
        rows.append(
            median_row(f"W_c at p = {p}", facts["W_c"][str(p)], panel.control.interval, tolerance=ALLOWED,
                       note="3 % allowed")
        )  # fmt: skip
        place, fit = law["p"].index(p), _law(panel)
        if fit is None or len(panel.law_cells()) < 3:
            continue
        low, high = fit_interval(fit)
        size = panel.control.critical_norm
        note = f"{len(panel.law_cells())} values of ρ, {fit.n} runs, {fit.censored} of them bounds"
        rows.append(
            compared(f"exponent of T in the norm at p = {p}", law["alpha"][place], fit.alpha / size,
                     (_over(low, size), _over(high, size)), tolerance=ALLOWED, no_effect=0.0, digits=3,
                     note=f"{note}; 3 % allowed")
        )  # fmt: skip
        rows.append(
            compared(f"the same times W_c at p = {p}", law["alpha_times_W_c"][place], fit.alpha, (low, high),
                     tolerance=ALLOWED, no_effect=0.0, digits=3, note="3 % allowed")
        )  # fmt: skip
        medians = fit.of_medians
        if medians is not None and medians.r_squared is not None:
            least = law["R2"][place]
            rows.append(
                Row(f"R² of that line through the medians at p = {p}", least, medians.r_squared, None,
                    "agrees" if medians.r_squared >= least - 0.02 else "differs",
                    "agrees means at most 0.02 below the published one", digits=3)
            )  # fmt: skip
    return rows


def squared_rows(panel: Panel, theirs: Mapping[str, Any], *, varied: bool) -> tuple[list[Row], list[Finding]]:
    """T at ρ = 1 and 1.15 under the squared error, their ratio, and the logit scale."""
    p = panel.part.p
    base, raised = panel.cells[BASE], panel.cells[RAISED, 1.0]
    said = "mean over samples and classes" if varied else "sum over classes, mean over samples"
    ratio, ends = ratio_of(raised.median, base.median)
    if varied:
        note = f"eps of Adam {panel.part.eps:g}: {said}"
        return [], [
            Finding(f"grok step under squared error averaged over classes, p = {p}, ρ = {rho:g}",
                    cell.median.value, (cell.median.low, cell.median.high), note)
            for rho, cell in ((1.0, base), (RAISED, raised))
        ] + [Finding(f"ratio of the two, p = {p}", ratio, ends, note, 3)]  # fmt: skip
    first, second, factor = published_pair(theirs[str(p)])
    rows = [
        median_row(f"squared error: grok step at p = {p}, ρ = {rho:g}", number, cell.median, tolerance=ALLOWED,
                   note=f"3 % allowed; {said}")
        for rho, number, cell in ((1.0, first, base), (RAISED, second, raised))
    ]  # fmt: skip
    slowing = compared(
        f"squared error: slowing from ρ = 1 to {RAISED:g} at p = {p}", factor, ratio, ends, tolerance=0.1,
        no_effect=1.0, note="10 % allowed; ends from those of the two medians", digits=3,
    )  # fmt: skip
    start = published("logit_scale")["setup"]["clamp_from"]
    if raised.median.value is not None and raised.median.value <= start:
        # what has grokked before anything is held cannot show what holding does
        note = f"these runs grok before step {start}, from which the norm is held: nothing is said about the slowing"
        slowing = replace(slowing, verdict="cannot tell", note=note)
    rows.append(slowing)
    findings = [
        Finding(f"squared error: logit scale at p = {p}, ρ = {rho:g}", cell.scale, cell.scale_interval,
                f"published: {theirs['logit_scale']}", 3)
        for rho, cell in ((1.0, base), (RAISED, raised))
    ]  # fmt: skip
    return rows, findings


def published_pair(text: str) -> tuple[float, float, float]:
    """``"1175 -> 2225 (1.89x)"`` as its three numbers."""
    first, second, factor = (float(number) for number in re.findall(r"[0-9.]+", text))
    return first, second, factor


def _law(panel: Panel) -> LogLinearFit | None:
    found = list(panel.runs())
    x = [rho for rho, _, _ in found]
    low, high = as_bounds([crossing for _, crossing, _ in found])
    if len({rho for rho, at in zip(x, high, strict=True) if math.isfinite(at)}) < 2:
        return None
    return log_linear_fit(x, low, high, clusters=[seed for _, _, seed in found])


def _shared(panels: Mapping[int, Panel]) -> SharedExponent | None:
    """One exponent on ρ for all moduli against one for each; ``None`` for one modulus."""
    if len(panels) < 2:
        return None
    runs = [(p, *run) for p, panel in panels.items() for run in panel.runs()]
    low, high = as_bounds([crossing for _, _, crossing, _ in runs])
    return shared_exponent(
        [rho for _, rho, _, _ in runs], low, high, [p for p, *_ in runs], [seed for *_, seed in runs]
    )


def _law_findings(shared: SharedExponent, facts: Mapping[str, Any]) -> list[Finding]:
    """Which the data prefer, and how the exponent goes with the modulus."""
    theirs = facts["log_T_on_norm"]["alpha_times_W_c"]
    listed = ", ".join(f"{one.alpha:.2f} (p = {p})" for p, one in sorted(shared.separate.items()))  # pyright: ignore
    return [
        *shared_findings(shared),
        Finding(
            "α·W_c by modulus", listed, None, f"published {theirs[0]:g} to {theirs[-1]:g}, falling with p"
        ),
    ]


def _collapse_onsets(panels: Mapping[int, Panel]) -> list[Finding]:
    return [
        Finding(f"ρ left out of the law at p = {p}: softmax collapse",
                ", ".join(f"{rho:g}" for rho in panel.collapsed()), None,
                f"the logit scale is more than {JUMP:g} times that of the next lower ρ")
        for p, panel in panels.items() if panel.collapsed()
    ]  # fmt: skip


def _over(end: float | None, by: float) -> float | None:
    return None if end is None else end / by


def _sentence(
    recoveries: Mapping[int, Recovery], facts: Mapping[str, Any], shared: SharedExponent | None
) -> str:
    parts = []
    for p, found in recoveries.items():
        theirs = facts["mediation_rho_1.15"][str(p)]["recovery"]
        if found.fraction is None:
            parts.append(f"at p = {p} the share cannot be told ({found.reason})")
        else:
            ends = (
                "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
            )
            parts.append(f"at p = {p} {found.fraction:.2f}{ends}, published {theirs:g}")
    said = (
        f"Share of the delay between ρ = 1 and {RAISED:g} that goes away when the logit scale is put back at its "
        f"baseline: {'; '.join(parts)}."
    )
    if shared is not None:
        said += (
            " "
            + {
                "shared": "The moduli share one exponent in ρ as far as these runs tell.",
                "separate": "The exponent in ρ is not the same for all moduli.",
                "cannot tell": "Whether the moduli share one exponent in ρ, these runs cannot tell.",
            }[shared.verdict]
        )
    return said


def _left_out(scale: Scale) -> str:
    always = (
        "The reallocation between layers, the transformer and the same-state forks are not part of this page."
    )
    if scale == "full":
        return always
    return (
        "At this scale: p = 59 alone, ρ = 1 and 1.15 at three temperatures, four seeds of twelve. The collapse over "
        "the whole grid, the other moduli, the exponents by modulus and the squared error are left to --scale full. "
        + always
    )
