"""Weights under strangers' names: what is read off them without a function, and with one given as code."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.models import MLP, MLPSettings, WeightsOnly, WeightsOnlySettings, build_model
from grokscope.models.weights_only import BLOCK_OF_INPUTS, public_names
from grokscope.trajectory import read_settings, settings_dict

SHAPES = {
    "tok.weight": (8, 5),
    "net.0.weight": (6, 10),
    "net.0.bias": (6,),
    "heads": (2, 5, 3),
    "out": (7, 6),
    "temperature": (),
}


def build(**changes: object) -> WeightsOnly:
    settings = WeightsOnlySettings(**{"tensors": SHAPES, **changes})  # pyright: ignore[reportArgumentType]
    model = build_model(settings, n_tokens=7, n_inputs=None, n_classes=7)
    assert isinstance(model, WeightsOnly)
    return model


def draw(model: WeightsOnly, steps: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lead = () if steps is None else (steps,)
    return {
        n: torch.randn((*lead, *s), generator=generator, dtype=torch.float64) for n, s in model.shapes.items()
    }


def test_settings_survive_run_json() -> None:
    settings = WeightsOnlySettings(
        tensors=SHAPES,
        names={"out": "a/out"},
        kinds={"heads": "gain"},
        blocks={"out": "head"},
        embedding="tok.weight",
    )
    assert read_settings(WeightsOnlySettings, settings_dict(settings), "a test") == settings


def test_tensors_keep_their_names_and_orientation_and_get_a_role_and_a_block() -> None:
    model = build(embedding="tok.weight", blocks={"out": "head"}, kinds={"net.0.bias": "gain"})
    assert model.shapes == SHAPES
    assert {p.name: (p.kind, p.block) for p in model.parts} == {
        "tok.weight": ("matrix", "embedding"),
        "net.0.weight": ("matrix", "tensor.net.0"),
        "net.0.bias": ("gain", "tensor.net.0"),
        "heads": ("matrix", "tensor.heads"),
        "out": ("matrix", "head"),
        "temperature": ("bias", "tensor.temperature"),
    }


def test_maps_are_the_matrices_as_stored_and_the_embedding() -> None:
    model = build(embedding="tok.weight")
    params = draw(model, steps=3)
    maps = {name: view.matrix() for name, view in model.maps(params).items()}
    assert set(maps) == {
        "embedding",
        *(f"tensor.{n}" for n in ("tok.weight", "net.0.weight", "heads", "out")),
    }
    assert torch.equal(maps["embedding"], params["tok.weight"][:, :7])
    assert torch.equal(maps["tensor.out"], params["out"])
    # row (i, j) of the joined axes is row j of slice i
    assert maps["tensor.heads"].shape == (3, 10, 3)
    assert torch.equal(maps["tensor.heads"][1, 5 + 2], params["heads"][1, 1, 2])
    assert "(2, 5, 3) read as 10 × 3" in model.maps(params)["tensor.heads"].note


def test_an_embedding_by_columns_is_turned_and_its_residues_are_the_first() -> None:
    model = build(tensors={"E": (5, 9)}, embedding="E", embedding_rows="columns", n_residues=8)
    params = draw(model)
    assert torch.equal(model.embeddings(params)["embedding"], params["E"].T[:8])
    assert build(tensors={"E": (5, 9)}).embeddings(params) == {}
    unknown = WeightsOnly(WeightsOnlySettings(tensors={"E": (9, 5)}, embedding="E"), None, 0)
    assert unknown.embeddings(params) == {}  # how many of the rows are residues is not known


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tensors": {}}, "model.tensors is empty"),
        ({"embedding": "tok.weigth"}, "did you mean 'tok.weight'"),
        ({"kinds": {"x\ny": "bias"}}, "model.kinds names"),
        ({"kinds": {"net.0.bias": "matrix"}}, "declared a matrix"),
        ({"blocks": {"out": "total"}}, "none of total"),
        ({"blocks": {"out": "a/b"}}, "'a/b'"),
        ({"embedding": "heads"}, "expected two axes"),
        ({"embedding": "out", "n_residues": 8}, "at least 8 rows"),
        ({"n_residues": -1}, "n_residues is -1"),
    ],
)
def test_settings_that_do_not_fit_their_tensors_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(GrokscopeError, match=re.escape(says)) as failed:
        build(**changes)
    assert "\n" not in str(failed.value)


def test_without_a_function_it_says_why() -> None:
    model = build(reason="no table knows these names")
    params = draw(model)
    assert model.no_function is not None
    assert model.no_function.reason == "no table knows these names"
    assert model.forward_grid(params) is model.no_function
    for action in (
        lambda: model.forward(params, torch.zeros(1, 2, dtype=torch.int64)),
        lambda: model.head_input(params, torch.zeros(1, 2, dtype=torch.int64)),
    ):
        with pytest.raises(GrokscopeError, match="no table knows these names"):
            action()
    for part in (
        model.gated(params),
        model.slots(params),
        model.neuron_grid(params),
        model.neuron_logit(params),
    ):
        assert part == model.no_function
    assert model.without_function("another").no_function.reason == "another"  # pyright: ignore
    assert model.no_function.reason == "no table knows these names"


@given(st.lists(st.text(max_size=130), unique=True, max_size=12))
def test_public_names_are_distinct_and_safe_everywhere(names: list[str]) -> None:
    found = public_names(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    for public in found.values():
        assert re.fullmatch(r"tensor(\.[A-Za-z0-9_-]+)+", public)
        assert len(public) < 130


def test_public_names_keep_what_is_plain() -> None:
    assert public_names(["layers.0.W_E", "a/b", "a|b", "..", "é.x"]) == {
        "layers.0.W_E": "tensor.layers.0.W_E",
        "a/b": "tensor.a-b",
        "a|b": "tensor.a-b-2",
        "..": "tensor.unnamed",
        "é.x": "tensor.-.x",
    }


P, MLP_SETTINGS = 7, MLPSettings(d_embed=4, hidden=(6,))
THEIRS = {"embed.W_E": "emb/table", "hidden.1.W": "W1", "hidden.1.b": "b1", "head.W_U": "W2"}


def as_code(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    x = params["emb/table"][inputs].flatten(1)
    return torch.relu(x @ params["W1"] + params["b1"]) @ params["W2"]


def strangers() -> tuple[WeightsOnly, MLP]:
    """An MLP of ours, and the same tensors under strangers' names, one of which cannot be stored."""
    ours = MLP(MLP_SETTINGS, P, P)
    stored = {theirs: theirs.replace("/", "|") for theirs in THEIRS.values()}
    settings = WeightsOnlySettings(
        tensors={stored[THEIRS[p.name]]: p.shape for p in ours.parts}, names={"emb|table": "emb/table"}
    )
    return WeightsOnly(settings, P, P), ours


def renamed(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {THEIRS[name].replace("/", "|"): value for name, value in params.items()}


def test_a_function_as_code_is_the_function_it_says(
    random_params: Callable[..., dict[str, Tensor]], all_pairs: Callable[[int], Tensor]
) -> None:
    theirs, ours = strangers()
    model, params = theirs.with_function(as_code), random_params(ours)
    assert model.no_function is None
    assert theirs.no_function is not None
    pairs = all_pairs(P)
    torch.testing.assert_close(model.forward(renamed(params), pairs), ours.forward(params, pairs))
    grid = model.forward_grid(renamed(params))
    assert isinstance(grid, Tensor)
    torch.testing.assert_close(grid, ours.forward_grid(params))
    # float32 weights are run in float64
    single = {name: value.float() for name, value in renamed(params).items()}
    assert model.forward(single, pairs).dtype == torch.float64
    assert model.forward(renamed(params), pairs[:0]).shape == (0, P)


def test_gradients_pass_through_code(
    random_params: Callable[..., dict[str, Tensor]], all_pairs: Callable[[int], Tensor]
) -> None:
    theirs, ours = strangers()
    model, pairs = theirs.with_function(as_code), all_pairs(P)
    grads = []
    for run, names in (
        (lambda p: model.forward(renamed(p), pairs), None),
        (lambda p: ours.forward(p, pairs), None),
    ):
        leaves = {name: value.requires_grad_() for name, value in random_params(ours).items()}
        grads.append(torch.autograd.grad(run(leaves).square().sum(), list(leaves.values())))
        assert names is None
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_many_inputs_are_run_in_blocks_and_cannot_change_the_weights() -> None:
    sizes: list[int] = []

    def spoils(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        inputs += 1
        for value in params.values():
            value.zero_()
        return torch.zeros(len(inputs), P, dtype=torch.float64)

    model = strangers()[0].with_function(spoils)
    params = draw(model)
    kept = {name: value.clone() for name, value in params.items()}
    inputs = torch.zeros(2 * BLOCK_OF_INPUTS + 1, 2, dtype=torch.int64)
    assert model.forward(params, inputs).shape == (2 * BLOCK_OF_INPUTS + 1, P)
    assert sizes == [BLOCK_OF_INPUTS, BLOCK_OF_INPUTS, 1]
    assert not inputs.any()
    assert all(torch.equal(params[name], kept[name]) for name in params)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda p, x: p["nope"], "KeyError: 'nope'"),
        (lambda p, x: 1 / 0, "ZeroDivisionError"),
        (lambda p, x: p["W1"] @ x.float(), "RuntimeError"),
        (lambda p: p, "TypeError"),
        (lambda p, x: 3, "returned a int"),
        (lambda p, x: torch.zeros(len(x), P + 1), "returned (49, 8) float32"),
        (lambda p, x: torch.zeros(P, P, P), "returned (7, 7, 7)"),
        (lambda p, x: torch.zeros(len(x), P).long(), "int64"),
        (lambda p, x: torch.full((len(x), P), torch.nan), "not all finite"),
        (lambda p, x: exit("\x1b[31m two\nlines"), "SystemExit"),
    ],
)
def test_what_a_function_does_wrong_is_told_in_one_line(
    function: Callable, says: str, all_pairs: Callable[[int], Tensor]
) -> None:
    model = strangers()[0].with_function(function)
    with pytest.raises(GrokscopeError, match=re.escape(says)) as failed:
        model.forward(draw(model), all_pairs(P))
    assert str(failed.value).isprintable()


def test_logits_that_torch_cannot_follow_are_refused_where_gradients_are_wanted(
    all_pairs: Callable[[int], Tensor],
) -> None:
    model = strangers()[0].with_function(lambda p, x: as_code(p, x).detach())
    params = draw(model)
    model.forward(params, all_pairs(P))
    with pytest.raises(GrokscopeError, match="cannot follow"):
        model.forward({name: value.requires_grad_() for name, value in params.items()}, all_pairs(P))


def test_weights_that_are_not_finite_may_give_logits_that_are_not(all_pairs: Callable[[int], Tensor]) -> None:
    model = strangers()[0].with_function(as_code)
    params = {name: torch.full_like(value, torch.nan) for name, value in draw(model).items()}
    assert model.forward(params, all_pairs(P)).isnan().all()
