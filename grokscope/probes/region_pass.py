"""One pass over the training samples of one save: gates, distances from them, and what the head reads.

Samples are taken in the order of their classes and in blocks of whole classes, small enough to stay in the
cache: every array of a block is used for all quantities before the next block is made.

Shape legend: N training samples, n of a block, C classes, d_l width of hidden layer l.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.measures.blocks import block_rows, block_slices
from grokscope.measures.class_geometry import ClassMoments
from grokscope.measures.packed_gates import Bits, layer_bytes, pack_layer
from grokscope.measures.regions import GatedForm, relative_distances
from grokscope.runs import Model, Params

NO_NUMBERS = "gates: got pre-activations that are not numbers, expected numbers with a sign"


class _Block(NamedTuple):
    """Samples of whole classes: where they are, which class of the block each has, and how to average them."""

    rows: slice
    of_class: Tensor  # (n,) from 0
    average: Tensor  # (classes of the block, n)


@dataclass(frozen=True, eq=False)
class Passed:
    """What one pass gave.

    Attributes:
        bits: (N, bytes) the gates, samples in the order of the pass.
        distances: flat, of every sample from every gate, those without a scale left out; the next pass
            overwrites them.
        excluded: how many were left out.
        features, logits: moments of what the head reads and of the logits, by sets of whole classes; none
            without classes, and no features where a model does not say what its gated layer writes.
    """

    bits: Bits
    distances: NDArray[np.float64]
    excluded: int
    features: list[ClassMoments]
    logits: list[ClassMoments]


class TrainingPass:
    """Passes over ``inputs`` (N, …) with ``labels`` (N,) or none, through gated forms like ``form``."""

    def __init__(self, model: Model, inputs: Tensor, labels: Tensor | None, form: GatedForm) -> None:
        self.model = model
        self.widths = [weight.shape[1] for weight in form.weights]
        order = torch.arange(len(inputs)) if labels is None else torch.argsort(labels, stable=True)
        self.inputs = inputs[order]
        self.place = torch.argsort(order)  # (N,): where each sample is in the order of the pass
        self.labelled = labels is not None
        rows = block_rows(max(*self.widths, form.input_width, form.n_classes))
        self.blocks = list(_blocks(None if labels is None else labels[order], len(order), rows))
        self._distances = np.empty(len(order) * sum(self.widths))

    def gates(self, params: Params) -> Bits:
        """(N, bytes): the gates alone.

        Raises:
            ValueError: weights that are not finite, or pre-activations that are not numbers.
        """
        form = self._form(params)
        bits, first = self._no_bits(), self.model.first_layer(params, form, self.inputs)
        for block in self.blocks:
            pre = first.pre(block.rows)
            for layer in range(len(form.weights)):
                if layer:
                    pre = _affine(form.activate(pre), form.weights[layer], form.biases[layer])
                if not bool(pre.sum().isfinite()) and bool(pre.isnan().any()):
                    raise ValueError(NO_NUMBERS)
                self._put_bits(bits, block.rows, layer, pre)
        return bits

    def __call__(self, params: Params) -> Passed:
        """The whole pass. Raises as :meth:`gates`."""
        form, model = self._form(params), self.model
        bits, first = self._no_bits(), model.first_layer(params, form, self.inputs)
        norms = [torch.linalg.vector_norm(weight, dim=0) for weight in form.weights]
        write = model.stream_write(params)
        kept, total, features, logits = 0, 0, list[ClassMoments](), list[ClassMoments]()
        for block in self.blocks:
            z = first.z(block.rows)
            pre, below = first.pre(block.rows), z
            for layer in range(len(form.weights)):
                if layer:
                    pre = _affine(below, form.weights[layer], form.biases[layer])
                self._put_bits(bits, block.rows, layer, pre)
                found = relative_distances(pre, below, norms[layer], form.biases[layer]).flatten().numpy()
                self._distances[kept : kept + found.size] = found
                kept, total = kept + found.size, total + pre.numel()
                below = torch.relu_(pre) if form.activation == "relu" else form.activate(pre)
            answer = _affine(below, form.head, form.head_bias)
            if form.direct is not None:
                answer.addmm_(z, form.direct)
            if not bool(answer.sum().isfinite()) and bool(answer.isnan().any()):
                raise ValueError(NO_NUMBERS)
            if not self.labelled:
                continue
            logits.append(_moments(answer, block))
            if form.direct is None:
                features.append(_moments(below, block))
            elif write is not None:
                features.append(_moments(_affine(below, *write).add_(z), block))
        return Passed(bits, self._distances[:kept], total - kept, features, logits)

    def _form(self, params: Params) -> GatedForm:
        form = self.model.gated(params)
        assert isinstance(form, GatedForm)
        return form

    def _no_bits(self) -> Bits:
        return np.empty((len(self.inputs), sum(map(layer_bytes, self.widths))), np.uint8)

    def _put_bits(self, bits: Bits, rows: slice, layer: int, pre: Tensor) -> None:
        start = sum(map(layer_bytes, self.widths[:layer]))
        bits[rows, start : start + layer_bytes(self.widths[layer])] = pack_layer(pre)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def _moments(values: Tensor, block: _Block) -> ClassMoments:
    """Moments of whole classes; ``values`` (n, d) are centred in place."""
    means = block.average @ values
    centred = values.sub_(means.index_select(0, block.of_class)).view(-1)
    return ClassMoments(means, float(torch.dot(centred, centred)), len(values))


def _blocks(labels: Tensor | None, count: int, rows: int) -> Iterator[_Block]:
    """Blocks of at least ``rows`` samples, but for the last, that end where a class ends."""
    if labels is None:
        nothing = torch.empty(0)
        yield from (_Block(part, nothing, nothing) for part in block_slices(count, rows))
        return
    ends = (torch.unique_consecutive(labels, return_counts=True)[1]).cumsum(0).tolist()
    start = 0
    for end in ends:
        if end - start < rows and end < count:
            continue
        _, of_class, sizes = torch.unique_consecutive(
            labels[start:end], return_inverse=True, return_counts=True
        )
        average = torch.nn.functional.one_hot(of_class).T / sizes[:, None].to(torch.float64)
        yield _Block(slice(start, end), of_class, average)
        start = end
