import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures import linear_reduction
from grokscope.measures.gate_patterns import count_patterns
from grokscope.measures.linear_reduction import (
    affine_maps,
    agop,
    mean_active,
    reduction_residual,
    rule_gap,
    stable_rank_mean,
)
from grokscope.measures.regions import GatedForm, gates


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _form(depth: int, *, biases: bool = True, direct: bool = False, width: int = 4) -> GatedForm:
    sizes = [width, 7, 6, 5][: depth + 1]
    return GatedForm(
        tuple(_random(i, sizes[i], sizes[i + 1]) for i in range(depth)),
        tuple(_random(10 + i, sizes[i + 1]) if biases else None for i in range(depth)),
        _random(20, sizes[depth], 3),
        _random(21, 3) if biases else None,
        _random(22, width, 3) if direct else None,
    )


def _plain(form: GatedForm, z: Tensor) -> Tensor:
    """The network as anyone would write it, without anything of the module under test."""
    hidden = z
    for weight, bias in zip(form.weights, form.biases, strict=True):
        hidden = torch.relu(hidden @ weight + (0 if bias is None else bias))
    logits = hidden @ form.head + (0 if form.head_bias is None else form.head_bias)
    return logits if form.direct is None else logits + z @ form.direct


_FORMS = [
    pytest.param(_form(1), id="one layer"),
    pytest.param(_form(1, biases=False), id="one layer, no biases"),
    pytest.param(_form(1, direct=True), id="one layer and a direct path"),
    pytest.param(_form(2), id="two layers"),
    pytest.param(_form(3), id="three layers"),
    pytest.param(_form(3, biases=False), id="three layers, no biases"),
]


def test_maps_by_hand() -> None:
    form = GatedForm(
        (torch.tensor([[1.0, 0.0], [0.0, 2.0]]),),
        (torch.tensor([0.0, -1.0]),),
        torch.tensor([[1.0, 3.0], [5.0, 7.0]]),
        torch.tensor([0.5, 0.0]),
    )
    maps, offsets = affine_maps(form, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert maps.tolist() == [[[1.0, 0.0], [3.0, 0.0]], [[1.0, 10.0], [3.0, 14.0]]]
    assert offsets.tolist() == [[0.5, 0.0], [-4.5, -7.0]]


@pytest.mark.parametrize("form", _FORMS)
def test_maps_are_the_autograd_jacobian_and_reproduce_the_forward(form: GatedForm) -> None:
    z = _random(30, 25, 4)
    maps, offsets = affine_maps(form, z)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: _plain(form, x)))(z)
    torch.testing.assert_close(maps, jacobian, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((maps @ z.unsqueeze(2)).squeeze(2) + offsets, _plain(form, z))


@pytest.mark.parametrize("form", _FORMS)
def test_residual_is_at_rounding_level(form: GatedForm) -> None:
    residual = reduction_residual(form, _random(30, 50, 4), lambda z: _plain(form, z))
    assert residual.forward <= 1e-12
    assert residual.jacobian <= 1e-12
    assert (residual.n_forward, residual.n_jacobian) == (50, 8)


def test_residual_sees_a_network_that_is_not_the_form() -> None:
    form = _form(1)
    z = _random(30, 50, 4)
    scaled = reduction_residual(form, z, lambda x: 1.25 * _plain(form, x))
    assert scaled.forward == pytest.approx(0.2, rel=1e-9)
    assert scaled.jacobian == pytest.approx(0.25, rel=1e-9)
    # a function with the same values has another Jacobian where the graph is cut
    cut = reduction_residual(form, z, lambda x: _plain(form, x) + (x - x.detach()).sum(dim=1, keepdim=True))
    assert cut.forward <= 1e-12
    assert cut.jacobian > 0.05


def test_residual_in_blocks_is_the_residual_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    form, z = _form(3), _random(30, 23, 4)
    whole = reduction_residual(form, z, lambda x: 1.1 * _plain(form, x))
    monkeypatch.setattr(linear_reduction, "_BLOCK_ELEMENTS", 5 * form.n_classes * 7)
    assert reduction_residual(form, z, lambda x: 1.1 * _plain(form, x)).forward == pytest.approx(
        whole.forward
    )


def test_a_reduction_without_scale_or_meaning_is_refused() -> None:
    form, z = _form(1), _random(30, 5, 4)
    with pytest.raises(ValueError, match="logits that are all zero"):
        reduction_residual(form, z, lambda x: 0 * _plain(form, x))
    with pytest.raises(ValueError, match="non-finite"):
        reduction_residual(form, z, lambda x: float("nan") * _plain(form, x))
    with pytest.raises(ValueError, match="got logits"):
        reduction_residual(form, z, lambda x: _plain(form, x)[:, :2])
    with pytest.raises(ValueError, match="Jacobian samples"):
        reduction_residual(form, z, lambda x: _plain(form, x), n_jacobian=0)
    constant = GatedForm((torch.zeros(4, 2),), (None,), torch.eye(2), torch.ones(2))
    with pytest.raises(ValueError, match="maps that are all zero"):
        reduction_residual(constant, z, lambda x: _plain(constant, x) + 0 * x.sum())


def test_gelu_has_no_reduction() -> None:
    form = GatedForm((_random(0, 4, 5),), (None,), _random(1, 5, 3), activation="gelu")
    z = _random(2, 6, 4)
    with pytest.raises(ValueError, match="piecewise linear"):
        affine_maps(form, z)
    with pytest.raises(ValueError, match="piecewise linear"):
        reduction_residual(form, z, lambda x: x @ torch.zeros(4, 3))
    for measure in (mean_active, agop):
        with pytest.raises(ValueError, match="piecewise linear"):
            measure(form, gates(form, z))
    with pytest.raises(ValueError, match="piecewise linear"):
        stable_rank_mean(form, z)


@pytest.mark.parametrize("form", _FORMS)
def test_mean_map_and_agop_against_explicit_maps(form: GatedForm, monkeypatch: pytest.MonkeyPatch) -> None:
    z = _random(30, 60, 4)
    z = torch.cat([z, z[:17]])  # some patterns more than once
    maps, _ = affine_maps(form, z)
    monkeypatch.setattr(linear_reduction, "_BLOCK_ELEMENTS", 7 * form.n_classes * 7)
    torch.testing.assert_close(mean_active(form, gates(form, z)), maps.mean(dim=0), rtol=1e-12, atol=1e-12)
    outer = (maps.mT @ maps).mean(dim=0)
    product = agop(form, gates(form, z))
    torch.testing.assert_close(product, outer, rtol=1e-12, atol=1e-12)
    assert torch.equal(product, product.T)


def test_gates_of_another_form_are_refused() -> None:
    form = _form(2)
    open_gates = gates(form, _random(30, 5, 4))
    for pattern in (
        open_gates[:1],
        (open_gates[0], open_gates[1][:3]),
        tuple(g.double() for g in open_gates),
    ):
        with pytest.raises(ValueError, match="mean_active: got gates"):
            mean_active(form, pattern)
    with pytest.raises(ValueError, match="agop: got gates"):
        agop(form, tuple(g[:0] for g in open_gates))


def test_stable_rank_by_hand_and_against_singular_values() -> None:
    # with both gates open the map has σ = (2, 1): stable rank 5/4; with one open, 1; with none it has none
    form = GatedForm((torch.eye(2),), (None,), torch.diag(torch.tensor([2.0, 1.0])))
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert stable_rank_mean(form, z) == pytest.approx((1.25 + 1) / 2)
    with pytest.raises(ValueError, match="1 samples without a non-zero map"):
        stable_rank_mean(form, z[2:])

    for wide in (_form(3), _form(3, width=2)):
        points = _random(31, 12, wide.input_width)
        maps, _ = affine_maps(wide, points)
        sigma = torch.linalg.svdvals(maps[maps.abs().amax(dim=(1, 2)) > 0])
        expected = float((sigma.square().sum(dim=1) / sigma[:, 0].square()).mean())
        assert stable_rank_mean(wide, points) == pytest.approx(expected, rel=1e-12)


def _fourier_rows(p: int, *frequencies: int) -> Tensor:
    angle = 2 * math.pi / p * torch.arange(p, dtype=torch.float64)
    rows = [f(k * angle) * math.sqrt(2 / p) for k in frequencies for f in (torch.cos, torch.sin)]
    return torch.stack(rows)


def test_rule_gap_of_mixed_frequencies() -> None:
    rows = _fourier_rows(13, 2, 5)
    inside, outside = rows[:2].T @ _random(0, 2, 6), _fourier_rows(13, 4).T @ _random(1, 2, 6)
    constant = torch.ones(13, 1, dtype=torch.float64) @ _random(2, 1, 6)
    maps = torch.stack([inside + constant, 3 * outside + constant, inside + outside])
    gaps = rule_gap(maps, rows)
    expected = float(outside.square().sum() / (inside.square().sum() + outside.square().sum()))
    torch.testing.assert_close(gaps, torch.tensor([0.0, 1.0, expected], dtype=torch.float64))


def test_rule_gap_of_random_maps_is_the_missing_share_of_dimensions() -> None:
    gap = float(rule_gap(_random(0, 59, 4000), _fourier_rows(59, 3, 7, 20)))
    assert gap == pytest.approx(1 - 6 / 58, abs=3e-3)


def test_rule_gap_refuses_what_it_cannot_compare() -> None:
    rows = _fourier_rows(7, 1)
    with pytest.raises(ValueError, match="constant over classes"):
        rule_gap(torch.ones(7, 2) * 0.1, rows)
    with pytest.raises(ValueError, match="non-finite"):
        rule_gap(torch.full((7, 2), float("nan")), rows)
    with pytest.raises(ValueError, match="not orthonormal"):
        rule_gap(_random(0, 7, 2), 2 * rows)
    with pytest.raises(ValueError, match="basis"):
        rule_gap(_random(0, 6, 2), rows)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_permuting_and_rescaling_neurons_changes_no_map(seed: int) -> None:
    weights = (_random(seed, 4, 7), _random(seed + 1, 7, 5))
    biases = (_random(seed + 2, 7), _random(seed + 3, 5))
    form = GatedForm(weights, biases, _random(seed + 4, 5, 3))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    scale = torch.exp(_random(seed + 5, 7))[order]
    moved = GatedForm(
        (weights[0][:, order] * scale, weights[1][order] / scale.unsqueeze(1)),
        (biases[0][order] * scale, biases[1]),
        form.head,
    )
    z = _random(seed + 6, 15, 4)
    for ours, theirs in zip(affine_maps(form, z), affine_maps(moved, z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert count_patterns(gates(form, z)) == count_patterns(gates(moved, z))
    torch.testing.assert_close(agop(form, gates(form, z)), agop(moved, gates(moved, z)))
