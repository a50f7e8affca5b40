"""The runs of the study ``riemannian``: four models, a sweep over weight decay, and a twin without any.

The same seed is the same task and the same initial weights at every decay. Runs end at a fixed sum of learning rates
times decay, and all are saved at the same steps until the largest decay has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from grokscope.studies.sweep import Arm, Scale

RECIPE = "deep-linear"
SPAN = 5.0
"""Σ lr × decay at the end of a run: what only decays has shrunk by e^-5."""
EARLY, LATE = 80, 60
"""Saves until the largest decay has ended, and after."""


@dataclass(frozen=True)
class Experiment:
    """One model on one task.

    ``rate`` is the learning rate, small enough for gradient descent to follow its flow.
    """

    words: str
    task: str
    model: str
    rate: float


EXPERIMENTS: dict[str, Experiment] = {
    "linear": Experiment(
        "linear regression",
        '{name="regression", teacher="linear", d=40, train=20, test=200, loss="mean"}',
        '{family="deep-linear", depth=1}',
        0.05,
    ),
    "diagonal": Experiment(
        "diagonal network",
        '{name="regression", teacher="sparse", d=40, train=20, test=200, support=3, loss="mean"}',
        '{family="diagonal", init_scale=0.31622776601683794}',
        0.05,
    ),
    "completion": Experiment(
        "completion",
        '{name="completion", d=20, rank=3, train_fraction=0.5}',
        '{family="deep-linear", depth=2}',
        0.05,
    ),
    "relu": Experiment(
        "ReLU network",
        '{name="regression", teacher="relu", d=1, train=10, test=200, neurons=3, span=2.0, loss="mean"}',
        '{family="feature-mlp", hidden=[100], activation="relu", init_scale=1.0}',
        0.01,
    ),
}


@dataclass(frozen=True)
class Grid:
    """Which runs: every experiment at every decay and at none, with every seed."""

    experiments: tuple[str, ...]
    decays: tuple[float, ...]
    seeds: tuple[int, ...]
    span: float = SPAN
    early: int = EARLY
    late: int = LATE

    def arm(self, name: str, decay: float) -> Arm:
        """Runs of one experiment at one decay; without decay, as long as those of the largest."""
        experiment = EXPERIMENTS[name]
        shared = round(self.span / (experiment.rate * max(self.decays)))
        last = round(self.span / (experiment.rate * decay)) if decay else shared
        saves = ["'0:1:1'", f"'log:1:{shared}:{self.early}'"]
        if last > shared:
            saves.append(f"'log:{shared}:end:{self.late}'")
        schedule = f"[{', '.join(saves)}]"
        overrides = (
            f"task={experiment.task}", f"model={experiment.model}", f"train.lr={experiment.rate:g}",
            f"train.weight_decay={decay:g}", f"train.steps={last}", f"save.schedule={schedule}",
            f"save.evaluate={schedule}", f"save.snapshots={last}",
        )  # fmt: skip
        span = "" if self.span == SPAN else f".span{self.span:g}"
        return Arm(f"riemannian.{name}.wd{decay:g}{span}", RECIPE, overrides, self.seeds)

    def arms(self) -> dict[tuple[str, float], Arm]:
        """Every experiment and decay with its runs; decay 0 is the twin."""
        return {
            (name, decay): self.arm(name, decay) for name in self.experiments for decay in (*self.decays, 0.0)
        }


def grid_of(scale: Scale) -> Grid:
    """Three decades of decay and three seeds, or four and eight."""
    if scale == "small":
        return Grid(tuple(EXPERIMENTS), (1e-1, 1e-2, 1e-3), (0, 1, 2))
    return Grid(tuple(EXPERIMENTS), (1e-1, 1e-2, 1e-3, 1e-4), tuple(range(8)))
