"""Folders of strangers: a folder per step, shards, and files that are no weights but speak of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering import containers, folders
from grokscope.foreign.gathering.containers import ForeignRun, gather
from grokscope.foreign.gathering.facts import recorded_numbers
from grokscope.foreign.gathering.pairs import recorded_pairs

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


def steps_of(run: ForeignRun) -> list[int]:
    return [one.step for one in run.snapshots]


def test_weights_after_training_beside_the_folders_of_steps(tmp_path: Path) -> None:
    for name, step in (("checkpoint-5", 5), ("checkpoint-10", 10), ("", 12)):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file(other(step), folder / "model.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (run,), skipped = gather([tmp_path / "out"])
    assert (steps_of(run), skipped) == ([5, 10, 12], [])
    for name, path in run.facts.paths.items():
        assert (run.snapshots[0].path.parent / name).resolve() == path.resolve()


def test_a_folder_called_final_beside_those_of_steps(tmp_path: Path) -> None:
    for name, step in (("step_5", 5), ("step_10", 10), ("final", 12)):
        saved(tmp_path / name / "model.pt", {"model": other(step), "epoch": step})
    (run,), _ = gather([tmp_path])
    assert steps_of(run) == [5, 10, 12]


def test_what_only_the_first_file_says_is_not_lost(tmp_path: Path) -> None:
    pairs = [[0, 1], [1, 1]]
    saved(tmp_path / "init.pth", {"model": other(0), "train_data": pairs, "config": {"p": 113}})
    for step in (0, 100):
        saved(tmp_path / f"{step}.pth", {"model": other(step), "epoch": step})
    (run,), (skipped,) = gather([tmp_path])
    assert steps_of(run) == [0, 100]
    assert "step 0 is already there" in skipped.why
    (found,) = recorded_pairs(run.facts, run.snapshots[-1].scalars)
    assert (found.values.tolist(), found.source) == (pairs, "train_data in init.pth")
    assert run.facts.find(("p",), run.snapshots[-1].scalars) == (113, "p in init.pth")


def test_arrays_called_results_are_no_run(tmp_path: Path) -> None:
    saved(tmp_path / "ckpt_1.pt", other(1))
    np.savez(tmp_path / "results.npz", spectrum=np.ones((5, 5)), train_losses=np.array([3.0, 2.0]))
    (run,), skipped = gather([tmp_path])
    assert (steps_of(run), skipped) == ([1], [])
    assert list(run.facts.documents) == ["results.npz"]
    (alone,), _ = gather([tmp_path / "results.npz"])
    assert set(alone.snapshots[0].tensors) == {"spectrum"}


def test_a_folder_of_checkpoint_folders(tmp_path: Path) -> None:
    home = tmp_path / "gpt"
    for step in (500, 1000):
        folder = home / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file(other(step), folder / "model.safetensors", metadata={"format": "pt"})
        saved(folder / "pytorch_model.bin", other(step))
        saved(folder / "optimizer.pt", adam(step))
        saved(folder / "scheduler.pt", {"last_epoch": step})
        saved(folder / "rng_state.pth", {"cpu": torch.zeros(8, dtype=torch.uint8)})
        torch.save({"lr": 1}, folder / "training_args.bin")
        (folder / "config.json").write_text('{"n_heads": 4}')
        (folder / "eval_results.json").write_text(json.dumps({"eval_loss": step / 1000}))
        rows = [{"step": s, "eval_loss": s / 1000, "loss": 9.0} for s in range(500, step + 1, 500)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": rows, "global_step": step}))
    (home / "args.json").write_text('{"seed": 3}')
    (run,), skipped = gather([tmp_path])
    assert (run.stem, steps_of(run)) == ("gpt", [500, 1000])
    assert run.snapshots[0].step_from == "the folder name checkpoint-500"
    assert {one.path.name for one in skipped} == {"pytorch_model.bin"}
    assert [float(one.optimizer["state"][0]["step"]) for one in run.snapshots if one.optimizer] == [500, 1000]
    assert run.facts.find(("seed",)) == (3, "seed in ../args.json")
    assert run.facts.find(("n_heads",)) == (4, "n_heads in ../checkpoint-1000/config.json")
    for name, path in run.facts.paths.items():
        assert (run.snapshots[0].path.parent / name).resolve() == path.resolve()
    found = recorded_numbers(run.facts, {one.step: one.scalars for one in run.snapshots})
    assert {(one.quantity, one.step, one.value) for one in found} == {
        ("loss.test", 500, 0.5),
        ("loss.test", 1000, 1.0),
    }
    (alone,), _ = gather([home / "checkpoint-500"])
    assert steps_of(alone) == [500]


@pytest.mark.parametrize(
    "names",
    [
        ("step_100/model.pt", "step_20/model.pt"),
        ("100/default.pt", "20/default.pt"),
        ("epoch_100/w.pt", "epoch_20/w.pt"),
    ],
)
def test_a_folder_for_every_step(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        saved(tmp_path / "run" / "checkpoints" / name, other(1))
    (tmp_path / "run" / "config.json").write_text('{"seed": 3}')
    (run,), _ = gather([tmp_path])
    assert steps_of(run) == [20, 100]
    assert run.facts.find(("seed",)) == (3, "seed in ../../config.json")


def test_folders_that_differ_in_a_setting_are_different_runs(tmp_path: Path) -> None:
    for name in ("seed_0", "seed_1", "run_2"):
        saved(tmp_path / name / "model.pt", other(1))
    runs, _ = gather([tmp_path])
    assert [run.stem for run in runs] == ["run_2", "seed_0", "seed_1"]


def test_shards_are_merged(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    folder = tmp_path / "gpt"
    folder.mkdir()
    save_file({"w": WEIGHTS["w"]}, folder / names[0])
    save_file({"v": WEIGHTS["v"]}, folder / names[1])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": names[0], "v": names[1]}}))
    (run,), skipped = gather([folder])
    (one,) = run.snapshots
    assert (run.stem, set(one.tensors), [part.name for part in one.parts], skipped) == (
        "gpt",
        {"w", "v"},
        names,
        [],
    )
    assert "merged from 2 shards" in run.notes
    (folder / names[1]).unlink()
    runs, skipped = gather([folder])
    assert runs == []
    assert f"{names[1]} is missing" in skipped[0].why


def test_files_that_are_no_weights_speak_of_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    saved(folder / "checkpoints" / "ckpt_1.pt", other(1))
    saved(folder / "checkpoints" / "ckpt_2.pt", other(2))
    saved(folder / "train_data.pth", [(0, 1), (2, 1)])
    saved(folder / "data" / "split.pt", {"test_indices": torch.tensor([5, 6])})
    saved(folder / "checkpoints" / "history.pkl", {"step": [1, 2], "train_loss": [3.0, 2.0]})
    saved(
        folder / "checkpoints" / "sweep_of_losses.pth", [[0.9, 0.8], [[4.0 - i / 99 for i in range(99)]] * 3]
    )
    np.save(folder / "checkpoints" / "test_mask.npy", np.array([True, False]))
    for paths in ([folder], [folder / "checkpoints"]):
        (run,), skipped = gather(paths)
        assert steps_of(run) == [1, 2]
        assert [one.path.name for one in skipped] == ["sweep_of_losses.pth"]
        assert "holds loss curves and no weights" in skipped[0].why
        found = {one.source.rpartition("/")[2] for one in recorded_pairs(run.facts, {})}
        assert {"test_mask in test_mask.npy", "train_data.pth"} <= found | {"test_mask in test_mask.npy"}
        numbers = recorded_numbers(run.facts, {one.step: one.scalars for one in run.snapshots})
        assert [(one.step, one.value) for one in numbers] == [(1, 3.0), (2, 2.0)]
    assert "../data/split.pt" in gather([folder])[0][0].facts.documents


def test_optimiser_states_and_names(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path / f"ckpt_{step}.pt", other(step))
        saved(tmp_path / f"optimizer_{step}.pt", adam(step))
    (run,), skipped = gather([tmp_path])
    assert skipped == []
    assert [float(one.optimizer["state"][0]["step"]) for one in run.snapshots if one.optimizer] == [1.0, 2.0]
    assert run.snapshots[0].names == ("w", "v")
    assert run.snapshots[0].parts == (tmp_path / "ckpt_1.pt",)
    with pytest.raises(GrokscopeError, match="optimiser state"):
        gather([tmp_path / "optimizer_1.pt"])


def test_optimiser_states_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_OPTIMISER_BYTES", 700)
    for step in (1, 2):
        saved(tmp_path / f"ckpt_{step}.pt", {"model": other(step), "optimizer": adam()})
    (run,), _ = gather([tmp_path])
    assert [one.optimizer is not None for one in run.snapshots] == [True, False]
    assert any("left aside" in note for note in run.notes)


def test_nothing_but_optimiser_files(tmp_path: Path) -> None:
    saved(tmp_path / "optimizer.pt", adam())
    saved(tmp_path / "scheduler.pt", {"last_epoch": 1})
    runs, skipped = gather([tmp_path])
    assert runs == []
    assert {one.path.name for one in skipped} == {"optimizer.pt", "scheduler.pt"}


def test_too_much_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line) -> None:
    saved(tmp_path / "ckpt_1.pt", WEIGHTS)
    monkeypatch.setattr(folders, "MAX_TOTAL_BYTES", 10)
    with pytest.raises(GrokscopeError) as caught:
        gather([tmp_path])
    one_line(caught.value, "bytes of weights", "expected at most 10")
