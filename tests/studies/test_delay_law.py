"""The study of the delay law on runs whose law is known, and on real ones."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from grokscope.errors import GrokscopeError
from grokscope.studies import Finding, StudyResult, choose_study, read_saved, write_result
from grokscope.studies.clamp_grid import Grid, control, measure_grid
from grokscope.studies.delay_law import run_delay_law
from grokscope.studies.delay_law_levers import Findings
from grokscope.studies.published import published
from grokscope.studies.result import compared, plain
from grokscope.studies.rows import with_norm_told
from grokscope.studies.sweep import Arm
from tests.studies.synthetic import Law, synthetic_bench


def rows(result: StudyResult) -> dict[str, dict]:
    return {row["quantity"]: row for row in result.as_json()["rows"]}


def test_arms_differ_in_seed_and_share_everything_else() -> None:
    grid = Grid((0, 1), {59: (0.9, 1.0)})
    (name, free), (_, second) = grid.free_arm(59).runs()
    assert name == "delay-law.p59.free-s0"
    assert free.intervene.clamp is None
    assert (free.task, free.model, free.train) == (second.task, second.model, second.train)
    name, held = grid.clamped_arm(59, 0.9, 54.5127).runs()[0]
    assert name == "delay-law.p59.norm54.513.rho0.9-s0"
    clamp = held.intervene.clamp
    assert clamp is not None
    assert (clamp.norm, clamp.rho, clamp.start, clamp.once) == (54.513, 0.9, 500, False)
    assert (held.task, held.model, held.train, held.seed) == (free.task, free.model, free.train, free.seed)


def test_the_recipe_is_the_published_setup() -> None:
    setup = published("delay_law")["setup"]
    ((_, recipe),) = Arm("x", "delay-law", (), (0,)).runs()
    task, model = recipe.build()
    assert setup["train_fraction"] == 0.4
    assert int(task.train_mask.sum()) == round(0.4 * 59**2)
    assert model.shapes == {
        "embed.W_E": (59, 128), "hidden.1.W": (256, 256), "hidden.1.b": (256,), "head.W_U": (256, 59),
        "head.b_U": (59,),
    }  # fmt: skip
    train = recipe.train
    assert (train.optimizer, train.betas, train.eps, train.lr) == ("adamw", (0.9, 0.999), 1e-8, 1e-3)
    assert (train.weight_decay, train.decay, train.batch_size) == (1.0, "before", 0)
    assert recipe.intervene.decay == {"biases": 0.0}


def test_a_law_like_the_published_one_agrees(tmp_path: Path) -> None:
    bench = synthetic_bench(tmp_path, "small", Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5))
    result = run_delay_law(bench)
    found = rows(result)
    alpha = found["α in log T = α ρ + c"]
    assert alpha["verdict"] == "agrees"
    assert alpha["interval"][0] < 7.64 < alpha["interval"][1]
    assert alpha["ours"] == pytest.approx(7.64, abs=0.25)
    assert found["W_c at p = 59"]["verdict"] == "agrees"
    assert found["W_c at p = 59"]["ours"] == pytest.approx(54.5, rel=0.02)
    assert found["R² of that line"]["verdict"] == "agrees"
    assert len(bench.trained) == 4 + 5 * 4
    assert "α = 7" in result.sentence


def test_another_law_differs(tmp_path: Path) -> None:
    result = run_delay_law(
        synthetic_bench(tmp_path, "small", Law(lambda p: 4.0, lambda p: 4.3, lambda p: 70.0))
    )
    found = rows(result)
    assert found["α in log T = α ρ + c"]["verdict"] == "differs"
    assert found["W_c at p = 59"]["verdict"] == "differs"
    assert found["grok step at ρ = 0.85"]["verdict"] == "differs"


def test_runs_that_have_not_grokked_are_bounds(tmp_path: Path) -> None:
    law = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5, budget=5400)
    result = run_delay_law(synthetic_bench(tmp_path, "small", law))
    found = rows(result)
    row = found["grok step at ρ = 1.05"]
    assert row["ours"] is None
    assert row["interval"][1] is None
    assert row["interval"][0] > 5000
    assert row["verdict"] == "cannot tell"
    assert "not there within the budget" in row["note"]
    alpha = found["α in log T = α ρ + c"]
    assert alpha["ours"] == pytest.approx(7.64, abs=0.4)


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "shared"), (-0.06, "separate")])
def test_the_scan_says_whether_the_moduli_share_an_exponent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slope: float, verdict: str
) -> None:
    part = Findings((), (Finding("a lever", 2.0),), {"a": 1})
    monkeypatch.setattr("grokscope.studies.delay_law.lever_parts", lambda *given: {"levers": lambda: part})
    monkeypatch.setattr("grokscope.studies.delay_law.sparse_parity", lambda bench: part)
    law = Law(
        lambda p: 7.5 + slope * (p - 59), lambda p: 1.0 - slope * (p - 59), lambda p: 54.5 * (p / 59) ** 0.3,
        mirrored_lead=1.0,
    )  # fmt: skip
    bench = synthetic_bench(tmp_path, "full", law)
    result = run_delay_law(bench)
    findings = {finding.quantity: finding for finding in result.findings}
    assert findings["one exponent for all moduli, or one for each"].ours == verdict
    assert findings["a lever"].ours == 2.0
    assert result.data["levers"] == {"a": 1}
    found = rows(result)
    assert found["exponent of W_c in p, all five moduli"]["ours"] == pytest.approx(0.3, abs=0.03)
    for p in (41, 53, 71):
        alpha = found[f"α at p = {p}"]
        assert alpha["ours"] == pytest.approx(7.5 + slope * (p - 59), abs=0.3)
    assert len([name for name in bench.trained if ".p31." in name]) == 12


def test_free_runs_that_never_grok_have_no_critical_norm(tmp_path: Path) -> None:
    bench = synthetic_bench(tmp_path, "small", Law(lambda p: 7.6, lambda p: 0.7, lambda p: 54.5, budget=300))
    arm = Grid((0, 1), {59: (1.0,)}).free_arm(59)
    bench.train_arms([arm])
    with pytest.raises(GrokscopeError, match="no free run has grokked"):
        control(bench.logs(arm))


def test_a_result_is_a_page_and_json_of_equal_bytes(tmp_path: Path) -> None:
    bench = synthetic_bench(tmp_path, "small")
    result = run_delay_law(bench)
    page, data = write_result(result, tmp_path / "a", bench.used)
    again = write_result(run_delay_law(bench), tmp_path / "b", bench.used)
    assert [path.read_bytes() for path in (page, data)] == [path.read_bytes() for path in again]
    whole = json.loads(data.read_text(), parse_constant=lambda text: pytest.fail(f"{text} in the JSON"))
    assert set(whole) >= {"study", "scale", "rows", "findings", "data"}
    shape = {"quantity", "published", "ours", "interval", "verdict", "note"}
    assert all(set(row) == shape for row in whole["rows"])
    assert len(whole["data"]["dense"]["clamped"]["p59.rho0.85"]["grok_90"]) == 4
    text = page.read_text().replace("<wbr>", "")
    assert re.search(r"delay-law\.p59\.norm54\.\d{3}\.rho0\.85-s0", text)
    assert "<script" not in text
    assert 'href="delay-law' not in text
    (tmp_path / "a" / "delay-law.p59.free-s0.html").write_text("a page")
    page, _ = write_result(result, tmp_path / "a", bench.used)
    assert 'href="delay-law.p59.free-s0.html"' in page.read_text()


def test_only_finished_runs_are_used_and_the_rest_is_named(tmp_path: Path) -> None:
    bench = synthetic_bench(tmp_path, "full", Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5))
    bench.only_finished = True
    bench.trained = [
        name for rho in (None, 0.85, 0.9, 1.0) for arm in arms_of(bench, rho) for name, _ in arm.runs()
    ]
    already = list(bench.trained)
    result = run_delay_law(bench)
    assert bench.trained == already
    found = rows(result)
    assert found["grok step at ρ = 0.90"]["ours"] is not None
    assert "grok step at ρ = 0.95" not in found
    assert "α at p = 41" not in found
    said = "; ".join(bench.omitted)
    for lacking in ("rho0.95 is not finished", "the scan over moduli", "learning rate", "sparse parity"):
        assert lacking in said
    for some, said in (((), "16 of 16 runs are not finished"), ((None,), "none of 9 arms"),
                       ((None, 0.85), "needs two held norms")):  # fmt: skip
        bench.trained = [name for rho in some for arm in arms_of(bench, rho) for name, _ in arm.runs()]
        with pytest.raises(GrokscopeError, match=said):
            run_delay_law(bench)


def test_a_scan_that_is_finished_in_part_has_the_rows_of_that_part(tmp_path: Path) -> None:
    bench = synthetic_bench(tmp_path, "full", Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5))
    bench.only_finished = True
    scan = Grid(tuple(range(12)), dict.fromkeys((41, 53, 71), (0.85, 1.0, 1.15)), free=(31,))
    arms = [arm for rho in (None, 0.85, 1.0) for arm in arms_of(bench, rho)]
    arms += [scan.free_arm(p) for p in scan.moduli]
    for p, held in ((71, (0.85, 1.0, 1.15)), (53, (0.85,))):
        norm = control(
            [bench.law.log(name, recipe) for name, recipe in scan.free_arm(p).runs()]
        ).critical_norm
        arms += [scan.clamped_arm(p, rho, norm) for rho in held]
    bench.trained = [name for arm in arms for name, _ in arm.runs()]
    found = rows(run_delay_law(bench))
    assert found["grok step at p = 53, ρ = 0.85"]["ours"] is not None
    assert "grok step at p = 53, ρ = 1.00" not in found
    assert found["α at p = 71"]["ours"] is not None
    assert "α at p = 53" not in found
    assert "α shared by all moduli" not in found
    assert found["W_c at p = 41"]["ours"] is not None
    assert "p41" in "; ".join(bench.omitted)


def test_a_difference_says_what_another_norm_would_make_of_it() -> None:
    row = compared("grok step", 1000.0, 1250.0, (1200.0, 1300.0))
    assert row.verdict == "differs"
    told = with_norm_told(row, 51.0, 50.0, 10.0)
    assert told.note.endswith(
        "2 % larger, for which the law gives 1.22 times the step; ours is 1.25 times theirs"
    )
    assert "0.905 times the step" in with_norm_told(row, 49.5, 50.0, 10.0).note
    agrees = compared("grok step", 1250.0, 1250.0, (1200.0, 1300.0))
    assert with_norm_told(agrees, 51.0, 50.0, 10.0) == agrees


def arms_of(bench, rho: float | None) -> list[Arm]:
    """Of the dense grid: the free controls, or the runs held at ρ·W_c."""
    grid = Grid(tuple(range(16)), {59: (1.0,)})
    free = grid.free_arm(59)
    if rho is None:
        return [free]
    logs = [bench.law.log(name, recipe) for name, recipe in free.runs()]
    return [grid.clamped_arm(59, rho, control(logs).critical_norm)]


def heads(bench, arm: Arm) -> list[float]:
    return [10.0 + 0.1 * seed for seed in arm.seeds]


def test_a_saved_result_stands_for_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grokscope.studies.delay_law_levers.last_head_norms", heads)
    law = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5, budget=9000)
    first = synthetic_bench(tmp_path, "full", law)
    whole = run_delay_law(first)
    assert {"dense", "p_scan", "learning_rate", "transformer", "layer_norm", "sparse_parity"} == set(
        whole.data
    )
    _, file = write_result(whole, tmp_path, {}, recipes=first.recipes)
    again = synthetic_bench(tmp_path, "full", law)
    again.saved = read_saved(file, "delay-law", "full")
    result = run_delay_law(again)
    assert again.trained == []
    assert (result.rows, result.findings, result.sentence) == (whole.rows, whole.findings, whole.sentence)
    assert plain(result.data) == json.loads(file.read_text())["data"]
    assert len(again.taken) == len({name.rsplit("-s", 1)[0] for name in first.trained})


def test_what_a_saved_result_lacks_is_trained(tmp_path: Path) -> None:
    law = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5)
    first = synthetic_bench(tmp_path, "small", law)
    whole = run_delay_law(first)

    def again(change, recipes=first.recipes) -> tuple[StudyResult, list[str]]:
        bench = synthetic_bench(tmp_path, "small", law)
        data = plain(whole.data)
        change(data["dense"])
        bench.saved = {"data": data, "recipes": recipes}
        return run_delay_law(bench), bench.trained

    result, trained = again(lambda dense: dense["clamped"].pop("p59.rho0.95"))
    assert result.rows == whole.rows
    assert len(trained) == 4
    assert all("rho0.95" in name for name in trained)
    # the norm of held runs is that of the controls of the same seeds
    result, trained = again(lambda dense: dense["free"]["59"].update(seeds=[4, 5, 6, 7]))
    assert result.rows == whole.rows
    assert len(trained) == 4 + 5 * 4
    with pytest.raises(GrokscopeError, match="dense / free / 59 of a saved result: KeyError"):
        again(lambda dense: dense["free"]["59"].pop("norm_at_grok"))


def test_runs_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    law = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5)
    first = synthetic_bench(tmp_path, "small", law)
    whole = run_delay_law(first)
    (arm,) = [name for name in first.recipes if "rho0.95" in name]
    other = json.loads(json.dumps(first.recipes))
    other[arm]["train"]["lr"] = 0.002
    absent = {name: config for name, config in first.recipes.items() if name != arm}
    for recipes in (other, absent):
        bench = synthetic_bench(tmp_path, "small", law)
        bench.saved = {"data": plain(whole.data), "recipes": recipes}
        assert run_delay_law(bench).rows == whole.rows
        assert len(bench.trained) == 4
        assert all(name.startswith(arm) for name in bench.trained)


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(GrokscopeError, match="did you mean 'delay-law'"):
        choose_study("delaylaw")


@pytest.mark.slow
def test_the_small_grid_finds_the_published_times(tmp_path: Path) -> None:
    """Real runs: p = 59, two values of rho, four seeds."""
    from grokscope.studies.sweep import Bench
    from grokscope.training.fleet import train_fleet

    def train(runs) -> None:
        ended = train_fleet(
            [recipe for _, recipe in runs], [tmp_path / "checkpoints" / name for name, _ in runs], device="cpu",
            resume=True,
        )  # fmt: skip
        assert all(run.state == "finished" for run in ended)

    found = measure_grid(
        Bench(tmp_path, "small", train), Grid(tuple(range(4)), {59: (0.85, 1.0)}), ("dense",)
    )
    dense = published("delay_law")["dense_p59"]
    assert found.controls[59].critical_norm == pytest.approx(dense["W_c"], rel=0.03)
    for rho in (0.85, 1.0):
        place = dense["rho"].index(rho)
        median = found.clamped[59, rho].median()
        assert median.low <= dense["hi"][place]
        assert median.high >= dense["lo"][place]
    fit = found.fit()
    assert math.isfinite(fit.alpha)
    assert fit.profile_low is not None
    assert fit.profile_low < dense["fit"]["alpha"] < (fit.profile_high or math.inf)
