"""Rows of the neuron grid against the grid itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.regions import gates
from grokscope.models import (
    DeepLinearSettings,
    MLPSettings,
    Model,
    ModelSettings,
    TransformerSettings,
    build_model,
)
from grokscope.models.neuron_rows import gate_pattern, neuron_view

P = 7
SETTINGS = [
    MLPSettings(d_embed=5, hidden=(6,)),
    MLPSettings(d_embed=5, hidden=(6, 4), activation="gelu"),
    MLPSettings(d_embed=5, hidden=(6,), combine="sum", hidden_bias=False, activation="quadratic"),
    MLPSettings(inputs="one-hot", hidden=(6,), residue_offset=1, b_offset=8, d_vocab=20),
    TransformerSettings(d_model=8, n_heads=2, d_mlp=6),
    TransformerSettings(d_model=6, n_heads=1, d_head=4, d_mlp=5, activation="gelu_tanh", biases=True),
    TransformerSettings(d_model=8, n_heads=2, d_mlp=6, layer_norm=True, biases=True),
]
ORDERS = [list(range(P)), [1, 3, 2, 6, 4, 5]]


def built(settings: ModelSettings) -> Model:
    return build_model(settings, n_tokens=P, n_inputs=None, n_classes=P)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_rows_are_those_of_the_grid(
    settings: ModelSettings, order: list[int], random_params: Callable[..., dict[str, Tensor]]
) -> None:
    model, residues = built(settings), torch.tensor(order)
    params = random_params(model)
    grid, view = model.neuron_grid(params), neuron_view(model, params, residues)
    assert isinstance(grid, Tensor)
    assert not isinstance(view, Absent)
    expected = grid[residues][:, residues]
    for index in [*range(len(order)), 2]:
        row = torch.cat([group(index) for group in view.rows], dim=1)
        torch.testing.assert_close(row, expected[index], rtol=1e-12, atol=1e-12)
        for group in view.rows:
            group(index).fill_(torch.nan)  # whoever asked may overwrite it


def test_wide_layers_come_in_groups(random_params: Callable[..., dict[str, Tensor]]) -> None:
    for settings in (
        MLPSettings(d_embed=3, hidden=(12000,)),
        TransformerSettings(d_model=4, n_heads=2, d_mlp=12000),
    ):
        model = built(settings)
        params = random_params(model)
        view, grid = neuron_view(model, params, torch.arange(P)), model.neuron_grid(params)
        assert isinstance(grid, Tensor)
        assert not isinstance(view, Absent)
        assert len(view.rows) == 2
        torch.testing.assert_close(torch.cat([group(3) for group in view.rows], dim=1), grid[3])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_inputs_are_those_of_the_model(
    settings: ModelSettings, order: list[int], random_params: Callable[..., dict[str, Tensor]]
) -> None:
    model, residues = built(settings), torch.tensor(order)
    params = random_params(model)
    view, whole = neuron_view(model, params, residues), model.neuron_inputs(params)
    assert not isinstance(view, Absent)
    assert not isinstance(whole, Absent)
    for ours, theirs in zip(view.inputs, whole, strict=True):
        torch.testing.assert_close(ours, theirs[residues], rtol=1e-11, atol=1e-12)


def test_attention_weights_of_any_size_are_weights(
    random_params: Callable[..., dict[str, Tensor]],
) -> None:
    model = built(TransformerSettings(d_model=8, n_heads=2, d_mlp=6))
    params = {name: 30.0 * value for name, value in random_params(model).items()}
    view, grid = neuron_view(model, params, torch.arange(P)), model.neuron_grid(params)
    assert isinstance(grid, Tensor)
    assert not isinstance(view, Absent)
    for index in range(P):
        torch.testing.assert_close(view.rows[0](index), grid[index], rtol=1e-10, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [s for s in SETTINGS if s.activation in ("relu", "gelu") and not getattr(s, "layer_norm", False)],
)
def test_gates_are_those_of_the_gated_form(
    settings: ModelSettings,
    random_params: Callable[..., dict[str, Tensor]],
    all_pairs: Callable[[int], Tensor],
) -> None:
    model, inputs = built(settings), all_pairs(P)[3::2]
    params = random_params(model)
    form = model.gated(params)
    assert not isinstance(form, Absent)
    found, expected = gate_pattern(model, form, params, inputs), gates(form, model.combined(params, inputs))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_gates_of_numbers_that_are_none_are_refused(random_params: Callable[..., dict[str, Tensor]]) -> None:
    model = built(MLPSettings(d_embed=5, hidden=(6,)))
    params = random_params(model)
    form = model.gated(params)
    assert not isinstance(form, Absent)
    params["embed.W_E"][0, 0] = torch.nan
    with pytest.raises(ValueError, match="expected numbers with a sign"):
        gate_pattern(model, form, params, torch.zeros(1, 2, dtype=torch.int64))


def test_a_model_without_neurons_says_so() -> None:
    model = build_model(DeepLinearSettings(), n_tokens=None, n_inputs=4, n_classes=4)
    params = model.init(torch.Generator().manual_seed(0))
    assert isinstance(neuron_view(model, params, torch.arange(4)), Absent)
