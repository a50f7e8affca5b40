"""Fourier analysis of real functions on the cyclic group Z_n: where the power of a map sits.

Scope: the real orthonormal basis, power per frequency, and how concentrated that power is. Which frequency a
neuron computes with is in ``neuron_frequencies``, phases are in ``phases``. For multiplication and division the
caller hands in rows already permuted by ``discrete_log_order``; the axis is then Z_{p-1}, of even order.

Shape suffixes: n points of the cyclic axis, F = n // 2 frequencies, d other axis, h neurons. Leading axes
(usually saved steps) are batch axes throughout. Everything is computed in float64.
"""

from __future__ import annotations

import torch
from scipy import linalg
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
    "circularity",
    "column_power",
    "complex_inverse_participation",
    "discrete_log_order",
    "fourier_basis",
    "frequency_fraction",
    "frequency_power",
    "gini",
    "inverse_participation",
    "inverse_participations",
    "is_prime",
    "key_frequencies_by_embedding",
    "least_primitive_root",
    "participation",
    "square_frequency_power",
]

# Energy beside the constant counts as none below this share of the whole. Rounding of a constant float64
# column leaves about 1e-31; the smallest variation that float32 weights can hold beside a constant is about
# 1e-15.
NO_VARIATION = 1e-24

# Eigenvectors of a Gram matrix are used for components of at least this share of the largest eigenvalue.
_GRAM_SHARE = 1e-4


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
    return basis.sum_by_frequency((basis.matrix @ values).square())


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
    require_all(
        power.sum(-1) > NO_VARIATION * values.square().sum((-2, -1)),
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
    return inverse_participations(*slots)[0]


def complex_inverse_participation(*slots: Tensor) -> Tensor:
    """Mean inverse participation ratio in the complex transform: sum_nu |w_nu|^4 with sum_nu |w_nu|^2 = 1.

    The form printed in arXiv 2301.02679, constant dropped: nu runs over the n - 1 signed frequencies that are
    not 0, so a pure cosine gives 1/2 whatever is added to it. (The weights of a neuron behind an embedding
    carry its bias and the mean of the other operand in the constant.) The mean is over neurons and slots that
    vary, as in `inverse_participation`.
    """
    return inverse_participations(*slots)[1]


def inverse_participations(*slots: Tensor) -> tuple[Tensor, Tensor]:
    """`inverse_participation` and `complex_inverse_participation` of the same slots, from one transform.

    The power of a frequency is shared by its two signs in equal parts, and n/2 has but one.
    """
    if not slots:
        raise ValueError("inverse participation: got no map, expected one (..., n, neurons) per operand")
    totals: list[Tensor] = []
    count: Tensor | None = None
    for slot in slots:
        weights = _unit_scale(_float64(slot, "inverse participation"), (-2,))
        spread = (weights - weights.mean(-2, keepdim=True)).square().sum(-2)
        varies = spread > NO_VARIATION * weights.square().sum(-2)
        squares = _safe_shares(column_power(weights)).square()
        alone = squares[..., -1, :] if weights.shape[-2] % 2 == 0 else torch.zeros_like(spread)
        real = squares.sum(-2)
        found = [torch.where(varies, value, 0.0).sum(-1) for value in (real, (real + alone) / 2.0)]
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
        count = varies.sum(-1) if count is None else count + varies.sum(-1)
    assert count is not None
    require_all(
        count > 0,
        "inverse participation: no neuron varies along the cyclic axis, expected at least one",
    )
    return totals[0] / count, totals[1] / count


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
    require_all(
        variance > NO_VARIATION * values.square().sum((-2, -1)),
        "circularity: embedding without variance, expected rows that differ",
    )
    scores, energy = _principal_scores(centred, 4)
    # unit vectors, of which the power at k is 2/n |sum_j v_j e^{2 pi i jk/n}|^2
    circular = column_power(scores)[..., : (n - 1) // 2, :].amax(-2).clamp(max=1.0)
    counted = energy >= 1e-12 * variance[..., None]
    return torch.where(counted, circular, 0.0).sum(-1) / 4.0


def _principal_scores(centred: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(..., n, q) unit scores of the q <= count leading principal components, and (..., q) their energies.

    From the eigenvectors of the smaller Gram matrix where the last of them is not small beside the first: its
    rounding is that of the largest eigenvalue. By a singular value decomposition elsewhere.
    """
    n, d = centred.shape[-2:]
    q = min(count, n, d)
    flat = centred.reshape(-1, n, d)
    scores = flat.new_empty(len(flat), n, q)
    energies = flat.new_empty(len(flat), q)
    for index, table in enumerate(flat):
        gram = table @ table.mT if n <= d else table.mT @ table
        top = (len(gram) - q, len(gram) - 1)
        values, vectors = linalg.eigh(gram.cpu().numpy(), subset_by_index=top, check_finite=False)
        energy = torch.from_numpy(values).flip(0).to(table.device)
        if energy[-1] > _GRAM_SHARE * energy[0]:
            vector = torch.from_numpy(vectors).flip(1).to(table.device)
            scores[index] = vector if n <= d else table @ vector / energy.sqrt()
            energies[index] = energy
        else:
            left, scale, _ = torch.linalg.svd(table, full_matrices=False)
            scores[index], energies[index] = left[:, :q], scale[:q].square()
    return scores.reshape(*centred.shape[:-1], q), energies.reshape(*centred.shape[:-2], q)


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


def require_all(holds: Tensor, message: str) -> None:
    failing = int((~holds).sum())
    if failing:
        raise ValueError(f"{message} (fails for {failing} of {holds.numel()})")


def _shares(values: Tensor, what: str) -> Tensor:
    values = values.to(torch.float64)
    if values.dim() < 1 or values.shape[-1] < 1:
        raise ValueError(f"{what}: got shape {tuple(values.shape)}, expected (..., frequencies)")
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise ValueError(f"{what}: got negative or non-finite powers, expected nonnegative ones")
    require_all(values.amax(-1) > 0, f"{what}: got powers that are all zero, expected a positive one")
    values = values / values.amax(-1, keepdim=True)
    return values / values.sum(-1, keepdim=True)


def _safe_shares(power: Tensor) -> Tensor:
    """Shares along axis -2, and zeros where there is no power (such columns are masked by the caller)."""
    total = power.sum(-2, keepdim=True)
    return power / torch.where(total > 0, total, 1.0)
