"""The runs of the study ``riemannian``: four models, a sweep over weight decay, a twin without any, and controls.

The same seed is the same task and the same initial weights at every decay. Runs end at a fixed sum of learning rates
times decay, and all are saved at the same steps until the largest decay has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from grokscope.studies.sweep import Arm, Scale

RECIPE = "deep-linear"
SPAN = 5.0
"""Σ lr × decay at the end of a run: what only decays has shrunk by e^-5."""
LONG = 60.0
"""The same for the runs in which the rank is followed: e^-60 is far under the tolerance of the rank."""
EARLY, LATE = 80, 60
"""Saves until the largest decay has ended, and after."""
COMPARED = 10
"""Saves of a run that one at half its rate has too."""
RANK_OF_COMPLETION = 3

Kind = Literal["linear", "diagonal", "completion", "relu"]
Role = Literal["main", "long", "half rate", "varied"]


@dataclass(frozen=True)
class Experiment:
    """One model on one task.

    ``rate`` is the learning rate; whether it is small enough for gradient descent to follow its flow is measured.
    ``setup`` says the task and the model in words.
    """

    words: str
    kind: Kind
    task: str
    model: str
    rate: float
    setup: str = ""


def _linear() -> Experiment:
    task = '{name="regression", teacher="linear", d=40, train=20, test=200, loss="mean"}'
    setup = "d = 40, 20 samples, loss a mean"
    return Experiment("linear regression", "linear", task, '{family="deep-linear", depth=1}', 0.1, setup)


def _diagonal(
    words: str, teacher: str = "sparse", support: int = 3, variance: float = 0.1, rate: float = 0.1
) -> Experiment:
    task = f'{{name="regression", teacher="{teacher}", d=40, train=20, test=200, support={support}, loss="mean"}}'
    model = f'{{family="diagonal", init_scale={variance**0.5!r}}}'
    setup = f"d = 40, 20 samples, {support} coefficients of ±1, initial variance {variance:g}, loss a mean"
    return Experiment(words, "diagonal", task, model, rate, setup)


def _completion(
    words: str, rank: int = RANK_OF_COMPLETION, fraction: float = 0.5, init: float = 1.0, rate: float = 0.1
) -> Experiment:
    task = f'{{name="completion", d=20, rank={rank}, train_fraction={fraction}}}'
    model = f'{{family="deep-linear", depth=2, init_scale={init}}}'
    setup = f"20×20, rank {rank}, {100 * fraction:g} % observed, initial variance {init**2:g}/20, loss a sum"
    return Experiment(words, "completion", task, model, rate, setup)


def _relu(words: str, init: float = 1.0, rate: float = 0.0125) -> Experiment:
    task = '{name="regression", teacher="relu", d=1, train=10, test=200, neurons=3, span=2.0, loss="mean"}'
    model = f'{{family="feature-mlp", hidden=[100], activation="relu", init_scale={init}}}'
    setup = (
        f"100 neurons with biases, 10 points in [−2, 2], 3 ReLUs as teacher, initial variance {init**2:g} before the "
        f"neurons and {init**2:g}/100 after them, loss a mean"
    )
    return Experiment(words, "relu", task, model, rate, setup)


MAIN: dict[str, Experiment] = {
    "linear": _linear(),
    "diagonal": _diagonal("diagonal network"),
    "completion": _completion("completion"),
    "relu": _relu("ReLU network"),
}
CONTROLS: dict[str, Experiment] = {
    "diagonal.dense": _diagonal("diagonal network, dense teacher", "linear"),
    "completion.recovered": _completion("completion, 80 % observed", fraction=0.8),
    "completion.full-rank": _completion("completion of full rank", 20),
}
"""Targets of full support or rank, and one that the least nuclear norm recovers, for the rank of the Jacobian."""
VARIED: dict[str, Experiment] = {
    "diagonal.smaller": _diagonal("diagonal network, initial variance 0.01", variance=0.01),
    "diagonal.larger": _diagonal("diagonal network, initial variance 0.4", variance=0.4, rate=0.05),
    "diagonal.sparser": _diagonal("diagonal network, one coefficient", support=1),
    "diagonal.denser": _diagonal("diagonal network, six coefficients", support=6),
    "completion.smaller": _completion("completion, half the initial scale", init=0.5),
    "completion.larger": _completion("completion, 1.5 times the initial scale", init=1.5, rate=0.05),
    "completion.fewer": _completion("completion, 40 % observed", fraction=0.4),
    "completion.more": _completion("completion, 70 % observed", fraction=0.7),
    # the curvature goes with the square of the scale of its weights, and so does the rate
    "relu.smaller": _relu("ReLU network, half the initial scale", init=0.5),
    "relu.larger": _relu("ReLU network, 1.5 times the initial scale", init=1.5, rate=0.005),
}
"""What the paper leaves open, taken otherwise."""
EXPERIMENTS: dict[str, Experiment] = {**MAIN, **CONTROLS, **VARIED}


@dataclass(frozen=True)
class Cell:
    """Runs of one experiment at one decay."""

    name: str
    decay: float
    role: Role = "main"


@dataclass(frozen=True)
class Grid:
    """Which runs.

    Attributes:
        experiments: each at every decay and at none, with every seed.
        few: the seeds of all else; fewest: of the ReLU network at decays under `dear`, which takes the longest.
        long: experiments that run up to `LONG`, at the decay ``at_long``.
        half: experiments repeated at half the rate, at the decay ``at_half``.
        varied: experiments, each at one decay.
    """

    experiments: tuple[str, ...]
    decays: tuple[float, ...]
    seeds: tuple[int, ...]
    span: float = SPAN
    early: int = EARLY
    late: int = LATE
    few: int = 3
    fewest: int = 2
    dear: float = 1e-3
    long: tuple[str, ...] = ()
    at_long: float = 1e-2
    half: tuple[str, ...] = ()
    at_half: float = 1e-2
    varied: tuple[tuple[str, float], ...] = ()

    def cells(self) -> list[Cell]:
        """All that is to be run; decay 0 is the twin."""
        return [
            *(Cell(name, decay) for name in self.experiments for decay in (*self.decays, 0.0)),
            *(Cell(name, self.at_long, "long") for name in self.long),
            *(Cell(name, self.at_half, "half rate") for name in self.half),
            *(Cell(name, decay, "varied") for name, decay in self.varied),
        ]

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """All of them, or the first few where a cell is beside the sweep or takes the longest."""
        if EXPERIMENTS[cell.name].kind == "relu" and 0 < cell.decay < self.dear:
            return self.seeds[: self.fewest]
        return self.seeds if cell.role == "main" else self.seeds[: self.few]

    def arm(self, cell: Cell) -> Arm:
        """The runs of one cell; without decay they are as long as those of the largest."""
        experiment = EXPERIMENTS[cell.name]
        rate = experiment.rate / 2 if cell.role == "half rate" else experiment.rate
        span = LONG if cell.role == "long" else self.span
        shared = round(span / (rate * max(self.decays)))
        last = round(span / (rate * cell.decay)) if cell.decay else shared
        if cell.role == "half rate":
            saves = ["0:0:1", *(f"{2 * step}:{2 * step}:1" for step in self.compared(cell))]
        else:
            fewer = 2 if cell.role == "long" else 1
            saves = ["0:1:1", f"log:1:{shared}:{self.early // fewer}"]
            if last > shared:
                saves.append(f"log:{shared}:end:{self.late // fewer}")
        schedule = f"[{', '.join(repr(window) for window in saves)}]"
        overrides = (
            f"task={experiment.task}", f"model={experiment.model}", f"train.lr={rate:g}",
            f"train.weight_decay={cell.decay:g}", f"train.steps={last}", f"save.schedule={schedule}",
            f"save.evaluate={schedule}", f"save.snapshots={last}",
        )  # fmt: skip
        suffix = "" if span == SPAN else f".span{span:g}"
        suffix += ".half" if cell.role == "half rate" else ""
        return Arm(f"riemannian.{cell.name}.wd{cell.decay:g}{suffix}", RECIPE, overrides, self.seeds_of(cell))

    def compared(self, cell: Cell) -> list[int]:
        """Steps after the start at which a run is compared with one at half the rate, there at twice the step."""
        steps = self.arm(Cell(cell.name, cell.decay)).runs()[0][1].save_steps()
        steps = steps[steps > 0]
        places = np.unique(np.linspace(0, len(steps) - 1, COMPARED).round().astype(int))
        return [int(step) for step in steps[places]]

    def arms(self) -> dict[Cell, Arm]:
        """Every cell with its runs."""
        return {cell: self.arm(cell) for cell in self.cells()}


def grid_of(scale: Scale) -> Grid:
    """Three decades of decay and three seeds, or four and six, with what the paper leaves open varied."""
    beside = ("diagonal", "diagonal.dense", "completion", "completion.recovered", "completion.full-rank")
    names = tuple(MAIN)
    if scale == "small":
        return Grid(names, (1e-1, 1e-2, 1e-3), (0, 1, 2), long=beside, half=names)
    # the ReLU network takes the longest by far: what is varied of it is at a larger decay
    varied = tuple((name, 1e-2 if one.kind == "relu" else 1e-3) for name, one in VARIED.items())
    return Grid(names, (1e-1, 1e-2, 1e-3, 1e-4), tuple(range(6)), long=beside, half=names, varied=varied)
