"""Every number of the loss probe, computed again in plain loops from the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grokscope.probes import Record, probe
from grokscope.runs import Run, open_run
from grokscope.training import recipe_from, train

Map = Callable[[int, int], tuple[int, int]]

OPERATIONS: dict[str, tuple[Callable[[int, int], int], list[Map], list[Map]]] = {
    # the answer, the maps that keep it, the maps that change it in a known way
    "add": (lambda a, b: a + b, [lambda a, b: (b, a)], []),
    "sub": (lambda a, b: a - b, [lambda a, b: (-b, -a)], [lambda a, b: (b, a)]),
    "mul": (
        lambda a, b: a * b,
        [lambda a, b: (b, a), lambda a, b: (-a, -b), lambda a, b: (-b, -a)],
        [],
    ),
}  # fmt: skip


def trained(directory: Path, task: dict, **settings: object) -> Run:
    """A short run in float64 that has learned something and is wrong about much."""
    table = {
        "task": task if task["name"] == "regression" else {"train_fraction": 0.5, **task},
        "model": {"family": "mlp", "d_embed": 5, "hidden": [9]},
        "train": {"steps": 30, "lr": 0.02, "dtype": "float64"},
        "save": {"schedule": ["0:end:15"]},
    }
    for name, value in settings.items():
        table[name] = value
    train(recipe_from(table, "a test"), directory, device="cpu")
    return open_run(directory)


def row(record: Record, name: str, index: int) -> float:
    values = record.get(name)
    assert values is not None, record.absent.get(name)
    return float(values[index])


@pytest.mark.parametrize("op", list(OPERATIONS))
def test_losses_accuracies_and_margins(tmp_path, op):
    p = 7
    answer, keeping, changing = OPERATIONS[op]
    run = trained(tmp_path / "run", {"name": "modular", "op": op, "p": p})
    record = probe(run, only=["loss"])
    in_training = {
        (int(a), int(b)): bool(chosen)
        for (a, b), chosen in zip(run.task.inputs.tolist(), run.task.train_mask.tolist(), strict=True)
    }

    def seen(maps: list[Map], a: int, b: int) -> bool:
        images = [tuple(value % p for value in move(a, b)) for move in maps]
        return any(image != (a, b) and in_training[image] for image in images)  # type: ignore[index]

    for index in range(len(run.steps)):
        w = {name: value.numpy() for name, value in run.params(index).items()}
        losses: dict[str, list[float]] = {}
        right: dict[str, list[bool]] = {}
        margins, norms = [], []
        for a in range(p):
            for b in range(p):
                z = np.concatenate([w["embed.W_E"][a], w["embed.W_E"][b]])
                logits = np.maximum(z @ w["hidden.1.W"] + w["hidden.1.b"], 0) @ w["head.W_U"]
                y = answer(a, b) % p
                loss = math.log(sum(math.exp(value - logits[y]) for value in logits))
                subsets = ["all", "train" if in_training[a, b] else "test"]
                if in_training[a, b]:
                    margins.append(logits[y] - max(value for c, value in enumerate(logits) if c != y))
                else:
                    swap = op != "sub" and a != b and in_training[b, a]
                    subsets.append("test_mirrored" if swap else "test_unmirrored")
                    if seen(keeping, a, b):
                        subsets.append("test_symmetry")
                    if seen(changing, a, b):
                        subsets.append("test_equivariant")
                norms.append(math.sqrt(sum(value * value for value in logits)))
                for subset in subsets:
                    losses.setdefault(subset, []).append(loss)
                    right.setdefault(subset, []).append(max(range(p), key=lambda c: logits[c]) == y)
        for subset in ("train", "test", "all"):
            assert row(record, f"loss.{subset}", index) == pytest.approx(np.mean(losses[subset]), rel=1e-12)
        for subset, outcomes in right.items():
            assert row(record, f"accuracy.{subset}", index) == pytest.approx(np.mean(outcomes), rel=1e-12), (
                subset
            )
        assert row(record, "margin.min", index) == pytest.approx(min(margins), rel=1e-10)
        assert row(record, "margin.mean", index) == pytest.approx(np.mean(margins), rel=1e-10)
        assert row(record, "logits.norm", index) == pytest.approx(np.mean(norms), rel=1e-12)
    absent = {name.removeprefix("accuracy.") for name in record.absent if name.startswith("accuracy.")}
    everything = {
        "train",
        "test",
        "all",
        "test_mirrored",
        "test_unmirrored",
        "test_symmetry",
        "test_equivariant",
    }
    assert absent == everything - set(right)
    assert 0.3 < row(record, "accuracy.train", -1) < 1


def test_errors_of_a_completion(tmp_path):
    run = trained(
        tmp_path / "run",
        {"name": "completion", "d": 5},
        model={"family": "deep-linear", "depth": 2},
        train={"steps": 30, "lr": 0.05, "optimizer": "gd", "loss": "squared", "dtype": "float64"},
    )
    record = probe(run, only=["loss"])
    target, observed = run.task.targets.numpy(), run.task.train_mask.numpy()
    for index in range(len(run.steps)):
        w = {name: value.numpy() for name, value in run.params(index).items()}
        product = w["layer.1.W"] @ w["layer.2.W"]
        for subset, wanted in (("train", True), ("test", False)):
            entries = [(i, j) for i in range(5) for j in range(5) if observed[i, j] == wanted]
            squared = sum((product[i, j] - target[i, j]) ** 2 for i, j in entries)
            scale = sum(target[i, j] ** 2 for i, j in entries)
            assert row(record, f"error.{subset}", index) == pytest.approx(squared / scale, rel=1e-12)
            assert row(record, f"loss.{subset}", index) == pytest.approx(squared / 2, rel=1e-12)
        whole = 0.5 * ((product - target) ** 2).sum()
        assert row(record, "loss.all", index) == pytest.approx(whole, rel=1e-12)
    assert "accuracy.train" in record.absent


def test_samples_that_are_no_pairs_are_not_called_pairs(tmp_path):
    run = trained(
        tmp_path / "run",
        {"name": "blobs", "per_class": 6},
        model={"family": "deep-linear", "depth": 2},
        train={"steps": 60, "lr": 0.05, "optimizer": "gd", "dtype": "float64"},
    )
    record = probe(run, only=["loss", "clocks"])
    for kind in ("mirrored", "unmirrored"):
        assert record.absent[f"accuracy.test_{kind}"] == "the inputs are not pairs of operands"
    assert "grok" in record.events
    assert "grok_unmirrored" not in record.events
    assert record.verdict is not None
    assert "pairs" not in record.verdict.sentence


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_errors_of_a_regression(tmp_path, reduction):
    run = trained(
        tmp_path / "run",
        {"name": "regression", "d": 3, "train": 8, "test": 9, "loss": reduction},
        model={"family": "deep-linear", "depth": 1},
        save={"schedule": ["0:end:40"]},
        train={"steps": 400, "lr": 0.05, "optimizer": "gd", "loss": "squared", "dtype": "float64"},
    )
    record = probe(run)
    x, y = run.task.inputs.numpy(), run.task.targets[:, 0].numpy()
    for index in range(len(run.steps)):
        error = x @ run.params(index)["layer.1.W"][:, 0].numpy() - y
        for subset, rows in (("train", slice(8)), ("test", slice(8, None)), ("all", slice(None))):
            squared, count = sum(error[rows] ** 2), len(error[rows])
            expected = 0.5 * squared / (count if reduction == "mean" else 1)
            assert row(record, f"loss.{subset}", index) == pytest.approx(expected, rel=1e-11)
            if subset != "all":
                assert row(record, f"error.{subset}", index) == pytest.approx(
                    squared / sum(y[rows] ** 2), rel=1e-11
                )
    assert record.verdict is not None
    assert "test samples" in record.verdict.sentence
