"""The trainer on a CUDA device: the same bytes twice, and the CPU's numbers to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.training import Outcome, read_recipe, train
from grokscope.training.batch import train_batch
from grokscope.trajectory import Trajectory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SMALL = ("task.p=11", "train.steps=60", "train.dtype=float64", 'save.schedule=["0:end:5"]')
RECIPES = {
    "quickstart": (*SMALL, "model.d_embed=8", "model.hidden=[16]"),
    "nanda": (*SMALL, "model.d_model=16", "model.n_heads=2", "model.d_mlp=24"),
    "deep-linear": ("task.d=8", "train.steps=60", 'save.schedule=["0:end:5"]'),
}


def trained(name: str, directory: Path, device: str) -> Trajectory:
    train(read_recipe(name, RECIPES[name]), directory, device=device)
    return Trajectory(directory / "trajectory.h5")


@pytest.mark.parametrize("name", RECIPES)
def test_two_runs_on_the_device_are_equal(tmp_path: Path, name: str) -> None:
    first, second = (trained(name, tmp_path / side, "cuda") for side in "ab")
    assert first.checksum() == second.checksum()


@pytest.mark.parametrize("name", RECIPES)
def test_the_device_agrees_with_the_cpu(tmp_path: Path, name: str) -> None:
    there, here = trained(name, tmp_path / "cuda", "cuda"), trained(name, tmp_path / "cpu", "cpu")
    np.testing.assert_array_equal(there.steps, here.steps)
    np.testing.assert_array_equal(there.params_at(0)[there.names[0]], here.params_at(0)[here.names[0]])
    for tensor in here.names:
        np.testing.assert_allclose(there.read(tensor), here.read(tensor), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_runs_on_one_axis_agree_with_the_cpu(tmp_path: Path, name: str) -> None:
    changes = (("train.lr=0.02",), ("train.weight_decay=0.3",), ())
    recipes = [read_recipe(name, [*RECIPES[name], *change], seed) for seed, change in enumerate(changes)]
    directories = [tmp_path / "cuda" / str(seed) for seed in range(len(recipes))]
    ended = train_batch(recipes, directories, device="cuda")
    assert all(isinstance(one, Outcome) and one.finished for one in ended)
    for recipe, directory in zip(recipes, directories, strict=True):
        train(recipe, tmp_path / "cpu" / directory.name, device="cpu")
        there, here = (
            Trajectory(d / "trajectory.h5") for d in (directory, tmp_path / "cpu" / directory.name)
        )
        np.testing.assert_array_equal(there.steps, here.steps)
        for tensor in here.names:
            np.testing.assert_allclose(there.read(tensor), here.read(tensor), rtol=1e-7, atol=1e-9)
        for scalar, values in here.scalars.items():
            np.testing.assert_allclose(there.scalars[scalar], values, rtol=1e-6, atol=1e-9)


def test_a_batch_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    recipes = [read_recipe("quickstart", RECIPES["quickstart"], seed) for seed in range(3)]
    directories = [tmp_path / str(seed) for seed in range(3)]
    calls = 0

    def interrupted() -> bool:
        nonlocal calls
        calls += 1
        return calls > 12

    stopped = train_batch(recipes, directories, device="cuda", interrupted=interrupted)
    assert any(isinstance(one, Outcome) and not one.finished for one in stopped)
    ended = train_batch(recipes, directories, device="cuda", resume=True)
    assert all(isinstance(one, Outcome) and one.finished for one in ended)
