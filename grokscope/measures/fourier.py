"""Fourier analysis of real functions on the cyclic group Z_n: where the power of a map sits.

Scope: the real orthonormal basis, power per frequency, how concentrated that power is, and which frequency a
neuron computes with. Phases are in ``phases``. For multiplication and division the caller hands in rows
already permuted by ``discrete_log_order``; the axis is then Z_{p-1}, of even order.

Shape suffixes: n points of the cyclic axis, F = n // 2 frequencies, d other axis, h neurons. Leading axes
(usually saved steps) are batch axes throughout. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.cyclic import (
    FourierBasis,
    discrete_log_order,
    fourier_basis,
    is_prime,
    least_primitive_root,
)

__all__ = [
    "FourierBasis",
    "NeuronFrequencies",
    "circularity",
    "column_power",
    "complex_inverse_participation",
    "discrete_log_order",
    "fourier_basis",
    "frequency_fraction",
    "frequency_power",
    "gini",
    "inverse_participation",
    "is_prime",
    "key_frequencies_by_embedding",
    "least_primitive_root",
    "mean_explained",
    "neuron_frequencies",
    "neuron_shares",
    "participation",
    "square_frequency_power",
]

# Energy beside the constant counts as none below this share of the whole. Rounding of a constant float64
# column leaves about 1e-31; the smallest variation that float32 weights can hold beside a constant is about
# 1e-15.
_NO_VARIATION = 1e-24

# A neuron has a frequency of its own where that explains more of its variance than any other, by this much.
_TIE = 1e-9

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


def column_power(matrix: Tensor) -> Tensor:
    """Power of every column in every frequency.

    Args:
        matrix: (..., n, d), cyclic axis first.

    Returns:
        (..., F, d): (c_k^T m)^2 + (s_k^T m)^2, or (alt^T m)^2 at k = n/2; squared units of ``matrix``.
        Raises ValueError for fewer than two axes, fewer than two points or a non-finite entry.
    """
    values = _float64(matrix, "fourier power")
    basis = fourier_basis(values.shape[-2], values.device)
    return basis.membership() @ (basis.matrix @ values).square()


def frequency_power(matrix: Tensor) -> Tensor:
    """Power of a map in every frequency, (..., n, d) to (..., F): `column_power` summed over columns."""
    return column_power(matrix).sum(-1)


def frequency_fraction(matrix: Tensor) -> Tensor:
    """Share of the power in every frequency, constant dropped: (..., n, d) to (..., F), summing to 1.

    The token axis (or, for an output map, the class axis) comes first and holds residues only, in order.

    Raises ValueError where a map of the batch is constant along the axis, so that no share is defined.
    """
    values = _float64(matrix, "fourier fraction")
    values = _unit_scale(values, (-2, -1))
    power = frequency_power(values)
    _require_all(
        power.sum(-1) > _NO_VARIATION * values.square().sum((-2, -1)),
        "fourier fraction: no power outside the constant, expected a map that varies along its cyclic axis",
    )
    return power / power.sum(-1, keepdim=True)


def square_frequency_power(matrix: Tensor) -> Tensor:
    """Power in the frequencies of a^2 modulo n, for operations that see their operands squared.

    For each k in 1..(n-1)/2 the span of cos(2 pi k a^2/n) and sin(2 pi k a^2/n), less the constant, is
    orthonormalised on its own. Different k overlap (there are n - 1 functions of only (n + 1)/2 squares), so
    the powers do not add up to the whole: their shares say which k lead, not how much they explain.

    Args:
        matrix: (..., n, d), residues in order, n an odd prime (ValueError otherwise).

    Returns:
        (..., (n - 1)/2).
    """
    values = _float64(matrix, "fourier power of squares")
    n = values.shape[-2]
    if n == 2 or not is_prime(n):
        raise ValueError(f"fourier power of squares: got n = {n}, expected an odd prime")
    squares = torch.arange(n, device=values.device).square() % n
    basis = fourier_basis(n, values.device)
    powers = []
    for rows in basis.groups:
        functions = basis.matrix[list(rows)][:, squares]
        functions = functions - functions.mean(-1, keepdim=True)
        _, scale, directions = torch.linalg.svd(functions, full_matrices=False)
        powers.append((directions[scale > 1e-9 * scale[0]] @ values).square().sum((-2, -1)))
    return torch.stack(powers, dim=-1)


def gini(values: Tensor) -> Tensor:
    """Gini coefficient over the last axis: 0 when all are equal, 1 - 1/F when one holds everything.

    G = 2 sum_i i f_(i) / (F sum f) - (F + 1)/F with f ascending (arXiv 2606.13753 applies it to powers,
    arXiv 2301.05217 to norms, their square roots). Scale invariant.

    Args:
        values: (..., F), nonnegative, not all zero (ValueError otherwise).
    """
    shares = _shares(values, "gini coefficient")
    count = shares.shape[-1]
    rank = torch.arange(1, count + 1, dtype=torch.float64, device=shares.device)
    return 2.0 * (rank * shares.sort(-1).values).sum(-1) / count - (count + 1) / count


def participation(fractions: Tensor) -> Tensor:
    """Effective number of frequencies, 1 / sum fraction^2, over the last axis: from 1 to F. Scale invariant.

    Args:
        fractions: (..., F), nonnegative, not all zero (ValueError otherwise).
    """
    return 1.0 / _shares(fractions, "participation").square().sum(-1)


def inverse_participation(*slots: Tensor) -> Tensor:
    """Mean inverse participation ratio of neurons: sum_k fraction_k^2 of each neuron's input weights.

    arXiv 2301.02679, on real frequencies with the constant dropped: 1 for a neuron of one frequency, 1/F for
    one that is flat. The mean is over neurons and operand slots, leaving out those whose weights do not vary.

    Args:
        slots: one map (..., n, h) per operand, cyclic axis first.

    Returns:
        (...). Raises ValueError where no neuron varies, or without a slot.
    """
    return _neuron_mean(
        slots, "inverse participation", lambda w: _safe_shares(column_power(w)).square().sum(-2)
    )


def complex_inverse_participation(*slots: Tensor) -> Tensor:
    """Mean inverse participation ratio in the complex transform: sum_nu |w_nu|^4 with sum_nu |w_nu|^2 = 1.

    The form printed in arXiv 2301.02679, constant dropped: nu runs over the n - 1 signed frequencies that are
    not 0, so a pure cosine gives 1/2 whatever is added to it. (The weights of a neuron behind an embedding
    carry its bias and the mean of the other operand in the constant.) The mean is over neurons and slots that
    vary, as in `inverse_participation`.
    """

    def per_neuron(weights: Tensor) -> Tensor:
        centred = weights - weights.mean(-2, keepdim=True)
        return _safe_shares(torch.fft.fft(centred, dim=-2).abs().square()).square().sum(-2)

    return _neuron_mean(slots, "complex inverse participation", per_neuron)


def circularity(embedding: Tensor) -> Tensor:
    """How circular the four leading principal components of an embedding are, in [0, 1] (arXiv 2306.17844).

    With v_l the scores of the mean-centred embedding on its l-th principal component:
    1/4 sum_{l<=4} min(1, max_{1<=k<=(n-1)//2} 2/(n |v_l|^2) |sum_j v_lj e^{2 pi i jk/n}|^2).
    A component with less than 1e-12 of the variance, or a missing one, counts 0: one circle gives 1/2.
    Not an invariant of the embedding where two circles have equal variance: the components are then any
    rotation of each other and mix the circles.

    Args:
        embedding: (..., n, d), n >= 3 residues in order.

    Returns:
        (...). Raises ValueError for n < 3 or an embedding without variance.
    """
    values = _float64(embedding, "circularity")
    n = values.shape[-2]
    if n < 3:
        raise ValueError(f"circularity: got n = {n}, expected at least 3 residues")
    values = _unit_scale(values, (-2, -1))
    centred = values - values.mean(-2, keepdim=True)
    variance = centred.square().sum((-2, -1))
    _require_all(
        variance > _NO_VARIATION * values.square().sum((-2, -1)),
        "circularity: embedding without variance, expected rows that differ",
    )
    scores, scale, _ = torch.linalg.svd(centred, full_matrices=False)
    # Left singular vectors are the scores at unit norm, which is all that the ratio needs.
    spectrum = torch.fft.fft(scores[..., :4], dim=-2).abs().square()[..., 1 : (n - 1) // 2 + 1, :]
    circular = (2.0 / n * spectrum.amax(-2)).clamp(max=1.0)
    counted = scale[..., :4].square() >= 1e-12 * variance[..., None]
    return torch.where(counted, circular, 0.0).sum(-1) / 4.0


def key_frequencies_by_embedding(fractions: Tensor, share: float = 0.95) -> Tensor:
    """The smallest set of frequencies that holds a share of the power; of equal ones the lower comes first.

    Args:
        fractions: (..., F), nonnegative, not all zero (ValueError otherwise).
        share: in (0, 1] (ValueError otherwise).

    Returns:
        (..., F) boolean; column k - 1 is frequency k.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"key frequencies: got share = {share}, expected one in (0, 1]")
    # Rounded, so that frequencies equal up to the last bits are ordered by their number and not by rounding.
    shares = _shares(fractions, "key frequencies").round(decimals=12)
    descending, order = torch.sort(shares, dim=-1, descending=True, stable=True)
    before = descending.cumsum(-1) - descending
    needed = before < share - 1e-10
    return torch.zeros_like(needed).scatter(-1, order, needed)


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
            own = _block_energy(centred, pairs)
            varies = variance > _NO_VARIATION * whole
            shares = own / torch.where(varies, variance, 1.0)
            leading = shares.topk(min(2, len(shares)), dim=0)
            top = leading.values[0]
            alone = varies & ((top - leading.values[1] >= _TIE) if len(shares) > 1 else (top > 0))
            frequency[index, start : start + width] = torch.where(alone, leading.indices[0] + 1, -1)
            explained[index, start : start + width] = torch.where(varies, top.clamp(max=1.0), 0.0)
            varying[index, start : start + width] = varies
    shape = (*activations.shape[:-3], h)
    return NeuronFrequencies(frequency.reshape(shape), explained.reshape(shape), varying.reshape(shape))


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
    counts = torch.stack([(neurons.frequency == k).sum(-1) for k in range(1, n // 2 + 1)], dim=-1)
    counts = counts.to(torch.float64)
    _require_all(
        counts.sum(-1) > 0, "neuron shares: no neuron has a frequency of its own, expected at least one"
    )
    return counts / counts.sum(-1, keepdim=True)


def mean_explained(neurons: NeuronFrequencies) -> Tensor:
    """Mean over varying neurons, tied ones among them, of the variance share in their best frequency, (...).

    Raises ValueError where no neuron varies.
    """
    varies = neurons.varies
    _require_all(varies.any(-1), "mean explained: no neuron varies over the inputs, expected at least one")
    return torch.where(varies, neurons.explained, 0.0).sum(-1) / varies.sum(-1)


def _float64(values: Tensor, what: str) -> Tensor:
    if values.dim() < 2 or values.is_complex() or values.shape[-2] < 2:
        raise ValueError(
            f"{what}: got {values.dtype} of shape {tuple(values.shape)}, expected real (..., n >= 2, columns)"
        )
    values = values.to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{what}: got a map with non-finite entries, expected finite values")
    return values


def _unit_scale(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scaled to largest entry 1, so that squares of very small weights do not underflow; zeros stay zero."""
    largest = values.abs().amax(dims, keepdim=True)
    return values / torch.where(largest > 0, largest, 1.0)


def _require_all(holds: Tensor, message: str) -> None:
    failing = int((~holds).sum())
    if failing:
        raise ValueError(f"{message} (fails for {failing} of {holds.numel()})")


def _shares(values: Tensor, what: str) -> Tensor:
    values = values.to(torch.float64)
    if values.dim() < 1 or values.shape[-1] < 1:
        raise ValueError(f"{what}: got shape {tuple(values.shape)}, expected (..., frequencies)")
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise ValueError(f"{what}: got negative or non-finite powers, expected nonnegative ones")
    _require_all(values.amax(-1) > 0, f"{what}: got powers that are all zero, expected a positive one")
    values = values / values.amax(-1, keepdim=True)
    return values / values.sum(-1, keepdim=True)


def _safe_shares(power: Tensor) -> Tensor:
    """Shares along axis -2, and zeros where there is no power (such columns are masked by the caller)."""
    total = power.sum(-2, keepdim=True)
    return power / torch.where(total > 0, total, 1.0)


def _neuron_mean(slots: tuple[Tensor, ...], what: str, per_neuron: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the neurons of all slots whose weights vary along the cyclic axis."""
    if not slots:
        raise ValueError(f"{what}: got no map, expected one (..., n, neurons) per operand")
    total: Tensor | None = None
    count: Tensor | None = None
    for slot in slots:
        weights = _unit_scale(_float64(slot, what), (-2,))
        spread = (weights - weights.mean(-2, keepdim=True)).square().sum(-2)
        varies = spread > _NO_VARIATION * weights.square().sum(-2)
        value = torch.where(varies, per_neuron(weights), 0.0).sum(-1)
        total = value if total is None else total + value
        count = varies.sum(-1) if count is None else count + varies.sum(-1)
    assert total is not None
    assert count is not None
    _require_all(count > 0, f"{what}: no neuron varies along the cyclic axis, expected at least one")
    return total / count
