import math

import pytest
import torch
from torch import Tensor

from grokscope.measures.gradients import (
    BlockGradient,
    gradient_norms,
    head_over_embedding,
    update_norms,
    update_ratio,
    with_decay,
)

_BLOCKS = {"head": ("U", "u"), "embedding": ("E",)}


def _tensors(u: float, bias: float, e: float) -> dict[str, Tensor]:
    return {"U": torch.full((2, 3), u), "u": torch.full((3,), bias), "E": torch.full((4, 4), e)}


def test_block_norms_by_hand() -> None:
    sizes = gradient_norms(_tensors(1.0, 2.0, 0.5), _tensors(2.0, 4.0, 0.25), _BLOCKS)
    head, embedding = sizes["head"], sizes["embedding"]
    assert head.norm == pytest.approx(math.sqrt(6 + 12))
    assert head.per_parameter == pytest.approx(math.sqrt(18 / 9))
    assert head.relative == pytest.approx(0.5)
    assert (embedding.norm, embedding.per_parameter, embedding.relative) == (2.0, 0.5, 2.0)
    ratios = head_over_embedding(head, embedding)
    assert ratios.norm == pytest.approx(math.sqrt(18) / 2)
    assert ratios.per_parameter == pytest.approx(math.sqrt(2) / 0.5)
    assert ratios.relative == pytest.approx(0.25)


def test_an_undefined_ratio_is_absent() -> None:
    sizes = gradient_norms(_tensors(1.0, 2.0, 0.0), _tensors(0.0, 0.0, 1.0), _BLOCKS)
    assert sizes["head"].relative is None
    assert sizes["embedding"].norm == 0
    ratios = head_over_embedding(sizes["head"], sizes["embedding"])
    assert (ratios.norm, ratios.per_parameter, ratios.relative) == (None, None, None)
    assert head_over_embedding(sizes["embedding"], BlockGradient(2.0, 1.0, 1.0)).norm == 0


def test_float32_gradients_are_squared_in_float64() -> None:
    grads = {"E": torch.full((5,), 1e-30, dtype=torch.float32)}
    size = gradient_norms(grads, {"E": torch.ones(5)}, {"embedding": ("E",)})["embedding"]
    assert size.norm == pytest.approx(math.sqrt(5) * 1e-30, rel=1e-6)


def test_decay_is_added_where_it_acts() -> None:
    grads, params = _tensors(1.0, 2.0, 0.5), _tensors(2.0, 4.0, 0.25)
    decayed = with_decay(grads, params, {"U": 0.5, "E": -2.0})
    assert torch.equal(decayed["U"], torch.full((2, 3), 2.0, dtype=torch.float64))
    assert torch.equal(decayed["u"], torch.full((3,), 2.0, dtype=torch.float64))
    assert torch.equal(decayed["E"], torch.zeros(4, 4, dtype=torch.float64))


def test_decayed_gradient_is_the_gradient_of_the_penalised_loss() -> None:
    w = torch.arange(6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    (plain,) = torch.autograd.grad(w.sin().sum(), w)
    (penalised,) = torch.autograd.grad(w.sin().sum() + 0.3 / 2 * w.square().sum(), w)
    torch.testing.assert_close(with_decay({"w": plain}, {"w": w.detach()}, {"w": 0.3})["w"], penalised)


def test_updates_between_saves_by_hand() -> None:
    updates = update_norms(_tensors(1.0, 0.0, 1.0), _tensors(1.0, 2.0, 1.5), _BLOCKS)
    assert updates["head"].norm == pytest.approx(math.sqrt(12))
    assert updates["head"].relative == pytest.approx(math.sqrt(2))
    assert updates["embedding"].norm == pytest.approx(2.0)
    assert updates["embedding"].relative == pytest.approx(0.5)
    ratio = update_ratio(updates["head"].norm, updates["embedding"].norm)
    assert ratio == pytest.approx(math.sqrt(12) / 2)
    from_zero = update_norms(_tensors(0.0, 0.0, 1.0), _tensors(1.0, 0.0, 1.0), _BLOCKS)
    assert from_zero["head"].relative is None
    with pytest.raises(ValueError, match="embedding update of 0"):
        update_ratio(1.0, from_zero["embedding"].norm)


def test_small_updates_of_float32_weights_survive() -> None:
    before = {"E": torch.ones(3, dtype=torch.float32)}
    after = {"E": torch.ones(3, dtype=torch.float32) + torch.finfo(torch.float32).eps}
    moved = update_norms(before, after, {"embedding": ("E",)})["embedding"]
    assert moved.norm == pytest.approx(math.sqrt(3) * 2**-23, rel=1e-12)


def test_arguments_that_do_not_fit_are_refused() -> None:
    grads, params = _tensors(1.0, 1.0, 1.0), _tensors(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no tensor 'V'"):
        gradient_norms(grads, params, {"head": ("V",)})
    with pytest.raises(ValueError, match="no tensor 'u'"):
        gradient_norms(grads, {"U": params["U"]}, {"head": ("U", "u")})
    with pytest.raises(ValueError, match="expected equal shapes"):
        gradient_norms(grads, params | {"E": torch.ones(4)}, _BLOCKS)
    with pytest.raises(ValueError, match="non-finite values in block 'embedding'"):
        gradient_norms(grads | {"E": torch.full((4, 4), float("nan"))}, params, _BLOCKS)
    with pytest.raises(ValueError, match="without an entry"):
        gradient_norms(grads, params, {"head": ()})
    with pytest.raises(ValueError, match="expected equal shapes"):
        update_norms(params, params | {"E": torch.ones(4)}, _BLOCKS)
    with pytest.raises(ValueError, match="no tensor 'E'"):
        with_decay(grads, {"U": params["U"]}, {"E": 1.0})
