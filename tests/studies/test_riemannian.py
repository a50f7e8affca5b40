"""The study of norm minimisation: its rules on paths whose law is known, and real runs end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.measures.crossings import Crossing
from grokscope.measures.linear_regression import linear_regression
from grokscope.studies import STUDIES
from grokscope.studies.result import Row, write_result
from grokscope.studies.riemannian import assemble, measure
from grokscope.studies.riemannian_readings import Reading, of
from grokscope.studies.riemannian_rows import (
    collapse_rows,
    drift_rows,
    end_rows,
    exact_rows,
    flow_finding,
    junction_rows,
    rank_finding,
)
from grokscope.studies.riemannian_runs import EXPERIMENTS, Grid, grid_of
from grokscope.studies.sweep import Bench
from grokscope.training import train

DECAYS = (1e-3, 1e-4, 1e-5)
RATE = 0.01


def solved(decay: float, seed: int, clock: Callable[[float], float] = lambda decay: decay) -> Reading:
    """A path of linear regression in closed form whose slow phase runs on ``clock`` of its decay."""
    rng = np.random.default_rng(seed)
    problem = linear_regression(rng.normal(size=(4, 9)), rng.normal(size=4), clock(decay))
    start = rng.normal(size=9)
    last = 5 / decay if decay else 5e3
    times = np.concatenate(
        [[0.0], np.geomspace(1, 5e3, 40), np.geomspace(5.1e3, last, 60) if decay < 1e-3 and decay else []]
    )
    steps = np.round(times / RATE).astype(np.int64)
    junction = None
    if decay:
        at = problem.junction(start)
        assert at is not None
        middle = round(at / RATE)
        junction = Crossing(middle - 2, middle + 2, False)
    weights = problem.flow(start, times)
    return Reading(
        experiment="linear", decay=decay, seed=seed, rate=RATE, steps=steps, times=times, weights=weights,
        tangents=np.linalg.norm(problem.split(weights)[1], axis=1), cosine=1.0 if decay else None,
        speed=1.0 if decay else None, junction=junction, ranks=(4, 4), error_test=np.full(len(times), 0.5),
        tangent_share=(0.7, 0.01), ends={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def lawful() -> list[Reading]:
    return [solved(decay, seed) for decay in (*DECAYS, 0.0) for seed in range(3)]


def one_row(rows: Sequence[Row]) -> Row:
    assert len(rows) == 1
    return rows[0]


def test_paths_of_one_clock_collapse(lawful):
    rows, findings = collapse_rows(lawful, "words")
    row = one_row(rows)
    assert row.verdict == "agrees"
    assert isinstance(row.ours, float)
    assert row.ours < 0.01
    assert "1e-05" in row.quantity
    assert [finding.quantity for finding in findings] == ["words: spread in λt at decays 0.001 and 0.0001"]


def test_paths_of_another_clock_do_not():
    wrong = [solved(decay, seed, lambda decay: 0.1 * decay**0.8) for decay in DECAYS for seed in range(3)]
    assert one_row(collapse_rows(wrong, "words")[0]).verdict == "differs"


def test_drift_is_judged_at_the_smallest_decay(lawful):
    rows, findings = drift_rows(lawful, "words")
    assert [(row.verdict, row.ours) for row in rows] == [("agrees", 1.0), ("agrees", 1.0)]
    assert len(findings) == 4
    slow = [replace(one, speed=0.5, cosine=0.6) if one.decay == 1e-5 else one for one in lawful]
    assert [row.verdict for row in drift_rows(slow, "words")[0]] == ["differs", "differs"]
    assert "rank 4 throughout" in rows[0].note
    mixed = [
        replace(one, speed=0.5, cosine=0.6) if one.decay == 1e-5 and not one.seed else one for one in lawful
    ]
    assert [row.verdict for row in drift_rows(mixed, "words")[0]] == ["cannot tell", "cannot tell"]
    moved = [replace(one, ranks=(2, 4)) for one in lawful]
    assert "the rank moved between 2 and 4" in drift_rows(moved, "words")[0][0].note


def test_a_junction_on_the_logarithm(lawful):
    row = one_row(junction_rows(lawful, "words"))
    assert row.verdict == "agrees"
    late = [
        replace(one, junction=Crossing(round(2 / one.decay), round(2.1 / one.decay), False))
        if one.decay
        else one
        for one in lawful
    ]
    row = one_row(junction_rows(late, "words"))
    assert row.verdict == "differs"
    assert row.ours == pytest.approx(1, abs=1e-3)
    never = [replace(one, junction=Crossing(10, None, True)) if one.decay else one for one in lawful]
    assert junction_rows(never, "words") == []


def test_the_fast_phase_converges_to_the_flow_without_decay(lawful):
    early = [
        replace(one, steps=one.steps[:12], times=one.times[:12], weights=one.weights[:12]) for one in lawful
    ]
    (finding,) = flow_finding(early, "words")
    assert finding.ours == pytest.approx(1, abs=0.02)
    assert flow_finding([one for one in early if one.decay], "words") == []


def test_ends_and_ranks(lawful):
    rows, findings = end_rows(lawful, "words")
    assert one_row(rows).verdict == "agrees"
    assert len(findings) == 3
    reached = [replace(one, experiment="diagonal", ends={"least l1": 10 * one.decay}) for one in lawful]
    rows, findings = end_rows(reached, "words")
    assert [row.verdict for row in rows] == ["agrees", "agrees"]
    assert rows[1].ours == pytest.approx(1e-4)
    assert [finding.ours for finding in findings if "least l1" in finding.quantity] == [0.01, 0.001]
    elsewhere = [replace(one, ends={"least l1": 0.4}) for one in reached]
    assert [row.verdict for row in end_rows(elsewhere, "words")[0]] == ["agrees", "differs"]
    stuck = [replace(one, tangent_share=(0.7, 0.4)) for one in lawful]
    assert one_row(end_rows(stuck, "words")[0]).verdict == "differs"
    assert rank_finding(lawful, "words").ours == "9 of 9"


def test_the_closed_form_is_held_to_rounding(lawful):
    assert exact_rows(lawful, "words") == []
    found = [
        replace(one, exact=(1e-14, sum(one.junction_times) / 2 if one.junction_times else None))
        for one in lawful
    ]
    assert [row.verdict for row in exact_rows(found, "words")] == ["agrees", "agrees"]
    off = [
        replace(one, exact=(1e-8, 3 * one.exact[1] if one.exact and one.exact[1] else None)) for one in found
    ]
    assert [row.verdict for row in exact_rows(off, "words")] == ["differs", "differs"]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_runs_of_one_seed_share_their_early_saves(scale):
    grid = grid_of(scale)
    assert grid.experiments == tuple(EXPERIMENTS)
    assert all(a == pytest.approx(10 * b) for a, b in zip(grid.decays, grid.decays[1:], strict=False))
    for name in grid.experiments:
        recipes = {decay: grid.arm(name, decay).runs()[0][1] for decay in (*grid.decays, 0.0)}
        steps = {decay: recipe.save_steps() for decay, recipe in recipes.items()}
        assert steps[0.0].tolist() == steps[max(grid.decays)].tolist()
        assert recipes[0.0].train.weight_decay == 0
        for decay in grid.decays:
            assert set(steps[0.0]) <= set(steps[decay])
            assert steps[decay][-1] * recipes[decay].train.lr * decay == pytest.approx(5, rel=1e-6)


def test_real_runs_end_to_end(tmp_path: Path):
    grid = Grid(("linear", "diagonal", "completion"), (0.3, 0.1), (0, 1), early=10, late=8)

    def fleet(runs):
        for name, recipe in runs:
            train(recipe, tmp_path / "checkpoints" / name, device="cpu")

    (tmp_path / "checkpoints").mkdir()
    bench = Bench(tmp_path, "small", fleet)
    readings = measure(bench, grid)
    assert len(readings) == 3 * 3 * 2
    for one in of(readings, "linear"):
        assert one.exact is not None
        assert one.exact[0] < 1e-12
    for one in of(readings, "diagonal", 0.1):
        assert one.ends["least l1 at this decay"] < 0.05
        assert one.ends["least l1 at this decay"] < one.ends["least l1 of all interpolators"]
    for one in of(readings, "completion", 0.1):
        assert one.ends["least nuclear norm at this decay"] < 0.15
        assert one.tangent_share[1] < 0.1 < one.tangent_share[0]
    result = assemble(readings, grid, "small")
    assert len(result.figures) == 2
    assert any(
        row.quantity.startswith("linear regression: largest") and row.verdict == "agrees"
        for row in result.rows
    )
    page, data = write_result(result, tmp_path / "reports", bench.used)
    assert "Norm minimisation" in page.read_text()
    json.loads(data.read_text())
    with pytest.raises(GrokscopeError, match="no run with weight decay"):
        assemble([one for one in readings if not one.decay], grid, "small")


def test_the_study_has_its_name():
    assert "riemannian" in STUDIES
    assert math.isclose(max(grid_of("small").decays), 0.1)
