"""What neurons compute with: input weights, frequencies over all inputs, and phases.

Shape legend: T saves, n points of the cyclic axis, F = n // 2 frequencies, h neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures import fourier as measures
from grokscope.measures.neuron_frequencies import (
    frequencies_of_rows,
    joined,
    mean_explained,
    neuron_shares,
)
from grokscope.measures.phases import fit_phases, phase_statistics, resultant_chance
from grokscope.models.neuron_rows import neuron_view
from grokscope.probes.cyclic_axis import CyclicAxis
from grokscope.probes.fourier_quantities import NEURONS_WITH_NULL
from grokscope.probes.readings import Values, by_save, once
from grokscope.probes.record import Record
from grokscope.probes.stepwise import no_params, random_params, record_null, record_series
from grokscope.runs import Model, Params, Run, Task

OF_INPUTS = ("ipr", "ipr_complex")
OF_PHASES = ("phase_cosine", "phase_resultant", "phase_angle", "phase_chance")
SHARES = "key_frequencies.by_neuron"
NEURON_MEASURES: tuple[str, ...] = (*OF_INPUTS, "neuron_explained", SHARES, *OF_PHASES)

SILENT = "no neuron varies over the inputs (or weights are not finite) at any save"
TIED = "no neuron has a frequency that explains more of it than every other (or weights are not finite)"
NO_PHASE = "no neuron has a frequency below half the axis with weight on all three sides"
OVERLAP = (
    "the frequencies of a² overlap (more functions than squares), so shares of power or variance are not "
    "parts of a whole"
)


def neuron_reader(
    run: Run, record: Record, token: CyclicAxis | Absent, answer: CyclicAxis | Absent
) -> Callable[[Params], Values] | None:
    """What reads the neurons of one save, ``None`` where there is nothing to read and why is recorded.

    It gives each of ``NEURON_MEASURES`` by name, the key frequencies as (F,) shares of the neurons.
    """
    model = run.model
    lacking = run.lacks("function")
    absent = lacking.reason if lacking else why_no_neurons(model, token)
    if absent or isinstance(token, Absent):
        for quantity in (*NEURON_MEASURES, *(f"{name}.null" for name in (*NEURONS_WITH_NULL, SHARES))):
            record.skip(f"fourier.{quantity}", absent)
        return None
    sign, _ = sign_of_phases(run.task, token, answer, model)
    residues = torch.arange(token.n) if token.axis.kind == "additive" else torch.as_tensor(token.axis.rows)

    def read(params: Params) -> Values:
        missing = torch.tensor(torch.nan, dtype=torch.float64)
        found = dict.fromkeys(NEURON_MEASURES, missing)
        found[SHARES] = missing.expand(token.n // 2)
        if not all(bool(value.isfinite().all()) for value in params.values()):
            return found
        view = neuron_view(model, params, residues)
        assert not isinstance(view, Absent)
        inputs = less_bias(model, params, view.inputs)
        with suppress(ValueError):
            found["ipr"], found["ipr_complex"] = measures.inverse_participations(*inputs)
        neurons = joined([frequencies_of_rows(rows, token.n) for rows in view.rows])
        if not bool(neurons.varies.any()):
            return found
        found["neuron_explained"] = mean_explained(neurons)
        if not bool((neurons.frequency > 0).any()):
            return found
        found[SHARES] = neuron_shares(neurons, token.n)
        if sign is not None and isinstance(answer, CyclicAxis):
            output = answer.ordered(model.neuron_logit(params))  # pyright: ignore[reportArgumentType]
            with suppress(ValueError):
                statistics = phase_statistics(fit_phases(*inputs, output, neurons.frequency, sign))
                chance = resultant_chance(float(statistics.effective_neurons))
                found["phase_cosine"], found["phase_resultant"] = statistics.cosine, statistics.resultant
                found["phase_angle"] = statistics.angle
                found["phase_chance"] = torch.tensor(chance, dtype=torch.float64)
        return found

    return read


def record_neurons(
    run: Run, record: Record, token: CyclicAxis, answer: CyclicAxis | Absent, values: Values
) -> Tensor:
    """Record what :func:`neuron_reader` read of every save; returns (T, F) the neurons' shares by frequency."""
    _, no_phases = sign_of_phases(run.task, token, answer, run.model)
    for quantity in (*OF_INPUTS, "neuron_explained"):
        record_series(record, f"fourier.{quantity}", values[quantity], SILENT)
    silent = record.get("fourier.neuron_explained") is None
    why = SILENT if silent else TIED
    record_series(record, f"fourier.{SHARES}", values[SHARES], why, ("step", token.dim))
    for quantity in OF_PHASES:
        record_series(record, f"fourier.{quantity}", values[quantity], no_phases or NO_PHASE)
    return values[SHARES]


def record_neurons_by_chance(
    run: Run, record: Record, read: Callable[[Params], Values], samples: int
) -> None:
    """Record chance bands of ``NEURONS_WITH_NULL`` and of the largest share of a frequency.

    Of ``samples`` random weight sets of the model's shapes.
    """

    def compute() -> Values:
        whole = by_save(read)
        drawn = [whole(params) for params in random_params(run.model, samples)]
        return {key: torch.cat([part[key] for part in drawn]) for key in (*NEURONS_WITH_NULL, SHARES)}

    chance = once(run, "fourier.neurons.null", compute, options={"samples": samples})
    for quantity in (*NEURONS_WITH_NULL, SHARES):
        name = f"fourier.{quantity}"
        if record.get(name) is not None:
            draws = chance[quantity].amax(-1) if quantity == SHARES else chance[quantity]
            record_null(record, name, draws)
        else:
            record.skip(f"{name}.null", record.absent.get(name, SILENT))


def why_no_neurons(model: Model, token: CyclicAxis | Absent) -> str:
    if isinstance(token, Absent):
        return token.reason
    if token.overlapping:
        return OVERLAP
    params = no_params(model)
    for part in (model.neuron_inputs(params), model.neuron_grid(params)):
        if isinstance(part, Absent):
            return part.reason
    return ""


def sign_of_phases(
    task: Task, token: CyclicAxis, answer: CyclicAxis | Absent, model: Model
) -> tuple[int | None, str]:
    """The sign of b's phase in the rule, or why phases say nothing about this task."""
    signs = {"add": 1, "mul": 1, "sub": -1, "div": -1}
    output = model.neuron_logit(no_params(model))
    if isinstance(output, Absent):
        return None, output.reason
    if isinstance(answer, Absent):
        return None, answer.reason
    if task.operation not in signs or answer.axis.kind != token.axis.kind or answer.n != token.n:
        return None, f"{task.description or task.name} is not a sum or difference on one cyclic axis"
    return signs[task.operation], ""


def less_bias(model: Model, params: Params, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Input weights of either operand, without the bias that the anatomy adds to the first."""
    first, second = inputs
    bias = model.neuron_bias(params)
    return (first if bias is None else first - bias), second
