"""Norm minimisation on a run that groks: modular addition with squared loss, read between the fit and the grok.

A small network with quadratic units, trained by full-batch gradient descent in float64, so that the theory's flow is
what is run. The Jacobian has a row for every sample and class and is formed whole, so that its rank is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.measures.crossings import Crossing
from grokscope.measures.manifold import drift_between, instantaneous_drift, junction, kernel_projection
from grokscope.probes.manifold_readings import ManifoldReader, flat
from grokscope.runs import open_run
from grokscope.studies.riemannian_readings import HELD
from grokscope.studies.riemannian_steps import rate_times_curvature
from grokscope.studies.sweep import Arm, Log, Scale

Array = NDArray[np.float64]

FIT, GROK = 0.99, 0.95
"""Accuracy on the training and on the test pairs."""
BEFORE, AFTER = 3, 5
"""Saves between the fit and the junction, and between that and the grok, at which the Jacobian is decomposed."""


@dataclass(frozen=True)
class ModularGrid:
    """The runs: p, the share of pairs that is trained on, hidden units, rate, decays, and Σ lr × decay at the end."""

    p: int = 13
    fraction: float = 0.7
    hidden: int = 64
    rate: float = 0.5
    decays: tuple[float, ...] = (1e-3, 1e-4)
    span: float = 6.0
    seeds: tuple[int, ...] = (0, 1, 2)
    saves: int = 40
    evaluations: int = 200

    def arm(self, decay: float) -> Arm:
        """The runs at one decay, saved evenly in the logarithm of the step."""
        last = round(self.span / (self.rate * decay))
        train = (
            f'{{steps={last}, optimizer="gd", lr={self.rate:g}, weight_decay={decay:g}, loss="squared", '
            'dtype="float64"}'
        )
        model = f'{{family="mlp", inputs="one-hot", hidden=[{self.hidden}], activation="quadratic", hidden_bias=false}}'
        overrides = (
            f'task={{name="modular", op="add", p={self.p}, train_fraction={self.fraction}}}', f"model={model}",
            f"train={train}", f"save.schedule=['0:0:1', 'log:10:end:{self.saves}']",
            f"save.evaluate=['log:1:end:{self.evaluations}']", f"save.snapshots={last}",
        )  # fmt: skip
        return Arm(f"riemannian.modular.wd{decay:g}", "quickstart", overrides, self.seeds)

    def arms(self) -> dict[float, Arm]:
        """Decay → runs."""
        return {decay: self.arm(decay) for decay in self.decays}


def modular_grid(scale: Scale) -> ModularGrid:
    """Three seeds or four."""
    return ModularGrid() if scale == "small" else ModularGrid(seeds=tuple(range(4)))


@dataclass(frozen=True, eq=False)
class ModularReading:
    """One run.

    Attributes:
        evaluated, train, test: (E,) steps and accuracies.
        fit, grok, junction: intervals of steps.
        looked: (K,) steps at which J was decomposed; cosine, speed: (K,) of the velocity there against −λ P w;
            moved_cosine, moved_speed: (K,) the same of the motion to the next save; share: (K,) ‖P w‖/‖w‖;
            rank: (K,) of J.
        residuals, parameters: the shape of J.
        stiffness: the largest learning rate × curvature.
    """

    decay: float
    seed: int
    rate: float
    evaluated: NDArray[np.int64]
    train: Array
    test: Array
    fit: Crossing
    grok: Crossing
    junction: Crossing | None
    looked: NDArray[np.int64]
    cosine: Array
    speed: Array
    moved_cosine: Array
    moved_speed: Array
    share: Array
    rank: NDArray[np.int64]
    residuals: int
    parameters: int
    stiffness: float

    def within(self, first: float, last: float) -> NDArray[np.bool_]:
        """(K,): which of the looked at saves lie from ``first`` to ``last``."""
        return (self.looked >= first) & (self.looked <= last)

    @property
    def to_grok(self) -> tuple[float, float] | None:
        """Steps from the junction to the grok, or to the end without one; ``None`` without a junction or a fit."""
        if self.junction is None or self.junction.by is None or self.fit.by is None:
            return None
        last = self.grok.after if self.grok.after is not None else self.looked[-1]
        first = max(self.junction.by, self.fit.by)
        return (float(first), float(last)) if first <= last else None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "decay": self.decay, "seed": self.seed, "lr": self.rate, "fit": self.fit.as_json(),
            "grok": self.grok.as_json(), "junction": None if self.junction is None else self.junction.as_json(),
            "steps": self.looked.tolist(), "drift_cosine": self.cosine.tolist(), "drift_speed": self.speed.tolist(),
            "drift_cosine_between": self.moved_cosine.tolist(), "drift_speed_between": self.moved_speed.tolist(),
            "tangent_fraction": self.share.tolist(), "rank": self.rank.tolist(), "residuals": self.residuals,
            "parameters": self.parameters, "largest_rate_times_curvature": self.stiffness,
        }  # fmt: skip


def read_modular(log: Log, directory: Path) -> ModularReading:
    """Everything about one finished run."""
    run = open_run(directory)
    train = run.config["train"]
    decay, rate = float(train["weight_decay"]), float(train["lr"])
    reader = ManifoldReader(run, "exact", 1, decay)
    saved = [run.params(place) for place in range(len(run.steps))]
    weights = [flat(params, reader.names) for params in saved]
    gradients = [reader.gradient(params) for params in saved]
    fit, grok = log.reached("accuracy.train", FIT, HELD), log.reached("accuracy.test", GROK, HELD)
    crossed = junction(
        run.steps, [float(np.linalg.norm(one)) for one in gradients],
        [decay * float(np.linalg.norm(one)) for one in weights],
    )  # fmt: skip
    meeting = None if crossed is None else crossed.crossing
    found = []
    for place in _looked_at(run.steps, fit, grok, meeting):
        projection = kernel_projection(reader.jacobian(saved[place]), weights[place])
        now = instantaneous_drift(weights[place], gradients[place], projection.vector, decay)
        rates = np.full(int(run.steps[place + 1] - run.steps[place]), rate)
        moved = drift_between(weights[place], weights[place + 1], projection.vector, rates, decay)
        share = float(np.linalg.norm(projection.vector) / np.linalg.norm(weights[place]))
        found.append(
            (run.steps[place], now.cosine, now.speed, moved.cosine, moved.speed, share, projection.rank)
        )
    looked, cosine, speed, moved_cosine, moved_speed, share, rank = (
        np.array(column) for column in zip(*found, strict=True)
    )
    return ModularReading(
        decay, log.seed, rate, log.steps, log.scalars["accuracy.train"], log.scalars["accuracy.test"], fit, grok,
        meeting, looked, cosine, speed, moved_cosine, moved_speed, share, rank, len(reader.entries),
        reader.n_parameters, rate_times_curvature(run, reader),
    )  # fmt: skip


def _looked_at(
    steps: NDArray[np.int64], fit: Crossing, grok: Crossing, meeting: Crossing | None
) -> list[int]:
    """Places of the saves to decompose: some from the fit to the junction, some from there to the grok, one at its end.

    The last save is left out: nothing moves from there.
    """
    places = np.arange(len(steps) - 1)
    at = steps[:-1]
    start = fit.by if fit.by is not None else 1
    end = grok.after if grok.after is not None else int(steps[-1])
    middle = meeting.by if meeting is not None and meeting.by is not None else end
    early = places[(at >= start) & (at < middle)]
    late = places[(at >= max(middle, start)) & (at <= end)]
    chosen = [*_spread(early, BEFORE), *_spread(late, AFTER), int(places[-1])]
    return sorted(set(chosen))


def _spread(places: NDArray[np.int64], most: int) -> list[int]:
    if not places.size:
        return []
    return [
        int(places[k])
        for k in np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    ]
