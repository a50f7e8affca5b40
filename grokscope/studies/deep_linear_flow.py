"""The theory's own flow beside the training of the factors: where the two part, and whether they meet again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grokscope.measures.crossings import Crossing, first_hold
from grokscope.measures.spectra import effective_rank
from grokscope.measures.spectral_flow import penalised_energy, spectral_flow
from grokscope.studies.deep_linear_readings import HOLD, Reading, schatten_energy
from grokscope.tasks import Task

Array = NDArray[np.float64]

EVERY = 3
EARLY = 200
"""Steps up to which every save is compared, and every third after it."""
TOLERANCE = 1e-3
"""Error of a step of the integrator that is accepted."""
PARTED = 0.1
"""Relative difference from which two curves have parted."""


@dataclass(frozen=True, eq=False)
class FlowReading:
    """One flow from the weights a run began with, read at saves of the run.

    Attributes:
        ticks: (K,) Σ lr times the decay.
        ranks, trained_ranks: (K,) effective rank of the flow and of the trained product.
        sigma, trained_sigma: (K, r).
        rank: when the flow reached the rank, in saves of the run.
        vanished: tick at which the flow's singular value r + 1 is exactly zero; ``None`` where it is not.
        trained_then: the trained one at that tick.
        parted: quantity → first save, in steps, at which flow and training differ by more than a tenth.
        fit_ratio: when the flow is fitted over when the factors are, both read at the same saves.
        distance: of the two maps at the end, relative to the trained one.
        energy_gap: energy of the flow over that of the trained product at the end, less 1.
    """

    depth: int
    decay: float
    seed: int
    ticks: Array
    ranks: Array
    trained_ranks: Array
    sigma: Array
    trained_sigma: Array
    rank: Crossing
    vanished: float | None
    trained_then: float | None
    parted: dict[str, float | None]
    fit_ratio: float | None
    distance: float
    energy_gap: float
    accepted: int

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the series."""
        return {
            "depth": self.depth, "seed": self.seed, "rank_reached": self.rank.as_json(), "vanished": self.vanished,
            "trained_then": self.trained_then, "parted": self.parted, "fit_ratio": self.fit_ratio,
            "decay": self.decay, "distance_at_the_end": self.distance,
            "energy_gap": self.energy_gap, "accepted_steps": self.accepted,
        }  # fmt: skip


def read_flow(trained: Reading, task: Task, tolerance: float = TOLERANCE) -> FlowReading:
    """Integrate the flow on the product from where ``trained`` began, in the same time, and compare."""
    assert task.rank is not None
    assert task.levels.rank_factor is not None
    last = len(trained.steps) - 1
    kept = np.union1d(np.flatnonzero(trained.steps <= EARLY), np.append(np.arange(0, last, EVERY), last))
    target, observed = task.targets.numpy(), task.train_mask.numpy()
    flow = spectral_flow(
        trained.maps[0], target, observed, trained.decay, trained.depth, trained.times[kept], tolerance
    )
    maps, sigma = trained.maps[kept], trained.sigma[kept]
    ranks = effective_rank(torch.from_numpy(flow.singular_values)).numpy()
    ticks = trained.decay * trained.times[kept]
    pairs = {
        "error on observed entries": _errors(flow.maps, maps, target, observed),
        "error on hidden entries": _errors(flow.maps, maps, target, ~observed),
        "effective rank": (ranks, trained.ranks[kept]),
        "Schatten power": tuple(
            schatten_energy(values, trained.depth) for values in (flow.singular_values, sigma)
        ),
    }
    fits = [
        first_hold(trained.steps[kept], values, task.levels.fit, "below", HOLD)
        for values in pairs["error on observed entries"]
    ]
    gone = np.flatnonzero(flow.singular_values[:, task.rank] == 0)
    last = penalised_energy(
        np.stack([flow.maps[-1], maps[-1]]), target, observed, trained.decay, trained.depth
    )
    return FlowReading(
        depth=trained.depth, decay=trained.decay, seed=trained.seed, ticks=ticks, ranks=ranks,
        trained_ranks=trained.ranks[kept],
        sigma=flow.singular_values, trained_sigma=sigma,
        rank=first_hold(trained.steps[kept], ranks, task.levels.rank_factor * task.rank, "below", HOLD),
        vanished=float(ticks[gone[0]]) if len(gone) else None,
        trained_then=float(sigma[gone[0], task.rank]) if len(gone) else None,
        parted={name: _parted(trained.steps[kept], *pair) for name, pair in pairs.items()},
        fit_ratio=None if fits[0].by is None or not fits[1].by else fits[0].by / fits[1].by,
        distance=float(np.linalg.norm(flow.maps[-1] - maps[-1]) / np.linalg.norm(maps[-1])),
        energy_gap=float(last[0] / last[1] - 1), accepted=flow.steps,
    )  # fmt: skip


def _errors(one: Array, other: Array, target: Array, mask: NDArray[np.bool_]) -> tuple[Array, Array]:
    scale = np.sum((target * mask) ** 2)
    first, second = (np.sum(((maps - target) * mask) ** 2, axis=(1, 2)) / scale for maps in (one, other))
    return first, second


def _parted(steps: NDArray[np.int64], one: Array, other: Array) -> float | None:
    apart = np.flatnonzero(np.abs(one - other) > PARTED * np.maximum(np.abs(one), np.abs(other)))
    return float(steps[apart[0]]) if len(apart) else None
