"""The diagonal network against a plain loop, its pullback against autograd."""

from __future__ import annotations

import pytest
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import Diagonal, DiagonalSettings, Model, build_model

MODELS = {"plain": DiagonalSettings(), "scaled": DiagonalSettings(output_scale=-2.5)}


def built(name: str) -> Diagonal:
    return Diagonal(MODELS[name], 6, 1)


def features(runs: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.randn(*runs, 9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_against_a_plain_loop(name, random_params, same_gradients):
    model, x = built(name), features()

    def plain(leaves):
        u, v = leaves["layer.1.u"][:, 0], leaves["layer.2.v"][:, 0]
        rows = [torch.stack([row[i] * u[i] * v[i] for i in range(6)]).sum() for row in x]
        return model.output_scale * torch.stack(rows)[:, None]

    same_gradients(random_params(model), lambda leaves: model.forward(leaves, x), plain)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_pullback_are_those_of_autograd(name, random_params):
    model, x = built(name), features()
    params = random_params(model)
    outputs, pullback = model.linearised(x)(params)
    plain, by_graph = Model.linearised(model, x)(params)
    torch.testing.assert_close(outputs, plain, rtol=1e-13, atol=1e-13)
    delta = torch.randn(9, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found, expected = pullback(delta), by_graph(delta)
    assert found.keys() == expected.keys() == params.keys()
    for key, value in expected.items():
        assert value.abs().max() > 0.1
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_runs_share_a_leading_axis(shared, random_params):
    model, x = built("scaled"), features() if shared else features((3,))
    params = random_params(model, steps=3)
    outputs, pullback = model.linearised(x)(params)
    grads = pullback(torch.ones_like(outputs))
    for run in range(3):
        own = {key: value[run] for key, value in params.items()}
        alone, back = model.linearised(x if shared else x[run])(own)
        torch.testing.assert_close(outputs[run], alone, rtol=1e-12, atol=1e-12)
        for key, value in back(torch.ones_like(alone)).items():
            torch.testing.assert_close(grads[key][run], value, rtol=1e-12, atol=1e-12)


def test_anatomy(random_params):
    model, x = built("plain"), features()
    params = random_params(model)
    outputs = model.forward(params, x)
    assert torch.equal(model.from_z(params, model.combined(params, x)), outputs)
    torch.testing.assert_close(model.head_input(params, x) @ params["layer.2.v"], outputs)
    torch.testing.assert_close(x @ model.maps(params)["product"].matrix().mT, outputs)
    assert model.matrices == {"layer.1.u": "layer.1", "layer.2.v": "layer.2"}
    assert isinstance(model.gated(params), Absent)
    assert isinstance(model.unembedding(params), Absent)


def test_balanced_parameters_have_twice_the_l1_norm_of_the_coefficients():
    beta = torch.tensor([[1.5], [-0.4], [0.0], [2.0], [0.0], [-1.0]], dtype=torch.float64)
    params = {"layer.1.u": beta.abs().sqrt(), "layer.2.v": beta.sign() * beta.abs().sqrt()}
    torch.testing.assert_close(built("plain").coefficients(params), beta)
    squared = sum(value.square().sum() for value in params.values())
    torch.testing.assert_close(torch.as_tensor(squared), 2 * beta.abs().sum())


def test_weights_start_as_said():
    params = Diagonal(DiagonalSettings(init_scale=0.3), 20_000, 1).init(torch.Generator().manual_seed(0))
    for value in params.values():
        assert value.std().item() == pytest.approx(0.3, rel=0.03)


def test_tasks_that_do_not_fit():
    with pytest.raises(GrokscopeError, match="3 outputs"):
        build_model(DiagonalSettings(), n_tokens=None, n_inputs=4, n_classes=3)
    with pytest.raises(GrokscopeError, match="operand pairs"):
        build_model(DiagonalSettings(), n_tokens=5, n_inputs=None, n_classes=5)
    assert isinstance(build_model(DiagonalSettings(), n_tokens=None, n_inputs=4, n_classes=1), Diagonal)
