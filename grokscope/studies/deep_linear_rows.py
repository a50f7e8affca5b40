"""What was published of the two clocks beside matrix completion, row by row, each with its rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from grokscope.studies.deep_linear_readings import LEVELS, Reading
from grokscope.studies.premises import KEPT, logarithmic_verdict
from grokscope.studies.published import published
from grokscope.studies.result import Interval, Row

Ratio = tuple[float | None, float | None, float | None]

WAITS = "constant: the rank waits for 1/(lr × decay)"
CONSTANT = 0.1
"""Largest relative change of a clock that counts as constant."""
IDENTITY = 0.01
"""Largest balance gap, over the summed squared norms, at which the Schatten identity counts as reached."""


def decades(readings: Sequence[Reading]) -> list[tuple[float, float]]:
    """First and last decay of every decade that was run whole."""
    known = sorted({one.decay for one in readings})
    last = {first: max(decay for decay in known if decay <= 10.001 * first) for first in known}
    return [(first, end) for first, end in last.items() if end >= 9.999 * first]


def matched_ratios(
    readings: Sequence[Reading], ends: Callable[[Reading], tuple[float | None, float | None]]
) -> list[Ratio]:
    """(ratio, low, high) of the largest over the smallest time of every seed.

    The ends follow from those of the crossings. ``None`` where a time is not bounded.
    """
    found: list[Ratio] = []
    for seed in sorted({one.seed for one in readings}):
        times = [ends(one) for one in readings if one.seed == seed]
        bounded = [(low, high) for low, high in times if low is not None and high is not None]
        if len(bounded) < len(times):
            found.append((None, None, None))
            continue
        middles = [(low + high) / 2 for low, high in bounded]
        pairs = [
            (high, low) for i, (_, high) in enumerate(bounded) for j, (low, _) in enumerate(bounded) if i != j
        ]
        widest = max((high / low for high, low in pairs), default=1.0)
        narrowest = max(low for low, _ in bounded) / min(high for _, high in bounded)
        found.append((max(middles) / min(middles), max(1.0, narrowest), widest))
    return found


def constant_row(quantity: str, claim: str, ratios: Sequence[Ratio], note: str) -> Row:
    """The largest ratio over seeds. *Agrees* where all of its interval is within a tenth of 1."""
    known = [ratio for ratio in ratios if ratio[0] is not None]
    if not known or len(known) < len(ratios):
        why = f"{len(ratios) - len(known)} of {len(ratios)} are not bounded within the runs"
        return Row(quantity, claim, None, None, "cannot tell", f"{why}; {note}")
    worst = max(ratio[0] or 1.0 for ratio in known)
    low, high = max(ratio[1] or 1.0 for ratio in known), max(ratio[2] or math.inf for ratio in known)
    verdict = "agrees" if high <= 1 + CONSTANT else "differs" if low > 1 + CONSTANT else "cannot tell"
    return Row(
        quantity, claim, worst, (low, high), verdict,
        f"the largest over {len(known)} matched seeds, ends from the spacing of the saves; agrees: all of the interval "
        f"is at most {1 + CONSTANT:g}; {note}", digits=4,
    )  # fmt: skip


def fit_rows(depth: int, readings: Sequence[Reading]) -> list[Row]:
    """The fit does not depend on the decay, decade by decade."""
    rows = []
    for first, last in decades(readings):
        group = [one for one in readings if first <= one.decay <= last]
        steps = ends_of([middle((one.fit.after, one.fit.by)) for one in group])
        rows.append(constant_row(
            f"fit clock at decays {first:g} to {last:g}, largest over smallest, L = {depth}",
            f"{theory('classifier_clock')}, without the decay in it",
            matched_ratios(group, lambda one: (one.fit.after, one.fit.by)), f"fitted at steps {shown(steps)}",
        ))  # fmt: skip
    return rows


def rank_rows(depth: int, readings: Sequence[Reading]) -> list[Row]:
    """Steps × rate × decay is constant, decade by decade."""
    rows = []
    for first, last in decades(readings):
        group = [one for one in readings if first <= one.decay <= last]
        ticks = ends_of([middle(one.ticks(one.rank)) for one in group])
        rows.append(constant_row(
            f"rank clock: steps × lr × decay at decays {first:g} to {last:g}, largest over smallest, L = {depth}",
            WAITS, matched_ratios(group, lambda one: one.ticks(one.rank)), f"it is {shown(ticks)} over seeds",
        ))  # fmt: skip
    return rows


def rate_rows(at: tuple[int, float], readings: Sequence[Reading]) -> list[Row]:
    """The same clock at another learning rate."""
    group = [one for one in readings if (one.depth, one.decay, one.init) == (*at, 1.0)]
    rates = sorted({one.rate for one in group})
    if len(rates) < 2:
        return []
    return [constant_row(
        f"rank clock: steps × lr × decay at rates {rates[0]:g} to {rates[-1]:g}, largest over smallest, "
        f"L = {at[0]}",
        WAITS, matched_ratios(group, lambda one: one.ticks(one.rank)), f"decay {at[1]:g}",
    )]  # fmt: skip


def identity_row(depth: int, readings: Sequence[Reading]) -> Row:
    """Summed squared norms against L times the Schatten power at the end."""
    last = [float(one.gaps[-1]) for one in readings]
    worst = max(last)
    first = ends_of([float(one.gaps[0]) for one in readings])
    return Row(
        f"summed squared norms less L Σσ^(2/L) at the end, relative, L = {depth}",
        f"0: {theory('schatten')}", worst, (min(last), worst), "agrees" if worst <= IDENTITY else "differs",
        f"largest of {len(last)} runs and its range; agrees: at most {IDENTITY:g}; at the start {shown(first)}",
        digits=3,
    )  # fmt: skip


def tail_row(depth: int, readings: Sequence[Reading], long: Sequence[Reading] = ()) -> Row:
    """Is what is left after the rank was reached a power of time?

    *Agrees*: a power with θ in (1/2, 1) predicts better in most of the tails; *differs*: the exponential does.
    *Cannot tell* also where ``long``, runs of another length, have another kind of tail.
    """
    tails = [(name, tail) for one in readings for name, tail in one.tails.items()]
    states = ["too short" if tail is None else tail.state for _, tail in tails]
    counts = {state: states.count(state) for state in ("exponential", "power", "cannot tell", "too short")}
    theta = [
        tail.theta
        for _, tail in tails
        if tail is not None and tail.state == "power" and tail.theta is not None
    ]
    inside = [value for value in theta if 0.5 < value < 1]
    verdict = "cannot tell"
    if counts["exponential"] > len(tails) / 2:
        verdict = "differs"
    elif len(inside) > len(tails) / 2:
        verdict = "agrees"
    longer = [tail.state for one in long for tail in one.tails.values() if tail is not None]
    expected = {"agrees": "power", "differs": "exponential"}.get(verdict)
    confirmed = longer.count(expected) if expected else 0
    if longer and expected and confirmed <= len(longer) / 2:
        verdict = "cannot tell"
    said = ", ".join(f"{state} in {count}" for state, count in counts.items() if count)
    kinds = "; ".join(
        f"{name}: " + ", ".join(
            f"{state} {count}" for state in ("exponential", "power", "cannot tell")
            if (count := sum(t is not None and t.state == state for n, t in tails if n == name))
        )
        for name in dict.fromkeys(name for name, _ in tails)
    )  # fmt: skip
    note = f"held-out prediction after the rank was reached, limits fitted jointly; {kinds}"
    note += f"; θ of the powers {shown(ends_of(theta))}" if theta else "; θ is not identified"
    if longer and expected:
        note += f"; of {len(longer)} tails of longer runs {confirmed} are of this kind"
    return Row(
        f"tail of the representation clock, L = {depth}", theory("representation_clock"),
        f"{said} of {len(tails)} tails", ends_of(theta) if theta else None, verdict, note,
    )  # fmt: skip


def level_row(readings: Sequence[Reading]) -> Row:
    """T_cls(ε) on log(1/ε) beside log T_cls on log(1/ε), with the premise that the loss contracts at one rate."""
    kinds = [one.clock.preferred for one in readings]
    most = max(("logarithmic", "power", "cannot tell"), key=kinds.count)
    lines = [
        line for one in readings if one.clock.preferred == most and (line := getattr(one.clock, most, None))
    ]
    slopes = ends_of([line.slope for line in lines]) if lines else None
    kept = [one.contraction_kept for one in readings if one.contraction_kept is not None]
    held = [one for one in readings if one.contraction_kept is not None and one.contraction_kept >= KEPT]
    verdict = logarithmic_verdict([one.clock.preferred for one in held], len(readings))
    note = f"errors from {LEVELS[0]:.2g} to {LEVELS[-1]:.0e}; the loss keeps its rate of contraction in {len(held)} of "
    note += f"{len(readings)} runs"
    if kept:
        note += f" (later over earlier half {shown(ends_of(kept))})"
    if 2 * len(held) < len(readings):
        note += "; the claim says nothing about the others"
    said = f"{most} in {kinds.count(most)} of {len(kinds)} runs"
    if slopes is not None:
        said += f", T ∝ ε^-{shown(slopes)}" if most == "power" else f", {shown(slopes)} steps for a factor e"
    return Row("T_cls(ε) of completion on log(1/ε)", theory("classifier_clock"), said, slopes, verdict, note)


def theory(name: str) -> str:
    """What the paper states, in its words."""
    return published("two_clocks")["theory"][name]


def middle(ends: tuple[float | None, float | None]) -> float | None:
    """The middle of an event's interval, ``None`` where an end is open."""
    return None if ends[0] is None or ends[1] is None else (ends[0] + ends[1]) / 2


def ends_of(values: Sequence[float | None]) -> Interval:
    """The smallest and the largest of those that are known."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (None, None)


def shown(ends: Interval) -> str:
    """An interval in words."""
    low, high = ends
    if low is None or high is None:
        return "–"
    first, last = f"{low:.3g}", f"{high:.3g}"
    return first if first == last else f"{first} to {last}"
