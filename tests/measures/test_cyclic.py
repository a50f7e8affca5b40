"""The cyclic axis: its basis, and the order that turns products into sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grokscope.measures.cyclic import discrete_log_order, fourier_basis, is_prime, least_primitive_root


def close(actual: Tensor, expected: object, atol: float = 1e-12) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.to(torch.float64), wanted, rtol=0, atol=atol)


def test_primes() -> None:
    assert [n for n in range(-2, 60) if is_prime(n)] == [
        2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59,
    ]  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 7, 12, 113, 118])
def test_basis_is_orthonormal_and_complete(n: int) -> None:
    basis = fourier_basis(n)
    assert basis.matrix.shape == (n, n)
    close(basis.matrix @ basis.matrix.T, torch.eye(n))
    assert basis.frequencies == tuple(range(1, n // 2 + 1))
    assert sorted(row for rows in basis.groups for row in rows) == list(range(1, n))
    assert [len(rows) for rows in basis.groups] == [1 if 2 * k == n else 2 for k in basis.frequencies]
    assert basis.membership().sum().item() == n - 1


def test_basis_rows_are_the_named_functions() -> None:
    basis = fourier_basis(12)
    a = torch.arange(12, dtype=torch.float64)
    angle = 2 * math.pi * 5 * a / 12
    close(basis.matrix[0], [1 / math.sqrt(12)] * 12)
    close(basis.rows([5]) * math.sqrt(6), torch.stack([torch.cos(angle), torch.sin(angle)]))
    close(basis.rows([6])[0], torch.cos(math.pi * a) / math.sqrt(12))
    with pytest.raises(ValueError, match=r"1\.\.6"):
        basis.rows([7])
    with pytest.raises(ValueError, match="at least 2 points"):
        fourier_basis(1)


@pytest.mark.parametrize(
    ("p", "root"), [(2, 1), (3, 2), (7, 3), (23, 5), (41, 6), (59, 2), (113, 3), (191, 19)]
)
def test_least_primitive_root(p: int, root: int) -> None:
    assert least_primitive_root(p) == root


@pytest.mark.parametrize("p", [2, 3, 23, 59, 113])
def test_discrete_log_order_turns_products_into_sums(p: int) -> None:
    order = discrete_log_order(p)
    assert sorted(order.tolist()) == list(range(1, p))
    logs = torch.empty(p, dtype=torch.int64)
    logs[order] = torch.arange(p - 1)
    products = torch.outer(order, order) % p
    steps = torch.arange(p - 1)
    assert torch.equal(logs[products], (steps[:, None] + steps[None, :]) % (p - 1))


@pytest.mark.parametrize("p", [-3, 0, 1, 4, 91, 118])
def test_discrete_log_order_wants_a_prime(p: int) -> None:
    with pytest.raises(ValueError, match="expected a prime"):
        discrete_log_order(p)
