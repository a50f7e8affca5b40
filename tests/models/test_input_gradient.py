"""The Jacobian's transpose applied to directions: through fixed gates against differentiating twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grokscope.models import (
    FeatureMLP,
    FeatureMLPSettings,
    MLPSettings,
    Model,
    Params,
    TransformerSettings,
    build_model,
)

P = 7


def on_pairs(settings: MLPSettings | TransformerSettings) -> Model:
    return build_model(settings, n_tokens=P, n_inputs=None, n_classes=P)


MODELS = {
    "concatenation": on_pairs(MLPSettings(d_embed=4, hidden=(9,))),
    "sum, scaled": on_pairs(MLPSettings(d_embed=4, hidden=(9,), combine="sum", output_scale=-0.5)),
    "two layers": on_pairs(
        MLPSettings(d_embed=4, hidden=(9, 6), head_bias=True, d_vocab_out=9, out_offset=1)
    ),
    "one-hot": on_pairs(MLPSettings(inputs="one-hot", hidden=(9,))),
    "gelu": on_pairs(MLPSettings(d_embed=4, hidden=(9,), activation="gelu")),
    "transformer": on_pairs(TransformerSettings(d_model=8, n_heads=2, d_mlp=10, biases=True)),
    "features": FeatureMLP(FeatureMLPSettings(hidden=(8, 7, 6), activation="relu", output_scale=2.0), 5, 4),
    "features, tanh": FeatureMLP(FeatureMLPSettings(hidden=(8,), activation="tanh"), 5, 4),
}


def setting(name: str) -> tuple[Model, Params, Tensor, Tensor]:
    """A model, weights away from zero, inputs, and a direction for each."""
    model, generator = MODELS[name], torch.Generator().manual_seed(1)
    params = {
        part.name: torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in model.parts
    }
    if model.n_tokens is None:
        inputs = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    else:
        inputs = torch.randint(P, (11, 2), generator=generator)
    return model, params, inputs, torch.randn(11, model.n_classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_jacobian_s_transpose(name):
    model, params, inputs, directions = setting(name)
    x = model.embedded(params, inputs)
    assert isinstance(x, Tensor)
    found = model.input_gradient(params, inputs, directions)
    for row in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: model.from_embedded(params, one[None])[0], x[row]
        )
        torch.testing.assert_close(found[row].detach(), directions[row] @ jacobian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_differentiating_twice(name, same_gradients):
    model, params, inputs, directions = setting(name)
    same_gradients(
        params,
        lambda leaves: model.input_gradient(leaves, inputs, directions).norm(dim=1),
        lambda leaves: Model.input_gradient(model, leaves, inputs, directions).norm(dim=1),
    )
