"""The manifold probe on runs that are solved in closed form, and its two ways of projecting against each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.measures.linear_regression import linear_regression
from grokscope.measures.manifold import drift_between, instantaneous_drift, kernel_projection
from grokscope.probes import Record, Suite, probe
from grokscope.probes.manifold import manifold
from grokscope.probes.manifold_readings import ManifoldReader, interval_shares
from grokscope.runs import Run, open_run
from grokscope.training import read_recipe, train

LINEAR = ('task={name="regression", d=12, train=5, test=6}', 'model={family="deep-linear", depth=1}')
MODELS = {
    "linear": LINEAR,
    "mean loss, diagonal": (
        'task={name="regression", teacher="sparse", d=9, train=5, test=6, loss="mean"}',
        'model={family="diagonal"}',
    ),
    "ReLU": (
        'task={name="regression", teacher="relu", d=2, train=7, test=6}',
        'model={family="feature-mlp", hidden=[12], activation="relu"}',
    ),
    "completion": ('task={name="completion", d=6, rank=2}', 'model={family="deep-linear", depth=2}'),
    "modular addition": (
        'task={name="modular", p=5, train_fraction=0.6}',
        'model={family="mlp", d_embed=4, hidden=[7]}',
    ),
    "transformer": (
        'task={name="modular", p=3, train_fraction=0.6}',
        'model={family="transformer", d_model=4, n_heads=2, d_mlp=6}',
    ),
}


def trained(directory: Path, *changes: str) -> Run:
    recipe = read_recipe(
        "deep-linear",
        [
            "train.steps=40",
            "train.lr=0.02",
            "save.schedule=['0:end:10']",
            "train.weight_decay=0.05",
            *changes,
        ],
    )
    train(recipe, directory, device="cpu")
    return open_run(directory)


def measured(run: Run, **options) -> Record:
    found = probe(run, Suite("test", ("manifold",), options={"manifold": options}))
    json.dumps(found.to_json(), allow_nan=False)
    return found


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_linear_regression_is_its_formula(tmp_path, order, loss):
    run = trained(
        tmp_path / "run",
        LINEAR[0].replace("}", f', loss="{loss}"}}'),
        LINEAR[1],
        f"train.decay={order}",
        "train.steps=6000",
        "save.schedule=['0:100:10', '100:end:100']",
    )
    x, y = run.task.inputs[:5].numpy(), run.task.targets[:5, 0].numpy()
    problem = linear_regression(x, y, 0.05, mean=loss == "mean")
    start = run.params(0)["layer.1.W"][:, 0].numpy()
    path = problem.descent(start, 0.02, run.steps, order)
    ours = run.stacked()["layer.1.W"][:, :, 0].numpy()
    np.testing.assert_allclose(ours, path, atol=1e-12)
    found = measured(run)
    kernel = (1 - 0.02 * 0.05) ** run.steps[:, None] * problem.split(start)[1]
    np.testing.assert_allclose(found["manifold.tangent_norm"], np.linalg.norm(kernel, axis=1), rtol=1e-10)
    whole = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(
        found["manifold.tangent_fraction"], np.linalg.norm(kernel, axis=1) / whole, rtol=1e-10
    )
    forces = np.linalg.norm(problem.gradient(path), axis=1)
    np.testing.assert_allclose(found["manifold.gradient_norm"], forces, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found["manifold.decay_norm"], 0.05 * whole, rtol=1e-10)
    assert found["manifold.rank"].tolist() == [5] * len(run.steps)
    assert found.notes["manifold"]["rank"] == {"holds": True, "lowest": 5, "highest": 5, "changes": []}
    # once the components that the data see have settled, the rest is the predicted drift
    late = int(np.flatnonzero(run.steps >= 3000)[0])
    assert 1 - found["manifold.drift_cosine"][late] < 1e-3
    assert found["manifold.drift_speed"][late] == pytest.approx(1, abs=1e-2)
    for row in (0, 7, late):
        expected = drift_between(
            path[row], path[row + 1], kernel[row], [0.02] * int(run.steps[row + 1] - run.steps[row]), 0.05
        )
        assert found["manifold.drift_cosine"][row] == pytest.approx(expected.cosine, rel=1e-9)
        assert found["manifold.drift_speed"][row] == pytest.approx(expected.speed, rel=1e-9)
        now = instantaneous_drift(path[row], problem.gradient(path[row]), kernel[row], 0.05)
        assert found["manifold.drift_cosine.instant"][row] == pytest.approx(now.cosine, rel=1e-7)
        assert found["manifold.drift_speed.instant"][row] == pytest.approx(now.speed, rel=1e-7)
    under = np.flatnonzero(forces < 0.05 * whole)[0]
    event = found.events["junction"]
    assert (event.after, event.by) == (int(run.steps[under - 1]), int(run.steps[under]))
    assert found.notes["manifold"]["decay_norm_at_junction"] == pytest.approx(0.05 * whole[under])


def test_the_junction_is_at_the_time_of_the_flow(tmp_path):
    """Small steps: the interval of the saves holds the time that the closed form gives."""
    run = trained(tmp_path / "run", *LINEAR, "train.lr=0.002", "train.steps=12000", "save.schedule=['0:end:20']",
                  "train.weight_decay=0.01")  # fmt: skip
    problem = linear_regression(run.task.inputs[:5].numpy(), run.task.targets[:5, 0].numpy(), 0.01)
    time = problem.junction(run.params(0)["layer.1.W"][:, 0].numpy())
    event = measured(run, null_samples=0).events["junction"]
    assert time is not None
    assert event.after is not None
    assert event.by is not None
    assert 0.002 * (event.after - 20) <= time <= 0.002 * (event.by + 20)
    assert 20 < event.after < 11000


@pytest.mark.parametrize("name", MODELS)
def test_both_ways_of_projecting_agree(tmp_path, name):
    run = trained(tmp_path / "run", *MODELS[name], "train.loss=squared")
    exact = measured(run, method="exact", null_samples=0)
    products = measured(run, method="products", iterations=4000, null_samples=0)
    assert "manifold.rank" in products.absent
    for quantity in ("tangent_norm", "drift_cosine", "drift_speed", "drift_cosine.instant"):
        left, right = (record[f"manifold.{quantity}"] for record in (exact, products))
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-7)
    assert exact.notes["manifold"]["largest_residual"] < 1e-13
    assert products.notes["manifold"]["largest_residual"] < 1e-9
    assert 0.01 < exact["manifold.tangent_fraction"].min() < 1


@pytest.mark.parametrize("name", MODELS)
def test_the_jacobian_and_its_products_are_those_of_the_pullback(tmp_path, name):
    run = trained(tmp_path / "run", *MODELS[name], "train.loss=squared", "train.steps=3")
    reader, params = ManifoldReader(run, "exact", 10, None), run.params(-1)
    jacobian = reader.jacobian(params)
    task = run.task
    if task.kind == "regression":
        inputs, rows = task.inputs, task.train_mask.flatten().nonzero()[:, 0]
    else:
        inputs = task.inputs[task.train_mask]
        rows = torch.arange(len(inputs) * task.n_classes)
    slow = []
    for row in rows.tolist():
        leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
        output = run.model.forward(leaves, inputs).flatten()[row]
        grads = torch.autograd.grad(output, [leaves[key] for key in run.model.shapes], materialize_grads=True)
        slow.append(torch.cat([grad.flatten() for grad in grads]))
    np.testing.assert_allclose(jacobian, torch.stack(slow).numpy(), atol=1e-12)
    forward, backward = reader.products(params)
    rng = np.random.default_rng(0)
    v, z = rng.normal(size=jacobian.shape[1]), rng.normal(size=len(jacobian))
    np.testing.assert_allclose(forward(v), jacobian @ v, atol=1e-11)
    np.testing.assert_allclose(backward(z), jacobian.T @ z, atol=1e-11)


def test_the_gradient_is_that_of_the_loss(tmp_path):
    run = trained(tmp_path / "run", *MODELS["mean loss, diagonal"])
    found = measured(run)["manifold.gradient_norm"]
    for index in range(len(run.steps)):
        leaves = {key: value.requires_grad_() for key, value in run.params(index).items()}
        error = run.model.forward(leaves, run.task.inputs[:5]) - run.task.targets[:5]
        grads = torch.autograd.grad(0.5 * error.square().mean(), list(leaves.values()))
        assert found[index] == pytest.approx(math.hypot(*(float(grad.norm()) for grad in grads)), rel=1e-12)


def test_the_distance_to_the_flow_is_that_of_the_closed_forms(tmp_path):
    run = trained(tmp_path / "run", *LINEAR)
    twin = trained(tmp_path / "twin", *LINEAR, "train.weight_decay=0", "save.schedule=['0:end:20']")
    found = measured(run, twin=str(twin.path))
    x, y = run.task.inputs[:5].numpy(), run.task.targets[:5, 0].numpy()
    start = run.params(0)["layer.1.W"][:, 0].numpy()
    paths = [linear_regression(x, y, decay).descent(start, 0.02, run.steps) for decay in (0.05, 0.0)]
    expected = np.linalg.norm(paths[0] - paths[1], axis=1)
    expected[1::2] = np.nan
    np.testing.assert_allclose(found["manifold.distance_to_flow"], expected, atol=1e-12)
    assert "steps" in found.notes["undefined"]["manifold.distance_to_flow"]


@pytest.mark.parametrize("changes", [("train.weight_decay=0.01",), ("train.weight_decay=0", "seed=4")])
def test_a_twin_that_is_none_is_refused(tmp_path, changes):
    run = trained(tmp_path / "run", *LINEAR)
    twin = trained(tmp_path / "twin", *LINEAR, *changes)
    with pytest.raises(GrokscopeError, match=r"the twin .* expected a run of the recipe"):
        measured(run, twin=str(twin.path))


DRIFTS = {
    "decay_norm",
    "drift_cosine",
    "drift_speed",
    "drift_cosine.instant",
    "drift_speed.instant",
    "drift_cosine.null",
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("train.optimizer=adamw",), "Adam"),
        (("train.weight_decay=0",), "no weight decay"),
        (("train.optimizer=sgd", "train.momentum=0.9"), "momentum"),
        (("model.depth=2", "intervene.decay={'layer.1' = 0.5}"), "do not share one weight decay"),
        (("model.depth=2", "intervene.lr={'layer.1' = 0.5}"), "do not share one weight decay and rate"),
        (("model.depth=2", "intervene.frozen=['layer.1']"), "do not share one weight decay and rate"),
        (("intervene.clamp={norm=1.0, start=5}",), "intervene.clamp moves the weights"),
        (("intervene.filter={kind='ema'}",), "intervene.filter moves the weights"),
        (("intervene.jacobian={strength=0.1}",), "intervene.jacobian moves the weights"),
    ],
)
def test_where_there_is_no_drift_to_measure(tmp_path, changes, reason):
    found = measured(trained(tmp_path / "run", *LINEAR, *changes))
    for name in DRIFTS:
        assert reason in found.absent[f"manifold.{name}"]
    assert "junction" not in found.events
    assert found["manifold.tangent_norm"].min() > 0


def test_cross_entropy_has_no_manifold(tmp_path):
    run = trained(tmp_path / "run", *MODELS["modular addition"], "train.loss=cross-entropy")
    found = measured(run)
    assert not found.measurements
    assert all("cross-entropy" in reason for reason in found.absent.values())
    assert set(found.absent) == {quantity.name for quantity in manifold.quantities}


def test_a_large_jacobian_is_asked_for(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", *LINEAR)
    monkeypatch.setattr("grokscope.probes.manifold_readings.MOST_WORK", 5 * 12 * 5 - 1)
    found = measured(run)
    assert not found.measurements
    assert 'method = "products"' in found.absent["manifold.tangent_norm"]
    assert "5 × 12" in found.absent["manifold.drift_speed"]
    assert measured(run, method="exact").get("manifold.rank") is not None


@pytest.mark.parametrize("options", [{"method": "fast"}, {"iterations": 0}, {"null_samples": 1}])
def test_options_out_of_range(tmp_path, options):
    run = trained(tmp_path / "run", *LINEAR, "train.steps=1")
    with pytest.raises(GrokscopeError, match="running probe manifold"):
        measured(run, **options)


def test_a_rank_that_moves_is_reported(tmp_path):
    """Coefficients of a diagonal network that both vectors leave take their directions out of the Jacobian."""
    run = trained(tmp_path / "run", *MODELS["mean loss, diagonal"])
    reader = ManifoldReader(run, "exact", 10, None)
    params = run.params(0)
    for value in params.values():
        value[3:] = 0
    projection = reader.projection(params)
    assert projection.rank == 3
    # what is left is balanced growth of u against v, along which u∘v stays: a direction for each coefficient
    u, v = params["layer.1.u"][:3, 0].numpy(), params["layer.2.v"][:3, 0].numpy()
    along = (u * u - v * v) / np.hypot(u, v)
    assert np.linalg.norm(projection.vector) == pytest.approx(np.linalg.norm(along), rel=1e-9)


def test_rates_of_a_warmup_are_those_of_every_step(tmp_path):
    run = trained(tmp_path / "run", *LINEAR, "train.warmup=15")
    rates = [0.02 * min(1.0, (step + 1) / 15) for step in range(40)]
    expected = [1 - math.prod(1 - 0.05 * rate for rate in rates[a : a + 10]) for a in range(0, 40, 10)]
    np.testing.assert_allclose(interval_shares(run, 0.05), expected, rtol=1e-12)


def test_chance_is_that_of_random_weights_and_directions(tmp_path):
    run = trained(tmp_path / "run", *LINEAR)
    found = measured(run, null_samples=400)
    rng = np.random.default_rng(3)
    x = run.task.inputs[:5].numpy()
    drawn = rng.normal(size=(4000, 12))
    kernel = np.stack([kernel_projection(x, w).vector for w in drawn])
    shares = np.linalg.norm(kernel, axis=1) / np.linalg.norm(drawn, axis=1)
    np.testing.assert_allclose(
        found["manifold.tangent_fraction.null"], np.quantile(shares, [0.05, 0.5, 0.95]), atol=0.03
    )
    cosines = drawn[:, 0] / np.linalg.norm(drawn, axis=1)
    np.testing.assert_allclose(
        found["manifold.drift_cosine.null"], np.quantile(cosines, [0.05, 0.5, 0.95]), atol=0.03
    )
    assert "manifold.tangent_fraction.null" in measured(run, null_samples=0).absent


def test_figures(tmp_path, drawings):
    run = trained(tmp_path / "run", *LINEAR)
    twin = trained(tmp_path / "twin", *LINEAR, "train.weight_decay=0")
    assert len(drawings(manifold, measured(run, twin=str(twin.path)))) == 4
    assert len(drawings(manifold, measured(twin))) == 2
