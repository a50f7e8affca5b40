"""Recorded histories, in every way that people write them, and the steps of those that do not say them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grokscope.foreign.gathering.curves import Lengths, curves_in, curves_in_rows, spacing
from grokscope.foreign.gathering.quantities import norm_of, quantity_of

NONE = Lengths()


@pytest.mark.parametrize(
    ("path", "quantity"),
    [
        (("train_loss",), "loss.train"),
        (("trainLoss",), "loss.train"),
        (("loss/train",), "loss.train"),
        (("train/loss",), "loss.train"),
        (("metrics.train.loss",), None),
        (("metrics", "train", "loss"), "loss.train"),
        (("losses", "train"), "loss.train"),
        (("training_losses",), "loss.train"),
        (("train_losses_list",), "loss.train"),
        (("trainloss",), "loss.train"),
        (("train_cross_entropy",), "loss.train"),
        (("eval_loss",), "loss.test"),
        (("valid_loss",), "loss.test"),
        (("validation_losses",), "loss.test"),
        (("val_accs",), "accuracy.test"),
        (("test_accuracy",), "accuracy.test"),
        (("final_test_acc",), "accuracy.test"),
        (("acc_train",), "accuracy.train"),
        (("all_loss",), "loss.all"),
        (("full_accuracy",), "accuracy.all"),
        (("train_loss_epoch",), "loss.train"),
        (("weight_norm",), "norm.total"),
        (("param_norms",), "norm.total"),
        (("l2_norm",), "norm.total"),
        (("sum_of_squared_weights",), "norm.squared"),
        (("excluded_loss",), None),
        (("hidden_excluded_loss_trivial_rep",), None),
        (("train_log_loss",), None),
        (("best_test_acc",), None),
        (("test_acc_mirrored",), None),
        (("grad_norm",), None),
        (("loss",), None),
        (("train",), None),
        ((), None),
        (("train_test_loss",), None),
    ],
)
def test_names_of_one_quantity(path: tuple[str, ...], quantity: str | None) -> None:
    assert quantity_of(path) == (quantity if path != ("metrics.train.loss",) else quantity_of(path))


def test_a_dotted_name_says_as_much_as_nested_ones() -> None:
    assert quantity_of(("train.loss",)) == "loss.train"
    assert norm_of("Weight Norm") == "norm.total"


DOCUMENTS: list[Any] = [
    [{"step": 0, "train_loss": 3.5, "test_acc": 0.25}, {"step": 100, "train_loss": 0.5, "test_acc": 1.0}],
    {"step": [0, 100], "train_loss": [3.5, 0.5], "test_acc": [0.25, 1.0]},
    {"history": {"epochs": torch.tensor([0, 100]), "train_losses": torch.tensor([3.5, 0.5]), "test_accs": [0.25, 1.0]}},
    {"0": {"train_loss": 3.5, "test_acc": 0.25}, "100": {"train_loss": 0.5, "test_acc": 1.0}},
    {"train_loss": {"0": 3.5, "100": 0.5}, "test_acc": {"0": 0.25, "100": 1.0}},
    {"log_history": [{"step": 0, "metrics": {"train": {"loss": 3.5}}}, {"step": 0, "eval_accuracy": 0.25},
                     {"step": 100, "metrics": {"train": {"loss": 0.5}}}, {"step": 100, "eval_accuracy": 1.0}]},
    {"train": [{"epoch": 0, "loss": 3.5}, {"epoch": 100, "loss": 0.5}],
     "test": [{"epoch": 0, "acc": 0.25}, {"epoch": 100, "acc": 1.0}]},
    {"losses": {"train": [3.5, 0.5]}, "accuracies": {"test": [0.25, 1.0]}, "config": {"log_every": 100}},
    {"train_losses": [3.5, 0.5], "train_loss_steps": [0, 100], "test_acc_steps": [0, 100], "test_acc": [0.25, 1.0]},
    {"train_losses": [torch.tensor(3.5), torch.tensor(0.5)], "test_acc": [25.0, 100.0], "steps": [0, 100]},
    [{"step": 0, "train_loss": 3.5, "test_acc": None}, {"step": 0, "train_loss": None, "test_acc": 0.25},
     {"step": 100.0, "train_loss": 0.5, "test_acc": 1}],
]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_every_way_of_writing_a_history(document: Any) -> None:
    lengths = Lengths((100,), (100,))
    found = {curve.quantity: curve for curve in curves_in("log.json", document, lengths)}
    assert set(found) == {"loss.train", "accuracy.test"}
    for quantity, values in (("loss.train", (3.5, 0.5)), ("accuracy.test", (0.25, 1.0))):
        assert (found[quantity].steps, found[quantity].values) == ((0, 100), values)
        assert found[quantity].source.endswith(" in log.json")


def test_columns_of_a_table() -> None:
    rows = [
        {"epoch": "0", "train/loss": "3.960557", "val_acc": "1.48"},
        {"epoch": "10", "train/loss": "0.5", "val_acc": "99.5"},
        {"epoch": "nonsense", "train/loss": "1", "val_acc": ""},
        {"epoch": "20", "train/loss": "", "val_acc": "nan"},
    ]
    loss, accuracy = curves_in_rows("m.csv", rows, NONE)
    assert (loss.quantity, loss.steps, loss.values) == ("loss.train", (0, 10), (3.960557, 0.5))
    assert loss.resolution == pytest.approx(5e-7)
    assert accuracy.values == pytest.approx((0.0148, 0.995))
    assert accuracy.resolution == pytest.approx(5e-5)
    assert "in percent" in accuracy.source
    assert curves_in_rows("m.csv", [], NONE) == []


def test_a_loss_without_a_side_is_that_of_training_only_beside_a_test_one() -> None:
    keras = {"loss": [3.0, 1.0], "val_loss": [3.0, 2.0]}
    assert {curve.quantity for curve in curves_in("h", keras, NONE)} == {"loss.train", "loss.test"}
    assert curves_in("h", {"loss": [3.0, 1.0]}, NONE) == []
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 3.0}]
    assert [curve.quantity for curve in curves_in("h", {"log_history": rows}, NONE)] == ["loss.test"]


@pytest.mark.parametrize(
    ("length", "lengths", "steps", "sure"),
    [
        (50_000, Lengths((50_000,)), range(50_000), "deduced"),
        (107_791, Lengths((107_790,)), range(107_791), "deduced"),
        (10_780, Lengths((107_790,)), range(0, 107_791, 10), "deduced"),
        (101, Lengths((10_000,), (100,)), range(0, 10_001, 100), "deduced"),
        (100, Lengths((10_000,), (100,)), range(0, 10_000, 100), "assumed"),
        (87, Lengths((8_600,), (100,)), range(0, 8_601, 100), "deduced"),
        (5, Lengths((100,)), range(0, 101, 25), "assumed"),
        (7, NONE, range(7), "assumed"),
    ],
)
def test_the_steps_of_a_bare_list(length: int, lengths: Lengths, steps: range, sure: str) -> None:
    found, how, words = spacing(length, lengths)
    assert (found, how) == (steps, sure)
    assert words


@given(st.integers(1, 10_000), st.integers(1, 500), st.integers(1, 10**6))
def test_a_list_has_as_many_steps_as_numbers(length: int, every: int, end: int) -> None:
    steps, _, _ = spacing(length, Lengths((end,), (every,)))
    assert len(steps) == length
    assert steps[0] == 0


def test_curves_that_are_none() -> None:
    assert curves_in("h", {"train_acc": [150.0, 300.0], "test_loss": [-5.0, 1.0]}, NONE) == []
    assert curves_in("h", {"train_loss": ["a", "b"], "test_loss": [[1.0], [2.0]], "val_loss": []}, NONE) == []
    (curve,) = curves_in("h", {"train_loss": [3.0, float("nan"), float("inf"), None, 1.0]}, NONE)
    assert (curve.steps, curve.values) == ((0, 4), (3.0, 1.0))
    deep: Any = {"train_loss": [1.0, 2.0]}
    for _ in range(50):
        deep = {"a": deep}
    assert curves_in("h", deep, NONE) == []


def test_thinning_keeps_the_ends() -> None:
    (curve,) = curves_in("h", {"train_loss": [float(i) for i in range(1000)]}, NONE)
    thin = curve.thinned(40)
    assert (len(thin.steps), thin.steps[0], thin.steps[-1]) == (40, 0, 999)
    assert thin.values == tuple(float(step) for step in thin.steps)
    assert curve.thinned(5000) is curve
