"""A training step, ours beside the loop people write today: nn.Module, every position, torch.optim.AdamW.

    python benchmarks/train_step.py [--steps 10] [--rounds 7] [--exact 200]

Both start from the same weights. First the parameters of both after 200 steps in float64 must agree to 1e-10;
then blocks of float32 steps are timed alternately in one process, on one thread, by process time, and the medians
are printed. The MLP of the delay law is timed beside code with its seeds on a leading axis too, as its authors
write it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from grokscope.models import MLP, MLPSettings, Model, Params, Transformer, TransformerSettings
from grokscope.tasks import ModularSettings, Task, modular_task, random_stream
from grokscope.training import FlatParameters, Optimizer, TrainSettings
from grokscope.training.gradient import TrainingGradient
from grokscope.training.machine import choose_precision, process_settings

CPU = torch.device("cpu")
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

    def __init__(self, params: Params, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.activation = activation
        self.weights = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v.clone()) for k, v in params.items()}
        )

    def forward(self, pairs: Tensor) -> Tensor:
        w = {name.replace("/", "."): value for name, value in self.weights.items()}
        x = w["embed.W_E"][pairs].flatten(-2)
        hidden = self.activation(x @ w["hidden.1.W"] + w["hidden.1.b"].unsqueeze(-2))
        logits = hidden @ w["head.W_U"]
        return logits + w["head.b_U"].unsqueeze(-2) if "head.b_U" in w else logits


class SeedsMLP(NotebookMLP):
    """The same for several seeds on a leading axis: every weight (S, …), every split (S, N, 2)."""

    def forward(self, pairs: Tensor) -> Tensor:
        w = {name.replace("/", "."): value for name, value in self.weights.items()}
        seed = torch.arange(len(pairs))[:, None, None]
        x = w["embed.W_E"][seed, pairs].flatten(-2)
        hidden = self.activation(torch.bmm(x, w["hidden.1.W"]) + w["hidden.1.b"].unsqueeze(-2))
        return torch.bmm(hidden, w["head.W_U"]) + w["head.b_U"].unsqueeze(-2)


def notebook(net: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], object]:
    """One step of the ordinary loop; a sum over seeds where they have an axis."""
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=SETTINGS.lr, betas=SETTINGS.betas, weight_decay=SETTINGS.weight_decay
    )
    seeds = len(targets) if targets.ndim == 2 else 1

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs).flatten(0, -2), targets.flatten()) * seeds
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def ours(model: Model, params: Params, task: Task) -> tuple[Callable[[], object], Params]:
    """One step of the trainer, and the parameters that it moves."""
    flat = FlatParameters.of(params, CPU)
    optimizer, count = Optimizer(SETTINGS, flat), 0
    gradient = TrainingGradient(task, model, SETTINGS, CPU, flat.vector.dtype)
    weights = {name: value.detach() for name, value in flat.params.items()}

    def step() -> None:
        nonlocal count
        flat.take(gradient(weights))
        optimizer.update(count)
        count += 1

    return step, weights


def training_pairs(task: Task) -> tuple[Tensor, Tensor]:
    """Inputs (N, 2) and targets (N,) of the training samples."""
    return task.inputs[task.train_mask], task.targets[task.train_mask]


def agreement(model: Model, task: Task, build: Callable[[Params], nn.Module], steps: int) -> float:
    """Largest difference in a parameter after ``steps`` of either side in float64."""
    start = model.init(random_stream(0, "benchmark"), torch.float64)
    net = build(start)
    left, (right, found) = notebook(net, *training_pairs(task)), ours(model, start, task)
    for _ in range(steps):
        left()
        right()
    plain = {name.removeprefix("weights.").replace("/", "."): v for name, v in net.state_dict().items()}
    return max(float((plain[name] - value).abs().max()) for name, value in found.items())


def alternately(sides: dict[str, Callable[[], object]], steps: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of process time a step of each side, in turns."""
    took: dict[str, list[float]] = {side: [] for side in sides}
    for round_number in range(rounds + 1):
        for side, step in sides.items():
            # heap and matrix products are part of the trainer: the others get what a process has by itself
            with process_settings(1, CPU) if side == "grokscope" else nullcontext():
                step()
                began = time.process_time()
                for _ in range(steps):
                    step()
            if round_number:  # the first round warms up
                took[side].append((time.process_time() - began) / steps * 1e3)
    return {side: statistics.median(values) for side, values in took.items()}


def compare(
    name: str, model: Model, task: Task, build: Callable[[Params], nn.Module], args: argparse.Namespace
) -> None:
    """Check that both sides compute the same, then time them alternately."""
    worst = agreement(model, task, build, args.exact)
    assert worst < 1e-10, f"{name}: parameters differ by {worst}"
    start = model.init(random_stream(0, "benchmark"), torch.float32)
    sides = {
        "notebook": notebook(build(start), *training_pairs(task)),
        "grokscope": ours(model, start, task)[0],
    }
    if isinstance(build(start), NotebookMLP) and "head.b_U" in start:
        several = {key: torch.stack([value] * args.seeds) for key, value in start.items()}
        pairs = (torch.stack([value] * args.seeds) for value in training_pairs(task))
        sides["seeds"] = notebook(SeedsMLP(several, nn.functional.gelu), *pairs)
    took = alternately(sides, args.steps, args.rounds)
    line = f"{name}: notebook {took['notebook']:.2f} ms, grokscope {took['grokscope']:.2f} ms, "
    line += f"ratio {took['notebook'] / took['grokscope']:.2f}"
    if "seeds" in took:
        each = took["seeds"] / args.seeds
        line += (
            f"; {args.seeds} seeds on a leading axis {each:.2f} ms each, ratio {each / took['grokscope']:.2f}"
        )
    print(f"{line}; float64 parameters agree to {worst:.1e} after {args.exact} steps", flush=True)


def main() -> None:
    """All comparisons, with the machine they ran on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--exact", type=int, default=200, help="float64 steps to compare")
    parser.add_argument("--seeds", type=int, default=4, help="of the code with seeds on a leading axis")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, float32 products "
        f"by {choose_precision(CPU)!r}"
    )
    small = modular_task(ModularSettings(p=59, train_fraction=0.4), 0)
    compare("MLP p=59", MLP(MLPSettings(), 59, 59), small, NotebookMLP, args)
    delay = MLPSettings(d_embed=128, hidden=(256,), activation="gelu", head_bias=True)
    compare(
        "delay-law MLP p=59",
        MLP(delay, 59, 59),
        small,
        lambda params: NotebookMLP(params, nn.functional.gelu),
        args,
    )
    task = modular_task(ModularSettings(p=113, train_fraction=0.3), 0)
    mlp = MLP(MLPSettings(d_embed=128, hidden=(512,)), 113, 113)
    compare("MLP p=113", mlp, task, NotebookMLP, args)
    transformer = Transformer(TransformerSettings(), 113, 113)
    compare("transformer p=113", transformer, task, lambda params: NotebookTransformer(params, 113), args)


if __name__ == "__main__":
    main()
