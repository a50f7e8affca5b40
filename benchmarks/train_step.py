"""A training step, ours beside the loop people write today: nn.Module, every position, torch.optim.AdamW.

    python benchmarks/train_step.py [--steps 30] [--rounds 7]

Both start from the same weights. First 20 steps of each in float64 must agree to 1e-9; then blocks of float32
steps are timed alternately in one process, on one thread, by process time, and the medians are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from grokscope.models import MLP, MLPSettings, Model, Params, Transformer, TransformerSettings
from grokscope.tasks import ModularSettings, Task, modular_task, random_stream
from grokscope.training import FlatParameters, Optimizer, TrainSettings
from grokscope.training.evaluation import objective

SETTINGS = TrainSettings(lr=1e-3, weight_decay=1.0)


class NotebookTransformer(nn.Module):
    """One layer on [a, b, =], all positions, causal mask, as published notebooks write it."""

    def __init__(self, params: Params, p: int) -> None:
        super().__init__()
        self.p = p
        self.weights = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v.clone()) for k, v in params.items()}
        )

    def forward(self, pairs: Tensor) -> Tensor:
        w = {name.replace("/", "."): value for name, value in self.weights.items()}
        tokens = torch.cat([pairs, torch.full((len(pairs), 1), self.p)], dim=1)
        x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"]
        q, k, v = (torch.einsum("bpd,hdk->bphk", x, w[f"blocks.0.attn.W_{n}"]) for n in "QKV")
        scores = torch.einsum("bqhk,bphk->bhqp", q, k) / q.shape[-1] ** 0.5
        mask = torch.ones(3, 3, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(mask, -1e10).softmax(-1)
        z = torch.einsum("bhqp,bphk->bqhk", pattern, v)
        x = x + torch.einsum("bqhk,hkd->bqd", z, w["blocks.0.attn.W_O"])
        x = x + torch.relu(x @ w["blocks.0.mlp.W_in"]) @ w["blocks.0.mlp.W_out"]
        return (x @ w["unembed.W_U"])[:, -1]


class NotebookMLP(nn.Module):
    """Gather both embeddings, concatenate, two linear maps."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v.clone()) for k, v in params.items()}
        )

    def forward(self, pairs: Tensor) -> Tensor:
        w = {name.replace("/", "."): value for name, value in self.weights.items()}
        x = w["embed.W_E"][pairs].flatten(1)
        return torch.relu(x @ w["hidden.1.W"] + w["hidden.1.b"]) @ w["head.W_U"]


def notebook(net: nn.Module, task: Task) -> Callable[[], float]:
    """One step of the ordinary loop."""
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=SETTINGS.lr, betas=SETTINGS.betas, weight_decay=SETTINGS.weight_decay
    )

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def ours(model: Model, params: Params, task: Task) -> Callable[[], float]:
    """One step of the trainer."""
    cpu = torch.device("cpu")
    flat = FlatParameters.of(params, cpu)
    optimizer, loss_of, count = Optimizer(SETTINGS, flat), objective(task, model, SETTINGS, cpu), 0

    def step() -> float:
        nonlocal count
        flat.gradient.zero_()
        loss = loss_of(flat.params)
        loss.backward()
        with torch.no_grad():
            optimizer.update(count)
        count += 1
        return float(loss.detach())

    return step


def compare(
    name: str, model: Model, task: Task, build: Callable[[Params], nn.Module], args: argparse.Namespace
) -> None:
    """Check that both sides compute the same, then time them alternately."""
    exact = model.init(random_stream(0, "benchmark"), torch.float64)
    left, right = notebook(build(exact), task), ours(model, exact, task)
    worst = max(abs(left() - right()) for _ in range(20))
    assert worst < 1e-9, f"{name}: losses differ by {worst}"
    start = model.init(random_stream(0, "benchmark"), torch.float32)
    sides = {"notebook": notebook(build(start), task), "grokscope": ours(model, start, task)}
    took: dict[str, list[float]] = {side: [] for side in sides}
    for round_number in range(args.rounds + 1):
        for side, step in sides.items():
            began = time.process_time()
            for _ in range(args.steps):
                step()
            if round_number:  # the first round warms up
                took[side].append((time.process_time() - began) / args.steps * 1e3)
    middle = {side: statistics.median(values) for side, values in took.items()}
    print(
        f"{name}: notebook {middle['notebook']:.1f} ms, grokscope {middle['grokscope']:.1f} ms, "
        f"ratio {middle['notebook'] / middle['grokscope']:.2f}; float64 losses agree to {worst:.1e} over 20 steps"
    )


def main() -> None:
    """Both comparisons, with the machine they ran on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    mlp_task = modular_task(ModularSettings(p=59, train_fraction=0.4), 0)
    compare("MLP p=59", MLP(MLPSettings(), 59, 59), mlp_task, NotebookMLP, args)
    task = modular_task(ModularSettings(p=113, train_fraction=0.3), 0)
    mlp = MLP(MLPSettings(d_embed=128, hidden=(512,)), 113, 113)
    compare("MLP p=113", mlp, task, NotebookMLP, args)
    transformer = Transformer(TransformerSettings(), 113, 113)
    compare("transformer p=113", transformer, task, lambda params: NotebookTransformer(params, 113), args)


if __name__ == "__main__":
    main()
