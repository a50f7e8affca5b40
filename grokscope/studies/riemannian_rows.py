"""What was predicted of norm minimisation on the interpolators, row by row, each with its rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from grokscope.measures.collapse import Collapse, collapse
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row
from grokscope.studies.riemannian_readings import SLOW, Reading, of

EXACT = 1e-10
"""Largest relative difference from the closed form that counts as rounding."""
CLOSE = 0.1
"""Largest distance from 1 of the junction's time over the closed form."""
ONE_CURVE = 0.1
"""Largest spread between the two smallest decays at which their curves count as one."""
ALONG = 0.95
"""Least cosine at which the motion counts as along the prediction."""
SPEED = 0.1
"""Largest distance of the speed ratio from 1."""
LOGARITHMIC = 0.5
"""Power of 1/λ that the junction must stay under: a logarithm grows slower than any, 1/λ itself has power 1."""
FIRST_ORDER = 0.5
"""Least power of λ in the distance to the run without decay at which it counts as vanishing with λ."""
_TINY = 1e-12
EARLY = 0.1
"""λt of the larger decay up to which runs are compared with the one without."""
COLLAPSED = (0.3, 4.5)
"""Range of λt over which curves are compared."""


def predicted(place: int) -> str:
    """A prediction of the paper, in its words."""
    return published("riemannian")["predictions"][place]


def decays_of(readings: Sequence[Reading]) -> list[float]:
    """The decays above 0, largest first."""
    return sorted({one.decay for one in readings if one.decay > 0}, reverse=True)


def judged(readings: Sequence[Reading]) -> list[float]:
    """The decays that rows speak of: those of the paper that were run, the smallest where none was."""
    theirs = {one["lambda"] for one in published("riemannian")["experiments"].values()}
    found = decays_of(readings)
    return [decay for decay in found if decay in theirs] or found[-1:]


def over_seeds(count: int) -> str:
    """What the interval is: the range of the seeds, and how surely that holds the median."""
    if count == 1:
        return "one seed"
    return f"range of {count} seeds ({100 * (1 - 2.0 ** (1 - count)):.0f} %)"


def exact_rows(readings: Sequence[Reading], words: str) -> list[Row]:
    """The weights of every save against the closed form, and the junction of the flow within that of the run."""
    known = [one for one in readings if one.exact is not None]
    if not known:
        return []
    worst = max(one.exact[0] for one in known if one.exact)
    rows = [
        Row(
            f"{words}: largest difference from the closed form, over the largest weight", predicted(3), worst, None,
            "agrees" if worst <= EXACT else "differs",
            f"over all saves of {len(known)} runs; agrees: at most {EXACT:g}",
        )
    ]  # fmt: skip
    ratios = [
        (one.junction_times[0] + one.junction_times[1]) / 2 / one.exact[1]
        for one in known
        if one.exact and one.exact[1] and one.junction_times
    ]
    if ratios:
        ends = (min(ratios), max(ratios))
        rows.append(Row(
            f"{words}: time of the junction over that of the flow", "1 (closed form)", float(np.median(ratios)), ends,
            verdict(ends[0] >= 1 - CLOSE and ends[1] <= 1 + CLOSE, ends[1] < 1 - CLOSE or ends[0] > 1 + CLOSE),
            f"the middle of its interval; median and range over {len(ratios)} runs; agrees: within {CLOSE:g} of 1 for "
            "all, which leaves room for the spacing of saves and for updates of finite length",
        ))  # fmt: skip
    return rows


def collapses(readings: Sequence[Reading]) -> dict[tuple[float, float], Collapse]:
    """Of the weights themselves, for every two neighbouring decays, largest first."""
    found = {}
    for larger, smaller in pairwise(decays_of(readings)):
        groups = [of(readings, readings[0].experiment, decay) for decay in (larger, smaller)]
        seeds = set.intersection(*({one.seed for one in group} for group in groups))
        groups = [[one for one in group if one.seed in seeds] for group in groups]
        found[larger, smaller] = collapse(
            [group[0].times for group in groups],
            [np.stack([one.weights for one in group]) for group in groups],
            [larger, smaller],
            *COLLAPSED,
        )
    return found


def collapse_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """The two smallest decays as a row, the others as findings."""
    found = collapses(readings)
    if not found:
        return [], []
    (pair, last), rest = list(found.items())[-1], list(found.items())[:-1]
    low, end = last.interval or (0.0, math.inf)
    plain = "over t they share no such stretch" if last.plain is None else f"over t instead {last.plain:.3g}"
    rank = rank_words([one for one in readings if one.decay in pair])
    row = Row(
        f"{words}: spread of the weights in λt at decays {pair[0]:g} and {pair[1]:g}", f"0: {predicted(2)}",
        last.scaled, last.interval, verdict(end <= ONE_CURVE, low > ONE_CURVE),
        f"0: one curve, 1: unrelated; λt from {last.low:g} to {last.high:g}; agrees: the interval over seeds is at "
        f"most {ONE_CURVE:g}, which takes three seeds; {plain}; {rank}",
    )  # fmt: skip
    findings = [
        Finding(f"{words}: spread in λt at decays {a:g} and {b:g}", one.scaled, one.interval, "weights, as above")
        for (a, b), one in rest
    ]  # fmt: skip
    return [row], findings


def drift_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """Direction and speed within the slow phase: the paper's decays as rows, the others as findings."""
    rows: list[Row] = []
    findings: list[Finding] = []
    for decay in decays_of(readings):
        group = [one for one in readings if one.decay == decay]
        cosines = [one.cosine for one in group if one.cosine is not None]
        speeds = [one.speed for one in group if one.speed is not None]
        if not cosines or not speeds:
            continue
        note = f"median over λt from {SLOW[0]:g} to {SLOW[1]:g}; {over_seeds(len(cosines))}"
        ends, limits = (min(cosines), max(cosines)), (min(speeds), max(speeds))
        names = [f"{words}: {what} at decay {decay:g}" for what in ("drift cosine with −P w", "drift speed")]
        if decay not in judged(readings):
            for name, values, end in ((names[0], cosines, ends), (names[1], speeds, limits)):
                findings.append(Finding(name, float(np.median(values)), end, note, 5))
            continue
        rank = rank_words(group)
        rows.append(Row(
            names[0], f"1: {predicted(0)}", float(np.median(cosines)), ends,
            verdict(ends[0] >= ALONG, ends[1] < ALONG),
            f"{note}; agrees: at least {ALONG:g} for all; {rank}", digits=5,
        ))  # fmt: skip
        rows.append(Row(
            names[1], f"1: {predicted(0)}", float(np.median(speeds)), limits,
            near(limits, 1, SPEED),
            f"over λ|P w|, discrete updates counted; {note}; agrees: within {SPEED:g} of 1 for all; {rank}", digits=5,
        ))  # fmt: skip
    return rows, findings


Timed = tuple[float, tuple[float, float]]
"""A decay, and the ends of an event in time."""
Times = Callable[[Reading], tuple[float, float] | None]
"""The ends of an event in time, ``None`` where it did not happen."""


def powers_of(readings: Sequence[Reading], times: Times) -> list[tuple[float, float, float]]:
    """Of 1/λ in a time between the two smallest decays, seed by seed: lowest, middle, highest.

    The ends are those that the intervals between saves allow.
    """
    return [powers_between(*both) for both in pairs_of(readings, times)]


def powers_between(first: Timed, second: Timed) -> tuple[float, float, float]:
    """The power of 1/λ in a time from its ends at a larger and at a smaller decay: lowest, middle, highest."""
    width = math.log(first[0] / second[0])
    (low, high), (after, by) = first[1], second[1]
    ratios = max(after, _TINY) / high, (after + by) / (low + high), by / max(low, _TINY)
    return tuple(math.log(ratio) / width for ratio in ratios)  # pyright: ignore[reportReturnType]


def pairs_of(
    readings: Sequence[Reading], times: Times, decays: tuple[float, float] | None = None
) -> list[tuple[Timed, Timed]]:
    """(decay, ends of the event) at the larger and the smaller of two decays, for seeds that have both."""
    found: list[tuple[Timed, Timed]] = []
    last = decays or tuple(decays_of(readings)[-2:])
    for seed in sorted({one.seed for one in readings}):
        known: list[Timed] = []
        for decay in last:
            for one in readings:
                ends = times(one) if (one.seed, one.decay) == (seed, decay) else None
                if ends is not None and ends[1] > 0:
                    known.append((decay, ends))
        if len(known) == 2:
            found.append((known[0], known[1]))
    return found


def junction_of(one: Reading) -> tuple[float, float] | None:
    """The ends of the junction in time."""
    return one.junction_times


def junction_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """Time of the junction over −ln λ: the power of 1/λ that it would have, and its slope.

    At a large decay the junction lies at the very beginning, where nothing has relaxed yet: rows are about the two
    smallest decays.
    """
    powers = powers_of(readings, junction_of)
    if not powers:
        return [], []
    last = decays_of(readings)[-2:]
    limits = (min(low for low, _, _ in powers), max(high for *_, high in powers))
    rows = [Row(
        f"{words}: power of 1/λ in the time of the junction, decays {last[0]:g} and {last[-1]:g}",
        f"0: {predicted(1)}", float(np.median([middle for _, middle, _ in powers])), limits,
        verdict(limits[1] < LOGARITHMIC, limits[0] >= LOGARITHMIC),
        f"{over_seeds(len(powers))}, the spacing of saves counted; agrees: under {LOGARITHMIC:g} for all, where a time "
        "of order 1/λ has 1",
    )]  # fmt: skip
    findings: list[Finding] = []
    for pair in pairwise(decays_of(readings)):
        slopes = [_slope_between(*both) for both in pairs_of(readings, junction_of, pair)]
        if not slopes:
            continue
        findings.append(Finding(
            f"{words}: slope of the junction on −ln λ, decays {pair[0]:g} and {pair[1]:g}",
            float(np.median([middle for _, middle, _ in slopes])),
            (min(low for low, _, _ in slopes), max(high for *_, high in slopes)),
            f"in Σ lr; {over_seeds(len(slopes))}, the spacing of saves counted; a logarithm has one slope at all "
            "decays, and at small ones it is 1 over the smallest curvature that is not 0",
        ))  # fmt: skip
    return rows + _solved_slope(readings, words), findings


def _slope_between(first: Timed, second: Timed) -> tuple[float, float, float]:
    width = math.log(first[0] / second[0])
    (low, high), (after, by) = first[1], second[1]
    return (after - high) / width, (after + by - low - high) / 2 / width, (by - low) / width


def _solved_slope(readings: Sequence[Reading], words: str) -> list[Row]:
    """The slope between the two smallest decays over that of the closed form, where there is one."""

    def solved(one: Reading) -> tuple[float, float] | None:
        at = None if one.exact is None else one.exact[1]
        return None if at is None else (at, at)

    ours, theirs = pairs_of(readings, junction_of), pairs_of(readings, solved)
    if not theirs or len(ours) != len(theirs):
        return []
    expected = [_slope_between(*both)[1] for both in theirs]
    ratios = [
        tuple(one / slope for one in _slope_between(*both))
        for both, slope in zip(ours, expected, strict=True)
    ]
    limits = (min(low for low, _, _ in ratios), max(high for *_, high in ratios))
    middles = [middle for _, middle, _ in ratios]
    return [Row(
        f"{words}: slope of the junction on −ln λ over that of the flow", "1 (closed form)",
        float(np.median(middles)), limits,
        verdict(limits[0] <= 1 <= limits[1] and all(abs(one - 1) <= CLOSE for one in middles),
                all(abs(one - 1) > CLOSE for one in middles)),
        f"decays {', '.join(f'{decay:g}' for decay in decays_of(readings)[-2:])}; the flow's slope is "
        f"{np.median(expected):.4g} in Σ lr; {over_seeds(len(ratios))}, the spacing of saves counted; agrees: the "
        f"middle of the intervals is within {CLOSE:g} of 1 for all",
    )]  # fmt: skip


def flow_rows(readings: Sequence[Reading], words: str) -> list[Row]:
    """How the distance from the run without decay goes with λ between the two smallest decays, at a fixed time."""
    last = decays_of(readings)[-2:]
    if len(last) < 2:
        return []
    powers, when = [], 0.0
    for seed in sorted({one.seed for one in readings}):
        group = {one.decay: one for one in readings if one.seed == seed and one.decay in (*last, 0.0)}
        if len(group) < 3:
            continue
        common = sorted(set.intersection(*(set(one.steps.tolist()) for one in group.values())))
        rate = group[0.0].rate
        step = max(step for step in common if last[0] * rate * step <= EARLY)
        at = {decay: one.weights[np.searchsorted(one.steps, step)] for decay, one in group.items()}
        distances = [float(np.linalg.norm(at[decay] - at[0.0])) for decay in last]
        powers.append(math.log(distances[0] / distances[1]) / math.log(last[0] / last[1]))
        when = rate * step
    if not powers:
        return []
    ends = (min(powers), max(powers))
    return [Row(
        f"{words}: power of λ in the distance to the run without decay, decays {last[0]:g} and {last[1]:g}",
        "1: the fast phase is the flow without decay, to first order in λ", float(np.median(powers)), ends,
        verdict(ends[0] >= FIRST_ORDER, ends[1] < FIRST_ORDER),
        f"at t = {when:.3g}, the last common save with λt of at most {EARLY:g} at the larger decay; "
        f"{over_seeds(len(powers))}; agrees: at least {FIRST_ORDER:g} for all",
    )]  # fmt: skip


def rank_words(group: Sequence[Reading]) -> str:
    """Between which ranks the Jacobian moved."""
    low, high = min(one.ranks[0] for one in group), max(one.ranks[1] for one in group)
    return f"rank {low} throughout" if low == high else f"the rank moved between {low} and {high}"


def near(ends: tuple[float, float], value: float, allowed: float) -> str:
    """*Agrees* where all are within ``allowed`` of ``value``, *differs* where all are outside on one side."""
    low, high = ends
    inside = low >= value - allowed and high <= value + allowed
    return verdict(inside, high < value - allowed or low > value + allowed)


def verdict(agrees: bool, differs: bool) -> str:
    """One of three words."""
    return "agrees" if agrees else "differs" if differs else "cannot tell"
