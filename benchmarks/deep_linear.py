"""A sweep of deep linear nets, ours on a leading axis beside the loop people write today, one run after another.

    python benchmarks/deep_linear.py [--runs 32] [--steps 200] [--rounds 5]

Completion of a d × d matrix from half its entries by three layers, float64, gradient descent with decoupled decay,
seeds and decays that differ run by run. First the parameters of both sides after 200 steps must agree to 1e-10;
then blocks of steps of all runs are timed alternately in one process, on one thread, by process time, medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from grokscope.training import FlatParameters, Recipe, read_recipe
from grokscope.training.batch_optimizer import BatchOptimizer
from grokscope.training.gradient import TrainingGradient
from grokscope.training.machine import process_settings

CPU = torch.device("cpu")


def sweep(d: int, runs: int) -> list[Recipe]:
    """Recipes that differ in seed and decay."""
    return [
        read_recipe("deep-linear", [f"task.d={d}", f"train.weight_decay={0.003 * 2 ** (index % 4)}"], index)
        for index in range(runs)
    ]


def initial(recipe: Recipe) -> list[Tensor]:
    """The layers at the start."""
    _, model = recipe.build()
    return list(model.init(torch.Generator().manual_seed(recipe.seed), torch.float64).values())


def notebook(recipe: Recipe) -> tuple[Callable[[], object], Sequence[Tensor]]:
    """One run of the ordinary loop: layers, a masked loss, backward, torch.optim.SGD."""
    task, _ = recipe.build()
    net = nn.Sequential(
        *(nn.Linear(len(w), len(w), bias=False, dtype=torch.float64) for w in initial(recipe))
    )
    weights = list(net.parameters())
    with torch.no_grad():
        for weight, value in zip(weights, initial(recipe), strict=True):
            weight.copy_(value.T)
    inputs, targets, observed = task.inputs.double(), task.targets.double(), task.train_mask
    optimizer = torch.optim.SGD(weights, lr=recipe.train.lr)
    shrink = 1 - recipe.train.lr * recipe.train.weight_decay

    def step() -> float:
        optimizer.zero_grad()
        loss = 0.5 * ((net(inputs) - targets)[observed] ** 2).sum()
        loss.backward()
        with torch.no_grad():
            for weight in weights:
                weight.mul_(shrink)
        optimizer.step()
        return float(loss.detach())

    return step, weights


def ours(recipes: list[Recipe]) -> tuple[Callable[[], object], FlatParameters]:
    """One step of all runs together."""
    built = [recipe.build() for recipe in recipes]
    model = built[0][1]
    vector = torch.stack([torch.cat([w.reshape(-1) for w in initial(recipe)]) for recipe in recipes])
    flat = FlatParameters.over(vector, model.shapes)
    optimizer = BatchOptimizer([recipe.train for recipe in recipes], flat)
    gradient = TrainingGradient([task for task, _ in built], model, recipes[0].train, CPU, torch.float64)
    params, count = flat.detached(), 0

    def step() -> None:
        nonlocal count
        flat.take(gradient(params))
        optimizer.update(count)
        count += 1

    return step, flat


def compare(d: int, args: argparse.Namespace) -> None:
    """Check that both sides compute the same, then time them alternately."""
    recipes = sweep(d, args.runs)
    plain, (step, flat) = [notebook(recipe) for recipe in recipes], ours(recipes)
    for _ in range(200):
        step()
        for one, _ in plain:
            one()
    worst = max(
        float((layer[run] - weights[index].detach().T).abs().max())
        for run, (_, weights) in enumerate(plain)
        for index, layer in enumerate(flat.detached().values())
    )
    assert worst < 1e-10, f"d={d}: parameters differ by {worst}"
    sides = {"notebook": lambda: [one() for one, _ in plain], "grokscope": step}
    took: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, all_runs in sides.items():
            began = time.process_time()
            for _ in range(args.steps):
                all_runs()
            took[side].append((time.process_time() - began) / args.steps / args.runs * 1e6)
    middle = {side: statistics.median(values) for side, values in took.items()}
    print(
        f"d={d}, {args.runs} runs: notebook {middle['notebook']:.1f} µs a run-step, grokscope "
        f"{middle['grokscope']:.2f} µs, ratio {middle['notebook'] / middle['grokscope']:.1f}; parameters agree to "
        f"{worst:.1e} after 200 steps",
        flush=True,
    )


def main() -> None:
    """Three widths, with the machine they ran on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    with process_settings(1, CPU):
        for d in (30, 32, 64, 128):
            compare(d, args)


if __name__ == "__main__":
    main()
