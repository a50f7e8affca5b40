"""The study of the logit scale on runs whose law is known, and on real ones."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.measures.censored import median_interval
from grokscope.studies import StudyResult, choose_study, write_result
from grokscope.studies.clamp_grid import Control, Times
from grokscope.studies.logit_scale import published_pair, run_logit_scale, squared_rows
from grokscope.studies.logit_scale_cells import (
    BASE,
    RAISED,
    Cell,
    Panel,
    Part,
    logit_scale_arms,
    logit_scale_parts,
    measure_parts,
    read_cell,
)
from grokscope.studies.logit_scale_mediation import _published_recovery, collapse_of, recover
from grokscope.studies.published import published
from grokscope.studies.rows import ratio_of
from grokscope.studies.sweep import Bench, Log, Scale, UnfinishedError
from tests.studies.synthetic import Law, SyntheticBench, synthetic_bench

LAW = Law(lambda p: 7.64, lambda p: 0.62, lambda p: 54.49, through_scale=1.0)


def rows(result: StudyResult) -> dict[str, dict[str, Any]]:
    return {row["quantity"]: row for row in result.as_json()["rows"]}


def found(result: StudyResult) -> dict[str, Any]:
    return {finding.quantity: finding for finding in result.findings}


def test_arms_differ_in_what_is_varied_alone() -> None:
    part = Part(59, (0, 1), (BASE, (RAISED, 1.3)), "squared", 5e-9)
    arms = part.arms(54.4936)
    name, base = arms[BASE].runs()[0]
    assert name == "delay-law.p59.after.squared.eps5e-09.norm54.494.rho1-s0"
    name, warm = arms[RAISED, 1.3].runs()[0]
    assert name == "delay-law.p59.after.squared.eps5e-09.tau1.3.norm54.494.rho1.15-s0"
    assert (base.task, base.model, base.train, base.save, base.seed) == (
        warm.task, warm.model, warm.train, warm.save, warm.seed,
    )  # fmt: skip
    assert (base.intervene.temperature, warm.intervene.temperature) == (1.0, 1.3)
    clamp = warm.intervene.clamp
    assert clamp is not None
    assert (clamp.norm, clamp.rho, clamp.start) == (
        54.494,
        1.15,
        published("logit_scale")["setup"]["clamp_from"],
    )
    assert (warm.train.decay, warm.train.loss, warm.train.eps) == ("after", "squared", 5e-9)
    assert set(np.diff(warm.evaluation_steps())[1:20]) <= {*range(26)}
    assert 25 in warm.evaluation_steps()
    assert 12600 in warm.evaluation_steps()


def test_no_two_runs_share_a_name_and_every_modulus_is_there() -> None:
    parts = logit_scale_parts("full")
    arms = logit_scale_arms("full", dict.fromkeys(parts, 54.0))
    names = [f"{arm.name}-s{seed}" for arm in arms for seed in arm.seeds]
    assert len(names) == len(set(names)) == sum((1 + len(p.cells)) * len(p.seeds) for p in parts.values())
    facts = published("logit_scale")
    assert {part.p for part in parts.values()} == set(facts["log_T_on_norm"]["p"])
    for p, table in facts["mediation_rho_1.15"].items():
        assert {(RAISED, float(tau)) for tau in table["tau"]} <= set(parts[p].cells)
    wanted = {
        (float(rho), float(tau)) for rho in facts["collapse"]["rho"] for tau in facts["collapse"]["tau"]
    }
    assert wanted <= set(parts["59"].cells) & set(parts["97"].cells)
    assert {name for name, _ in arms[0].runs()[:4]} <= set(names)
    small = [f"{arm.name}-s{seed}" for arm in logit_scale_arms("small", {"59": 54.0}) for seed in arm.seeds]
    assert set(small) <= set(names)


def test_a_cell_takes_its_scale_at_the_median_seeds_step() -> None:
    steps = np.arange(0, 1001, 25)

    def log(seed: int, at: int, last: int = 1000) -> Log:
        shown = steps[steps <= last]
        accuracy = (shown >= at).astype(float)
        return Log("x", seed, {"step": shown, "accuracy.test": accuracy, "accuracy.test_unmirrored": accuracy,
                               "logits.norm": 10.0 * (seed + 1) + shown / 100})  # fmt: skip

    cell = read_cell([log(0, 500), log(1, 600), log(2, 800)])
    assert cell.median.value == 600
    assert cell.scales == (16.0, 26.0, 36.0)
    assert cell.own == (15.0, 26.0, 38.0)
    assert cell.scale == 26.0
    low, high = cell.scale_interval or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(26)
    assert high - low == pytest.approx(2 * 4.302653 * 10 / math.sqrt(3), rel=1e-5)
    censored = read_cell([log(0, 500), log(1, 5000), log(2, 5000)])
    assert censored.median.value is None
    assert censored.scales == (20.0, 30.0, 40.0)


@pytest.mark.parametrize(("share", "verdict"), [(0.73, "agrees"), (0.0, "differs"), (0.3, "differs")])
def test_the_share_through_the_scale_is_recovered(tmp_path: Path, share: float, verdict: str) -> None:
    bench = synthetic_bench(tmp_path, "small", replace(LAW, through_scale=share, noise=0.01))
    result = run_logit_scale(bench)
    row = rows(result)["recovery fraction at p = 59"]
    tau = RAISED**2
    t0, t1 = math.exp(7.64), math.exp(7.64 * RAISED)
    t2 = math.exp(7.64 * RAISED * tau ** (-share / 2))
    assert row["ours"] == pytest.approx((t1 - t2) / (t1 - t0), abs=0.06)
    assert row["verdict"] == verdict
    assert row["interval"][0] <= row["ours"] <= row["interval"][1]
    assert len(bench.trained) == 4 + 6 * 4
    assert f"{row['ours']:.2f}" in result.sentence


def test_fewer_temperatures_are_compared_with_the_published_table_at_these() -> None:
    theirs = published("logit_scale")["mediation_rho_1.15"]["59"]
    assert _published_recovery(theirs, theirs["tau"]) == (0.83, (0.82, 0.85), "")
    number, (low, high), said = _published_recovery(theirs, [1.0, 1.3, 1.7])
    # T2 between (20.89, 3450) and (26.5, 6825) at 23.87
    t2 = 3450 + (23.87 - 20.89) / (26.5 - 20.89) * (6825 - 3450)
    assert number == round((12600 - t2) / (12600 - 3675), 3)
    assert (low - number, high - number) == pytest.approx((0.82 - 0.83, 0.85 - 0.83), abs=2e-3)
    assert "0.83 over all 5" in said


def test_the_collapse_is_on_the_variable_that_acts(tmp_path: Path) -> None:
    through = found(run_logit_scale(synthetic_bench(tmp_path, "small", LAW)))
    beside = found(run_logit_scale(synthetic_bench(tmp_path, "small", replace(LAW, through_scale=0.0))))
    assert through["R² of log T on the logit scale at p = 59"].ours > 0.95
    assert through["R² of log T on ρ alone at p = 59"].ours < 0.6
    assert beside["R² of log T on ρ alone at p = 59"].ours > 0.99
    assert beside["what ρ adds to the logit scale at p = 59"].ours > 0.2


def test_collapse_of_medians_is_least_squares_on_them() -> None:
    rng = np.random.default_rng(0)
    cells = {}
    for rho in (1.0, 1.05, 1.1):
        for tau in (1.0, 1.5):
            log = [
                Log("x", seed, {"step": np.array([0, 1, at]), "accuracy.test": np.array([0.0, 0.0, 1.0]),
                                "accuracy.test_unmirrored": np.zeros(3), "logits.norm": np.full(3, 20 * rho / tau)})
                for seed, at in enumerate(np.sort(rng.integers(900, 4000, 3)))
            ]  # fmt: skip
            cells[rho, tau] = read_cell(log)
    got = collapse_of(cells)
    assert got is not None
    y = np.log([cell.median.value for cell in cells.values()])
    for value, x in (
        (got.on_scale, [c.scale for c in cells.values()]),
        (got.on_norm, [rho for rho, _ in cells]),
    ):
        assert value == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-6)


def test_runs_that_have_not_grokked_stay_bounds(tmp_path: Path) -> None:
    law = replace(LAW, constant=lambda p: 0.74, budget=9000)
    result = run_logit_scale(synthetic_bench(tmp_path, "small", law))
    row = rows(result)["grok step at p = 59, ρ = 1.15, τ = 1"]
    assert row["ours"] is None
    assert row["interval"][1] is None
    assert "not there within the budget" in row["note"]
    fraction = rows(result)["recovery fraction at p = 59"]
    assert fraction["ours"] is None
    assert fraction["interval"][0] > 0.5
    assert "did not get there" in fraction["note"]
    assert "cannot be told" in result.sentence


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "shared"), (-0.04, "separate")])
def test_full_says_whether_the_exponent_falls_with_the_modulus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slope: float, verdict: str
) -> None:
    def fewer(scale: Scale) -> dict[str, Part]:
        """The parts of the full study with fewer seeds, and at p = 59 alone with the grid of temperatures."""
        return {
            name: replace(
                part,
                seeds=part.seeds[:4],
                cells=tuple(c for c in part.cells if name == "59" or part.loss == "squared" or (
                    c[1] in (1.0, 1.7) and c[0] in (0.85, 1.0, RAISED, 1.05 if part.p == 43 else 1.0)
                )),
            )
            for name, part in logit_scale_parts(scale).items()
        }  # fmt: skip

    monkeypatch.setattr("grokscope.studies.logit_scale.logit_scale_parts", fewer)
    law = Law(
        lambda p: 7.6 + slope * (p - 59), lambda p: 0.7 - slope * (p - 59), lambda p: 54.5 * (p / 59) ** 0.38,
        through_scale=0.85, squared_alpha=4.24,
    )  # fmt: skip
    result = run_logit_scale(synthetic_bench(tmp_path, "full", law))
    assert found(result)["one exponent for all moduli, or one for each"].ours == verdict
    table = rows(result)
    for p in (43, 59, 67, 97, 113):
        assert table[f"the same times W_c at p = {p}"]["ours"] == pytest.approx(
            7.6 + slope * (p - 59), abs=0.25
        )
        size = table[f"W_c at p = {p}"]["ours"]
        assert table[f"exponent of T in the norm at p = {p}"]["ours"] == pytest.approx(
            table[f"the same times W_c at p = {p}"]["ours"] / size, rel=1e-4
        )
    assert table["R² of log T on the logit scale at p = 59"]["verdict"] in ("agrees", "differs")
    squared = table["squared error: slowing from ρ = 1 to 1.15 at p = 59"]
    assert squared["published"] == 1.89
    assert squared["ours"] == pytest.approx(math.exp(0.15 * 4.24), rel=0.05)
    assert squared["verdict"] == "agrees"
    assert found(result)["squared error: logit scale at p = 59, ρ = 1"].ours == 1.0
    assert "grok step under squared error averaged over classes, p = 59, ρ = 1.15" in found(result)


def test_the_law_stops_where_the_softmax_collapses() -> None:
    def cell(scale: float) -> Cell:
        crossings = tuple(
            Log("x", s, {"step": np.array([0, 9]), "a": np.array([0.0, 1.0])}).reached("a", 1)
            for s in range(3)
        )
        return Cell(Times((0, 1, 2), crossings, crossings), (scale,) * 3, (scale,) * 3, ())

    cells = {(1.0, 1.0): cell(20), (1.05, 1.0): cell(25), (1.1, 1.0): cell(80), (1.15, 1.0): cell(90)}
    panel = Panel(Part(43, (0, 1, 2), tuple(cells)), Control(cells[1.0, 1.0].times, (50.0,)), cells)
    assert list(panel.law_cells()) == [1.0, 1.05]
    assert panel.collapsed() == [1.1, 1.15]
    assert {rho for rho, _, _ in panel.runs()} == {1.0, 1.05}


def test_ratios_of_medians_keep_their_bounds() -> None:
    sooner = median_interval([90.0] * 3, [100.0] * 3)
    later = median_interval([190.0] * 3, [200.0] * 3)
    assert ratio_of(later, sooner) == (2.0, (1.9, pytest.approx(200 / 90)))
    value, (low, high) = ratio_of(median_interval([400.0] * 3, [math.inf] * 3), sooner)
    assert (value, low, high) == (None, 4.0, None)


def test_the_printed_pair_is_read() -> None:
    assert published_pair(published("logit_scale")["squared_error"]["59"]) == (1175, 2225, 1.89)


def test_the_study_is_registered_and_writes_equal_bytes(tmp_path: Path) -> None:
    assert choose_study("logit-scale") is run_logit_scale
    bench = synthetic_bench(tmp_path, "small", LAW)
    first = write_result(run_logit_scale(bench), tmp_path / "a", bench.used)
    second = write_result(run_logit_scale(bench), tmp_path / "b", bench.used)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert "Grok step over the logit scale" in first[0].read_text()


@pytest.mark.slow
def test_a_temperature_speeds_up_a_held_run(tmp_path: Path) -> None:
    """Real runs: p = 59, the raised norm at two temperatures, three seeds, W_c as published."""
    from grokscope.training.fleet import train_fleet

    def train(runs: Any) -> None:
        ended = train_fleet([recipe for _, recipe in runs], [tmp_path / "checkpoints" / name for name, _ in runs],
                            device="cpu", resume=True)  # fmt: skip
        assert all(run.state == "finished" for run in ended)

    part = Part(59, (0, 1, 2), (BASE, (RAISED, 1.5), (RAISED, 1.7)))
    panel = measure_parts(Bench(tmp_path, "small", train), {"59": part})["59"]
    facts = published("logit_scale")
    assert panel.control.critical_norm == pytest.approx(facts["W_c"]["59"], rel=0.03)
    table = facts["mediation_rho_1.15"]["59"]
    for tau in (1.5, 1.7):
        place = table["tau"].index(tau)
        cell = panel.cells[RAISED, tau]
        assert cell.median.value == pytest.approx(table["T"][place], rel=0.15)
        assert cell.scale == pytest.approx(table["L"][place], rel=0.1)
    assert panel.cells[RAISED, 1.7].scale < panel.cells[BASE].scale < panel.cells[RAISED, 1.5].scale * 1.1
    assert (
        recover(replace(panel, cells={**panel.cells, (RAISED, 1.0): panel.cells[RAISED, 1.5]})).fraction
        is not None
    )


def test_cells_that_are_not_finished_are_left_out_and_named(tmp_path: Path) -> None:
    part = {"59": logit_scale_parts("full")["59"]}
    whole = synthetic_bench(tmp_path, "full")
    norm = measure_parts(whole, part)["59"].control.critical_norm
    arms = part["59"].arms(norm)

    def without(*places: tuple[float, float]) -> SyntheticBench:
        bench = synthetic_bench(tmp_path, "full")
        gone = {name for place in places for name, _ in arms[place].runs()}
        bench.trained, bench.only_finished = [name for name in whole.trained if name not in gone], True
        return bench

    some = without((1.05, 1.3), (RAISED, 1.5))
    panel = measure_parts(some, part)["59"]
    assert set(panel.cells) == set(part["59"].cells) - {(1.05, 1.3), (RAISED, 1.5)}
    assert panel.temperatures == [1.0, 1.15, 1.3, 1.7]
    assert len(some.omitted) == 2
    assert all("is not finished" in words for words in some.omitted)
    with pytest.raises(UnfinishedError, match=r"ρ = 1.15 are not finished"):
        measure_parts(without((RAISED, 1.0)), part)


def test_runs_that_grok_before_the_norm_is_held_say_nothing_about_the_slowing(tmp_path: Path) -> None:
    part = {"59-squared": logit_scale_parts("full")["59-squared"]}
    law = Law(lambda p: 7.64, lambda p: 0.72, lambda p: 54.5, free=300.0, squared_alpha=0.0)
    law.constant = lambda p: math.log(300) - 7.64
    panel = measure_parts(synthetic_bench(tmp_path, "full", law), part)["59-squared"]
    rows, _ = squared_rows(panel, published("logit_scale")["squared_error"], varied=False)
    assert [row.verdict for row in rows] == ["differs", "differs", "cannot tell"]
    assert "grok before step 500" in rows[-1].note
