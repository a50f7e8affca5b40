"""What a formula says is what is computed: each in plain numpy, beside the measure, on random input."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from grokscope.measures.crossings import Crossing
from grokscope.probes import Quantity, Record, registered
from grokscope.probes.clock_readings import FRACTIONS, QUANTITIES, read_clocks
from grokscope.probes.stepwise import random_params
from grokscope.runs import build_from_config
from tests.probes.formulas.alignment import ALIGNMENT
from tests.probes.formulas.gradients import GRADIENTS
from tests.probes.formulas.loss import LOSS, NORMS
from tests.probes.formulas.manifold import MANIFOLD
from tests.probes.formulas.maps import FOURIER, SPECTRA
from tests.probes.formulas.regions import REGIONS
from tests.probes.formulas.robustness import ROBUSTNESS
from tests.probes.formulas.rows import Rng, Row

# --- clocks: exponential training loss, a gap that falls, a margin that rises, a test loss with a power tail


def trajectory(rng: Rng) -> tuple[Any, ...]:
    """Steps, the series at them, and what was planted in these; the same for the same draw."""
    return _trajectory(int(rng.integers(1 << 30)))


@cache
def _trajectory(seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    steps = np.r_[0, np.cumsum(rng.integers(5, 15, size=120))]
    planted = {
        "contraction": rng.uniform(0.004, 0.008),
        "growth": rng.uniform(0.01, 0.02),
        "beta": rng.uniform(1.2, 2.0),
        "rates": rng.uniform(0.5, 1.5, size=int(steps[-1])),
        "seed": seed,
    }
    after = np.maximum(steps - 300, 0)
    gap = np.where(steps < 150, 0.01, np.exp(-after / rng.uniform(100, 200))) * rng.uniform(
        0.9, 1, size=len(steps)
    )
    series = {
        "loss.train": 4 * (1 - planted["contraction"]) ** steps.astype(float),
        "loss.test": 0.01 + 5e4 * (steps + 100.0) ** -planted["beta"],
        "time.sum_lr": np.r_[0, np.cumsum(planted["rates"])][steps],
        "regions.rule_gap": gap,
        "margin.min": planted["growth"] * steps - 1,
    }
    return steps, series, planted


def record_of(steps: Any, series: Any, planted: Any) -> Record:
    return _record(planted["seed"])


@cache
def _record(seed: int) -> Record:
    steps, series, _ = _trajectory(seed)
    record = Record("planted", steps)
    measured = ("regions.rule_gap", "margin.min")
    record.declare([Quantity(name, "1", "Planted.") for name in measured])
    for name in measured:
        record.add(name, series[name])
    record.declare(QUANTITIES)
    record.events["fit"] = Crossing(int(steps[9]), int(steps[10]), False)
    record.events["grok"] = Crossing(int(steps[19]), int(steps[20]), False)
    read_clocks(record, {name: (steps, values) for name, values in series.items() if "." in name})
    return record


def held(steps: Any, values: Any, level: float, first: int = 0) -> tuple[float, float]:
    """(after, T] of the formula; NaN for an end that nothing bounds."""
    for j in range(first, len(steps) - 2):
        if max(values[j : j + 3]) <= level:
            above = [steps[k] for k in range(first, j) if values[k] > level]
            return max(above, default=math.nan), steps[j]
    above = [steps[k] for k in range(first, len(steps)) if values[k] > level]
    return max(above, default=math.nan), math.nan


def classifier(steps: Any, series: Any, planted: Any) -> Any:
    levels = record_of(steps, series, planted).coordinates["epsilon"]
    return np.array([held(steps, series["loss.train"], level) for level in levels])


def representation(steps: Any, series: Any, planted: Any) -> Any:
    gap = series["regions.rule_gap"]
    start = 10 + int(np.argmax(gap[10:]))
    return np.array([held(steps, gap, rho * gap[start], start) for rho in FRACTIONS])


def separation(steps: Any, series: Any, planted: Any) -> Any:
    late, loss = representation(steps, series, planted), series["loss.train"]
    early = np.array([held(steps, loss, rho * loss[0]) for rho in FRACTIONS])
    return np.stack([late[:, 0] / early[:, 1], late[:, 1] / early[:, 0]], axis=1)


def summed(rates: Any, ends: Any) -> Any:
    return [[math.nan if math.isnan(end) else rates[: int(end)].sum() for end in pair] for pair in ends]


def slope(steps: Any, series: Any, planted: Any, of: Any) -> float:
    levels = record_of(steps, series, planted).coordinates["epsilon"]
    ends = classifier(steps, series, planted)
    used = np.isfinite(ends).all(1)
    return np.polyfit(np.log(1 / np.array(levels))[used], of(ends[used].mean(1)), 1)[0]


def named(name: str, entries: Any = slice(None)) -> Any:
    return lambda *given: record_of(*given)[name][entries]


GAP = "rule_gap"
CLOCKS = [
    Row(
        "clocks.classifier",
        r"T=\min\left\{t_j:L_j,L_{j+1},L_{j+2}\le\varepsilon\right\} \\ "
        r"T_{\text{cls}}(\varepsilon)\in\left(\max\left\{t_j<T:L_j>\varepsilon\right\},\,T\right]",
        trajectory, classifier, named("clocks.classifier"),
    ),
    Row(
        "clocks.classifier.time",
        r"\sum_{s=1}^{T_{\text{cls}}(\varepsilon)}\text{lr}_s",
        trajectory,
        lambda steps, series, planted: summed(planted["rates"], classifier(steps, series, planted)),
        named("clocks.classifier.time"),
    ),
    Row(
        "clocks.classifier.logarithmic",
        r"\bar{T}_{\text{cls}}(\varepsilon)\approx c+s\,\ln\frac{1}{\varepsilon} \\ "
        r"\bar{T}\text{ the middle of the interval}",
        trajectory,
        lambda *given: slope(*given, of=lambda middle: middle), named("clocks.classifier.logarithmic", 0),
    ),
    Row(
        "clocks.classifier.power",
        r"\ln\,\bar{T}_{\text{cls}}(\varepsilon)\approx c+s\,\ln\frac{1}{\varepsilon} \\ "
        r"\bar{T}\text{ the middle of the interval}",
        trajectory,
        lambda *given: slope(*given, of=np.log), named("clocks.classifier.power", 0),
    ),
    Row(
        "clocks.representation.<gap>",
        r"T=\min\left\{t_j\ge t_0:S_j,S_{j+1},S_{j+2}\le\eta\right\} \\ "
        r"T_{\text{rep}}(\eta)\in\left(\max\left\{t_j<T:S_j>\eta\right\},\,T\right] \\ "
        r"\eta=\rho\,S(t_0),\quad t_0=\argmax_{t\ge t_{\text{fit}}}S(t)",
        trajectory, representation,
        named(f"clocks.representation.{GAP}"),
    ),
    Row(
        "clocks.representation.<gap>.time",
        r"\sum_{s=1}^{T_{\text{rep}}(\eta)}\text{lr}_s",
        trajectory,
        lambda steps, series, planted: summed(planted["rates"], representation(steps, series, planted)),
        named(f"clocks.representation.{GAP}.time"),
    ),
    Row(
        "clocks.separation.<gap>",
        r"\frac{T_{\text{rep}}(\rho\,S(t_0))}{T_{\text{cls}}(\rho\,L(0))}",
        trajectory, separation,
        named(f"clocks.separation.{GAP}"),
    ),
    Row(
        "clocks.gap_growth",
        r"\min_{i\in\text{train}}\left(z_{i,y_i}-\max_{m\ne y_i}z_{i,m}\right)\approx c+s\,t",
        trajectory,
        lambda steps, series, planted: planted["growth"], named("clocks.gap_growth", 0),
    ),
    Row(
        "clocks.tail_contraction",
        r"\mu=1-e^{s},\quad\ln\,L(t)\approx c+s\,t",
        trajectory,
        lambda steps, series, planted: planted["contraction"], named("clocks.tail_contraction", 0),
    ),
    Row(
        "clocks.tail",
        r"L(t)\approx L_\infty+c\,(t-t_0)^{-\beta},\quad\theta=\frac{1}{2}\left(1+\frac{1}{\beta}\right)",
        trajectory,
        lambda steps, series, planted: [planted["beta"], (1 + 1 / planted["beta"]) / 2],
        named("clocks.tail", [0, 5]), 1e-4,
    ),
]  # fmt: skip

ROWS = [*LOSS, *NORMS, *FOURIER, *SPECTRA, *REGIONS, *GRADIENTS, *MANIFOLD, *ALIGNMENT, *ROBUSTNESS, *CLOCKS]
# formulas of the same form as one of the table, or whose values other tests compute by hand
LIKE = {
    "loss.test": ("loss.train", "test"),
    "loss.all": ("loss.train", "all"),
    "accuracy.train": ("accuracy.test", "train"),
    "accuracy.all": ("accuracy.test", "all"),
    "regions.class_separation.logits": ("regions.class_separation", ""),
    "regions.class_separation.logits.normalised": ("regions.class_separation.normalised", ""),
}
BY_HAND = {"norm.at_grok", "error.train", "error.test"}


def formulas() -> dict[str, str]:
    ours = [p for p in registered().values() if p.measure.__module__.startswith("grokscope.")]
    return {quantity.name: quantity.formula for probe in ours for quantity in probe.quantities}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_formula_says_what_is_computed(row):
    assert formulas()[row.name] == row.latex
    for seed in range(4):
        drawn = row.inputs(np.random.default_rng(seed))
        expected, found = row.plain(*drawn), row.measure(*drawn)
        np.testing.assert_allclose(
            np.asarray(found, float), np.asarray(expected, float), rtol=row.rtol, atol=1e-12
        )


def test_inputs_of_a_row_tell_its_values_apart():
    """A formula is not tested on inputs for which every formula gives the same."""
    for row in ROWS:
        values = [np.asarray(row.plain(*row.inputs(np.random.default_rng(seed))), float) for seed in range(4)]
        same = all(value.shape == values[0].shape and np.array_equal(value, values[0]) for value in values)
        assert not same, row.name


def test_every_formula_is_held_by_a_test():
    tested = {row.name for row in ROWS} | set(LIKE) | BY_HAND
    given = {name for name, formula in formulas().items() if formula}
    assert {name for name in given - tested if not name.endswith(".null")} == set()
    assert tested - given == set()
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", LIKE)
def test_one_formula_for_every_set_of_samples(name):
    like, samples = LIKE[name]
    other = like.split(".")[1]
    expected = (
        formulas()[like].replace(f"text{{{other}}}", f"text{{{samples}}}") if samples else formulas()[like]
    )
    assert formulas()[name] == expected


def test_null_weights_are_as_their_formula_says():
    given = {formula for name, formula in formulas().items() if name.endswith(".null") and formula}
    gaussian = r"W_{ij}\sim N\left(0,\frac{1}{n_{\text{in}}}\right)"
    # the second, of weights that are scaled, is held by the tests of the spectra probe that scale them
    assert given == {
        gaussian,
        r"A=F_1\cdots F_q,\quad F_i=\left\|F_i(t)\right\|_F\frac{G_i}{\left\|G_i\right\|_F} \\ "
        r"G_i\text{ of weights }" + gaussian,
    }
    config = {
        "task": {"name": "modular", "p": 59},
        "model": {"family": "mlp", "d_embed": 40, "hidden": [50], "combine": "concatenation"},
    }
    _, model = build_from_config(config, "a test")
    params = next(random_params(model, 4))
    drawn = [name for name in params if params[name].dim() == 3 and params[name].std() > 0]
    assert len(drawn) == 3
    for name in drawn:
        entries = params[name]
        assert float(entries.std()) == pytest.approx(entries.shape[-2] ** -0.5, rel=0.05)
        assert abs(float(entries.mean())) < 5 * float(entries.std()) / math.sqrt(entries.numel())
