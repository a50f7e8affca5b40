"""The frequency each neuron of a network on two residues computes with, from its activations on all pairs.

Scope: `neuron_frequencies` from all activations at once, `frequencies_of_rows` from one first operand at a time,
by sums of pairs; and what follows from either over a layer. As in arXiv 2301.05217.

Shape suffixes: n points of the cyclic axis, F = n // 2 frequencies, h neurons. Leading axes (usually saved steps)
are batch axes. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.cyclic import fourier_basis
from grokscope.measures.fourier import NO_VARIATION, column_power, require_all

__all__ = [
    "NeuronFrequencies",
    "frequencies_of_rows",
    "joined",
    "mean_explained",
    "neuron_frequencies",
    "neuron_shares",
]

# A neuron has a frequency of its own where that explains more of its variance than any other, by this much.
_TIE = 1e-9

# Variances below this share of the mean square are not taken as a difference of the two.
_CANCELLED = 1e-4

# Float64 entries that one block of `neuron_frequencies` may hold (32 MiB).
_BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True, eq=False)
class NeuronFrequencies:
    """The frequency of each neuron.

    Attributes:
        frequency: (..., h) int64, in 1..n//2; -1 for a neuron without a frequency of its own, whose
            activation does not vary or whose best frequency explains no more than another (a neuron that is
            active on a single pair of inputs holds equal energy at every frequency of odd n).
        explained: (..., h) share of the neuron's variance that lies in the block of its best frequency, tied
            or not; 0 (and without meaning) where ``varies`` does not hold.
        varies: (..., h) bool, whether the activation varies over the inputs.
    """

    frequency: Tensor
    explained: Tensor
    varies: Tensor


def neuron_frequencies(activations: Tensor) -> NeuronFrequencies:
    """The frequency every neuron computes with, from its activation on all pairs of residues.

    As in arXiv 2301.05217, the last frequency not left out. Each activation is centred over all inputs and
    transformed in both operands. A frequency's energy is that in the block {1, cos_k, sin_k}^2 ({1, alt}^2
    at k = n/2); the neuron takes the frequency with most, and none where the second is within 1e-9 of its
    variance of the first. Works through blocks of neurons, so that little beside ``activations`` is held in
    float64.

    Args:
        activations: (..., n, n, h), both operands over all residues in order.

    Returns:
        `NeuronFrequencies` with fields (..., h). Raises ValueError for another shape or a non-finite entry.
    """
    if activations.dim() < 3 or activations.shape[-3] != activations.shape[-2]:
        raise ValueError(
            f"neuron frequencies: got shape {tuple(activations.shape)}, expected (..., n, n, neurons)"
        )
    n, h = activations.shape[-2:]
    pairs = _paired_rows(n, activations.device)
    flat = activations.reshape(-1, n, n, h)
    frequency = torch.full((flat.shape[0], h), -1, dtype=torch.int64, device=activations.device)
    explained = torch.zeros(flat.shape[0], h, dtype=torch.float64, device=activations.device)
    varying = torch.zeros(flat.shape[0], h, dtype=torch.bool, device=activations.device)
    width = max(1, _BLOCK_ENTRIES // (n * n))
    for index in range(flat.shape[0]):
        for start in range(0, h, width):
            block = flat[index, :, :, start : start + width].to(torch.float64)
            centred, variance, whole = _centred(block)
            found = _leading(_block_energy(centred, pairs), variance, whole)
            frequency[index, start : start + width] = found.frequency
            explained[index, start : start + width] = found.explained
            varying[index, start : start + width] = found.varies
    shape = (*activations.shape[:-3], h)
    return NeuronFrequencies(frequency.reshape(shape), explained.reshape(shape), varying.reshape(shape))


def frequencies_of_rows(row: Callable[[int], Tensor], n: int) -> NeuronFrequencies:
    """`neuron_frequencies` of one set of neurons, from sums over pairs instead of a transform in both operands.

    The block {1, cos_k, sin_k}^2 less the constant is spanned by the functions of frequency k of a, of b, of
    a + b and of a - b (of a + b alone at k = n/2, where both are one). So four sums of the activations, over the
    pairs with equal a, b, a + b and a - b, are all that has to be transformed, and no more than one row of the
    grid is held at a time.

    Args:
        row: ``row(a)`` gives the (n, h) float64 activations with the first operand at the a-th residue of the
            axis and the second at each, in order. Called for a = 0, ..., n - 1; what it returns is changed.
        n: residues of the axis, at least 2.

    Returns:
        `NeuronFrequencies` with fields (h,). Raises ValueError for rows of another shape or a non-finite entry.
    """
    block = row(0)
    if n < 2 or block.dim() != 2 or len(block) != n or block.dtype != torch.float64:
        raise ValueError(
            f"neuron frequencies: got a row {block.dtype} {tuple(block.shape)} for n = {n}, expected float64 "
            "(n >= 2, neurons)"
        )
    sums, squares = _sums_of_pairs(block, row, n, None)
    mean, count = sums[0].sum(0) / n**2, n**2
    whole = squares
    variance = squares - count * mean.square()
    if bool((variance < _CANCELLED * whole).any()):
        # so little varies beside so much that squares have to be summed about the mean
        sums, squares = _sums_of_pairs(row(0), row, n, mean)
        beside = sums[0].sum(0) / count
        variance = squares - count * beside.square()
        whole = variance + count * (mean + beside).square()
    silent = (mean == 0) & (sums == 0).all(1).all(0)
    if not bool((silent | ((whole > 1e-280) & (whole < 1e280))).all()):
        # squares leave the range of float64, which the plain way scales for
        return neuron_frequencies(torch.stack([row(a).clone() for a in range(n)]))
    power = column_power(sums - sums.mean(1, keepdim=True))
    if n % 2 == 0:
        power[3, -1] = 0.0
    return _leading(power.sum(0) / n, variance.clamp(min=0.0), whole)


def _sums_of_pairs(
    block: Tensor, row: Callable[[int], Tensor], n: int, origin: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(4, n, h): sums over the pairs of equal a, b, a + b and b - a; and (h,): the sum of squares.

    Of activations less ``origin`` (h,); ``block`` is the first row.
    """
    of_a = torch.empty_like(block)
    of_b, squares = torch.zeros_like(block), torch.zeros_like(block)
    of_sum, of_difference = block.new_zeros(2 * n, block.shape[1]), block.new_zeros(2 * n, block.shape[1])
    for a in range(n):
        block = row(a) if a else block
        if origin is not None:
            block.sub_(origin)
        torch.sum(block, 0, out=of_a[a])
        of_b.add_(block)
        of_sum[a : a + n].add_(block)
        of_difference[n - a : 2 * n - a].add_(block)
        squares.addcmul_(block, block)
    sums = torch.stack([of_a, of_b, of_sum[:n] + of_sum[n:], of_difference[:n] + of_difference[n:]])
    return sums, squares.sum(0)


def joined(groups: Sequence[NeuronFrequencies]) -> NeuronFrequencies:
    """The neurons of several groups, in order."""
    return NeuronFrequencies(
        torch.cat([group.frequency for group in groups], dim=-1),
        torch.cat([group.explained for group in groups], dim=-1),
        torch.cat([group.varies for group in groups], dim=-1),
    )


def _leading(own: Tensor, variance: Tensor, whole: Tensor) -> NeuronFrequencies:
    """From the energy (F, h) in the block of each frequency, the variance (h,) and the mean square (h,)."""
    varies = variance > NO_VARIATION * whole
    shares = own / torch.where(varies, variance, 1.0)
    leading = shares.topk(min(2, len(shares)), dim=0)
    top = leading.values[0]
    alone = varies & ((top - leading.values[1] >= _TIE) if len(shares) > 1 else (top > 0))
    frequency = torch.where(alone, leading.indices[0] + 1, -1)
    return NeuronFrequencies(frequency, torch.where(varies, top.clamp(max=1.0), 0.0), varies)


def _centred(block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, n, h) activations less their mean over all inputs, (h,) their variance, (h,) their mean square.

    Scaled to largest entry 1 only where squares would leave the range of float64: passes over the activations
    are what this measure costs.
    """
    mean = block.mean((0, 1))
    centred = block - mean
    variance = centred.square().sum((0, 1))
    whole = variance + block.shape[0] * block.shape[1] * mean.square()
    if bool(((whole > 1e-280) & (whole < 1e280)).all()):
        return centred, variance, whole
    largest = block.abs().amax((0, 1))
    if not bool(largest.isfinite().all()):
        raise ValueError("neuron frequencies: got non-finite activations, expected finite values")
    block = block / torch.where(largest > 0, largest, 1.0)
    mean = block.mean((0, 1))
    centred = block - mean
    return centred, centred.square().sum((0, 1)), block.square().sum((0, 1))


def _paired_rows(n: int, device: torch.device) -> Tensor:
    """(F, 2, n): the functions cos_k and sin_k of each frequency; (alt, 0) at k = n/2."""
    basis = fourier_basis(n, device)
    rows = torch.zeros(len(basis.frequencies), 2, n, dtype=torch.float64, device=device)
    for index, group in enumerate(basis.groups):
        rows[index, : len(group)] = basis.matrix[list(group)]
    return rows


def _block_energy(block: Tensor, pairs: Tensor) -> Tensor:
    """(F, h): energy of each neuron in {1, cos_k, sin_k}^2, the constant of both operands left out.

    One product transforms the first operand; of the second only the functions of the same frequency and the
    constant are needed, so the full 2-D transform is never formed.
    """
    n, _, h = block.shape
    count = pairs.shape[0]
    first = (pairs.reshape(2 * count, n) @ block.reshape(n, n * h)).reshape(count, 2, n, h)
    constant = torch.full((count, 1, n), n**-0.5, dtype=torch.float64, device=block.device)
    second = torch.cat([pairs, constant], dim=1)
    both = second @ first.movedim(2, 1).reshape(count, n, 2 * h)
    alone = pairs @ (block.sum(0) * n**-0.5)
    return both.square().reshape(count, 3, 2, h).sum((1, 2)) + alone.square().sum(1)


def neuron_shares(neurons: NeuronFrequencies, n: int) -> Tensor:
    """Share of the neurons with a frequency of their own that compute with each: (..., F).

    The key set by neuron (arXiv 2301.05217) is where the share is positive.

    Raises ValueError where no neuron has a frequency.
    """
    frequencies = torch.arange(1, n // 2 + 1, device=neurons.frequency.device)
    counts = (neurons.frequency[..., None] == frequencies).sum(-2).to(torch.float64)
    require_all(
        counts.sum(-1) > 0, "neuron shares: no neuron has a frequency of its own, expected at least one"
    )
    return counts / counts.sum(-1, keepdim=True)


def mean_explained(neurons: NeuronFrequencies) -> Tensor:
    """Mean over varying neurons, tied ones among them, of the variance share in their best frequency, (...).

    Raises ValueError where no neuron varies.
    """
    varies = neurons.varies
    require_all(varies.any(-1), "mean explained: no neuron varies over the inputs, expected at least one")
    return torch.where(varies, neurons.explained, 0.0).sum(-1) / varies.sum(-1)
