"""Searches end by what they did and not by how long it took."""

import itertools
from pathlib import Path

import pytest
import torch

from grokscope.foreign import inspect_path
from grokscope.foreign.function import effort
from grokscope.foreign.function.effort import A_HYPOTHESIS, Effort, weights_in
from grokscope.foreign.function.search import Budget
from grokscope.foreign.understand import Reading


def slow_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every look at the clock finds it ``seconds`` later."""
    ticks = itertools.count()
    monkeypatch.setattr(effort.time, "monotonic", lambda: seconds * next(ticks))


def without_seconds(found: dict) -> dict:
    for run in found["runs"]:
        run["recognised"]["search"].pop("seconds")
    return found


def test_work_is_counted() -> None:
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(7)}
    assert weights_in(tensors, ["a"]) == 15
    assert weights_in(tensors, []) == 22
    spent = Effort(10.0 * 15 + 2 * A_HYPOTHESIS)
    spent.charge(0, 15)
    assert not spent.over()
    assert spent.why == ""
    spent.charge(10, 15)
    assert spent.over()
    assert "as much work as is allowed" in spent.why


def test_a_part_of_a_budget() -> None:
    assert Budget(30, 9e9, 60.0).part(3) == Budget(10, 3e9, 20.0)


def test_a_slow_machine_finds_the_same(monkeypatch: pytest.MonkeyPatch, bare_folder: Path) -> None:
    quick = without_seconds(inspect_path(bare_folder))
    slow_clock(monkeypatch, 0.2)
    assert without_seconds(inspect_path(bare_folder)) == quick


def test_the_last_resort_is_said(monkeypatch: pytest.MonkeyPatch, bare_folder: Path) -> None:
    slow_clock(monkeypatch, 1.0)
    (run,) = inspect_path(bare_folder, Reading(budget=Budget(seconds=5.0)))["runs"]
    assert "ended by the clock after 5 s" in run["recognised"]["search"]["stopped"]
    assert any("ended by the clock" in text for text in run["recognised"]["known"])


def test_little_work_is_said(bare_folder: Path) -> None:
    found = inspect_path(bare_folder, Reading(budget=Budget(work=3.0 * A_HYPOTHESIS)))
    (run,) = found["runs"]
    assert "as much work as is allowed" in run["recognised"]["search"]["stopped"]
