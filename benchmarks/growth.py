"""How time and memory grow: with the number of checkpoints, of runs, and with p.

    python benchmarks/growth.py [--json FILE] [--plot FILE] [--quick]

Every point is a process of its own, which reports its processor time and its peak resident memory; what an empty
command needs is measured too. Prints a table, and the exponent of time in the number by least squares on the
logarithms over the upper half of each series, where what a process costs to start no longer counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CHECKPOINTS = (100, 316, 1000, 3162, 10000)
RUNS = (1, 2, 4, 8, 16, 32, 64)
MODULI = (23, 41, 59, 83, 113, 151, 199)
SMALL = ["task.p=23", "model.d_embed=16", "model.hidden=[64]"]


def spent(work: Any) -> dict[str, float]:
    """Processor seconds of a call, with children, and the peak memory of this process in MB."""

    def used() -> float:
        return sum(
            used.ru_utime + used.ru_stime
            for used in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    before, began = used(), time.perf_counter()
    work()
    return {
        "cpu": used() - before,
        "wall": time.perf_counter() - began,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def training(count: int, folder: Path) -> dict[str, float]:
    """A run of p = 23 that saves ``count`` checkpoints, one a step."""
    from grokscope.training import read_recipe, train

    windows = ["save.schedule=['0:end:1']", "save.evaluate=['0:end:10']", f"train.steps={count - 1}"]
    recipe = read_recipe("quickstart", [*SMALL, *windows])
    return spent(lambda: train(recipe, folder / f"run{count}", device="cpu"))


def probing(count: int, folder: Path) -> dict[str, float]:
    """All probes on that run, nothing known yet."""
    from grokscope import open_run
    from grokscope.probes.cache import measure_run

    return spent(lambda: measure_run(open_run(folder / f"run{count}")))


def reporting(count: int, folder: Path) -> dict[str, float]:
    """The page, from measurements that are known."""
    from grokscope import open_run, write_report
    from grokscope.probes.cache import measure_run

    def page() -> None:
        run = open_run(folder / f"run{count}")
        write_report(run, folder / "page.html", record=measure_run(run))

    return spent(page)


def fleet(count: int, folder: Path) -> dict[str, float]:
    """``count`` seeds of p = 23, 300 steps each, on all cores."""
    from grokscope.training import read_recipe
    from grokscope.training.fleet import train_fleet

    recipes = [read_recipe("quickstart", [*SMALL, "train.steps=300"], seed) for seed in range(count)]
    places = [folder / f"fleet{count}" / str(seed) for seed in range(count)]
    return spent(lambda: train_fleet(recipes, places, device="cpu"))


def deep_linear(count: int, folder: Path) -> dict[str, float]:
    """``count`` deep linear runs of d = 30 on one axis, 300 steps each."""
    from grokscope.training import read_recipe
    from grokscope.training.batch import train_batch

    recipes = [read_recipe("deep-linear", ["train.steps=300"], seed) for seed in range(count)]
    places = [folder / f"deep{count}" / str(seed) for seed in range(count)]
    return spent(lambda: train_batch(recipes, places, device="cpu"))


def moduli(family: str, p: int) -> dict[str, float]:
    """Twenty steps of one model on p² pairs, 30 % of them in training."""
    import torch

    from grokscope.training import read_recipe
    from grokscope.training.gradient import TrainingGradient
    from grokscope.training.machine import process_settings
    from grokscope.training.optimizers import FlatParameters, Optimizer

    name = {"mlp": "two-clocks", "transformer": "nanda"}[family]
    recipe = read_recipe(name, [f"task.p={p}"])
    task, model = recipe.build()
    cpu = torch.device("cpu")
    flat = FlatParameters.of(model.init(torch.Generator().manual_seed(0)), cpu)
    optimizer = Optimizer(recipe.train, flat)
    gradient = TrainingGradient(task, model, recipe.train, cpu, torch.float32)

    def steps(count: int) -> None:
        for step in range(count):
            flat.take(gradient(flat.detached()))
            optimizer.update(step)

    with process_settings(1, cpu):
        steps(2)
        return spent(lambda: steps(20))


def mlp_steps(p: int, folder: Path) -> dict[str, float]:
    """Steps of the two-layer network."""
    return moduli("mlp", p)


def transformer_steps(p: int, folder: Path) -> dict[str, float]:
    """Steps of the transformer."""
    return moduli("transformer", p)


SERIES = {
    "training, by checkpoints": (training, CHECKPOINTS),
    "probing, by checkpoints": (probing, CHECKPOINTS),
    "reporting, by checkpoints": (reporting, CHECKPOINTS),
    "fleet of MLPs, by runs": (fleet, RUNS),
    "deep linear nets on one axis, by runs": (deep_linear, RUNS),
    "20 steps of an MLP, by p": (mlp_steps, MODULI),
    "20 steps of a transformer, by p": (transformer_steps, MODULI),
}


def clock(name: str) -> str:
    """Which time a series is judged by: that of the processor, but for a fleet, whose processes are its own."""
    return "wall" if name.startswith("fleet") else "cpu"


def exponent(numbers: list[int], values: list[float]) -> float:
    """Slope of log value on log number over the upper half of the series."""
    upper = slice(len(numbers) // 2 if len(numbers) > 3 else 0, None)
    return float(np.polyfit(np.log(numbers[upper]), np.log(values[upper]), 1)[0])


def measured(name: str, number: int, folder: Path) -> dict[str, float]:
    """One point, in a process of its own."""
    command = [sys.executable, __file__, "--one", name, str(number), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {number}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Processor time and peak memory of every series, logarithmic on both axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 3)
    for column, kind in enumerate(("by checkpoints", "by runs", "by p")):
        for row, (quantity, label) in enumerate((("cpu", "time (s)"), ("memory", "peak memory (MB)"))):
            axes = panels[row, column]
            for name, points in found.items():
                if not name.endswith(kind):
                    continue
                which = clock(name) if quantity == "cpu" else quantity
                numbers, values = list(points), [point[which] for point in points.values()]
                slope = f", exponent {exponent(numbers, values):.2f}" if quantity == "cpu" else ""
                axes.loglog(numbers, values, marker="o", label=name.split(",")[0] + slope)
            axes.set_xlabel(kind.removeprefix("by "))
            axes.set_ylabel(label)
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """All series, with the machine they ran on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="leave out the largest two of each series")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, number, folder = args.one
        print(json.dumps(SERIES[name][0](int(number), Path(folder))))
        return
    print(f"{platform.processor() or platform.machine()}, {platform.python_version()}", flush=True)
    found: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (_, numbers) in SERIES.items():
            for number in numbers[:-2] if args.quick else numbers:
                point = measured(name, number, Path(folder))
                found.setdefault(name, {})[number] = point
                print(
                    f"{name}: {number}: {point['cpu']:.2f} s of processor, {point['wall']:.2f} s, "
                    f"{point['memory']:.0f} MB",
                    flush=True,
                )
            points = found[name]
            slope = exponent(list(points), [point[clock(name)] for point in points.values()])
            print(f"{name}: time grows with exponent {slope:.2f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
