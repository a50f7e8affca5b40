"""Deep linear nets against the explicit product."""

import pytest
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import DeepLinear, DeepLinearSettings, MLPSettings, Model, build_model


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize(("width", "scale"), [(0, 1.0), (4, 1.0), (4, -0.5)])
def test_against_the_product(depth: int, width: int, scale: float, random_params, same_gradients) -> None:
    model = DeepLinear(DeepLinearSettings(depth=depth, width=width, output_scale=scale), 6, 5)
    params = random_params(model)
    inputs = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def product(leaves):
        found = torch.eye(6, dtype=torch.float64)
        for layer in range(1, depth + 1):
            found = torch.einsum("ij,jk->ik", found, leaves[f"layer.{layer}.W"])
        return found

    same_gradients(
        params, lambda leaves: model.forward(leaves, inputs), lambda leaves: scale * inputs @ product(leaves)
    )
    assert torch.allclose(model.maps(params)["product"].matrix(), product(params).T, atol=1e-12)
    z = model.combined(params, inputs)
    assert torch.allclose(model.from_z(params, z), model.forward(params, inputs), atol=1e-12)
    head = model.head_input(params, inputs) @ params[f"layer.{depth}.W"]
    assert torch.allclose(scale * head, model.forward(params, inputs), atol=1e-12)
    logits, pullback = model.linearised(inputs)(params)
    plain, by_graph = Model.linearised(model, inputs)(params)
    assert torch.allclose(logits, plain, atol=1e-12)
    for name, gradient in by_graph(torch.ones_like(logits)).items():
        assert torch.allclose(pullback(torch.ones_like(logits))[name], gradient, atol=1e-12)


def test_maps_pass_a_step_axis_through(random_params) -> None:
    model = DeepLinear(DeepLinearSettings(depth=3), 4, 3)
    stacked = random_params(model, steps=5)
    maps = model.maps(stacked)
    assert set(maps) == {"product", "layer.1", "layer.2", "layer.3"}
    for index in range(5):
        w1, w2, w3 = (stacked[f"layer.{layer}.W"][index] for layer in (1, 2, 3))
        assert torch.allclose(maps["product"].matrix()[index], (w1 @ w2 @ w3).T, atol=1e-12)
        assert torch.equal(maps["layer.2"].matrix()[index], w2.T)


def test_what_a_linear_net_has_not(random_params) -> None:
    model = DeepLinear(DeepLinearSettings(), 4, 3)
    params = random_params(model)
    absent = [
        model.gated(params),
        model.forward_grid(params),
        model.unembedding(params),
        model.neuron_logit(params),
    ]
    absent += [model.neuron_inputs(params), model.neuron_grid(params), model.slots(params)]
    assert all(isinstance(part, Absent) and part.reason for part in absent)
    assert model.embeddings(params) == {}


def test_sizes_and_tasks_that_do_not_fit() -> None:
    for settings in (DeepLinearSettings(depth=0), DeepLinearSettings(width=-1)):
        with pytest.raises(GrokscopeError, match="expected"):
            DeepLinear(settings, 4, 3)
    with pytest.raises(GrokscopeError, match="operand pairs"):
        build_model(MLPSettings(), n_tokens=None, n_inputs=4, n_classes=3)
    with pytest.raises(GrokscopeError, match="feature inputs"):
        build_model(DeepLinearSettings(), n_tokens=5, n_inputs=None, n_classes=5)
