"""StableMax against its definition, autograd, and where softmax has collapsed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grokscope.measures.stablemax import stablemax, stablemax_gradient, stablemax_loss


def draw(*shape: int) -> torch.Tensor:
    return 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_by_hand():
    # s = 3, 1, 1/2
    logits = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(stablemax(logits), torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64) / 4.5)
    assert stablemax_loss(logits[None], torch.tensor([2])).item() == pytest.approx(math.log(9))
    found = stablemax_gradient(logits[None], torch.tensor([0]))
    expected = torch.tensor([[(3 / 4.5 - 1) / 3, 1 / 4.5, 0.5 / 4.5 / 2]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_autograd_s():
    logits, targets = draw(4, 6, 5).requires_grad_(), torch.arange(24).reshape(4, 6) % 5
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    loss = -(s / s.sum(-1, keepdim=True)).gather(-1, targets[..., None])[..., 0].log()
    torch.testing.assert_close(stablemax_loss(logits, targets), loss)
    (expected,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(stablemax_gradient(logits.detach(), targets), expected)


@given(st.permutations(range(5)))
def test_relabelling_the_classes(order):
    logits, targets = draw(7, 5), torch.arange(7) % 5
    inverse = torch.tensor(order).argsort()
    torch.testing.assert_close(
        stablemax_loss(logits[:, list(order)], inverse[targets]), stablemax_loss(logits, targets)
    )


def test_it_still_pulls_where_softmax_has_collapsed():
    logits = torch.tensor([[200.0, 0.0, -200.0]])
    target = torch.tensor([0])
    assert torch.nn.functional.cross_entropy(logits, target).item() == 0
    # the others have s = 1 and 1/201 beside 201
    assert stablemax_loss(logits, target).item() == pytest.approx(math.log1p((1 + 1 / 201) / 201), rel=1e-4)
    assert stablemax_gradient(logits, target)[0, 0] < -1e-6
