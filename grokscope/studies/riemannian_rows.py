"""What was predicted of norm minimisation on the interpolators, row by row, each with its rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
CONVEX = 0.1
"""Largest relative distance from the minimum of the convex problem at which the end counts as that minimum."""
REPORTED = {"diagonal": "diagonal_linear", "completion": "matrix_completion"}
"""Experiments that end at a convex minimum → what the paper reported of them."""
STATIONARY = 0.05
"""Largest share of the weights along the manifold at which the end counts as a point of stationary norm."""
COLLAPSED = (0.3, 4.5)
"""Range of λt over which curves are compared."""


def predicted(place: int) -> str:
    """A prediction of the paper, in its words."""
    return published("riemannian")["predictions"][place]


def decays_of(readings: Sequence[Reading]) -> list[float]:
    """The decays above 0, largest first."""
    return sorted({one.decay for one in readings if one.decay > 0}, reverse=True)


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
            _verdict(ends[0] >= 1 - CLOSE and ends[1] <= 1 + CLOSE, ends[1] < 1 - CLOSE or ends[0] > 1 + CLOSE),
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
    end = last.interval[1] if last.interval else last.scaled
    low = last.interval[0] if last.interval else last.scaled
    row = Row(
        f"{words}: spread of the weights in λt at decays {pair[0]:g} and {pair[1]:g}", f"0: {predicted(2)}",
        last.scaled, last.interval, _verdict(end <= ONE_CURVE, low > ONE_CURVE),
        f"0: one curve, 1: unrelated; λt from {last.low:g} to {last.high:g}; agrees: the interval over seeds is at "
        f"most {ONE_CURVE:g}" + (f"; in t itself {last.plain:.3g}" if last.plain is not None else
                            "; in t itself they share no such stretch"),
    )  # fmt: skip
    findings = [
        Finding(f"{words}: spread in λt at decays {a:g} and {b:g}", one.scaled, one.interval, "weights, as above")
        for (a, b), one in rest
    ]  # fmt: skip
    return [row], findings


def drift_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """Direction and speed within the slow phase: the smallest decay as rows, the others as findings."""
    rows: list[Row] = []
    findings: list[Finding] = []
    smallest = decays_of(readings)[-1]
    for decay in decays_of(readings):
        group = [one for one in readings if one.decay == decay]
        cosines = [one.cosine for one in group if one.cosine is not None]
        speeds = [one.speed for one in group if one.speed is not None]
        note = f"median over λt from {SLOW[0]:g} to {SLOW[1]:g}, median and range over {len(cosines)} seeds"
        if not cosines or not speeds:
            continue
        ends, limits = (min(cosines), max(cosines)), (min(speeds), max(speeds))
        names = [f"{words}: {what} at decay {decay:g}" for what in ("drift cosine with −P w", "drift speed")]
        if decay != smallest:
            for name, values, end in ((names[0], cosines, ends), (names[1], speeds, limits)):
                findings.append(Finding(name, float(np.median(values)), end, note, 5))
            continue
        rank = _rank_words(group)
        rows.append(Row(
            names[0], f"1: {predicted(0)}", float(np.median(cosines)), ends,
            _verdict(ends[0] >= ALONG, ends[1] < ALONG),
            f"{note}; agrees: at least {ALONG:g} for all; {rank}", digits=5,
        ))  # fmt: skip
        rows.append(Row(
            names[1], f"1: {predicted(0)}", float(np.median(speeds)), limits,
            _verdict(limits[0] >= 1 - SPEED and limits[1] <= 1 + SPEED,
                     limits[1] < 1 - SPEED or limits[0] > 1 + SPEED),
            f"over λ|P w|, discrete updates counted; {note}; agrees: within {SPEED:g} of 1 for all; {rank}", digits=5,
        ))  # fmt: skip
    return rows, findings


def junction_rows(readings: Sequence[Reading], words: str) -> list[Row]:
    """Time of the junction on −ln λ at the two smallest decays: its slope, and the power of 1/λ that it would have.

    At a large decay the junction lies at the very beginning, where nothing has relaxed yet.
    """
    powers, slopes = [], []
    last = decays_of(readings)[-2:]
    for seed in sorted({one.seed for one in readings}):
        group = [one for one in readings if one.seed == seed and one.decay in last]
        ends = [(one.decay, one.junction_times) for one in group]
        known = [(decay, end) for decay, end in ends if end is not None and end[1] > 0]
        if len(known) < len(group) or len(known) < 2:
            continue
        logs = np.array([-math.log(decay) for decay, _ in known])
        middles = np.array([(low + high) / 2 for _, (low, high) in known])
        slopes.append(_slope(logs, middles))
        powers.append(_slope(logs, np.log(middles)))
    if not powers:
        return []
    limits = (min(powers), max(powers))
    return [Row(
        f"{words}: power of 1/λ in the time of the junction, decays {last[0]:g} and {last[-1]:g}",
        f"0: {predicted(1)}", float(np.median(powers)), limits,
        _verdict(limits[1] < LOGARITHMIC, limits[0] >= LOGARITHMIC),
        f"slope on −ln λ {np.median(slopes):.3g} ({min(slopes):.3g} to {max(slopes):.3g}) in Σ lr; median and range "
        f"over {len(powers)} seeds; agrees: under {LOGARITHMIC:g} for all, where a time of order 1/λ has 1",
    )]  # fmt: skip


def flow_finding(readings: Sequence[Reading], words: str) -> list[Finding]:
    """How the distance from the run without decay goes with λ, at the last time that all share."""
    powers = []
    for seed in sorted({one.seed for one in readings}):
        group = {one.decay: one for one in readings if one.seed == seed}
        if 0.0 not in group or len(group) < 3:
            continue
        common = sorted(set.intersection(*(set(one.steps.tolist()) for one in group.values())))
        step = common[len(common) // 2]
        at = {decay: one.weights[np.searchsorted(one.steps, step)] for decay, one in group.items()}
        decays = sorted(decay for decay in group if decay > 0)
        distances = [float(np.linalg.norm(at[decay] - at[0.0])) for decay in decays]
        powers.append(_slope(np.log(decays), np.log(distances)))
    if not powers:
        return []
    return [Finding(
        f"{words}: power of λ in the distance to the run without decay", float(np.median(powers)),
        (min(powers), max(powers)),
        "at the same step, the middle one of those saved in all; above 0: the fast phase converges to that run, 1: in "
        f"proportion to λ; median and range over {len(powers)} seeds",
    )]  # fmt: skip


def end_rows(readings: Sequence[Reading], words: str) -> tuple[list[Row], list[Finding]]:
    """Whether the end has a norm that is stationary on the manifold, and how far it is from a convex minimum."""
    smallest = decays_of(readings)[-1]
    group = [one for one in readings if one.decay == smallest]
    shares: list[float] = [one.tangent_share[1] for one in group]
    ends = (min(shares), max(shares))
    rows = [
        Row(
            f"{words}: share of the weights along the manifold at the end, decay {smallest:g}",
            "0: a KKT point of the norm",
            float(np.median(shares)), ends, _verdict(ends[1] <= STATIONARY, ends[0] > STATIONARY),
            f"it was {np.median([one.tangent_share[0] for one in group]):.3g} at the start; what only decays is left "
            f"with {math.exp(-_ticks(group)):.2g} of its size; agrees: at most {STATIONARY:g} for all",
        )
    ]  # fmt: skip
    findings = []
    for decay in decays_of(readings):
        same = [one for one in readings if one.decay == decay]
        for name in same[0].ends:
            values = [one.ends[name] for one in same]
            said, ends = (
                f"{words}: distance of the end from the {name}, decay {decay:g}",
                (min(values), max(values)),
            )
            note = f"relative; median and range over {len(values)} seeds"
            if decay != smallest:
                findings.append(Finding(said, float(np.median(values)), ends, note))
                continue
            rows.append(Row(
                said, f"0: {published('riemannian')['experiments'][REPORTED[same[0].experiment]]['reported']}",
                float(np.median(values)), ends, _verdict(ends[1] <= CONVEX, ends[0] > CONVEX),
                f"{note}; agrees: at most {CONVEX:g} for all, with what decay has not taken away by then",
            ))  # fmt: skip
        errors = [float(one.error_test[-1]) for one in same]
        findings.append(Finding(
            f"{words}: test error at the end, decay {decay:g}", float(np.median(errors)), (min(errors), max(errors)),
            f"relative squared error; median and range over {len(errors)} seeds",
        ))  # fmt: skip
    return rows, findings


def rank_finding(readings: Sequence[Reading], words: str) -> Finding:
    """Whether the rank of the Jacobian held after the junction, in how many runs."""
    decayed = [one for one in readings if one.decay > 0]
    held = sum(one.ranks[0] == one.ranks[1] for one in decayed)
    return Finding(
        f"{words}: runs whose rank holds after the junction", f"{held} of {len(decayed)}", None,
        f"{_rank_words(decayed)}; singular values of at least 1e-8 of the largest",
    )  # fmt: skip


def _rank_words(group: Sequence[Reading]) -> str:
    low, high = min(one.ranks[0] for one in group), max(one.ranks[1] for one in group)
    return f"rank {low} throughout" if low == high else f"the rank moved between {low} and {high}"


def _ticks(group: Sequence[Reading]) -> float:
    return min(one.decay * float(one.times[-1]) for one in group)


def _slope(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    return float(np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)[0])


def _verdict(agrees: bool, differs: bool) -> str:
    return "agrees" if agrees else "differs" if differs else "cannot tell"
