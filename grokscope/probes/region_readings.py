"""What the regions probe reads off the weights of one save: gates, maps, and the geometry of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.class_geometry import class_separation, simplex_gap
from grokscope.measures.cyclic import fourier_basis
from grokscope.measures.fourier import frequency_fraction, key_frequencies_by_embedding
from grokscope.measures.gate_patterns import active_fraction, count_patterns, dead_neurons
from grokscope.measures.linear_reduction import affine_maps, mean_active, rule_gap
from grokscope.measures.regions import GatedForm, gate_margin, gated_forward, local_complexity
from grokscope.probes.series import SaveSeries
from grokscope.runs import Model, Params, Task

COUNTS = ("regions.count", "regions.dead_neurons")
PATTERN = ("regions.count", "regions.active_fraction", "regions.dead_neurons")
CHANGE = ("regions.flipped", "regions.frozen_samples")
NEARBY = ("regions.gate_margin", "regions.local_complexity")
REDUCTION = (
    "regions.reduction_residual",
    "regions.reduction_residual.forward",
    "regions.reduction_residual.jacobian",
    "regions.stable_rank_mean",
)
AFFINE = (*REDUCTION, "regions.rule_gap")
GEOMETRY = (
    "regions.class_separation",
    "regions.class_separation.normalised",
    "regions.class_separation.logits",
    "regions.class_separation.logits.normalised",
    "regions.simplex_gap",
)


@dataclass(frozen=True)
class TrainingData:
    """Training samples, and those of them on which the costly measures are taken."""

    inputs: Tensor  # (N, 2) or (N, d)
    labels: Tensor | None  # (N,), None without classes
    n_classes: int
    chosen: Tensor  # (n,) indices into inputs
    n_jacobian: int


@dataclass(frozen=True)
class Rule:
    """The classes in the order of their cyclic axis, and the key functions on it."""

    rows: Tensor  # (n,) classes
    basis: Tensor  # (r, n), orthonormal rows
    frequencies: list[int]


def training_data(task: Task, samples: int, jacobians: int, seed: int) -> TrainingData:
    """The training samples of ``task`` and a seeded choice of them, drawn on the CPU."""
    classes = task.kind == "classification"
    inputs = task.inputs[task.train_mask] if classes else task.inputs
    labels = task.targets[task.train_mask] if classes else None
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    chosen = order[:samples].sort().values
    return TrainingData(inputs, labels, task.n_classes, chosen, min(jacobians, len(chosen)))


def class_rule(task: Task, model: Model, last: Params) -> Rule | str:
    """The key functions of the class axis by the unembedding of the last save, or why there are none.

    Where every frequency is key, they span all that varies with the class: nothing can lie outside.
    """
    axis, unembedding = task.class_axis, model.unembedding(last)
    if isinstance(axis, Absent):
        return axis.reason
    if isinstance(unembedding, Absent):
        return unembedding.reason
    try:
        fractions = frequency_fraction(unembedding[axis.rows])
    except ValueError as error:
        return f"the unembedding of the last save has no frequencies ({error})"
    frequencies = (key_frequencies_by_embedding(fractions).nonzero()[:, 0] + 1).tolist()
    if len(frequencies) == len(axis.rows) // 2:
        return (
            f"every one of the {len(frequencies)} frequencies of the class axis is needed for 95 % of the last "
            "unembedding's power, so no part of a map lies outside the key frequencies"
        )
    return Rule(axis.rows, fourier_basis(len(axis.rows)).rows(frequencies), frequencies)


class SaveReader:
    """Reads one save's weights into the series of the regions probe."""

    def __init__(
        self,
        model: Model,
        data: TrainingData,
        rule: Rule | str,
        gated: bool,
        affine: bool,
        radius: float,
        directions: int,
        seed: int,
    ) -> None:
        self.model, self.data, self.rule = model, data, rule
        self.gated, self.affine = gated, affine
        self.radius, self.directions, self.seed = radius, directions, seed

    def __call__(
        self, series: SaveSeries, index: int, params: Params, *, brief: bool = False
    ) -> tuple[Tensor, ...] | None:
        """Fill entry ``index`` of the series; returns the gates of the training samples, where there are any.

        ``brief`` leaves out what has no chance band.
        """
        pattern, outputs = None, None
        if self.gated:
            names = (*PATTERN, *CHANGE, *NEARBY, *(AFFINE if self.affine else ()))
            with series.unless_refused(*names):
                form, z = self.model.gated(params), self.model.combined(params, self.data.inputs)
                assert isinstance(form, GatedForm)
                pre_activations, *outputs = _pass(form, z)
                pattern = tuple(pre > 0 for pre in pre_activations)
                if not brief:
                    series.put("regions.count", index, count_patterns(pattern))
                    series.put("regions.active_fraction", index, active_fraction(pattern))
                    series.put("regions.dead_neurons", index, dead_neurons(pattern))
                    self._nearby(series, index, form, z, pre_activations)
                if self.affine:
                    self._maps(series, index, params, form, z, pattern)
        if self.data.labels is not None:
            self._geometry(series, index, params, outputs)
        return pattern

    def _nearby(
        self, series: SaveSeries, index: int, form: GatedForm, z: Tensor, pre_activations: tuple[Tensor, ...]
    ) -> None:
        with series.unless_refused("regions.gate_margin"):
            found = gate_margin(form, z, pre_activations)
            levels = (found.minimum, found.quantile_01, found.quantile_10, found.median)
            series.put("regions.gate_margin", index, levels)
        # the vertices are 2P forward passes a sample: of all samples they would cost more than all else
        directions = min(self.directions, form.input_width)
        value = local_complexity(form, z[self.data.chosen], self.radius, directions, self.seed)
        series.put("regions.local_complexity", index, value)

    def _maps(
        self,
        series: SaveSeries,
        index: int,
        params: Params,
        form: GatedForm,
        z: Tensor,
        pattern: tuple[Tensor, ...],
    ) -> None:
        with series.unless_refused(*REDUCTION):
            # the maps of the sample are formed once, for the proof and for their ranks
            chosen = z[self.data.chosen]
            maps, offsets = affine_maps(form, chosen)
            series.put("regions.stable_rank_mean", index, _mean_stable_rank(maps))
            forward, jacobian = _residual(
                maps, offsets, chosen, lambda v: self.model.from_z(params, v), self.data.n_jacobian
            )
            series.put("regions.reduction_residual.forward", index, forward)
            series.put("regions.reduction_residual.jacobian", index, jacobian)
            series.put("regions.reduction_residual", index, max(forward, jacobian))
        if isinstance(self.rule, Rule):
            with series.unless_refused("regions.rule_gap"):
                gap = rule_gap(mean_active(form, pattern)[self.rule.rows], self.rule.basis)
                series.put("regions.rule_gap", index, float(gap))

    def _geometry(
        self, series: SaveSeries, index: int, params: Params, known: Sequence[Tensor | None] | None
    ) -> None:
        """Separation of classes; ``known`` is what the head reads and the logits, where a pass gave them."""
        labels, count = self.data.labels, self.data.n_classes
        assert labels is not None
        features, logits = known or (None, None)
        with series.unless_refused(*GEOMETRY):
            if features is None:
                features = self.model.head_input(params, self.data.inputs)
            if logits is None:
                logits = self.model.forward(params, self.data.inputs)
            for name, values in (("", features), (".logits", logits)):
                found = class_separation(values, labels, count)
                series.put(f"regions.class_separation{name}", index, found.value)
                series.put(f"regions.class_separation{name}.normalised", index, found.normalised)
            series.put("regions.simplex_gap", index, simplex_gap(features, labels, count))


def _pass(form: GatedForm, z: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor]:
    """Pre-activations by layer, what the head reads (``None`` where a bypass adds to it), and the logits."""
    pre_activations, logits = gated_forward(form, z)
    if bool(logits.isnan().any()):
        raise ValueError("gates: got pre-activations that are not numbers, expected numbers with a sign")
    read = form.activate(pre_activations[-1]) if form.direct is None else None
    return pre_activations, read, logits


def _mean_stable_rank(maps: Tensor) -> float:
    """Mean of ‖A‖_F²/‖A‖₂² over (n, C, d) maps that are not zero; see ``stable_rank_mean``."""
    scale = maps.abs().amax(dim=(1, 2))
    if not bool((scale > 0).any()):
        raise ValueError("stable rank: got samples without a non-zero map, expected at least one with")
    maps = maps[scale > 0] / scale[scale > 0][:, None, None]
    # the stable rank reads the trace and the largest eigenvalue of the smaller Gram matrix, which are exact
    gram = maps @ maps.mT if maps.shape[1] <= maps.shape[2] else maps.mT @ maps
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
    return float((trace / torch.linalg.eigvalsh(gram)[:, -1]).mean())


def _residual(
    maps: Tensor, offsets: Tensor, z: Tensor, forward: Callable[[Tensor], Tensor], n_jacobian: int
) -> tuple[float, float]:
    """Largest difference from the forward pass and from the Jacobian; see ``reduction_residual``."""
    logits = forward(z)
    reduced = torch.einsum("ncd,nd->nc", maps, z) + offsets
    spread = torch.arange(n_jacobian) * len(z) // n_jacobian
    jacobian = _jacobian(forward, z[spread])
    scales = float(logits.abs().max()), float(maps[spread].abs().max())
    if min(scales) == 0:
        raise ValueError("reduction residual: got logits or maps that are all zero, expected a scale")
    differences = (reduced - logits).abs().max(), (maps[spread] - jacobian).abs().max()
    return float(differences[0]) / scales[0], float(differences[1]) / scales[1]


def _jacobian(forward: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """(n, C, d): ∂f/∂z of each sample by autograd, all classes in one backward pass."""
    with torch.enable_grad():
        count, classes = len(z), forward(z[:1]).shape[1]
        # samples do not interact, so one copy of them for every class gives all rows at once; a batched
        # backward pass would do the same but costs an import of seconds
        copies = z.repeat(classes, 1).requires_grad_()
        logits = forward(copies).view(classes, count, classes)
        picked = logits.diagonal(dim1=0, dim2=2).sum()
        (rows,) = torch.autograd.grad(picked, copies)
    return rows.view(classes, count, -1).transpose(0, 1)
