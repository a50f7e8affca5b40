"""Fleets on a GPU: run-steps a second from 1 run to 1024, and the published transformer run to its grok.

    python benchmarks/gpu_fleet.py [--json FILE] [--plot FILE]

Needs a CUDA device. Prints, for the MLP of p = 59, the transformer of p = 113 and a deep linear net of d = 64: the
run-steps a second and the share of the device's float32 peak that the matrix products among them reach, for 1, 2, 4,
… runs on one axis; then the wall clock of one run, and of 64 seeds, of the published setting from start to grok.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from grokscope.training import Recipe, read_recipe
from grokscope.training.batch import train_batch

SHAPES = {
    "MLP p=59": ("quickstart", []),
    "transformer p=113": ("nanda", []),
    "deep linear d=64": ("deep-linear", ["task.d=64", "train.dtype=float32"]),
}
SPARSE = ["save.schedule=['0:0:1']", "save.evaluate=['0:0:1']", "save.snapshots=1000000"]
CORES_PER_SM = 128
"""float32 lanes of a multiprocessor of compute capability 8.6 to 9.0; two operations a clock each."""


def products(recipe: Recipe) -> float:
    """Floating-point operations of the matrix products over samples in one step, forward and back."""
    task, model = recipe.build()
    if recipe.model.family == "deep-linear":
        d, depth = task.inputs.shape[1], model.n_layers
        return 2.0 * d**3 * (depth - 1 + 2 * (depth - 1))
    samples = int(task.train_mask.sum())
    width = model.init(torch.Generator().manual_seed(0))[
        "head.W_U" if recipe.model.family == "mlp" else "blocks.0.mlp.W_out"
    ].shape[0]
    return 3 * 2.0 * samples * width * model.n_classes


def peak() -> float:
    """float32 operations a second that the device could make at its highest clock."""
    found = torch.cuda.get_device_properties(0)
    clock = torch.cuda.clock_rate() * 1e6
    return found.multi_processor_count * CORES_PER_SM * 2 * clock


def speed(name: str, overrides: list[str], runs: int, steps: int) -> float:
    """Run-steps a second of ``runs`` runs together, the start and the capture taken out by two lengths."""
    spent = []
    for length in (steps, 3 * steps):
        recipes = [
            read_recipe(name, [*overrides, *SPARSE, f"train.steps={length}"], seed) for seed in range(runs)
        ]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            train_batch(recipes, [Path(folder) / str(seed) for seed in range(runs)], device="cuda")
            torch.cuda.synchronize()
            spent.append(time.perf_counter() - began)
    return 2 * steps * runs / max(spent[1] - spent[0], 1e-9)


def to_grok(runs: int) -> float:
    """Seconds of ``runs`` seeds of the published setting, saves and evaluations of the recipe included."""
    recipes = [read_recipe("nanda", ["train.steps=8000"], seed) for seed in range(runs)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train_batch(recipes, [Path(folder) / str(seed) for seed in range(runs)], device="cuda")
        return time.perf_counter() - began


def main() -> None:
    """The growth with the number of runs, then the published run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_fleet.py: no CUDA device was found, expected one\n")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32 without TF32")
    found: dict[str, dict[int, float]] = {}
    for label, (name, overrides) in SHAPES.items():
        each = products(read_recipe(name, overrides))
        runs = 1
        while runs <= args.most:
            try:
                rate = speed(name, overrides, runs, args.steps)
            except torch.cuda.OutOfMemoryError:
                print(f"{label}, {runs} runs: out of memory")
                break
            found.setdefault(label, {})[runs] = rate
            print(
                f"{label}, {runs} runs: {rate:.0f} run-steps/s, {100 * rate * each / peak():.1f} % of peak",
                flush=True,
            )
            runs *= 2
    for runs in (1, 64):
        print(f"published transformer, {runs} seeds, 8000 steps: {to_grok(runs):.1f} s", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    if args.plot:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for label, rates in found.items():
            axes.loglog(list(rates), list(rates.values()), marker="o", label=label)
        axes.set_xlabel("runs on one axis")
        axes.set_ylabel("run-steps a second")
        axes.legend()
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
