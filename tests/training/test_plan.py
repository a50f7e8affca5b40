"""Plans: counts and bytes against the runs they are plans of, time as the sum that it says it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.training import plan as planning
from grokscope.training import train
from grokscope.training.plan import Spread, elapsed, plan_runs, processes
from grokscope.trajectory import Trajectory, snapshot_steps


@pytest.fixture(autouse=True)
def in_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BUDGET", 0.02)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("save.schedule=['0:end:7']", "save.evaluate=[]", "save.snapshots=25"),
        ("train.dtype=float64", "save.precision=float32"),
        ("train.optimizer=sgd", "train.lr=0.5", "save.snapshots=7"),
        ("train.optimizer=gd", "train.lr=0.5"),
        ("train.steps=1",),
    ],
)
def test_counts_and_bytes_are_those_of_the_run(tiny, tmp_path, overrides):
    recipe = tiny(*overrides)
    [plan] = plan_runs([("run", recipe)], "cpu")
    train(recipe, tmp_path / "run", device="cpu")
    with Trajectory(tmp_path / "run" / "trajectory.h5") as run:
        assert plan.saves == len(run.steps)
        assert plan.evaluations == len(run.scalars["step"])
    assert plan.snapshots == len(snapshot_steps(tmp_path / "run"))
    assert plan.steps == recipe.train.steps
    assert not plan.at_most
    # the smallest of runs is mostly headers, of which the bytes are not exact
    stored = (tmp_path / "run" / "trajectory.h5").stat().st_size
    assert plan.weights + plan.scalars == pytest.approx(stored, rel=0.15)
    snapshots = sum(p.stat().st_size for p in (tmp_path / "run" / "snapshots").iterdir())
    assert plan.snapshot_bytes == pytest.approx(snapshots, rel=0.03)
    assert plan.bytes == plan.weights + plan.scalars + plan.snapshot_bytes


def test_windows_that_wait_make_the_counts_bounds(tiny, tmp_path):
    recipe = tiny(
        "train.lr=0.1", "save.onset_fall=0.03", "save.schedule=['0:end:20', 'onset:9:1']",
        "save.evaluate=['0:end:3']",
    )  # fmt: skip
    [plan] = plan_runs([("run", recipe)], "cpu")
    train(recipe, tmp_path / "run", device="cpu")
    assert plan.at_most
    assert plan.saves == 4 + 10
    saves = len(Trajectory(tmp_path / "run" / "trajectory.h5").steps)
    assert 4 < saves <= plan.saves


def test_the_time_is_what_was_measured_times_how_often(tiny):
    [plan] = plan_runs([("run", tiny())], "cpu")
    speed = plan.speed
    for end in ("median", "low", "high"):
        expected = (
            60 * getattr(speed.step, end)
            + 61 * getattr(speed.evaluation, end)
            + 31 * getattr(speed.save, end)
            + 6 * getattr(speed.snapshot, end)
        )
        assert getattr(plan.seconds, end) == pytest.approx(expected)
    assert 0 < plan.seconds.low <= plan.seconds.median <= plan.seconds.high
    assert speed.steps >= 4


def test_nothing_is_written_and_no_setting_is_left_behind(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    plan_runs([("run", tiny("train.threads=2"))], "cpu")
    assert list(tmp_path.iterdir()) == []
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_recipes_of_one_speed_are_measured_once(tiny, monkeypatch):
    measured = []
    measure = planning.measure_speed

    def counted(recipe, device, budget):
        measured.append((recipe.seed, recipe.model.hidden, budget))
        return measure(recipe, device, budget)

    monkeypatch.setattr(planning, "measure_speed", counted)
    recipes = [
        tiny(f"seed={seed}", f"train.lr={lr}", f"model.hidden=[{width}]", f"train.steps={steps}")
        for seed, lr, width, steps in ((0, 0.1, 12, 60), (1, 0.1, 12, 60), (0, 0.2, 12, 90), (0, 0.1, 20, 60))
    ]
    plans = plan_runs([(str(index), recipe) for index, recipe in enumerate(recipes)], "cpu")
    assert measured == [(0, (12,), 0.01), (0, (20,), 0.01)]
    assert [plan.name for plan in plans] == ["0", "1", "2", "3"]
    assert [plan.steps for plan in plans] == [60, 60, 90, 60]
    assert plans[0].speed is plans[2].speed is not plans[3].speed
    # a longer run is not a slower one
    assert plans[2].seconds.median > plans[0].seconds.median


def test_together_is_the_share_or_the_longest(tiny):
    [plan] = plan_runs([("run", tiny())], "cpu")
    one = plan.seconds
    four = elapsed([plan] * 4, 2)
    assert four.median == pytest.approx(2 * one.median)
    assert elapsed([plan] * 2, 8) == one
    assert Spread(1, 2, 3) + Spread(1, 1, 1).times(2) == Spread(3, 4, 5)


def test_processes_are_no_more_than_runs_or_cores(tiny, monkeypatch):
    monkeypatch.setattr(planning.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert processes([tiny()] * 3) == 3
    assert processes([tiny()] * 30) == 8
    assert processes([tiny("train.threads=4")] * 30) == 2
    assert processes([tiny("train.threads=64")]) == 1


def test_a_device_that_is_not_there_is_one_line(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GrokscopeError, match="no GPU"):
        plan_runs([("run", tiny())], "cuda")


def test_no_directory_is_touched(tiny, tmp_path: Path):
    plan_runs([(str(tmp_path / "run"), tiny())], "cpu")
    assert list(tmp_path.iterdir()) == []
