"""What the regions probe reads off the weights of one save: gates, maps, and the geometry of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.class_geometry import class_moments, joined, separation_of, simplex_gap_of
from grokscope.measures.cyclic import fourier_basis
from grokscope.measures.fourier import frequency_fraction, key_frequencies_by_embedding
from grokscope.measures.linear_reduction import mean_active
from grokscope.measures.packed_gates import Bits, closed_everywhere, distinct, flips, open_counts, unpack
from grokscope.measures.regions import GatedForm, local_complexity, margin_of
from grokscope.measures.sampled_maps import MapReadings, read_maps
from grokscope.probes.findings import Findings
from grokscope.probes.readings import Values
from grokscope.probes.region_pass import Passed, TrainingPass
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
PROVED = 512  # training samples, spread evenly, on which the reduction is proved at the last save
PROOF = ("forward", "jacobian", "forward_from_inputs")
RULE_POWER = "rule_power"  # by frequency; which of them are key is known from the last save alone
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
    """The key frequencies of the class axis, and how many there are."""

    frequencies: list[int]
    of: int


def training_data(task: Task, samples: int, jacobians: int, seed: int) -> TrainingData:
    """The training samples of ``task`` and a seeded choice of them, drawn on the CPU."""
    classes = task.kind == "classification"
    inputs = task.inputs[task.train_rows]
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
    return Rule(frequencies, len(axis.rows) // 2)


class SaveReader:
    """Reads what the regions probe needs off one save's weights.

    ``axis`` is the cyclic axis of the classes, where the mean map is to be split by frequency along it.
    """

    def __init__(
        self,
        model: Model,
        data: TrainingData,
        form: GatedForm | None,
        axis: Tensor | None,
        radius: float,
        directions: int,
        seed: int,
    ) -> None:
        self.model, self.data = model, data
        self.gated, self.affine = form is not None, form is not None and form.activation == "relu"
        self.radius, self.directions, self.seed = radius, directions, seed
        # every sample has a map of its own, so that of all of them takes seconds where there are thousands
        count = len(data.inputs)
        self.proved = torch.arange(min(count, PROVED)) * count // min(count, PROVED)
        self.names: dict[str, int | None] = {}
        if form is not None:
            self.through = TrainingPass(model, data.inputs, data.labels, form)
            self.names |= dict.fromkeys((*PATTERN, "regions.local_complexity"))
            self.names["regions.gate_margin"] = 4
        self.axis = axis if self.affine else None
        if self.affine:
            self.names |= dict.fromkeys(REDUCTION)
        if self.axis is not None:
            self.basis = fourier_basis(len(self.axis))
            self.names[RULE_POWER] = len(self.basis.frequencies)
        if data.labels is not None:
            self.names |= dict.fromkeys(GEOMETRY)

    def __call__(self, params: Params, *, proved: bool = True) -> Findings:
        """Everything of one save; the reduction's residual only where it is to be ``proved``."""
        found, passed = Findings(self.names), None
        if self.gated:
            with found.unless_refused(*self.names):
                passed = self.through(params)
            if passed is not None:
                self._gates(found, params, passed, proved)
        if self.data.labels is not None:
            with found.unless_refused(*GEOMETRY):
                self._geometry(found, params, passed)
        return found

    def _gates(self, found: Findings, params: Params, passed: Passed, proved: bool) -> None:
        form = self.model.gated(params)
        assert isinstance(form, GatedForm)
        counts = open_counts(passed.bits, self.through.widths)
        chosen = self.data.chosen
        z = self.model.combined(params, self.data.inputs[chosen])
        pattern = unpack(passed.bits[self.through.place[chosen].numpy()], self.through.widths)
        found.put("regions.count", distinct(passed.bits))
        entries = len(self.data.inputs) * sum(self.through.widths)
        found.put("regions.active_fraction", sum(int(count.sum()) for count in counts) / entries)
        found.put("regions.dead_neurons", closed_everywhere(counts))
        with found.unless_refused("regions.gate_margin"):
            margin = margin_of(passed.distances, passed.excluded)
            levels = (margin.minimum, margin.quantile_01, margin.quantile_10, margin.median)
            found.put("regions.gate_margin", levels)
        with found.unless_refused("regions.local_complexity"):
            # the vertices are 2P forward passes a sample: of all samples they would cost more than all else
            directions = min(self.directions, form.input_width)
            value = local_complexity(form, z, self.radius, directions, self.seed)
            found.put("regions.local_complexity", value)
        if self.affine:
            with found.unless_refused(*REDUCTION):
                self._maps(found, params, form, z, pattern, proved)
        if self.axis is not None:
            with found.unless_refused(RULE_POWER):
                found.put(RULE_POWER, self._rule_power(form, passed.bits, counts))

    def _maps(
        self,
        found: Findings,
        params: Params,
        form: GatedForm,
        z: Tensor,
        pattern: tuple[Tensor, ...],
        proved: bool,
    ) -> None:
        # the maps of the sample are formed once, for the proof and for their ranks
        logits = self.model.from_z(params, z)
        jacobians = self._jacobians(params, z) if proved else {}
        maps = read_maps(form, z, pattern, logits, jacobians)
        if maps.stable_rank is None:
            raise ValueError("stable rank: got samples without a non-zero map, expected at least one with")
        found.put("regions.stable_rank_mean", maps.stable_rank)
        if proved:
            forward, jacobian = _relative(maps, logits)
            found.put("regions.reduction_residual.forward", forward)
            found.put("regions.reduction_residual.jacobian", jacobian)
            found.put("regions.reduction_residual", max(forward, jacobian))

    def proof(self, params: Params) -> Findings:
        """The reduction over many training samples, and z against the model's own way to the logits."""
        found = Findings(dict.fromkeys(PROOF))
        with found.unless_refused(*PROOF):
            rows, form = self.proved, self.model.gated(params)
            inputs = self.data.inputs[rows]
            assert isinstance(form, GatedForm)
            bits = self.through.gates(params)[self.through.place[rows].numpy()]
            pattern = unpack(bits, self.through.widths)
            z = self.model.combined(params, inputs)
            logits = self.model.from_z(params, z)
            maps = read_maps(form, z, pattern, logits, self._jacobians(params, z), ranks=False)
            direct = self.model.forward(params, inputs)
            for name, value in zip(PROOF, _relative(maps, logits), strict=False):
                found.put(name, value)
            found.put(PROOF[-1], float((direct - logits).abs().max() / direct.abs().max()))
        return found

    def _jacobians(self, params: Params, z: Tensor) -> dict[int, Tensor]:
        """∂f/∂z by autograd, at some of z spread evenly."""
        spread = torch.arange(self.data.n_jacobian) * len(z) // self.data.n_jacobian
        jacobian = _jacobian(lambda v: self.model.from_z(params, v), z[spread])
        return dict(zip(spread.tolist(), jacobian, strict=True))

    def _rule_power(self, form: GatedForm, bits: Bits, counts: tuple[Tensor, ...]) -> Tensor:
        """(F,): power of the mean map at each frequency of the class axis; see ``rule_gap``."""
        assert self.axis is not None
        if len(counts) == 1:
            mean = (form.head.T * (counts[0].to(torch.float64) / len(bits))) @ form.weights[0].T
            mean = mean if form.direct is None else mean + form.direct.T
        else:
            mean = mean_active(form, unpack(bits, self.through.widths))
        rows = mean[self.axis]
        if not bool(rows.isfinite().all()):
            raise ValueError("rule_gap: got non-finite maps, expected finite ones")
        power = self.basis.sum_by_frequency((self.basis.matrix @ rows).square()).sum(dim=-1)
        # rounding of the mean leaves crumbs in a map that is constant over classes
        if not float(power.sum()) > 1e-28 * float(rows.square().sum()):
            raise ValueError("rule_gap: got a map that is constant over classes, expected one that varies")
        return power

    def _geometry(self, found: Findings, params: Params, passed: Passed | None) -> None:
        """Separation of classes of what the head reads and of the logits, from a pass where there was one."""
        labels, count = self.data.labels, self.data.n_classes
        assert labels is not None
        if passed is not None and passed.features:
            features = joined(passed.features)
        else:
            features = class_moments(self.model.head_input(params, self.data.inputs), labels, count)
        if passed is not None:
            logits = joined(passed.logits)
        else:
            logits = class_moments(self.model.forward(params, self.data.inputs), labels, count)
        for name, moments in (("", features), (".logits", logits)):
            separation = separation_of(moments)
            found.put(f"regions.class_separation{name}", separation.value)
            found.put(f"regions.class_separation{name}.normalised", separation.normalised)
        found.put("regions.simplex_gap", simplex_gap_of(features.means))


class PairReader:
    """Reads what changed between two saves: flipped gates, and which samples have one."""

    def __init__(self, through: TrainingPass) -> None:
        self.through = through
        self.entries = len(through.inputs) * sum(through.widths)

    def __call__(self, before: Params, after: Params) -> Values:
        """``flipped`` (t,), NaN where a side has no pattern, and ``changed`` (t, ⌈N/8⌉), a bit a sample."""
        shares, changes = [], []
        last, previous = None, None
        for row in range(len(next(iter(before.values())))):
            first = {name: value[row] for name, value in before.items()}
            # consecutive pairs share a save, which is then the same memory
            if last is None or any(last[n].data_ptr() != first[n].data_ptr() for n in first):
                previous = self._bits(first)
            last = {name: value[row] for name, value in after.items()}
            bits = self._bits(last)
            share, changed = torch.nan, np.ones(len(self.through.inputs), bool)
            if previous is not None and bits is not None:
                flipped, changed = flips(previous, bits)
                share = flipped / self.entries
            shares.append(share)
            changes.append(torch.from_numpy(np.packbits(changed)))
            previous = bits
        return {"flipped": torch.tensor(shares, dtype=torch.float64), "changed": torch.stack(changes)}

    def _bits(self, params: Params) -> Bits | None:
        try:
            return self.through.gates(params)
        except ValueError:
            return None


def rule_gap_of(power: Tensor, frequencies: list[int]) -> Tensor:
    """(T,): share of the power (T, F) of the mean map outside the key frequencies; see ``rule_gap``."""
    outside = torch.ones(power.shape[-1], dtype=torch.bool)
    outside[[frequency - 1 for frequency in frequencies]] = False
    return power[:, outside].sum(dim=-1) / power.sum(dim=-1)


def _relative(maps: MapReadings, logits: Tensor) -> tuple[float, float]:
    """Differences from forward pass and Jacobian, relative to the largest logit and the largest entry."""
    scale = float(logits.abs().max())
    if not scale < torch.inf:
        raise ValueError("reduction residual: got logits that are not finite, expected finite ones")
    if min(scale, maps.largest) == 0:
        raise ValueError("reduction residual: got logits or maps that are all zero, expected a scale")
    return maps.forward / scale, maps.jacobian / maps.largest


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
