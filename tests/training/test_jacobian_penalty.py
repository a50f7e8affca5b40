"""The penalty on the Jacobian: structure against differentiating twice, and as a setting that resumes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grokscope.errors import GrokscopeError
from grokscope.models import MLPSettings, build_model
from grokscope.tasks import random_stream
from grokscope.training import train
from grokscope.training.jacobian_penalty import JacobianPenalty, JacobianSettings
from grokscope.trajectory import Trajectory

P = 7
FLOAT64 = ("train.dtype=float64", "train.betas=[0.9,0.999]")
PENALTY = "intervene.jacobian={strength = 0.05, projections = 2}"


def test_the_value_is_the_estimate_of_the_norm():
    """With many directions the norm itself; with one the mean over samples of √C ‖Jᵀv‖."""
    settings, generator = (
        MLPSettings(d_embed=4, hidden=(9, 6), head_bias=True),
        torch.Generator().manual_seed(1),
    )
    model = build_model(settings, n_tokens=P, n_inputs=None, n_classes=P)
    params = {
        part.name: torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in model.parts
    }
    inputs = torch.randint(P, (11, 2), generator=generator)
    x = model.embedded(params, inputs)
    assert isinstance(x, Tensor)
    norms = []
    for row in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: model.from_embedded(params, one[None])[0], x[row]
        )
        assert isinstance(jacobian, Tensor)
        norms.append(float(jacobian.norm()))
    many = JacobianPenalty(JacobianSettings(1.0, 3000), model, inputs, 0)
    assert float(many.value(params, 0)) == pytest.approx(float(np.mean(norms)), rel=0.02)
    one = JacobianPenalty(JacobianSettings(1.0), model, inputs, 0)
    (directions,) = one.directions(5, len(inputs))
    expected = model.input_gradient(params, inputs, directions).norm(dim=1).mean() * math.sqrt(P)
    assert float(one.value(params, 5)) == pytest.approx(float(expected))
    assert not torch.equal(one.directions(5, 4), one.directions(6, 4))
    torch.testing.assert_close(one.directions(5, 4).norm(dim=-1), torch.ones(1, 4, dtype=torch.float64))


def test_training_follows_the_penalised_loss(tiny, tmp_path):
    """Against torch's AdamW on the sum, the Jacobian taken row by row."""
    recipe = tiny(*FLOAT64, PENALTY, "train.steps=12", "save.schedule=['0:end:1']")
    train(recipe, tmp_path / "run", device="cpu")
    task, model = recipe.build()
    params = {
        name: value.requires_grad_()
        for name, value in model.init(random_stream(recipe.seed, "initial weights"), torch.float64).items()
    }
    optimizer = torch.optim.AdamW(list(params.values()), lr=recipe.train.lr, betas=recipe.train.betas,
                                  eps=recipe.train.eps, weight_decay=recipe.train.weight_decay)  # fmt: skip
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    states = [{name: value.detach().clone() for name, value in params.items()}]
    acts = JacobianPenalty(JacobianSettings(0.05, 2), model, inputs, recipe.seed)
    for step in range(12):
        optimizer.zero_grad()
        loss = cross_entropy(model.forward(params, inputs), targets)
        x = model.combined(params, inputs)
        logits = model.from_z(params, x)
        squares = torch.zeros(len(x), dtype=torch.float64)
        for direction in acts.directions(step, len(x)):
            (pulled,) = torch.autograd.grad((logits * direction).sum(), x, create_graph=True)
            squares = squares + pulled.square().sum(1)
        (loss + 0.05 * (P / 2 * squares).sqrt().mean()).backward()
        optimizer.step()
        states.append({name: value.detach().clone() for name, value in params.items()})
    with Trajectory(tmp_path / "run" / "trajectory.h5") as run:
        for name in run.names:
            expected = np.stack([states[step][name].numpy() for step in run.steps])
            np.testing.assert_allclose(run.read(name), expected, rtol=1e-8, atol=1e-11, err_msg=name)


def test_no_strength_is_no_penalty(tiny, tmp_path, checksum):
    train(tiny(), tmp_path / "plain", device="cpu")
    train(tiny("intervene.jacobian={strength = 0.0}"), tmp_path / "none", device="cpu")
    with (
        Trajectory(tmp_path / "plain" / "trajectory.h5") as one,
        Trajectory(tmp_path / "none" / "trajectory.h5") as two,
    ):
        for name in one.names:
            assert np.array_equal(one.read(name), two.read(name)), name


@pytest.mark.parametrize("more", [(), ("train.batch_size=8",)])
def test_a_penalised_run_is_resumed_to_the_same_bytes(tiny, tmp_path, checksum, more):
    recipe = tiny(PENALTY, "save.snapshots=8", "save.evaluate=['0:end:1']", *more)
    train(recipe, tmp_path / "whole", device="cpu")

    def stop(step: int, scalars: Any) -> None:
        if step == 33:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        train(recipe, tmp_path / "cut", device="cpu", report=stop)
    assert train(recipe, tmp_path / "cut", device="cpu", resume=True).finished
    assert checksum(tmp_path / "cut") == checksum(tmp_path / "whole")


def test_it_lowers_the_norm(tiny, tmp_path):
    recipe = tiny("intervene.jacobian={strength = 0.3, projections = 4}", "train.dtype=float64")
    train(recipe, tmp_path / "held", device="cpu")
    train(tiny("train.dtype=float64"), tmp_path / "free", device="cpu")
    task, model = recipe.build()
    measure = JacobianPenalty(JacobianSettings(1.0, 50), model, task.inputs, 0)
    sizes = []
    for name in ("held", "free"):
        with Trajectory(tmp_path / name / "trajectory.h5") as run:
            last = np.asarray([len(run.steps) - 1])
            params = {tensor: torch.from_numpy(run.read(tensor, last)[0]) for tensor in run.names}
            sizes.append(float(measure.value(params, 0)))
    assert sizes[0] < 0.9 * sizes[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("intervene.jacobian={strength = -1.0}", "intervene.jacobian.strength is -1.0, expected at least 0"),
        ("intervene.jacobian={strength = 1.0, projections = 0}", "expected at least 1"),
        ("intervene.jacobian={projections = 2}", "strength"),
    ],
)
def test_what_is_no_penalty_is_refused_in_a_line(tiny, change, said):
    with pytest.raises(GrokscopeError) as error:
        tiny(change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_without_an_input_to_differentiate_in_is_refused(tiny):
    with pytest.raises(GrokscopeError, match="composed"):
        tiny('model={family="composed", d_model=8, n_heads=2, d_mlp=12}', PENALTY)
