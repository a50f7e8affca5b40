"""What one optimiser step does: replayed from torch's own state, bounded, and read off a curve."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from grokscope.errors import Absent, GrokscopeError
from grokscope.foreign.evidence.moments import Moments, moments_of
from grokscope.foreign.evidence.one_step import (
    Optimiser,
    first_update,
    neighbour_on_curve,
    reach_of_a_step,
    replays,
    slope_on_curve,
)
from grokscope.models import as_float64


@dataclass
class Series:
    """A recorded curve."""

    steps: list[int]
    values: list[float]
    quantity: str = "loss.train"
    source: str = "train_loss in metrics.csv"


OPTIMISERS = {
    "adamw": lambda leaves: torch.optim.AdamW(leaves, lr=2e-3, weight_decay=0.3, betas=(0.9, 0.98)),
    "adam": lambda leaves: torch.optim.Adam(leaves, lr=2e-3, weight_decay=0.3),
    "amsgrad": lambda leaves: torch.optim.AdamW(leaves, lr=2e-3, weight_decay=0.3, amsgrad=True),
    "sgd": lambda leaves: torch.optim.SGD(leaves, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda leaves: torch.optim.SGD(leaves, lr=0.05, momentum=0.9, nesterov=True),
}


@pytest.fixture
def trained(little_run):
    """Weights at four successive steps in float64 and the optimiser's state after each update."""

    def train(name: str):
        leaves = {n: v.clone().requires_grad_() for n, v in as_float64(little_run.saves[60]).items()}
        optimiser = OPTIMISERS[name](list(leaves.values()))
        task, weights, states = little_run.task, [], []
        for _ in range(4):
            weights.append({n: v.detach().clone() for n, v in leaves.items()})
            state = optimiser.state_dict()
            states.append(
                {
                    "state": {
                        index: {key: value.clone() for key, value in entry.items() if value is not None}
                        for index, entry in state["state"].items()
                    },
                    "param_groups": state["param_groups"],
                }
            )
            optimiser.zero_grad()
            logits = little_run.model.forward(leaves, task.inputs[task.train_mask])
            cross_entropy(logits, task.targets[task.train_mask]).backward()
            optimiser.step()
        return weights, states

    return train


def same(params):
    return dict(params)


def close(found, expected) -> bool:
    return all(torch.allclose(found[name], value, rtol=0, atol=1e-12) for name, value in expected.items())


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_the_step_before_and_the_step_after_are_torch_s(name: str, trained, little_run) -> None:
    weights, states = trained(name)
    moments = moments_of(states[2], list(weights[2]), same)
    assert isinstance(moments, Moments)
    found = replays(little_run.model, weights[2], little_run.task, moments, None, False)
    by_shift = {shift: [one for one in found if one.shift == shift] for shift in (-1, 1)}
    assert any(close(one.params, weights[3]) for one in by_shift[1])
    if name == "nesterov":
        assert by_shift[-1] == []  # its last gradient is not stored
    else:
        assert any(close(one.params, weights[1]) for one in by_shift[-1])


def test_where_the_file_does_not_tell_adam_from_adamw_both_are_tried(trained, little_run) -> None:
    weights, states = trained("adamw")
    for group in states[2]["param_groups"]:
        group.pop("decoupled_weight_decay", None)
    moments = moments_of(states[2], list(weights[2]), same)
    assert isinstance(moments, Moments)
    assert moments.decoupled is None
    found = replays(little_run.model, weights[2], little_run.task, moments, None, False)
    fitting = [one for one in found if one.shift == -1 and close(one.params, weights[1])]
    assert [one.how for one in fitting] == ["the last AdamW update, undone from the stored moments,"]
    assert len([one for one in found if one.shift == -1]) == 2


def test_without_the_training_pairs_only_the_last_step_can_be_undone(trained, little_run) -> None:
    weights, states = trained("adamw")
    moments = moments_of(states[2], list(weights[2]), same)
    task = little_run.task.without_split("nobody knows")
    found = replays(little_run.model, weights[2], task, moments, None, False)
    assert {one.shift for one in found} == {-1}
    assert replays(little_run.model, weights[2], task, None, Optimiser(1e-3, 0.0), True) == []


def test_moments_turn_as_the_weights_do(trained, little_run) -> None:
    """A dialect that transposes, and that adds a bias of its own."""
    weights, states = trained("adamw")
    names = {f"their {name}": name for name in weights[2]}
    for entry in states[2]["state"].values():
        for key in ("exp_avg", "exp_avg_sq"):
            entry[key] = entry[key].mT.contiguous() if entry[key].ndim > 1 else entry[key]

    def translate(tensors):
        turned = {names[n]: v.mT.contiguous() if v.ndim > 1 else v for n, v in tensors.items()}
        return turned | {"unembed.b_U": torch.ones(little_run.model.n_classes)}

    moments = moments_of(states[2], list(names), translate)
    assert isinstance(moments, Moments)
    assert not moments.rate["unembed.b_U"].any()
    found = replays(little_run.model, weights[2], little_run.task, moments, None, False)
    assert close(next(one for one in found if one.shift == -1).params, weights[1])


def test_groups_are_told_apart_by_shape_or_by_name(trained, little_run) -> None:
    """Matrices with decay and vectors without, numbered group by group as torch does."""
    leaves = {
        "w": torch.randn(3, 2, requires_grad=True),
        "b": torch.randn(3, requires_grad=True),
        "u": torch.randn(4, 3, requires_grad=True),
    }
    groups = [
        {"params": [leaves["w"], leaves["u"]], "weight_decay": 0.5},
        {"params": [leaves["b"]], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.01)
    torch.stack([leaf.square().sum() for leaf in leaves.values()]).sum().backward()
    optimiser.step()
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    moments = moments_of(optimiser.state_dict(), list(leaves), same, shapes)
    assert isinstance(moments, Moments)
    assert {name: float(moments.decay[name].max()) for name in leaves} == {"w": 0.5, "b": 0.0, "u": 0.5}
    assert moments.first["u"].shape == (4, 3)
    unknown = moments_of(optimiser.state_dict(), list(leaves), same)
    assert isinstance(unknown, Absent)
    assert "several parameter groups" in unknown.reason


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.pop("state"), "not torch's"),
        (lambda state: state.update(param_groups=[]), "not torch's"),
        (lambda state: state["param_groups"][0].update(params=[0]), "knows 1 parameters"),
        (lambda state: state["param_groups"][0].update(maximize=True), "sign"),
        (lambda state: state["param_groups"][0].update(betas="0.9"), "expected Adam's or SGD's"),
        (lambda state: state["state"][0].update(mu_product=torch.ones(())), "mu_product"),
        (lambda state: state["state"][0].update(step=torch.tensor(9.0)), "equally often"),
        (lambda state: state["state"][0].update(exp_avg=torch.zeros(7)), "do not translate"),
        (lambda state: state["state"].clear(), "nothing"),
        (lambda state: state["state"].update({0: 3}), "no table"),
        (lambda state: state["param_groups"][0]["params"].__setitem__(0, []), "list no parameters"),
        (lambda state: state["param_groups"].__setitem__(0, 3), "list no parameters"),
    ],
)
def test_a_state_that_is_not_usable_says_why(change, word: str, trained, one_line) -> None:
    weights, states = trained("adamw")
    change(states[2])

    def translate(tensors):
        if any(tensors[name].shape != value.shape for name, value in weights[2].items()):
            raise GrokscopeError("shapes")
        return dict(tensors)

    found = moments_of(states[2], list(weights[2]), translate)
    assert isinstance(found, Absent)
    one_line(GrokscopeError(found.reason), word)


def test_the_first_update_is_adamw_s(little_run, their) -> None:
    start = as_float64(little_run.saves[0])
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimiser = torch.optim.AdamW(
        list(leaves.values()), lr=their.rate, weight_decay=their.decay, betas=(0.9, 0.98)
    )
    task = little_run.task
    logits = little_run.model.forward(leaves, task.inputs[task.train_mask])
    cross_entropy(logits, task.targets[task.train_mask]).backward()
    optimiser.step()
    found = first_update(little_run.model, start, task, Optimiser(their.rate, their.decay))
    for name, value in leaves.items():
        assert torch.allclose(found[name], value.detach(), atol=1e-10), name


def test_the_reach_of_a_step_bounds_what_small_steps_do(trained, little_run) -> None:
    """Coordinates that each move by η, with and against the gradient: the first-order change is the bound."""
    weights, _ = trained("adamw")
    params, task = weights[2], little_run.task
    tiny = Optimiser(1e-7, 0.0)
    reach = reach_of_a_step(little_run.model, params, task, task.train_mask, tiny)
    updated = first_update(little_run.model, params, task, tiny)

    def loss(weights):
        logits = little_run.model.forward(weights, task.inputs[task.train_mask])
        return cross_entropy(logits, task.targets[task.train_mask]).item()

    # ε of AdamW takes a little of the smallest gradients away
    assert loss(params) - loss(updated) == pytest.approx(reach, rel=1e-2)


def test_the_neighbouring_row_of_a_dense_curve() -> None:
    curve = Series(list(range(100, 110)), [1.0 / step for step in range(100, 110)])
    assert neighbour_on_curve(curve, 104, 1 / 104, 1 / 105) == (-1, 105, 1 / 105)
    assert neighbour_on_curve(curve, 104, 1 / 104, 1 / 103) == (1, 103, 1 / 103)
    assert neighbour_on_curve(curve, 104, 1 / 104, 1 / 106) is None  # two steps are not one
    assert neighbour_on_curve(curve, 104, 0.5, 1 / 105) is None  # the record is not on this curve
    # a list counted from 1: the recorded value lies one row on
    assert neighbour_on_curve(curve, 103, 1 / 104, 1 / 105) == (-1, 105, 1 / 105)
    sparse = Series([100, 200, 300], [3.0, 2.0, 1.0])
    assert neighbour_on_curve(sparse, 200, 2.0, 1.0) is None


def test_the_slope_of_a_sparse_curve() -> None:
    assert slope_on_curve(Series([0, 10, 20], [5.0, 3.0, 2.0]), 10) == pytest.approx((0.2, -2.0, 10))
    # a loss that falls by a factor e every ten steps changes by a tenth of itself a step
    falling = Series([0, 10, 20], [2.718281828459045, 1.0, 0.36787944117144233])
    largest, signed, apart = slope_on_curve(falling, 20) or (0.0, 0.0, 0)
    assert largest == pytest.approx((1.0 - 0.36787944117144233) / 10)
    assert (signed < 0, apart) == (True, 10)
    # at a turning point the curve has no direction
    assert (slope_on_curve(Series([0, 10, 20], [3.0, 2.0, 3.0]), 10) or (0, 1, 0))[1] == 0.0
    assert slope_on_curve(Series([0, 10, 20], [3.0, 2.0, 3.0]), 15) is None


@given(st.floats(1e-6, 0.2), st.integers(1, 500), st.floats(1e-8, 10.0))
def test_an_exponential_fall_is_covered_at_its_start(rate: float, apart: int, value: float) -> None:
    """At the last row before a fall the next step changes the loss by about rate · loss, whatever the spacing."""
    later = value * 2.718281828459045 ** (-rate * apart)
    slope = slope_on_curve(Series([0, apart], [value, later]), 0)
    assert slope is not None
    assert slope[0] >= value * (1 - 2.718281828459045**-rate) * (1 - 1e-9)
