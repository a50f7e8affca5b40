import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.chain_rule import Account, bound_slack, cancellation, per_sample_account
from grokscope.measures.regions import GatedForm, gated_forward
from grokscope.measures.sample_gradients import (
    GELU_LARGEST_SLOPE,
    bypassed_layer_norms,
    head_gradient_norms,
    logit_gradient,
)

_P, _D, _C = 6, 4, 5
_WIDTHS = (7, 6, 8)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _params(
    seed: int, depth: int, combine: str, biases: bool, separate: bool, direct: bool
) -> dict[str, Tensor]:
    sizes = (2 * _D if combine == "concatenation" else _D, *_WIDTHS[:depth])
    params = {"E": _random(seed, _P, _D), "U": _random(seed + 1, sizes[-1], _C)}
    if separate:
        params["E2"] = _random(seed + 2, _P, _D)
    if direct:
        params["B"] = _random(seed + 3, sizes[0], _C)
    if biases:
        params["u"] = _random(seed + 4, _C)
    for i in range(depth):
        params[f"W{i}"] = _random(seed + 10 + i, sizes[i], sizes[i + 1]) / 2
        if biases:
            params[f"b{i}"] = _random(seed + 20 + i, sizes[i + 1]) / 2
    return params


def _combined(params: dict[str, Tensor], pair: Tensor, combine: str) -> Tensor:
    rows = torch.nn.functional.embedding  # unlike indexing, it works inside vmap
    first, second = rows(pair[..., 0], params["E"]), rows(pair[..., 1], params.get("E2", params["E"]))
    return torch.cat([first, second], dim=-1) if combine == "concatenation" else first + second


def _loss(
    params: dict[str, Tensor], pair: Tensor, target: Tensor, combine: str, activation: str, tau: float
) -> Tensor:
    """One sample's loss, written out independently of the module under test."""
    phi: Callable[[Tensor], Tensor] = torch.relu if activation == "relu" else torch.nn.functional.gelu
    z = _combined(params, pair, combine)
    hidden = z
    for i in range(sum(name.startswith("W") for name in params)):
        hidden = phi(hidden @ params[f"W{i}"] + params.get(f"b{i}", torch.zeros(())))
    logits = hidden @ params["U"] + params.get("u", torch.zeros(()))
    if "B" in params:
        logits = logits + z @ params["B"]
    return -torch.log_softmax(logits / tau, dim=-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)


def _form(params: dict[str, Tensor], activation: str) -> GatedForm:
    depth = sum(name.startswith("W") for name in params)
    return GatedForm(
        tuple(params[f"W{i}"] for i in range(depth)),
        tuple(params.get(f"b{i}") for i in range(depth)),
        params["U"],
        params.get("u"),
        params.get("B"),
        activation,
    )


def _norm(grads: dict[str, Tensor], *names: str) -> Tensor:
    return (
        torch.stack([grads[n].flatten(1).square().sum(dim=1) for n in names if n in grads]).sum(dim=0).sqrt()
    )


def _slacks(account: Account) -> dict[str, float]:
    blocks = {"head": account.head, **{f"layer{i}": layer for i, layer in enumerate(account.layers)}}
    if account.embedding is not None:
        blocks["embedding"] = account.embedding
    return {name: block.slack() for name, block in blocks.items()}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("combine", ["concatenation", "sum"])
@pytest.mark.parametrize(
    ("depth", "biases", "separate", "direct", "tau"),
    [
        (1, False, False, False, 1.0),
        (1, True, False, False, 0.5),
        (1, True, True, False, 1.0),
        (1, True, False, True, 1.0),
        (3, True, False, False, 2.0),
        (3, False, False, False, 1.0),
    ],
)
def test_per_sample_norms_are_those_of_autograd(
    activation: str, combine: str, depth: int, biases: bool, separate: bool, direct: bool, tau: float
) -> None:
    params = _params(7, depth, combine, biases, separate, direct)
    pairs = torch.cartesian_prod(torch.arange(_P), torch.arange(_P))  # a = b included
    targets = pairs.sum(dim=1) % _C
    per_sample = torch.func.vmap(torch.func.grad(_loss), in_dims=(None, 0, 0, None, None, None))
    grads = per_sample(params, pairs, targets, combine, activation, tau)

    same = None if separate else pairs[:, 0] == pairs[:, 1]
    z = _combined(params, pairs, combine)
    account = per_sample_account(
        _form(params, activation),
        z,
        targets,
        embedding_width=_D,
        combine=combine,
        same_operand=same,
        temperature=tau,
    )

    def close(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)

    close(account.head.weight, _norm(grads, "U"))
    close(account.head.with_bias, _norm(grads, "U", "u"))
    if biases:
        close(account.delta, _norm(grads, "u"))
    for i, layer in enumerate(account.layers):
        close(layer.weight, _norm(grads, f"W{i}"))
        close(layer.with_bias, _norm(grads, f"W{i}", f"b{i}"))
    assert account.embedding is not None
    close(account.embedding.weight, _norm(grads, "E", "E2"))

    slacks = _slacks(account)
    assert slacks.pop("head") == 1.0
    assert all(0 < slack < 1 for slack in slacks.values()), slacks
    for block in (*account.layers, account.embedding):
        assert bool((block.with_bias <= block.bound_with_bias * (1 + 1e-12)).all())


def test_the_account_takes_the_gradient_of_another_loss() -> None:
    params = _params(3, 2, "sum", True, False, False)
    pairs, targets = torch.tensor([[0, 1], [2, 2], [4, 0]]), torch.tensor([0, 3, 1])
    form, z = _form(params, "relu"), _combined(params, pairs, "sum")
    where: dict = {"embedding_width": _D, "combine": "sum", "same_operand": pairs[:, 0] == pairs[:, 1]}
    logits = gated_forward(form, z)[1]
    plain = per_sample_account(form, z, targets, **where)
    given = per_sample_account(form, z, None, delta=logit_gradient(logits, targets), **where)
    assert plain.embedding is not None
    assert given.embedding is not None
    torch.testing.assert_close(given.embedding.with_bias, plain.embedding.with_bias)
    torch.testing.assert_close(given.layers[0].bound, plain.layers[0].bound)
    # everything is linear in the length of δ
    double = per_sample_account(form, z, None, delta=2 * logit_gradient(logits, targets), **where)
    torch.testing.assert_close(double.layers[1].with_bias, 2 * plain.layers[1].with_bias)
    torch.testing.assert_close(double.layers[1].bound, 2 * plain.layers[1].bound)
    for wrong, match in (
        ({"targets": None}, "neither"),
        ({"targets": targets, "delta": logits}, "both"),
        ({"targets": None, "delta": logits[:2]}, "got delta"),
        ({"targets": None, "delta": logits * math.nan}, "got delta"),
    ):
        with pytest.raises(ValueError, match=match):
            per_sample_account(form, z, wrong["targets"], delta=wrong.get("delta"), **where)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("biases", [False, True])
def test_norms_of_a_bypassed_layer_are_those_of_autograd(activation: str, biases: bool) -> None:
    phi = torch.relu if activation == "relu" else torch.nn.functional.gelu
    w_in, w_out, w_u = _random(0, 4, 6), _random(1, 6, 4), _random(2, 4, 5)
    leaves = [w_in, w_out, *([_random(3, 6), _random(4, 4)] if biases else [])]
    z, delta = _random(5, 7, 4), _random(6, 7, 5)
    form = GatedForm((w_in,), (leaves[2] if biases else None,), w_out @ w_u, None, w_u, activation)
    found = bypassed_layer_norms(form, z, delta, output_bias=biases)
    for leaf in leaves:
        leaf.requires_grad_()
    b_in, b_out = leaves[2:] if biases else (0.0, 0.0)
    for sample in range(7):
        stream = z[sample] + phi(z[sample] @ leaves[0] + b_in) @ leaves[1] + b_out
        grads = torch.autograd.grad((stream @ w_u) @ delta[sample], leaves)
        expected = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
        assert float(found[sample]) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="without a direct path"):
        bypassed_layer_norms(
            GatedForm((w_in.detach(),), (None,), _random(1, 6, 5)), z, delta, output_bias=False
        )
    with pytest.raises(ValueError, match="got delta"):
        bypassed_layer_norms(form, z, delta[:2], output_bias=biases)


def test_bounds_are_reached_by_a_chain_of_scalars() -> None:
    # one unit everywhere: every inequality of the chain rule is an equality, and the factors are seen singly
    form = GatedForm(
        (torch.tensor([[3.0]]), torch.tensor([[5.0]])), (None, None), torch.tensor([[0.6, -0.8]])
    )
    z = torch.tensor([[0.25]])
    account = per_sample_account(
        form, z, torch.tensor([1]), embedding_width=1, combine="sum", same_operand=torch.tensor([True])
    )
    # δ is along (1, −1): U passes (0.6 + 0.8)/√2 of it, while ‖U‖₂ = 1
    share = 1.4 / math.sqrt(2)
    slacks = _slacks(account)
    assert slacks.pop("head") == 1.0
    assert list(slacks.values()) == pytest.approx([share] * 3)
    delta = account.delta
    torch.testing.assert_close(account.layers[0].bound, delta * 0.25 * 5)
    torch.testing.assert_close(account.layers[1].bound, delta * 0.75)
    assert account.embedding is not None
    torch.testing.assert_close(account.embedding.bound, delta * 2 * 15)


def test_operator_norms_of_the_embedding_map() -> None:
    form_sum = GatedForm((torch.eye(2),), (None,), torch.eye(2))
    form_pair = GatedForm((torch.ones(4, 2),), (None,), torch.eye(2))
    targets, same = torch.tensor([0, 0]), torch.tensor([False, True])
    for form, combine, factors in (
        (form_sum, "sum", [math.sqrt(2), 2.0]),
        (form_pair, "concatenation", [1.0, math.sqrt(2)]),
    ):
        z = torch.ones(2, form.input_width)
        account = per_sample_account(form, z, targets, embedding_width=2, combine=combine, same_operand=same)
        assert account.embedding is not None
        reach = float(torch.linalg.matrix_norm(form.weights[0], ord=2))
        ratio = account.embedding.bound / (account.delta * reach)
        torch.testing.assert_close(ratio, torch.tensor(factors, dtype=torch.float64), rtol=1e-14, atol=0)


def test_gelu_factor_is_the_largest_slope() -> None:
    x = torch.linspace(-8, 8, 200001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.nn.functional.gelu(x).sum(), x)
    assert float(slope.abs().max()) == pytest.approx(GELU_LARGEST_SLOPE, abs=1e-9)
    assert float(slope.abs().max()) <= GELU_LARGEST_SLOPE * (1 + 1e-15)
    assert pytest.approx(1.12890, abs=5e-6) == GELU_LARGEST_SLOPE

    # a gate at √2 uses the whole factor: without it the bound would be broken
    form = GatedForm((torch.tensor([[1.0]]),), (None,), torch.tensor([[1.0, -1.0]]), activation="gelu")
    account = per_sample_account(
        form,
        torch.tensor([[math.sqrt(2)]], dtype=torch.float64),
        torch.tensor([0]),
        embedding_width=None,
        combine=None,
    )
    assert account.layers[0].slack() == pytest.approx(1, abs=1e-12)
    assert account.embedding is None


def test_logit_gradient_against_autograd_and_on_confident_samples() -> None:
    logits, targets = _random(0, 8, 5).requires_grad_(), torch.arange(8) % 5
    loss = torch.nn.functional.cross_entropy(logits / 0.7, targets, reduction="sum")
    (expected,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(logit_gradient(logits.detach(), targets, 0.7), expected)

    sure = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64)
    delta = logit_gradient(sure, torch.tensor([0]))
    tiny = math.exp(-60)
    torch.testing.assert_close(
        delta, torch.tensor([[-2 * tiny, tiny, tiny]], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_slack_survives_losses_whose_squares_underflow() -> None:
    form = GatedForm((torch.eye(2),), (None,), torch.eye(2))
    account = per_sample_account(
        form, torch.tensor([[600.0, 1.0]]), torch.tensor([0]), embedding_width=2, combine="sum"
    )
    assert 0 < float(account.delta[0]) < 1e-200
    slacks = _slacks(account)
    assert slacks["head"] == 1.0
    assert slacks["layer0"] == pytest.approx(1.0)


def test_head_norms_by_hand() -> None:
    weight, both = head_gradient_norms(
        torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.6, -0.8]] * 2)
    )
    torch.testing.assert_close(weight, torch.tensor([5.0, 0.0]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(both, torch.tensor([math.sqrt(26), 1.0]).double(), rtol=1e-6, atol=0)


def test_slack_leaves_out_samples_that_nothing_reaches() -> None:
    left, right = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 2.0, 3.0])
    assert bound_slack(left, right) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="no sample with a positive bound"):
        bound_slack(left[:1], right[:1])
    with pytest.raises(ValueError, match="expected at most 1"):
        bound_slack(torch.tensor([1.1]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="equal"):
        bound_slack(left, right[:2])


def test_cancellation_of_opposite_and_of_equal_gradients() -> None:
    per_sample = torch.tensor([[3.0, 4.0], [-3.0, 4.0]])
    norms = per_sample.norm(dim=1)
    assert cancellation(float(per_sample.mean(dim=0).norm()), norms) == pytest.approx(4 / 5)
    assert cancellation(5.0, norms) == 1.0
    with pytest.raises(ValueError, match="positive number"):
        cancellation(0.0, torch.zeros(3))
    with pytest.raises(ValueError, match="N >= 1"):
        cancellation(0.0, torch.zeros(0))


def test_cancellation_of_a_block_of_a_network() -> None:
    params = _params(3, 1, "concatenation", True, False, False)
    pairs = torch.cartesian_prod(torch.arange(_P), torch.arange(_P))
    targets = pairs.sum(dim=1) % _C
    losses = torch.func.vmap(_loss, in_dims=(None, 0, 0, None, None, None))
    full = torch.func.grad(lambda q: losses(q, pairs, targets, "concatenation", "relu", 1.0).mean())(params)
    account = per_sample_account(
        _form(params, "relu"),
        _combined(params, pairs, "concatenation"),
        targets,
        embedding_width=_D,
        combine="concatenation",
        same_operand=pairs[:, 0] == pairs[:, 1],
    )
    assert account.embedding is not None
    for name, norms in (
        ("U", account.head.weight),
        ("W0", account.layers[0].weight),
        ("E", account.embedding.weight),
    ):
        assert 0 < cancellation(float(full[name].norm()), norms) < 1


@given(seed=st.integers(0, 2**20), activation=st.sampled_from(["relu", "gelu"]), scale=st.floats(0.1, 20))
@settings(max_examples=30, deadline=None)
def test_bounds_hold_and_neuron_order_does_not_matter(seed: int, activation: str, scale: float) -> None:
    params = _params(seed, 2, "sum", True, False, False)
    params["U"] = params["U"] * scale
    order = torch.randperm(_WIDTHS[0], generator=torch.Generator().manual_seed(seed))
    moved = params | {"W0": params["W0"][:, order], "b0": params["b0"][order], "W1": params["W1"][order]}
    pairs = torch.cartesian_prod(torch.arange(_P), torch.arange(_P))
    slacks = [
        _slacks(
            per_sample_account(
                _form(p, activation),
                _combined(p, pairs, "sum"),
                pairs[:, 0] % _C,
                embedding_width=_D,
                combine="sum",
                same_operand=pairs[:, 0] == pairs[:, 1],
            )
        )
        for p in (params, moved)
    ]
    assert all(0 <= slack <= 1 for slack in slacks[0].values())
    assert slacks[0] == pytest.approx(slacks[1], rel=1e-9)


def test_arguments_that_do_not_fit_are_refused() -> None:
    form = GatedForm((torch.eye(4),), (None,), torch.eye(4))
    z, targets = torch.ones(3, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="combine='mean'"):
        per_sample_account(form, z, targets, embedding_width=4, combine="mean")
    with pytest.raises(ValueError, match="twice the embedding width"):
        per_sample_account(form, z, targets, embedding_width=4, combine="concatenation")
    with pytest.raises(ValueError, match="the embedding width"):
        per_sample_account(form, z, targets, embedding_width=None, combine="sum")
    with pytest.raises(ValueError, match="expected neither"):
        per_sample_account(form, z, targets, embedding_width=4, combine=None)
    with pytest.raises(ValueError, match="expected bool"):
        per_sample_account(
            form, z, targets, embedding_width=4, combine="sum", same_operand=torch.zeros(2, dtype=torch.bool)
        )
    with pytest.raises(ValueError, match="temperature"):
        logit_gradient(z, targets, 0.0)
    with pytest.raises(ValueError, match="classes in"):
        logit_gradient(z, targets + 4)
    with pytest.raises(ValueError, match="non-finite logits"):
        logit_gradient(z * float("inf"), targets)
    with pytest.raises(ValueError, match="logit_gradient: got logits"):
        logit_gradient(z, targets[:2])
    with pytest.raises(ValueError, match="head_gradient_norms"):
        head_gradient_norms(z, torch.zeros(2, 4))
