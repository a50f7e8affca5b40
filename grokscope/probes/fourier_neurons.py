"""What neurons compute with: input weights, frequencies over all inputs, and phases.

Shape legend: T saves, n points of the cyclic axis, F = n // 2 frequencies, h neurons.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures import fourier as measures
from grokscope.measures.phases import fit_phases, phase_statistics, resultant_chance
from grokscope.probes.cyclic_axis import CyclicAxis
from grokscope.probes.record import Record
from grokscope.probes.stepwise import record_series, step_blocks
from grokscope.runs import Model, Params, Run, Task

OF_INPUTS = ("ipr", "ipr_complex")
OF_PHASES = ("phase_cosine", "phase_resultant", "phase_angle", "phase_chance")
NEURON_MEASURES = (*OF_INPUTS, "neuron_explained", "key_frequencies.by_neuron", *OF_PHASES)

SILENT = "no neuron varies over the inputs (or weights are not finite) at any save"
TIED = "no neuron has a frequency that explains more of it than every other (or weights are not finite)"
NO_PHASE = "no neuron has a frequency below half the axis with weight on all three sides"
OVERLAP = (
    "the frequencies of a² overlap (more functions than squares), so shares of power or variance are not "
    "parts of a whole"
)


def record_neurons(
    run: Run, record: Record, token: CyclicAxis | Absent, answer: CyclicAxis | Absent, params: Params
) -> Tensor | None:
    """Record what neurons hold; returns (T, F) their shares by frequency."""
    model = run.model
    lacking = run.lacks("function")
    absent = lacking.reason if lacking else _why_no_neurons(model, token, params)
    if absent or isinstance(token, Absent):
        for quantity in NEURON_MEASURES:
            record.skip(f"fourier.{quantity}", absent)
        return None
    sign, no_phases = _sign(run.task, token, answer, model.neuron_logit(params))
    count, frequencies = len(run.rows), token.n // 2
    shares = torch.full((count, frequencies), torch.nan, dtype=torch.float64)
    series = {q: torch.full((count,), torch.nan, dtype=torch.float64) for q in NEURON_MEASURES}
    for rows, block in step_blocks(run):
        for offset in range(rows.stop - rows.start):
            index = rows.start + offset
            one = {name: value[offset] for name, value in block.items()}
            if not all(bool(value.isfinite().all()) for value in one.values()):
                continue
            inputs = _input_weights(model, token, one)
            series["ipr"][index] = _scalar(measures.inverse_participation, *inputs)
            series["ipr_complex"][index] = _scalar(measures.complex_inverse_participation, *inputs)
            neurons = measures.neuron_frequencies(_ordered_grid(model, token, one))
            if not bool(neurons.varies.any()):
                continue
            series["neuron_explained"][index] = measures.mean_explained(neurons)
            if not bool((neurons.frequency > 0).any()):
                continue
            shares[index] = measures.neuron_shares(neurons, token.n)
            if sign is not None and isinstance(answer, CyclicAxis):
                output = answer.ordered(model.neuron_logit(one))  # pyright: ignore[reportArgumentType]
                phases = _phases(inputs, output, neurons.frequency, sign)
                for quantity, value in zip(OF_PHASES, phases, strict=True):
                    series[quantity][index] = value
    for quantity in (*OF_INPUTS, "neuron_explained"):
        record_series(record, f"fourier.{quantity}", series[quantity], SILENT)
    name = "fourier.key_frequencies.by_neuron"
    silent = record.get("fourier.neuron_explained") is None
    record_series(record, name, shares, SILENT if silent else TIED, ("step", token.dim))
    for quantity in OF_PHASES:
        record_series(record, f"fourier.{quantity}", series[quantity], no_phases or NO_PHASE)
    return shares


def _why_no_neurons(model: Model, token: CyclicAxis | Absent, params: Params) -> str:
    if isinstance(token, Absent):
        return token.reason
    if token.overlapping:
        return OVERLAP
    for part in (model.neuron_inputs(params), model.neuron_grid(params)):
        if isinstance(part, Absent):
            return part.reason
    return ""


def _sign(
    task: Task, token: CyclicAxis, answer: CyclicAxis | Absent, output: Tensor | Absent
) -> tuple[int | None, str]:
    """The sign of b's phase in the rule, or why phases say nothing about this task."""
    signs = {"add": 1, "mul": 1, "sub": -1, "div": -1}
    if isinstance(output, Absent):
        return None, output.reason
    if isinstance(answer, Absent):
        return None, answer.reason
    if task.operation not in signs or answer.axis.kind != token.axis.kind or answer.n != token.n:
        return None, f"{task.description or task.name} is not a sum or difference on one cyclic axis"
    return signs[task.operation], ""


def _input_weights(model: Model, token: CyclicAxis, params: Params) -> tuple[Tensor, Tensor]:
    """(n, h) each: input weights of either operand, without the bias that the anatomy adds to the first."""
    inputs = model.neuron_inputs(params)
    assert not isinstance(inputs, Absent)
    first, second = inputs
    bias = model.neuron_bias(params)
    first = first if bias is None else first - bias
    return token.ordered(first), token.ordered(second)


def _ordered_grid(model: Model, token: CyclicAxis, params: Params) -> Tensor:
    """(n, n, h) activations with both operands in axis order."""
    grid = model.neuron_grid(params)
    assert not isinstance(grid, Absent)
    if token.axis.kind == "additive":
        return grid
    return grid[token.axis.rows][:, token.axis.rows]


def _scalar(measure: Callable[..., Tensor], *values: Tensor) -> float:
    try:
        return float(measure(*values))
    except ValueError:
        return float("nan")


def _phases(
    inputs: tuple[Tensor, Tensor], output: Tensor, frequency: Tensor, sign: int
) -> tuple[float, float, float, float]:
    """Cosine, resultant, angle and the resultant that chance gives; NaN where no neuron has a phase."""
    try:
        found = phase_statistics(fit_phases(*inputs, output, frequency, sign))
    except ValueError:
        missing = float("nan")
        return missing, missing, missing, missing
    chance = resultant_chance(float(found.effective_neurons))
    return float(found.cosine), float(found.resultant), float(found.angle), chance
