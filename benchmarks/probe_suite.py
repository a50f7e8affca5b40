"""The probe suite beside the same quantities written plainly, on a trajectory of an MLP and of a transformer.

    python benchmarks/probe_suite.py [--runs mlp59,mlp113,transformer113] [--saves 16] [--rounds 3] [--folder DIR]

The plain side (`benchmarks/plain`) imports nothing of grokscope: a ``torch.save`` file a checkpoint, loaded one at a
time, an ``nn.Module`` in float64 over all positions, numpy's decompositions, autograd. Both sides measure the same
stored weights, alternately, in one process and on one thread; medians of process time, in ms per checkpoint. Ours
is a probe on all saves, none of which has a reading in the store; reading the weights is part of it. What is done
once a run and has no plain side (chance bands, the proof of the reduction at the last save) is in the store. The
plain side measures a few of the checkpoints each round. The largest relative difference is of the values of one
quantity at one checkpoint, to the largest of them.

Per-sample gradient norms are written plainly in two ways, and the total is given with either: by
``torch.func.vmap`` over ``grad``, and by outer products worked out on paper.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plain import fourier, gradients, loss, norms, regions, spectra
from benchmarks.plain.networks import Setting
from grokscope.probes import Record, probe
from grokscope.probes.readings import READINGS
from grokscope.runs import Run, open_run
from grokscope.training import read_recipe, train

ONCE_A_RUN = ("fourier.null", "spectra.null", "regions.null", "regions.proof")
NO_NUMBER = ("regions.reduction_residual",)  # a rounding error: it has no digit that two programs share
RUNS = {"mlp59": ("quickstart", 400), "mlp113": ("two-clocks", 400), "transformer113": ("nanda", 300)}

Weights = Mapping[str, np.ndarray]
Found = Mapping[str, np.ndarray | float]


@dataclass(frozen=True)
class Side:
    """One probe written plainly: of one checkpoint, and of two where it compares them."""

    probe: str
    one: Callable[[Weights], Found]
    two: Callable[[Weights, Weights], Found] | None = None


@dataclass
class Took:
    """Milliseconds per checkpoint of both sides, round by round, and how far their numbers are apart."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    worst: tuple[float, str] = (0.0, "")
    compared: set[str] = field(default_factory=set)


def trained(name: str, saves: int, folder: Path) -> Run:
    """A short run of a built-in recipe, with as many saves."""
    recipe, steps = RUNS[name]
    path = folder / name
    if not path.exists():
        built = read_recipe(recipe, [f"train.steps={steps}", f'save.schedule=["log:0:end:{saves}"]'])
        train(replace(built, name=name), path)
    return open_run(path)


def setting_of(run: Run) -> Setting:
    """What a notebook would know of the run."""
    task = run.task
    assert task.n_tokens is not None
    mask = task.train_mask
    stored = str(run.dtype).removeprefix("torch.")
    return Setting(run.model.family, task.n_tokens, task.inputs[mask], task.inputs[~mask], stored)


def sides_of(run: Run, record: Record) -> dict[str, Side]:
    """Every probe's plain side; the choices that a record notes are given to both."""
    setting = setting_of(run)
    noted = record.notes["regions"]
    trained_on = run.task.train_mask.nonzero()[:, 0]
    around = noted["local_complexity"]
    sample = regions.Sample(
        torch.searchsorted(trained_on, torch.tensor(noted["samples"])),
        noted["jacobian_samples"],
        around["radius"],
        around["directions"],
        noted["seed"],
        record.notes.get("rule_gap", {"key_frequencies": []})["key_frequencies"],
    )
    decay = run.config["train"]["weight_decay"]
    sides = {
        name: Side(name, partial(module.measure, setting=setting))
        for name, module in {"loss": loss, "norms": norms, "fourier": fourier, "spectra": spectra}.items()
    }
    sides["regions"] = Side(
        "regions",
        partial(regions.measure, setting=setting, sample=sample),
        partial(regions.between, setting=setting),
    )
    for title, by_hand in (("gradients, vmap", False), ("gradients, by hand", True)):
        measure = partial(gradients.measure, setting=setting, weight_decay=decay, by_hand=by_hand)
        sides[title] = Side("gradients", measure, gradients.between)
    return sides


def write_files(run: Run, folder: Path) -> list[Path]:
    """A file a checkpoint, as notebooks keep them."""
    folder.mkdir(parents=True)
    files = []
    for index in range(len(run.rows)):
        stored = {
            name: torch.from_numpy(v) for name, v in run.trajectory.params_at(int(run.rows[index])).items()
        }
        files.append(folder / f"{index}.pt")
        torch.save(stored, files[-1])
    return files


def plainly(
    side: Side, files: list[Path], which: list[int]
) -> tuple[float, dict[int, dict[str, np.ndarray]]]:
    """Milliseconds per checkpoint, and what was found at the checkpoints ``which``."""
    took, found = 0.0, {}
    for index in which:
        began = time.process_time()
        weights = _load(files[index])
        values = dict(side.one(weights))
        took += time.process_time() - began
        if side.two is not None and index:
            before = _load(files[index - 1])  # a loop over checkpoints has it at hand
            began = time.process_time()
            values |= side.two(before, weights)
            took += time.process_time() - began
        found[index] = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    return took / len(which) * 1e3, found


def ours(run: Run, name: str) -> tuple[float, Record]:
    """Milliseconds per checkpoint of the probe without a reading of any save in the store, and its record."""
    for file in (run.path / READINGS).glob("*"):
        if not file.name.startswith(ONCE_A_RUN):
            file.unlink()
    began = time.process_time()
    record = probe(run, only=[name])
    return (time.process_time() - began) / len(run.rows) * 1e3, record


def _load(path: Path) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}


def compare(took: Took, found: Mapping[int, Mapping[str, np.ndarray]], record: Record) -> None:
    """Keep the largest difference between both sides' numbers, relative to the largest value of a quantity."""
    for index, values in found.items():
        for name, plain in values.items():
            measured = record.get(name)
            if measured is None or name.startswith(NO_NUMBER):
                continue
            place = index - (record.measurements[name].dims[0] == "interval")
            mine = np.asarray(measured[place], dtype=np.float64)
            took.compared.add(name)
            if mine.shape != plain.shape:
                took.worst = max(took.worst, (np.inf, f"{name}: {plain.shape} and {mine.shape}"))
                continue
            if not np.isfinite(mine).all():
                continue
            scale = np.abs(mine).max(initial=0.0)
            apart = np.abs(mine - plain).max(initial=0.0)
            took.worst = max(took.worst, (float(apart / scale if scale else apart), name))


def measure(run: Run, files: list[Path], rounds: int, plain_saves: int) -> dict[str, Took]:
    """Both sides of every probe, alternately."""
    record = ours(run, "regions")[1]
    sides = sides_of(run, record)
    took = {title: Took() for title in sides}
    for number in range(rounds + 1):
        # other checkpoints each round, the ends among them
        start = number % max(1, len(files) // plain_saves)
        which = list(range(start, len(files), max(1, len(files) // plain_saves)))[:plain_saves]
        for title, side in sides.items():
            if number == 0:
                which = which[:1]  # the first round warms up
            plain_ms, found = plainly(side, files, which)
            ours_ms, record = ours(run, side.probe)
            compare(took[title], found, record)
            if number:
                took[title].plain.append(plain_ms)
                took[title].ours.append(ours_ms)
    return took


def show(name: str, run: Run, took: dict[str, Took]) -> None:
    """A table of one run."""
    print(
        f"\n{name}: {len(run.rows)} saves, {sum(np.prod(s) for s in run.model.shapes.values()):,} parameters"
    )
    print(f"  {'probe':20s} {'plain ms':>9s} {'ours ms':>9s} {'ratio':>6s}  quantities, largest difference")
    middle = {title: [statistics.median(side) for side in (t.plain, t.ours)] for title, t in took.items()}
    for title, (plain_ms, ours_ms) in middle.items():
        difference, where = took[title].worst
        shown = f"{len(took[title].compared)}, {difference:.1e} ({where})"
        print(f"  {title:20s} {plain_ms:9.1f} {ours_ms:9.1f} {plain_ms / ours_ms:6.1f}  {shown}")
    for way in ("vmap", "by hand"):
        other = {"vmap": "by hand", "by hand": "vmap"}[way]
        chosen = [sides for title, sides in middle.items() if title != f"gradients, {other}"]
        plain_ms, ours_ms = (sum(side[i] for side in chosen) for i in (0, 1))
        print(f"  {'total, ' + way:20s} {plain_ms:9.1f} {ours_ms:9.1f} {plain_ms / ours_ms:6.1f}")


def main() -> None:
    """Every run's table, with the machine it was made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", default=",".join(RUNS), help="some of " + ", ".join(RUNS))
    parser.add_argument("--saves", type=int, default=16, help="checkpoints of a trajectory")
    parser.add_argument(
        "--plain-saves", type=int, default=3, help="checkpoints that the plain side measures a round"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where trajectories are kept; a temporary folder by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for name in args.runs.split(","):
            run = trained(name, args.saves, folder)
            files = write_files(run, Path(temporary) / "files" / name)
            show(name, run, measure(run, files, args.rounds, args.plain_saves))


if __name__ == "__main__":
    main()
