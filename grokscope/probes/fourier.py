"""Which frequencies do the embeddings, the neurons and the head hold, and do their phases fit the task?

Shape legend: T saves, n points of the cyclic axis, F = n // 2 frequencies, d columns of a map, h neurons.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures import fourier as measures
from grokscope.measures.phases import fit_phases, phase_statistics, resultant_chance
from grokscope.models import Model, Params
from grokscope.probes import fourier_drawing as drawing
from grokscope.probes.record import Alert, Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import random_params, record_null, record_series, rowwise, step_blocks
from grokscope.runs import Run
from grokscope.tasks import ResidueAxis, Task

NANDA, CLOCK_PIZZA, GROMOV = "arXiv 2301.05217", "arXiv 2306.17844", "arXiv 2301.02679"
DELAY_LAW = "arXiv 2606.13753"

OF_A_MAP = ("fraction", "gini", "gini_norm", "participation")
WITH_NULL = ("gini", "gini_norm", "participation", "circularity")
OF_NEURONS = ("neuron_explained", "key_frequencies.by_neuron")
OF_PHASES = ("phase_cosine", "phase_resultant", "phase_angle", "phase_chance")
OF_INPUTS = ("ipr", "ipr_complex")
NEURON_MEASURES = (*OF_INPUTS, *OF_NEURONS, *OF_PHASES)

CONSTANT = "the map does not vary along its residues (or is not finite) at any save"
SILENT = "no neuron varies over the inputs (or weights are not finite) at any save"
OVERLAP = (
    "the frequencies of a² overlap (more functions than squares), so shares of a neuron's power or variance "
    "are not parts of a whole"
)

_NULL_BLOCK = 8

QUANTITIES = (
    Quantity(
        "fourier.<map>.fraction",
        "1",
        "Share of the map's power in each frequency along its residue axis, the constant dropped; for "
        "x²+y² in the frequencies of a², which overlap.",
        DELAY_LAW,
    ),
    Quantity("fourier.<map>.gini", "1", "Gini coefficient of the power over frequencies.", DELAY_LAW),
    Quantity("fourier.<map>.gini_norm", "1", "Gini coefficient of the norm over frequencies.", NANDA),
    Quantity("fourier.<map>.participation", "1", "Effective number of frequencies, 1/Σ fraction²."),
    Quantity(
        "fourier.<map>.circularity",
        "1",
        "How circular the four leading principal components of the embedding are, 0 to 1.",
        CLOCK_PIZZA,
    ),
    *[
        Quantity(
            f"fourier.<map>.{quantity}.null",
            "1",
            f"5, 50 and 95 % quantiles of {quantity} over Gaussian weights of the same shapes.",
        )
        for quantity in WITH_NULL
    ],
    Quantity(
        "fourier.ipr",
        "1",
        "Mean over neurons and operands of Σ fraction² of a neuron's input weights, 1/F to 1.",
        GROMOV,
    ),
    Quantity(
        "fourier.ipr_complex",
        "1",
        "The same as Σ|w̃|⁴ over signed frequencies of the normalised complex transform, the constant "
        "included; a pure cosine gives 0.5.",
        GROMOV,
    ),
    Quantity(
        "fourier.key_frequencies.by_neuron",
        "1",
        "Share of the varying neurons whose activation over all inputs has most energy in each frequency.",
        NANDA,
    ),
    Quantity(
        "fourier.key_frequencies.by_embedding",
        "1",
        "The smallest set of frequencies that holds 95 % of the embedding's power; separate embeddings are "
        "taken together.",
    ),
    Quantity(
        "fourier.neuron_explained", "1", "Mean share of a neuron's variance in its own frequency.", NANDA
    ),
    Quantity(
        "fourier.phase_cosine",
        "1",
        "Mean of cos θ over neurons, θ = φ_a ± φ_b − ψ the misfit of input and output phases, weighted by "
        "the three amplitudes.",
    ),
    Quantity("fourier.phase_resultant", "1", "|mean e^{iθ}| over neurons, with the same weights."),
    Quantity("fourier.phase_angle", "rad", "Argument of the mean e^{iθ}; 0 where phases fit the task."),
    Quantity(
        "fourier.phase_chance",
        "1",
        "√(π/4n), the mean resultant of n random phases, n the effective number of neurons.",
    ),
)


@dataclass(frozen=True)
class _Axis:
    """A residue axis as the probe uses it: its order, its frequencies and the name of their dimension."""

    axis: ResidueAxis
    dim: str

    @property
    def n(self) -> int:
        return len(self.axis.rows)

    @property
    def overlapping(self) -> bool:
        return self.axis.kind == "square"

    def ordered(self, table: Tensor) -> Tensor:
        """(…, n, d): the residues' rows in axis order."""
        return table if self.axis.kind == "additive" else table[..., self.axis.rows, :]

    def fraction(self, table: Tensor) -> Tensor:
        """(…, n, d) to (…, F); ValueError where the map is constant."""
        if not self.overlapping:
            return measures.frequency_fraction(table)
        measures.frequency_fraction(table)  # refuses constant maps
        power = measures.square_frequency_power(table)
        return power / power.sum(-1, keepdim=True)


def _axes(task: Task) -> tuple[_Axis | Absent, _Axis | Absent]:
    token, answer = task.token_axis, task.class_axis
    token_axis = token if isinstance(token, Absent) else _Axis(token, "frequency")
    if isinstance(answer, Absent):
        return token_axis, answer
    same = isinstance(token, Absent) or len(token.rows) // 2 == len(answer.rows) // 2
    return token_axis, _Axis(answer, "frequency" if same else "frequency.class")


@dataclass(frozen=True)
class _MapOnAxis:
    """One map whose rows are residues, and its axis."""

    axis: _Axis
    rows: Callable[[Params], Tensor]
    is_embedding: bool


@register(
    "fourier",
    title="Fourier features",
    question="Which frequencies does the network use, how concentrated are they, and do its phases fit the "
    "task?",
    quantities=QUANTITIES,
    caveat="Concentration and aligned phases also appear in runs that only memorise: they are no evidence of "
    "generalisation by themselves. Circularity is not an invariant where two circles have equal variance. "
    "Frequencies of a² overlap, so their shares say which lead, not how much they explain.",
)
def fourier(run: Run, record: Record, *, share: float = 0.95, null_samples: int = 32) -> None:
    """Spectra of maps on residues, key frequencies, and phases of neurons.

    Args:
        share: of the power (or of the neurons) that a set of key frequencies holds.
        null_samples: random weight sets behind the chance bands.
    """
    token, answer = _axes(run.task)
    null = random_params(run.model, null_samples, seed=0)
    maps = _maps(run, record, token, answer, {name: value[0] for name, value in null.items()})
    for axis in (token, answer):
        if isinstance(axis, _Axis):
            record.coordinate(axis.dim, range(1, axis.n // 2 + 1))
    series = _series_of_maps(run, maps)
    for name, found in maps.items():
        _record_map(record, name, found, series[name])
        _record_null(record, name, found, null)
    keys = _by_embedding(record, run.model, token, series, share)
    shares = _neurons(run, record, token, answer, {name: value[0] for name, value in null.items()})
    if keys is not None and shares is not None:
        _compare(run, record, shares[-1], keys[-1], share)


def _maps(
    run: Run, record: Record, token: _Axis | Absent, answer: _Axis | Absent, params: Params
) -> dict[str, _MapOnAxis]:
    """Every map that has a residue axis; the others are skipped with their reason."""
    model, found = run.model, dict[str, _MapOnAxis]()
    embeddings = model.embeddings(params)
    if not embeddings:
        _skip_map(record, "embedding", f"a {model.family} model has no embedding", circular=True)
    for name in embeddings:
        if isinstance(token, Absent):
            _skip_map(record, name, token.reason, circular=True)
        else:
            found[name] = _MapOnAxis(token, lambda p, name=name: model.embeddings(p)[name], True)
    for name, part in (("unembedding", model.unembedding), ("neuron_logit", model.neuron_logit)):
        given = part(params)
        if isinstance(given, Absent):
            _skip_map(record, name, given.reason)
        elif isinstance(answer, Absent):
            _skip_map(record, name, answer.reason)
        else:
            found[name] = _MapOnAxis(answer, part, False)  # pyright: ignore[reportArgumentType]
    return found


def _skip_map(record: Record, name: str, reason: str, *, circular: bool = False) -> None:
    for quantity in (*OF_A_MAP, *(["circularity"] if circular else [])):
        record.skip(f"fourier.{name}.{quantity}", reason)


def _series_of_maps(run: Run, maps: dict[str, _MapOnAxis]) -> dict[str, dict[str, Tensor]]:
    """Per map its ``fraction`` (T, F), ``power`` (T,) and, for embeddings, ``circularity`` (T,)."""
    blocks: dict[str, dict[str, list[Tensor]]] = {name: {} for name in maps}
    for _, params in step_blocks(run) if maps else ():
        for name, found in maps.items():
            for key, value in _measure_map(found, params).items():
                blocks[name].setdefault(key, []).append(value)
    return {name: {k: torch.cat(v) for k, v in parts.items()} for name, parts in blocks.items()}


def _measure_map(found: _MapOnAxis, params: Params) -> dict[str, Tensor]:
    axis, table = found.axis, found.axis.ordered(found.rows(params))
    measured = {"fraction": rowwise(axis.fraction, (axis.n // 2,), table)}
    if found.is_embedding:
        measured["power"] = (table - table.mean(-2, keepdim=True)).square().sum((-2, -1))
        if not axis.overlapping:
            measured["circularity"] = rowwise(measures.circularity, (), table)
    return measured


def _concentration(fraction: Tensor) -> dict[str, Tensor]:
    """Quantities of (T, F) fractions by name, NaN where these are."""
    return {
        "gini": rowwise(measures.gini, (), fraction),
        "gini_norm": rowwise(lambda f: measures.gini(f.sqrt()), (), fraction),
        "participation": rowwise(measures.participation, (), fraction),
    }


def _record_map(record: Record, name: str, found: _MapOnAxis, series: dict[str, Tensor]) -> None:
    prefix = f"fourier.{name}"
    record_series(record, f"{prefix}.fraction", series["fraction"], CONSTANT, ("step", found.axis.dim))
    for quantity, values in _concentration(series["fraction"]).items():
        record_series(record, f"{prefix}.{quantity}", values, CONSTANT)
    if not found.is_embedding:
        return
    if found.axis.overlapping:
        record.skip(
            f"{prefix}.circularity",
            "an embedding of a² is no circle in a: circularity is defined on the frequencies of a",
        )
    elif found.axis.n < 3:
        record.skip(f"{prefix}.circularity", f"an axis of {found.axis.n} residues has no circle")
    else:
        record_series(record, f"{prefix}.circularity", series["circularity"], CONSTANT)


def _record_null(record: Record, name: str, found: _MapOnAxis, null: Params) -> None:
    """Chance bands of what was recorded of one map."""
    draws: dict[str, list[Tensor]] = {}
    count = len(next(iter(null.values())))
    for start in range(0, count, _NULL_BLOCK):
        measured = _measure_map(found, {k: v[start : start + _NULL_BLOCK] for k, v in null.items()})
        for quantity, values in {**measured, **_concentration(measured["fraction"])}.items():
            draws.setdefault(quantity, []).append(values)
    for quantity in WITH_NULL:
        if record.get(f"fourier.{name}.{quantity}") is not None:
            record_null(record, f"fourier.{name}.{quantity}", torch.cat(draws[quantity]))


def _by_embedding(
    record: Record, model: Model, token: _Axis | Absent, series: dict[str, dict[str, Tensor]], share: float
) -> Tensor | None:
    """Record and return (T, F) the key set by embedding, over all embeddings together."""
    name = "fourier.key_frequencies.by_embedding"
    if isinstance(token, Absent) or token.overlapping:
        record.skip(name, token.reason if isinstance(token, Absent) else OVERLAP)
        return None
    tables = [parts for parts in series.values() if "power" in parts]
    if not tables:
        record.skip(name, f"a {model.family} model has no embedding")
        return None
    # a table that does not vary adds no power, whatever its undefined shares
    parts = [(t["fraction"] * t["power"][:, None]).nan_to_num(0.0) for t in tables]
    power = torch.stack(parts).sum(0)
    keys = rowwise(lambda f: measures.key_frequencies_by_embedding(f, share), (token.n // 2,), power)
    if bool(keys.isfinite().all()):
        record.add(name, keys.bool(), ("step", token.dim))
    else:
        record_series(record, name, keys, CONSTANT, ("step", token.dim))
    return keys


def _neurons(
    run: Run, record: Record, token: _Axis | Absent, answer: _Axis | Absent, params: Params
) -> Tensor | None:
    """Record what neurons hold; returns (T, F) their shares by frequency."""
    model = run.model
    absent = _why_no_neurons(model, token, params)
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
            if not bool((neurons.frequency > 0).any()):
                continue
            shares[index] = measures.neuron_shares(neurons, token.n)
            series["neuron_explained"][index] = measures.mean_explained(neurons)
            if sign is not None and isinstance(answer, _Axis):
                output = answer.ordered(model.neuron_logit(one))  # pyright: ignore[reportArgumentType]
                phases = _phases(inputs, output, neurons.frequency, sign)
                for quantity, value in zip(OF_PHASES, phases, strict=True):
                    series[quantity][index] = value
    for quantity in (*OF_INPUTS, "neuron_explained"):
        record_series(record, f"fourier.{quantity}", series[quantity], SILENT)
    name = "fourier.key_frequencies.by_neuron"
    record_series(record, name, shares, SILENT, ("step", token.dim))
    for quantity in OF_PHASES:
        reason = no_phases or "no neuron has a frequency below half the axis with weight on all three sides"
        record_series(record, f"fourier.{quantity}", series[quantity], reason)
    return shares


def _why_no_neurons(model: Model, token: _Axis | Absent, params: Params) -> str:
    if isinstance(token, Absent):
        return token.reason
    if token.overlapping:
        return OVERLAP
    for part in (model.neuron_inputs(params), model.neuron_grid(params)):
        if isinstance(part, Absent):
            return part.reason
    return ""


def _sign(
    task: Task, token: _Axis, answer: _Axis | Absent, output: Tensor | Absent
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


def _input_weights(model: Model, token: _Axis, params: Params) -> tuple[Tensor, Tensor]:
    """(n, h) each: input weights of either operand, without the bias that the anatomy adds to the first."""
    inputs = model.neuron_inputs(params)
    assert not isinstance(inputs, Absent)
    first, second = inputs
    form = model.gated(params)
    if model.combine in ("concatenation", "sum") and not isinstance(form, Absent) and len(form.biases) == 1:
        bias = form.biases[0]
        first = first if bias is None else first - bias
    return token.ordered(first), token.ordered(second)


def _ordered_grid(model: Model, token: _Axis, params: Params) -> Tensor:
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
        return (float("nan"),) * 4
    chance = resultant_chance(float(found.effective_neurons))
    return float(found.cosine), float(found.resultant), float(found.angle), chance


def _compare(run: Run, record: Record, shares: Tensor, keys: Tensor, share: float) -> None:
    """Note both key sets of the last save; an alert where they differ."""
    if not bool(shares.isfinite().all()) or not bool(keys.isfinite().all()):
        return
    leading = measures.key_frequencies_by_embedding(shares, share)
    by_neuron, by_embedding = (
        [k + 1 for k in torch.nonzero(chosen.bool())[:, 0].tolist()] for chosen in (leading, keys)
    )
    record.notes["key_frequencies"] = {
        "step": int(record.steps[-1]),
        "by_neuron": {str(k + 1): round(float(s), 4) for k, s in enumerate(shares) if s > 0},
        "by_embedding": by_embedding,
        "share": share,
    }
    if by_neuron != by_embedding:
        step = int(record.steps[-1])
        record.alerts.append(
            Alert(
                f"Key frequencies differ at the last save: {share:.0%} of the neurons compute with "
                f"{_listed(by_neuron)}, {share:.0%} of the embedding's power lies in {_listed(by_embedding)}.",
                f"grokscope probe {shlex.quote(run.name)} --only fourier --steps {step}:{step}:1 --json -",
            )
        )


def _listed(frequencies: list[int]) -> str:
    shown = ", ".join(map(str, frequencies[:8]))
    more = len(frequencies) - 8
    return f"k = {shown}" + (f" and {more} more" if more > 0 else "")


fourier.figure(
    "Embedding spectrum over training",
    "Left: share of the embedding's power in each frequency at each save. Right: the frequencies that lead at "
    "the last save.",
    needs=("fourier.embedding.fraction",),
    size=(9.0, 3.6),
)(drawing.draw_shared_spectrum)
fourier.figure(
    "Embedding spectra over training",
    "Share of each embedding's power in each frequency at each save, first operand left, second right.",
    needs=("fourier.embedding_a.fraction", "fourier.embedding_b.fraction"),
    size=(9.0, 3.6),
)(drawing.draw_separate_spectra)
fourier.figure(
    "Concentration of the spectra",
    "Gini coefficient of the power over frequencies (left) and effective number of frequencies (right), map "
    "by map. The grey band is what Gaussian weights of the same shapes give.",
    needs=("fourier",),
    size=(9.0, 3.6),
)(drawing.draw_concentration)
fourier.figure(
    "What neurons compute with",
    "Left: mean share of a neuron's variance in its own frequency, inverse participation of its input "
    "weights, and circularity of the embedding. Right: share of the neurons at each of the leading frequencies.",
    needs=("fourier.key_frequencies.by_neuron",),
    size=(9.0, 3.6),
)(drawing.draw_neurons)
fourier.figure(
    "Phases of neurons",
    "Mean cosine and resultant of the misfit between input and output phases; the dashed line is the "
    "resultant that random phases give. Aligned phases alone are no evidence of generalisation.",
    needs=("fourier.phase_resultant",),
)(drawing.draw_phases)
