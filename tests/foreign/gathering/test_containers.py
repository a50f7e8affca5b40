"""Which files make a run, which step each holds, and what is left out."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.containers import ForeignRun, gather
from grokscope.foreign.gathering.facts import recorded_numbers

WEIGHTS = {"w": torch.ones(2, 3), "v": torch.zeros(4)}


def other(scale: float) -> dict[str, torch.Tensor]:
    return {name: value + scale for name, value in WEIGHTS.items()}


def adam(step: int = 1) -> dict[str, Any]:
    moments = {"step": torch.tensor(float(step)), "exp_avg": torch.ones(9, 9), "exp_avg_sq": torch.ones(9, 9)}
    return {"state": {0: moments}, "param_groups": [{"lr": 0.5, "params": [0]}]}


def saved(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["ckpt_0.pt", "ckpt_200.pt", "ckpt_30.pt"], [0, 30, 200]),
        (["0.pth", "400.pth", "1000.pth"], [0, 400, 1000]),
        (["checkpoint_e001000.pt", "checkpoint_e020000.pt"], [1000, 20000]),
        (["epoch=1-step=50.ckpt", "epoch=2-step=100.ckpt"], [50, 100]),
        (["run_step_7.pt", "run_step_8.pt"], [7, 8]),
        (["weights-10k.pt", "weights-2M.pt"], [10_000, 2_000_000]),
        (["grok_113_20000.pt", "grok_113_300.pt"], [300, 20_000]),
        (["p97_wd1_seed0_step200.pt", "p97_wd1_seed0_step40.pt"], [40, 200]),
        (["epoch=3-val_loss=0.5.ckpt", "epoch=4-val_loss=0.25.ckpt"], [3, 4]),
    ],
)
def test_numbered_files_are_the_steps_of_one_run(tmp_path: Path, names: list[str], steps: list[int]) -> None:
    for name in names:
        saved(tmp_path / name, WEIGHTS)
    runs, skipped = gather([tmp_path])
    assert [one.step for one in runs[0].snapshots] == steps
    assert (len(runs), skipped) == (1, [])
    assert "file name" in runs[0].snapshots[0].step_from


def test_a_number_that_is_no_step(tmp_path: Path) -> None:
    saved(tmp_path / "p97_frac0.30_wd1_seed0.pt", {**WEIGHTS, "epoch": 12})
    runs, _ = gather([tmp_path])
    assert runs[0].snapshots[0].step == 12
    assert runs[0].snapshots[0].step_from == "epoch in the file itself"
    assert runs[0].stem == "p97_frac0.30_wd1_seed0"


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_a_nested_state_dict(tmp_path: Path, key: str) -> None:
    saved(
        tmp_path / "model.pt",
        {key: WEIGHTS, "step": 5, "train_loss": torch.tensor(0.25), "optimizer": {"a": [1]}},
    )
    runs, _ = gather([tmp_path / "model.pt"])
    one = runs[0].snapshots[0]
    assert set(one.tensors) == set(WEIGHTS)
    assert (one.step, one.scalars["train_loss"]) == (5, 0.25)
    assert any(key in note for note in runs[0].notes)


def test_wrappers_come_off(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt", {f"_orig_mod.module.{name}": value for name, value in WEIGHTS.items()})
    saved(tmp_path / "b.pt", {f"module.{name}": value for name, value in WEIGHTS.items()})
    runs, _ = gather([tmp_path / "b.pt"])
    assert set(runs[0].snapshots[0].tensors) == set(WEIGHTS)
    assert "module." in runs[0].notes[0]


def test_the_step_beside_the_weights(tmp_path: Path) -> None:
    saved(tmp_path / "model.pt", WEIGHTS)
    (tmp_path / "cfg.json").write_text('{"num_epochs": 900, "rows": [{"step": 3}]}')
    one = gather([tmp_path])[0][0].snapshots[0]
    assert (one.step, one.step_from) == (900, "num_epochs in cfg.json")
    (tmp_path / "cfg.json").unlink()
    one = gather([tmp_path])[0][0].snapshots[0]
    assert one.step == 0
    assert "not known" in one.step_from


def test_duplicate_steps_are_skipped_with_the_reason(tmp_path: Path) -> None:
    saved(tmp_path / "ckpt_10.pt", WEIGHTS)
    saved(tmp_path / "ckpt_010.pt", WEIGHTS)
    saved(tmp_path / "ckpt_10.pth", {**WEIGHTS, "v": torch.ones(4)})
    runs, skipped = gather([tmp_path])
    assert [one.step for one in runs[0].snapshots] == [10]
    assert sorted("same tensors" in one.why for one in skipped) == [False, True]
    assert all("step 10 is already there" in one.why for one in skipped)


def test_mixed_shapes_and_numbers_that_are_none(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path / f"ckpt_{step}.pt", WEIGHTS)
    saved(tmp_path / "ckpt_4.pt", {**WEIGHTS, "w": torch.ones(2, 4)})
    saved(tmp_path / "ckpt_5.pt", {**WEIGHTS, "w": torch.full((2, 3), float("nan"))})
    (tmp_path / "ckpt_6.pt").write_text("no weights")
    runs, skipped = gather([tmp_path])
    assert [one.step for one in runs[0].snapshots] == [1, 2, 3]
    why = {one.path.name: one.why for one in skipped}
    assert "not those of the other steps" in why["ckpt_4.pt"]
    assert "w holds values that are not finite" in why["ckpt_5.pt"]
    assert "text file" in why["ckpt_6.pt"]


def test_folders_are_searched_and_named(tmp_path: Path) -> None:
    saved(tmp_path / "one" / "model.pt", WEIGHTS)
    saved(tmp_path / "two" / "deep" / "ckpt_1.pt", WEIGHTS)
    saved(tmp_path / "two" / "deep" / "ckpt_2.pt", WEIGHTS)
    saved(tmp_path / "two" / "deep" / "special.pt", WEIGHTS)
    saved(tmp_path / ".hidden" / "model.pt", WEIGHTS)
    runs, _ = gather([tmp_path])
    assert sorted((run.stem, len(run.snapshots)) for run in runs) == [("deep", 2), ("one", 1), ("special", 1)]


def test_files_named_one_by_one_are_one_run(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"ckpt_{step}.pt", WEIGHTS) for step in (3, 1)]
    runs, _ = gather([*paths, paths[0]])
    assert [one.step for one in runs[0].snapshots] == [1, 3]


def test_what_cannot_be_gathered(tmp_path: Path, one_line) -> None:
    (tmp_path / "empty").mkdir()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "no tensors.pt")
    cases = {
        "gone": "no such file",
        "empty": "holds no weights",
        "list.pt": "expected a state dict",
        "no tensors.pt": "no state dict",
    }
    for name, word in cases.items():
        with pytest.raises(GrokscopeError) as caught:
            gather([tmp_path / name])
        one_line(caught.value, name, word, "expected")


def steps_of(run: ForeignRun) -> list[int]:
    return [one.step for one in run.snapshots]


def test_a_final_file_beside_numbered_ones(tmp_path: Path) -> None:
    for step in (0, 200, 49_800):
        saved(tmp_path / f"{step}.pth", {"model": other(step), "epoch": step})
    saved(tmp_path / "final.pth", {"model": other(7), "epoch": 50_000, "optimizer": adam()})
    (run,), skipped = gather([tmp_path])
    assert (steps_of(run), skipped) == ([0, 200, 49_800, 50_000], [])
    assert run.snapshots[-1].step_from == "epoch in the file itself"
    assert run.snapshots[0].optimizer is None
    assert run.snapshots[-1].optimizer is not None


def test_a_final_file_whose_step_nothing_says(tmp_path: Path) -> None:
    for step in (0, 200):
        saved(tmp_path / f"ckpt_{step}.pt", other(step))
    saved(tmp_path / "ckpt_final.pt", other(7))
    saved(tmp_path / "best.pt", other(200))
    (run,), skipped = gather([tmp_path])
    why = {one.path.name: one.why for one in skipped}
    assert steps_of(run) == [0, 200]
    assert "its step is recorded nowhere (the last that is known is 200)" in why["ckpt_final.pt"]
    assert "holds the weights of step 200" in why["best.pt"]
    (tmp_path / "config.json").write_text('{"num_epochs": 300}')
    (run,), _ = gather([tmp_path])
    assert steps_of(run) == [0, 200, 300]


def test_words_whose_step_is_written_beside_them(tmp_path: Path) -> None:
    for name in ("p97_frac0.30_wd1_seed0", "p97_frac0.30_wd1_seed1"):
        saved(tmp_path / f"{name}.pt", other(2))
        saved(tmp_path / f"{name}_memorize.pt", other(1))
        saved(tmp_path / f"{name}_init.pt", other(0))
        (tmp_path / f"{name}.json").write_text(
            json.dumps(
                {
                    "config": {"max_steps": 25_000},
                    "memorize_step": 100,
                    "grok_step": None,
                    "steps_run": 11_100,
                }
            )
        )
        (tmp_path / f"{name}.csv").write_text("step,train_loss\n100,0.5\n")
    runs, skipped = gather([tmp_path])
    assert [run.stem for run in runs] == ["p97_frac0.30_wd1_seed0", "p97_frac0.30_wd1_seed1"]
    assert skipped == []
    for run in runs:
        assert steps_of(run) == [0, 100, 11_100]
        assert [one.step_from for one in run.snapshots[1:]] == [
            f"memorize_step in {run.stem}.json",
            f"steps_run in {run.stem}.json",
        ]
        assert set(run.facts.documents) == {f"{run.stem}.json"}
        assert set(run.facts.tables) == {f"{run.stem}.csv"}


def test_words_alone(tmp_path: Path) -> None:
    saved(tmp_path / "a" / "model.pt", other(2))
    saved(tmp_path / "a" / "model_init.pt", other(0))
    saved(tmp_path / "b" / "net.pt", {"w": torch.ones(5, 5)})
    saved(tmp_path / "b" / "net_final.pt", other(0))
    runs, skipped = gather([tmp_path])
    assert [(run.stem, steps_of(run)) for run in runs] == [("a", [0]), ("b", [0]), ("b", [0])]
    # a step that is not known cannot stand behind the initial weights
    assert [(one.path.name, "recorded nowhere" in one.why) for one in skipped] == [("model.pt", True)]


def test_steps_in_the_files_go_before_a_mere_count(tmp_path: Path) -> None:
    for index, step in enumerate((0, 500, 1000)):
        saved(tmp_path / f"model_{index}.pt", {"model": other(step), "step": step})
    (run,), _ = gather([tmp_path])
    assert steps_of(run) == [0, 500, 1000]
    assert run.snapshots[1].step_from == "step in the file itself"


def test_two_numbers_that_vary_are_different_runs(tmp_path: Path) -> None:
    for p in (97, 113):
        for step in (100, 2000):
            saved(tmp_path / f"grok_{p}_{step}.pt", other(step))
    runs, _ = gather([tmp_path])
    assert [steps_of(run) for run in runs] == [[100, 2000], [100, 2000]]
    assert len({run.stem for run in runs}) == 2


def test_one_file_with_many_steps(tmp_path: Path) -> None:
    content = {
        "checkpoints": [other(0), other(1), other(2)],
        "checkpoint_epochs": [0, 100, 200],
        "model": other(9),
        "epoch": 250,
        "train_losses": [5.0 - step / 100 for step in range(250)],
        "optimizer": adam(),
        "config": {"p": 113},
    }
    saved(tmp_path / "full_run.pth", content)
    (run,), _ = gather([tmp_path])
    assert (run.stem, steps_of(run)) == ("full_run", [0, 100, 200, 250])
    assert run.facts.find(("p",), run.snapshots[0].scalars) == (113, "p in the file itself")
    found = recorded_numbers(run.facts, {one.step: one.scalars for one in run.snapshots})
    assert [(one.step, one.value) for one in found] == [(0, 5.0), (100, 4.0), (200, 3.0)]


def test_arrays_of_numpy_and_hdf5(tmp_path: Path) -> None:
    stacked = {"W_E": np.arange(24.0).reshape(3, 2, 4), "b": np.zeros((3, 4))}
    np.savez(tmp_path / "a.npz", steps=np.array([0, 10, 20]), **stacked)
    np.savez(
        tmp_path / "b.npz",
        **{f"step_{s}/{n}": stacked[n][i] for i, s in enumerate((0, 10, 20)) for n in stacked},
    )
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["epochs"] = np.array([0, 10, 20])
        for name, value in stacked.items():
            file[f"params/{name}"] = value
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for i, s in enumerate((0, 10, 20)):
            for name, value in stacked.items():
                file[f"checkpoints/step_{s}/{name}"] = value[i]
    runs, skipped = gather([tmp_path])
    assert skipped == []
    assert [run.stem for run in runs] == ["a", "b", "c", "d"]
    for run in runs:
        assert steps_of(run) == [0, 10, 20]
        assert run.snapshots[1].tensors["W_E"].tolist() == stacked["W_E"][1].tolist()


def test_a_document_of_one_step_speaks_of_that_step(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path / f"ckpt_{step}.pt", other(step))
        (tmp_path / f"ckpt_{step}.json").write_text(json.dumps({"train_loss": step / 4}))
    (run,), _ = gather([tmp_path])
    found = recorded_numbers(run.facts, {one.step: one.scalars for one in run.snapshots})
    assert [(one.step, one.value) for one in found] == [(1, 0.25), (2, 0.5)]


def test_the_same_weights_in_two_formats_are_one_run(tmp_path: Path) -> None:
    saved(tmp_path / "my_grok.pt", WEIGHTS)
    save_file(WEIGHTS, tmp_path / "my_grok.safetensors")
    (run,), skipped = gather([tmp_path])
    assert (run.stem, len(skipped)) == ("my_grok", 1)
    assert "again" in skipped[0].why


def test_many_files_gather_in_little_time(tmp_path: Path) -> None:
    for step in range(300):
        saved(tmp_path / f"ckpt_{step}.pt", WEIGHTS)
        (tmp_path / f"other_{step}.json").write_text("{}")
    (run,), _ = gather([tmp_path])
    assert len(run.snapshots) == 300
