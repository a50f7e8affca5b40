"""The rebuild beside the record: what agrees, what is one step away, what differs."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from grokscope.foreign.facts import Facts, Recorded
from grokscope.foreign.hypotheses import pair_outcomes
from grokscope.foreign.proof import (
    Optimiser,
    first_update,
    measured,
    prove,
    recorded_optimiser,
    typical_error,
)
from grokscope.models import Transformer, as_float64


@pytest.fixture
def evaluated(little_run):
    """Steps, saves and (T, N) outcomes of the little run."""
    steps = sorted(little_run.saves)
    saves = [little_run.saves[step] for step in steps]
    each = [pair_outcomes(little_run.model, as_float64(params), little_run.task) for params in saves]
    return steps, saves, torch.stack([one for one, _ in each]), torch.stack([one for _, one in each])


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


def test_a_table_written_after_the_update_is_one_step_off(little_run, their, evaluated) -> None:
    steps, saves, losses, right = evaluated
    ours = measured(little_run.task, losses, right)
    recorded = [
        Recorded(name, step, round(little_run.rows[step][column], 6), f"{column} in metrics.csv", resolution)
        for step in steps
        for name, column, resolution in (
            ("loss.train", "train_loss", 5e-7),
            ("loss.test", "test_loss", 5e-7),
            ("accuracy.train", "train_acc", 5e-7),
        )
    ]
    optimiser = Optimiser(their.rate, their.decay)
    proof = prove(recorded, ours, steps, little_run.model, saves, little_run.task, optimiser)
    verdicts = {(one.quantity, one.step): one.verdict for one in proof}
    assert verdicts["loss.train", 0] == verdicts["loss.test", 0] == "one step off"
    assert verdicts["loss.train", 300] == verdicts["loss.test", 300] == "agrees"
    assert verdicts["loss.train", 60] == "one step off"
    assert "differs" not in verdicts.values()
    note = next(one.note for one in proof if (one.quantity, one.step) == ("loss.train", 0))
    assert f"{little_run.rows[0]['train_loss']:.3f}" in note
    assert next(one for one in proof if one.step == 0).difference == proof[0].ours - proof[0].recorded

    # without a learning rate nobody can say what a step does
    unknown = prove(recorded, ours, steps, little_run.model, saves, little_run.task, None)
    assert {one.verdict for one in unknown} == {"agrees", "differs"}


def test_another_function_is_not_excused(little_run, their, evaluated) -> None:
    """The same numbers beside the GELU network: nothing confirms it, so nothing is one step off."""
    steps, saves, _, _ = evaluated
    model = Transformer(their.settings(activation="gelu"), their.p, their.p)
    each = [pair_outcomes(model, as_float64(params), little_run.task) for params in saves]
    ours = measured(little_run.task, torch.stack([a for a, _ in each]), torch.stack([b for _, b in each]))
    recorded = [
        Recorded("loss.train", step, little_run.rows[step]["train_loss"], "train_loss in metrics.csv", 5e-7)
        for step in steps
    ]
    proof = prove(recorded, ours, steps, model, saves, little_run.task, Optimiser(their.rate, their.decay))
    assert {one.verdict for one in proof} == {"differs"}
    relu = measured(little_run.task, evaluated[2], evaluated[3])
    wrong, correct = typical_error(recorded, ours, steps), typical_error(recorded, relu, steps)
    assert wrong is not None
    assert correct is not None
    assert wrong > 3 * correct


def test_a_difference_past_one_step_differs(little_run, their, evaluated) -> None:
    steps, saves, losses, right = evaluated
    ours = measured(little_run.task, losses, right)
    exact, far = float(ours["loss.test"][-1]), float(ours["loss.test"][2])
    recorded = [
        Recorded("loss.test", 300, exact, "test_loss in metrics.csv"),
        Recorded("loss.test", 150, far * 3, "test_loss in metrics.csv"),
        Recorded("accuracy.test", 150, 0.999, "test_acc in metrics.csv"),
    ]
    proof = prove(recorded, ours, steps, little_run.model, saves, little_run.task, Optimiser(1e-5, 0.0))
    assert [one.verdict for one in proof] == ["agrees", "differs", "differs"]


def test_measured_is_the_mean_over_each_set(little_run, evaluated) -> None:
    _, _, losses, right = evaluated
    task, ours = little_run.task, measured(little_run.task, losses, right)
    test = ~task.train_mask
    assert ours["loss.test"][1].item() == pytest.approx(losses[1, test].mean().item(), rel=1e-14)
    assert ours["loss.all"][1].item() == pytest.approx(losses[1].mean().item(), rel=1e-14)
    assert ours["accuracy.train"][-1].item() == right[-1, task.train_mask].double().mean().item()


def test_the_recorded_optimiser() -> None:
    facts = Facts({"config.json": {"lr": 0.001, "wd": 1}})
    assert recorded_optimiser(facts, {}) == Optimiser(0.001, 1.0)
    assert recorded_optimiser(Facts({"config.json": {"lr": "fast"}}), {}) is None
    assert recorded_optimiser(Facts(), {"learning_rate": 0.5}) == Optimiser(0.5, 0.0)
    assert recorded_optimiser(Facts(), {}) is None


def test_zeros_and_last_digits_say_nothing_about_the_error() -> None:
    ours = {"loss.train": torch.tensor([1e-7], dtype=torch.float64)}
    recorded = [
        Recorded("loss.train", 0, 0.0, "a in b", 5e-7),
        Recorded("loss.train", 0, 1e-6, "a in b", 5e-7),
    ]
    assert typical_error(recorded, ours, [0]) is None
