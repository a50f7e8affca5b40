"""The closed-form training gradient against autograd through the objective written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from grokscope.models import Model, Params
from grokscope.tasks import Task
from grokscope.training import Recipe, TrainSettings, read_recipe
from grokscope.training.evaluation import Evaluator
from grokscope.training.gradient import TrainingGradient

CPU = torch.device("cpu")


def objective(
    task: Task, model: Model, settings: TrainSettings, params: Params, rows: Tensor | None = None
) -> Tensor:
    """The training loss, as its definition reads."""
    if task.kind == "regression":
        error = model.forward(params, task.inputs.double()) - task.targets
        squared = error[task.train_mask].square()
        return 0.5 * (squared.mean() if task.mean_loss else squared.sum())
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    if rows is not None:
        inputs, targets = inputs[rows], targets[rows]
    logits = model.forward(params, inputs)
    if settings.loss == "cross-entropy":
        return cross_entropy(logits, targets)
    if settings.loss == "stablemax":
        s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
        return -(s / s.sum(1, keepdim=True))[torch.arange(len(s)), targets].log().mean()
    return 0.5 * (logits - one_hot(targets, logits.shape[-1])).square().sum(-1).mean()


def initial(recipe: Recipe, seed: int = 0) -> tuple[Task, Model, Params]:
    task, model = recipe.build()
    return task, model, model.init(torch.Generator().manual_seed(seed), torch.float64)


def recipes() -> dict[str, Recipe]:
    def mlp(*changes: str) -> Recipe:
        return read_recipe("quickstart", ["task.p=11", "model.d_embed=6", "model.hidden=[12]", *changes])

    def transformer(*changes: str) -> Recipe:
        small = ["task.p=11", "model.d_model=12", "model.n_heads=3", "model.d_mlp=20"]
        return read_recipe("nanda", [*small, *changes])

    def regression(task: str, model: str) -> Recipe:
        changes = [f'task={{name="regression", d=7, train=5, test=8, {task}}}', f"model={{{model}}}"]
        return read_recipe("deep-linear", changes)

    return {
        "mlp": mlp(),
        "mlp squared": mlp("train.loss=squared"),
        "mlp stablemax": mlp("train.loss=stablemax"),
        "transformer stablemax": transformer("train.loss=stablemax", "intervene.temperature=0.5"),
        "mlp two layers": mlp("model.hidden=[12,9]"),
        "mlp sum": mlp("model.combine=sum", "model.activation=gelu"),
        "transformer": transformer(),
        "transformer squared": transformer("train.loss=squared"),
        "transformer with norms": transformer("model.layer_norm=true", "model.biases=true"),
        "completion": read_recipe("deep-linear", ["task.d=6"]),
        "regression": regression('loss="sum"', 'family="deep-linear", depth=1'),
        "regression, mean, ReLU": regression(
            'loss="mean", teacher="relu"', 'family="feature-mlp", hidden=[9], activation="relu"'
        ),
        "regression, diagonal": regression('loss="mean", teacher="sparse"', 'family="diagonal"'),
    }


@pytest.mark.parametrize("name", recipes())
def test_the_gradient_is_that_of_the_objective(name):
    recipe = recipes()[name]
    task, model, params = initial(recipe)
    found = TrainingGradient(task, model, recipe.train, CPU, torch.float64)(params)
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    loss = objective(task, model, recipe.train, leaves)
    assert loss.item() == pytest.approx(Evaluator(task, model, recipe, CPU)(params)["loss.train"], rel=1e-13)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    for key, gradient in zip(leaves, expected, strict=True):
        scale = gradient.abs().max()
        assert scale > 0, key
        assert (found[key] - gradient).abs().max() < 1e-13 * max(1.0, float(scale)), key


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_a_batch_is_the_objective_of_its_rows_and_the_mean_of_single_ones(name):
    recipe = recipes()[name]
    task, model, params = initial(recipe)
    gradient = TrainingGradient(task, model, recipe.train, CPU, torch.float64)
    rows = torch.tensor([4, 0, 7])
    found = gradient(params, rows)
    singles = [gradient(params, row[None]) for row in rows]
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    expected = torch.autograd.grad(objective(task, model, recipe.train, leaves, rows), list(leaves.values()))
    for key, plain in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found[key], plain, rtol=0, atol=1e-13)
        torch.testing.assert_close(
            found[key], torch.stack([one[key] for one in singles]).mean(0), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "mlp stablemax",
        "mlp sum",
        "transformer",
        "completion",
        *(name for name in recipes() if "regression" in name),
    ],
)
def test_runs_on_a_leading_axis_have_the_gradients_they_have_alone(name):
    recipe = recipes()[name]
    runs = [initial(read_recipe_of(recipe, seed), seed) for seed in range(3)]
    model = runs[0][1]
    together = TrainingGradient([task for task, _, _ in runs], model, recipe.train, CPU, torch.float64)
    stacked = {key: torch.stack([params[key] for _, _, params in runs]) for key in runs[0][2]}
    found = together(stacked)
    for index, (task, _, params) in enumerate(runs):
        alone = TrainingGradient(task, model, recipe.train, CPU, torch.float64)(params)
        for key, value in alone.items():
            torch.testing.assert_close(found[key][index], value, rtol=0, atol=1e-13)


def read_recipe_of(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe under another seed, so that splits differ."""
    return replace(recipe, seed=seed)


def test_parameters_and_inputs_are_left_alone():
    task, model, params = initial(recipes()["transformer"])
    before = {key: value.clone() for key, value in params.items()}
    gradient = TrainingGradient(task, model, recipes()["transformer"].train, CPU, torch.float64)
    first = {key: value.clone() for key, value in gradient(params).items()}
    second = gradient(params)
    assert all(torch.equal(params[key], before[key]) for key in params)
    assert all(torch.equal(first[key], second[key]) for key in params)
