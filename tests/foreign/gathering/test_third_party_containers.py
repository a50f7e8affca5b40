"""Real folders of other people as runs with what they recorded, from ``GROKSCOPE_THIRD_PARTY``."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grokscope.foreign.gathering.containers import ForeignRun, gather
from grokscope.foreign.gathering.facts import recorded_curves, recorded_norms, recorded_numbers
from grokscope.foreign.gathering.pairs import recorded_pairs

MLP = "Y-Agent+modular-addition-feature-learning/src/saved_models"
WORDS = {"loss": "loss", "acc": "accuracy", "accuracy": "accuracy"}


def only(found: tuple[list[ForeignRun], list[Any]]) -> ForeignRun:
    (run,), skipped = found
    assert skipped == []
    return run


def inside(run: ForeignRun) -> dict[int, Any]:
    return {one.step: one.scalars for one in run.snapshots}


@pytest.fixture(scope="module")
def mlp(third_party: Path) -> ForeignRun:
    return only(gather([third_party / MLP]))


def test_the_mlp_trajectory(mlp: ForeignRun) -> None:
    steps = [one.step for one in mlp.snapshots]
    assert (len(steps), steps[0], steps[-2:]) == (32, 0, [49_800, 50_000])
    assert set(mlp.snapshots[0].tensors) == {"mlp.W_in", "mlp.W_out", "mlp.basis"}
    assert [one.step for one in mlp.snapshots if one.optimizer is not None] == [50_000]
    last = mlp.snapshots[-1]
    assert last.optimizer is not None
    assert last.optimizer["state"][0]["exp_avg"].shape == last.tensors["mlp.W_in"].shape
    assert mlp.facts.find(("lr",), last.scalars) == (1e-4, "lr in the file itself")


def test_its_histories_and_norms(mlp: ForeignRun) -> None:
    curves = {curve.quantity: curve for curve in recorded_curves(mlp.facts, mlp.snapshots[-1].scalars)}
    assert set(curves) == {"loss.train", "loss.test", "norm.total"}
    train = dict(zip(curves["loss.train"].steps, curves["loss.train"].values, strict=True))
    assert len(train) == 50_000
    for one in mlp.snapshots[:-1]:
        assert train[one.step] == one.scalars["train_loss"]
    norms = recorded_norms(mlp.facts, inside(mlp))
    assert len(norms) == 31
    assert {one.quantity for one in norms} == {"norm.total"}
    # each number once, though the history repeats the files
    assert len(recorded_numbers(mlp.facts, inside(mlp))) == 31 * 4 + 2


def test_its_split_is_explicit(mlp: ForeignRun) -> None:
    found = {one.role: one for one in recorded_pairs(mlp.facts, mlp.snapshots[-1].scalars)}
    assert found["train"].values.shape == (396, 2)
    assert found["test"].values.shape == (133, 2)
    both = torch.cat([found["train"].values, found["test"].values])
    assert len({tuple(pair) for pair in both.tolist()}) == 23 * 23


def test_one_file_of_it_has_the_same_split(third_party: Path) -> None:
    (file,) = (third_party / MLP).glob("*/final.pth")
    run = only(gather([file]))
    assert [one.step for one in run.snapshots] == [50_000]
    assert {one.role for one in recorded_pairs(run.facts, {})} == {"train", "test"}


def test_a_trajectory_with_optimiser_states(third_party: Path) -> None:
    run = only(gather([third_party / "unixsysdev+grokking-fourier"]))
    assert [one.step for one in run.snapshots] == [1000, 10_000, 20_000, 23_000, 25_000, 28_000]
    for one in run.snapshots:
        assert one.optimizer is not None
        assert set(one.optimizer["state"]) == set(range(11))
        shapes = [tuple(one.optimizer["state"][index]["exp_avg"].shape) for index in range(11)]
        assert shapes == [tuple(one.tensors[name].shape) for name in one.names]
    assert len(recorded_numbers(run.facts, inside(run))) == 24


def test_four_models_with_a_config_each(third_party: Path) -> None:
    runs, skipped = gather([third_party / "fjzzq2002+pizza"])
    assert skipped == []
    for run in runs:
        ident = run.stem.removeprefix("model_")
        assert list(run.facts.documents) == [f"config_{ident}.json"]
        assert run.facts.find(("runid",)) == (ident, f"runid in config_{ident}.json")
        assert [one.step for one in run.snapshots] == [20_000]
    assert len(runs) == 4


def test_four_runs_of_two_points(third_party: Path) -> None:
    runs, skipped = gather([third_party / "porth-bot+grokking-transformer"])
    assert skipped == []
    assert {run.stem: [one.step for one in run.snapshots] for run in runs} == {
        "p97_frac0.30_wd1_seed0": [100, 11_100],
        "p13_frac0.50_wd0_seed0": [100, 600],
        "p13_frac0.50_wd1_seed0_wdsnon_embeddings": [100, 600],
        "p13_frac0.60_wd0_seed0_opmul": [100, 600],
    }
    for run in runs:
        assert [one.path.stem for one in run.snapshots] == [f"{run.stem}_memorize", run.stem]
        assert len(recorded_numbers(run.facts, inside(run))) == 8
        assert len(recorded_norms(run.facts, inside(run))) == 2


def test_three_final_models(third_party: Path) -> None:
    runs, skipped = gather([third_party / "bilal-chughtai+rep-theory-mech-interp"])
    assert skipped == []
    found = {run.stem: recorded_norms(run.facts, inside(run))[0].value for run in runs}
    assert set(found) == {"C113_MLP_seed1", "C113_T_seed1", "S5_MLP_seed2"}
    assert found["C113_MLP_seed1"] == pytest.approx(5459.0107421875)
    for run in runs:
        assert set(run.facts.documents) == {"cfg.json", "summary_metrics.json"}


def test_curves_without_weights_are_left_out_by_name(third_party: Path) -> None:
    (run,), (skipped,) = gather(
        [third_party / "mechanistic-interpretability-grokking+progress-measures-paper"]
    )
    assert skipped.path.name == "mod_addition_frac_train_sweep.pth"
    assert "holds loss curves and no weights" in skipped.why
    (one,) = run.snapshots
    assert (one.step, one.step_from) == (107_790, "epoch in the file itself")
    curves = {curve.quantity: curve for curve in recorded_curves(run.facts, one.scalars, one.step)}
    assert curves["loss.test"].steps[:3] == (0, 10, 20)
    assert curves["loss.test"].steps[-1] == curves["loss.train"].steps[-1] == 107_790
    assert one.optimizer is not None
    assert one.optimizer["param_groups"][0]["weight_decay"] == 0.1
    # as recorded first, as used behind
    assert run.facts.find(("weight_decay",), one.scalars) == (1, "weight_decay in the file itself")


def test_a_table_beside_a_trajectory(third_party: Path) -> None:
    run = only(gather([third_party / "Samar-Talwar+grokking-fourier-circuits"]))
    assert len(run.snapshots) == 12
    assert len(recorded_numbers(run.facts, inside(run))) == 36
    assert recorded_numbers(run.facts, inside(run))[0].resolution == pytest.approx(5e-5)
    json.dumps(run.facts.kept(run.snapshots[-1].scalars), allow_nan=False)


def test_every_recorded_number_is_found(third_party: Path) -> None:
    expected = json.loads((third_party / "expected.json").read_text())
    runs = [run for folder in sorted(third_party.iterdir()) if folder.is_dir() for run in gather([folder])[0]]
    checked = 0
    for run in runs:
        numbers = {
            (one.quantity, one.step): one.value
            for one in (*recorded_numbers(run.facts, inside(run)), *recorded_norms(run.facts, inside(run)))
        }
        for one in run.snapshots:
            entry = expected.get(one.path.relative_to(third_party).as_posix())
            for name, value in ((entry or {}).get("author_recorded") or {}).items():
                side, _, kind = name.partition("_")
                if value is None or kind not in WORDS:
                    continue
                assert numbers[f"{WORDS[kind]}.{side}", one.step] == float(value), (one.path, name)
                checked += 1
    assert checked > 150
