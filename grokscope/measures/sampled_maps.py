"""The maps A_i of a few samples, a few at a time, and what is read off them.

The same maps as `linear_reduction.affine_maps` forms, in blocks that stay in the cache, from gates that are known.

Shape suffixes: n samples, C classes, d_0 input width, d_l width of hidden layer l.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.blocks import block_rows, block_slices
from grokscope.measures.regions import GatedForm

__all__ = ["MapReadings", "map_blocks", "read_maps"]

_SAFE = 1e-140  # squares of what is larger, and of what is smaller than its inverse, are in range


def map_blocks(form: GatedForm, gate_pattern: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, A (b, C, d_0), b (b, C)) of samples in order, from weights and gates alone.

    Args:
        form: a ReLU network.
        gate_pattern: one (n, d_l) bool tensor per layer.

    Raises:
        ValueError: the activation is not ReLU.
    """
    if form.activation != "relu":
        raise ValueError(
            f"map_blocks: got activation {form.activation!r}, expected 'relu': only a piecewise linear network is "
            "affine with its gates held fixed"
        )
    # products with numbers are much faster than with booleans
    pattern = [gates.to(torch.float64) for gates in gate_pattern]
    above = [weight.T.contiguous() for weight in form.weights]
    head, classes = form.head.T.contiguous(), form.n_classes
    widest = max(form.input_width, *(weight.shape[1] for weight in form.weights))
    for rows in block_slices(len(pattern[0]), block_rows(classes * widest)):
        maps = head * pattern[-1][rows].unsqueeze(1)
        offsets = maps.new_zeros(len(maps), classes) if form.head_bias is None else form.head_bias
        for layer in range(len(pattern) - 1, -1, -1):
            if layer < len(pattern) - 1:
                maps = maps * pattern[layer][rows].unsqueeze(1)
            bias = form.biases[layer]
            if bias is not None:
                offsets = offsets + maps @ bias
            maps = (maps.flatten(0, 1) @ above[layer]).unflatten(0, (-1, classes))
        if form.direct is not None:
            maps += form.direct.T
        yield rows, maps, offsets.expand(len(maps), classes)


@dataclass(frozen=True)
class MapReadings:
    """What the maps of a sample of inputs say.

    Attributes:
        stable_rank: mean of ‖A_i‖_F²/‖A_i‖₂² over maps that are not zero, None where all are or none was taken.
        forward: largest |A_i z_i + b_i − f(z_i)|.
        jacobian: largest |A_i − ∂f/∂z|, over the samples compared.
        largest: max |A_i| over the same.
    """

    stable_rank: float | None
    forward: float
    jacobian: float
    largest: float


def read_maps(
    form: GatedForm,
    z: Tensor,
    gate_pattern: Sequence[Tensor],
    logits: Tensor,
    jacobians: Mapping[int, Tensor],
    *,
    ranks: bool = True,
) -> MapReadings:
    """The stable rank of a sample's maps, and how far they are from the network itself.

    Args:
        form: a ReLU network.
        z: (n, d_0) combined inputs.
        gate_pattern: one (n, d_l) bool tensor per layer.
        logits: (n, C) of the network's own code.
        jacobians: sample → (C, d_0), ∂f/∂z of the network's own code there; may be empty.
        ranks: whether to take stable ranks.

    Raises:
        ValueError: the activation is not ReLU.
    """
    traces, forward, jacobian, largest = list[Tensor](), 0.0, 0.0, 0.0
    grams: list[Tensor] = []
    for rows, maps, offsets in map_blocks(form, gate_pattern):
        reduced = torch.baddbmm(offsets.unsqueeze(2), maps, z[rows].unsqueeze(2)).squeeze(2)
        forward = max(forward, float((reduced - logits[rows]).abs().max()))
        for row in range(rows.start, rows.stop):
            if row in jacobians:
                found = maps[row - rows.start]
                largest = max(largest, float(found.abs().max()))
                jacobian = max(jacobian, float((found - jacobians[row]).abs().max()))
        if ranks:
            gram = _gram(maps)
            trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
            if not _SAFE < float(trace.min()) <= float(trace.max()) < 1 / _SAFE:
                scale = maps.abs().amax(dim=(1, 2))
                maps = maps[scale > 0] / scale[scale > 0][:, None, None]
                gram = _gram(maps)
                trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
            grams.append(gram)
            traces.append(trace)
    whole = torch.cat(grams) if grams else z.new_empty(0)
    if not len(whole):
        return MapReadings(None, forward, jacobian, largest)
    rank = float((torch.cat(traces) / torch.linalg.eigvalsh(whole)[:, -1]).mean())
    return MapReadings(rank, forward, jacobian, largest)


def _gram(maps: Tensor) -> Tensor:
    """The smaller Gram matrix of each map, which has the largest singular value exactly, and ‖A‖_F² as its trace."""
    return maps @ maps.mT if maps.shape[1] <= maps.shape[2] else maps.mT @ maps
