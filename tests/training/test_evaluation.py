"""What the trainer writes beside the weights, recomputed from the weights without its code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grokscope.runs import open_run
from grokscope.training import learning_rate, read_recipe, train
from grokscope.training.evaluation import TIME, Evaluator
from grokscope.trajectory import Trajectory


def logits_of(params: dict[str, np.ndarray], p: int) -> np.ndarray:
    """(p², C) in float64, in the order a·p + b."""
    a, b = np.divmod(np.arange(p * p), p)
    w = {name: value.astype(np.float64) for name, value in params.items()}
    z = np.concatenate([w["embed.W_E"][a], w["embed.W_E"][b]], axis=1)
    return np.maximum(z @ w["hidden.1.W"] + w["hidden.1.b"], 0) @ w["head.W_U"]


def by_hand(logits: np.ndarray, p: int, train_mask: np.ndarray, loss: str) -> dict[str, float]:
    a, b = np.divmod(np.arange(p * p), p)
    answer = (a + b) % p
    if loss == "cross-entropy":
        top = logits.max(axis=1, keepdims=True)
        losses = (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0] - logits[
            range(p * p), answer
        ]
    else:
        losses = 0.5 * ((logits - np.eye(p)[answer]) ** 2).sum(axis=1)
    right = logits.argmax(axis=1) == answer
    swapped_in_training = train_mask[b * p + a] & (a != b)
    masks = {
        "train": train_mask,
        "test": ~train_mask,
        "test_mirrored": ~train_mask & swapped_in_training,
        "test_unmirrored": ~train_mask & ~swapped_in_training,
    }
    found = {f"accuracy.{name}": right[mask].mean() for name, mask in masks.items()}
    return found | {f"loss.{name}": losses[masks[name]].mean() for name in ("train", "test")}


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_scalars_are_those_of_the_saved_weights(tiny, tmp_path, loss, dtype, tolerance):
    recipe = tiny(f"train.dtype={dtype}", f"train.loss={loss}", "save.schedule=['0:end:5']", "train.warmup=7")
    train(recipe, tmp_path / "run", device="cpu")
    run = open_run(tmp_path / "run")
    stored = run.scalars
    assert set(stored) == {
        "step", TIME, "loss.train", "loss.test", "accuracy.train", "accuracy.test", "accuracy.test_mirrored",
        "accuracy.test_unmirrored",
    }  # fmt: skip
    np.testing.assert_array_equal(stored["step"], np.arange(61))
    mask = run.task.train_mask.numpy()
    for index, step in enumerate(run.steps):
        params = run.trajectory.params_at(index)
        row = int(np.flatnonzero(stored["step"] == step)[0])
        for name, value in by_hand(logits_of(params, 7), 7, mask, loss).items():
            close = 1e-12 if name.startswith("accuracy") else tolerance
            assert stored[name][row] == pytest.approx(value, rel=close, abs=1e-12), (name, step)
    rates = [learning_rate(recipe.train, step) for step in range(60)]
    np.testing.assert_allclose(stored[TIME], np.concatenate([[0], np.cumsum(rates)]), rtol=1e-12)
    # it did learn something, so the accuracies compared are not all alike
    assert len(set(stored["accuracy.train"])) > 5


def test_completion_scalars_are_those_of_the_saved_weights(tmp_path):
    recipe = read_recipe("deep-linear", ["task.d=6", "train.steps=40", "save.schedule=['0:end:10']"])
    train(recipe, tmp_path / "run", device="cpu")
    task, _ = recipe.build()
    target, observed = task.targets.numpy(), task.train_mask.numpy()
    with Trajectory(tmp_path / "run" / "trajectory.h5") as stored:
        scalars = stored.scalars
        assert set(scalars) == {"step", TIME, "loss.train", "loss.test", "error.train", "error.test"}
        for index, step in enumerate(stored.steps):
            w = stored.params_at(index)
            error = w["layer.1.W"] @ w["layer.2.W"] @ w["layer.3.W"] - target
            row = int(np.flatnonzero(scalars["step"] == step)[0])
            for name, mask in (("train", observed), ("test", ~observed)):
                squared = (error[mask] ** 2).sum()
                assert scalars[f"loss.{name}"][row] == pytest.approx(0.5 * squared, rel=1e-12)
                assert scalars[f"error.{name}"][row] == pytest.approx(
                    squared / (target[mask] ** 2).sum(), rel=1e-12
                )


def test_operations_without_a_mirror_have_no_mirrored_accuracy(tiny):
    for override, mirrored in (("task.op=sub", False), ("task.op=mul", True)):
        recipe = tiny(override)
        task, model = recipe.build()
        names = Evaluator(task, model, recipe, torch.device("cpu")).names
        assert ("accuracy.test_mirrored" in names) is mirrored
        assert ("accuracy.test_unmirrored" in names) is mirrored


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_regression_scalars_are_those_of_the_samples(tmp_path, loss):
    task = f'task={{name="regression", d=6, train=4, test=9, loss="{loss}"}}'
    recipe = read_recipe(
        "deep-linear", [task, "model.depth=1", "train.steps=20", "save.schedule=['0:end:10']"]
    )
    train(recipe, tmp_path / "run", device="cpu")
    run = open_run(tmp_path / "run")
    for index, step in enumerate(run.steps):
        error = (run.task.inputs @ run.params(index)["layer.1.W"] - run.task.targets)[:, 0]
        at = int(np.flatnonzero(run.scalars["step"] == step)[0])
        for name, part, answers in (
            ("train", error[:4], run.task.targets[:4]),
            ("test", error[4:], run.task.targets[4:]),
        ):
            squared = float(part.square().sum())
            weight = 1 / len(part) if loss == "mean" else 1.0
            assert run.scalars[f"loss.{name}"][at] == pytest.approx(0.5 * weight * squared, rel=1e-12)
            expected = squared / float(answers.square().sum())
            assert run.scalars[f"error.{name}"][at] == pytest.approx(expected, rel=1e-12)
