"""The delay law on sparse parity (arXiv 2606.13753): a task without a Fourier solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.measures.censored import MedianInterval, as_bounds, median_interval
from grokscope.measures.crossings import Crossing
from grokscope.studies.clamp_grid import ALL, LEVEL, NORM_DIGITS
from grokscope.studies.delay_law_levers import Findings
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row, compared
from grokscope.studies.rows import median_row, ratio_of
from grokscope.studies.sweep import Arm, Bench, Log

PARITY = "sparse_parity"
"""Name under which the data of this part is saved."""
SEEDS = tuple(range(6))
REFERENCE = (30, 1000)
"""n and m of the arms that W_c is taken from and that are clamped."""
FREE = (REFERENCE, (30, 1500), (20, 1000))
RHO = (0.9, 1.3)
_ALLOWED = 0.1
K = TypeVar("K")

CHOSEN = (
    "Sparse parity: the published free arms with m = 600 and n = 40 are not run, since most of their seeds need more "
    "than 40 000 steps. All sample vectors differ, so that no test sample was trained on; the published ones are "
    "drawn with replacement."
)


@dataclass(frozen=True)
class Reached:
    """The grok steps of an arm, and the norm at each of them."""

    seeds: tuple[int, ...]
    crossings: tuple[Crossing, ...]
    norms: tuple[float, ...]

    @property
    def median(self) -> MedianInterval:
        """Of the grok step."""
        return median_interval(*as_bounds(self.crossings))

    def as_json(self) -> dict[str, Any]:
        """Seed by seed."""
        return {
            "seeds": list(self.seeds),
            "grok_90": [crossing.as_json() for crossing in self.crossings],
            "norm_at_grok": list(self.norms),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Reached:
        """What :meth:`as_json` wrote."""
        crossings = tuple(Crossing.from_json(ends) for ends in record["grok_90"])
        return cls(tuple(record["seeds"]), crossings, tuple(record["norm_at_grok"]))


def parity_arm(n: int, m: int, clamp: str = "") -> Arm:
    """Free runs on m sign vectors of n bits, or what ``clamp`` makes of them; ``clamp`` is "norm:rho"."""
    setup = published("sparse_parity")["setup"]
    overrides = [
        f'task={{name = "parity", n = {n}, k = {setup["k"]}, train = {m}, test = {setup["test"]}}}',
        'model={family = "feature-mlp", hidden = [512]}',
        'save.also=["norm.total"]',
        f"train.until={ALL} >= {LEVEL}",
    ]
    name = f"delay-law.parity.n{n}.m{m}"
    if not clamp:
        return Arm(f"{name}.free", "delay-law", tuple(overrides), SEEDS)
    norm, rho = clamp.split(":")
    overrides.append(f"intervene.clamp={{norm = {norm}, rho = {rho}, start = {setup['clamp_from']}}}")
    return Arm(f"{name}.norm{norm}.rho{rho}", "delay-law", tuple(overrides), SEEDS)


def sparse_parity(bench: Bench) -> Findings:
    """Free runs over n and m, then two held norms, beside the published medians."""
    facts = published("sparse_parity")
    free = _measured(bench, {(n, m): (parity_arm(n, m), f"n{n}.m{m}.free") for n, m in FREE})
    norms = free[REFERENCE].norms
    if not norms:
        raise GrokscopeError(
            f"reading the critical norm off {len(SEEDS)} free runs on sparse parity: none has grokked, expected one"
        )
    norm = round(float(np.median(norms)), NORM_DIGITS)
    held = {rho: parity_arm(*REFERENCE, f"{norm:.{NORM_DIGITS}f}:{rho:g}") for rho in RHO}
    clamped = _measured(bench, {rho: (arm, f"rho{rho:g}") for rho, arm in held.items()})
    rows: list[Row] = []
    findings: list[Finding] = []
    for cell in facts["free"]:
        found = free.get((cell["n"], cell["m"]))
        if found is None:
            continue
        where = f"sparse parity, n = {cell['n']}, m = {cell['m']}"
        rows.append(median_row(f"{where}: grok step, free", cell["T_grok_median"], found.median, tolerance=_ALLOWED,
                               note="10 % allowed"))  # fmt: skip
        value, ends = _mean(found.norms)
        rows.append(compared(f"{where}: mean norm at the grok step", cell["norm_at_grok_mean"], value, ends,
                             tolerance=0.03, note=f"3 % allowed; {len(found.norms)} runs that grokked"))  # fmt: skip
    for cell in facts["clamped"]:
        found = clamped[cell["rho"]]
        rows.append(median_row(f"sparse parity: grok step at ρ = {cell['rho']:g}", cell["T_grok_median"], found.median,
                               tolerance=_ALLOWED, note="10 % allowed"))  # fmt: skip
    theirs = {cell["rho"]: cell["T_grok_median"] for cell in facts["clamped"]}
    ratio, ends = ratio_of(clamped[RHO[1]].median, clamped[RHO[0]].median)
    rows.append(
        compared(f"sparse parity: T at ρ = {RHO[1]:g} over T at ρ = {RHO[0]:g}",
                 round(theirs[RHO[1]] / theirs[RHO[0]], 2), ratio, ends, tolerance=_ALLOWED, no_effect=1.0, digits=3,
                 note="10 % allowed; ends from those of the two medians")
    )  # fmt: skip
    findings.append(Finding("sparse parity: W_c", norm, (min(norms), max(norms)),
                            f"median and range of {len(norms)} free runs; published {facts['W_c']:g}"))  # fmt: skip
    data = {f"n{n}.m{m}.free": found.as_json() for (n, m), found in free.items()}
    data |= {f"rho{rho:g}": found.as_json() for rho, found in clamped.items()}
    return Findings(tuple(rows), tuple(findings), data)


def _measured(bench: Bench, arms: Mapping[K, tuple[Arm, str]]) -> dict[K, Reached]:
    """Of every arm and the name of its record: what the saved result holds, or its runs, trained."""
    known = {key: bench.earlier(arm, Reached.from_json, PARITY, name) for key, (arm, name) in arms.items()}
    bench.train_arms([arm for key, (arm, _) in arms.items() if known[key] is None])
    return {key: known[key] or reached(bench.logs(arm)) for key, (arm, _) in arms.items()}


def reached(logs: Sequence[Log]) -> Reached:
    """Grok steps and norms off the logs of an arm; a run that did not get there has a bound and no norm."""
    crossings = tuple(log.reached(ALL, LEVEL) for log in logs)
    norms = [
        log.at("norm.total", crossing.by)
        for log, crossing in zip(logs, crossings, strict=True)
        if crossing.by is not None
    ]
    return Reached(tuple(log.seed for log in logs), crossings, tuple(norms))


def _mean(norms: Sequence[float]) -> tuple[float | None, tuple[float, float] | None]:
    """The mean and its interval by Student's t, absent below three."""
    from scipy.special import stdtrit

    if not norms:
        return None, None
    middle = float(np.mean(norms))
    if len(norms) < 3:
        return middle, None
    half = float(stdtrit(len(norms) - 1, 0.975)) * float(np.std(norms, ddof=1)) / len(norms) ** 0.5
    return middle, (middle - half, middle + half)
