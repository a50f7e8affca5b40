"""The trainer on a CUDA device: the same bytes twice, and the CPU's numbers to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.training import read_recipe, train
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
