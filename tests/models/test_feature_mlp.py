"""The MLP on features against a plain loop, and its pullback against autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, relu

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import GatedForm
from grokscope.models import FeatureMLP, FeatureMLPSettings, MLPSettings, Model, build_model

MODELS = {
    "one layer": FeatureMLPSettings(hidden=(7,)),
    "relu, two layers": FeatureMLPSettings(hidden=(7, 5), activation="relu"),
    "no biases": FeatureMLPSettings(hidden=(6, 4, 3), hidden_bias=False, head_bias=False, activation="tanh"),
    "scaled": FeatureMLPSettings(hidden=(7,), output_scale=-0.4),
    "quadratic": FeatureMLPSettings(hidden=(6,), activation="quadratic", head_bias=False),
}


def built(name: str) -> FeatureMLP:
    return FeatureMLP(MODELS[name], 4, 3)


def features(count: int = 9, runs: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.randn(*runs, count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "function"), [("one layer", gelu), ("relu, two layers", relu), ("scaled", gelu)]
)
def test_against_a_plain_loop(name: str, function, random_params, same_gradients) -> None:
    model, x = built(name), features()
    depth = len(model.settings.hidden)

    def plain(leaves):
        rows = []
        for row in x:
            for layer in range(1, depth + 1):
                row = function(row @ leaves[f"hidden.{layer}.W"] + leaves[f"hidden.{layer}.b"])
            rows.append(model.settings.output_scale * (row @ leaves["head.W_U"] + leaves["head.b_U"]))
        return torch.stack(rows)

    same_gradients(random_params(model), lambda leaves: model.forward(leaves, x), plain)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_pullback_are_those_of_autograd(name: str, random_params) -> None:
    model, x = built(name), features()
    params = random_params(model)
    logits, pullback = model.linearised(x)(params)
    plain, by_graph = Model.linearised(model, x)(params)
    torch.testing.assert_close(logits, plain, rtol=1e-12, atol=1e-13)
    delta = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, expected = pullback(delta.clone()), by_graph(delta)
    assert found.keys() == expected.keys() == params.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_runs_share_a_leading_axis(name: str, random_params) -> None:
    model, x = built(name), features(runs=(3,))
    params = random_params(model, steps=3)
    logits, pullback = model.linearised(x)(params)
    grads = pullback(torch.ones_like(logits))
    for run in range(3):
        own = {key: value[run] for key, value in params.items()}
        alone, back = model.linearised(x[run])(own)
        torch.testing.assert_close(logits[run], alone, rtol=1e-12, atol=1e-12)
        for key, value in back(torch.ones_like(alone)).items():
            torch.testing.assert_close(grads[key][run], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_anatomy(name: str, random_params) -> None:
    model, x = built(name), features()
    params = random_params(model)
    logits = model.forward(params, x)
    assert torch.equal(model.from_z(params, model.combined(params, x)), logits)
    bias = params.get("head.b_U", torch.zeros(3, dtype=torch.float64))
    read = model.head_input(params, x) @ model.unembedding(params).T + bias
    torch.testing.assert_close(model.output_scale * read, logits)
    assert set(model.matrices.values()) == {"head", *(f"hidden.{i}" for i in range(1, model.n_layers))}
    assert set(model.maps(params)) == {"unembedding", *(f"layer.{i}" for i in range(1, model.n_layers))}
    assert model.embeddings(params) == {}
    assert isinstance(model.forward_grid(params), Absent)
    assert isinstance(model.slots(params), Absent)
    form = model.gated(params)
    if model.settings.activation != "relu":
        assert isinstance(form, GatedForm if model.settings.activation == "gelu" else Absent)
        return
    assert isinstance(form, GatedForm)
    for row, expected in zip(x, logits, strict=True):
        value = row
        for weight, shift in zip(form.weights, form.biases, strict=True):
            assert shift is not None
            pre = value @ weight + shift
            value = pre * (pre > 0)
        assert form.head_bias is not None
        torch.testing.assert_close(value @ form.head + form.head_bias, expected)


def test_weights_start_as_said() -> None:
    model = FeatureMLP(FeatureMLPSettings(hidden=(400, 300), init_scale=2.0), 100, 50)
    params = model.init(torch.Generator().manual_seed(0), torch.float64)
    for name, fan in (("hidden.1.W", 100), ("hidden.2.W", 400), ("head.W_U", 300)):
        assert params[name].std() == pytest.approx(2 * fan**-0.5, rel=0.02)
    assert all(not params[part.name].any() for part in model.parts if part.kind == "bias")


def test_sizes_and_tasks_that_do_not_fit() -> None:
    for hidden in ((), (4, 0)):
        with pytest.raises(GrokscopeError, match=r"building an MLP on features: model\.hidden"):
            FeatureMLP(FeatureMLPSettings(hidden=hidden), 4, 3)
    with pytest.raises(GrokscopeError, match="feature inputs"):
        build_model(FeatureMLPSettings(), n_tokens=5, n_inputs=None, n_classes=5)
    with pytest.raises(GrokscopeError, match="operand pairs"):
        build_model(MLPSettings(), n_tokens=None, n_inputs=4, n_classes=3)
    assert isinstance(build_model(FeatureMLPSettings(), n_tokens=None, n_inputs=4, n_classes=3), FeatureMLP)
