"""What was recorded beside the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grokscope.foreign.gathering.facts import (
    Facts,
    facts_beside,
    recorded_curves,
    recorded_norms,
    recorded_numbers,
)


def numbers(facts: Facts, inside: dict[int, dict[str, Any]]) -> dict[tuple[str, int], float]:
    return {(one.quantity, one.step): one.value for one in recorded_numbers(facts, inside)}


def test_a_column_is_printed_to_its_longest_entry(tmp_path: Path) -> None:
    rows = "step,train_loss,test_acc\n0,3.960557,0.0148\n10,0.5,1.0\n20,1e-05,nonsense\n"
    (tmp_path / "metrics.csv").write_text(rows)
    read = recorded_numbers(facts_beside(tmp_path, "full", False), {0: {}, 10: {}, 20: {}})
    found = {(one.quantity, one.step): one for one in read}
    assert found["loss.train", 0].value == 3.960557
    assert found["loss.train", 10].resolution == pytest.approx(5e-7)
    assert found["accuracy.test", 10].resolution == pytest.approx(5e-5)
    assert found["loss.train", 20].value == 1e-5
    assert ("accuracy.test", 20) not in found
    assert found["loss.train", 0].source == "train_loss in metrics.csv"
    assert found["loss.train", 0].place == "metrics.csv"


def test_documents_without_steps_speak_of_the_last_save(tmp_path: Path) -> None:
    (tmp_path / "summary_metrics.json").write_text(
        '{"train_loss": 8.8592462e-08, "all_loss": NaN, "test_loss": 1e999, "final_test_acc": 1.0}'
    )
    (tmp_path / "metrics.json").write_text('[{"step": 5, "test_loss": 2.5}, {"step": 6, "test_loss": 2.25}]')
    read = recorded_numbers(facts_beside(tmp_path, "full", False), {5: {"val_acc": 0.5}, 9: {}})
    found = {(one.quantity, one.step): (one.value, one.resolution) for one in read}
    assert found == {
        ("loss.train", 9): (8.8592462e-8, 0.0),
        ("accuracy.test", 9): (1.0, 0.0),
        ("loss.test", 5): (2.5, pytest.approx(0.005)),
        ("accuracy.test", 5): (0.5, 0.0),
    }


def test_documents_that_say_how_far_the_run_went() -> None:
    facts = Facts({"run.json": {"steps_run": 600, "final_test_acc": 0.25}})
    assert numbers(facts, {100: {}, 600: {}}) == {("accuracy.test", 600): 0.25}
    assert numbers(facts, {100: {}, 500: {}}) == {}
    assert numbers(Facts({"m.json": {"final": {"test_loss": 0.5}}}), {3: {}, 4: {}}) == {
        ("loss.test", 4): 0.5
    }


def test_numbers_of_several_things_are_not_taken_for_those_of_one() -> None:
    seeds = {"seed_1": {"test_loss": 0.5}, "seed_2": {"test_loss": 0.7}}
    assert numbers(Facts({"metrics.json": seeds}), {3: {}}) == {}
    outer = {"test_loss": 0.9, "ablated": {"test_loss": 5.0}}
    assert numbers(Facts({"metrics.json": outer}), {3: {}}) == {("loss.test", 3): 0.9}


def test_numbers_from_histories_at_saved_steps() -> None:
    history = {"train_losses": [float(i) for i in range(100)], "epoch": 100, "train_loss": 0.25}
    found = recorded_numbers(Facts(), {10: {"train_loss": 10.0}, 50: {}, 100: history})
    told = {(one.step, one.value): one.source for one in found}
    assert set(told) == {(10, 10.0), (50, 50.0), (100, 0.25)}
    # a number that is written twice counts once
    assert told[10, 10.0] == "train_loss in the file itself"
    assert told[50, 50.0] == (
        "train_losses (100 numbers up to step 100: one a step from 0) in the file itself"
    )
    guessed = {"train_losses": [3.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.1]}
    assert recorded_numbers(Facts(), {0: guessed}) == []


def test_percent_is_seen_over_all_files() -> None:
    found = numbers(Facts(), {0: {"train_acc": 0.5}, 10: {"train_acc": 50.0}, 20: {"train_acc": 100.0}})
    assert found == {
        ("accuracy.train", 0): pytest.approx(0.005),
        ("accuracy.train", 10): 0.5,
        ("accuracy.train", 20): 1.0,
    }
    assert numbers(Facts(), {0: {"train_acc": 0.5}, 10: {"train_acc": 1.0}})["accuracy.train", 0] == 0.5
    assert numbers(Facts(), {0: {"train_acc": 12769}}) == {}
    (one,) = recorded_numbers(Facts(), {0: {"test_accuracy": 97.5}})
    assert "in percent" in one.source


def test_norms_are_apart_from_losses() -> None:
    inside = {0: {"param_norm": 3.5, "train_loss": 1.0}, 5: {"sum_of_squared_weights": 16.0}}
    facts = Facts(tables={"m.csv": [{"step": "5", "weight_norm": "4.00"}]})
    found = [(one.quantity, one.step, one.value, one.resolution) for one in recorded_norms(facts, inside)]
    assert found == [
        ("norm.total", 0, 3.5, 0.0),
        ("norm.squared", 5, 16.0, 0.0),
        ("norm.total", 5, 4.0, pytest.approx(0.005)),
    ]
    assert [one.quantity for one in recorded_numbers(facts, inside)] == ["loss.train"]


def test_which_files_belong_to_which_weights(tmp_path: Path) -> None:
    for name in ("config.json", "run_a.json", "config_run_a.json", "run_b.json", "notes.json"):
        (tmp_path / name).write_text(json.dumps({"seed": 1, "who": name}))
    assert set(facts_beside(tmp_path, "run_a", False).documents) == {
        "config.json",
        "run_a.json",
        "config_run_a.json",
    }
    assert "notes.json" in facts_beside(tmp_path, "run_a", True).documents


def test_lookup_goes_inside_first_and_settings_before_results(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text('{"nested": {"seed": 4}}')
    (tmp_path / "metrics.json").write_text('{"seed": 5, "lr": 0.1}')
    facts = facts_beside(tmp_path, "full", False)
    assert facts.find(("seed",)) == (4, "seed in args.json")
    assert facts.find(("split_seed", "seed"), {"seed": 6}) == (6, "seed in the file itself")
    assert facts.find(("lr",), {"config": {"lr": 0.2}}) == (0.2, "lr in the file itself")
    assert facts.find(("lr",), {"optimizer": {"param_groups": [{"lr": 0.3}]}}) == (
        0.3,
        "lr in the file itself",
    )
    assert facts.find(("seed",), {"seed": torch.tensor(7)}) == (7, "seed in the file itself")
    assert facts.find(("seed",), {"seed": None, "x": {"seed": float("nan")}}) == (4, "seed in args.json")
    assert facts.find(("gone",)) is None


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{broken")
    (tmp_path / "cfg.json").write_text("[" * 100_000)
    (tmp_path / "metrics.csv").write_bytes(b"step,train_loss\n\xff\xfe,1\n")
    facts = facts_beside(tmp_path, "full", False)
    assert not facts.documents
    assert set(facts.kept()) == {"config.json", "cfg.json", "metrics.csv"}
    assert all("\n" not in str(text) for text in facts.kept().values())


def test_what_is_kept_is_bounded_and_json() -> None:
    rows = [{"step": str(step), "train_loss": "1.5"} for step in range(5000)]
    facts = Facts(
        {
            "config.json": {"a": 1},
            "big.json": list(range(100_000)),
            "data.pt": {"x": torch.ones(3)},
            "nan.pt": [float("nan")],
        },
        {"m.csv": rows},
    )
    kept = facts.kept({"test_losses": [1.0, 2.0]})
    assert kept["config.json"] == {"a": 1}
    assert "not copied" in kept["big.json"]
    assert kept["data.pt"] == {"x": "tensor (3,) float32"}
    assert "not copied" in kept["nan.pt"]
    assert kept["m.csv"] == "5000 rows: step, train_loss"
    inside, table = kept["curves"]
    assert (inside["quantity"], inside["values"]) == ("loss.test", [1.0, 2.0])
    assert (table["points"], len(table["steps"]), table["steps"][-1]) == (5000, 400, 4999)
    json.dumps(kept, allow_nan=False)
    assert "curves" not in Facts({"config.json": {"a": 1}}).kept()


def test_curves_of_every_place() -> None:
    facts = Facts({"log.json": {"train_losses": [2.0, 1.0]}}, {"m.csv": [{"step": "0", "test_acc": "1"}]})
    found = recorded_curves(facts, {"test_losses": [3.0, 2.5]}, 2)
    assert [(one.quantity, one.source.rpartition(" in ")[2], one.spacing) for one in found] == [
        ("loss.test", "the file itself", "deduced"),
        ("loss.train", "log.json", "deduced"),
        ("accuracy.test", "m.csv", "recorded"),
    ]
