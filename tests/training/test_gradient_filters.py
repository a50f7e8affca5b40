"""Gradient filters against the published definitions written out, and as settings that resume, fork and batch."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from grokscope.errors import GrokscopeError
from grokscope.tasks import random_stream
from grokscope.training import Recipe, fork_run, open_parent, train
from grokscope.training.gradient_filters import FilterSettings, GradientFilter
from grokscope.trajectory import Trajectory

FLOAT64 = ("train.dtype=float64", "train.betas=[0.9,0.999]", "model.hidden_bias=true")
FILTERS = {
    "ema": "intervene.filter={kind = 'ema', alpha = 0.9, strength = 1.5}",
    "window": "intervene.filter={kind = 'window', window = 7, strength = 3.0}",
    "orthogonal": "intervene.filter={kind = 'orthogonal'}",
    "orthogonal, as it falls": "intervene.filter={kind = 'orthogonal', rescale = false}",
}


class Slow:
    """What the papers' code does to ``p.grad`` of every parameter, with lists in place of tensors."""

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings
        self.average: dict[str, torch.Tensor] = {}
        self.window: dict[str, deque[torch.Tensor]] = {}

    def __call__(self, name: str, parameter: torch.Tensor) -> None:
        s, g = self.settings, parameter.grad
        assert g is not None
        if s.kind == "ema":
            before = self.average.get(name, g.clone())
            self.average[name] = before * s.alpha + g * (1 - s.alpha)
            parameter.grad = g + s.strength * self.average[name]
        elif s.kind == "window":
            kept = self.window.setdefault(name, deque(maxlen=s.window))
            kept.append(g.clone())
            if len(kept) == s.window:
                parameter.grad = g + s.strength * sum(kept) / len(kept)
        else:
            w, flat = parameter.detach().flatten(), g.flatten()
            square = float(w @ w)
            left = flat - (w @ flat) / square * w if square else flat
            if s.rescale:
                left = left * (flat.norm() / left.norm())
            parameter.grad = left.reshape(g.shape)


def slow(recipe: Recipe, since: int = 0, filtered: FilterSettings | None = None) -> list[dict[str, Any]]:
    """The parameters after 0, 1, 2, … updates of torch's AdamW."""
    task, model = recipe.build()
    initial = model.init(random_stream(recipe.seed, "initial weights"), torch.float64)
    params = {name: value.requires_grad_() for name, value in initial.items()}
    optimizer = torch.optim.AdamW(
        list(params.values()), lr=recipe.train.lr, betas=recipe.train.betas, eps=recipe.train.eps,
        weight_decay=recipe.train.weight_decay,
    )  # fmt: skip
    settings = filtered or recipe.intervene.filter
    acts = None if settings is None else Slow(settings)
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    states = [{name: value.detach().clone() for name, value in params.items()}]
    for step in range(recipe.train.steps):
        optimizer.zero_grad()
        cross_entropy(model.forward(params, inputs), targets).backward()
        if acts is not None and step >= since:
            for name, parameter in params.items():
                acts(name, parameter)
        optimizer.step()
        states.append({name: value.detach().clone() for name, value in params.items()})
    return states


def assert_same(directory: Path, states: list[dict[str, Any]]) -> None:
    with Trajectory(directory / "trajectory.h5") as run:
        assert len(run.steps) > 5
        for name in run.names:
            expected = np.stack([states[step][name].numpy() for step in run.steps])
            np.testing.assert_allclose(run.read(name), expected, rtol=1e-8, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("kind", FILTERS)
def test_a_filter_is_the_published_one(tiny, tmp_path, kind):
    recipe = tiny(*FLOAT64, FILTERS[kind])
    train(recipe, tmp_path / "run", device="cpu")
    states = slow(recipe)
    assert_same(tmp_path / "run", states)
    plain = slow(tiny(*FLOAT64))
    assert not np.allclose(states[-1]["embed.W_E"], plain[-1]["embed.W_E"], rtol=1e-2)


@pytest.mark.parametrize("kind", FILTERS)
def test_a_filtered_run_is_resumed_to_the_same_bytes(tiny, tmp_path, checksum, kind):
    recipe = tiny(FILTERS[kind], "save.snapshots=8")
    train(recipe, tmp_path / "whole", device="cpu")

    def stop(step: int, scalars: Any) -> None:
        if step == 33:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        train(tiny(FILTERS[kind], "save.snapshots=8", "save.evaluate=['0:end:1']"), tmp_path / "cut", device="cpu",
              report=stop)  # fmt: skip
    recipe = tiny(FILTERS[kind], "save.snapshots=8", "save.evaluate=['0:end:1']")
    assert train(recipe, tmp_path / "cut", device="cpu", resume=True).finished
    with (
        Trajectory(tmp_path / "whole" / "trajectory.h5") as one,
        Trajectory(tmp_path / "cut" / "trajectory.h5") as two,
    ):
        for name in one.names:
            assert np.array_equal(one.read(name), two.read(name)), name


@pytest.mark.parametrize("kind", FILTERS)
def test_a_fork_may_bring_in_a_filter(tiny, tmp_path, kind):
    """It has seen no gradient before the fork."""
    recipe = tiny(*FLOAT64)
    train(recipe, tmp_path / "free", device="cpu")
    fork_run(open_parent(tmp_path / "free", "forking"), 14, tmp_path / "fork", [FILTERS[kind]])
    assert_same(tmp_path / "fork", slow(recipe, 14, tiny(FILTERS[kind]).intervene.filter))


def test_a_fork_of_a_filtered_run_remembers(tiny, tmp_path):
    train(tiny(FILTERS["window"]), tmp_path / "run", device="cpu")
    fork_run(open_parent(tmp_path / "run", "forking"), 14, tmp_path / "fork", ["save.schedule=['0:end:2']"])
    with (
        Trajectory(tmp_path / "run" / "trajectory.h5") as one,
        Trajectory(tmp_path / "fork" / "trajectory.h5") as two,
    ):
        later = one.steps >= 14
        assert np.array_equal(one.steps[later], two.steps)
        for name in one.names:
            assert np.array_equal(one.read(name)[later], two.read(name)), name


@pytest.mark.parametrize("kind", FILTERS)
def test_runs_side_by_side_are_filtered_as_alone(tiny, kind):
    """The same bits for several runs on a leading axis, and with the step in a tensor."""
    _, model = tiny(FILTERS[kind]).build()
    settings = tiny(FILTERS[kind]).intervene.filter
    assert settings is not None
    size = sum(int(np.prod(part.shape)) for part in model.parts)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, size, generator=generator)
    together = GradientFilter(settings, model, weights)
    alone = [GradientFilter(settings, model, weights[row]) for row in range(3)]
    for step in range(12):
        gradient = torch.randn(3, size, generator=generator)
        rows = [gradient[row].clone() for row in range(3)]
        together.apply(gradient, weights, torch.tensor(float(step)))
        for row, one in enumerate(alone):
            one.apply(rows[row], weights[row], step)
            assert torch.equal(gradient[row], rows[row])


def test_an_orthogonal_gradient_moves_no_norm(tiny):
    _, model = tiny(FILTERS["orthogonal"]).build()
    size = sum(int(np.prod(part.shape)) for part in model.parts)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(size, generator=generator, dtype=torch.float64)
    before = gradient.clone()
    acts = GradientFilter(FilterSettings("orthogonal"), model, weights)
    acts.apply(gradient, weights, 0)
    for where in acts.tensors:
        assert float(gradient[where] @ weights[where]) == pytest.approx(0, abs=1e-10)
        assert float(gradient[where].norm()) == pytest.approx(float(before[where].norm()))
    # along the weights nothing is left, and at zero weights everything
    along = weights.clone()
    GradientFilter(FilterSettings("orthogonal", rescale=False), model, weights).apply(along, weights, 0)
    assert float(along.abs().max()) < 1e-12
    kept = before.clone()
    acts.apply(kept, torch.zeros_like(weights), 0)
    torch.testing.assert_close(kept, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("intervene.filter={kind = 'fast'}", "ema"),
        (
            "intervene.filter={kind = 'ema', alpha = 1.0}",
            "intervene.filter.alpha is 1.0, expected from 0 to below 1",
        ),
        (
            "intervene.filter={kind = 'window', window = 0}",
            "intervene.filter.window is 0, expected at least 1",
        ),
        ("intervene.filter={strength = 1.0}", "kind"),
    ],
)
def test_what_is_no_filter_is_refused_in_a_line(tiny, change, said):
    with pytest.raises(GrokscopeError) as error:
        tiny(change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
