"""Where in one file's content the weights lie, written in every way that people write them."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from grokscope.foreign.gathering.contents import find_states
from grokscope.foreign.gathering.facts import Facts, recorded_curves, recorded_numbers
from grokscope.foreign.gathering.pairs import recorded_pairs

EMBED, HEAD, BIAS = torch.arange(12.0).reshape(3, 4), torch.ones(4, 3), torch.zeros(3)
WEIGHTS = {"embed.weight": EMBED, "head.weight": HEAD, "head.bias": BIAS}


def other(scale: float) -> dict[str, Tensor]:
    return {name: value + scale for name, value in WEIGHTS.items()}


def adam(kind: str = "text") -> dict[str, Any]:
    """An optimiser's state dict, with moments that look more like weights than the weights do."""
    model = nn.Linear(64, 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.25)
    model(torch.ones(1, 64)).sum().backward()
    optimiser.step()
    state = optimiser.state_dict()
    return {**state, "state": {str(key): value for key, value in state["state"].items()}}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS},
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": adam()},
        {"optimizer": adam(), "anything": WEIGHTS},
        {"state": {"model": WEIGHTS, "optimizer": adam()}, "config": {"lr": 1.0}},
        {"a": {"b": {"c": {"net": WEIGHTS}}}},
        {"checkpoint": {"module": {f"module.{name}": value for name, value in WEIGHTS.items()}}},
        {"embed": {"weight": EMBED}, "head": {"weight": HEAD, "bias": BIAS}},
        {"params": {"embed": {"weight": EMBED}, "head": {"weight": HEAD, "bias": BIAS}}, "step": 4},
        {"embed": {"weight": EMBED}, "head": {"weight": HEAD, "bias": BIAS}, "epoch": 5, "loss": [1.0, 2.0]},
        {"embed/weight": EMBED, "head/weight": HEAD, "head/bias": BIAS},
        {"model": WEIGHTS, "ema": other(1), "model_ema": other(2), "swa_state_dict": other(3)},
        {"ema_state_dict": other(1), "net": WEIGHTS, "scheduler": {"last_epoch": 3}, "rng": torch.ones(9, 9)},
        {"epoch": 3, "train_losses": torch.ones(50), "X_train": torch.ones(90, 2), **WEIGHTS},
        {"params": WEIGHTS, "train_data": torch.ones(90, 2), "grads": other(1)},
    ],
    ids=range(16),
)
def test_the_one_state_dict(content: dict[str, Any]) -> None:
    found = find_states(content)
    (state,) = found.states
    assert not found.many
    assert list(state.tensors) == list(WEIGHTS)
    assert all(torch.equal(state.tensors[name], value) for name, value in WEIGHTS.items())


def test_what_lies_beside_is_kept_as_recorded() -> None:
    content = {
        "model": WEIGHTS,
        "optimizer": adam(),
        "scheduler": {"last_epoch": 7, "step": 99},
        "train_loss": torch.tensor(0.25),
        "test_loss": float("nan"),
        "train_losses": [3.0, 2.0],
        "train_indices": torch.arange(5),
        "config": {"__class__": "HookedTransformerConfig", "d_model": 16, "nested": {"lr": 0.1}},
        "ema": other(1),
        "old_model": {"weights": other(1)},
        "__metadata__": {"step": "12", "note": "mine", "train_loss": "9"},
    }
    found = find_states(content)
    beside = dict(found.beside)
    assert torch.equal(beside.pop("train_indices"), torch.arange(5))
    settings = beside.pop("optimizer")["param_groups"][0]
    assert (settings["lr"], settings["weight_decay"], "params" in settings) == (0.5, 0.25, False)
    assert beside == {
        "train_loss": 0.25,
        "train_losses": [3.0, 2.0],
        "config": {"__class__": "HookedTransformerConfig", "d_model": 16, "nested": {"lr": 0.1}},
        "step": 12,
        "note": "mine",
    }
    assert "last_epoch" not in str(beside)
    assert any("'ema'" in note and "averaged" in note for note in found.notes)
    assert found.optimizer is not None
    assert set(found.optimizer["state"]) == {0, 1}
    assert found.optimizer["state"][0]["exp_avg"].shape == (64, 64)


def test_averaged_weights_for_want_of_others() -> None:
    found = find_states({"ema": WEIGHTS, "epoch": 3})
    assert list(found.states[0].tensors) == list(WEIGHTS)
    assert "only averaged weights are in the file" in found.notes


def test_a_lightning_file() -> None:
    content = {
        "epoch": 12,
        "global_step": 3400,
        "pytorch-lightning_version": "2.1",
        "state_dict": {f"model._orig_mod.{name}": value for name, value in WEIGHTS.items()},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 11}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "current_score": 1.0}},
        "optimizer_states": [adam()],
        "lr_schedulers": [],
        "hyper_parameters": {"p": 113, "lr": 1e-3},
    }
    found = find_states(content)
    assert list(found.states[0].tensors) == list(WEIGHTS)
    assert found.beside["global_step"] == 3400
    assert found.beside["hyper_parameters"] == {"p": 113, "lr": 1e-3}
    assert "callbacks" not in found.beside
    assert found.optimizer is not None
    assert found.optimizer["param_groups"][0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("prefix", "left"),
    [
        ("module._orig_mod.model.", ""),
        ("net.", ""),
        ("transformer_model.", ""),
        ("mlp.", "mlp."),
        ("blocks.0.", "blocks.0."),
        ("transformer.", "transformer."),
    ],
)
def test_wrappers_come_off_and_parts_stay(prefix: str, left: str) -> None:
    found = find_states({prefix + name: value for name, value in WEIGHTS.items()})
    assert list(found.states[0].tensors) == [left + name for name in WEIGHTS]


def test_a_sequential_under_a_wrapper() -> None:
    found = find_states({"model.0.weight": EMBED, "model.2.weight": HEAD})
    assert list(found.states[0].tensors) == ["0.weight", "2.weight"]


MANY = [
    {"checkpoints": [other(0), other(1), other(2)], "checkpoint_epochs": [0, 100, 250]},
    {"state_dicts": [other(0), other(1), other(2)], "epochs": torch.tensor([0, 100, 250]), "config": {"p": 5}},
    {"0": other(0), "100": other(1), "250": other(2)},
    {"step_0": other(0), "step_100": other(1), "step_250": other(2), "config": {"p": 5}},
    {"snapshots": {"0": {"model": other(0)}, "100": {"model": other(1)}, "250": {"model": other(2)}}},
    [{"step": 0, "state_dict": other(0)}, {"step": 100, "state_dict": other(1)}, {"step": 250, "state_dict": other(2)}],
    [[0, other(0)], [100, other(1)], [250, other(2)]],
    {"run": {"history": [{"epoch": e, "model": other(i)} for i, e in enumerate((0, 100, 250))]}},
    {f"step_{e}/{name}": value for i, e in enumerate((0, 100, 250)) for name, value in other(i).items()},
    {**{name: torch.stack([value + i for i in range(3)]) for name, value in WEIGHTS.items()},
     "steps": torch.tensor([0, 100, 250])},
    {"params": {name: torch.stack([value + i for i in range(3)]) for name, value in WEIGHTS.items()},
     "epochs": [0, 100, 250]},
    {"init": other(0), "100": other(1), "250": other(2)},
]  # fmt: skip


@pytest.mark.parametrize("content", MANY, ids=range(len(MANY)))
def test_one_file_with_many_steps(content: Any) -> None:
    found = find_states(content)
    assert found.many
    assert [state.step for state in found.states] == [0, 100, 250]
    for index, state in enumerate(found.states):
        assert list(state.tensors) == list(WEIGHTS)
        assert torch.equal(state.tensors["head.weight"], HEAD + index)


def test_the_final_weights_beside_the_steps() -> None:
    steps = {"checkpoints": [other(0), other(1)], "checkpoint_epochs": [0, 100]}
    last = find_states({**steps, "model": other(5), "epoch": 180}).states[-1]
    assert (last.step, float(last.tensors["head.bias"][0])) == (180, 5.0)
    counted = find_states({**steps, "model": other(5), "train_losses": [1.0] * 150})
    assert [state.step for state in counted.states] == [0, 100, 150]
    again = find_states({**steps, "model": other(1), "epoch": 180})
    assert len(again.states) == 2
    assert any("again" in note for note in again.notes)
    unknown = find_states({**steps, "model": other(5)})
    assert len(unknown.states) == 2
    assert any("not recorded" in note for note in unknown.notes)


def test_steps_that_are_not_recorded() -> None:
    spaced = find_states({"checkpoints": [other(0), other(1), other(2)], "config": {"save_every": 50}})
    assert [state.step for state in spaced.states] == [0, 50, 100]
    assert "one in 50" in spaced.states[0].step_from
    counted = find_states([other(0), other(1)])
    assert [state.step for state in counted.states] == [0, 1]
    assert "not recorded" in counted.states[0].step_from


def test_numbered_layers_are_no_steps() -> None:
    layers = {str(i): {"kernel": torch.full((4, 4), float(i)), "bias": torch.zeros(4)} for i in range(3)}
    found = find_states(layers)
    assert not found.many
    assert set(found.states[0].tensors) == {f"{i}.{name}" for i in range(3) for name in ("kernel", "bias")}
    blocks = {str(i): {"W_Q": torch.full((4, 4), float(i)), "W_K": torch.zeros(4, 4)} for i in range(2)}
    found = find_states({"params": {"embed": EMBED, "blocks": blocks}})
    assert not found.many
    assert len(found.states[0].tensors) == 5


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "a list of 2 values"),
        ({"a": 1}, "a"),
        ({}, "nothing"),
        (3.5, "a float"),
        (torch.ones(3, 4), "a single array of shape (3, 4)"),
        (adam(), "optimiser state"),
        ({"optimizer": adam()}, "optimizer"),
        ([[0.95, 0.9], [[4.0 - i / 50 for i in range(100)], [4.0 - i / 50 for i in range(90)]]],
         "loss curves and no weights"),
        ({"train_losses": [3.0, 2.0], "test_losses": [3.0, 2.5]}, "loss curves and no weights (train_losses"),
        ([[1, 2], [3, 4]], "a list of 2 lists"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_holds_no_weights_says_what_it_holds(content: Any, what: str) -> None:
    found = find_states(content)
    assert found.states == ()
    assert found.what.startswith(what)


def test_a_record_of_a_whole_model() -> None:
    inner = {"__class__": "torch.nn.Linear", "_parameters": {"weight": HEAD, "bias": BIAS}, "_buffers": {},
             "_modules": {}, "in_features": 3}  # fmt: skip
    embed = {
        "__class__": "torch.nn.Embedding",
        "_parameters": {"weight": EMBED},
        "_buffers": {},
        "_modules": {},
    }
    record = {"__class__": "__main__.Model", "_parameters": {}, "_buffers": {"mask": torch.ones(2, 2)},
              "_modules": {"embed": embed, "head": inner}, "p": 113}  # fmt: skip
    for content in (record, {"model": record, "epoch": 3}):
        found = find_states(content)
        assert set(found.states[0].tensors) == {*WEIGHTS, "mask"}
        assert any("whole model" in note and "mask" in note for note in found.notes)
    assert find_states(record).beside["p"] == 113


KEYS = st.sampled_from(
    ["model", "state", "optimizer", "0", "1", "100", "step_5", "epochs", "checkpoints", "ema", "params", "W_E", "a/b",
     "step_1/W", "train_losses", "train", "config", "__class__", "__metadata__", "param_groups", "steps", "_parameters"]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
    st.sampled_from([torch.ones(2, 3), torch.ones(3), torch.tensor(2), torch.ones(3, 2, 2), torch.arange(3),
                     torch.zeros(0, 4), torch.ones(2, 2, dtype=torch.complex64), torch.tensor(True)]),
)  # fmt: skip
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(PLAIN)
@settings(max_examples=300, deadline=None)
def test_no_content_is_too_odd(content: Any) -> None:
    found = find_states(content)
    assert bool(found.states) != bool(found.what)
    for state in found.states:
        assert all(isinstance(value, Tensor) for value in state.tensors.values())
    facts = Facts({"a.pt": found.beside or found.whole})
    recorded_pairs(facts, found.beside)
    recorded_curves(facts, found.beside, 100)
    recorded_numbers(facts, {5: found.beside, 0: {}})
    json.dumps(facts.kept(found.beside), allow_nan=False)
    facts.find(("epochs", "W_E"), found.beside)


def test_a_great_many_keys_take_little_time() -> None:
    found = find_states({f"key_{index}/x": 0.5 for index in range(100_000)})
    assert found.states == ()
    assert len(found.what) < 1000
