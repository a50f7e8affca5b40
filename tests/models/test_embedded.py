"""The input that can be moved, and the logits from it: the whole network, cut behind its embedding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.models import (
    MLP,
    Composed,
    ComposedSettings,
    DeepLinear,
    DeepLinearSettings,
    FeatureMLP,
    FeatureMLPSettings,
    MLPSettings,
    Model,
    Transformer,
    TransformerSettings,
)

P = 5


def mlp(**changes: object) -> Model:
    return MLP(MLPSettings(**{"d_embed": 4, "hidden": (9,), **changes}), P, P)  # pyright: ignore[reportArgumentType]


def transformer(**changes: object) -> Model:
    sizes = {"d_model": 8, "n_heads": 2, "d_head": 3, "d_mlp": 10, **changes}
    return Transformer(TransformerSettings(**sizes), P, P)  # pyright: ignore[reportArgumentType]


MODELS: dict[str, tuple[Model, int]] = {
    "concatenation": (mlp(hidden=(9, 7), head_bias=True), 8),
    "sum": (mlp(combine="sum", output_scale=0.5), 8),
    "separate": (mlp(combine="sum", embedding="separate"), 8),
    "one-hot": (mlp(inputs="one-hot"), 2 * P),
    "one-hot sum": (mlp(inputs="one-hot", combine="sum"), 2 * P),
    "transformer": (transformer(), 24),
    "transformer, biases and norms": (transformer(biases=True, layer_norm=True, output_scale=2.0), 24),
    "features": (FeatureMLP(FeatureMLPSettings(hidden=(6,)), 3, 4), 3),
    "linear": (DeepLinear(DeepLinearSettings(), 3, 4), 3),
}


def inputs_of(model: Model) -> Tensor:
    if model.n_tokens is None:
        return torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cartesian_prod(torch.arange(P), torch.arange(P))


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_from_the_embedded_input_are_the_network_s(
    name: str, random_params, same_gradients
) -> None:
    model, width = MODELS[name]
    params, inputs = random_params(model), inputs_of(model)
    x = model.embedded(params, inputs)
    assert isinstance(x, Tensor)
    assert x.shape == (len(inputs), width)

    def through(leaves: dict[str, Tensor]) -> Tensor:
        found = model.embedded(leaves, inputs)
        assert isinstance(found, Tensor)
        return model.from_embedded(leaves, found)

    same_gradients(params, through, lambda leaves: model.forward(leaves, inputs))


def test_operands_that_are_summed_can_be_moved_apart(random_params) -> None:
    """What reaches the network is their sum, so both halves of the Jacobian are equal."""
    model, _ = MODELS["sum"]
    params = random_params(model)
    x = model.embedded(params, inputs_of(model)[:1])
    assert isinstance(x, Tensor)
    jacobian = torch.autograd.functional.jacobian(lambda row: model.from_embedded(params, row)[0], x)
    assert isinstance(jacobian, Tensor)
    first, second = jacobian[:, 0].chunk(2, dim=-1)
    torch.testing.assert_close(first, second)


def test_a_network_without_such_an_input_says_why(random_params) -> None:
    model = Composed(ComposedSettings(d_model=8, n_heads=2, d_mlp=6), P, P)
    found = model.embedded(random_params(model), inputs_of(model))
    assert isinstance(found, Absent)
    assert "composed" in found.reason
