"""A task of which nothing is known, and a known task whose split is not."""

from __future__ import annotations

import pytest
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import MODEL_SETTINGS, DeepLinearSettings, MLPSettings, build_model
from grokscope.tasks import (
    CompletionSettings,
    ModularSettings,
    ResidueAxis,
    TaskSettings,
    UnknownSettings,
    build_task,
)
from grokscope.tasks.unknown import on_residues


def test_an_unknown_task_has_nothing_and_says_why() -> None:
    task = build_task(UnknownSettings(), 3)
    assert (task.kind, len(task.inputs), task.n_classes, task.n_tokens, task.chance) == (
        "unknown",
        0,
        0,
        None,
        None,
    )
    assert not task.is_grid
    for part in (task.token_axis, task.class_axis, task.no_split):
        assert isinstance(part, Absent)
        assert "not known" in part.reason


def test_a_declared_embedding_gives_an_unknown_task_its_residues() -> None:
    task = on_residues(build_task(UnknownSettings(), 0), 5)
    assert isinstance(task.token_axis, ResidueAxis)
    assert (task.token_axis.kind, task.token_axis.rows.tolist()) == ("additive", [0, 1, 2, 3, 4])
    assert isinstance(task.class_axis, Absent)


@pytest.mark.parametrize("settings", [ModularSettings(p=7), CompletionSettings(d=5)])
def test_without_a_split_no_sample_was_trained_on_and_nothing_else_changes(settings: TaskSettings) -> None:
    known = build_task(settings, 0)
    assert known.no_split is None
    task = known.without_split("drawn without a seed")
    assert task.no_split == Absent("drawn without a seed")
    assert task.train_mask.shape == known.train_mask.shape
    assert not task.train_mask.any()
    assert known.train_mask.any()
    assert torch.equal(task.inputs, known.inputs)
    assert torch.equal(task.targets, known.targets)
    again = task.with_split(known.train_mask)
    assert again.no_split is None
    assert torch.equal(again.train_mask, known.train_mask)


@pytest.mark.parametrize("settings", [MLPSettings(), DeepLinearSettings(), MODEL_SETTINGS["transformer"]()])
def test_no_family_of_ours_is_built_for_an_unknown_task(settings) -> None:
    with pytest.raises(GrokscopeError, match="a task that is not known"):
        build_model(settings, n_tokens=None, n_inputs=2, n_classes=0)
