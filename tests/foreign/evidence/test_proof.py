"""The rebuild beside the record: what agrees, what is one step away, what differs."""

import json
from dataclasses import dataclass

import pytest
import torch

from grokscope.foreign.evidence.proof import (
    Comparison,
    Optimiser,
    measured,
    moments_of,
    prove,
    recorded_optimiser,
    typical_error,
    verdict_by_save,
)
from grokscope.foreign.gathering.facts import Facts, Recorded
from grokscope.measures.classification import correct, cross_entropy
from grokscope.models import Transformer, as_float64


def pair_outcomes(model, params, task):
    """(N,) loss and correctness of every pair."""
    logits = model.forward(params, task.inputs)
    return cross_entropy(logits, task.targets), correct(logits, task.targets)


@pytest.fixture
def evaluated(little_run):
    """Steps, saves and (T, N) outcomes of the little run."""
    steps = sorted(little_run.saves)
    saves = [little_run.saves[step] for step in steps]
    each = [pair_outcomes(little_run.model, as_float64(params), little_run.task) for params in saves]
    return steps, saves, torch.stack([one for one, _ in each]), torch.stack([one for _, one in each])


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
    assert verdicts["loss.train", 0] == "one step off"
    assert verdicts["loss.train", 300] == verdicts["loss.test", 300] == "reproduced"
    assert set(verdicts.values()) == {"reproduced", "one step off"}
    first = next(one for one in proof if (one.quantity, one.step) == ("loss.train", 0))
    assert f"{little_run.rows[0]['train_loss']:.3f}" in first.note
    assert first.shift == 1
    # within half a percent, and still better explained by the step after
    near = next(one for one in proof if (one.quantity, one.step) == ("loss.test", 0))
    assert (near.verdict, near.shift) == ("reproduced", 1)
    assert first.recorded is not None
    assert first.ours is not None
    assert first.difference == first.ours - first.recorded
    assert first.difference is not None
    assert first.relative == pytest.approx(first.difference / first.recorded)

    # without a learning rate nobody can say what a step does
    unknown = prove(recorded, ours, steps, little_run.model, saves, little_run.task, None)
    assert {one.verdict for one in unknown} == {"reproduced", "conflict"}


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
    assert "one step off" not in {one.verdict for one in proof}
    assert [one.step for one in proof if one.verdict == "reproduced"] in (
        [],
        [0],
    )  # chance level fits any network
    assert [one.verdict for one in proof].count("conflict") >= 3
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
    assert [one.verdict for one in proof[:3]] == ["reproduced", "conflict", "conflict"]
    assert [(one.step, one.verdict) for one in proof[3:]] == [
        (0, "nothing recorded"),
        (60, "nothing recorded"),
    ]


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


@dataclass
class Series:
    """A recorded curve."""

    quantity: str
    steps: list[int]
    values: list[float]
    source: str


@pytest.fixture
def at_step(little_run):
    """Proof of single numbers about the save at one step, the true values of the run at hand."""

    def judge(step: int, recorded: list[Recorded], **evidence):
        params = little_run.saves[step]
        losses, right = pair_outcomes(little_run.model, as_float64(params), little_run.task)
        ours = measured(little_run.task, losses[None], right[None])
        optimiser = evidence.pop("optimiser", None)
        model, task = little_run.model, little_run.task
        return {name: float(value) for name, value in ours.items()}, prove(
            recorded, ours, [step], model, [params], task, optimiser, **evidence
        )

    return judge


def test_the_five_verdicts_of_a_number(at_step) -> None:
    ours, _ = at_step(150, [])
    loss = ours["loss.test"]

    def verdict(value: float, resolution: float = 0.0) -> str:
        return at_step(150, [Recorded("loss.test", 150, value, "x in y", resolution)])[1][0].verdict

    assert verdict(loss) == verdict(loss * 1.0049) == verdict(loss * 0.9951) == "reproduced"
    assert verdict(loss * 1.006) == "conflict"
    assert verdict(loss * 1.006, 0.0065 * loss) == "at the printed precision"
    assert verdict(loss * 1.006, 0.0055 * loss) == "conflict"


def test_an_accuracy_is_the_same_number_of_pairs(at_step, little_run) -> None:
    count = int(little_run.task.train_mask.sum())
    ours, _ = at_step(60, [])
    value = ours["accuracy.train"]

    def verdict(recorded: float, resolution: float = 0.0) -> str:
        return at_step(60, [Recorded("accuracy.train", 60, recorded, "x in y", resolution)])[1][0].verdict

    assert verdict(float(torch.tensor(value, dtype=torch.float32))) == "reproduced"
    assert verdict(round(value, 4), 5e-5) == "reproduced"
    assert verdict(value - 1 / count) == "conflict"
    # printed so coarsely that several counts would print alike
    assert verdict(value - 2 / count, 3 / count) == "at the printed precision"


def test_a_number_at_the_floor_of_float32(little_run, at_step) -> None:
    """Weights scaled until the training loss is a few float32 roundings: float32 prints something else."""
    params = {name: value.clone() for name, value in little_run.saves[300].items()}
    params["unembed.W_U"] *= 3.0
    task, model = little_run.task, little_run.model
    losses, right = pair_outcomes(model, as_float64(params), task)
    ours = measured(task, losses[None], right[None])
    loss = float(ours["loss.train"])
    assert loss == pytest.approx(3.82e-8, rel=1e-2)
    logits = model.forward(params, task.inputs[task.train_mask])
    printed = torch.nn.functional.cross_entropy(logits, task.targets[task.train_mask]).item()

    def judged(value: float, **evidence):
        record = [Recorded("loss.train", 7, value, "x in y")]
        return prove(record, ours, [7], model, [params], task, None, **evidence)[0]

    assert abs(printed - loss) > 0.1 * printed
    assert judged(printed).verdict == "at the precision floor"
    assert "float32" in judged(printed).note
    assert judged(0.0).verdict == "at the precision floor"
    assert judged(0.0).relative is None
    assert judged(2e-7).verdict == "conflict"
    narrow = {"loss.train": torch.tensor([3e-3])}
    assert judged(3e-3, dtype_losses=narrow).note == "evaluated in the dtype of training it is 0.003"
    assert judged(4e-3, dtype_losses=narrow).verdict == "conflict"


def test_a_stored_state_proves_the_step(little_run, their) -> None:
    """The loss recorded before the last update, which the moments undo; the accuracy follows its loss."""
    leaves = {name: value.clone().requires_grad_() for name, value in little_run.saves[60].items()}
    optimiser = torch.optim.AdamW(list(leaves.values()), lr=5e-3, weight_decay=0.1)
    model, task = little_run.model, little_run.task
    for _ in range(3):
        before = {name: value.detach().clone() for name, value in leaves.items()}
        optimiser.zero_grad()
        logits = model.forward(leaves, task.inputs[task.train_mask])
        torch.nn.functional.cross_entropy(logits, task.targets[task.train_mask]).backward()
        optimiser.step()
    saved = {name: value.detach().clone() for name, value in leaves.items()}
    losses, right = pair_outcomes(model, as_float64(saved), task)
    earlier_losses, earlier_right = pair_outcomes(model, as_float64(before), task)
    ours = measured(task, losses[None], right[None])
    theirs = measured(task, earlier_losses[None], earlier_right[None])
    record = [Recorded(name, 3, float(value), f"{name} in the file itself") for name, value in theirs.items()]
    state = moments_of(optimiser.state_dict(), list(saved), dict)
    proof = prove(record, ours, [3], model, [saved], task, None, states=[state])
    assert {one.verdict for one in proof} <= {"one step off", "reproduced"}
    train = next(one for one in proof if one.quantity == "loss.train")
    assert (train.verdict, train.shift) == ("one step off", -1)
    assert "undone from the stored moments" in train.note
    # the same record beside other moments is a conflict
    assert prove(record[:1], ours, [3], model, [saved], task, None)[0].verdict == "conflict"


def test_the_next_row_of_a_dense_curve_proves_the_step(at_step) -> None:
    ours, _ = at_step(60, [])
    loss, accuracy = ours["loss.train"], ours["accuracy.train"]
    dense = Series("loss.train", [59, 60, 61], [loss * 1.02, loss * 1.01, loss], "losses in final.pth")
    record = [
        Recorded("loss.train", 60, loss * 1.01, "train_loss in the file itself"),
        Recorded("accuracy.train", 60, accuracy - 0.009, "train_acc in the file itself"),
        Recorded("accuracy.test", 60, ours["accuracy.test"] - 0.009, "test_acc in the file itself"),
    ]
    _, proof = at_step(60, record, curves=[dense])
    assert [one.verdict for one in proof] == ["one step off", "one step off", "conflict"]
    assert proof[0].shift == proof[1].shift == -1
    assert proof[0].note.startswith(f"losses in final.pth has {loss:.7g} at step 61")
    # the same where the loss is near enough to count as reproduced: its accuracy is still a step away
    near = Series("loss.train", [59, 60, 61], [loss * 1.002, loss * 1.001, loss], "losses in final.pth")
    record[0] = Recorded("loss.train", 60, loss * 1.001, "train_loss in the file itself")
    _, proof = at_step(60, record, curves=[near])
    assert [one.verdict for one in proof] == ["reproduced", "one step off", "conflict"]


def test_a_slope_excuses_only_what_the_source_has_earned(little_run, evaluated) -> None:
    steps, saves, losses, right = evaluated
    ours = measured(little_run.task, losses, right)
    loss = float(ours["loss.test"][2])
    curve = Series("loss.test", [140, 150, 160], [loss * 1.2, loss * 1.01, loss * 0.9], "test_loss in a.csv")

    def judge(other: float):
        record = [
            Recorded("loss.test", 150, loss * 1.01, "test_loss in a.csv"),
            Recorded("loss.test", 300, float(ours["loss.test"][3]) * other, "test_loss in a.csv"),
        ]
        task, model = little_run.task, little_run.model
        return prove(record, ours, steps, model, saves, task, None, curves=[curve])[0]

    earned = judge(1.0)
    assert earned.verdict == "one step off"
    assert "changes by" in earned.note
    assert judge(1.5).verdict == "conflict"


def test_numbers_without_a_partner_are_left_out(little_run, evaluated) -> None:
    steps, saves, losses, right = evaluated
    task = little_run.task.without_split("nobody knows")
    ours = measured(task, losses, right)
    assert set(ours) == {"loss.all", "accuracy.all"}
    record = [
        Recorded("loss.train", 60, 1.0, "a in b"),
        Recorded("loss.all", 61, 1.0, "a in b"),
        Recorded("loss.all", 60, float("nan"), "a in b"),
        Recorded("loss.all", 150, float(ours["loss.all"][2]), "a in b"),
    ]
    proof = prove(record, ours, steps, little_run.model, saves, task, Optimiser(1e-3, 0.0))
    assert [one.verdict for one in proof] == ["reproduced"] + ["nothing recorded"] * 3
    assert [one.step for one in proof] == [150, 0, 60, 300]
    assert proof[1].recorded is None
    assert proof[1].ours == float(ours["loss.all"][0])
    assert typical_error(record, ours, steps) == pytest.approx(1e-7)


def test_values_that_are_not_finite_never_reach_the_table(little_run, evaluated) -> None:
    steps, saves, losses, right = evaluated
    losses = losses.clone()
    losses[1] = float("nan")
    ours = measured(little_run.task, losses, right)
    record = [Recorded("loss.train", 60, 1.0, "a in b")]
    proof = prove(record, ours, steps, little_run.model, saves, little_run.task, None)
    assert (proof[0].verdict, proof[0].ours, proof[0].difference) == ("conflict", None, None)
    json.dumps([one.as_json() for one in proof], allow_nan=False)


def test_one_verdict_for_a_save() -> None:
    def row(quantity: str, verdict, step: int = 5) -> Comparison:
        return Comparison(quantity, step, 1.0, 1.0, 0.0, verdict, "a in b")

    led_by_losses = [row("loss.train", "reproduced"), row("accuracy.train", "one step off")]
    assert verdict_by_save(led_by_losses) == {5: "reproduced"}
    assert verdict_by_save([*led_by_losses, row("loss.test", "one step off")]) == {5: "one step off"}
    assert verdict_by_save([*led_by_losses, row("accuracy.test", "conflict")]) == {5: "conflict"}
    assert verdict_by_save([row("accuracy.train", "one step off", 6)]) == {6: "one step off"}
