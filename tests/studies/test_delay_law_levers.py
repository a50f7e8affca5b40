"""The learning rate as a lever, and the transformers, on runs whose law is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.studies.clamp_grid import Grid, Measured, measure_grid
from grokscope.studies.delay_law_levers import (
    LAYER_NORM_FRACTIONS,
    LEVER_RHO,
    RATES,
    TRANSFORMER_STEPS,
    Findings,
    last_head_norms,
    layer_norm_arms,
    layer_norm_transformer,
    measure_rates,
    plain_transformer,
    rate_grid,
    rate_lever,
    spread_over,
    transformer_grid,
)
from grokscope.studies.delay_law_parity import REFERENCE, SEEDS, parity_arm, sparse_parity
from grokscope.studies.published import published
from grokscope.studies.sweep import Arm, Bench, UnfinishedError
from grokscope.training.intervene import parameter_spans
from tests.studies.synthetic import Law, synthetic_bench

FACTS = published("delay_law")
LAW = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5, rate_power=0.5)


def rows(found: Findings) -> dict[str, dict[str, Any]]:
    return {row.quantity: row.as_json() for row in found.rows}


def findings(found: Findings) -> dict[str, Any]:
    return {one.quantity: one for one in found.findings}


def dense(bench: Bench) -> Measured:
    """The arms of the dense grid beside which the lever is read."""
    return measure_grid(bench, Grid(tuple(range(16)), {59: LEVER_RHO}), ("dense",))


def test_the_rates_differ_in_nothing_else_from_the_dense_grid() -> None:
    assert rate_grid(RATES[0]).clamped_arm(59, 1.0, 54.513).name == "delay-law.p59.norm54.513.rho1"
    name, faster = rate_grid(8e-3).clamped_arm(59, 1.0, 54.513).runs()[0]
    assert name == "delay-law.p59.lr0.008.norm54.513.rho1-s0"
    _, base = Grid(tuple(range(16)), {59: LEVER_RHO}).clamped_arm(59, 1.0, 54.513).runs()[0]
    assert (faster.train.lr, base.train.lr) == (8e-3, 1e-3)
    assert (faster.task, faster.model, faster.save, faster.intervene, faster.seed) == (
        base.task, base.model, base.save, base.intervene, base.seed,
    )  # fmt: skip


def test_the_smallest_rate_is_not_trained_twice_and_its_norm_is_held_at_all_of_them(tmp_path: Path) -> None:
    bench = synthetic_bench(tmp_path, "full", LAW)
    grid = dense(bench)
    before, norm = len(bench.trained), grid.controls[59].critical_norm
    found = measure_rates(bench, grid)
    assert len(bench.trained) - before == 3 * 4 * 8
    assert len(set(bench.trained)) == len(bench.trained)
    assert all(f"norm{norm:.3f}" in name or "free" in name for name in bench.trained)
    assert found[RATES[0]].controls[59].times == grid.controls[59].times.of_seeds(range(8))
    assert found[RATES[0]].controls[59].norms == grid.controls[59].norms[:8]
    with pytest.raises(UnfinishedError, match=r"at learning rate 0\.001 the runs at ρ"):
        measure_rates(bench, Measured(grid.controls, {}))
    bench.only_finished = True
    bench.trained = [name for name in bench.trained if "lr0.004.norm54" not in name or "rho1.15" not in name]
    with pytest.raises(
        UnfinishedError, match=r"at learning rate 0\.004 the runs at ρ = 1\.15 are not finished"
    ):
        measure_rates(bench, grid)


@pytest.mark.parametrize(("power", "verdict"), [(math.log(6.4) / math.log(8), "agrees"), (0.0, "differs")])
def test_the_lever_of_the_rate_is_that_of_the_law(tmp_path: Path, power: float, verdict: str) -> None:
    law = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5, rate_power=power)
    bench = synthetic_bench(tmp_path, "full", law)
    found = rate_lever(bench, dense(bench), FACTS)
    free = rows(found)["lever of the learning rate, free"]
    assert free["ours"] == pytest.approx(8**power, rel=0.08)
    assert (free["published"], free["verdict"]) == (6.4, verdict)
    least = rows(found)["lever of the learning rate, smallest over ρ: T at 1e-3 over T at 8e-3"]
    most = rows(found)["lever of the learning rate, largest over ρ: T at 1e-3 over T at 8e-3"]
    assert (least["published"], most["published"]) == (1.65, 3.2)
    assert least["ours"] <= most["ours"]
    printed = dict(zip(RATES, (7.3, 8.7, 9.0, 8.7), strict=True))
    for rate in RATES:
        alpha = rows(found)[f"α at learning rate {rate:g}"]
        assert alpha["ours"] == pytest.approx(7.64, abs=0.3)
        assert alpha["published"] == printed[rate]
        lever = findings(found)[
            f"lever of the norm at learning rate {rate:g}: T at ρ = 1.15 over T at ρ = 0.85"
        ]
        assert lever.ours == pytest.approx(math.exp(0.3 * 7.64), rel=0.1)
        assert findings(found)[f"W_c at learning rate {rate:g}"].ours == pytest.approx(54.5, rel=0.02)


def test_a_rate_that_never_groks_at_the_large_norm_is_a_bound(tmp_path: Path) -> None:
    law = Law(lambda p: 7.64, lambda p: 0.74, lambda p: 54.5, rate_power=0.0, budget=6000)
    bench = synthetic_bench(tmp_path, "full", law)
    found = rate_lever(bench, dense(bench), FACTS)
    lever = findings(found)["lever of the norm at learning rate 0.001: T at ρ = 1.15 over T at ρ = 0.85"]
    assert lever.ours is None
    assert lever.interval[1] is None
    assert lever.interval[0] > 3
    assert "8 of them bounds" in rows(found)["α at learning rate 0.001"]["note"]


def test_the_transformer_starts_as_the_published_one(tmp_path: Path) -> None:
    """Its initial norm is the published 35.7, and every matrix that of N(0, 1/fan_in)."""
    from grokscope.tasks import random_stream
    from grokscope.training.intervene import initial_params

    _, recipe = transformer_grid().free_arm(59).runs()[0]
    _, model = recipe.build()
    drawn = model.init(random_stream(recipe.seed, "initial weights"))
    params = initial_params(recipe.intervene, model, drawn)
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in params.values()))
    assert norm == pytest.approx(35.7, abs=0.2)
    for name, fan in (("embed.W_E", 128), ("blocks.0.mlp.W_in", 128), ("blocks.0.mlp.W_out", 512), ("unembed.W_U", 128),
                      ("blocks.0.attn.W_O", 128), ("pos_embed.W_pos", 12800)):  # fmt: skip
        assert float(params[name].std()) == pytest.approx(fan**-0.5, rel=0.08), name


def test_the_transformer_is_the_published_one() -> None:
    _, recipe = transformer_grid().clamped_arm(59, 0.95, 36.88).runs()[0]
    task, model = recipe.build()
    assert all(part.kind == "matrix" for part in model.parts)
    assert model.shapes["embed.W_E"] == (60, 128)
    assert model.shapes["blocks.0.mlp.W_in"] == (128, 512)
    assert model.shapes["blocks.0.attn.W_Q"] == (4, 128, 32)
    assert model.shapes["unembed.W_U"] == (128, 60)
    assert (recipe.train.lr, recipe.train.weight_decay, recipe.train.decay) == (5e-4, 1.0, "before")
    clamp = recipe.intervene.clamp
    assert clamp is not None
    assert clamp.start == 600
    (span,) = parameter_spans(recipe.intervene, model)
    assert span.decay == 1.0
    assert int(task.train_mask.sum()) == round(0.4 * 59**2)


def test_the_transformer_beyond_its_budget_is_censored(tmp_path: Path) -> None:
    law = Law(
        lambda p: 15.45, lambda p: math.log(6608 / 2**0.5) - 15.45, lambda p: 36.88, free=4371 / 2**0.5,
        rate_power=0.5,
    )  # fmt: skip
    found = plain_transformer(synthetic_bench(tmp_path / "whole", "full", law), FACTS)
    table = rows(found)
    assert table["transformer without LayerNorm: grok step at ρ = 0.85"]["verdict"] == "agrees"
    assert table["transformer without LayerNorm: grok step at ρ = 1"]["verdict"] == "agrees"
    assert table["transformer without LayerNorm: W_c"]["verdict"] == "agrees"
    assert table["transformer without LayerNorm: α"]["ours"] == pytest.approx(15.45, abs=0.8)
    alone = findings(found)["transformer without LayerNorm: α on unmirrored test pairs alone"]
    assert alone.ours == pytest.approx(15.45, abs=0.8)
    between = findings(found)["transformer without LayerNorm: grok step at ρ = 0.95"]
    assert between.ours == pytest.approx(6608 * math.exp(-0.05 * 15.45), rel=0.1)
    short = plain_transformer(
        synthetic_bench(tmp_path / "short", "full", replace(law, budget=5500)), FACTS
    )  # fmt: skip
    table = rows(short)
    late = table["transformer without LayerNorm: grok step at ρ = 1"]
    assert late["ours"] is None
    assert late["interval"][0] >= 0.9 * 5500
    assert late["verdict"] == "cannot tell"
    assert f"the budget is {TRANSFORMER_STEPS}" in late["note"]
    alpha = table["transformer without LayerNorm: α"]
    assert alpha["ours"] == pytest.approx(15.45, abs=0.8)
    assert "6 of them bounds" in alpha["note"]
    slow = plain_transformer(
        synthetic_bench(tmp_path, "full", Law(lambda p: 4.0, lambda p: 4.0, lambda p: 50.0)), FACTS
    )
    assert rows(slow)["transformer without LayerNorm: α"]["verdict"] == "differs"


def test_layer_norm_has_no_parameters() -> None:
    arms = layer_norm_arms()
    assert tuple(arms) == LAYER_NORM_FRACTIONS
    _, recipe = arms[0.3].runs()[0]
    task, model = recipe.build()
    spans = parameter_spans(recipe.intervene, model)
    trained = sum(span.where.stop - span.where.start for span in spans)
    assert trained == sum(math.prod(part.shape) for part in model.parts)
    assert {part.kind for part in model.parts} == {"matrix"}
    assert int(task.train_mask.sum()) == int(0.3 * 53**2)
    assert recipe.model.family == "transformer"


@pytest.mark.parametrize(("growth", "verdict"), [(1.0, "agrees"), (0.0, "differs")])
def test_a_norm_that_does_not_concentrate_is_told_from_one_that_does(
    tmp_path: Path, growth: float, verdict: str
) -> None:
    def heads(bench: Bench, arm: Arm) -> Sequence[float]:
        return [10.0 + 0.1 * seed + (0.8 if "0.55" in arm.name else 0.0) for seed in arm.seeds]

    spread = 0.16 * math.sqrt(2) if growth else 0.0
    signs = dict(zip(LAYER_NORM_FRACTIONS, (-1, 1, -1, 1), strict=True))
    law = Law(lambda p: 1.0, lambda p: 1.0, lambda p: 50.0)
    bench = synthetic_bench(tmp_path, "full", law)
    plain = bench.law.log

    def log(name: str, recipe: Any) -> Any:
        found = plain(name, recipe)
        found.scalars["norm.total"] = found.scalars["norm.total"] * (
            1 + spread / math.sqrt(2) * signs[recipe.task.train_fraction]
        )
        return found

    object.__setattr__(bench.law, "log", log)
    found = layer_norm_transformer(bench, FACTS, heads)
    total = rows(found)["LayerNorm transformer: spread of the total norm at the grok step"]
    assert total["verdict"] == verdict
    head = rows(found)["LayerNorm transformer: spread of the norm of the unembedding at the end of the run"]
    assert head["verdict"] == "agrees"
    assert head["ours"] == pytest.approx(np.std([10.15, 10.15, 10.15, 10.95]) / 10.35, rel=1e-6)
    every = [10.0 + 0.1 * seed + extra for extra in (0.0, 0.0, 0.0, 0.8) for seed in range(4)]
    told = findings(found)[
        "LayerNorm transformer: spread of the norm of the unembedding at the end of the run, over all runs"
    ]
    assert told.ours == pytest.approx(np.std(every) / np.mean(every))


def test_spread_is_that_of_the_means() -> None:
    value, interval = spread_over({0.1: [1.0, 3.0, 2.0], 0.2: [4.0, 4.0, 4.0], 0.3: []})
    assert value == pytest.approx(1 / 3)
    assert interval is not None
    assert interval[0] <= 1 / 3 <= interval[1]
    assert spread_over({0.1: [1.0], 0.2: []}) == (None, None)


def test_the_head_is_read_from_the_last_save(tmp_path: Path) -> None:
    """A real tiny run."""
    from grokscope.models import Params
    from grokscope.training.fleet import train_fleet
    from grokscope.trajectory import Trajectory

    arm = Arm(
        "tiny", "delay-law",
        ("task.p=5", "task.train_fraction=0.6", "train.steps=20", "train.until=",
         'model={family = "transformer", d_model = 8, n_heads = 2, d_mlp = 8, layer_norm = true}', "intervene.decay={}",
         'intervene.frozen=["gains", "biases"]'),
        (0,),
    )  # fmt: skip
    place = tmp_path / "checkpoints" / "tiny-s0"
    ended = train_fleet([recipe for _, recipe in arm.runs()], [place], device="cpu")
    assert [run.state for run in ended] == ["finished"]
    with Trajectory(place / "trajectory.h5") as stored:
        assert stored.steps[-1] == 20
        last: Params = stored.params_at(len(stored.steps) - 1)  # pyright: ignore[reportAssignmentType]
    assert last_head_norms(Bench(tmp_path, "full", lambda runs: None), arm) == [
        pytest.approx(float(np.linalg.norm(last["unembed.W_U"])))
    ]
    assert bool((np.asarray(last["ln_final.w"]) == 1).all())
    assert bool((np.asarray(last["ln_final.b"]) == 0).all())


def test_parity_is_the_published_setup() -> None:
    setup = published("sparse_parity")["setup"]
    name, recipe = parity_arm(*REFERENCE, "20.625:1.3").runs()[0]
    assert name == "delay-law.parity.n30.m1000.norm20.625.rho1.3-s0"
    task, model = recipe.build()
    assert task.inputs.shape == (1000 + setup["test"], 30)
    assert int(task.train_mask.sum()) == 1000
    assert model.shapes == {
        "hidden.1.W": (30, 512),
        "hidden.1.b": (512,),
        "head.W_U": (512, 2),
        "head.b_U": (2,),
    }
    clamp = recipe.intervene.clamp
    assert clamp is not None
    assert (clamp.norm, clamp.rho, clamp.start) == (20.625, 1.3, setup["clamp_from"])
    assert (recipe.train.lr, recipe.train.weight_decay, recipe.train.decay) == (1e-3, 1.0, "before")
    assert recipe.intervene.decay == {"biases": 0.0}


@pytest.mark.parametrize(
    ("alpha", "verdict"), [(math.log(6538.5 / 2687) / 0.4, "agrees"), (0.0, "differs"), (8.0, "differs")]
)
def test_parity_beside_the_published_medians(tmp_path: Path, alpha: float, verdict: str) -> None:
    law = Law(
        lambda p: alpha, lambda p: math.log(2687) - 0.9 * alpha, lambda p: 20.6, free=2647.5, noise=0.01
    )
    bench = synthetic_bench(tmp_path, "full", law)
    found = sparse_parity(bench)
    ratio = rows(found)["sparse parity: T at ρ = 1.3 over T at ρ = 0.9"]
    assert ratio["published"] == pytest.approx(6538.5 / 2687, abs=0.005)
    assert ratio["verdict"] == verdict
    assert rows(found)["sparse parity, n = 30, m = 1000: grok step, free"]["verdict"] == "agrees"
    assert rows(found)["sparse parity, n = 30, m = 1500: grok step, free"]["verdict"] == "differs"
    assert rows(found)["sparse parity, n = 30, m = 1000: mean norm at the grok step"]["verdict"] == "agrees"
    assert len(bench.trained) == len(set(bench.trained)) == 5 * len(SEEDS)


def test_parity_that_does_not_grok_when_held_is_a_bound(tmp_path: Path) -> None:
    law = Law(lambda p: 4.0, lambda p: math.log(2687) - 3.6, lambda p: 20.6, free=2647.5, budget=5000)
    ratio = rows(sparse_parity(synthetic_bench(tmp_path, "full", law)))[
        "sparse parity: T at ρ = 1.3 over T at ρ = 0.9"
    ]
    assert ratio["ours"] is None
    assert ratio["interval"][1] is None
    assert ratio["interval"][0] > 1.5
