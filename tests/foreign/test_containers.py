"""Which files make a run, which step each holds, and what is left out."""

from pathlib import Path

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign.containers import gather

WEIGHTS = {"w": torch.ones(2, 3), "v": torch.zeros(4)}


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
    ],
)
def test_numbered_files_are_the_steps_of_one_run(tmp_path: Path, names: list[str], steps: list[int]) -> None:
    for name in names:
        saved(tmp_path / name, WEIGHTS)
    runs, skipped = gather([tmp_path])
    if names[0].startswith("epoch"):
        # the prefix differs from file to file: each is a run by itself
        assert [run.snapshots[0].step for run in runs] == steps
        return
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
