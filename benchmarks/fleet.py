"""A fleet beside the loop people write today: one run after the other, in one process.

    python benchmarks/fleet.py [--steps 400] [--rounds 3] [--most 64] [--jobs N] [--plot FILE]

1. The wall clock of N small MLP runs, N from 1 to ``--most``: the fleet, its processes started anew each time, and
   the plain loop over ``train``, alternately, medians; with the fitted exponent of how each grows.
2. ``grokscope train quickstart --seeds 0:8`` as a command, its start and imports included, beside eight
   ``grokscope train quickstart --seed N``.

Both sides of 1 must leave the same bytes.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from grokscope.training import Recipe, read_recipe, train
from grokscope.training.fleet import train_fleet
from grokscope.trajectory import verify_trajectory
from grokscope.work import Workers, preload

SMALL = ["task.p=31", "model.hidden=[128]", "model.d_embed=32", "save.schedule=['0:end:20']"]


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def exponent(counts: list[int], seconds: list[float]) -> float:
    """The slope of log seconds over log counts, least squares, from 4 runs on: what starting costs is past."""
    points = [(math.log(c), math.log(s)) for c, s in zip(counts, seconds, strict=True) if c >= 4]
    x, y = ([point[axis] for point in points] for axis in (0, 1))
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in points)
    return over / sum((a - mean_x) ** 2 for a in x)


def clocked(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fleet(recipes: list[Recipe], folder: Path, jobs: int | None) -> None:
    """With new processes each time, forked, as the command has them, from one that has imported torch."""
    from joblib.externals.loky import get_reusable_executor

    train_fleet(recipes, places(folder, recipes), device="cpu", workers=Workers(jobs=jobs))
    get_reusable_executor().shutdown(wait=True)


def loop(recipes: list[Recipe], folder: Path) -> None:
    for recipe, directory in zip(recipes, places(folder, recipes), strict=True):
        train(recipe, directory, device="cpu")


def places(folder: Path, recipes: list[Recipe]) -> list[Path]:
    return [folder / str(recipe.seed) for recipe in recipes]


def growth(args: argparse.Namespace) -> tuple[list[int], dict[str, list[float]]]:
    """Seconds of the fleet and of the loop against the number of runs."""
    counts = [2**power for power in range(int(math.log2(args.most)) + 1)]
    took: dict[str, list[float]] = {"loop": [], "fleet": []}
    for count in counts:
        recipes = [read_recipe("quickstart", [*SMALL, f"train.steps={args.steps}"], s) for s in range(count)]
        rounds: dict[str, list[float]] = {"loop": [], "fleet": []}
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as folder:
                one, other = Path(folder, "loop"), Path(folder, "fleet")
                rounds["fleet"].append(clocked(lambda r=recipes, d=other: fleet(r, d, args.jobs)))
                rounds["loop"].append(clocked(lambda r=recipes, d=one: loop(r, d)))
                for left, right in zip(places(one, recipes), places(other, recipes), strict=True):
                    sums = [verify_trajectory(d / "trajectory.h5").checksum for d in (left, right)]
                    assert sums[0] == sums[1], f"{left.name}: {sums}"
        for side, seconds in rounds.items():
            took[side].append(statistics.median(seconds))
        print(
            f"{count:>4} runs: loop {took['loop'][-1]:7.2f} s, fleet {took['fleet'][-1]:7.2f} s, "
            f"ratio {took['loop'][-1] / took['fleet'][-1]:.2f}",
            flush=True,
        )
    return counts, took


def commands(args: argparse.Namespace) -> None:
    """Eight seeds of the quickstart as commands, from the shell's point of view."""
    program = [sys.executable, "-m", "grokscope.cli", "train", "quickstart", "--device", "cpu"]
    jobs = [] if args.jobs is None else ["--jobs", str(args.jobs)]

    def run(*options: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            command = [*program, *options, "--workspace", folder]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
            return time.perf_counter() - began

    with_fleet = statistics.median(run("--seeds", "0:8", *jobs) for _ in range(args.rounds))
    one = statistics.median(run("--seed", "0") for _ in range(args.rounds))
    print(f"grokscope train quickstart --seeds 0:8, imports included: {with_fleet:.1f} s")
    print(
        f"grokscope train quickstart --seed 0, imports included: {one:.1f} s, eight of them {8 * one:.1f} s"
    )


def draw(counts: list[int], took: dict[str, list[float]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for side, seconds in took.items():
        axes.loglog(
            counts, seconds, "o-", label=f"{side}, exponent {exponent(counts, seconds):.2f} from 4 runs on"
        )
    axes.set(xlabel="runs", ylabel="wall clock, s")
    axes.legend()
    figure.savefig(out)


def main() -> None:
    """Both comparisons, with the machine and the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    preload(["grokscope.training.fleet"])
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(shlex.join(["python", *sys.argv]), flush=True)
    commands(args)
    counts, took = growth(args)
    if len(counts) >= 4:
        for side, seconds in took.items():
            print(f"{side}: seconds grow as runs^{exponent(counts, seconds):.2f} from 4 runs on")
    if args.plot is not None:
        draw(counts, took, args.plot)


if __name__ == "__main__":
    main()
