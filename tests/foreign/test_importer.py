"""From a stranger's folder to a run of ours, and every way in which that ends in one line."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign import Reading, Split, import_paths, importer, inspect_path
from grokscope.foreign.function.card import card_of
from grokscope.foreign.imported import declared_card
from grokscope.foreign.understand import understand
from grokscope.models import Transformer
from grokscope.runs import open_run
from grokscope.tasks import unpack_mask
from grokscope.trajectory import read_manifest
from grokscope.user_code import load_function


def strict(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def test_a_trajectory_of_bare_parameters(tmp_path: Path, bare_folder: Path, little_run, their) -> None:
    result = import_paths([bare_folder], tmp_path / "ws")
    (imported,) = result.runs
    assert imported.path == tmp_path / "ws" / "checkpoints" / "little"
    assert imported.path is not None
    assert imported.found.proved
    verdicts = {one.verdict for one in imported.found.proof}
    assert {"reproduced", "one step off"} <= verdicts
    assert "conflict" not in verdicts

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
    assert manifest["config"]["task"] == {**task, "extra_classes": 0}
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
        assert run.found.steps == (300,)
        assert run.found.model.settings == their.settings(biases=True, causal=True)  # type: ignore[attr-defined]
        assert [one.verdict for one in run.found.proof] == ["reproduced"] * 4
        assert run.path is not None
        params = open_run(run.path).params(0)
        assert torch.equal(params["embed.W_E"], little_run.saves[300]["embed.W_E"].double())
        assert not params["unembed.b_U"].any()
        findings = [one["finding"] for one in run.found.audit]
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
    torch.save({"losses": [1.0, 2.0]}, tmp_path / "their runs" / "other.pt")
    result = import_paths([bare_folder.parent, lens_folder], tmp_path / "ws", "both")
    assert [run.name for run in result.runs] == ["both.C11_T_seed3", "both.little"]
    assert all(run.path is not None and (run.path / "trajectory.h5").is_file() for run in result.runs)
    (skipped,) = result.as_json()["skipped"]
    assert skipped["path"].endswith("other.pt")
    assert "no state dict in it" in skipped["why"]


def test_a_damaged_step_is_skipped_and_the_rest_comes_in(tmp_path: Path, bare_folder: Path) -> None:
    whole = (bare_folder / "ckpt_150.pt").read_bytes()
    (bare_folder / "ckpt_150.pt").write_bytes(whole[: len(whole) // 2])
    result = import_paths([bare_folder], tmp_path / "ws")
    assert result.runs[0].found.steps == (0, 60, 300)
    assert "truncated or damaged" in result.skipped[0].why


def test_a_split_that_is_not_recorded_is_found(tmp_path: Path, bare_folder: Path, little_run) -> None:
    (bare_folder / "config.json").unlink()
    (run,) = import_paths([bare_folder], tmp_path / "ws").runs
    assert isinstance(run.found.split, Split)
    assert run.found.split.source == "searched"
    assert torch.equal(run.found.split.mask, little_run.task.train_mask)


def test_the_declared_card_imports_the_same_without_a_search(tmp_path: Path, bare_folder: Path) -> None:
    (first,) = import_paths([bare_folder], tmp_path / "first").runs
    card = card_of(declared_card(first.found), "the test", "declared")
    (again,) = import_paths([bare_folder], tmp_path / "again", how=Reading(card=card)).runs
    assert again.found.function is not None
    assert again.found.function.searched is not None
    assert again.found.function.searched.size == 1
    assert again.found.model.settings == first.found.model.settings  # type: ignore[attr-defined]
    for one, other in zip(first.found.saves, again.found.saves, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(first.found.task.train_mask, again.found.task.train_mask)


def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, bare_folder: Path, one_line) -> None:
    card = card_of({"tensors": {"embed": "embedding: v d"}}, "the test", "short")
    with pytest.raises(GrokscopeError) as caught:
        import_paths([bare_folder], tmp_path / "ws", how=Reading(card=card))
    one_line(caught.value, "by the card short", "left over", "expected")


FORWARD = """
import torch

def logits(params, inputs):
    equals = torch.full((len(inputs), 1), 11)
    x = params["embed"][torch.cat([inputs, equals], 1)] + params["pos"]
    q, k, v = (torch.einsum("npd,hdk->nhpk", x, params[f"W_{one}"]) for one in "QKV")
    pattern = torch.softmax(q[:, :, -1:] @ k.mT / q.shape[-1] ** 0.5, -1)
    z = x[:, -1] + torch.einsum("nhk,hkd->nd", (pattern @ v)[:, :, 0], params["W_O"])
    return (z + torch.relu(z @ params["W_in"]) @ params["W_out"]) @ params["unembed"]
"""


def test_a_function_of_the_users_own(tmp_path: Path, bare_folder: Path, little_run) -> None:
    (tmp_path / "forward.py").write_text(FORWARD)
    function = load_function(f"{tmp_path / 'forward.py'}:logits")
    (run,) = import_paths([bare_folder], tmp_path / "ws", how=Reading(function=function)).runs
    assert run.path is not None
    assert run.found.proved
    assert torch.equal(run.found.task.train_mask, little_run.task.train_mask)
    manifest = read_manifest(run.path)
    assert manifest["function"] == {"name": "logits", "sha256": function.sha256}
    # without the flag nothing of it runs
    closed = open_run(run.path)
    assert closed.model.no_function is not None
    assert "--model" in closed.model.no_function.reason
    opened = open_run(run.path, function)
    final = {name: value.double() for name, value in little_run.saves[300].items()}
    ours = opened.model.forward(opened.params(3), opened.task.inputs)
    assert torch.allclose(ours, little_run.model.forward(final, opened.task.inputs), atol=1e-10)


def test_weights_of_an_unknown_kind_come_in_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"conv.weight": torch.randn(4, 3, 2, 2), "conv.bias": torch.randn(4)}, path)
    (run,) = import_paths([path], tmp_path / "ws").runs
    assert run.found.function is None
    assert run.path is not None
    opened = open_run(run.path)
    assert opened.model.family == "weights"
    assert opened.model.no_function is not None
    assert not [one for one in run.found.proof if one.recorded is not None]


def test_untrained_weights_are_not_taken_for_a_function(tmp_path: Path, their) -> None:
    path = tmp_path / "model.pt"
    torch.save(their.bare(Transformer(their.settings(), 11, 11).init(torch.Generator().manual_seed(0))), path)
    (run,) = import_paths([path], tmp_path / "ws").runs
    assert "not proved" in run.found.why
    assert run.path is not None
    assert open_run(run.path).model.no_function is not None


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


def test_a_folder_is_understood_once_and_then_reused(
    tmp_path: Path, bare_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    understood = []

    def counted(*given):
        understood.append(given)
        return understand(*given)

    monkeypatch.setattr(importer, "understand", counted)
    first = importer.import_or_reuse(bare_folder, tmp_path / "ws")
    assert (first / "run.json").is_file()
    assert len(understood) == 1
    assert importer.import_or_reuse(bare_folder, tmp_path / "ws") == first
    assert len(understood) == 1
    (bare_folder / "ckpt_0.pt").unlink()
    with pytest.raises(GrokscopeError, match="expected a new name"):
        importer.import_or_reuse(bare_folder, tmp_path / "ws")
