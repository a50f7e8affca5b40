"""Sparse parity against the definition, bit by bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks import ParitySettings, build_task
from grokscope.tasks.task import NO_TOKEN_AXIS


@pytest.mark.parametrize(("n", "k"), [(6, 2), (10, 3), (30, 3), (62, 5)])
def test_labels_are_the_parity_of_the_first_bits(n: int, k: int) -> None:
    task = build_task(ParitySettings(n=n, k=k, train=20, test=30), 0)
    assert task.inputs.shape == (50, n)
    assert task.inputs.dtype == torch.float64
    for row, label in zip(task.inputs.tolist(), task.targets.tolist(), strict=True):
        assert set(row) <= {-1.0, 1.0}
        assert label == (sum(sign < 0 for sign in row[:k]) % 2 == 0)
    assert int(task.train_mask.sum()) == 20
    assert bool(task.train_mask[:20].all())


@pytest.mark.parametrize("n", [7, 20])
def test_no_sample_comes_twice(n: int) -> None:
    task = build_task(ParitySettings(n=n, k=3, train=60, test=68), 1)
    assert len({tuple(row) for row in task.inputs.tolist()}) == 128


def test_the_sample_is_even_in_every_bit_and_class() -> None:
    task = build_task(ParitySettings(n=30, k=3, train=2000, test=6000), 2)
    bound = 5 / math.sqrt(8000)
    assert task.inputs.mean(dim=0).abs().max() < bound
    assert abs(task.targets.double().mean() - 0.5) < bound
    moments = task.inputs.T @ task.inputs / 8000 - torch.eye(30, dtype=torch.float64)
    assert moments.abs().max() < bound


def test_seeds_decide_the_sample() -> None:
    settings = ParitySettings(n=20, train=30, test=30)
    assert torch.equal(build_task(settings, 3).inputs, build_task(settings, 3).inputs)
    assert not torch.equal(build_task(settings, 3).inputs, build_task(settings, 4).inputs)
    fixed = ParitySettings(n=20, train=30, test=30, split_seed=3)
    assert torch.equal(build_task(fixed, 9).inputs, build_task(settings, 3).inputs)


def test_what_the_task_says_of_itself() -> None:
    task = build_task(ParitySettings(), 0)
    assert (task.chance, task.n_classes, task.n_tokens, task.kind) == (0.5, 2, None, "classification")
    assert (task.levels.quantity, task.levels.fit, task.levels.grok) == ("skill", 0.99, 0.95)
    assert task.symmetries == ()
    assert task.mirrored() is None
    assert task.image_in_train(preserving=True) is None
    assert task.token_axis is NO_TOKEN_AXIS
    assert not task.is_grid


@pytest.mark.parametrize(
    "given",
    [
        {"n": 0},
        {"n": 63},
        {"k": 0},
        {"n": 5, "k": 6},
        {"train": 0},
        {"test": 0},
        {"n": 5, "train": 20, "test": 13},
    ],
)
def test_sizes_that_make_no_task(given: dict[str, int]) -> None:
    with pytest.raises(GrokscopeError, match=r"building a parity task: task\..*expected"):
        build_task(ParitySettings(**given), 0)  # pyright: ignore[reportArgumentType]


def test_a_small_network_learns_it(tmp_path: Path) -> None:
    """A real run: two of eight bits, from the recipe to the logged accuracy."""
    from grokscope.training import recipe_from
    from grokscope.training.fleet import train_fleet
    from grokscope.trajectory import Trajectory

    recipe = recipe_from(
        {
            "task": {"name": "parity", "n": 8, "k": 2, "train": 80, "test": 120},
            "model": {"family": "feature-mlp", "hidden": [24], "activation": "relu"},
            "train": {"steps": 120, "lr": 1e-2, "weight_decay": 0.5},
            "save": {
                "schedule": ["0:end:60"],
                "evaluate": ["0:end:20"],
                "also": ["norm.total", "logits.norm"],
            },
        },
        "a test",
    )
    (ended,) = train_fleet([recipe], [tmp_path / "run"], device="cpu")
    assert ended.state == "finished"
    with Trajectory(tmp_path / "run" / "trajectory.h5") as stored:
        scalars = stored.scalars
    assert 0.2 < scalars["accuracy.test"][0] < 0.8
    assert scalars["accuracy.train"][-1] == 1.0
    assert scalars["accuracy.test"][-1] > 0.95
    assert "accuracy.test_unmirrored" not in scalars
