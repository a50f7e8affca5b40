"""Norms of groups of tensors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.measures.norms import frobenius_norm, frobenius_total


def test_known_totals_per_step() -> None:
    first = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    second = torch.tensor([[[4.0]], [[0.0]]])
    total = frobenius_total([first, second])
    assert total.dtype == torch.float64
    assert total.tolist() == [5.0, 2.0]
    assert frobenius_norm(second).tolist() == [4.0, 0.0]
    assert frobenius_total([first[0], second[0]], batch_dims=0).item() == 5.0


def test_float32_sums_are_taken_in_float64() -> None:
    ones = torch.ones(1, 4097, 4097)
    assert frobenius_norm(ones).item() == 4097.0
    huge = torch.full((1, 2, 2), 1e30)
    assert frobenius_norm(huge).item() == pytest.approx(2e30, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_total_agrees_with_loops_and_is_homogeneous(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (2, 2, 2)]
    tensors = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    expected = [
        math.sqrt(sum(x * x for tensor in tensors for x in tensor[step].flatten().tolist()))
        for step in range(2)
    ]
    assert frobenius_total(tensors).tolist() == pytest.approx(expected, rel=1e-12)
    assert frobenius_total([scale * t for t in tensors]).tolist() == pytest.approx(
        [scale * e for e in expected], rel=1e-12
    )
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    rotated = frobenius_total([tensors[0] @ rotation, *tensors[1:]])
    assert rotated.tolist() == pytest.approx(expected, rel=1e-12)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="got no tensor"):
        frobenius_total([])
    with pytest.raises(ValueError, match="shared by all tensors"):
        frobenius_total([torch.ones(2, 3), torch.ones(3, 3)])
    with pytest.raises(ValueError, match="non-finite"):
        frobenius_norm(torch.tensor([[math.inf]]))
    with pytest.raises(ValueError, match="at least 1 axes"):
        frobenius_norm(torch.tensor(1.0))
