"""Singular values of maps: ranks, Schatten norms, and how balanced a factorisation is.

Scope: float64 singular value decompositions and what follows from them. A Gram matrix would be cheaper and
gives stable, entropy and participation ranks well, but on a rank-deficient map the square roots of its small
eigenvalues are noise of relative size 1e-8: enough to spoil effective and numerical rank and every Schatten
power up to 1.

Shape suffixes: (..., m, n) maps, (..., r) singular values in descending order, leading axes are batch axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values in descending order by a float64 decomposition: (..., m, n) to (..., min(m, n)).

    A map that is a product should be multiplied out in float64, or handed to `factored_singular_values`.
    Raises ValueError for fewer than two axes or a non-finite entry.
    """
    return _values(_float64(matrix, "singular values"))


def factored_singular_values(factors: Sequence[Tensor]) -> Tensor:
    """Singular values of the product F_1 F_2 ... F_q without forming it.

    The product is cut at its narrowest inner width r into a left and a right part; their QR decompositions
    leave an r x r core with the same singular values. Exact, and for narrow maps much cheaper than
    decomposing the product; the zeros beyond the narrowest width are not computed.

    Args:
        factors: matrices (..., m_i, m_{i+1}) in the order in which they are multiplied.

    Returns:
        (..., r) descending, r the smallest of all widths m_1, ..., m_{q+1}.
        Raises ValueError for no factor, widths that do not chain, or a non-finite entry.
    """
    chain = _chain(factors, "singular values of a product")
    inner = [factor.shape[-1] for factor in chain[:-1]]
    narrowest = min(chain[0].shape[-2], chain[-1].shape[-1])
    if not inner or min(inner) >= narrowest:
        return _values(_product(chain))
    cut = inner.index(min(inner)) + 1
    left, right = _product(chain[:cut]), _product(chain[cut:])
    left_r = torch.linalg.qr(left, mode="r").R
    right_r = torch.linalg.qr(right.mT, mode="r").R
    return torch.linalg.svdvals(left_r @ right_r.mT)


def second_moment_scales(second_moment: Tensor) -> Tensor:
    """Scales of a second-moment matrix such as (1/N) sum A_i^T A_i: the square roots of its eigenvalues.

    The eigenvalues are squared scales, so ranks and norms are those of their square roots. Eigenvalues at the
    rounding level of float64, negative ones among them, count as 0: below about 1e-7 of the largest scale
    nothing can be read from a second moment.

    Args:
        second_moment: (..., n, n), symmetric positive semidefinite up to rounding (ValueError when it is
            not).

    Returns:
        (..., n) descending.
    """
    values = _float64(second_moment, "scales of a second moment")
    if values.shape[-1] != values.shape[-2]:
        raise ValueError(f"scales of a second moment: got {tuple(values.shape)}, expected a square matrix")
    size = values.abs().amax((-2, -1)).clamp(min=torch.finfo(torch.float64).tiny)
    skew = (values - values.mT).abs().amax((-2, -1)) / size
    eigenvalues = torch.linalg.eigvalsh((values + values.mT) / 2.0).flip(-1)
    if bool((skew > 1e-6).any()) or bool((eigenvalues[..., -1] < -1e-6 * size).any()):
        raise ValueError(
            "scales of a second moment: got a matrix that is not symmetric positive semidefinite"
        )
    floor = values.shape[-1] * torch.finfo(torch.float64).eps * eigenvalues[..., :1]
    return torch.where(eigenvalues > floor, eigenvalues, 0.0).sqrt()


def stable_rank(sigma: Tensor) -> Tensor:
    """sum sigma^2 / sigma_1^2 = |A|_F^2 / |A|_2^2 (what arXiv 2606.05863 calls the effective rank).

    Here and in the other ranks sigma is (..., r), the result (...), and a zero map raises ValueError.
    """
    return _relative(sigma, "stable rank").square().sum(-1)


def effective_rank(sigma: Tensor) -> Tensor:
    """Roy and Vetterli's effective rank: exp of the entropy of sigma / sum sigma."""
    relative = _relative(sigma, "effective rank")
    return _perplexity(relative)


def entropy_rank(sigma: Tensor) -> Tensor:
    """Exp of the entropy of the energies sigma^2 / sum sigma^2."""
    return _perplexity(_relative(sigma, "entropy rank").square())


def participation_rank(sigma: Tensor) -> Tensor:
    """(sum sigma^2)^2 / sum sigma^4."""
    energy = _relative(sigma, "participation rank").square()
    return energy.sum(-1).square() / energy.square().sum(-1)


def numerical_rank(sigma: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Number of singular values above max(m, n) eps sigma_1, eps of the dtype in which the map was stored.

    Args:
        sigma: (..., r).
        shape: (m, n) of the map, or a longer shape that ends so.
        dtype: floating dtype of the stored map (ValueError for another).

    Returns:
        (...) int64.
    """
    return _counts(_relative(sigma, "numerical rank"), shape, dtype).sum(-1)


def above_tolerance(sigma: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Singular values with those that `numerical_rank` does not count set to 0, (..., r) to (..., r).

    Arguments as in `numerical_rank`; a zero map stays one.
    """
    values = _checked(sigma, "singular values above the tolerance")
    return torch.where(_counts(values, shape, dtype), values, 0.0)


def schatten_power(sigma: Tensor, exponent: float, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The q-th power of a Schatten norm: sum sigma^q over singular values above the numerical-rank tolerance.

    For exponents below 1 values at the rounding level would otherwise make up the sum. A zero map gives 0.

    Args:
        sigma: (..., r), units u.
        exponent: q > 0 (ValueError otherwise); 2/L for a product of L balanced layers, 1/2, or 1 (nuclear
            norm).
        shape, dtype: as in `numerical_rank`.

    Returns:
        (...), units u^q.
    """
    if not exponent > 0:
        raise ValueError(f"schatten power: got exponent {exponent}, expected a positive one")
    values = _checked(sigma, "schatten power")
    return torch.where(_counts(values, shape, dtype), values.pow(exponent), 0.0).sum(-1)


def frobenius(sigma: Tensor) -> Tensor:
    """Frobenius norm sqrt(sum sigma^2), (..., r) to (...); 0 for a zero map."""
    return torch.linalg.vector_norm(_checked(sigma, "frobenius norm"), dim=-1)


def spectral(sigma: Tensor) -> Tensor:
    """Spectral norm, the largest singular value, (..., r) to (...); 0 for a zero map."""
    return _checked(sigma, "spectral norm").amax(-1)


def balance_gap(layers: Sequence[Tensor]) -> Tensor:
    """sum_l |W_l|_F^2 - L sum_i sigma_i(W_L ... W_1)^{2/L}: nonnegative, zero exactly for balanced factors.

    By it layerwise weight decay acts on the product A as (lambda L / 2) sum sigma(A)^{2/L} plus lambda/2 of
    the gap. An identity for linear networks, only an inequality for masked maps (arXiv 2606.05863). Rounding
    can leave about -1e-15 of the squared norm. The product is formed in float64 and so the tolerance below
    which singular values count as zero is float64's, whatever the layers are stored in.

    Args:
        layers: W_1, ..., W_L in the order in which they act on a column, each (..., out, in).

    Returns:
        (...), squared units of the layers. Raises ValueError for no layer, widths that do not chain or a
        non-finite entry.
    """
    chain = _chain(list(reversed(layers)), "balance gap")
    energy = torch.stack([layer.square().sum((-2, -1)) for layer in chain]).sum(0)
    sigma = factored_singular_values(chain)
    shape = (chain[0].shape[-2], chain[-1].shape[-1])
    return energy - len(chain) * schatten_power(sigma, 2.0 / len(chain), shape, torch.float64)


def imbalances(layers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """W_{l+1}^T W_{l+1} - W_l W_l^T between neighbours, all zero exactly when the factorisation is balanced.

    Gradient flow of any loss of the product conserves each of them; with decay lambda each shrinks as
    e^{-2 lambda t}. Arguments and errors as in `balance_gap`; each result is (..., width, width).
    """
    chain = _chain(list(reversed(layers)), "imbalances")[::-1]
    return tuple(upper.mT @ upper - lower @ lower.mT for lower, upper in pairwise(chain))


def spectrum_summary(
    sigma: Tensor, shape: Sequence[int], dtype: torch.dtype, depth: int | None = None
) -> dict[str, Tensor]:
    """Every spectral quantity of a map from its singular values, by public name.

    Every rank and norm is of one spectrum, that of the values above the tolerance of `numerical_rank` with
    the others set to zero: what is below is the rounding of the stored weights, and a rank that counted it
    could exceed the numerical one. So stable <= participation <= entropy <= effective <= numerical rank, up
    to rounding in float64. The singular values themselves are given as they are.

    Args:
        sigma: (..., r) descending.
        shape: (m, n) of the map.
        dtype: dtype in which it (or its factors) was stored.
        depth: number L of linear layers whose product it is; adds ``schatten_two_over_depth``.

    Returns:
        ``singular_values`` (..., r) and, each (...): ``stable_rank``, ``effective_rank``, ``entropy_rank``,
        ``participation``, ``numerical_rank`` (int64), ``schatten_half``, ``nuclear``, ``frobenius``,
        ``spectral``. Raises ValueError where the map is zero, or for a depth below 1.
    """
    kept = above_tolerance(sigma, shape, dtype)
    summary = {
        "singular_values": sigma.to(torch.float64),
        "stable_rank": stable_rank(kept),
        "effective_rank": effective_rank(kept),
        "entropy_rank": entropy_rank(kept),
        "participation": participation_rank(kept),
        "numerical_rank": numerical_rank(kept, shape, dtype),
        "schatten_half": schatten_power(kept, 0.5, shape, dtype),
        "nuclear": schatten_power(kept, 1.0, shape, dtype),
        "frobenius": frobenius(kept),
        "spectral": spectral(kept),
    }
    if depth is not None:
        if depth < 1:
            raise ValueError(f"spectrum: got depth {depth}, expected at least 1 layer")
        summary["schatten_two_over_depth"] = schatten_power(kept, 2.0 / depth, shape, dtype)
    return summary


def map_summary(
    matrix: Tensor, dtype: torch.dtype | None = None, depth: int | None = None
) -> dict[str, Tensor]:
    """`spectrum_summary` of a map (..., m, n); ``dtype`` defaults to the matrix's own."""
    stored = matrix.dtype if dtype is None else dtype
    return spectrum_summary(singular_values(matrix), matrix.shape, stored, depth)


def _float64(matrix: Tensor, what: str) -> Tensor:
    if matrix.dim() < 2 or matrix.is_complex() or 0 in matrix.shape[-2:]:
        raise ValueError(
            f"{what}: got {matrix.dtype} of shape {tuple(matrix.shape)}, expected real (..., m, n)"
        )
    values = matrix.to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{what}: got a map with non-finite entries, expected finite values")
    return values


def _chain(factors: Sequence[Tensor], what: str) -> list[Tensor]:
    """The factors in float64, checked to multiply from left to right."""
    if not factors:
        raise ValueError(f"{what}: got no matrix, expected at least one")
    chain = [_float64(factor, what) for factor in factors]
    if any(a.shape[-1] != b.shape[-2] for a, b in pairwise(chain)):
        shapes = " x ".join(str(tuple(factor.shape[-2:])) for factor in chain)
        raise ValueError(f"{what}: got the product {shapes}, expected widths that chain")
    return chain


def _product(chain: Sequence[Tensor]) -> Tensor:
    product = chain[0]
    for factor in chain[1:]:
        product = product @ factor
    return product


def _values(matrix: Tensor) -> Tensor:
    """Singular values of (..., m, n); of a long map those of its triangular factor, which are the same."""
    m, n = matrix.shape[-2:]
    if max(m, n) < 2 * min(m, n):
        return torch.linalg.svdvals(matrix)
    return torch.linalg.svdvals(torch.linalg.qr(matrix if m > n else matrix.mT, mode="r").R)


def _checked(sigma: Tensor, what: str) -> Tensor:
    values = sigma.to(torch.float64)
    if values.dim() < 1 or values.shape[-1] < 1 or not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise ValueError(f"{what}: got shape {tuple(sigma.shape)}, expected finite nonnegative (..., r >= 1)")
    return values


def _relative(sigma: Tensor, what: str) -> Tensor:
    """Singular values over the largest; a zero map has no rank."""
    values = _checked(sigma, what)
    largest = values.amax(-1, keepdim=True)
    zero = int((largest == 0).sum())
    if zero:
        raise ValueError(
            f"{what}: got a zero map, expected a nonzero one (fails for {zero} of {largest.numel()})"
        )
    return values / largest


def _perplexity(weights: Tensor) -> Tensor:
    shares = weights / weights.sum(-1, keepdim=True)
    return torch.exp(-torch.xlogy(shares, shares).sum(-1))


def _counts(values: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Which singular values are above the tolerance; none of a zero map."""
    largest = values.amax(-1, keepdim=True)
    return values / torch.where(largest > 0, largest, 1.0) > _tolerance(shape, dtype)


def _tolerance(shape: Sequence[int], dtype: torch.dtype) -> float:
    if not dtype.is_floating_point or len(shape) < 2:
        raise ValueError(
            f"rank tolerance: got {dtype} and shape {tuple(shape)}, expected a floating dtype and (m, n)"
        )
    return max(shape[-2:]) * torch.finfo(dtype).eps
