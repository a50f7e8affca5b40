"""What one run of matrix completion says: its two clocks, its balance, and the tail of its spectrum.

Shapes: T saves, d x d the map, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grokscope.errors import GrokscopeError
from grokscope.measures.clocks import ClockFit, classifier_clock, fit_clock, theta_from_gradient
from grokscope.measures.crossings import Crossing, first_hold
from grokscope.measures.lines import LineFit, fit_line
from grokscope.measures.spectra import (
    balance_gap,
    effective_rank,
    imbalances,
    schatten_power,
    singular_values,
)
from grokscope.measures.tails import FEWEST_POINTS, TailFit, tail_fit
from grokscope.runs import open_run
from grokscope.studies.premises import kept_rate
from grokscope.studies.sweep import Log

Array = NDArray[np.float64]

HOLD = 3
LEVELS = 10.0 ** (-np.arange(2, 13) / 4)
"""Relative squared errors on observed entries, from 0.3 to 1e-3; 1e-2 is the level of the task."""
ROUNDING = 1e-10
"""What is below this share of the largest singular value, or of where a gap began, is rounding."""
TAIL_POINTS = 60


@dataclass(frozen=True, eq=False)
class Reading:
    """One run of completion.

    Attributes:
        steps, times: (T,) saves, and their sums of learning rates.
        sigma: (T, r) singular values of the product.
        ranks, energies, gaps: (T,) effective rank, objective with decay, balance gap over the summed squared norms.
        maps: (T, d, d) the products.
        fit, rank: when the task's levels were reached.
        tails: *energy* and *rank* of the run after its rank was reached, ``None`` where there are too few points.
        gradient_theta: slope of log ‖∂E‖ on log(E − E*), ½ for an exponential.
        tail_rate: rate of decay of singular value r + 1, over decay.
        gap_rate, imbalance_rate: rates of decay of the balance gap and of the norms of W'ᵀW' − WWᵀ, over decay; the
            second is 2 in gradient flow.
    """

    depth: int
    decay: float
    rate: float
    init: float
    seed: int
    steps: NDArray[np.int64]
    times: Array
    sigma: Array
    ranks: Array
    energies: Array
    gaps: Array
    maps: Array
    fit: Crossing
    crossings: tuple[Crossing, ...]
    clock: ClockFit
    contraction_kept: float | None
    rank: Crossing
    tails: dict[str, TailFit | None]
    gradient_theta: LineFit | None
    tail_rate: float | None
    gap_rate: float | None
    imbalance_rate: float | None
    error_steps: NDArray[np.int64]
    errors: Array
    hidden_error: float

    def ticks(self, crossing: Crossing) -> tuple[float | None, float | None]:
        """The ends of an event in Σ lr times the decay."""
        unit = self.rate * self.decay
        return tuple(None if end is None else end * unit for end in (crossing.after, crossing.by))  # pyright: ignore

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the series."""
        return {
            "depth": self.depth, "decay": self.decay, "lr": self.rate, "init_scale": self.init, "seed": self.seed,
            "fit": self.fit.as_json(), "T_cls": [crossing.as_json() for crossing in self.crossings],
            "T_cls_preferred": self.clock.preferred, "rank_reached": self.rank.as_json(),
            "rank_ticks": self.ticks(self.rank), "balance_gap_first": float(self.gaps[0]),
            "balance_gap_last": float(self.gaps[-1]), "balance_gap_rate": self.gap_rate,
            "imbalance_rate": self.imbalance_rate,
            "tail_rate": self.tail_rate,
            "tails": {
                name: None if tail is None else {
                    "state": tail.state, "beta": tail.power.beta, "theta": tail.theta,
                    "theta_low": tail.theta_low, "theta_high": tail.theta_high,
                    "prediction_error": {
                        "power": tail.power.prediction_error, "exponential": tail.exponential.prediction_error
                    },
                }
                for name, tail in self.tails.items()
            },
            "theta_from_gradient": None if self.gradient_theta is None else self.gradient_theta.slope,
            "error_hidden": self.hidden_error,
        }  # fmt: skip


def read_completion(log: Log, directory: Path, levels: Array = LEVELS) -> Reading:
    """Everything about one finished run of completion by a deep linear net."""
    run = open_run(directory)
    config = run.manifest["config"]
    depth, train = config["model"]["depth"], config["train"]
    decay, rate, task = train["weight_decay"], train["lr"], run.task
    if task.rank is None or task.levels.rank_factor is None or not decay > 0:
        raise GrokscopeError(
            f"reading the clocks of {directory}: it has no rank to reach or no decay, expected a completion with both"
        )
    layers = [
        torch.from_numpy(run.trajectory.read(f"layer.{place}.W")).double() for place in range(1, depth + 1)
    ]
    product = reduce(torch.matmul, layers)
    sigma = singular_values(product)
    squares = torch.stack([layer.square().sum((1, 2)) for layer in layers]).sum(0)
    error = (product - task.targets) * task.train_mask
    energies = (0.5 * error.square().sum((1, 2)) + 0.5 * decay * squares).numpy()
    gaps = (balance_gap([layer.mT for layer in layers]) / squares).numpy()
    uneven = torch.stack([gap.square().sum((1, 2)) for gap in imbalances([layer.mT for layer in layers])])
    norms = uneven.sum(0).sqrt().numpy()
    steps = run.trajectory.steps
    times = rate * steps
    ranks = effective_rank(sigma).numpy()
    reached = first_hold(steps, ranks, task.levels.rank_factor * task.rank, "below", HOLD)
    errors = log.scalars["error.train"]
    crossings = classifier_clock(log.steps, errors, levels, HOLD)
    there = [crossing.by for crossing in crossings if crossing.by is not None]
    kept = kept_rate(log.steps, -np.log(errors), there[0], there[-1]) if len(there) >= 4 else None
    late = steps >= (steps[-1] if reached.by is None else reached.by)
    tails = {
        "energy": _tail(decay * times, energies, late),
        "effective rank": _tail(decay * times, ranks, late),
    }
    gradients = _gradient_norms(layers, error, decay)
    return Reading(
        depth=depth, decay=decay, rate=rate, init=config["model"]["init_scale"], seed=log.seed,
        steps=steps, times=times, sigma=sigma.numpy(), ranks=ranks, energies=energies, gaps=gaps,
        maps=product.numpy(),
        fit=first_hold(log.steps, errors, task.levels.fit, "below", HOLD), crossings=tuple(crossings),
        clock=fit_clock(levels, crossings), contraction_kept=kept, rank=reached, tails=tails,
        gradient_theta=_theta(tails["energy"], energies, gradients, late),
        tail_rate=_decay_rate(decay * times, sigma[:, task.rank].numpy(), sigma[:, 0].numpy(), late),
        gap_rate=_decay_rate(decay * times, gaps, np.full(len(gaps), gaps[0]), np.ones(len(gaps), bool)),
        imbalance_rate=_decay_rate(decay * times, norms, np.full(len(norms), norms[0]), np.ones(len(norms), bool)),
        error_steps=log.steps, errors=errors, hidden_error=float(log.scalars["error.test"][-1]),
    )  # fmt: skip


def schatten_energy(sigma: Array, depth: int) -> Array:
    """L Σσ^{2/L} of a square map of float64: (T, r) to (T,)."""
    size = sigma.shape[-1]
    values = schatten_power(torch.from_numpy(sigma), 2 / depth, (size, size), torch.float64)
    return depth * values.numpy()


def _tail(ticks: Array, values: Array, late: NDArray[np.bool_]) -> TailFit | None:
    """Power or exponential of what is left after the rank was reached, its limit fitted jointly."""
    places = np.flatnonzero(late & (values > 0))
    if len(places) < FEWEST_POINTS:
        return None
    places = places[
        np.unique(np.linspace(0, len(places) - 1, min(len(places), TAIL_POINTS)).round().astype(int))
    ]
    return tail_fit(ticks[places], values[places])


def _gradient_norms(layers: list[torch.Tensor], error: torch.Tensor, decay: float) -> Array:
    """(T,) norm of the gradient of the objective with decay over all layers, x W_1 … W_L the net."""
    squares = torch.zeros(len(error), dtype=torch.float64)
    for place, layer in enumerate(layers):
        gradient = error
        if place:
            gradient = reduce(torch.matmul, layers[:place]).mT @ gradient
        if place + 1 < len(layers):
            gradient = gradient @ reduce(torch.matmul, layers[place + 1 :]).mT
        squares += (gradient + decay * layer).square().sum((1, 2))
    return squares.sqrt().numpy()


def _theta(
    tail: TailFit | None, energies: Array, gradients: Array, late: NDArray[np.bool_]
) -> LineFit | None:
    """θ from the gradient, with the limit that the tail fit found; the gaps are those well above its error."""
    if tail is None:
        return None
    limit = (tail.power if tail.state == "power" else tail.exponential).limit
    gaps = energies - limit
    first = gaps[late][0]
    kept = late & (gaps > 1e-2 * first) & (gradients > 0)
    return theta_from_gradient(gaps[kept], gradients[kept]) if np.count_nonzero(kept) >= 4 else None


def _decay_rate(ticks: Array, values: Array, scale: Array, where: NDArray[np.bool_]) -> float | None:
    """Minus the slope of log values on ticks, over values that are not rounding beside ``scale``."""
    kept = where & (values > ROUNDING * scale)
    if np.count_nonzero(kept) < 4:
        return None
    return -fit_line(ticks[kept], np.log(values[kept])).slope
