"""Whether gradient descent of a run follows its flow: the learning rate against the curvature of the loss.

An update multiplies what deviates along a direction of curvature h by 1 − ηh. From ηh = 1 on it steps over the
valley, from 2 on it leaves it. The rule of the study is ηh < 1 for the largest h, at every save that is looked at.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from grokscope.probes.manifold_readings import ManifoldReader, flat
from grokscope.runs import Params, Run

RULE = 1.0
"""Learning rate times curvature that no save may reach."""
LOOKED_AT = 8
"""Saves at which the curvature is read, evenly spread over those of a run."""
_DIGITS = 1e-3


def largest_curvature(reader: ManifoldReader, params: Params) -> float:
    """The largest eigenvalue of the Hessian of F at ``params``, by Lanczos on products with it."""
    answers = reader.answers()

    def loss(at: Params) -> torch.Tensor:
        return 0.5 * reader.objective.weight * (reader.residuals(at) - answers).square().sum()

    sizes = [params[name].numel() for name in reader.names]
    # the Hessian is its own transpose
    transposed = torch.func.vjp(torch.func.grad(loss), params)[1]

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = torch.from_numpy(np.ascontiguousarray(vector.ravel())).split(sizes)
        along = {n: part.view(params[n].shape) for n, part in zip(reader.names, parts, strict=True)}
        ordered = {name: along[name] for name in params}
        return flat(transposed(ordered)[0], reader.names)

    size = reader.n_parameters
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(0).normal(size=size)
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=_DIGITS, return_eigenvectors=False)[0])  # pyright: ignore


def rate_times_curvature(run: Run, reader: ManifoldReader) -> float:
    """The largest η (h + λ) over a selection of saves, the first and the last among them."""
    train = run.config["train"]
    places = np.unique(np.linspace(0, len(run.steps) - 1, LOOKED_AT).round().astype(int))
    worst = max(largest_curvature(reader, run.params(int(place))) for place in places)
    return float(train["lr"]) * (worst + float(train["weight_decay"]))
