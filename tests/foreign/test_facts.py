"""What was recorded beside the weights."""

import json
import math
from pathlib import Path

import pytest

from grokscope.foreign.facts import Facts, facts_beside, recorded_numbers, scalars_of


def test_a_column_is_printed_to_its_longest_entry(tmp_path: Path) -> None:
    rows = "step,train_loss,test_acc\n0,3.960557,0.0148\n10,0.5,1.0\n20,1e-05,nonsense\n"
    (tmp_path / "metrics.csv").write_text(rows)
    numbers = recorded_numbers(facts_beside(tmp_path, "full", False), {0: {}, 10: {}, 20: {}})
    found = {(one.quantity, one.step): one for one in numbers}
    assert found["loss.train", 0].value == 3.960557
    assert found["loss.train", 10].resolution == pytest.approx(5e-7)
    assert found["accuracy.test", 10].resolution == pytest.approx(5e-5)
    assert found["loss.train", 20].value == 1e-5
    assert ("accuracy.test", 20) not in found
    assert found["loss.train", 0].source == "train_loss in metrics.csv"


def test_documents_without_steps_speak_of_the_last_save(tmp_path: Path) -> None:
    (tmp_path / "summary_metrics.json").write_text(
        '{"train_loss": 8.8e-08, "all_loss": NaN, "test_loss": 1e999}'
    )
    (tmp_path / "metrics.json").write_text('[{"step": 5, "test_loss": 2.5}, {"step": 6, "test_loss": 2.25}]')
    numbers = recorded_numbers(facts_beside(tmp_path, "full", False), {5: {"val_acc": 0.5}, 9: {}})
    found = {(one.quantity, one.step): (one.value, one.resolution) for one in numbers}
    expected = {
        ("loss.train", 9): (8.8e-8, 0.0),
        ("loss.test", 5): (2.5, 0.0),
        ("accuracy.test", 5): (0.5, 0.0),
    }
    assert found == expected


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
    facts = Facts({"config.json": {"a": 1}, "big.json": list(range(100_000))}, {"m.csv": [{"step": "1"}]})
    kept = facts.kept()
    assert kept["config.json"] == {"a": 1}
    assert "not copied" in kept["big.json"]
    assert kept["m.csv"] == "1 rows: step"


def test_scalars_of_a_checkpoint() -> None:
    content = {"epoch": 3, "config": {"seed": 1, "x": [1]}, "loss": math.inf, "name": "a", "rest": [1, 2]}
    assert scalars_of(content) == {"epoch": 3, "config": {"seed": 1}, "name": "a"}
