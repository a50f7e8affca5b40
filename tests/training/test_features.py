"""Classifiers of features: gradients, scalars, and runs on one axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from grokscope.runs import open_run
from grokscope.training import read_recipe, train
from grokscope.training.batch import train_batch
from grokscope.training.gradient import TrainingGradient
from grokscope.trajectory import verify_trajectory

CPU = torch.device("cpu")
SHORT = (
    "task.d=6", "task.per_class=8", "train.steps=40", "save.schedule=['0:end:5']", "save.evaluate=['0:end:2']",
    "save.snapshots=20",
)  # fmt: skip


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_gradient_is_that_of_autograd(loss: str, depth: int) -> None:
    recipe = read_recipe("linear-classifier", [*SHORT, f"model.depth={depth}", f"train.loss={loss}"])
    task, model = recipe.build()
    params = model.init(torch.Generator().manual_seed(1), torch.float64)
    found = TrainingGradient(task, model, recipe.train, CPU, torch.float64)
    for rows in (None, torch.tensor([3, 0, 5])):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        x, y = task.inputs[task.train_mask], task.targets[task.train_mask]
        if rows is not None:
            x, y = x[rows], y[rows]
        z = model.forward(leaves, x)
        whole = (
            cross_entropy(z, y)
            if loss == "cross-entropy"
            else 0.5 * (z - one_hot(y, 6)).square().sum(-1).mean()
        )
        whole.backward()
        for name, gradient in found(params, rows).items():
            torch.testing.assert_close(gradient, leaves[name].grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_scalars_are_those_of_the_saved_weights(tmp_path: Path, dtype: str, tolerance: float) -> None:
    recipe = read_recipe("linear-classifier", [*SHORT, f"train.dtype={dtype}", "save.also=['logits.norm']"])
    train(recipe, tmp_path / "run", device="cpu")
    run = open_run(tmp_path / "run")
    mask = run.task.train_mask.numpy()
    x, y = run.task.inputs.numpy(), run.task.targets.numpy()
    for index, step in enumerate(run.steps):
        w = run.trajectory.params_at(index)
        z = x @ w["layer.1.W"].astype(float) @ w["layer.2.W"].astype(float) @ w["layer.3.W"].astype(float)
        losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]
        row = int(np.flatnonzero(run.scalars["step"] == step)[0])
        assert run.scalars["loss.train"][row] == pytest.approx(losses[mask].mean(), rel=tolerance)
        assert run.scalars["loss.test"][row] == pytest.approx(losses[~mask].mean(), rel=tolerance)
        assert run.scalars["accuracy.train"][row] == (z.argmax(1) == y)[mask].mean()
        norms = np.linalg.norm(z, axis=1).mean()
        assert run.scalars["logits.norm"][row] == pytest.approx(norms, rel=tolerance)
    assert run.scalars["loss.train"][-1] < run.scalars["loss.train"][0]


@pytest.mark.parametrize("optimizer", ["gd", "adamw"])
def test_a_run_in_a_batch_holds_the_bytes_of_the_run_alone(tmp_path: Path, optimizer: str) -> None:
    shared = [*SHORT, f"train.optimizer={optimizer}", "train.dtype=float64"]
    recipes = [
        read_recipe("linear-classifier", [*shared, f"train.weight_decay={decay}"], seed)
        for seed, decay in ((0, 0.0), (1, 0.1), (2, 0.01))
    ]
    together = [tmp_path / f"together-{recipe.seed}" for recipe in recipes]
    train_batch(recipes, together, device="cpu")
    for recipe, directory in zip(recipes, together, strict=True):
        alone = tmp_path / f"alone-{recipe.seed}"
        train(recipe, alone, device="cpu")
        sums = [verify_trajectory(place / "trajectory.h5").checksum for place in (alone, directory)]
        assert sums[0] == sums[1]
