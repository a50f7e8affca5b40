"""The study of Jacobian alignment: its rules on runs whose times are known, and real runs end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from grokscope.errors import GrokscopeError
from grokscope.measures.crossings import Crossing
from grokscope.studies import STUDIES, grokalign, grokalign_timing
from grokscope.studies.grokalign import assemble, run_grokalign
from grokscope.studies.grokalign_readings import ALIGNED, NOISE, Reading, order_of
from grokscope.studies.grokalign_rows import alignment_rows, faster, speed_rows, speedup, time_rows
from grokscope.studies.grokalign_runs import BASELINE, Case, cases_of, penalty, squared_strength
from grokscope.studies.published import published
from grokscope.studies.result import Row, read_saved, write_result
from grokscope.studies.sweep import Bench, UnfinishedError
from grokscope.training import read_recipe, train

CASE = next(case for case in cases_of("small") if case.speedup == "mse")
SAVES = np.array([0, 1, 10, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000])


def run_of(seed: int, after: int | None, by: int | None, **changes) -> Reading:
    """A run that reached its stop in the given interval."""
    series = {
        "accuracy.test": np.linspace(0.1, 0.9, len(SAVES)), ALIGNED: np.linspace(0.1, 0.5, len(SAVES)),
        NOISE: np.linspace(0.1, 0.4, len(SAVES)),
    }  # fmt: skip
    one = Reading(
        seed=seed, reached=Crossing(after, by, by is None), fit=Crossing(90, 100, False), at_fit=0.2, final=0.86,
        ends={name: float(values[-1]) for name, values in series.items()}, saves=SAVES, series=series,
        first="alignment", onsets={},
    )  # fmt: skip
    return replace(one, **changes)


def runs_of(steps: Sequence[float], **changes) -> list[Reading]:
    return [run_of(seed, round(step) - 10, round(step) + 10, **changes) for seed, step in enumerate(steps)]


def one_row(rows: Sequence[Row], part: str) -> Row:
    found = [row for row in rows if part in row.quantity]
    assert len(found) == 1
    return found[0]


def test_the_speed_up_is_the_geometric_mean_of_the_seeds_own_ratios():
    found = speedup(runs_of([4000, 6000, 8000, 9000]), runs_of([1000, 2000, 2000, 1000]))
    assert found.ratios == pytest.approx([4, 3, 4, 9])
    assert found.mean == pytest.approx((4 * 3 * 4 * 9) ** 0.25)
    expected = stats.t.interval(0.95, 3, *(f(np.log([4, 3, 4, 9])) for f in (np.mean, stats.sem)))
    assert found.interval == pytest.approx(tuple(math.exp(end) for end in expected))
    assert faster(found) == "agrees"
    assert faster(speedup(runs_of([1000, 2000, 2000]), runs_of([4000, 7000, 9000]))) == "differs"
    assert faster(speedup(runs_of([1000, 2000, 2000]), runs_of([900, 2100, 1900]))) == "cannot tell"
    assert faster(speedup(runs_of([4000, 6000]), runs_of([100, 100]))) == "cannot tell"


def test_the_interval_covers_the_law_that_was_planted():
    """Ratios of 2 with noise of 20 % in both: in 95 of 100 studies the interval holds 2."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        plain, other = (base * np.exp(0.2 * rng.normal(size=5)) for base in (8000, 4000))
        found = speedup(runs_of(plain.tolist()), runs_of(other.tolist()))
        assert found.interval is not None
        held += found.interval[0] <= 2 <= found.interval[1]
    assert 0.92 <= held / 400 <= 0.98


def test_a_run_that_did_not_get_there_is_a_bound():
    late = [*runs_of([4000, 4100, 4200]), run_of(3, 20000, None)]
    quick = runs_of([1000, 1000, 1000, 1000])
    slower = speedup(late, quick)
    assert slower.unreached_baseline == 1
    assert slower.ratios[-1] == pytest.approx(20)
    # more than that is proved, never less
    assert faster(slower) == "agrees"
    bounded = speedup(runs_of([9000, 9000, 9100, 9200]), [*quick[:3], run_of(3, 2000, None)])
    assert bounded.unreached == 1
    assert bounded.interval is not None
    assert bounded.interval[0] > 1
    assert faster(bounded) == "cannot tell"
    rows, _ = speed_rows(CASE, {BASELINE: late, CASE.main: quick})
    assert "1 baselines did not get there: a lower bound" in rows[0].note


def test_where_no_run_got_there_nothing_is_said():
    never = [run_of(seed, 2000, None) for seed in range(3)]
    found = speedup(never, never)
    assert (found.ratios, found.mean, found.interval) == ((), None, None)
    assert faster(found) == "cannot tell"
    rows, _ = speed_rows(CASE, {BASELINE: never, CASE.main: never})
    assert rows[0].ours is None
    assert "no run got there" in rows[0].note
    (row,) = time_rows(CASE, {BASELINE: never, CASE.main: never}, {BASELINE: 1.0, CASE.main: 2.0})
    assert row.ours is None
    mixed = speedup([*never[:2], *runs_of([900, 900, 900])[2:]], [never[0], *runs_of([100, 100, 100])[1:]])
    assert mixed.ratios == pytest.approx([20, 9])


def test_seeds_are_matched():
    found = speedup([run_of(3, 90, 110), run_of(1, 890, 910)], [run_of(1, 290, 310), run_of(7, 0, 2)])
    assert found.ratios == (3,)
    with pytest.raises(ValueError, match="without a common seed"):
        speedup(runs_of([100]), [run_of(5, 0, 2)])


def test_rows_stand_beside_what_was_published():
    readings = {BASELINE: runs_of([4000, 6000, 8000, 9000]), CASE.main: runs_of([1000, 2000, 2000, 1500])}
    rows, findings = speed_rows(CASE, readings)
    theirs = published("grokalign")["accelerate"]["speedup_steps"]["mse"]
    assert str(theirs["grokalign"]) in str(rows[0].published)
    assert rows[0].verdict == "agrees"
    # a published step is an epoch: two updates of 500 samples
    assert findings[0].ours == (7000 + 10) / 2
    mnist = next(case for case in cases_of("small", Path("/data")) if case.key == "mnist.mse")
    rows, _ = speed_rows(mnist, {BASELINE: readings[BASELINE], mnist.main: readings[CASE.main]})
    assert rows[0].published == theirs["grokalign"]
    assert rows[0].verdict == "differs"


def test_with_learned_embeddings_the_claim_is_that_there_is_none():
    learned, fixed = (case for case in cases_of("full") if case.key.startswith("transformer"))
    quick = {BASELINE: runs_of([4000, 6000, 8000]), learned.main: runs_of([1000, 1500, 2000])}
    assert speed_rows(learned, quick)[0][0].verdict == "differs"
    assert speed_rows(fixed, quick)[0][0].verdict == "agrees"
    slow = {BASELINE: runs_of([1000, 1500, 2000]), learned.main: runs_of([4000, 6000, 8000])}
    assert speed_rows(learned, slow)[0][0].verdict == "agrees"
    assert "frozen" in str(fixed.overrides)
    assert "frozen" not in str(learned.overrides)


def test_time_is_steps_and_what_a_step_costs():
    readings = {BASELINE: runs_of([4000, 6000, 8000]), CASE.main: runs_of([1000, 1500, 2000])}
    (row,) = time_rows(CASE, readings, {BASELINE: 0.002, CASE.main: 0.005})
    in_steps = speedup(readings[BASELINE], readings[CASE.main]).mean
    assert in_steps is not None
    assert row.ours == pytest.approx(in_steps / 2.5)
    assert row.verdict == "agrees"
    (row,) = time_rows(CASE, readings, {BASELINE: 0.001, CASE.main: 0.006})
    assert row.verdict == "differs"
    assert time_rows(CASE, readings, {BASELINE: 0.001}) == []


def test_alignment_and_robustness_are_compared_seed_by_seed():
    readings = {
        BASELINE: runs_of([4000, 6000, 8000]),
        CASE.main: [
            replace(
                one,
                ends={ALIGNED: one.ends[ALIGNED] + 0.1 + 0.01 * one.seed, NOISE: one.ends[NOISE] * 0.5},
            )
            for one in runs_of([1000, 1500, 2000], first="accuracy")
        ],
    }
    rows = alignment_rows(CASE, readings)
    turned = one_row(rows, "largest cosine")
    assert turned.ours == pytest.approx(0.11)
    assert turned.verdict == "agrees"
    assert one_row(rows, "under noise").verdict == "differs"
    assert one_row(rows, "rises before").verdict == "cannot tell"
    readings[CASE.main] = runs_of([1000, 1500, 2000])
    order = one_row(alignment_rows(CASE, readings), "rises before")
    assert order.verdict == "agrees"
    assert order.ours == "6 of 6"


def test_order_is_said_only_where_the_saves_tell_it():
    def rise(at: int) -> np.ndarray:
        return np.where(steps < at, 0.1, 0.1 + 0.02 * (steps - at) / 10)

    steps = np.arange(0, 1000, 10)
    fit = Crossing(90, 100, False)
    for early, late, expected in ((300, 600, "alignment"), (600, 300, "accuracy"), (300, 304, "overlap")):
        series = {ALIGNED: rise(early), "accuracy.test": rise(late)}
        found, onsets = order_of(steps, series, fit)
        assert found == expected
        assert set(onsets) == {"alignment", "accuracy"}
    flat = {ALIGNED: np.full(100, 0.1), "accuracy.test": rise(300)}
    assert order_of(steps, flat, fit)[0] == "no onset"
    assert order_of(steps, flat, Crossing(990, None, True))[0] == "no onset"


def test_units_of_the_penalty():
    """Ours is half the sum over ten classes where theirs is the mean: five times as large, and so is λ_J."""
    setup = published("grokalign")["accelerate"]
    z, y = np.random.default_rng(0).normal(size=(2, 7, 10))
    assert squared_strength() / setup["lambda_J"]["mse"] == pytest.approx(
        (0.5 * ((z - y) ** 2).sum(1).mean()) / ((z - y) ** 2).mean()
    )
    xor = next(case for case in cases_of("small") if case.words == "XOR")
    recipe = read_recipe("digits", xor.arm(xor.methods[1]).overrides, 0)
    facts = published("grokalign")["xor"]
    # theirs: w − lr (∇(f − y)² + λ_J ∇J + wd w); ours: w (1 − lr' wd') − lr' (½ of the first gradient + λ_J' ∇J)
    assert recipe.train.lr / 2 == pytest.approx(facts["lr"])
    assert recipe.train.lr * recipe.train.weight_decay == pytest.approx(facts["lr"] * facts["wd"])
    assert recipe.intervene.jacobian is not None
    assert recipe.train.lr * recipe.intervene.jacobian.strength == pytest.approx(
        facts["lr"] * facts["lambda_J"]
    )


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_arm_is_a_recipe_and_seeds_share_their_splits(scale):
    names = set()
    for case in cases_of(scale):
        arms = case.arms()
        assert next(iter(arms)) == BASELINE
        assert case.main in arms
        for arm in arms.values():
            first = read_recipe(arm.recipe, arm.overrides, arm.seeds[0])
            assert first.train.until == f"accuracy.test >= {case.stop!r}"
            names.add(arm.name)
            whole = arm.name in (arms[BASELINE].name, arms[case.main].name)
            assert arm.seeds == case.seeds[: len(case.seeds) if whole else 3]
    assert len(names) == sum(len(case.methods) for case in cases_of(scale))
    published_seeds = published("grokalign")["accelerate"]["seeds"]
    assert len(cases_of(scale)[0].seeds) == (3 if scale == "small" else published_seeds)


def test_mnist_s_arms_are_recipes_wherever_its_files_lie(tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + b"".join(length.to_bytes(4, "big") for length in (1100, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            head + bytes(range(256)) * (1100 * 784 // 256) + bytes(192)
        )
        labels = bytes([0, 0, 8, 1]) + (1100).to_bytes(4, "big") + bytes(i % 10 for i in range(1100))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    setup = published("grokalign")["accelerate"]
    for case in cases_of("small", folder):
        if not case.key.startswith("mnist"):
            continue
        arm = case.arms()[case.main]
        recipe = read_recipe(arm.recipe, arm.overrides, 0)
        task, _ = recipe.build()
        assert (task.inputs.shape, int(task.train_mask.sum())) == ((2048, 784), 1024)
        assert (recipe.train.batch_size, recipe.train.dtype, recipe.train.weight_decay) == (
            256,
            "float64",
            0.01,
        )
        theirs = setup["lambda_J"]["ce" if recipe.train.loss == "cross-entropy" else "mse"]
        assert recipe.intervene.jacobian is not None
        assert recipe.intervene.jacobian.strength == pytest.approx(
            theirs * (5 if recipe.train.loss == "squared" else 1)
        )


def test_times_are_measured_once(tmp_path, monkeypatch):
    case = tiny()
    kept = tmp_path / "reports" / "seconds.json"
    monkeypatch.setattr(grokalign_timing, "BUDGET", 0.01)
    first = grokalign_timing.seconds_per_update(case.arms(), kept)
    assert set(first) == set(case.arms())
    assert all(value > 0 for value in first.values())
    monkeypatch.setattr(grokalign_timing, "measure_speed", None)
    assert grokalign_timing.seconds_per_update(case.arms(), kept) == first


def tiny() -> Case:
    """A hundred digits and a narrow network."""
    setting = ("task.train=60", "task.test=80", "model.hidden=[24]", "train.batch_size=0", "train.lr=0.01")
    methods = cases_of("small")[0].methods[:1]
    return Case("tiny", "few digits", "digits", setting, 0.75, 150, 1, 5, (*methods, penalty(0.01)),
                penalty(0.01).label, (0, 1, 2), "mse")  # fmt: skip


def bench_in(workspace: Path, *, finished: bool = False) -> Bench:
    def train_all(runs):
        for name, recipe in runs:
            train(recipe, workspace / "checkpoints" / name, resume=True)

    return Bench(workspace, "small", train_all, only_finished=finished)


def test_real_runs_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(grokalign, "cases_of", lambda scale, data: [tiny()])
    monkeypatch.setattr(grokalign_timing, "BUDGET", 0.02)
    with pytest.raises(UnfinishedError):
        run_grokalign(bench_in(tmp_path, finished=True))
    result = run_grokalign(bench_in(tmp_path))
    assert "few digits" in result.sentence
    assert {row.verdict for row in result.rows} <= {"agrees", "differs", "cannot tell"}
    page, numbers = write_result(result, tmp_path / "reports", {})
    held = json.loads(numbers.read_text())
    arms = held["data"]["tiny"]["arms"]
    assert {of["method"]: len(of["readings"]) for of in arms.values()} == {BASELINE: 3, tiny().main: 3}
    assert len(result.figures) == 2
    again = run_grokalign(bench_in(tmp_path, finished=True))
    write_result(again, tmp_path / "again", {})
    assert (tmp_path / "again" / page.name).read_bytes() == page.read_bytes()


def test_a_saved_result_stands_for_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(grokalign, "cases_of", lambda scale, data: [tiny()])
    monkeypatch.setattr(grokalign_timing, "BUDGET", 0.02)
    first = bench_in(tmp_path)
    page, numbers = write_result(run_grokalign(first), tmp_path / "reports", {}, recipes=first.recipes)
    monkeypatch.setattr(grokalign_timing, "measure_speed", None)
    monkeypatch.setattr("grokscope.studies.grokalign_readings.measure_many", lambda names, *rest, **more: [])
    elsewhere = bench_in(tmp_path / "elsewhere")
    elsewhere.saved = read_saved(numbers, "grokalign", "small")
    again = write_result(run_grokalign(elsewhere), tmp_path / "again", {}, recipes=elsewhere.recipes)
    assert [path.read_bytes() for path in again] == [page.read_bytes(), numbers.read_bytes()]
    assert not (tmp_path / "elsewhere" / "checkpoints").exists()
    assert len(elsewhere.taken) == 2


def test_it_is_among_the_studies():
    assert "grokalign" in STUDIES


def test_a_data_set_of_which_only_the_baseline_is_finished_is_drawn():
    result = assemble([(CASE, {BASELINE: runs_of([4000, 6000, 8000])})], {}, "full")
    assert result.rows == ()
    assert len(result.figures) == 2


def test_nothing_to_assemble_is_one_line():
    with pytest.raises(GrokscopeError, match="no run is finished"):
        assemble([(CASE, {})], {}, "small")
