"""What one run of the study ``riemannian`` says: its path, its drift, its junction, and where it ends.

Shapes: T saves, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from grokscope.measures.convex_ends import least_l1, least_l1_interpolator, least_nuclear
from grokscope.measures.crossings import Crossing, first_hold
from grokscope.measures.linear_regression import linear_regression
from grokscope.probes import Suite, probe
from grokscope.probes.manifold_readings import ManifoldReader
from grokscope.runs import Run, open_run
from grokscope.studies.riemannian_runs import EXPERIMENTS, Cell, Role
from grokscope.studies.riemannian_steps import rate_times_curvature
from grokscope.studies.sweep import Log

Array = NDArray[np.float64]

SLOW = (0.3, 2.0)
"""Range of λt in which the drift is read: after the junction of the smaller decays, before the end."""
FIT = 1e-2
"""Relative squared error on what was trained on, under which a run counts as fitted."""
HELD = 3
"""Saves over which a level must hold."""
DROP, MIDDLE = 0.1, 0.5
"""Share of the fall of the test error with which its drop starts, and with which it is half done."""
LEAST_DROP = 0.2
"""Share of its value at the beginning by which the test error must fall for there to be a drop."""
Since = Literal["junction", "fit"]
MEASURED = Suite("riemannian", ("manifold",), options={"manifold": {"method": "exact", "null_samples": 0}})


@dataclass(frozen=True, eq=False)
class Reading:
    """One run.

    Attributes:
        times: (T,) sums of learning rates.
        weights: (T, P).
        tangents: (T,) ‖P w‖.
        cosine, speed: of the drift, medians over the intervals within `SLOW`; ``None`` without decay or saves there.
        junction: interval of steps, ``None`` without decay.
        ranks: lowest and highest rank of the Jacobian from the junction on, of the whole run without one.
        rank: (T,) of the Jacobian.
        error_test: (T,) relative squared error on what was not trained on.
        fit: interval of steps in which the error on the training data fell under `FIT` for good.
        tangent_share: ‖P w‖/‖w‖ at the start and at the end.
        ends: name → relative distance of what the factors make at the end from a convex minimum.
        exact: for linear regression the largest |w − closed form| over the largest |w|, and the junction of the flow.
        sigma: (T, d) singular values of the completed matrix.
        stiffness: the largest learning rate × curvature along the run, where it was read.
        role: what the run is for.
    """

    experiment: str
    decay: float
    seed: int
    rate: float
    steps: NDArray[np.int64]
    times: Array
    weights: Array
    tangents: Array
    cosine: float | None
    speed: float | None
    junction: Crossing | None
    ranks: tuple[int, int]
    rank: Array
    error_test: Array
    fit: Crossing
    tangent_share: tuple[float, float]
    ends: dict[str, float]
    exact: tuple[float, float | None] | None = None
    sigma: Array | None = None
    stiffness: float | None = None
    role: Role = "main"

    @property
    def junction_times(self) -> tuple[float, float] | None:
        """The ends of the junction in time."""
        return self._in_time(self.junction)

    @property
    def fit_times(self) -> tuple[float, float] | None:
        """The ends of the fit in time."""
        return self._in_time(self.fit)

    def drop_times(self, share: float = DROP, since: Since = "junction") -> tuple[float, float] | None:
        """When ``share`` of the fall of the test error is done, held for `HELD` saves.

        The fall is that from the junction on, where the slow phase begins, or from the fit on. ``None`` where that did
        not happen or the error falls by less than `LEAST_DROP` of what it is there.
        """
        from_ = self.junction if since == "junction" else self.fit
        if from_ is None or from_.by is None:
            return None
        after = self.steps >= from_.by
        error = self.error_test[after]
        lowest = float(error.min())
        if lowest > (1 - LEAST_DROP) * error[0]:
            return None
        return self._in_time(self._fallen(after, error, (1 - share) * float(error[0]) + share * lowest))

    def tail_times(self, rank: int) -> tuple[float, float] | None:
        """When the sum of the singular values after the first ``rank`` has fallen to 1/e of what it is at the fit."""
        if self.sigma is None or self.fit.by is None:
            return None
        since = self.steps >= self.fit.by
        tail = self.sigma[since, rank:].sum(axis=1)
        return self._in_time(self._fallen(since, tail, float(tail[0]) / np.e))

    def _fallen(self, since: NDArray[np.bool_], values: Array, level: float) -> Crossing:
        return first_hold(self.steps[since], values, level, "below", HELD)

    def _in_time(self, found: Crossing | None) -> tuple[float, float] | None:
        if found is None or found.by is None:
            return None
        return (found.after or 0) * self.rate, found.by * self.rate

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the series."""
        return {
            "experiment": self.experiment, "role": self.role, "decay": self.decay, "seed": self.seed, "lr": self.rate,
            "steps": int(self.steps[-1]), "drift_cosine": self.cosine, "drift_speed": self.speed,
            "junction": None if self.junction is None else self.junction.as_json(), "ranks": list(self.ranks),
            "fit": self.fit.as_json(), "largest_rate_times_curvature": self.stiffness,
            "tangent_share_start_end": list(self.tangent_share), "error_test": float(self.error_test[-1]),
            "ends": self.ends, "exact": None if self.exact is None else list(self.exact),
        }  # fmt: skip


def read_run(cell: Cell, log: Log, directory: Path) -> Reading:
    """Everything about one finished run."""
    run = open_run(directory)
    train = run.config["train"]
    decay, rate = float(train["weight_decay"]), float(train["lr"])
    kind = EXPERIMENTS[cell.name].kind
    record = probe(run, MEASURED)
    stacked = run.stacked()
    weights = np.concatenate([stacked[name].flatten(1).numpy() for name in run.model.shapes], axis=1)
    note = record.notes["manifold"]
    ranks = note.get("rank_after_junction", note["rank"])
    shares = record["manifold.tangent_fraction"]
    times = rate * run.steps
    within = (decay * times[:-1] >= SLOW[0]) & (decay * times[1:] <= SLOW[1])
    places = np.isin(log.steps, run.steps)
    exact_reader = ManifoldReader(run, "exact", 1, decay or None)
    return Reading(
        experiment=cell.name, decay=decay, seed=log.seed, rate=rate, steps=run.steps, times=times, weights=weights,
        tangents=record["manifold.tangent_norm"],
        cosine=_median(record.get("manifold.drift_cosine"), within),
        speed=_median(record.get("manifold.drift_speed"), within),
        junction=record.events.get("junction"), ranks=(ranks["lowest"], ranks["highest"]),
        rank=record["manifold.rank"].astype(np.float64),
        error_test=log.scalars["error.test"][places],
        fit=first_hold(log.steps, log.scalars["error.train"], FIT, "below", HELD),
        tangent_share=(float(shares[0]), float(shares[-1])),
        ends=_ends(kind, run, decay) if decay else {},
        exact=_exact(run, weights, decay, rate) if kind == "linear" else None,
        sigma=_sigma(run) if kind == "completion" else None,
        stiffness=rate_times_curvature(run, exact_reader) if cell.role == "main" else None,
        role=cell.role,
    )  # fmt: skip


def _made(run: Run, place: int) -> Array:
    """The matrix that the factors make at one save."""
    return next(iter(run.model.maps(run.params(place)).values())).matrix().numpy()


def _sigma(run: Run) -> Array:
    every = np.stack([_made(run, place) for place in range(len(run.steps))])
    return np.linalg.svd(every, compute_uv=False).astype(np.float64)


def _median(values: Array | None, where: NDArray[np.bool_]) -> float | None:
    if values is None or not where.any() or not np.isfinite(values[where]).any():
        return None
    return float(np.nanmedian(values[where]))


def _ends(kind: str, run: Run, decay: float) -> dict[str, float]:
    """How far the last save is from the minimum of the convex problem that the factors' norm stands for."""
    if kind not in ("diagonal", "completion"):
        return {}
    made, task = _made(run, -1), run.task
    if kind == "diagonal":
        x, y = task.inputs[task.train_rows].numpy(), task.targets[task.train_rows, 0].numpy()
        minima = {
            "least l1 at this decay": least_l1(x, y, decay, mean=task.mean_loss),
            "least l1 of all interpolators": least_l1_interpolator(x, y),
        }
        return {name: relative(made[0], one) for name, one in minima.items()}
    # the map takes unit vectors to rows of the matrix
    minimum = least_nuclear(task.targets.numpy(), task.train_mask.numpy(), decay)
    return {"least nuclear norm at this decay": relative(made.T, minimum)}


def relative(found: Array, expected: Array) -> float:
    """‖found − expected‖ over ‖expected‖."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _exact(run: Run, weights: Array, decay: float, rate: float) -> tuple[float, float | None]:
    task = run.task
    x, y = task.inputs[task.train_rows].numpy(), task.targets[task.train_rows, 0].numpy()
    problem = linear_regression(x, y, decay, mean=task.mean_loss)
    path = problem.descent(weights[0], rate, run.steps, run.config["train"]["decay"])
    worst = float(np.abs(weights - path).max() / np.abs(path).max())
    return worst, problem.junction(weights[0]) if decay else None


def of(readings: Sequence[Reading], experiment: str, decay: float | None = None) -> list[Reading]:
    """Those of one experiment, at one decay or at all, in the order of their seeds."""
    found = [
        one for one in readings if one.experiment == experiment and (decay is None or one.decay == decay)
    ]
    return sorted(found, key=lambda one: (one.decay, one.seed))
