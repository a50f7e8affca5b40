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
from grokscope.studies.riemannian_checks import half_rate_distance, step_findings, varied_findings
from grokscope.studies.riemannian_ends import clock_rows, end_rows, long_findings, rank_finding
from grokscope.studies.riemannian_readings import Reading, of
from grokscope.studies.riemannian_rows import (
    collapse_rows,
    drift_rows,
    exact_rows,
    flow_rows,
    junction_rows,
    powers_between,
)
from grokscope.studies.riemannian_runs import EXPERIMENTS, MAIN, Cell, Grid, grid_of
from grokscope.studies.sweep import Bench
from grokscope.training import train
from grokscope.work import Workers

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
        speed=1.0 if decay else None, junction=junction, ranks=(4, 4), rank=np.full(len(times), 4.0),
        error_test=np.full(len(times), 0.5), fit=Crossing(int(steps[3]), int(steps[4]), False),
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
    assert "rank 4 throughout" in row.note
    few = [one for one in lawful if one.seed < 2]
    assert one_row(collapse_rows(few, "words")[0]).verdict == "cannot tell"
    assert [finding.quantity for finding in findings] == ["words: spread in λt at decays 0.001 and 0.0001"]


def test_paths_of_another_clock_do_not():
    wrong = [solved(decay, seed, lambda decay: 0.1 * decay**0.8) for decay in DECAYS for seed in range(3)]
    assert one_row(collapse_rows(wrong, "words")[0]).verdict == "differs"


def test_drift_is_judged_at_the_decays_of_the_paper(lawful):
    rows, findings = drift_rows(lawful, "words")
    assert [(row.verdict, row.ours) for row in rows] == [("agrees", 1.0)] * 4
    assert [row.quantity.rsplit(" ", 1)[1] for row in rows] == ["0.001", "0.001", "0.0001", "0.0001"]
    assert [finding.quantity.rsplit(" ", 1)[1] for finding in findings] == ["1e-05"] * 2
    slow = [replace(one, speed=0.5, cosine=0.6) if one.decay == 1e-4 else one for one in lawful]
    assert [row.verdict for row in drift_rows(slow, "words")[0]] == ["agrees"] * 2 + ["differs"] * 2
    assert "rank 4 throughout" in rows[0].note
    assert "range of 3 seeds (75 %)" in rows[0].note
    mixed = [replace(one, speed=0.5, cosine=0.6) if not one.seed else one for one in lawful]
    assert {row.verdict for row in drift_rows(mixed, "words")[0]} == {"cannot tell"}
    moved = [replace(one, ranks=(2, 4)) for one in lawful]
    assert "the rank moved between 2 and 4" in drift_rows(moved, "words")[0][0].note
    elsewhere = [one for one in lawful if one.decay == 1e-5]
    assert len(drift_rows(elsewhere, "words")[0]) == 2


def with_closed_form(readings: Sequence[Reading]) -> list[Reading]:
    found = []
    for one in readings:
        middle = None if one.junction_times is None else sum(one.junction_times) / 2
        found.append(replace(one, exact=(1e-14, middle)))
    return found


def test_a_junction_on_the_logarithm(lawful):
    rows, findings = junction_rows(lawful, "words")
    assert one_row(rows).verdict == "agrees"
    # a logarithm: the slope is the same between any two decays, one over the slowest rate
    alone = [one for one in lawful if one.seed == 0]
    (early, late) = junction_rows(alone, "words")[1]
    rng = np.random.default_rng(0)
    problem = linear_regression(rng.normal(size=(4, 9)), rng.normal(size=4), 1e-5)
    assert late.ours == pytest.approx(1 / problem.scales.min(), rel=0.02)
    assert early.ours == pytest.approx(late.ours, rel=0.1)
    assert len(findings) == 2
    late_ones = [
        replace(one, junction=Crossing(round(2 / one.decay / RATE), round(2.1 / one.decay / RATE), False))
        if one.decay
        else one
        for one in lawful
    ]
    row = one_row(junction_rows(late_ones, "words")[0])
    assert row.verdict == "differs"
    assert row.ours == pytest.approx(1, abs=1e-3)
    assert row.interval == pytest.approx((1 - math.log10(1.05), 1 + math.log10(1.05)), abs=1e-3)
    never = [replace(one, junction=Crossing(10, None, True)) if one.decay else one for one in lawful]
    assert junction_rows(never, "words") == ([], [])


def test_the_slope_of_the_junction_against_the_closed_form(lawful):
    rows, _ = junction_rows(with_closed_form(lawful), "words")
    assert rows[1].quantity == "words: slope of the junction on −ln λ over that of the flow"
    assert rows[1].ours == pytest.approx(1)
    assert rows[1].verdict == "agrees"
    steeper = [
        replace(one, exact=(1e-14, one.exact[1] / 2 if one.exact and one.exact[1] else None))
        for one in with_closed_form(lawful)
    ]
    rows, _ = junction_rows(steeper, "words")
    assert rows[1].ours == pytest.approx(2)
    assert rows[1].verdict == "differs"


def test_the_power_of_a_time_counts_the_spacing_of_saves():
    assert powers_between((1e-2, (10, 10)), (1e-3, (100, 100))) == pytest.approx((1, 1, 1))
    low, middle, high = powers_between((1e-2, (5, 15)), (1e-4, (10, 10)))
    assert (low, middle, high) == pytest.approx((math.log10(10 / 15) / 2, 0, math.log10(2) / 2))


def test_the_fast_phase_converges_to_the_flow_without_decay(lawful):
    row = one_row(flow_rows(lawful, "words"))
    assert row.ours == pytest.approx(1, abs=0.02)
    assert row.verdict == "agrees"
    # a distance that stays however small the decay is
    offset = [replace(one, weights=one.weights + 1.0) if one.decay else one for one in lawful]
    assert one_row(flow_rows(offset, "words")).verdict == "differs"
    assert flow_rows([one for one in lawful if one.decay], "words") == []


def test_ends_and_ranks(lawful):
    rows, findings = end_rows(lawful, "words")
    assert [row.verdict for row in rows] == ["agrees", "agrees"]
    assert len(findings) == 3
    reached = [replace(one, experiment="diagonal", ends={"least l1": 10 * one.decay}) for one in lawful]
    rows, findings = end_rows(reached, "words")
    verdicts = {row.quantity: row.verdict for row in rows}
    assert verdicts["words: distance of the end from the least l1, decay 0.0001"] == "agrees"
    assert verdicts["words: test error at the end, decay 0.0001"] == "differs"
    assert [finding.ours for finding in findings if "least l1" in finding.quantity] == pytest.approx([1e-4])
    solved_ = [replace(one, error_test=np.full(len(one.steps), 1e-3)) for one in reached]
    assert {row.verdict for row in end_rows(solved_, "words")[0]} == {"agrees"}
    elsewhere = [replace(one, ends={"least l1": 0.4}) for one in solved_]
    assert sorted(row.verdict for row in end_rows(elsewhere, "words")[0]) == ["agrees"] * 4 + ["differs"] * 2
    stuck = [replace(one, tangent_share=(0.7, 0.4)) for one in lawful]
    assert [row.verdict for row in end_rows(stuck, "words")[0]] == ["differs", "differs"]
    assert rank_finding(lawful, "words").ours == "9 of 9"


def falling(one: Reading, kind: str, clock: Callable[[float], float] = lambda decay: decay) -> Reading:
    """A test error and a tail of singular values that shrink as e^−clock·t from the fit on."""
    gone = np.exp(-clock(one.decay) * one.times)
    sigma = np.stack(
        [np.ones_like(gone), np.ones_like(gone), np.ones_like(gone), 0.5 * gone, 0.3 * gone], axis=1
    )
    return replace(one, experiment=kind, error_test=gone, sigma=sigma)


def rows_by_words(made: Sequence[Row]) -> dict[str, Row]:
    return {row.quantity.split(",")[0].removeprefix("words: "): row for row in made}


def test_the_tail_of_completion_on_the_clock_of_decay(lawful):
    decayed = [one for one in lawful if one.decay]
    rows, findings = clock_rows([falling(one, "completion") for one in decayed], "words")
    row = rows_by_words(rows)[
        "power of 1/λ in the time at which the tail after 3 singular values is down by e"
    ]
    assert row.verdict == "agrees"
    assert row.ours == pytest.approx(1, abs=0.05)
    # e-fold from the fit on, which is early
    last = [finding for finding in findings if "down by e, decay 1e-05" in finding.quantity]
    assert last[0].ours == pytest.approx(1, abs=0.1)
    settles = rows_by_words(rows)["power of 1/λ in the time of the fit"]
    assert (settles.ours, settles.verdict) == (pytest.approx(0, abs=0.1), "agrees")
    rows, _ = clock_rows([falling(one, "completion", lambda decay: 0.01) for one in decayed], "words")
    assert [row.verdict for row in rows] == ["agrees", "differs"]
    slow = [
        replace(falling(one, "completion"), fit=Crossing(round(0.9 / one.decay / RATE), round(1 / one.decay / RATE),
                                                         False))
        for one in decayed
    ]  # fmt: skip
    assert (
        rows_by_words(clock_rows(slow, "words")[0])["power of 1/λ in the time of the fit"].verdict
        == "differs"
    )
    still = [falling(one, "completion", lambda decay: 0.0) for one in decayed]
    rows, findings = clock_rows(still, "words")
    assert list(rows_by_words(rows)) == ["power of 1/λ in the time of the fit"]
    assert clock_rows(decayed, "words") == ([], [])
    assert "0 of 3 seeds show it" in findings[-1].note


@pytest.mark.parametrize(("kind", "share"), [("relu", 0.1), ("diagonal", 0.5)])
def test_the_drop_of_the_test_error(lawful, kind, share):
    decayed = [one for one in lawful if one.decay]
    rows, findings = clock_rows([falling(one, kind) for one in decayed], "words")
    found = rows_by_words(rows)
    said = f"{100 * share:g} % of the drop of the test error is done"
    assert found[f"power of 1/λ in the time at which {said}"].verdict == "agrees"
    # of e^−λt this much of the fall is done at λt = −ln(1 − share): half of it is near 1, a tenth is not
    at = found[f"λt at which {said}"]
    assert at.ours == pytest.approx(-math.log(1 - share), rel=0.15)
    assert at.verdict == ("agrees" if kind == "diagonal" else "differs")
    assert ("time of the fit" in found) == (kind == "diagonal")
    other = [finding for finding in findings if f"{100 * (0.6 - share):g} % of the drop counted from the" in
             finding.quantity]  # fmt: skip
    assert other[0].ours == pytest.approx(1, abs=0.1)
    flat = [replace(falling(one, kind), error_test=np.full(len(one.steps), 0.4)) for one in decayed]
    assert not [row for row in clock_rows(flat, "words")[0] if "drop" in row.quantity]
    unfitted = [
        replace(one, fit=Crossing(100, None, True), junction=Crossing(100, None, True)) for one in flat
    ]
    assert clock_rows(unfitted, "words")[0] == []


def test_a_drop_before_the_junction_is_part_of_the_fast_phase(lawful):
    """An error that falls with the fit, whatever the decay, and then again on the slow clock."""
    decayed = [one for one in lawful if one.decay]
    twice = [
        replace(
            one, experiment="diagonal", error_test=np.exp(-one.times) + 0.4 * np.exp(-one.decay * one.times)
        )
        for one in decayed
    ]
    rows, findings = clock_rows(twice, "words")
    slow = rows_by_words(rows)["power of 1/λ in the time at which 50 % of the drop of the test error is done"]
    assert slow.ours == pytest.approx(1, abs=0.1)
    early = [finding for finding in findings if "counted from the fit" in finding.quantity]
    assert isinstance(early[0].ours, float)
    assert early[0].ours < 0.5


def test_the_fit_of_the_diagonal_network_beside_the_published_time(lawful):
    def at(time: float) -> list[Reading]:
        ends = Crossing(round(0.9 * time / RATE), round(1.1 * time / RATE), False)
        return [replace(one, experiment="diagonal", fit=ends) for one in lawful if one.decay]

    for time, verdict in ((100, "agrees"), (250, "agrees"), (3000, "differs"), (10, "differs")):
        rows = [row for row in clock_rows(at(time), "words")[0] if "time of the fit" in row.quantity]
        assert {row.verdict for row in rows} == {verdict}
        assert rows[0].ours == pytest.approx(time)


def test_ranks_in_the_long_run(lawful):
    one = replace(of(lawful, "linear", 1e-3)[0], experiment="completion", role="long")
    lost = np.where(one.decay * one.times > 2, 3.0, 4.0)
    held = replace(one, experiment="completion.full-rank")
    first, second = long_findings([replace(one, rank=lost), held])
    assert (first.ours, second.ours) == (3.0, 4.0)
    assert "4 at the start" in first.note
    assert "is lost at λt from 2" in first.note
    assert "constant" in second.note
    whole = replace(held, sigma=np.ones((len(one.steps), 20)))
    assert "matrices of rank 3 have 111 directions" in long_findings([whole])[0].note


def test_the_step_size_is_told(lawful):
    main = [replace(one, stiffness=0.4 + 0.1 * one.seed) for one in lawful]
    whole = of(main, "linear", 1e-3)
    half = [
        replace(one, role="half rate", rate=RATE / 2, steps=2 * one.steps, weights=one.weights * (1 + 1e-3))
        for one in whole
    ]
    assert half_rate_distance(whole[0], half[0]) == pytest.approx(1e-3)
    rule, distance = step_findings(main, half, "words")
    assert rule.ours == pytest.approx(0.6)
    assert "kept by all runs" in rule.note
    assert distance.ours == pytest.approx(1e-3)
    assert "broken by 4 runs" in step_findings([replace(one, stiffness=1.2) if one.seed == 0 else one
                                                for one in main], [], "words")[0].note  # fmt: skip
    with pytest.raises(ValueError, match="same time"):
        half_rate_distance(whole[0], replace(half[0], steps=half[0].steps + 1))


def test_what_is_varied_is_compared_with_the_main_runs(lawful):
    main = [replace(one, experiment="diagonal", ends={"least l1": 0.01}) for one in lawful]
    same = [replace(one, experiment="diagonal.larger", role="varied") for one in of(main, "diagonal", 1e-3)]
    (finding,) = varied_findings(main, same)
    assert finding.ours == "5 of 5"
    other = [replace(one, cosine=0.5) for one in same]
    (finding,) = varied_findings(main, other)
    assert finding.ours == "4 of 5"
    assert "drift cosine" in finding.note
    assert "0.5 (differs), was 1 (agrees)" in finding.note


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
    assert grid.experiments == tuple(MAIN)
    assert all(a == pytest.approx(10 * b) for a, b in zip(grid.decays, grid.decays[1:], strict=False))
    for name in grid.experiments:
        recipes = {decay: grid.arm(Cell(name, decay)).runs()[0][1] for decay in (*grid.decays, 0.0)}
        steps = {decay: recipe.save_steps() for decay, recipe in recipes.items()}
        assert steps[0.0].tolist() == steps[max(grid.decays)].tolist()
        assert recipes[0.0].train.weight_decay == 0
        for decay in grid.decays:
            assert set(steps[0.0]) <= set(steps[decay])
            assert steps[decay][-1] * recipes[decay].train.lr * decay == pytest.approx(5, rel=1e-6)
        half = grid.arm(Cell(name, grid.at_half, "half rate")).runs()[0][1]
        assert half.train.lr == pytest.approx(recipes[grid.at_half].train.lr / 2)
        assert set(half.save_steps() // 2) <= set(steps[grid.at_half])
        assert half.save_steps()[-1] == 2 * steps[grid.at_half][-1]


def test_the_full_grid_varies_what_the_paper_leaves_open():
    small, full = grid_of("small"), grid_of("full")
    assert not small.varied
    kinds = [EXPERIMENTS[name].kind for name, _ in full.varied]
    assert (kinds.count("diagonal"), kinds.count("completion"), kinds.count("relu")) == (4, 4, 2)
    arms = full.arms()
    assert len({arm.name for arm in arms.values()}) == len(arms)
    assert 1e-4 in full.decays
    assert 1e-3 in full.decays
    assert full.seeds_of(Cell("relu", 1e-4)) == full.seeds[: full.fewest]
    assert full.seeds_of(Cell("relu", 1e-3)) == full.seeds
    assert all(EXPERIMENTS[name].setup for name in MAIN)


def bench_in(folder: Path) -> Bench:
    def fleet(runs):
        for name, recipe in runs:
            train(recipe, folder / "checkpoints" / name, device="cpu")

    (folder / "checkpoints").mkdir()
    return Bench(folder, "small", fleet, workers=Workers(jobs=1))


def test_real_runs_end_to_end(tmp_path: Path):
    names = ("linear", "diagonal", "completion")
    grid = Grid(
        names, (0.3, 0.1), (0, 1), early=10, late=8, long=("diagonal", "diagonal.dense"), at_long=0.3, half=names,
        at_half=0.3, varied=(("completion.more", 0.1),),
    )  # fmt: skip
    bench = bench_in(tmp_path)
    readings = measure(bench, grid)
    assert len(readings) == (3 * 3 + 2 + 3 + 1) * 2
    main = [one for one in readings if one.role == "main"]
    for one in of(main, "linear"):
        assert one.exact is not None
        assert one.exact[0] < 1e-12
    for one in of(main, "diagonal", 0.1):
        assert one.ends["least l1 at this decay"] < 0.05
        assert one.ends["least l1 at this decay"] < one.ends["least l1 of all interpolators"]
    for one in of(main, "completion", 0.1):
        assert one.ends["least nuclear norm at this decay"] < 0.15
        assert one.tangent_share[1] < 0.1 < one.tangent_share[0]
        assert one.sigma is not None
        assert one.sigma.shape == (len(one.steps), 20)
    sparse = [one.rank[-1] for one in readings if one.role == "long" and one.experiment == "diagonal"]
    assert max(sparse) < 20
    result = assemble(readings, grid, "small")
    assert len(result.figures) == 4
    exact = [row for row in result.rows if row.quantity.startswith("linear regression: largest")]
    assert [row.verdict for row in exact] == ["agrees"]
    told = {finding.quantity: finding.ours for finding in result.findings}
    for name in names:
        stiff = told[f"{EXPERIMENTS[name].words}: largest learning rate × curvature"]
        assert isinstance(stiff, float)
        assert 0.05 < stiff < 1
        half = told[f"{EXPERIMENTS[name].words}: distance from a run at half the rate, decay 0.3"]
        assert isinstance(half, float)
        assert 0 < half < 0.2
    assert "completion, 70 % observed: verdicts as in the main runs" in told
    page, data = write_result(result, tmp_path / "reports", bench.used)
    text = page.read_text()
    assert "Norm minimisation" in text
    assert "Predictions that agree: linear regression" in text
    json.loads(data.read_text())
    with pytest.raises(GrokscopeError, match="no run with weight decay"):
        assemble([one for one in readings if not one.decay], grid, "small")


def test_the_study_has_its_name():
    assert "riemannian" in STUDIES
    assert math.isclose(max(grid_of("small").decays), 0.1)
