"""Which frequencies do the embeddings, the neurons and the head hold, and do their phases fit the task?

Shape legend: T saves, n points of the cyclic axis, F = n // 2 frequencies, d columns of a map, h neurons.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures import fourier as measures
from grokscope.probes import fourier_drawing as drawing
from grokscope.probes import fourier_views as views
from grokscope.probes.cyclic_axis import CyclicAxis, axes_of
from grokscope.probes.fourier_neurons import (
    OVERLAP,
    neuron_reader,
    record_neurons,
    record_neurons_by_chance,
)
from grokscope.probes.fourier_quantities import QUANTITIES, WITH_NULL
from grokscope.probes.readings import Values, by_save, once, per_save
from grokscope.probes.record import Alert, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import (
    no_params,
    random_params,
    record_null,
    record_series,
    rowwise,
    unless_refused,
)
from grokscope.runs import Model, Params, Run

OF_A_MAP = ("fraction", "gini", "gini_norm", "participation")
BY_EMBEDDING = "key_frequencies.by_embedding"
CONSTANT = "the map does not vary along its residues (or is not finite) at any save"


@dataclass(frozen=True)
class _MapOnAxis:
    """One map whose rows are residues, and its axis."""

    axis: CyclicAxis
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
    "For x²+y² each frequency's pair {cos, sin}(w a²) is orthonormalised before projecting; pairs of different "
    "frequencies overlap, so their shares say which lead, not how much they explain.",
)
def fourier(run: Run, record: Record, *, share: float = 0.95, null_samples: int = 32) -> None:
    """Spectra of maps on residues, key frequencies, and phases of neurons.

    Args:
        share: of the power (or of the neurons) that a set of key frequencies holds.
        null_samples: random weight sets behind the chance bands.
    """
    token, answer = axes_of(run.task)
    if not 0.0 < share <= 1.0:
        raise GrokscopeError(f"running probe fourier: share = {share}, expected a number in (0, 1]")
    maps = _maps(run, record, token, answer)
    neurons = neuron_reader(run, record, token, answer)
    for axis in (token, answer):
        if isinstance(axis, CyclicAxis):
            record.coordinate(axis.dim, range(1, axis.n // 2 + 1))

    @by_save
    def read(params: Params) -> Values:
        of_maps = _read_maps(maps, params)
        return of_maps if neurons is None else {**of_maps, **neurons(params)}

    @by_save
    def read_null(params: Params) -> Values:
        return _read_maps(maps, params)

    def compute_null() -> Values:
        parts = [read_null(params) for params in random_params(run.model, null_samples)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    found = per_save(run, "fourier", read) if maps or neurons is not None else {}
    options = {"null_samples": null_samples}
    chance = once(run, "fourier.null", compute_null, options=options) if maps else {}
    series = _of_each(maps, found)
    for name, values in _of_each(maps, chance).items():
        _record_map(record, name, maps[name], series[name])
        _record_null(record, name, values)
    keys = _by_embedding(record, run.model, token, series, share)
    if keys is not None and isinstance(token, CyclicAxis):
        if record.get(f"fourier.{BY_EMBEDDING}") is not None:
            by_chance = _keys_of(token, _of_each(maps, chance), share)
            record_null(record, f"fourier.{BY_EMBEDDING}", by_chance.sum(-1))
        else:
            record.skip(f"fourier.{BY_EMBEDDING}.null", CONSTANT)
    shares = None
    if neurons is not None and isinstance(token, CyclicAxis):
        shares = record_neurons(run, record, token, answer, found)
        record_neurons_by_chance(run, record, neurons, min(null_samples, 8))
    if keys is not None and shares is not None:
        _compare(run, record, shares[-1], keys[-1], share)


def _maps(
    run: Run, record: Record, token: CyclicAxis | Absent, answer: CyclicAxis | Absent
) -> dict[str, _MapOnAxis]:
    """Every map that has a residue axis; the others are skipped with their reason."""
    model, found = run.model, dict[str, _MapOnAxis]()
    params = no_params(model)
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


def _read_maps(maps: dict[str, _MapOnAxis], params: Params) -> Values:
    """Of one save, by ``<map>.<key>``: what :func:`_measure_map` gives of each map."""
    found: Values = {}
    for name, of in maps.items():
        for key, value in _measure_map(of, params).items():
            found[f"{name}.{key}"] = value
    return found


def _of_each(maps: dict[str, _MapOnAxis], values: Values) -> dict[str, Values]:
    """Readings by map, and then by key."""
    prefixes = {name: f"{name}." for name in maps}
    return {
        name: {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
        for name, start in prefixes.items()
    }


def _measure_map(found: _MapOnAxis, params: Params) -> Values:
    """``fraction`` (F,) and, for embeddings, ``power`` and ``circularity``, of one save."""
    axis, table = found.axis, found.axis.ordered(found.rows(params))
    measured = {"fraction": unless_refused(axis.fraction, (axis.n // 2,), table)}
    if found.is_embedding:
        measured["power"] = (table - table.mean(-2, keepdim=True)).square().sum()
        if not axis.overlapping:
            measured["circularity"] = unless_refused(measures.circularity, (), table)
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


def _record_null(record: Record, name: str, chance: dict[str, Tensor]) -> None:
    """Chance bands of what was recorded of one map."""
    if record.get(f"fourier.{name}.fraction") is not None:
        record_null(record, f"fourier.{name}.fraction", chance["fraction"].amax(-1))
    for quantity, draws in {**chance, **_concentration(chance["fraction"])}.items():
        if quantity in WITH_NULL and record.get(f"fourier.{name}.{quantity}") is not None:
            record_null(record, f"fourier.{name}.{quantity}", draws)


def _by_embedding(
    record: Record,
    model: Model,
    token: CyclicAxis | Absent,
    series: dict[str, dict[str, Tensor]],
    share: float,
) -> Tensor | None:
    """Record and return (T, F) the key set by embedding, over all embeddings together."""
    name = f"fourier.{BY_EMBEDDING}"
    if isinstance(token, Absent) or token.overlapping:
        _skip_both(record, name, token.reason if isinstance(token, Absent) else OVERLAP)
        return None
    if not any("power" in parts for parts in series.values()):
        _skip_both(record, name, f"a {model.family} model has no embedding")
        return None
    keys = _keys_of(token, series, share)
    if bool(keys.isfinite().all()):
        record.add(name, keys.bool(), ("step", token.dim))
    else:
        record_series(record, name, keys, CONSTANT, ("step", token.dim))
    return keys


def _skip_both(record: Record, name: str, reason: str) -> None:
    """A quantity and its chance band."""
    record.skip(name, reason)
    record.skip(f"{name}.null", reason)


def _keys_of(token: CyclicAxis, series: dict[str, dict[str, Tensor]], share: float) -> Tensor:
    """(T, F): the key set of all embeddings together, NaN where none has power."""
    # a table that does not vary adds no power, whatever its undefined shares
    parts = [
        (of["fraction"] * of["power"][:, None]).nan_to_num(0.0) for of in series.values() if "power" in of
    ]
    power = torch.stack(parts).sum(0)
    return rowwise(lambda f: measures.key_frequencies_by_embedding(f, share), (token.n // 2,), power)


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
                f"{_listed(by_neuron)}, {share:.0%} of the embedding's power is in {_listed(by_embedding)}.",
                f"grokscope probe {shlex.quote(run.name)} --only fourier --steps {step}:{step}:1 --json -",
            )
        )


def _listed(frequencies: list[int]) -> str:
    shown = ", ".join(map(str, frequencies[:8]))
    more = len(frequencies) - 8
    return f"k = {shown}" + (f" and {more} more" if more > 0 else "")


fourier.figure(
    "Embedding spectrum over training",
    "Left: share of the embedding's power in each frequency at each save. Right: the frequencies that lead "
    "at the last save. Grey: the largest share on Gaussian weights of the same shapes.",
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
    "weights, and circularity of the embedding. Right: share of the neurons at each leading frequency. Grey: the "
    "same, and the largest share, on Gaussian weights of the same shapes.",
    needs=("fourier.key_frequencies.by_neuron",),
    size=(9.0, 3.6),
)(drawing.draw_neurons)
fourier.figure(
    "Phases of neurons",
    "Mean cosine and resultant of the misfit between input and output phases; the dashed line is the mean "
    "resultant of as many random phases, grey the mean cosine on Gaussian weights. Aligned phases alone are no "
    "evidence of generalisation.",
    needs=("fourier.phase_resultant",),
)(drawing.draw_phases)

fourier.view(
    "spectrum",
    "bars",
    "Spectrum",
    "Share of the map's power in each frequency at this step. The line is an equal share for all of them.",
)(views.spectra)
fourier.view(
    "plane",
    "plane",
    "Embedding in a plane",
    "Residues in the plane of the frequency that leads at the last save, or in the principal plane, whose free axes "
    "are turned at each save to lie nearest to the next. Lines and colours follow the order in which that frequency "
    "goes round (in the principal plane, the residues). The scale is that of the step.",
)(views.planes)
fourier.view(
    "neurons",
    "neurons",
    "Frequency of each neuron",
    "Each neuron at the frequency that explains most of its variance over all pairs, at the height of that share. "
    "Neurons without a frequency of their own stand at 0.",
)(views.neurons)
fourier.view(
    "phases",
    "phases",
    "Phases of the neurons",
    "Phase of a neuron's output weights against the sum of the phases of its input weights, at its own frequency. On "
    "the diagonal it answers its inputs. Larger dots weigh more.",
)(views.phases)
