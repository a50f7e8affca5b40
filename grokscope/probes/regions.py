"""Which gates are open, when do they freeze, and is the network affine once they are held fixed?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.gate_patterns import frozen_since
from grokscope.measures.nulls import LEVELS, quantiles_of
from grokscope.probes import regions_drawing as drawing
from grokscope.probes.findings import read_findings
from grokscope.probes.readings import Values, by_save, once, per_pair, per_save
from grokscope.probes.record import Record
from grokscope.probes.region_quantities import QUANTITIES, WITH_CHANCE
from grokscope.probes.region_readings import (
    CHANGE,
    COUNTS,
    GEOMETRY,
    NEARBY,
    PATTERN,
    PROOF,
    REDUCTION,
    RULE_POWER,
    PairReader,
    Rule,
    SaveReader,
    TrainingData,
    class_rule,
    rule_gap_of,
    training_data,
)
from grokscope.probes.region_views import flips
from grokscope.probes.registry import register
from grokscope.probes.series import SaveSeries
from grokscope.probes.stepwise import NULL_DIM, record_null
from grokscope.runs import Params, Run

QUANTILES = (0.0, 0.01, 0.1, 0.5)
NO_CLASSES = "the targets are real numbers, not classes"
NOT_AFFINE = (
    "GELU is not piecewise linear: with fixed gates the network is not affine, so no reduction exists"
)


@register(
    "regions",
    title="Activation regions",
    question="Which gates are open, when do they freeze, and is the network affine once they are held fixed?",
    quantities=QUANTITIES,
    caveat="Gate patterns are those of the training samples at the saves: a gate that flips and returns "
    "between two saves is not seen. The radius of the local complexity is fixed in the units of the "
    "combined input, so weights that grow or shrink change it by themselves, and its chance band holds for the "
    "scale of initial weights. Gate statistics of GELU "
    "networks are of the signs of pre-activations, and no linear map belongs to them. With many key "
    "frequencies a small rule gap says little: compare it with its chance band.",
    needs=("function", "split", "anatomy"),
)
def regions(
    run: Run,
    record: Record,
    *,
    samples: int = 64,
    jacobians: int = 8,
    radius: float = 0.1,
    directions: int = 8,
    null_samples: int = 8,
    seed: int = 0,
) -> None:
    """Gate patterns, the proof of the reduction, its maps, and the geometry of classes, at every save.

    Args:
        samples: training samples on which maps and local complexity are taken.
        jacobians: of these, samples on which the Jacobian is compared.
        radius: of the local complexity, in the units of the combined input.
        directions: P of the local complexity, 2P vertices a sample (at most the width of the input).
        null_samples: random weight sets behind the chance bands, 0 for no band.
        seed: of the choice of samples and of the directions.
    """
    if min(samples, jacobians, directions) < 1 or not radius > 0 or null_samples == 1 or null_samples < 0:
        raise GrokscopeError(
            f"running probe regions: samples = {samples}, jacobians = {jacobians}, directions = "
            f"{directions}, "
            f"radius = {radius}, null_samples = {null_samples}, expected at least 1, 1 and 1, a radius above "
            "0, and 0 or at least 2 null samples"
        )
    task, model = run.task, run.model
    data = training_data(task, samples, jacobians, seed)
    # whether there are gates is a matter of the family, so it is asked of weights that are surely finite
    form = model.gated(model.init(torch.Generator().manual_seed(seed), torch.float64))
    gates_reason = form.reason if isinstance(form, Absent) else None
    affine_reason = gates_reason
    if not isinstance(form, Absent):
        affine_reason = None if form.activation == "relu" else NOT_AFFINE
        record.notes["regions"] = {
            "samples": task.train_mask.nonzero()[data.chosen, 0].tolist(),
            "jacobian_samples": data.n_jacobian,
            "gate_margin_samples": len(data.inputs),
            "local_complexity": {"radius": radius, "directions": min(directions, form.input_width)},
            "seed": seed,
        }
    last = run.params(-1)
    rule = affine_reason or class_rule(task, model, last)
    if isinstance(rule, Rule):
        record.notes["rule_gap"] = {"key_frequencies": rule.frequencies, "of": rule.of}

    series = SaveSeries(run.steps)
    _declare(series, record, data, gates_reason, affine_reason, rule)
    axis = None if isinstance(task.class_axis, Absent) else task.class_axis.rows
    read = SaveReader(model, data, None if isinstance(form, Absent) else form, axis, radius, directions, seed)
    options = {"samples": samples, "jacobians": jacobians, "radius": radius, "directions": directions}
    options |= {"seed": seed}
    found = read_findings(
        run, "regions", read, series, options=options, also={RULE_POWER: "regions.rule_gap"}
    )
    if isinstance(rule, Rule):
        series.fill("regions.rule_gap", rule_gap_of(found[RULE_POWER], rule.frequencies).numpy())
    changed = _changes(run, series, read) if gates_reason is None else None
    series.record(record)
    if changed is not None:
        _frozen(record, changed)
    if affine_reason is None:
        _prove_at_the_end(run, record, read)
    _chance(run, record, read, rule, null_samples, options)


def _changes(run: Run, series: SaveSeries, read: SaveReader) -> np.ndarray:
    """Fill what changed between saves; (T, N): which samples changed their pattern since the last save."""
    count = len(read.data.inputs)
    changed = np.ones((len(run.steps), count), dtype=bool)
    if len(changed) > 1:
        pairs = per_pair(run, "regions.pairs", PairReader(read.through))
        changed[1:] = np.unpackbits(pairs["changed"].numpy(), axis=1, count=count).view(bool)
        flipped = pairs["flipped"].numpy()
        frozen = np.where(np.isnan(flipped), np.nan, 1 - changed[1:].mean(axis=1))
        for name, values in zip(CHANGE, (flipped, frozen), strict=True):
            series.fill(name, values)
    return changed


def _declare(
    series: SaveSeries,
    record: Record,
    data: TrainingData,
    gates_reason: str | None,
    affine_reason: str | None,
    rule: Rule | str,
) -> None:
    """Make room for what is defined on this run, and say why the rest is not."""
    if gates_reason is None:
        series.declare(*COUNTS, whole=True)
        series.declare(*(name for name in PATTERN if name not in COUNTS), "regions.local_complexity")
        series.declare(*CHANGE, dims=("interval",), reason="a save next to it has no gate pattern")
        series.declare("regions.gate_margin", dims=("step", "margin_quantile"), width=len(QUANTILES))
        record.coordinate("margin_quantile", QUANTILES)
    else:
        for name in (*PATTERN, *CHANGE, *NEARBY, "regions.frozen_since"):
            record.skip(name, gates_reason)
    if affine_reason is None:
        series.declare(*REDUCTION)
    else:
        for name in REDUCTION:
            record.skip(name, affine_reason)
    if isinstance(rule, Rule):
        series.declare("regions.rule_gap")
    else:
        record.skip("regions.rule_gap", rule)
    if data.labels is not None:
        series.declare(*GEOMETRY)
    else:
        for name in GEOMETRY:
            record.skip(name, NO_CLASSES)


def _frozen(record: Record, changed: np.ndarray) -> None:
    """The first save from which 99 % of samples hold their final pattern, from (T, N) changes."""
    flipped = record.get("regions.flipped")
    name = "regions.frozen_since"
    if flipped is None or not np.isfinite(flipped).all():
        record.skip(name, record.absent.get("regions.flipped", "some saves have no gate pattern"))
        return
    since = frozen_since(torch.from_numpy(changed))
    if since is None:
        record.skip(name, "more than 1 % of the samples changed their pattern at the last save")
    else:
        record.add(name, np.array(record.steps[since]), ())


def _prove_at_the_end(run: Run, record: Record, read: SaveReader) -> None:
    """The residual over many training samples at the last save, and that z leads to the model's own logits."""
    found: dict[str, object] = {"step": int(run.steps[-1])}
    record.notes["reduction_residual_all"] = found
    last = dataclasses.replace(run, rows=run.rows[-1:])

    def values_of(params: Params) -> Values:
        return read.proof(params).values

    values = per_save(last, "regions.proof", by_save(values_of), options={"jacobians": read.data.n_jacobian})
    if any(bool(value.isnan()) for value in values.values()):
        found["reason"] = read.proof(run.params(-1)).reasons[PROOF[0]]
        return
    found |= {name: float(values[name]) for name in PROOF[:2]}
    found |= {"samples": len(read.proved), "jacobian_samples": read.data.n_jacobian}
    found[PROOF[2]] = float(values[PROOF[2]])


def _chance(
    run: Run,
    record: Record,
    read: SaveReader,
    rule: Rule | str,
    count: int,
    options: Mapping[str, float],
) -> None:
    """What random weights of the same shapes give."""
    names = [name for name in WITH_CHANCE if record.get(name) is not None]
    for name in WITH_CHANCE:
        if name not in names:
            record.skip(f"{name}.null", record.absent[name])
        elif not count:
            record.skip(f"{name}.null", "no null sample was asked for")
    if not names or not count:
        return

    def draw() -> Values:
        generator = torch.Generator().manual_seed(int(options["seed"]))
        drawn = [read(run.model.init(generator, torch.float64), proved=False).values for _ in range(count)]
        return {key: torch.stack([values[key] for values in drawn]) for key in drawn[0]}

    draws = once(run, "regions.null", draw, options={**options, "count": count})
    if isinstance(rule, Rule):
        draws["regions.rule_gap"] = rule_gap_of(draws[RULE_POWER], rule.frequencies)
    for name in names:
        if draws[name].dim() == 1 or not bool(draws[name].isfinite().all()):
            record_null(record, name, draws[name])
        else:
            record.coordinate(NULL_DIM, LEVELS)
            dims = (NULL_DIM, *record.measurements[name].dims[1:])
            record.add(f"{name}.null", quantiles_of(draws[name]), dims)


for _title, _caption, _needs, _draw in drawing.FIGURES:
    regions.figure(_title, _caption, needs=_needs)(_draw)

regions.view(
    "flips",
    "bars",
    "Gates that flip",
    "Of each neuron, the share of training samples for which its gate is another than at the save before.",
)(flips)
