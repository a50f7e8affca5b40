"""Regression with a teacher: what is answered, what is trained on, and what the loss is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks import RegressionSettings, build_task, regression_task


@pytest.mark.parametrize("teacher", ["linear", "sparse"])
def test_linear_teachers_answer_linearly(teacher):
    settings = RegressionSettings(teacher=teacher, d=300, train=50, test=400, support=7)
    task = build_task(settings, 2)
    beta = torch.tensor(task.facts["coefficients"], dtype=torch.float64)
    torch.testing.assert_close(task.targets, (task.inputs @ beta)[:, None])
    if teacher == "sparse":
        assert sorted(beta.abs().tolist()) == [0.0] * 293 + [1.0] * 7
    else:
        assert float(beta.square().sum()) == pytest.approx(1, abs=0.3)
    assert task.inputs.std().item() == pytest.approx(1, rel=0.01)
    assert (task.kind, task.n_classes, task.chance, task.mean_loss) == ("regression", 1, None, False)


def test_the_relu_teacher_is_piecewise_linear_with_its_kinks_among_the_inputs():
    task = regression_task(RegressionSettings(teacher="relu", d=1, train=10, test=5000, neurons=3), 4)
    x, order = task.inputs[:, 0].sort()
    assert -2 <= x[0] < -1.9
    assert 1.9 < x[-1] <= 2
    y = task.targets[order, 0].numpy()
    slopes = np.diff(y) / np.diff(x.numpy())
    # weights of one dimension are ±1 and so are the signs: slopes are whole numbers between kinks
    whole = np.abs(slopes - slopes.round()) < 1e-4
    assert set(slopes[whole].round()) <= {-3, -2, -1, 0, 1, 2, 3}
    assert np.sum(np.diff(slopes[whole].round()) != 0) == 3


@pytest.mark.parametrize("teacher", ["linear", "sparse", "relu"])
def test_training_samples_come_first_and_alone_are_noisy(teacher):
    plain = regression_task(RegressionSettings(teacher=teacher, d=5, train=200, test=30), 1)
    noisy = regression_task(RegressionSettings(teacher=teacher, d=5, train=200, test=30, noise=0.5), 1)
    assert plain.train_mask.shape == (230, 1)
    assert plain.train_rows.tolist() == [True] * 200 + [False] * 30
    assert torch.equal(plain.inputs, noisy.inputs)
    difference = (noisy.targets - plain.targets)[:, 0]
    assert not difference[200:].any()
    assert difference[:200].std().item() == pytest.approx(0.5, rel=0.15)


def test_the_sample_and_the_teacher_have_seeds_of_their_own():
    first = regression_task(RegressionSettings(split_seed=7), 1)
    second = regression_task(RegressionSettings(split_seed=7), 2)
    assert torch.equal(first.inputs, second.inputs)
    assert first.facts["coefficients"] != second.facts["coefficients"]
    assert not torch.equal(first.inputs, regression_task(RegressionSettings(), 1).inputs)
    assert first.facts["coefficients"] == regression_task(RegressionSettings(), 1).facts["coefficients"]


def test_the_loss_may_be_a_mean():
    assert regression_task(RegressionSettings(loss="mean"), 0).mean_loss


@pytest.mark.parametrize(
    "changes",
    [
        {"d": 0},
        {"train": 0},
        {"test": 0},
        {"teacher": "sparse", "support": 0},
        {"teacher": "sparse", "support": 41},
        {"neurons": 0},
        {"span": 0.0},
        {"noise": -1.0},
    ],
)
def test_settings_that_make_no_task(changes):
    with pytest.raises(GrokscopeError, match="building a regression task") as caught:
        regression_task(RegressionSettings(**changes), 0)
    assert "\n" not in str(caught.value)
