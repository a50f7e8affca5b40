"""What the manifold probe reads off the weights of one save, and off two: the kernel's part and how it moves.

Shapes: R residuals of the training data, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.measures.manifold import (
    KernelProjection,
    decayed_share,
    instantaneous_drift,
    kernel_projection,
    kernel_projection_lsmr,
    motion_against,
)
from grokscope.probes.findings import Findings
from grokscope.probes.gradient_readings import training_objective
from grokscope.runs import Params, Run

Array = NDArray[np.float64]
Method = Literal["auto", "exact", "products"]

MOST_WORK = 2e8
"""R P min(R, P) up to which the singular values of J are taken without being asked for."""
_KEPT_BYTES = 2**27

TANGENT, FRACTION = "manifold.tangent_norm", "manifold.tangent_fraction"
GRADIENT, DECAY = "manifold.gradient_norm", "manifold.decay_norm"
RANK = "manifold.rank"
COSINE, SPEED = "manifold.drift_cosine", "manifold.drift_speed"
COSINE_NOW, SPEED_NOW = "manifold.drift_cosine.instant", "manifold.drift_speed.instant"
DISTANCE = "manifold.distance_to_flow"
RESIDUAL, KEPT, DROPPED, RATIO = "residual", "kept", "dropped", "ratio"
"""Found of every save beside the public names: how sure the projection is; and ‖Δw‖/‖P w‖ of every interval."""


def flat(params: Params, names: Sequence[str]) -> Array:
    """(P,): the named tensors one after the other."""
    return torch.cat([params[name].reshape(-1) for name in names]).numpy()


class ManifoldReader:
    """J of one run's training residuals, and what it says of each save.

    Attributes:
        exact: whether J is formed and its singular values are taken; else products with J and its transpose are.
        decay: λ, where it is one number above 0.
    """

    def __init__(self, run: Run, method: Method, iterations: int, decay: float | None) -> None:
        self.model, self.objective, self.decay = run.model, training_objective(run), decay
        self.iterations = iterations
        observed = self.objective.observed
        counted = torch.ones(len(self.objective.inputs), self.model.n_classes, dtype=torch.bool)
        self.entries = (counted if observed is None else observed).flatten().nonzero()[:, 0]
        self.names = list(self.model.shapes)
        self.n_parameters = sum(int(np.prod(shape)) for shape in self.model.shapes.values())
        self.work = len(self.entries) * self.n_parameters * min(len(self.entries), self.n_parameters)
        self.exact = method == "exact" or (method == "auto" and self.work <= MOST_WORK)
        self.linearised = self.model.linearised(self.objective.inputs)
        self._known: dict[bytes, KernelProjection] = {}

    def residuals(self, params: Params) -> Tensor:
        """(R,): outputs of the entries that were trained on; the answers are constants."""
        outputs = self.model.forward(params, self.objective.inputs)
        return outputs.reshape(-1)[self.entries]

    def answers(self) -> Tensor:
        """(R,): what the entries that were trained on should be."""
        targets = self.objective.targets
        if targets.ndim == 1:
            targets = one_hot(targets, self.model.n_classes).to(torch.float64)
        return targets.reshape(-1)[self.entries]

    def gradient(self, params: Params) -> Array:
        """(P,): ∇F, without decay."""
        outputs, pullback = self.linearised(params)
        grads = pullback(self.objective.weight * self.objective.delta(outputs))
        return flat(grads, self.names)

    def jacobian(self, params: Params) -> Array:
        """(R, P)."""
        back = torch.func.vjp(self.residuals, params)[1]
        (rows,) = torch.func.vmap(back)(torch.eye(len(self.entries), dtype=torch.float64))
        return torch.cat([rows[name].flatten(1) for name in self.names], dim=1).numpy()

    def products(self, params: Params) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """v (P,) to J v (R,), and z (R,) to Jᵀ z (P,)."""
        back = torch.func.vjp(self.residuals, params)[1]
        # Jᵀ z is linear in z, and its own transpose is J: no forward mode is needed
        push = torch.func.vjp(back, torch.zeros(len(self.entries), dtype=torch.float64))[1]
        sizes = [params[name].numel() for name in self.names]

        def forward(vector: Array) -> Array:
            parts = torch.from_numpy(np.ascontiguousarray(vector)).split(sizes)
            shaped = {
                name: part.view(params[name].shape) for name, part in zip(self.names, parts, strict=True)
            }
            return push(({name: shaped[name] for name in params},))[0].numpy()

        def backward(vector: Array) -> Array:
            return flat(back(torch.from_numpy(np.ascontiguousarray(vector)))[0], self.names)

        return forward, backward

    def projection(self, params: Params) -> KernelProjection:
        """P w; that of the last saves is kept, since an interval asks for what its first save has had."""
        weights = flat(params, self.names)
        if not np.isfinite(weights).all():
            raise ValueError("the weights are not finite")
        key = weights.tobytes()
        if key not in self._known:
            if self.exact:
                found = kernel_projection(self.jacobian(params), weights)
            else:
                forward, backward = self.products(params)
                found = kernel_projection_lsmr(
                    forward, backward, len(self.entries), weights, iterations=self.iterations
                )
            while self._known and len(self._known) * 16 * self.n_parameters > _KEPT_BYTES:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return self._known[key]

    def __call__(self, params: Params) -> Findings:
        """Everything that one save decides."""
        found = Findings(
            dict.fromkeys(
                (TANGENT, FRACTION, GRADIENT, DECAY, RANK, COSINE_NOW, SPEED_NOW, RESIDUAL, KEPT, DROPPED)
            )
        )
        with found.unless_refused(*found.values):
            weights, gradient, projection = (
                flat(params, self.names),
                self.gradient(params),
                self.projection(params),
            )
            size, tangent = float(np.linalg.norm(weights)), float(np.linalg.norm(projection.vector))
            found.put(TANGENT, tangent)
            found.put(FRACTION, tangent / size if size > 0 else None)
            found.put(GRADIENT, float(np.linalg.norm(gradient)))
            found.put(RANK, projection.rank)
            found.put(RESIDUAL, projection.residual)
            found.put(KEPT, projection.smallest_kept)
            found.put(DROPPED, projection.largest_dropped)
            if self.decay is not None:
                found.put(DECAY, self.decay * size)
                with found.unless_refused(COSINE_NOW, SPEED_NOW):
                    drift = instantaneous_drift(weights, gradient, projection.vector, self.decay)
                    found.put(COSINE_NOW, drift.cosine)
                    found.put(SPEED_NOW, drift.speed)
        return found

    def between(self, before: Params, after: Params) -> Findings:
        """The motion from a save to the next against P w of the first."""
        found = Findings(dict.fromkeys((COSINE, RATIO)))
        with found.unless_refused(COSINE, RATIO):
            moved = flat(after, self.names) - flat(before, self.names)
            motion = motion_against(moved, self.projection(before).vector)
            found.put(COSINE, motion.cosine)
            found.put(RATIO, motion.speed)
        return found


def interval_shares(run: Run, decay: float) -> Array:
    """(T − 1,): the share of a vector that decay alone takes away from each save to the next."""
    train = run.config["train"]
    rate, warmup = float(train["lr"]), int(train.get("warmup", 0))
    steps = [int(step) for step in run.steps]
    shares = []
    for first, last in pairwise(steps):
        at = np.arange(first, last)
        rates = np.where(at < warmup, rate * (at + 1) / max(warmup, 1), rate)
        shares.append(decayed_share(rates, decay))
    return np.array(shares)


def distances(run: Run, twin: Run) -> tuple[Array, int]:
    """‖w − w'‖ at every save of ``run`` that ``twin`` has too, NaN at the others, and how many they share."""
    found = np.full(len(run.steps), np.nan)
    _, ours, theirs = np.intersect1d(run.steps, twin.steps, return_indices=True)
    names = list(run.model.shapes)
    for mine, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        difference = flat(run.params(mine), names) - flat(twin.params(other), names)
        if np.isfinite(difference).all():
            found[mine] = float(np.linalg.norm(difference))
    return found, len(ours)
