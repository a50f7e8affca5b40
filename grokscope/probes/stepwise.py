"""Measures over the saves of a run in blocks of bounded memory, and over random weights for chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.probes.record import Record
from grokscope.runs import Model, Params, Run

NULL_LEVELS = (0.05, 0.5, 0.95)
NULL_DIM = "null_quantile"

_BLOCK_BYTES = 32 * 2**20
_NULL_BLOCK = 8


def step_blocks(run: Run, names: Sequence[str] | None = None) -> Iterator[tuple[slice, Params]]:
    """(rows, parameters (t, …) in float64) over all selected saves, at most 32 MiB at a time."""
    block = _block(run.model, len(run.rows))
    for start in range(0, len(run.rows), block):
        rows = slice(start, min(start + block, len(run.rows)))
        yield rows, run.stacked(names, rows)


def _block(model: Model, most: int) -> int:
    per_save = 8 * sum(math.prod(shape) for shape in model.shapes.values())
    return max(1, min(most, _BLOCK_BYTES // max(per_save, 1)))


def rowwise(measure: Callable[..., Tensor], shape: Sequence[int], *values: Tensor) -> Tensor:
    """``measure`` of values with a leading step axis, NaN at the steps where it is not defined.

    Args:
        measure: batched over leading axes; raises ValueError where one entry of the batch is undefined.
        shape: of its result for a single step.
        values: (T, …) each.

    Returns:
        (T, *shape) float64.
    """
    count = len(values[0])
    try:
        return measure(*values).to(torch.float64)
    except ValueError:
        found = torch.full((count, *shape), math.nan, dtype=torch.float64)
    for row in range(count):
        try:
            found[row] = measure(*(value[row : row + 1] for value in values))[0]
        except ValueError:
            continue
    return found


def unless_refused(measure: Callable[..., Tensor], shape: Sequence[int], *values: Tensor) -> Tensor:
    """``measure`` of the values of one save, NaN of ``shape`` where it raises ValueError; float64."""
    try:
        return measure(*values).to(torch.float64)
    except ValueError:
        return torch.full(tuple(shape), math.nan, dtype=torch.float64)


def no_params(model: Model) -> Params:
    """All parameters zero: for asking which parts a model has, which its weights do not decide."""
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in model.shapes.items()}


def record_series(
    record: Record, name: str, values: Tensor, reason: str, dims: Sequence[str] = ("step",)
) -> None:
    """Record (T, …) values, or skip ``name`` for ``reason`` where no step has one.

    Whole numbers stay floating point only where NaN has to mark a step without one.
    """
    if values.is_floating_point() and bool(values.isnan().all()):
        record.skip(name, reason)
    else:
        record.add(name, values, dims)


def random_params(model: Model, samples: int, seed: int = 0) -> Iterator[Params]:
    """Blocks (t, …) of ``samples`` random weight sets of the model's shapes.

    Matrices are Gaussian with variance 1/fan-in, the fan-in being the second to last axis; biases are 0 and
    gains 1. Drawn on the CPU from a generator of its own.

    Raises:
        GrokscopeError: fewer than two samples, of which no band can be made.
    """
    if samples < 2:
        raise GrokscopeError(f"drawing random weights: null_samples = {samples}, expected at least 2")
    generator = torch.Generator().manual_seed(seed)
    block = _block(model, _NULL_BLOCK)
    for start in range(0, samples, block):
        count = min(block, samples - start)
        drawn = [_gaussian(model, generator) for _ in range(count)]
        yield {name: torch.stack([params[name] for params in drawn]) for name in model.shapes}


def _gaussian(model: Model, generator: torch.Generator) -> Params:
    """One weight set, drawn tensor by tensor, so that the size of a block changes no number."""
    params: Params = {}
    for part in model.parts:
        if part.kind == "matrix":
            drawn = torch.randn(part.shape, generator=generator, dtype=torch.float64)
            params[part.name] = drawn * part.shape[-2] ** -0.5
        else:
            fill = torch.ones if part.kind == "gain" else torch.zeros
            params[part.name] = fill(part.shape, dtype=torch.float64)
    return params


def record_null(record: Record, name: str, draws: Tensor) -> None:
    """Record the 5, 50 and 95 % quantiles of (S,) draws as ``<name>.null``; nothing where a draw is NaN."""
    if bool(draws.isfinite().all()):
        record.coordinate(NULL_DIM, NULL_LEVELS)
        levels = torch.tensor(NULL_LEVELS, dtype=torch.float64)
        record.add(f"{name}.null", torch.quantile(draws.to(torch.float64), levels), (NULL_DIM,))
    else:
        record.skip(f"{name}.null", "it is not defined on random weights of these shapes")
