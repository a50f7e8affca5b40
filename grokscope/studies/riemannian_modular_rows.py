"""Does the slow phase describe real grokking? Rows and a figure on modular addition with squared loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing
from grokscope.probes.drawing import CYCLE, INK, NEUTRAL, legend
from grokscope.report.figures import Drawing
from grokscope.studies.part import Part
from grokscope.studies.result import Finding, Row, drawing
from grokscope.studies.riemannian_ends import ON_THE_CLOCK
from grokscope.studies.riemannian_modular import FIT, GROK, ModularGrid, ModularReading
from grokscope.studies.riemannian_rows import (
    ALONG,
    SPEED,
    near,
    over_seeds,
    powers_between,
    predicted,
    verdict,
)
from grokscope.studies.riemannian_steps import RULE

WORDS = "modular addition"


def modular_part(readings: Sequence[ModularReading], grid: ModularGrid) -> Part:
    """Rows, findings, figure and the answer."""
    rows: list[Row] = []
    findings: list[Finding] = []
    for decay in sorted({one.decay for one in readings}, reverse=True):
        group = [one for one in readings if one.decay == decay]
        made, said = _drift(group, decay)
        rows, findings = rows + made, findings + said
        rows += _order(group, decay)
        findings += _findings(group, decay)
    rows += _clock(readings)
    return Part(
        rows=tuple(rows),
        sentence=_answer(readings, rows),
        findings=tuple(findings),
        figures=(_figure(readings),) if readings else (),
        chosen=(
            f"Modular addition: p = {grid.p}, {100 * grid.fraction:g} % of the pairs, one-hot inputs, {grid.hidden} "
            f"quadratic units without biases, half the squared error summed over classes, gradient descent at rate "
            f"{grid.rate:g}, decays {', '.join(f'{decay:g}' for decay in grid.decays)}. p, width and "
            "share of pairs were looked for until the network grokked, the rate is that which the rule on the "
            "step size allows."
        ),
        data={"modular": [one.as_json() for one in readings]},
    )


def _drift(group: Sequence[ModularReading], decay: float) -> tuple[list[Row], list[Finding]]:
    """Direction and speed from the junction to the grok, and before the junction."""
    spans = [(one, one.to_grok) for one in group]
    known = [(one, one.within(*span)) for one, span in spans if span is not None and one.within(*span).any()]
    if not known:
        return [], [
            Finding(f"{WORDS}: drift from the junction to the grok, decay {decay:g}", "no save there")
        ]
    note = (
        f"of the velocity at {np.median([mask.sum() for _, mask in known]):.0f} saves from the junction to the grok, "
        f"their median; {over_seeds(len(known))}"
    )
    rows, findings = [], []
    cosines = [float(np.median(one.cosine[mask])) for one, mask in known]
    speeds = [float(np.median(one.speed[mask])) for one, mask in known]
    ends, limits = (min(cosines), max(cosines)), (min(speeds), max(speeds))
    rows.append(Row(
        f"{WORDS}: drift cosine with −P w at decay {decay:g}", f"1: {predicted(0)}", float(np.median(cosines)), ends,
        verdict(ends[0] >= ALONG, ends[1] < ALONG),
        f"{note}; agrees: at least {ALONG:g} for all; a random direction has {group[0].parameters**-0.5:.2g}",
    ))  # fmt: skip
    rows.append(Row(
        f"{WORDS}: drift speed at decay {decay:g}", f"1: {predicted(0)}", float(np.median(speeds)), limits,
        near(limits, 1, SPEED), f"over λ|P w|; {note}; agrees: within {SPEED:g} of 1 for all",
    ))  # fmt: skip
    for what, series in (("cosine", "moved_cosine"), ("speed", "moved_speed")):
        values = [float(np.median(getattr(one, series)[mask])) for one, mask in known]
        findings.append(Finding(
            f"{WORDS}: drift {what} of the motion between saves, decay {decay:g}", float(np.median(values)),
            (min(values), max(values)), "over the same saves, each to the next",
        ))  # fmt: skip
    early = [
        one.cosine[one.looked < one.junction.by]
        for one in group
        if one.junction is not None and one.junction.by is not None
    ]
    before = [float(np.median(values)) for values in early if values.size]
    if before:
        findings.append(Finding(
            f"{WORDS}: drift cosine from the fit to the junction, decay {decay:g}", float(np.median(before)),
            (min(before), max(before)), "of the velocity; the theory says nothing of it",
        ))  # fmt: skip
    return rows, findings


def _order(group: Sequence[ModularReading], decay: float) -> list[Row]:
    """The junction against the onset, and the rank."""
    ratios, rows = [], []
    for one in group:
        if one.junction is not None and one.junction.by is not None and one.grok.by is not None:
            ratios.append(((one.grok.after or 0) / one.junction.by, one.junction))
    if ratios:
        values = [ratio for ratio, _ in ratios]
        when = [decay * one.rate * one.junction.by for one in group if one.junction and one.junction.by]
        rows.append(Row(
            f"{WORDS}: grok step over the step of the junction, decay {decay:g}",
            "above 1: the norm falls after the junction",
            float(np.median(values)), (min(values), max(values)), verdict(min(values) > 1, max(values) <= 1),
            f"last step before {GROK:g} test accuracy over the first after the junction, which lies at λt = "
            f"{np.median(when):.2g}; {over_seeds(len(values))}; agrees: above 1 for all",
        ))  # fmt: skip
    low, high = min(int(one.rank.min()) for one in group), max(int(one.rank.max()) for one in group)
    rows.append(Row(
        f"{WORDS}: rank of the Jacobian, decay {decay:g}", "constant (an assumption)",
        f"{low}" if low == high else f"{low} to {high}", None, "agrees" if low == high else "differs",
        f"at {len(group[0].looked)} saves from the fit to the end, {len(group)} seeds; {group[0].residuals} residuals, "
        f"{group[0].parameters} parameters; agrees: one number",
    ))  # fmt: skip
    return rows


def _findings(group: Sequence[ModularReading], decay: float) -> list[Finding]:
    """Delay, share of the weights along the manifold, step size."""
    counted = over_seeds(len(group))
    found = [_event(group, decay, name) for name in ("fit", "grok")]
    at = [
        float(one.test[int(np.searchsorted(one.evaluated, one.fit.by))])
        for one in group
        if one.fit.by is not None
    ]
    if at:
        found.append(Finding(f"{WORDS}: test accuracy at the fit, decay {decay:g}", float(np.median(at)),
                             (min(at), max(at)), counted))  # fmt: skip
    shares = [float(one.share[0] / one.share[-1]) for one in group]
    found.append(Finding(
        f"{WORDS}: ‖P w‖/‖w‖ at the fit over that at the end, decay {decay:g}", float(np.median(shares)),
        (min(shares), max(shares)), counted,
    ))  # fmt: skip
    stiff = [one.stiffness for one in group]
    found.append(Finding(
        f"{WORDS}: largest learning rate × curvature, decay {decay:g}", max(stiff), (min(stiff), max(stiff)),
        f"range over {len(stiff)} runs; the rule is under {RULE:g}",
    ))  # fmt: skip
    return found


def _event(group: Sequence[ModularReading], decay: float, name: str) -> Finding:
    level = {"fit": f"training accuracy {FIT:g}", "grok": f"test accuracy {GROK:g}"}[name]
    crossings: list[Crossing] = [getattr(one, name) for one in group]
    known = [
        (decay * one.rate * (crossing.after or 0), decay * one.rate * crossing.by)
        for one, crossing in zip(group, crossings, strict=True)
        if crossing.by is not None
    ]
    said = f"{WORDS}: λt of the {name}, decay {decay:g}"
    if not known:
        return Finding(said, "not within the run", None, f"{level}; {len(group)} seeds")
    return Finding(
        said, float(np.median([sum(ends) / 2 for ends in known])),
        (min(low for low, _ in known), max(high for _, high in known)),
        f"{level}, {len(known)} of {len(group)} seeds reach it",
    )  # fmt: skip


def _clock(readings: Sequence[ModularReading]) -> list[Row]:
    """The power of 1/λ in the grok step."""
    decays = sorted({one.decay for one in readings}, reverse=True)[-2:]
    if len(decays) < 2:
        return []
    found = []
    for seed in sorted({one.seed for one in readings}):
        known = [
            (one.decay, (float(one.grok.after or 0), float(one.grok.by)))
            for decay in decays
            for one in readings
            if (one.seed, one.decay) == (seed, decay) and one.grok.by is not None
        ]
        if len(known) == 2:
            found.append(powers_between(known[0], known[1]))
    if not found:
        return []
    ends = (min(low for low, _, _ in found), max(high for *_, high in found))
    return [Row(
        f"{WORDS}: power of 1/λ in the grok step, decays {decays[0]:g} and {decays[1]:g}", f"1: {predicted(2)}",
        float(np.median([middle for _, middle, _ in found])), ends, near(ends, 1, ON_THE_CLOCK),
        f"{over_seeds(len(found))}, the spacing of evaluations counted; agrees: within {ON_THE_CLOCK:g} of 1 for all",
    )]  # fmt: skip


def _answer(readings: Sequence[ModularReading], rows: Sequence[Row]) -> str:
    """Yes where every row agrees, no where the drift at the smallest decay differs, else in part.

    It cannot be told where no run of the smallest decay groks.
    """
    smallest = min(one.decay for one in readings)
    last = [one for one in readings if one.decay == smallest]
    grokked = sum(one.grok.by is not None for one in last)
    drift = [row for row in rows if "drift" in row.quantity and row.quantity.endswith(f"decay {smallest:g}")]
    against = [
        f"{row.quantity.removeprefix(f'{WORDS}: ')} ({row.ours:.3g})"
        if isinstance(row.ours, float)
        else row.quantity
        for row in rows
        if row.verdict != "agrees"
    ]
    if not grokked or not drift:
        word = "it cannot be told"
    elif any(row.verdict == "differs" for row in drift):
        word = "no"
    else:
        word = "in part" if against else "yes"
    numbers = [
        f"{'cosine' if 'cosine' in row.quantity else 'speed'} {row.ours:.3g}"
        for row in drift
        if isinstance(row.ours, float)
    ]
    powers = [
        f"the grok step goes as λ to the power −{row.ours:.3g}"
        for row in rows
        if "power" in row.quantity and isinstance(row.ours, float)
    ]
    told = [
        f"from the junction to the grok at decay {smallest:g}: {', '.join(numbers)}" if numbers else "",
        *powers,
    ]
    said = f"Does the slow phase describe grokking on modular addition with squared loss? {word.capitalize()}"
    said += f" ({'; '.join([*filter(None, told), f'{grokked} of {len(last)} runs grok'])})."
    return said + (f" Not as predicted: {'; '.join(against)}." if against else "")


def _figure(readings: Sequence[ModularReading]) -> Drawing:
    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3)
        for place, decay in enumerate(sorted({one.decay for one in readings}, reverse=True)):
            label = f"λ = {decay:g}"
            for one in readings:
                if one.decay != decay:
                    continue
                ticks = decay * one.rate
                first = one.evaluated > 0
                colour = CYCLE[place]
                left.plot(
                    ticks * one.evaluated[first], one.test[first], color=colour, linewidth=1, label=label
                )
                left.plot(
                    ticks * one.evaluated[first], one.train[first], color=colour, linewidth=0.8, linestyle=":"
                )
                middle.plot(ticks * one.looked, one.cosine, "o-", color=colour, markersize=3, linewidth=0.8)
                right.plot(ticks * one.looked, one.speed, "o-", color=colour, markersize=3, linewidth=0.8)
                if one.junction is not None and one.junction.by is not None:
                    for axes in (left, middle, right):
                        axes.axvline(ticks * one.junction.by, color=colour, linewidth=0.6, linestyle="--")
                label = ""
        left.set_ylabel("accuracy")
        middle.set_ylabel("cosine with −P w")
        right.set_ylabel("speed over λ‖P w‖")
        for axes in (middle, right):
            axes.axhline(1, color=NEUTRAL, linewidth=0.8)
        right.set_yscale("log")
        for axes in (left, middle, right):
            axes.set_xscale("log")
            axes.set_xlabel("λt")
        left.plot([], [], color=INK, linewidth=0.8, linestyle=":", label="training")
        legend(left)

    caption = (
        "Accuracy over time times decay, every run (left), and cosine and speed of the velocity against −λ P w at "
        "saves from the fit to the end (middle, right). Dashed: the junction of each run."
    )
    return drawing("Modular addition with squared loss", caption, draw, "r5", (10.0, 3.4))
