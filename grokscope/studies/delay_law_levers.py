"""Further parts of the delay law (arXiv 2606.13753): the learning rate as a lever, and two transformers.

Each part trains its own arms and returns rows and findings; the study joins them at scale full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from grokscope.measures.censored import MedianInterval
from grokscope.measures.resampling import cluster_weights, expanded_percentile
from grokscope.studies.clamp_grid import Control, Grid, Measured, Times, measure_grid
from grokscope.studies.result import Finding, Row, compared
from grokscope.studies.rows import fit_interval, median_row, ratio_of
from grokscope.studies.sweep import Arm, Bench, UnfinishedError
from grokscope.trajectory import Trajectory

P = 59
LEARNING_RATE, TRANSFORMER, LAYER_NORM = "learning_rate", "transformer", "layer_norm"
"""Names of the parts, under which their data is saved."""
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
LEVER_RHO = (0.85, 1.0, 1.15)
LEVER_SEEDS = tuple(range(8))
TRANSFORMER_RHO = (0.85, 0.95, 1.0)
"""At 1.15 the published median is 73 966 steps: 0.95, which was not published, gives the slope for a twentieth."""
TRANSFORMER_SEEDS = tuple(range(6))
TRANSFORMER_STEPS = 12000
LAYER_NORM_P = 53
LAYER_NORM_FRACTIONS = (0.25, 0.3, 0.4, 0.55)
LAYER_NORM_SEEDS = tuple(range(4))
_TRANSFORMER = 'family = "transformer", d_model = 128, n_heads = 4, d_mlp = 512, activation = "gelu"'
_EVERYTHING_DECAYS = "intervene.decay={}"
_ALLOWED = 0.03

CHOSEN = (
    "Transformers start as in the published code: every matrix as N(0, 1/fan_in), the position embedding ten times "
    "smaller. The modulus (53) and the train fractions of the one with LayerNorm are four of the published grid."
)


def start(p: int) -> str:
    """The published initial weights, as factors on ours: N(0, 1/d_model), with a head of N(0, 1/(classes + 1))."""
    d_model, d_mlp, classes = 128, 512, p + 1
    factors = {
        "position": 0.1,
        "'blocks.0.mlp.W_out'": (d_model / d_mlp) ** 0.5,
        "head": ((classes + 1) / d_model) ** 0.5,
    }
    return f"intervene.init={{{', '.join(f'{name} = {value!r}' for name, value in factors.items())}}}"


@dataclass(frozen=True)
class Findings:
    """Rows and findings of a part, and what they were computed from."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    data: dict[str, Any]


def rate_grid(rate: float) -> Grid:
    """The arms of one learning rate; at 1e-3 they are those of the dense grid."""
    if rate == RATES[0]:
        return Grid(LEVER_SEEDS, {P: LEVER_RHO})
    return Grid(LEVER_SEEDS, {P: LEVER_RHO}, extra=(f"train.lr={rate!r}",), label=f".lr{rate:g}")


def measure_rates(bench: Bench, dense: Measured) -> dict[float, Measured]:
    """Learning rate → its arms, held at ρ·W_c of the smallest rate, as published; those of that rate are of ``dense``.

    Raises UnfinishedError where one of the arms is not finished.
    """
    norm = dense.controls[P].critical_norm
    found = {RATES[0]: dense} | {
        rate: measure_grid(bench, rate_grid(rate), (LEARNING_RATE, f"lr{rate:g}"), norm) for rate in RATES[1:]
    }
    for rate, grid in found.items():
        lacking = [rho for rho in LEVER_RHO if (P, rho) not in grid.clamped]
        if lacking:
            raise UnfinishedError(
                f"at learning rate {rate:g} the runs at ρ = {lacking[0]:g} are not finished"
            )
    found[RATES[0]] = Measured(
        {P: dense.controls[P].of_seeds(LEVER_SEEDS)},
        {(P, rho): dense.clamped[P, rho].of_seeds(LEVER_SEEDS) for rho in LEVER_RHO},
    )
    return found


def rate_lever(bench: Bench, dense: Measured, facts: Mapping[str, Any]) -> Findings:
    """T over the learning rate at each held norm and free, beside T over the norm at each learning rate."""
    found = measure_rates(bench, dense)
    times = {(rate, rho): one for rate, grid in found.items() for (_, rho), one in grid.clamped.items()}
    times |= {(rate, 0.0): grid.controls[P].times for rate, grid in found.items()}
    lever = facts["lever"]
    least, most, free = (float(number) for number in re.findall(r"([0-9.]+)x", lever["learning_rate"])[:3])
    rows, findings = [], []
    medians = {place: one.median() for place, one in times.items()}
    drops = {rho: _drop(medians, rho) for rho in (0.0, *LEVER_RHO)}
    known = {rho: drop for rho, (drop, _) in drops.items() if rho and drop is not None}
    for words, number, pick in (("smallest", least, min), ("largest", most, max)):
        quantity = f"lever of the learning rate, {words} over ρ: T at 1e-3 over T at 8e-3"
        if known:
            rho = pick(known, key=lambda one: known[one])
            rows.append(
                compared(quantity, number, known[rho], drops[rho][1], tolerance=0.1, digits=3,
                         note=f"10 % allowed; at ρ = {rho:g} of {LEVER_RHO}; published up to ρ = 1.3")
            )  # fmt: skip
    rows.append(
        compared("lever of the learning rate, free", free, *drops[0.0], tolerance=0.1, digits=3,
                 note="10 % allowed; ends from those of the two medians")
    )  # fmt: skip
    told = facts["notes"][1]
    printed = re.findall(r"\d\.\d", told.split(":")[1])[: len(RATES)]
    refits = dict(zip(RATES, map(float, printed), strict=True))
    for rate in RATES:
        value, ends = ratio_of(medians[rate, LEVER_RHO[-1]], medians[rate, LEVER_RHO[0]])
        findings.append(Finding(f"lever of the norm at learning rate {rate:g}: T at ρ = 1.15 over T at ρ = 0.85",
                                value, ends, "ends from those of the two medians", 3))  # fmt: skip
        held = {(P, rho): times[rate, rho] for rho in LEVER_RHO}
        if sum(_some_grokked(one) for one in held.values()) > 1:
            fit = Measured({}, held).fit()
            note = f"{fit.n} runs, {fit.censored} of them bounds, ρ up to {LEVER_RHO[-1]:g}; {told}"
            rows.append(
                compared(f"α at learning rate {rate:g}", refits[rate], fit.alpha, fit_interval(fit), no_effect=0.0,
                         digits=3, note=note)
            )  # fmt: skip
        findings.append(_norm_at_grok(rate, found[rate].controls[P]))
    data = {f"lr{rate:g}": one.as_json() for rate, one in found.items()}
    return Findings(tuple(rows), tuple(findings), data)


def _norm_at_grok(rate: float, found: Control) -> Finding:
    return Finding(f"W_c at learning rate {rate:g}", found.critical_norm,
                   (found.interval.low, found.interval.high), f"{len(found.norms)} free runs that grokked")  # fmt: skip


def _some_grokked(times: Times) -> bool:
    return any(crossing.by is not None for crossing in times.all_pairs)


def _drop(
    medians: Mapping[tuple[float, float], MedianInterval], rho: float
) -> tuple[float | None, tuple[float | None, float | None]]:
    return ratio_of(medians[RATES[0], rho], medians[RATES[-1], rho])


def transformer_grid() -> Grid:
    """The un-normalised transformer: decay and clamp act on every parameter, the clamp from step 600."""
    extra = ("task.extra_classes=1", f"model={{{_TRANSFORMER}}}", _EVERYTHING_DECAYS, start(P), "train.lr=5e-4",
             f"train.steps={TRANSFORMER_STEPS}")  # fmt: skip
    return Grid(TRANSFORMER_SEEDS, {P: TRANSFORMER_RHO}, extra=extra, label=".transformer", start=600)


def plain_transformer(bench: Bench, facts: Mapping[str, Any]) -> Findings:
    """The law on a transformer without LayerNorm; what it does not reach within its budget is a bound."""
    theirs = facts["no_layernorm_transformer_p59"]
    found = measure_grid(bench, transformer_grid(), (TRANSFORMER,))
    held = found.controls[P]
    rows = [
        median_row("transformer without LayerNorm: W_c", theirs["W_c"], held.interval, tolerance=_ALLOWED,
                   note="3 % allowed"),
        median_row("transformer without LayerNorm: grok step, free", theirs["free"], held.times.median(),
                   tolerance=_ALLOWED, note="3 % allowed"),
    ]  # fmt: skip
    said = []
    known = dict(zip(theirs["rho"], theirs["T_grok_median"], strict=True))
    for (_, rho), times in found.clamped.items():
        words, middle = f"transformer without LayerNorm: grok step at ρ = {rho:g}", times.median()
        if rho in known:
            rows.append(
                median_row(words, known[rho], middle, tolerance=_ALLOWED,
                           note=f"3 % allowed; the budget is {TRANSFORMER_STEPS}")
            )  # fmt: skip
        else:
            said.append(Finding(words, middle.value, (middle.low, middle.high), "not published at this ρ", 4))
    ends = sorted(
        {float(rho) for p, rho in found.clamped if any(c.by for c in found.clamped[p, rho].all_pairs)}
    )
    if len(ends) > 1:
        fit = found.fit()
        rows.append(
            compared("transformer without LayerNorm: α", theirs["alpha"], fit.alpha, fit_interval(fit),
                     published_interval=tuple(theirs["ci"]), no_effect=0.0, digits=3,
                     note=f"{fit.n} runs, {fit.censored} of them bounds, at ρ = {TRANSFORMER_RHO}; published over "
                          f"{tuple(theirs['rho'])}")
        )  # fmt: skip
        alone = found.fit(unmirrored=True)
        said.append(
            Finding("transformer without LayerNorm: α on unmirrored test pairs alone", alone.alpha, fit_interval(alone),
                    f"{alone.n} runs, {alone.censored} of them bounds", 3)
        )  # fmt: skip
    said.append(Finding("transformer without LayerNorm: spread of W_c over seeds", held.spread, None,
                        f"standard deviation over mean of {len(held.norms)} free runs", 2))  # fmt: skip
    return Findings(tuple(rows), tuple(said), found.as_json())


def layer_norm_arms() -> dict[float, Arm]:
    """Train fraction → free runs of the transformer whose LayerNorm has no parameters that move."""
    found = {}
    for fraction in LAYER_NORM_FRACTIONS:
        extra = (
            "task.extra_classes=1",
            f"task.train_fraction={fraction!r}",
            f"model={{{_TRANSFORMER}, layer_norm = true, norm_gain = false, norm_bias = false}}",
            _EVERYTHING_DECAYS,
            start(LAYER_NORM_P),
        )
        grid = Grid(LAYER_NORM_SEEDS, {}, extra=extra, label=f".layer-norm.fraction{fraction:g}")
        found[fraction] = grid.free_arm(LAYER_NORM_P)
    return found


@dataclass(frozen=True)
class FreeRuns:
    """The free runs of one train fraction: grok steps, and of those that grokked the two norms."""

    times: Times
    totals: tuple[float, ...]
    heads: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Seed by seed."""
        return {**self.times.as_json(), "norm_at_grok": list(self.totals), "head_norm": list(self.heads)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FreeRuns:
        """What :meth:`as_json` wrote."""
        return cls(Times.from_json(record), tuple(record["norm_at_grok"]), tuple(record["head_norm"]))


def last_head_norms(bench: Bench, arm: Arm) -> list[float]:
    """Norm of the unembedding at the end of each run, which comes just after its grok step."""
    found = []
    for name, _ in arm.runs():
        with Trajectory(bench.workspace / "checkpoints" / name / "trajectory.h5") as stored:
            head = stored.read("unembed.W_U", np.asarray([len(stored.steps) - 1]))
        found.append(float(np.linalg.norm(np.asarray(head, np.float64))))
    return found


HeadNorms = Callable[[Bench, Arm], Sequence[float]]


def _free_runs(bench: Bench, arm: Arm, head_norms: HeadNorms) -> FreeRuns:
    logs = bench.logs(arm)
    times = Times.of(logs)
    reached = [crossing.by for crossing in times.all_pairs]
    totals = [log.at("norm.total", by) for log, by in zip(logs, reached, strict=True) if by is not None]
    norms = zip(head_norms(bench, arm), reached, strict=True)
    return FreeRuns(times, tuple(totals), tuple(norm for norm, by in norms if by is not None))


def layer_norm_transformer(bench: Bench, facts: Mapping[str, Any], head_norms: HeadNorms) -> Findings:
    """Do the total norm and that of the unembedding agree over train fractions when LayerNorm runs grok?"""
    printed = [float(number) for number in re.findall(r"\.\d+", facts["layernorm_transformer"])]
    (total_low, total_high), (head_low, head_high) = printed[:2], printed[2:4]
    arms = layer_norm_arms()
    found = {
        fraction: runs
        for fraction, arm in arms.items()
        if (runs := bench.earlier(arm, FreeRuns.from_json, LAYER_NORM, f"fraction{fraction:g}")) is not None
    }
    left = {fraction: arm for fraction, arm in arms.items() if fraction not in found}
    left = bench.ready(left, enough=bool(found))
    bench.train_arms(list(left.values()))
    found |= {fraction: _free_runs(bench, arm, head_norms) for fraction, arm in left.items()}
    found = dict(sorted(found.items()))
    totals = {fraction: runs.totals for fraction, runs in found.items()}
    heads = {fraction: runs.heads for fraction, runs in found.items()}
    data = {f"fraction{fraction:g}": runs.as_json() for fraction, runs in found.items()}
    late = sum(one.by is None for runs in found.values() for one in runs.times.all_pairs)
    note = f"over the train fractions {', '.join(f'{one:g}' for one in found)}, means over seeds"
    if late:
        note += f"; {late} runs that had not grokked within their budget have no norm and are not in it"
    rows = []
    concentrated = (head_low + head_high) / 2
    spreads = []
    for words, values, low, high in (
        ("total norm at the grok step", totals, total_low, total_high),
        ("norm of the unembedding at the end of the run", heads, head_low, head_high),
    ):
        spread, interval = spread_over(values)
        rows.append(
            compared(f"LayerNorm transformer: spread of the {words}", (low + high) / 2, spread, interval,
                     published_interval=(low, high), no_effect=concentrated, digits=2, note=note)
        )  # fmt: skip
        every = np.concatenate([np.asarray(some, dtype=np.float64) for some in values.values()])
        spreads.append(
            Finding(f"LayerNorm transformer: spread of the {words}, over all runs",
                    float(np.std(every) / np.mean(every)) if every.size > 1 else None, None,
                    f"{every.size} runs, seeds and train fractions together; published {low:g} to {high:g} over train "
                    "fractions", 2)
        )  # fmt: skip
    findings = spreads + [
        Finding(f"LayerNorm transformer: total norm at grok, train fraction {fraction:g}",
                float(np.mean(values)) if values else None,
                (min(values), max(values)) if values else None,
                f"{len(values)} of {len(LAYER_NORM_SEEDS)} runs grokked; norm of the unembedding "
                + (f"{np.mean(heads[fraction]):.3g}" if heads[fraction] else "unknown"))
        for fraction, values in totals.items()
    ]  # fmt: skip
    return Findings(tuple(rows), tuple(findings), data)


def spread_over(values: Mapping[float, Sequence[float]]) -> tuple[float | None, tuple[float, float] | None]:
    """Standard deviation over mean of the means of the groups, and its interval from resampling within groups."""
    groups = [np.asarray(group, dtype=np.float64) for group in values.values() if len(group)]
    if len(groups) < 2:
        return None, None

    def spread(means: np.ndarray) -> float:
        return float(np.std(means) / np.mean(means))

    drawn = []
    weights = [cluster_weights(np.arange(len(group)), 500, place) for place, group in enumerate(groups)]
    for index in range(500):
        drawn.append(
            spread(np.asarray([w[index] @ g / len(g) for w, g in zip(weights, groups, strict=True)]))
        )
    interval = expanded_percentile(drawn, min(len(group) for group in groups))
    return spread(np.asarray([group.mean() for group in groups])), interval


def lever_parts(bench: Bench, dense: Measured, facts: Mapping[str, Any]) -> dict[str, Callable[[], Findings]]:
    """What measures each part, by name, beside the ``dense`` grid."""
    return {
        LEARNING_RATE: partial(rate_lever, bench, dense, facts),
        TRANSFORMER: partial(plain_transformer, bench, facts),
        LAYER_NORM: partial(layer_norm_transformer, bench, facts, last_head_norms),
    }
