"""The study of matrix completion: its rules on numbers that are known, and real runs end to end."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from grokscope.measures.crossings import Crossing
from grokscope.runs import open_run
from grokscope.studies.deep_linear_clocks import (
    SPAN,
    Grid,
    Setting,
    assemble,
    grid_of,
    measure_completions,
    sentence_of,
)
from grokscope.studies.deep_linear_findings import flow_findings, long_findings
from grokscope.studies.deep_linear_flow import read_flow
from grokscope.studies.deep_linear_readings import Reading, read_completion
from grokscope.studies.deep_linear_rows import (
    constant_row,
    decades,
    fit_rows,
    identity_row,
    level_row,
    matched_ratios,
    rank_rows,
    rate_rows,
    tail_row,
)
from grokscope.studies.sweep import Bench
from grokscope.training import read_recipe, train
from grokscope.training.fleet import train_fleet


def fake(decay: float, seed: int, rank: int | None, fit: int = 40, rate: float = 0.05) -> Any:
    """A reading of which only the clocks are there."""
    reached = Crossing(1000, None, True) if rank is None else Crossing(rank - 10, rank + 10, False)
    one = SimpleNamespace(
        decay=decay, seed=seed, rate=rate, depth=3, init=1.0, rank=reached, fit=Crossing(fit - 1, fit, False)
    )
    one.ticks = lambda crossing: tuple(
        None if end is None else end * rate * decay for end in (crossing.after, crossing.by)
    )
    return one


def test_a_clock_of_the_decay_is_constant() -> None:
    runs = [fake(decay, seed, round((30 + seed) / decay)) for decay in (0.003, 0.01, 0.03) for seed in (0, 1)]
    assert decades(runs) == [(0.003, 0.03)]
    (row,) = rank_rows(3, runs)
    assert row.verdict == "agrees"
    assert row.ours == pytest.approx(1, abs=1e-3)
    assert "1.5 to 1.55" in row.note
    (fit,) = fit_rows(3, runs)
    assert (fit.verdict, fit.ours) == ("agrees", 1.0)


def test_a_clock_that_waits_longer_differs() -> None:
    runs = [fake(decay, 0, round(30 / decay**1.2)) for decay in (0.003, 0.01, 0.03)]
    (row,) = rank_rows(3, runs)
    assert row.verdict == "differs"
    assert row.ours == pytest.approx(10**0.2, rel=0.01)
    slower = [fake(0.003, 0, 9000, fit=40), fake(0.03, 0, 900, fit=44)]
    # 43 to 44 over 39 to 40: the ends say neither
    assert fit_rows(3, slower)[0].verdict == "cannot tell"


def test_a_rank_that_was_not_reached_is_not_dropped() -> None:
    runs = [fake(0.003, 0, None), fake(0.03, 0, 1000), fake(0.003, 1, 10000), fake(0.03, 1, 1000)]
    (row,) = rank_rows(3, runs)
    assert (row.verdict, row.ours, row.interval) == ("cannot tell", None, None)
    assert "1 of 2 are not bounded" in row.note


def test_two_decades_are_two_rows() -> None:
    runs = [fake(decay, 0, round(30 / decay)) for decay in (0.001, 0.003, 0.01, 0.03, 0.1)]
    assert decades(runs) == [(0.001, 0.01), (0.003, 0.03), (0.01, 0.1)]
    assert len(rank_rows(3, runs)) == 3
    assert matched_ratios(runs[:1], lambda one: one.ticks(one.rank))[0][0] == 1


def test_another_rate_has_the_same_clock() -> None:
    runs = [fake(0.03, 0, 1000), fake(0.03, 0, 2000, rate=0.025)]
    (row,) = rate_rows((3, 0.03), runs)
    assert row.verdict == "agrees"
    assert rate_rows((3, 0.03), runs[:1]) == []


def test_the_sentence_names_what_does_not_agree() -> None:
    kept = [fake(decay, 0, round(30 / decay), fit=40) for decay in (0.003, 0.01, 0.03)]
    late = [*kept, fake(0.1, 0, 300, fit=60)]
    rows = [*fit_rows(3, kept), *rank_rows(3, kept)]
    assert "neither that nor the fit depends on the decay" in sentence_of(rows, {3: (1.5, 1.5)}, [])
    said = sentence_of([*fit_rows(3, late), *rank_rows(3, late)], {3: (1.5, 1.5)}, [])
    assert "= 1.5 at L = 3; in 3 of 4 comparisons" in said
    assert "fit clock at decays 0.01 to 0.1: differs, 1.51 times" in said
    endless = [fake(0.003, 0, None), fake(0.03, 0, 1000)]
    assert "at decays 0.003 to 0.03: cannot tell." in sentence_of(rank_rows(3, endless), {}, [])


def test_the_interval_decides() -> None:
    assert constant_row("x", "y", [(1.05, 1.0, 1.09)], "").verdict == "agrees"
    assert constant_row("x", "y", [(1.05, 1.0, 1.12)], "").verdict == "cannot tell"
    assert constant_row("x", "y", [(1.3, 1.2, 1.4), (1.0, 1.0, 1.01)], "").verdict == "differs"


def tailed(*states: tuple[str, float | None]) -> Any:
    return SimpleNamespace(
        tails={
            str(place): None if state == "none" else SimpleNamespace(state=state, theta=theta)
            for place, (state, theta) in enumerate(states)
        }
    )


def test_tails_are_counted() -> None:
    assert tail_row(2, [tailed(("power", 0.7), ("power", 0.8))]).verdict == "agrees"
    assert tail_row(2, [tailed(("power", 1.2), ("power", 1.3))]).verdict == "cannot tell"
    assert tail_row(3, [tailed(("exponential", None), ("exponential", 0.6))]).verdict == "differs"
    assert tail_row(3, [tailed(("exponential", None), ("none", None))]).verdict == "cannot tell"
    short = [tailed(("power", 0.7))]
    assert tail_row(2, short, [tailed(("exponential", None))]).verdict == "cannot tell"
    assert tail_row(2, short, [tailed(("power", 0.7))]).verdict == "agrees"


def test_arms_have_names_of_their_own_and_full_holds_small() -> None:
    names = {}
    for scale in ("small", "full"):
        runs = [run for arm in grid_of(scale).arms().values() for run in arm.runs()]
        assert len({name for name, _ in runs}) == len(runs)
        names[scale] = dict(runs)
    assert all(names["full"][name] == recipe for name, recipe in names["small"].items())
    recipe = names["small"]["two-clocks.completion.L3.wd0.01-s1"]
    assert recipe.train.steps * recipe.train.lr * recipe.train.weight_decay == pytest.approx(SPAN)


LITTLE = ("task.d=10", "train.weight_decay=0.1", "train.steps=1600", "save.schedule=['0:100:5', 'log:100:end:60']",
          "save.evaluate=['0:100:1', 'log:100:end:60']")  # fmt: skip


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reading]:
    place = tmp_path_factory.mktemp("completion") / "run"
    train(read_recipe("deep-linear", LITTLE, 0), place, device="cpu")
    run = open_run(place)
    log: Any = SimpleNamespace(steps=run.scalars["step"], scalars=run.scalars, seed=0)
    return place, read_completion(log, place)


def test_the_gradient_and_the_energy_of_a_reading(little: tuple[Path, Reading]) -> None:
    """θ needs the gradient over the factors: by autograd through the objective."""
    from grokscope.studies.deep_linear_readings import _gradient_norms

    place, reading = little
    run = open_run(place)
    weights = [torch.from_numpy(run.trajectory.read(f"layer.{k}.W")) for k in (1, 2, 3)]
    error = (reduce(torch.matmul, weights) - run.task.targets) * run.task.train_mask
    norms = _gradient_norms(weights, error, 0.1)
    for place_ in (0, 13, 40):
        leaves = [w[place_].clone().requires_grad_() for w in weights]
        missed = (reduce(torch.matmul, leaves) - run.task.targets)[run.task.train_mask]
        whole = 0.5 * missed.square().sum() + 0.05 * torch.stack([w.square().sum() for w in leaves]).sum()
        whole.backward()
        assert reading.energies[place_] == pytest.approx(whole.item())
        expected = (
            torch.stack([w.grad.square().sum() for w in leaves if w.grad is not None]).sum().sqrt().item()
        )
        assert norms[place_] == pytest.approx(expected)


def test_the_flow_begins_where_the_run_began_and_ends_where_it_ends(little: tuple[Path, Reading]) -> None:
    place, reading = little
    task = open_run(place).task
    flow = read_flow(reading, task)
    assert flow.ticks[-1] == pytest.approx(SPAN)
    assert flow.ranks[0] == pytest.approx(reading.ranks[0])
    assert flow.sigma[0] == pytest.approx(reading.sigma[0])
    assert flow.distance < 0.05
    assert flow.energy_gap < 1e-3
    assert flow.vanished is not None
    assert flow.trained_then is not None
    assert flow.trained_then > 0
    assert flow.parted["error on observed entries"] is not None
    assert {finding.quantity for finding in flow_findings([flow], [reading])} >= {
        "where flow and factors part, steps, L = 3", "distance of flow and factors at the end, relative, L = 3",
    }  # fmt: skip


def test_the_imbalance_decays_at_twice_the_decay(little: tuple[Path, Reading]) -> None:
    _, reading = little
    assert reading.imbalance_rate == pytest.approx(2, rel=0.05)
    assert reading.gaps[-1] < 1e-4
    row = identity_row(3, [reading])
    assert row.verdict == "agrees"
    assert identity_row(3, [replace(reading, gaps=np.array([0.3, 0.02]))]).verdict == "differs"
    assert level_row([reading]).verdict in ("agrees", "differs", "cannot tell")


@pytest.mark.slow
def test_real_runs_end_to_end(tmp_path: Path) -> None:
    def train_all(runs) -> None:
        ended = train_fleet(
            [recipe for _, recipe in runs], [tmp_path / "checkpoints" / name for name, _ in runs], device="cpu",
            resume=True,
        )  # fmt: skip
        assert all(run.state == "finished" for run in ended)

    varied = (Setting(3, 0.3, rate=0.025), Setting(3, 0.3, init=0.7), Setting(2, 0.3, span=12.0))
    grid = Grid((2, 3), (0.03, 0.3), (0,), varied, (3, 0.3), d=8, saves=40)
    bench = Bench(tmp_path, "small", train_all)
    found = measure_completions(bench, grid)
    part = assemble(grid, found, "small")
    quantities = [row.quantity for row in part.rows]
    assert len(quantities) == len(set(quantities)) == 2 + 2 + 1 + 2 + 2 + 1
    assert all(row.verdict in ("agrees", "differs", "cannot tell") for row in part.rows)
    assert len(found.flows) == 2
    flow = found.flows[1]
    assert flow.ranks[0] == pytest.approx(flow.trained_ranks[0])
    assert np.all(flow.sigma >= 0)
    assert len(part.data["completion"]) == len(bench.used) == 7
    assert all("<svg" in figure.svg for figure in part.figures)
    assert long_findings(found.runs[varied[2]])
    assert any("flow" in finding.quantity for finding in part.findings)
