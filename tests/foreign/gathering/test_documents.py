"""Text files beside the weights: which belong, how they read, and that none of them does harm."""

import json
from pathlib import Path

import pytest
import torch

from grokscope.foreign.gathering.documents import MAX_VALUES, belongs, bounded, documents_beside


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_format_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path / "config.json", '{"lr": 0.1, "model": {"d": 8}}')
    write(tmp_path / "args.yaml", "lr: 0.1\nmodel:\n  d: 8\n")
    write(tmp_path / "hparams.yml", "&a {lr: 0.1, model: {d: 8}}")
    write(tmp_path / "settings.toml", "lr = 0.1\n[model]\nd = 8\n")
    write(tmp_path / "log.jsonl", '{"step": 1}\n\n{"step": 2}\n')
    write(tmp_path / "history.json", '{"step": 1}\n{"step": 2}\n')
    write(tmp_path / "metrics.csv", "# step, loss\n1,0.5\n2\n")
    write(tmp_path / "metrics.tsv", "step\tloss\n1\t0.5\n")
    write(tmp_path / "results.csv", "step;loss\n1;0.5\n")
    found = documents_beside(tmp_path, ["run"], False)
    assert found.unread == {}
    for name in ("config.json", "args.yaml", "hparams.yml", "settings.toml"):
        assert found.plain[name] == {"lr": 0.1, "model": {"d": 8}}, name
    assert found.plain["log.jsonl"] == found.plain["history.json"] == [{"step": 1}, {"step": 2}]
    assert found.tables["metrics.csv"] == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": ""}]
    assert found.tables["metrics.tsv"] == found.tables["results.csv"] == [{"step": "1", "loss": "0.5"}]
    assert found.paths["config.json"] == tmp_path / "config.json"
    assert list(found.plain)[:3] == ["args.yaml", "config.json", "hparams.yml"]


@pytest.mark.parametrize(
    ("name", "stem", "belong"),
    [
        ("config", "anything", True),
        ("train_losses", "anything", True),
        ("config_18c9ev5v5p", "model_18c9ev5v5p", True),
        ("config_18c9ev5v5p", "model_7r4zst7evs", False),
        ("run_a", "run_a", True),
        ("run_a_history", "run_a", True),
        ("metrics-run_a", "ckpt_run_a", True),
        ("run_b", "run_a", False),
        ("notes", "run_a", False),
        ("p97_frac0.30_wd1_seed0", "p97_frac0.30_wd1_seed0", True),
        ("p97_frac0.30_wd1_seed1", "p97_frac0.30_wd1_seed0", False),
    ],
)
def test_whose_a_document_is(name: str, stem: str, belong: bool) -> None:
    assert belongs(name, [stem]) is belong


def test_settings_above_a_folder_of_checkpoints(tmp_path: Path) -> None:
    write(tmp_path / "run" / "config.json", '{"seed": 1}')
    write(tmp_path / "run" / "other_run.json", '{"seed": 9}')
    write(tmp_path / "run" / ".hydra" / "config.yaml", "lr: 0.1")
    write(
        tmp_path / "run" / "wandb" / "config.yaml",
        "wandb_version: 1\nwd: {value: 2.0, desc: null}\n_wandb: {value: {}}\n",
    )
    write(tmp_path / "package.json", '{"seed": 7}')
    (tmp_path / "run" / "checkpoints").mkdir()
    found = documents_beside(tmp_path / "run" / "checkpoints", ["ckpt"], True)
    assert set(found.plain) == {"../config.json", "../.hydra/config.yaml", "../wandb/config.yaml"}
    assert found.plain["../wandb/config.yaml"] == {"wd": 2.0}
    plain = tmp_path / "run" / "mine"
    plain.mkdir()
    assert documents_beside(plain, ["ckpt"], True).plain == {}


def test_tags_make_no_objects(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    write(
        tmp_path / "config.yaml",
        f"a: !!python/object/apply:os.system ['touch {mark}']\n"
        "b: !!python/object:argparse.Namespace {lr: 0.1}\nc: !mine 3\nd: !!python/tuple [1, 2]\n",
    )
    found = documents_beside(tmp_path, [], False)
    assert found.plain["config.yaml"]["b"] == {"lr": 0.1}
    assert found.plain["config.yaml"]["d"] == [1, 2]
    assert not mark.exists()


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("config.yaml", LAUGHS, "unfold"),
        ("config.yaml", MERGES, "unfold"),
        ("config.yaml", "&a [*a]", ""),
        ("config.yaml", "[" * 100_000, "deep"),
        ("config.yaml", "a: [1, 2", "not YAML"),
        ("config.yaml", "x" * 2**21, "larger"),
        ("config.yaml", "- 1\n" * 200_000, "more than"),
        ("config.yaml", "? [1, {2: 3}]\n: 4\n", ""),
        ("config.json", "[" * 100_000, ""),
        ("config.json", "{broken", ""),
        ("config.json", "9" * 10_000, ""),
        ("config.json", '{"a":' * 70 + "1" + "}" * 70, "deep"),
        ("config.json", "[" + "0," * (MAX_VALUES + 5) + "0]", "more than"),
        ("config.toml", "a = [" * 20_000, ""),
        ("metrics.csv", ",".join(f"c{i}" for i in range(5000)) + "\n1\n", "columns"),
        ("metrics.csv", ",".join(f"c{i}" for i in range(4000)) + "\n" + "1\n" * 600, "more than"),
        ("metrics.csv", "a,b\n" + "x" * 200_000 + ",1\n", ""),
    ],
    ids=range(17),
)
def test_hostile_documents_end_in_one_line(tmp_path: Path, name: str, text: str, word: str) -> None:
    write(tmp_path / name, text)
    found = documents_beside(tmp_path, [], False)
    assert (found.plain, found.tables) == ({}, {})
    assert word in found.unread[name]
    assert "\n" not in found.unread[name]


def test_a_plain_copy_is_bounded() -> None:
    shared = ["x"] * 100
    with pytest.raises(ValueError, match="more than 1000 values"):
        bounded([shared] * 100, 1000)
    assert bounded({1: (float("nan"), {3}), "d": torch.ones(1)}) == {"1": [None, [3]], "d": "<Tensor>"}
    assert bounded([2**64, 2**63, True]) == [None, 2**63, True]
    json.dumps(bounded({"a": float("inf")}), allow_nan=False)
