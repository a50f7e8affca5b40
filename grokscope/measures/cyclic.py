"""The cyclic group Z_n and its real functions: an orthonormal basis, and the multiplicative group of a prime.

Scope: what the Fourier measures stand on. Multiplication modulo a prime p becomes addition on Z_{p-1} once
the nonzero residues are put in `discrete_log_order`; that axis is of even order, which is why the basis
treats even n
with care: the frequency n/2 is one function there, not two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FourierBasis:
    """Real orthonormal basis of the functions on Z_n.

    Attributes:
        n: order of the axis.
        matrix: (n functions, n points), orthonormal rows: constant, cos_1, sin_1, cos_2, ...; for even n the
            last row is the alternating function, the one function of frequency n/2.
        frequencies: 1, ..., n // 2.
        groups: for each frequency, the rows of ``matrix`` that belong to it (two, or one for n/2).
    """

    n: int
    matrix: Tensor
    frequencies: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    def membership(self) -> Tensor:
        """Which row belongs to which frequency, as a 0/1 matrix (F, n functions); the constant to none."""
        member = torch.zeros(len(self.groups), self.n, dtype=torch.float64, device=self.matrix.device)
        for index, rows in enumerate(self.groups):
            member[index, list(rows)] = 1.0
        return member

    def sum_by_frequency(self, values: Tensor) -> Tensor:
        """(..., n functions, d) to (..., F, d): the sum over the rows of each frequency."""
        last = 2 * ((self.n - 1) // 2) + 1
        paired = values[..., 1:last:2, :] + values[..., 2:last:2, :]
        return paired if self.n % 2 else torch.cat([paired, values[..., last:, :]], dim=-2)

    def rows(self, frequencies: Iterable[int]) -> Tensor:
        """The basis functions (rows, n points) of the frequencies; ValueError for one outside 1..n//2."""
        chosen: list[int] = []
        for frequency in frequencies:
            if not 1 <= frequency <= self.n // 2:
                raise ValueError(
                    f"basis rows: got frequency {frequency}, expected one in 1..{self.n // 2} (n = {self.n})"
                )
            chosen.extend(self.groups[frequency - 1])
        return self.matrix[chosen]


def is_prime(n: int) -> bool:
    """Whether n is prime (trial division; n is a modulus, so small)."""
    return n >= 2 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def least_primitive_root(p: int) -> int:
    """The least generator of the multiplicative group modulo a prime p; ValueError when p is not prime."""
    if not is_prime(p):
        raise ValueError(f"least primitive root: got p = {p}, expected a prime")
    divisors = [q for q in range(2, p) if (p - 1) % q == 0 and is_prime(q)]
    return next(g for g in range(1, p) if all(pow(g, (p - 1) // q, p) != 1 for q in divisors))


def discrete_log_order(p: int) -> Tensor:
    """The nonzero residues in order of their discrete logarithm.

    g^0, g^1, ..., g^(p-2) modulo p, g the least primitive root. Indexing rows by it turns multiplication
    modulo p into addition on Z_{p-1}.

    Returns:
        (p - 1,) int64. Raises ValueError when p is not prime.
    """
    root = least_primitive_root(p)
    residues = [1]
    for _ in range(p - 2):
        residues.append(residues[-1] * root % p)
    return torch.tensor(residues, dtype=torch.int64)


@lru_cache(maxsize=16)
def fourier_basis(n: int, device: torch.device | str | None = None) -> FourierBasis:
    """The real orthonormal basis of functions on Z_n (float64); see `FourierBasis`. ValueError for n < 2.

    The same tensors are returned for the same arguments; they are not to be changed.
    """
    if n < 2:
        raise ValueError(f"fourier basis: got n = {n}, expected at least 2 points")
    points = torch.arange(n, dtype=torch.int64)
    k = torch.arange(1, (n - 1) // 2 + 1, dtype=torch.int64)
    # The product is reduced modulo n in integers, so that the angle keeps full precision at any frequency.
    angle = (torch.outer(k, points) % n).to(torch.float64) * (2.0 * math.pi / n)
    matrix = torch.full((n, n), 1.0 / math.sqrt(n), dtype=torch.float64)
    paired = 2 * len(k)
    matrix[1 : paired + 1 : 2] = math.sqrt(2.0 / n) * torch.cos(angle)
    matrix[2 : paired + 1 : 2] = math.sqrt(2.0 / n) * torch.sin(angle)
    groups: list[tuple[int, ...]] = [(2 * i - 1, 2 * i) for i in range(1, len(k) + 1)]
    if n % 2 == 0:
        matrix[n - 1] *= 1.0 - 2.0 * (points % 2).to(torch.float64)
        groups.append((n - 1,))
    return FourierBasis(n, matrix.to(device), tuple(range(1, n // 2 + 1)), tuple(groups))
