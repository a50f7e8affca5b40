"""What matrix completion shows beyond what was published."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grokscope.measures.lines import fit_line
from grokscope.studies.deep_linear_flow import PARTED, FlowReading
from grokscope.studies.deep_linear_readings import Reading
from grokscope.studies.deep_linear_rows import ends_of, middle, shown
from grokscope.studies.result import Finding


def depth_findings(depth: int, readings: Sequence[Reading]) -> list[Finding]:
    """Clocks as exponents of the decay, their separation, balance on the way, and the decay of small values."""
    found = []
    for name, ends in (
        ("fit step", lambda one: (one.fit.after, one.fit.by)),
        ("rank step", lambda one: (one.rank.after, one.rank.by)),
    ):
        exponents = []
        for seed in sorted({one.seed for one in readings}):
            group = [(one.decay, middle(ends(one))) for one in readings if one.seed == seed]
            group = [(decay, time) for decay, time in group if time is not None]
            if len(group) > 1:
                exponents.append(round(fit_line(*np.log(np.array(group)).T).slope, 6) + 0.0)
        found.append(over_runs(f"exponent of the {name} in the decay, L = {depth}", exponents, "over seeds"))
    ratios = [
        rank / fit for one in readings
        if (rank := middle((one.rank.after, one.rank.by))) and (fit := middle((one.fit.after, one.fit.by)))
    ]  # fmt: skip
    found.append(over_runs(f"rank step over fit step, L = {depth}", ratios, "over seeds and decays"))
    found.append(over_runs(f"steps × lr × decay at the rank, L = {depth}",
                            [middle(one.ticks(one.rank)) for one in readings], "over seeds and decays"))  # fmt: skip
    found.append(over_runs(f"rate of decay of the balance gap over the decay, L = {depth}",
                            [one.gap_rate for one in readings], "over seeds and decays"))  # fmt: skip
    found.append(over_runs(f"rate of decay of W'ᵀW' − WWᵀ over the decay, L = {depth}",
                           [one.imbalance_rate for one in readings],
                           "2 in gradient flow, whatever the loss; over seeds and decays"))  # fmt: skip
    slow = (
        f"{depth} where nothing pulls it up"
        if depth > 2
        else "2(1 − g/λ) where the pull g is below the decay λ"
    )
    found.append(over_runs(f"rate of decay of singular value r + 1 over the decay, L = {depth}",
                            [one.tail_rate for one in readings], slow))  # fmt: skip
    found.append(over_runs(f"θ from the gradient of the objective, L = {depth}",
                            [None if one.gradient_theta is None else one.gradient_theta.slope for one in readings],
                            "slope of log ‖∂E‖ on log(E − E*); ½ is an exponential"))  # fmt: skip
    return found


def init_findings(at: tuple[int, float], readings: Sequence[Reading]) -> list[Finding]:
    """The rank clock from smaller and larger initial weights."""
    found = []
    for init in sorted({one.init for one in readings} - {1.0}):
        group = [one for one in readings if one.init == init]
        found.append(over_runs(f"steps × lr × decay at the rank, L = {at[0]}, initial scale {init:g}",
                                [middle(one.ticks(one.rank)) for one in group],
                                f"decay {at[1]:g}; the constant depends on where the weights begin"))  # fmt: skip
    return found


def flow_findings(flows: Sequence[FlowReading], plain: Sequence[Reading]) -> list[Finding]:
    """Where the theory's own flow and the factors part, at one depth."""
    if not flows:
        return []
    depth = flows[0].depth
    trained = {(one.depth, one.seed): one for one in plain if one.decay == flows[0].decay}
    factors = []
    for one in flows:
        mine = trained[one.depth, one.seed]
        unit = mine.rate * mine.decay
        flowed, learned = middle((one.rank.after, one.rank.by)), middle((mine.rank.after, mine.rank.by))
        factors.append(None if flowed is None or learned is None else flowed * unit / (learned * unit))
    found = [over_runs(f"rank clock of the flow on the product over that of the factors, L = {depth}", factors,
                        "the same time Σ lr")]  # fmt: skip
    firsts = {name: [one.parted[name] for one in flows] for name in flows[0].parted}
    order = sorted(
        (float(np.median([v for v in values if v is not None])), name)
        for name, values in firsts.items() if any(v is not None for v in values)
    )  # fmt: skip
    said = "; ".join(f"{name} at {tick:.0f}" for tick, name in order)
    found.append(
        Finding(f"where flow and factors part, steps, L = {depth}", said or "nowhere", None,
                f"first save at which they differ by {PARTED:.0%}, median over {len(flows)} seeds")
    )  # fmt: skip
    fits = [one.fit_ratio for one in flows]
    found.append(over_runs(f"fit step of the flow on the product over that of the factors, L = {depth}", fits,
                           "the same time Σ lr"))  # fmt: skip
    vanished = [one.vanished for one in flows]
    then = [one.trained_then for one in flows if one.trained_then is not None]
    note = "it does not vanish within the run"
    if then:
        note = f"in the factors it is then {shown(ends_of(then))}, and never 0"
    found.append(
        over_runs(f"tick at which singular value r + 1 of the flow is 0, L = {depth}", vanished, note)
    )
    found.append(over_runs(f"distance of flow and factors at the end, relative, L = {depth}",
                            [one.distance for one in flows],
                            "energy of the flow over that of the factors, less 1: "
                            + shown(ends_of([one.energy_gap for one in flows]))))  # fmt: skip
    return found


def tolerance_findings(flows: Sequence[FlowReading], finer: Sequence[FlowReading]) -> list[Finding]:
    """The same flows with a smaller tolerance of their steps."""
    found = []
    for other in finer:
        one = next(flow for flow in flows if (flow.depth, flow.seed) == (other.depth, other.seed))
        change = float(np.max(np.abs(one.ranks / other.ranks - 1)))
        found.append(
            Finding(f"effective rank of the flow at a tenth of the tolerance, L = {one.depth}", change, None,
                    f"largest relative change; {one.accepted} and {other.accepted} steps", 2)
        )  # fmt: skip
    return found


def over_runs(name: str, values: Sequence[float | None], note: str) -> Finding:
    known = [value for value in values if value is not None]
    missing = f"; {len(values) - len(known)} of {len(values)} not there" if len(known) < len(values) else ""
    middle = float(np.median(known)) if known else None
    return Finding(name, middle, ends_of(known) if known else None, f"median and range, {note}{missing}", 3)


def long_findings(readings: Sequence[Reading]) -> list[Finding]:
    """The tails of runs that go on five times as long, one line for each quantity."""
    found = []
    for depth in sorted({one.depth for one in readings}):
        group = [one for one in readings if one.depth == depth]
        for name in group[0].tails:
            tails = [tail for one in group if (tail := one.tails[name]) is not None]
            states = [tail.state for tail in tails]
            theta = ends_of([tail.theta for tail in tails])
            ratios = ends_of(
                [tail.power.prediction_error / tail.exponential.prediction_error for tail in tails]
            )
            ticks = group[0].decay * group[0].times[-1]
            said = ", ".join(f"{state} in {states.count(state)}" for state in dict.fromkeys(states))
            found.append(
                Finding(f"tail of the {name} up to Σ lr × decay = {ticks:.3g}, L = {depth}",
                        f"{said} of {len(group)} runs", None,
                        f"held-out error of the power over that of the exponential {shown(ratios)}; θ of the power "
                        f"{shown(theta)}")
            )  # fmt: skip
        found.append(over_runs(f"rate of decay of singular value r + 1 over the decay in the longer runs, L = {depth}",
                               [one.tail_rate for one in group], "over the whole tail"))  # fmt: skip
    return found
