import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.gate_patterns import count_patterns
from grokscope.measures.regions import GatedForm, gate_margin, gated_forward, gates, local_complexity


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _hand_form() -> GatedForm:
    """Two lines in the plane, x = 0 and y = 1, then one neuron that opens where relu(x) + relu(y − 1) > 2."""
    return GatedForm(
        weights=(torch.eye(2), torch.tensor([[1.0], [1.0]])),
        biases=(torch.tensor([0.0, -1.0]), torch.tensor([-2.0])),
        head=torch.tensor([[1.0, -1.0]]),
    )


def test_forward_by_hand() -> None:
    pre_activations, logits = gated_forward(_hand_form(), torch.tensor([[3.0, 2.0], [-1.0, 5.0]]))
    assert pre_activations[0].tolist() == [[3.0, 1.0], [-1.0, 4.0]]
    assert pre_activations[1].tolist() == [[2.0], [2.0]]
    assert logits.tolist() == [[2.0, -2.0], [2.0, -2.0]]
    assert logits.dtype == torch.float64


def test_regions_of_the_plane_counted_by_hand() -> None:
    form = _hand_form()
    axis = torch.linspace(-3.9, 4.1, 81)
    plane = torch.cartesian_prod(axis, axis)
    # both lines cut the plane in 4; the second layer cuts each but the one where both are closed: 3 more
    assert count_patterns(gates(form, plane)) == 7
    one_layer = GatedForm(form.weights[:1], form.biases[:1], torch.eye(2))
    assert count_patterns(gates(one_layer, plane)) == 4


def test_a_gate_at_zero_is_closed() -> None:
    open_first, open_second = gates(_hand_form(), torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 1.5]]))
    assert open_first.tolist() == [[False, False], [True, False], [True, True]]
    assert open_second.tolist() == [[False], [False], [True]]


def test_head_bias_direct_path_and_gelu() -> None:
    z = _random(0, 4, 3)
    weight, head, direct, bias = _random(1, 3, 5), _random(2, 5, 2), _random(3, 3, 2), _random(4, 2)
    form = GatedForm((weight,), (None,), head, bias, direct, "gelu")
    pre = z @ weight
    hidden = pre * 0.5 * (1 + torch.erf(pre / math.sqrt(2)))
    torch.testing.assert_close(gated_forward(form, z)[1], hidden @ head + bias + z @ direct)


def test_gate_margin_by_hand() -> None:
    weight = torch.tensor([[3.0, 0.0, 0.0], [4.0, 2.0, 0.0]])
    form = GatedForm((weight,), (torch.tensor([0.0, -2.0, 0.0]),), torch.eye(3))
    margins = gate_margin(form, torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    # |pre|/(‖w‖‖x‖ + |b|): 3/5, 2/4 and 12/15, 4/8; the third neuron has no weights and no bias
    assert margins.minimum == pytest.approx(0.5)
    assert margins.median == pytest.approx(0.5)
    assert margins.quantile_01 == pytest.approx(0.5)
    assert margins.quantile_10 == pytest.approx(0.5)
    assert margins.excluded == 2


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gate_margin_against_loops_over_two_layers(activation: str) -> None:
    form = GatedForm(
        (_random(0, 4, 6), _random(1, 6, 5)), (_random(2, 6), None), _random(3, 5, 3), activation=activation
    )
    z = _random(4, 30, 4)
    ratios = []
    for x in z:
        for weight, bias in zip(form.weights, form.biases, strict=True):
            pre = []
            for j in range(weight.shape[1]):
                offset = 0.0 if bias is None else float(bias[j])
                pre.append(float(weight[:, j] @ x) + offset)
                scale = float(weight[:, j].norm() * x.norm()) + abs(offset)
                if scale > 0:  # a sample that closes every gate leaves the next layer without an input
                    ratios.append(abs(pre[-1]) / scale)
            x = form.activate(torch.tensor(pre, dtype=torch.float64))
    in_order = sorted(ratios)
    margins = gate_margin(form, z)
    assert margins.minimum == pytest.approx(min(ratios), rel=1e-12)
    for value, q in ((margins.quantile_01, 0.01), (margins.quantile_10, 0.1), (margins.median, 0.5)):
        assert value == pytest.approx(in_order[math.ceil(q * len(ratios)) - 1], rel=1e-12)
        assert value == pytest.approx(np.quantile(ratios, q, method="inverted_cdf"), rel=1e-12)
    assert 0 <= margins.minimum <= margins.quantile_01 <= margins.quantile_10 <= margins.median <= 1


def test_gate_margin_of_known_pre_activations_runs_no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    form = GatedForm((_random(0, 4, 6), _random(1, 6, 5)), (_random(2, 6), None), _random(3, 5, 3))
    z = _random(4, 30, 4)
    expected = gate_margin(form, z)
    known, _ = gated_forward(form, z)
    kept = [pre.clone() for pre in known]
    monkeypatch.delattr("grokscope.measures.regions.gated_forward")
    assert gate_margin(form, z, known) == expected
    assert all(torch.equal(pre, before) for pre, before in zip(known, kept, strict=True))
    for wrong in (known[:1], [pre[:3] for pre in known]):
        with pytest.raises(ValueError, match="of every layer"):
            gate_margin(form, z, wrong)


def test_gate_margin_without_any_scale_is_refused() -> None:
    form = GatedForm((torch.zeros(2, 3),), (None,), torch.eye(3))
    with pytest.raises(ValueError, match="6 entries with no scale"):
        gate_margin(form, torch.ones(2, 2))


@pytest.mark.parametrize(("n_directions", "radius"), [(1, 0.3), (3, 0.5), (6, 1.5)])
def test_local_complexity_of_one_layer_is_exact(n_directions: int, radius: float) -> None:
    form = GatedForm((_random(0, 6, 9),), (_random(1, 9),), torch.eye(9))
    z = _random(2, 20, 6)
    gaussian = torch.randn(6, n_directions, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    frame = torch.linalg.qr(gaussian).Q
    reach = radius * (form.weights[0].T @ frame).abs().amax(dim=1)
    expected = float((gated_forward(form, z)[0][0].abs() < reach).sum(dim=1).double().mean())
    assert 0 < expected < 9
    assert local_complexity(form, z, radius, n_directions, seed=5) == pytest.approx(expected)


def test_local_complexity_of_one_gate() -> None:
    # every direction of R^1 is ±1, so the gate x = 2 is crossed exactly where |x − 2| < r
    form = GatedForm((torch.tensor([[1.0]]),), (torch.tensor([-2.0]),), torch.tensor([[1.0, 0.0]]))
    z = torch.tensor([[0.0], [1.2], [1.8], [2.3], [2.7]])
    assert local_complexity(form, z, radius=0.5, n_directions=1) == pytest.approx(2 / 5)
    assert local_complexity(form, z, radius=1.0, n_directions=1) == pytest.approx(4 / 5)


def test_local_complexity_of_two_layers_against_loops() -> None:
    form = GatedForm((_random(0, 3, 5), _random(1, 5, 4)), (_random(2, 5), _random(3, 4)), _random(4, 4, 2))
    z = _random(5, 6, 3)
    frame = torch.linalg.qr(
        torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).Q
    counts = []
    for x in z:
        vertices = torch.stack([x + sign * 0.7 * frame[:, p] for p in range(2) for sign in (1, -1)])
        hidden = vertices
        for weight, bias in zip(form.weights, form.biases, strict=True):
            assert bias is not None
            pre = hidden @ weight + bias
            signs = [{bool(v > 0) for v in pre[:, j]} for j in range(pre.shape[1])]
            counts.append(sum(len(s) == 2 for s in signs))
            hidden = pre.clamp(min=0)
    assert local_complexity(form, z, radius=0.7, n_directions=2) == pytest.approx(sum(counts) / 6)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_permuting_and_rescaling_neurons_changes_no_region(seed: int) -> None:
    weights, biases = (_random(seed, 4, 7), _random(seed + 1, 7, 5)), (_random(seed + 2, 7), None)
    form = GatedForm(weights, biases, _random(seed + 3, 5, 3))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(7, generator=generator)
    scale = torch.exp(_random(seed + 4, 7))[order]
    moved = GatedForm(
        (weights[0][:, order] * scale, weights[1][order] / scale.unsqueeze(1)),
        (_random(seed + 2, 7)[order] * scale, None),
        form.head,
    )
    z = _random(seed + 5, 40, 4)
    first, second = gates(form, z)
    assert torch.equal(gates(moved, z)[0], first[:, order])
    assert torch.equal(gates(moved, z)[1], second)
    assert count_patterns(gates(moved, z)) == count_patterns((first, second))
    torch.testing.assert_close(gated_forward(moved, z)[1], gated_forward(form, z)[1])
    assert local_complexity(moved, z, 0.4, 3) == local_complexity(form, z, 0.4, 3)
    # the margin's scale ‖w‖‖x‖ sees a rescaled input, so only the first layer's margins are invariant
    first_layers = [GatedForm(f.weights[:1], f.biases[:1], torch.eye(7)) for f in (form, moved)]
    margins = [gate_margin(f, z) for f in first_layers]
    assert margins[1].minimum == pytest.approx(margins[0].minimum, rel=1e-9, abs=1e-13)
    assert margins[1].median == pytest.approx(margins[0].median, rel=1e-9)


def test_forms_that_do_not_chain_are_refused() -> None:
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="one of"):
        GatedForm((eye,), (None,), eye, activation="tanh")
    with pytest.raises(ValueError, match="weight of layer 2"):
        GatedForm((eye, torch.eye(3)), (None, None), torch.eye(3))
    with pytest.raises(ValueError, match="bias of layer 1"):
        GatedForm((eye,), (torch.zeros(3),), eye)
    with pytest.raises(ValueError, match="head of shape"):
        GatedForm((eye,), (None,), torch.eye(3))
    with pytest.raises(ValueError, match="head bias"):
        GatedForm((eye,), (None,), eye, torch.zeros(3))
    with pytest.raises(ValueError, match="direct path"):
        GatedForm((eye,), (None,), eye, direct=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected one layer"):
        GatedForm((eye, eye), (None, None), eye, direct=eye)
    with pytest.raises(ValueError, match="0 weights"):
        GatedForm((), (), eye)
    with pytest.raises(ValueError, match="non-finite values in the head"):
        GatedForm((eye,), (None,), eye * float("nan"))


def test_inputs_that_do_not_fit_are_refused() -> None:
    form = _hand_form()
    with pytest.raises(ValueError, match=r"expected \(N, 2\)"):
        gated_forward(form, torch.zeros(3, 4))
    for measure in (gates, gate_margin):
        with pytest.raises(ValueError, match="NaN"):
            measure(form, torch.full((1, 2), float("nan")))
    with pytest.raises(ValueError, match="radius"):
        local_complexity(form, torch.zeros(1, 2), 0.0, 1)
    with pytest.raises(ValueError, match="between 1 and the input width 2"):
        local_complexity(form, torch.zeros(1, 2), 0.1, 3)
    with pytest.raises(ValueError, match="local_complexity: got inputs"):
        local_complexity(form, torch.zeros(0, 2), 0.1, 1)
