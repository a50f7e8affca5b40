"""The clock of linear classifiers on series whose law is known, and on real runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.measures.classification import margin
from grokscope.runs import open_run
from grokscope.studies.classification_clocks import (
    LEVELS,
    Grid,
    Reading,
    Setting,
    classification_part,
    clock_row,
    grid_of,
    measure_classifiers,
    read_classifier,
    smallest_margins,
)
from grokscope.studies.premises import kept_rate, logarithmic_verdict
from grokscope.studies.published import published
from grokscope.studies.sweep import Bench, Log
from grokscope.training.fleet import train_fleet

SETTING = Setting(3, "adamw", 0.0, 1e-3)


def log_of(losses: np.ndarray, steps: np.ndarray, seed: int = 0) -> Log:
    right = np.where(steps >= 20, 1.0, 0.5)
    return Log("a", seed, {"step": steps, "loss.train": losses, "accuracy.train": right})


def exponential(seed: int = 0) -> Reading:
    """A margin that grows by 0.01 a step and a loss that shrinks by 1 % a step."""
    steps = np.arange(0, 2000, 2)
    margins = 0.01 * (steps - 20)
    return read_classifier(SETTING, log_of(2 * np.exp(-0.01 * steps), steps, seed), steps[::5], margins[::5])


def power(seed: int = 0) -> Reading:
    """A margin that grows as log t and a loss 1/t, as gradient descent without decay has them."""
    steps = np.unique(np.geomspace(1, 2e6, 900).round().astype(np.int64))
    margins = np.log(steps / 20)
    return read_classifier(
        replace(SETTING, optimizer="gd"), log_of(2 / steps, steps, seed), steps[::4], margins[::4]
    )


def test_levels_end_at_the_published_loss() -> None:
    assert LEVELS[0] == pytest.approx(0.1)
    assert LEVELS[-1] == pytest.approx(1e-6)
    assert "1e-6" in published("two_clocks")["reported"]["train_loss"]


def test_a_steady_rate_is_kept_and_a_logarithm_fades() -> None:
    steps = np.arange(1, 1001)
    assert kept_rate(steps, 3.0 * steps, 100, 900) == pytest.approx(1)
    expected = np.log(900 / 500) / np.log(500 / 100)
    assert kept_rate(steps, np.log(steps), 100, 900) == pytest.approx(expected, rel=1e-6)
    assert kept_rate(steps, -steps, 100, 900) is None
    assert kept_rate(steps, steps, 10, 11) is None


@pytest.mark.parametrize(
    ("preferred", "runs", "verdict"),
    [
        (["logarithmic"] * 3, 3, "agrees"), (["power"] * 3, 4, "differs"), (["power", "logarithmic"], 2, "cannot tell"),
        (["logarithmic"], 3, "cannot tell"), ([], 2, "cannot tell"), (["cannot tell"] * 2, 2, "cannot tell"),
    ],
)  # fmt: skip
def test_the_rule_of_the_verdict(preferred: list[str], runs: int, verdict: str) -> None:
    assert logarithmic_verdict(preferred, runs) == verdict


def test_a_steady_margin_has_the_logarithmic_clock() -> None:
    found = exponential()
    assert found.premise == "holds"
    assert found.clock.preferred == "logarithmic"
    assert found.clock.logarithmic is not None
    assert found.clock.logarithmic.slope == pytest.approx(100, rel=0.01)
    assert found.growth.line is not None
    assert found.growth.line.slope == pytest.approx(0.01)
    assert found.contraction is not None
    assert found.contraction.mu == pytest.approx(1 - np.exp(-0.01))
    row = clock_row([found, exponential(1)])
    assert row.verdict == "agrees"
    assert row.published == published("two_clocks")["theory"]["classifier_clock"]
    assert str(row.ours).startswith("logarithmic in 2 of 2 runs: 100 steps")


def test_a_fading_margin_is_outside_the_claim() -> None:
    found = power()
    assert found.premise == "fails"
    assert found.clock.preferred == "power"
    assert found.late_power == pytest.approx(1, abs=0.05)
    row = clock_row([found, power(1)])
    assert row.verdict == "cannot tell"
    assert "says nothing" in row.note
    assert "T ∝ ε^-1.0" in str(row.ours)


def test_a_power_under_a_steady_margin_would_differ() -> None:
    against = replace(power(), growth_kept=1.0)
    assert clock_row([against]).verdict == "differs"
    assert clock_row([against, exponential()]).verdict == "cannot tell"


def test_levels_under_the_floor_are_counted() -> None:
    steps = np.arange(0, 2000, 2)
    losses = 0.03 + 2 * np.exp(-0.01 * steps)
    found = read_classifier(SETTING, log_of(losses, steps), steps[::5], np.ones(200))
    reached = sum(level > 0.03 for level in LEVELS)
    assert found.clock.censored == len(LEVELS) - reached
    assert f"{found.clock.censored} of {len(LEVELS)} levels not reached" in clock_row([found]).note


def test_arms_have_names_of_their_own() -> None:
    for scale in ("small", "full"):
        names = [name for arm in grid_of(scale).arms().values() for name, _ in arm.runs()]
        assert len(set(names)) == len(names)
    small = {name for arm in grid_of("small").arms().values() for name, _ in arm.runs() if ".adamw." in name}
    assert small <= {name for arm in grid_of("full").arms().values() for name, _ in arm.runs()}


def test_real_runs_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(runs) -> None:
        ended = train_fleet(
            [recipe for _, recipe in runs], [tmp_path / "checkpoints" / name for name, _ in runs], device="cpu",
            resume=True,
        )  # fmt: skip
        assert all(run.state == "finished" for run in ended)

    little = Grid((2,), {"gd": (0.0,), "adamw": (0.0,)}, {"gd": 600, "adamw": 1800}, (0,), (),
                  ("task.per_class=6", "task.d=8"))  # fmt: skip
    bench = Bench(tmp_path, "small", train)
    readings = measure_classifiers(bench, little)
    assert [one.setting.optimizer for one in readings] == ["gd", "adamw"]
    run = open_run(tmp_path / "checkpoints" / next(iter(bench.used)))
    saves, margins = smallest_margins(run.path)
    weights = {name: torch.from_numpy(value) for name, value in run.trajectory.params_at(7).items()}
    logits = run.model.forward(weights, run.task.inputs)
    assert margins[7] == margin(logits, run.task.targets)[run.task.train_mask].min()
    assert saves[7] == run.steps[7]
    assert readings[1].premise == "holds"
    assert readings[1].clock.preferred == "logarithmic"
    monkeypatch.setattr("grokscope.studies.classification_clocks.grid_of", lambda scale: little)
    part = classification_part(bench)
    assert len(part.rows) == 2
    assert all("<svg" in figure.svg for figure in part.figures)
    assert [one["seed"] for one in part.data["classification"]] == [0, 0]
