"""Which gates are open, when do they freeze, and is the network affine once they are held fixed?"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.gate_patterns import flipped_share, frozen_since, pattern_changed
from grokscope.measures.linear_reduction import reduction_residual
from grokscope.probes.drawing import BAND, CYCLE, NEUTRAL, TEST, TRAIN, band, curve, thin, time_axes
from grokscope.probes.record import Quantity, Record
from grokscope.probes.region_readings import (
    AFFINE,
    CHANGE,
    COUNTS,
    GEOMETRY,
    NEARBY,
    PATTERN,
    REDUCTION,
    Rule,
    SaveReader,
    TrainingData,
    class_rule,
    training_data,
)
from grokscope.probes.registry import register
from grokscope.probes.series import SaveSeries
from grokscope.probes.stepwise import record_null
from grokscope.runs import Params, Run

TC, LC = "arXiv 2606.05863", "arXiv 2402.15555"
QUANTILES = (0.0, 0.01, 0.1, 0.5)
SAMPLED = "on a fixed, recorded sample of training samples"
NO_CLASSES = "the targets are real numbers, not classes"
NOT_AFFINE = (
    "GELU is not piecewise linear: with fixed gates the network is not affine, so no reduction exists"
)

WITH_CHANCE = (
    "regions.class_separation.normalised",
    "regions.class_separation.logits.normalised",
    "regions.simplex_gap",
    "regions.stable_rank_mean",
    "regions.rule_gap",
)

_NULLS = {
    f"{name}.null": "5, 50 and 95 % quantiles of the same on random weights of the same shapes."
    for name in WITH_CHANCE
}
_SEPARATION = (
    "Scatter within classes over scatter between them, Σ‖z_a − μ_y‖² / Σ_{c≠c'} ‖μ_c − μ_c'‖² over ordered "
    "pairs of classes, of "
)
QUANTITIES = (
    Quantity(
        "regions.reduction_residual",
        "1",
        f"The larger of its two parts, {SAMPLED}: how far the map A_i x + b_i made from weights and gates is "
        "from the network itself, its values relative to max |f| and its Jacobian relative to max |A|. "
        "Rounding level means that the reduction is right.",
        TC,
    ),
    Quantity(
        "regions.reduction_residual.forward",
        "1",
        "Largest |A_i x + b_i − f(x)| over max |f|, f the model's ordinary forward pass.",
        TC,
    ),
    Quantity(
        "regions.reduction_residual.jacobian",
        "1",
        "Largest |A_i − ∂f/∂x|, relative to max |A| over the same few samples; the Jacobian is by automatic "
        "differentiation.",
        TC,
    ),
    Quantity("regions.count", "pattern", "Distinct gate patterns over the training samples.", TC),
    Quantity(
        "regions.flipped",
        "1",
        "Share of (training sample, gate) entries changed since the previous save.",
        TC,
    ),
    Quantity(
        "regions.frozen_samples",
        "1",
        "Share of training samples whose whole gate pattern is that of the previous save.",
        TC,
    ),
    Quantity(
        "regions.frozen_since",
        "step",
        "First save from which 99 % of the training samples hold their final gate pattern.",
        TC,
    ),
    Quantity(
        "regions.gate_margin",
        "1",
        "Minimum and 1, 10 and 50 % quantiles of |pre-activation| / (‖w‖‖x‖ + |b|) over all gates and all "
        "training samples, x the input of the gate's layer.",
    ),
    Quantity("regions.active_fraction", "1", "Share of (training sample, gate) entries that are open."),
    Quantity("regions.dead_neurons", "neuron", "Neurons whose gate is open for no training sample."),
    Quantity(
        "regions.stable_rank_mean", "1", f"Mean stable rank ‖A_i‖_F²/‖A_i‖₂² of the maps A_i, {SAMPLED}.", TC
    ),
    Quantity("regions.class_separation", "1", _SEPARATION + "what the head reads, on training samples.", TC),
    Quantity(
        "regions.class_separation.normalised",
        "1",
        "Class separation times 2C²/N, which takes the numbers of classes and samples out.",
        TC,
    ),
    Quantity("regions.class_separation.logits", "1", _SEPARATION + "the logits, on training samples.", TC),
    Quantity(
        "regions.class_separation.logits.normalised", "1", "Class separation of the logits times 2C²/N.", TC
    ),
    Quantity(
        "regions.simplex_gap",
        "1",
        "Distance of the centred class means of what the head reads from a simplex of their size (0 to √2).",
        "arXiv 2008.08186",
    ),
    Quantity(
        "regions.rule_gap",
        "1",
        "Share of the mean map over samples that lies outside the key Fourier functions of the class, mean "
        "over classes removed. The key set is by the unembedding of the last save and the same at every save "
        "(not the key set by neuron): the fewest frequencies with 95 % of its power along the class axis. "
        "Absent where these are all frequencies.",
        TC,
    ),
    Quantity(
        "regions.local_complexity",
        "gate",
        f"Gates that are not the same at all vertices x ± r·v around a sample, mean {SAMPLED}.",
        LC,
    ),
    *[Quantity(name, "1", meaning) for name, meaning in _NULLS.items()],
)


@register(
    "regions",
    title="Activation regions",
    question="Which gates are open, when do they freeze, and is the network affine once they are held fixed?",
    quantities=QUANTITIES,
    caveat="Gate patterns are those of the training samples at the saves: a gate that flips and returns "
    "between two saves is not seen. The radius of the local complexity is fixed in the units of the "
    "combined input, so weights that grow or shrink change it by themselves. Gate statistics of GELU "
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
    data = training_data(run.task, samples, jacobians, seed)
    # whether there are gates is a matter of the family, so it is asked of weights that are surely finite
    form = run.model.gated(run.model.init(torch.Generator().manual_seed(seed), torch.float64))
    gates_reason = form.reason if isinstance(form, Absent) else None
    affine_reason = gates_reason
    if not isinstance(form, Absent):
        affine_reason = None if form.activation == "relu" else NOT_AFFINE
        record.notes["regions"] = {
            "samples": run.task.train_mask.nonzero()[data.chosen, 0].tolist(),
            "jacobian_samples": data.n_jacobian,
            "gate_margin_samples": len(data.inputs),
            "local_complexity": {"radius": radius, "directions": min(directions, form.input_width)},
            "seed": seed,
        }
    last = run.params(-1)
    rule = affine_reason or class_rule(run.task, run.model, last)
    if isinstance(rule, Rule):
        record.notes["rule_gap"] = {"key_frequencies": rule.frequencies, "of": len(rule.rows) // 2}

    series = SaveSeries(run.steps)
    _declare(series, record, data, gates_reason, affine_reason, rule)
    read = SaveReader(
        run.model, data, rule, gates_reason is None, affine_reason is None, radius, directions, seed
    )
    previous, changed = None, np.ones((len(run.steps), len(data.inputs)), dtype=bool)
    for index, params in run.each():
        pattern = read(series, index, params)
        if pattern is not None and previous is not None:
            moved = pattern_changed(previous, pattern)
            changed[index] = moved.numpy()
            series.put("regions.flipped", index, flipped_share(previous, pattern))
            series.put("regions.frozen_samples", index, 1 - float(moved.double().mean()))
        previous = pattern
    series.record(record)
    if gates_reason is None:
        _frozen(record, changed)
    if affine_reason is None:
        _prove_at_the_end(run, record, data, last)
    _chance(run, record, read, null_samples, seed)


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


def _prove_at_the_end(run: Run, record: Record, data: TrainingData, last: Params) -> None:
    """The residual over all training samples at the last save, and that z leads to the model's own logits."""
    found: dict[str, object] = {"step": int(run.steps[-1])}
    record.notes["reduction_residual_all"] = found
    try:
        form, z = run.model.gated(last), run.model.combined(last, data.inputs)
        assert not isinstance(form, Absent)
        proof = reduction_residual(form, z, lambda v: run.model.from_z(last, v), data.n_jacobian)
    except ValueError as error:
        found["reason"] = str(error)
        return
    direct = run.model.forward(last, data.inputs)
    difference = (direct - run.model.from_z(last, z)).abs().max() / direct.abs().max()
    found |= {
        "forward": proof.forward,
        "jacobian": proof.jacobian,
        "samples": proof.n_forward,
        "jacobian_samples": proof.n_jacobian,
        "forward_from_inputs": float(difference),
    }


def _chance(run: Run, record: Record, read: SaveReader, count: int, seed: int) -> None:
    """What random weights of the same shapes give."""
    names = [name for name in WITH_CHANCE if record.get(name) is not None]
    for name in WITH_CHANCE:
        if name not in names:
            record.skip(f"{name}.null", record.absent[name])
        elif not count:
            record.skip(f"{name}.null", "no null sample was asked for")
    if not names or not count:
        return
    generator = torch.Generator().manual_seed(seed)
    series = SaveSeries(np.arange(count))
    series.declare(*AFFINE, *GEOMETRY)
    for index in range(count):
        read(series, index, run.model.init(generator, torch.float64), brief=True)
    for name in names:
        record_null(record, name, torch.from_numpy(series.values(name)))


@regions.figure(
    "When the gates freeze",
    "Share of (sample, gate) entries that changed since the previous save (left), and share of training "
    "samples whose whole pattern did not change (right). Both depend on the spacing of the saves; the grey "
    "line is the first save from which 99 % of samples hold their final pattern.",
    needs=("regions.flipped",),
)
def draw_flips(record: Record, figure: Figure) -> None:
    """Flipped gates and frozen samples."""
    left, right = time_axes(figure, record, 2)
    curve(left, record, "regions.flipped", "flipped gates", TRAIN)
    values = record.get("regions.flipped")
    if values is not None and np.nanmax(values) > 0:
        positive = values[values > 0]
        left.set_yscale("symlog", linthresh=float(positive.min()), linscale=0.3)
        left.set_ylim(bottom=0)
    left.set_ylabel("share of entries flipped")
    curve(right, record, "regions.frozen_samples", "frozen samples", TRAIN)
    since = record.get("regions.frozen_since")
    if since is not None:
        right.axvline(float(since), color=NEUTRAL, linewidth=1.2, label="99 % hold")
        right.legend(loc="best")
    right.set_ylabel("share of samples frozen")
    right.set_ylim(-0.03, 1.03)


@regions.figure(
    "How near the gates are",
    "Left: quantiles of the relative distance of pre-activations from zero. Right: gates that cross a small "
    "cross-polytope around a training sample, whose radius is fixed in the units of the combined input.",
    needs=("regions.gate_margin", "regions.local_complexity"),
)
def draw_margins(record: Record, figure: Figure) -> None:
    """Quantiles of the gate margin, and the local complexity."""
    left, right = time_axes(figure, record, 2)
    values = record.get("regions.gate_margin")
    assert values is not None
    keep = thin(len(record.steps))
    labels = ("minimum", "1 %", "10 %", "median")
    for column, (label, colour) in enumerate(zip(labels, (BAND, *CYCLE[:3]), strict=True)):
        left.plot(record.steps[keep], values[keep, column], label=label, color=colour)
    left.set_yscale("log")
    left.set_ylabel("|pre| / (‖w‖‖x‖ + |b|)")
    left.legend(loc="best", ncols=2)
    curve(right, record, "regions.local_complexity", "local complexity", TRAIN)
    right.set_ylabel("gates crossed per sample")
    right.set_ylim(bottom=0)


@regions.figure(
    "Linear maps of the regions",
    "Mean stable rank of the map A_i that the network is in a sample's region; to the right, where it is "
    "defined, the rule gap: share of the mean map outside the key Fourier functions of the class. Grey: "
    "random weights of the same shapes.",
    needs=("regions.stable_rank_mean",),
)
def draw_maps(record: Record, figure: Figure) -> None:
    """Stable rank of the maps and the rule gap, with what chance gives."""
    shown = {"regions.stable_rank_mean": "mean stable rank", "regions.rule_gap": "rule gap"}
    shown = {name: label for name, label in shown.items() if record.get(name) is not None}
    for axes, (name, label) in zip(time_axes(figure, record, len(shown)), shown.items(), strict=True):
        _chance_band(axes, record, name)
        curve(axes, record, name, label, TRAIN)
        axes.set_ylabel(label)
        axes.legend(loc="best")
        if name == "regions.rule_gap":
            axes.set_ylim(-0.03, 1.03)
        else:
            axes.set_ylim(bottom=0)


@regions.figure(
    "Separation of classes",
    "Left: scatter within classes over scatter between them on training samples, normalised; small is "
    "separated. Right: distance of the class means from a simplex. Grey: random weights of the same shapes.",
    needs=("regions.class_separation",),
)
def draw_classes(record: Record, figure: Figure) -> None:
    """Class separation of what the head reads and of the logits, and the simplex gap."""
    left, right = time_axes(figure, record, 2)
    _chance_band(left, record, "regions.class_separation.normalised")
    curve(left, record, "regions.class_separation.normalised", "head's input", TRAIN)
    curve(left, record, "regions.class_separation.logits.normalised", "logits", TEST)
    left.set_yscale("log")
    left.set_ylabel("within / between (normalised)")
    left.legend(loc="best")
    _chance_band(right, record, "regions.simplex_gap")
    curve(right, record, "regions.simplex_gap", "head's input", TRAIN)
    right.set_ylabel("simplex gap")
    right.legend(loc="best")


def _chance_band(axes: Axes, record: Record, name: str) -> None:
    levels = record.get(f"{name}.null")
    if levels is not None:
        band(axes, float(levels[0]), float(levels[-1]), "random weights")
