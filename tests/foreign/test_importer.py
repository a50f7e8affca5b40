"""From a stranger's folder to a run of ours, and every way in which that ends in one line."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign import import_paths, inspect_path
from grokscope.runs import open_run
from grokscope.tasks import unpack_mask
from grokscope.trajectory import read_manifest


def strict(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def test_a_trajectory_of_bare_parameters(tmp_path: Path, bare_folder: Path, little_run, their) -> None:
    result = import_paths([bare_folder], tmp_path / "ws")
    (imported,) = result.runs
    assert imported.path == tmp_path / "ws" / "checkpoints" / "little"
    assert imported.path is not None
    assert imported.proof
    assert {one.verdict for one in imported.proof} == {"agrees", "one step off"}

    run = open_run(imported.path)
    assert run.steps.tolist() == sorted(little_run.saves)
    assert not run.trained_here
    assert run.model.settings == their.settings()  # type: ignore[attr-defined]
    assert torch.equal(run.task.train_mask, little_run.task.train_mask)
    for index, step in enumerate(run.steps):
        stored = run.params(index)
        for name, value in little_run.saves[int(step)].items():
            assert torch.equal(stored[name], value.double()), name
    logits = run.model.forward(run.params(3), run.task.inputs)
    final = {name: value.double() for name, value in little_run.saves[300].items()}
    assert torch.equal(logits, little_run.model.forward(final, run.task.inputs))


def test_what_is_written_down(tmp_path: Path, bare_folder: Path, little_run, their) -> None:
    import_paths([bare_folder], tmp_path, "theirs")
    manifest = read_manifest(tmp_path / "checkpoints" / "theirs")
    strict(manifest)
    assert (manifest["name"], manifest["kind"]) == ("theirs", "imported")
    task = {"name": "modular", "op": "add", "p": 11, "train_fraction": 0.5, "split_seed": 3}
    assert manifest["config"]["task"] == task
    assert manifest["config"]["seed"] == 3
    assert torch.equal(unpack_mask(manifest["split"]), little_run.task.train_mask)
    assert manifest["card"]["dialect"] == "bare parameters"
    assert manifest["card"]["split"]["source"] == "recorded"
    activation = next(one for one in manifest["card"]["hypotheses"] if one["about"] == "activation")
    assert (activation["value"], activation["basis"]) == ("relu", "tested")
    assert manifest["recorded"]["config.json"]["seed"] == 3
    sources = manifest["provenance"]["sources"]
    assert len(sources) == 6
    first = bare_folder / "ckpt_0.pt"
    assert sources[str(first.resolve())] == sha256(first.read_bytes()).hexdigest()


def test_a_transformer_lens_file(tmp_path: Path, lens_folder: Path, little_run, their) -> None:
    for given, name in ((lens_folder, "by folder"), (lens_folder / "model.pt", "by file")):
        (run,) = import_paths([given], tmp_path / name).runs
        assert run.name == "C11_T_seed3"
        assert run.steps == (300,)
        assert run.model.settings == their.settings(biases=True, causal=True)
        assert [one.verdict for one in run.proof] == ["agrees"] * 4
        assert run.path is not None
        params = open_run(run.path).params(0)
        assert torch.equal(params["embed.W_E"], little_run.saves[300]["embed.W_E"].double())
        assert not params["unembed.b_U"].any()
        findings = [one["finding"] for one in run.audit]
        assert "not every tensor of the file is a weight" in findings
        assert "all biases are zero" in findings


def test_the_shape_of_what_is_printed(bare_folder: Path) -> None:
    found = inspect_path(bare_folder)
    strict(found)
    assert set(found) == {"runs", "skipped"}
    (run,) = found["runs"]
    assert set(run) == {"name", "recognised", "hypotheses", "proof", "split", "audit"}
    assert {"quantity", "step", "recorded", "ours", "difference", "verdict"} <= set(run["proof"][0])
    assert all({"finding", "evidence"} <= set(one) for one in run["audit"])
    assert run["recognised"]["steps"] == [0, 60, 150, 300]
    assert not list(bare_folder.parent.rglob("run.json"))


def test_several_runs_from_one_import(tmp_path: Path, bare_folder: Path, lens_folder: Path, their) -> None:
    torch.save({"W_x": torch.ones(3, 2)}, tmp_path / "their runs" / "other.pt")
    result = import_paths([bare_folder.parent, lens_folder], tmp_path / "ws", "both")
    assert [run.name for run in result.runs] == ["both.C11_T_seed3", "both.little"]
    assert all(run.path is not None and (run.path / "trajectory.h5").is_file() for run in result.runs)
    (skipped,) = result.as_json()["skipped"]
    assert skipped["path"].endswith("other.pt")
    assert "tensors W_x (3, 2): no known dialect" in skipped["why"]


def test_a_damaged_step_is_skipped_and_the_rest_comes_in(tmp_path: Path, bare_folder: Path) -> None:
    whole = (bare_folder / "ckpt_150.pt").read_bytes()
    (bare_folder / "ckpt_150.pt").write_bytes(whole[: len(whole) // 2])
    result = import_paths([bare_folder], tmp_path / "ws")
    assert result.runs[0].steps == (0, 60, 300)
    assert "truncated or damaged" in result.skipped[0].why


def test_a_split_that_is_not_recorded_is_found(tmp_path: Path, bare_folder: Path, little_run) -> None:
    (bare_folder / "config.json").unlink()
    (run,) = import_paths([bare_folder], tmp_path / "ws").runs
    assert run.split.source == "searched"
    assert torch.equal(run.split.mask, little_run.task.train_mask)


def test_an_existing_name(tmp_path: Path, bare_folder: Path, one_line) -> None:
    import_paths([bare_folder], tmp_path / "ws")
    before = sorted(path.name for path in (tmp_path / "ws" / "checkpoints").iterdir())
    with pytest.raises(GrokscopeError) as caught:
        import_paths([bare_folder], tmp_path / "ws")
    one_line(caught.value, "little", "exists", "--name")
    assert sorted(path.name for path in (tmp_path / "ws" / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 300])
def test_names_that_are_no_folders(tmp_path: Path, bare_folder: Path, name: str, one_line) -> None:
    with pytest.raises(GrokscopeError) as caught:
        import_paths([bare_folder], tmp_path / "ws", name)
    one_line(caught.value, "--name", "expected")
    assert not (tmp_path / "ws").exists()


def test_a_file_of_another_kind(tmp_path: Path, one_line) -> None:
    path = tmp_path / "model.pt"
    torch.save({"W_x": torch.ones(3, 2), "W_U": torch.ones(2, 3)}, path)
    with pytest.raises(GrokscopeError) as caught:
        import_paths([path], tmp_path / "ws")
    one_line(caught.value, str(path), "tensors W_x (3, 2), W_U (2, 3): no known dialect", "expected")
    found = inspect_path(path)
    assert found["runs"] == []
    assert "no known dialect" in found["skipped"][0]["why"]


def test_bad_input_is_one_line(tmp_path: Path, one_line) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("hello\n" * 50)
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    words = {
        "gone": "no such file",
        "empty": "holds no weights",
        "text.pt": "text file",
        "evil.pt": "code of its own",
    }
    for name, word in words.items():
        for call in (lambda path: import_paths([path], tmp_path / "ws"), inspect_path):
            with pytest.raises(GrokscopeError) as caught:
                call(tmp_path / name)
            one_line(caught.value, name, word, "expected")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ws").exists()
    with pytest.raises(GrokscopeError):
        import_paths([], tmp_path / "ws")


def test_a_workspace_that_cannot_be_written(tmp_path: Path, lens_folder: Path, one_line) -> None:
    (tmp_path / "ws").write_text("a file stands where the folder should")
    with pytest.raises(GrokscopeError) as caught:
        import_paths([lens_folder], tmp_path / "ws")
    one_line(caught.value, "importing into", "expected a writable folder")
