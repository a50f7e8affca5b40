"""What training loops call a loss, against torch's own and closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from grokscope.foreign.evidence.losses import CROSS_ENTROPY, SQUARED_ERRORS, Loss
from grokscope.foreign.evidence.one_step import Optimiser, gradient_of, reach_of_a_step
from grokscope.foreign.evidence.proof import measured, prove
from grokscope.foreign.gathering.facts import Recorded

MEAN, SUM, HALF, HALF_MEAN = SQUARED_ERRORS


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_against_torch(logits: torch.Tensor) -> None:
    targets = torch.arange(40) % 7
    answers = F.one_hot(targets, 7).double()
    assert MEAN.of(logits, targets).mean().item() == pytest.approx(F.mse_loss(logits, answers).item())
    summed = F.mse_loss(logits, answers, reduction="sum").item() / 40
    assert SUM.of(logits, targets).mean().item() == pytest.approx(summed)
    assert HALF.of(logits, targets).mean().item() == pytest.approx(summed / 2)
    assert HALF_MEAN.of(logits, targets).mean().item() == pytest.approx(summed / 14)
    entropy = F.cross_entropy(logits, targets).item()
    assert CROSS_ENTROPY.of(logits, targets).mean().item() == pytest.approx(entropy)


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, *SQUARED_ERRORS], ids=lambda loss: loss.name)
def test_in_the_dtype_of_training(loss: Loss, logits: torch.Tensor) -> None:
    targets = torch.arange(40) % 7
    narrow = loss.of_dtype(logits.float(), targets)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), loss.of(logits, targets), rtol=1e-5, atol=1e-6)


def test_chance() -> None:
    targets = torch.arange(5)
    nothing = torch.zeros(5, 5)
    for loss in (CROSS_ENTROPY, *SQUARED_ERRORS):
        assert loss.of(nothing, targets).mean().item() == pytest.approx(loss.chance(5))
    assert CROSS_ENTROPY.chance(5) == pytest.approx(math.log(5))


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, MEAN, HALF], ids=lambda loss: loss.name)
def test_gradients_are_of_the_loss_given(loss: Loss, little_run) -> None:
    model, task = little_run.model, little_run.task
    params = {name: value.double() for name, value in little_run.saves[60].items()}
    gradient = gradient_of(model, params, task, task.train_mask, loss)
    generator = torch.Generator().manual_seed(0)
    along = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in params.items()
    }

    def mean(step: float) -> float:
        moved = {name: value + step * along[name] for name, value in params.items()}
        inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
        return loss.of(model.forward(moved, inputs), targets).mean().item()

    slope = sum(float((gradient[name] * along[name]).sum()) for name in params)
    assert (mean(1e-6) - mean(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-5)
    reach = reach_of_a_step(model, params, task, task.train_mask, Optimiser(1e-3, 0.0), loss)
    assert reach == pytest.approx(1e-3 * sum(float(one.abs().sum()) for one in gradient.values()))


def test_a_proof_in_squared_errors(little_run) -> None:
    model, task, steps = little_run.model, little_run.task, sorted(little_run.saves)
    saves = [little_run.saves[step] for step in steps]
    logits = [model.forward({k: v.double() for k, v in one.items()}, task.inputs) for one in saves]
    right = torch.stack([one.argmax(-1) == task.targets for one in logits])
    told = torch.stack([F.mse_loss(one[task.train_mask], F.one_hot(task.targets, model.n_classes)
                                   [task.train_mask].double()) for one in logits])  # fmt: skip
    recorded = [
        Recorded("loss.train", step, value, "loss in a log")
        for step, value in zip(steps, told.tolist(), strict=True)
    ]
    for loss, verdict in ((MEAN, "reproduced"), (HALF, "conflict"), (CROSS_ENTROPY, "conflict")):
        losses = torch.stack([loss.of(one, task.targets) for one in logits])
        rows = prove(recorded, measured(task, losses, right), steps, model, saves, task, None, loss=loss)
        assert {row.verdict for row in rows} == {verdict}
