"""Runs trained together are the runs trained alone: bit for bit on a CPU, whatever their scalars."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.training import Outcome, Recipe, read_recipe, train
from grokscope.training.batch import _Batch, _Row, together, train_batch
from grokscope.training.batch_optimizer import BatchOptimizer
from grokscope.training.intervene import NormClamp, parameter_spans
from grokscope.training.optimizers import FlatParameters, Optimizer
from grokscope.training.trainer import Session
from grokscope.trajectory import Trajectory, verify_trajectory

SHORT = ["train.steps=60", "save.schedule=['0:end:4']", "save.evaluate=['0:end:3']", "save.snapshots=16"]


def completion(seed: int = 0, *changes: str, d: int = 6) -> Recipe:
    return read_recipe("deep-linear", [f"task.d={d}", *SHORT, *changes], seed)


def fleet(*changes: str, d: int = 6) -> list[Recipe]:
    """Runs that differ in seed, rate, decay and warm-up."""
    return [
        completion(0, *changes, d=d),
        completion(1, "train.lr=0.03", *changes, d=d),
        completion(2, "train.weight_decay=0.1", "train.warmup=7", *changes, d=d),
        completion(0, "train.weight_decay=0.0", *changes, d=d),
        completion(4, "model.init_scale=0.3", *changes, d=d),
    ]


OPTIMISERS = {
    "gd": [],
    "gd, decay after": ["train.decay=after"],
    "sgd": ["train.optimizer=sgd", "train.momentum=0.6", "train.lr=0.01"],
    "adamw": ["train.optimizer=adamw", "train.lr=0.01", "train.betas=[0.8,0.99]"],
    "clamp": ["intervene.clamp={norm = 1.5, rho = 0.9, start = 20}"],
    "factors": [
        "intervene.lr={'layer.1' = 0.5}",
        "intervene.decay={'layer.2' = 3.0}",
        "intervene.frozen=['layer.3']",
    ],
    "adamw, factors": ["train.optimizer=adamw", "train.lr=0.01", "intervene.lr={'layer.1' = 0.5}"],
    "also and until": ["save.also=['norm.total']", "train.until=error.train <= 0.02"],
}


def content(directory: Path) -> str:
    return str(verify_trajectory(directory / "trajectory.h5").as_dict()["checksum"])


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("d", [5, 12])
def test_a_run_in_a_batch_holds_the_bytes_of_the_run_alone(tmp_path, name, d):
    recipes = fleet(*OPTIMISERS[name], d=d)
    directories = [tmp_path / str(index) for index in range(len(recipes))]
    ended = train_batch(recipes, directories, device="cpu")
    last = 60 if "until" not in name else None
    assert all(isinstance(one, Outcome) and one.finished and one.step == (last or one.step) for one in ended)
    contents = set()
    for index, recipe in enumerate(recipes):
        train(recipe, tmp_path / "alone" / str(index), device="cpu")
        assert content(directories[index]) == content(tmp_path / "alone" / str(index))
        contents.add(content(directories[index]))
    assert len(contents) == len(recipes)


def test_an_interrupted_batch_goes_on_and_so_does_each_run_alone(tmp_path):
    recipes = fleet()
    directories = [tmp_path / str(index) for index in range(len(recipes))]
    calls = 0

    def interrupted() -> bool:
        nonlocal calls
        calls += 1
        return calls > 60

    ended = train_batch(recipes, directories, device="cpu", interrupted=interrupted)
    reached = {one.step for one in ended if isinstance(one, Outcome)}
    assert len(reached) == 1
    assert 0 < reached.pop() < 60
    assert train(recipes[0], directories[0], device="cpu", resume=True).finished
    # the first is done and the others stand elsewhere: each group goes on from where it is
    (directories[1] / "trajectory.h5").unlink()
    for snapshot in (directories[1] / "snapshots").iterdir():
        snapshot.unlink()
    again = train_batch(recipes, directories, device="cpu", resume=True)
    assert all(isinstance(one, Outcome) and one.finished for one in again)
    for index, recipe in enumerate(recipes):
        train(recipe, tmp_path / "alone" / str(index), device="cpu")
        assert content(directories[index]) == content(tmp_path / "alone" / str(index))


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path):
    recipes = [completion(0), completion(1, "train.lr=1e6"), completion(2)]
    directories = [tmp_path / str(index) for index in range(3)]
    first, second, third = train_batch(recipes, directories, device="cpu")
    assert isinstance(second, GrokscopeError)
    assert "not finite" in str(second)
    assert isinstance(first, Outcome)
    assert isinstance(third, Outcome)
    train(recipes[2], tmp_path / "alone", device="cpu")
    assert content(directories[2]) == content(tmp_path / "alone")


def test_every_evaluation_is_told(tmp_path):
    seen: dict[int, list[int]] = {0: [], 1: []}
    reports = [lambda step, scalars, which=which: seen[which].append(step) for which in seen]
    recipes = [completion(0), completion(1)]
    train_batch(recipes, [tmp_path / "a", tmp_path / "b"], device="cpu", reports=reports)
    assert seen[0] == seen[1] == recipes[0].evaluation_steps().tolist()


def test_only_runs_of_one_shape_share_an_axis(tmp_path):
    assert together(completion(0), "cpu") == together(completion(3, "train.lr=0.2"), "cpu")
    assert together(completion(0), "cpu") != together(completion(0, "model.depth=2"), "cpu")
    quickstart = read_recipe("quickstart")
    assert together(quickstart, "cpu") is None
    single = completion(0, "train.dtype=float32")
    assert together(single, "cpu") is None
    assert together(single, "cuda") is not None
    assert together(quickstart, "cuda") is not None
    assert together(read_recipe("quickstart", ["train.batch_size=64"]), "cuda") is None
    assert together(read_recipe("nanda", ["model.layer_norm=true"]), "cuda") is None
    with pytest.raises(GrokscopeError, match="one shape"):
        train_batch([completion(0), completion(0, d=7)], [tmp_path / "a", tmp_path / "b"], device="cpu")


def test_an_existing_run_is_not_overwritten(tmp_path):
    train_batch([completion(0)], [tmp_path / "a"], device="cpu")
    before = content(tmp_path / "a")
    with pytest.raises(GrokscopeError, match="--resume"):
        train_batch([completion(0), completion(1)], [tmp_path / "a", tmp_path / "b"], device="cpu")
    assert content(tmp_path / "a") == before
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "gd"])
@pytest.mark.parametrize("decay", ["before", "after"])
def test_steps_from_a_counter_are_those_of_each_run_alone(optimizer, decay):
    """The coefficients that a GPU computes for itself, interventions among them, here on the CPU."""
    changes = [
        ("train.lr=0.01", "intervene.clamp={norm = 2.0, rho = 0.9, start = 3}"),
        ("train.lr=0.03", "train.warmup=4", "intervene.clamp={norm = 5.0, rho = 1.1, start = 6}"),
        ("train.lr=0.02", "train.weight_decay=0.3", "intervene.clamp={norm = 3.0, start = 1}"),
    ]
    shared = (
        f"train.optimizer={optimizer}", f"train.decay={decay}", "train.momentum=" + str(0.5 * (optimizer == "sgd")),
        "intervene.lr={'layer.1' = 0.5}", "intervene.decay={'layer.2' = 3.0}", "intervene.frozen=['layer.3']",
    )  # fmt: skip
    recipes = [completion(seed, *shared, *change) for seed, change in enumerate(changes)]
    model = recipes[0].build()[1]
    draw = torch.Generator().manual_seed(0)
    size = sum(math.prod(shape) for shape in model.shapes.values())
    start = torch.randn(3, size, generator=draw, dtype=torch.float64)
    together_ = FlatParameters.over(start.clone(), model.shapes)
    spans = parameter_spans(recipes[0].intervene, model)
    clamps = [recipe.intervene.clamp for recipe in recipes if recipe.intervene.clamp is not None]
    batch = BatchOptimizer(
        [recipe.train for recipe in recipes], together_, spans, NormClamp(clamps, model, start), counted=True
    )
    alone = []
    for row, recipe in enumerate(recipes):
        flat = FlatParameters.over(start[row].clone(), model.shapes)
        clamp = NormClamp(clamps[row : row + 1], model, flat.vector)
        alone.append((flat, Optimizer(recipe.train, flat, spans, clamp)))
    batch.begin(0)
    for step in range(10):
        together_.gradient.copy_(torch.randn(3, size, generator=draw, dtype=torch.float64))
        batch.update(step)
        for row, (flat, one) in enumerate(alone):
            flat.gradient.copy_(together_.gradient[row])
            one.update(step)
            torch.testing.assert_close(together_.vector[row], flat.vector, rtol=1e-12, atol=1e-14)
    assert not torch.equal(together_.vector, start)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (
            "intervene.clamp={norm = 3.0, start = 20}",
            "intervene.frozen=['embedding']",
            "save.also=['norm.total']",
        ),
    ],
)
@pytest.mark.parametrize("family", ["quickstart", "nanda"])
def test_models_that_stack_move_together_as_they_move_alone(tmp_path, family, changes):
    """What a GPU does with every model that stacks, here on the CPU and in float64."""
    small = {
        "quickstart": ["task.p=11", "model.d_embed=6", "model.hidden=[12]"],
        "nanda": ["task.p=11", "model.d_model=12", "model.n_heads=3", "model.d_mlp=20"],
    }[family]
    recipes = [
        read_recipe(family, [*small, *SHORT, "train.dtype=float64", f"train.lr={lr}", *changes], seed)
        for seed, lr in ((0, 1e-2), (1, 3e-3), (2, 1e-2))
    ]
    assert_together_as_alone(tmp_path, recipes)


@pytest.mark.parametrize("sample", ["of their own", "shared"])
@pytest.mark.parametrize("depth", [1, 2])
def test_networks_of_one_output_share_an_axis_on_a_gpu_alone(tmp_path, sample, depth):
    """A matrix times a vector: on a CPU its last bits depend on how many of them are made at once."""
    split = ", split_seed=5" if sample == "shared" else ""
    task = f"task={{name='regression', d=40, train=20, test=30, loss='mean'{split}}}"
    recipes = [completion(seed, task, f"model.depth={depth}", d=6) for seed in range(3)]
    assert together(recipes[0], "cpu") is None
    assert together(recipes[0], "cuda") == together(recipes[1], "cuda") is not None
    assert_together_as_alone(tmp_path, recipes)


def assert_together_as_alone(tmp_path, recipes):
    cpu = torch.device("cpu")
    sessions = [Session(r, tmp_path / str(i), cpu, None, lambda: False) for i, r in enumerate(recipes)]
    rows = [_Row(index, session, session.walk(), 0, 0) for index, session in enumerate(sessions)]
    for row in rows:
        row.step, row.stop = next(row.walk)
    ended: dict[int, Outcome | GrokscopeError] = {}
    _Batch(rows, cpu).run(lambda: False, ended)
    assert all(isinstance(one, Outcome) and one.finished for one in ended.values())
    for index, recipe in enumerate(recipes):
        train(recipe, tmp_path / "alone" / str(index), device="cpu")
        found, alone = (
            Trajectory(folder / "trajectory.h5")
            for folder in (tmp_path / str(index), tmp_path / "alone" / str(index))
        )
        assert np.array_equal(found.steps, alone.steps)
        for name in alone.shapes:
            np.testing.assert_allclose(found.read(name), alone.read(name), rtol=0, atol=1e-10)
        for name, values in alone.scalars.items():
            np.testing.assert_allclose(found.scalars[name], values, rtol=1e-8, atol=1e-10)
        found.close()
        alone.close()
