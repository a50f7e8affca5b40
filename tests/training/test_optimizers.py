"""Our flat optimisers against torch's own, in float64, and against loops written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grokscope.training import FlatParameters, Optimizer, TrainSettings, learning_rate

STEPS = 50
SHAPES = {"first": (5, 4), "bias": (4,), "last": (4, 3)}


def start() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in SHAPES.items()}


def loss(params: dict[str, Tensor]) -> Tensor:
    """Not convex, and with gradients of very different sizes."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(16, 5, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (16,), generator=draw)
    hidden = torch.tanh(x @ params["first"] + 1e-3 * params["bias"])
    return torch.nn.functional.cross_entropy(hidden @ params["last"], y)


def ours(settings: TrainSettings) -> dict[str, Tensor]:
    flat = FlatParameters.of(start(), torch.device("cpu"))
    optimizer = Optimizer(settings, flat)
    for step in range(STEPS):
        flat.gradient.zero_()
        loss(flat.params).backward()
        with torch.no_grad():
            optimizer.update(step)
    return {name: value.detach() for name, value in flat.params.items()}


def gradients(params: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    found = torch.autograd.grad(loss(leaves), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def check(found: dict[str, Tensor], expected: dict[str, Tensor], initial: dict[str, Tensor]) -> None:
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
        assert (found[name] - initial[name]).abs().max() > 0.05


@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize("betas", [(0.9, 0.98), (0.0, 0.5)])
def test_adamw_with_decay_before_the_step_is_torchs(decay, betas):
    settings = TrainSettings(optimizer="adamw", lr=3e-2, weight_decay=decay, betas=betas, decay="before")
    params = {name: value.requires_grad_() for name, value in start().items()}
    reference = torch.optim.AdamW(params.values(), lr=3e-2, betas=betas, eps=1e-8, weight_decay=decay)
    for _ in range(STEPS):
        reference.zero_grad()
        loss(params).backward()
        reference.step()
    check(ours(settings), {name: value.detach() for name, value in params.items()}, start())


def written_out_adamw(settings: TrainSettings) -> dict[str, Tensor]:
    """Loshchilov and Hutter's algorithm 2, one tensor at a time, decay on the side that is asked for."""
    params = start()
    first = {name: torch.zeros_like(value) for name, value in params.items()}
    second = {name: torch.zeros_like(value) for name, value in params.items()}
    beta1, beta2 = settings.betas
    for step in range(STEPS):
        rate = settings.lr * min(1.0, (step + 1) / settings.warmup) if settings.warmup else settings.lr
        found = gradients(params)
        for name in params:
            if settings.decay == "before":
                params[name] = params[name] - rate * settings.weight_decay * params[name]
            first[name] = beta1 * first[name] + (1 - beta1) * found[name]
            second[name] = beta2 * second[name] + (1 - beta2) * found[name] ** 2
            corrected = first[name] / (1 - beta1 ** (step + 1))
            scale = (second[name] / (1 - beta2 ** (step + 1))).sqrt() + settings.eps
            params[name] = params[name] - rate * corrected / scale
            if settings.decay == "after":
                params[name] = params[name] - rate * settings.weight_decay * params[name]
    return params


@pytest.mark.parametrize("decay", ["before", "after"])
@pytest.mark.parametrize("warmup", [0, 20])
def test_adamw_is_the_algorithm_written_out(decay, warmup):
    settings = TrainSettings(lr=3e-2, weight_decay=0.7, decay=decay, warmup=warmup, eps=1e-4)
    check(ours(settings), written_out_adamw(settings), start())


def test_the_side_of_the_decay_matters():
    before = ours(TrainSettings(lr=3e-2, weight_decay=0.7, decay="before"))
    after = ours(TrainSettings(lr=3e-2, weight_decay=0.7, decay="after"))
    assert (before["first"] - after["first"]).abs().max() > 1e-4


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("side", ["before", "after"])
def test_sgd_is_torchs_with_the_decay_decoupled(momentum, side):
    rate, decay = 0.1, 0.3
    params = {name: value.requires_grad_() for name, value in start().items()}
    reference = torch.optim.SGD(params.values(), lr=rate, momentum=momentum)
    for _ in range(STEPS):
        reference.zero_grad()
        loss(params).backward()
        with torch.no_grad():
            if side == "before":
                for value in params.values():
                    value.mul_(1 - rate * decay)
            reference.step()
            if side == "after":
                for value in params.values():
                    value.mul_(1 - rate * decay)
    settings = TrainSettings(
        optimizer="sgd", lr=rate, momentum=momentum, weight_decay=decay, decay="before" if side == "before" else "after"
    )  # fmt: skip
    check(ours(settings), {name: value.detach() for name, value in params.items()}, start())


@pytest.mark.parametrize("side", ["before", "after"])
def test_gradient_descent_is_the_loop_written_out(side):
    rate, decay = 0.1, 0.3
    params = start()
    for _ in range(STEPS):
        found = gradients(params)
        for name in params:
            if side == "before":
                params[name] = (1 - rate * decay) * params[name] - rate * found[name]
            else:
                params[name] = (1 - rate * decay) * (params[name] - rate * found[name])
    check(ours(TrainSettings(optimizer="gd", lr=rate, weight_decay=decay, decay=side)), params, start())


def test_without_gradient_a_weight_shrinks_by_the_decay_of_each_step():
    settings = TrainSettings(optimizer="gd", lr=0.1, weight_decay=0.5, warmup=4)
    flat = FlatParameters.of({"w": torch.ones(3, dtype=torch.float64)}, torch.device("cpu"))
    optimizer = Optimizer(settings, flat)
    for step in range(6):
        optimizer.update(step)
    rates = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    expected = math.prod(1 - 0.5 * rate for rate in rates)
    torch.testing.assert_close(flat.params["w"].detach(), torch.full((3,), expected, dtype=torch.float64))


def test_warmup_rises_linearly_and_reaches_the_rate_at_its_last_step():
    settings = TrainSettings(lr=0.2, warmup=4)
    assert [learning_rate(settings, step) for step in range(6)] == pytest.approx(
        [0.05, 0.1, 0.15, 0.2, 0.2, 0.2], rel=1e-15
    )
    assert learning_rate(TrainSettings(lr=0.2), 0) == 0.2


def test_flat_parameters_are_views_in_the_order_given():
    params = start()
    flat = FlatParameters.of(params, torch.device("cpu"))
    assert list(flat.params) == list(SHAPES)
    torch.testing.assert_close(flat.vector, torch.cat([value.flatten() for value in params.values()]))
    flat.vector.fill_(2.0)
    for name, shape in SHAPES.items():
        torch.testing.assert_close(flat.params[name].detach(), torch.full(shape, 2.0, dtype=torch.float64))
    # a copy: what was given stays as it was
    torch.testing.assert_close(params["first"], start()["first"])
    loss(flat.params).backward()
    assert flat.gradient.count_nonzero() > 0
    assert flat.params["last"].grad is not None
    torch.testing.assert_close(flat.gradient[-12:].view(4, 3), flat.params["last"].grad)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [("adamw", {"first_moment", "second_moment"}), ("sgd", {"momentum"}), ("gd", set())],
)
def test_the_state_is_all_there_is_to_an_optimiser(optimizer, names):
    """An optimiser rebuilt from its state and the weights goes on as if nothing had happened."""
    settings = TrainSettings(
        optimizer=optimizer, lr=3e-2, weight_decay=0.1, momentum=0.5 * (optimizer == "sgd")
    )
    flat = FlatParameters.of(start(), torch.device("cpu"))
    held = Optimizer(settings, flat)
    assert set(held.state) == names
    for step in range(STEPS):
        if step == 20:
            moved = FlatParameters.of(
                {name: value.detach().clone() for name, value in flat.params.items()}, torch.device("cpu")
            )
            again = Optimizer(settings, moved)
            for name, vector in again.state.items():
                vector.copy_(held.state[name])
            flat, held = moved, again
        flat.gradient.zero_()
        loss(flat.params).backward()
        with torch.no_grad():
            held.update(step)
    expected = ours(settings)
    for name, value in flat.params.items():
        assert torch.equal(value.detach(), expected[name])
