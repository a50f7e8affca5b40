"""A run's report on disk, and where it goes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from grokscope.errors import GrokscopeError
from grokscope.probes import Record, load_record, probe
from grokscope.report import default_out, write_report
from grokscope.runs import Run, open_run
from grokscope.training import recipe_from, train

SMALL = {
    "name": "small",
    "seed": 1,
    "task": {"name": "modular", "op": "add", "p": 7, "train_fraction": 0.5},
    "model": {"family": "mlp", "d_embed": 8, "hidden": [16], "activation": "relu"},
    "train": {"steps": 12, "optimizer": "adamw", "lr": 1e-2, "weight_decay": 1.0},
    "save": {"schedule": ["0:end:4"], "snapshots": 12},
}
SUITE = 'probes = ["loss", "norms"]\n'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("workspace") / "checkpoints" / "small-s1"
    train(recipe_from(SMALL, "a test"), directory, device="cpu")
    return directory


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(SUITE)
    return path


def test_a_report_of_a_run_lands_in_its_workspace(trained: Path, suite: Path) -> None:
    before = sorted(p.name for p in trained.iterdir())
    told: list[str] = []
    page = write_report(
        trained, suite=suite, progress=lambda name, i, n: told.append(f"{name} {i}/{n}"), strict=True
    )
    assert page == trained.parents[1] / "reports" / "small-s1.html"
    text = page.read_text()
    assert "small-s1" in text
    assert "a + b mod 7" in text
    assert "sha256 " in text
    assert text.count("<svg") >= 3
    assert told == ["loss 0/2", "norms 1/2"]
    assert sorted(p.name for p in page.parent.iterdir()) == ["small-s1.html", "small-s1.json"]
    assert sorted({*before, "measurements.h5", "readings"}) == sorted(p.name for p in trained.iterdir())


def test_a_second_report_measures_nothing_and_is_the_same(trained: Path, suite: Path, tmp_path: Path) -> None:
    first = write_report(trained, tmp_path / "first.html", suite=suite).read_text()
    told: list[str] = []
    second = write_report(
        open_run(trained),
        tmp_path / "deep" / "second.html",
        suite=suite,
        progress=lambda *a: told.append(a[0]),
    ).read_text()
    assert told == []
    assert first == second.replace("second.json", "first.json")
    numbers = json.loads((tmp_path / "deep" / "second.json").read_text())
    assert numbers == probe(open_run(trained), suite).to_json()


def test_a_file_that_holds_the_same_is_left_as_it_is(trained: Path, suite: Path, tmp_path: Path) -> None:
    page = write_report(trained, tmp_path / "page.html", suite=suite)
    for file in (page, page.with_suffix(".json")):
        os.utime(file, (1, 1))
    write_report(trained, page, suite=suite)
    assert page.stat().st_mtime == page.with_suffix(".json").stat().st_mtime == 1
    page.with_suffix(".json").write_text("{}")
    write_report(trained, page, suite=suite)
    assert json.loads(page.with_suffix(".json").read_text())["run"] == "small-s1"


def test_the_page_tells_no_time_and_no_folder(trained: Path, suite: Path, tmp_path: Path) -> None:
    text = write_report(trained, tmp_path / "page.html", suite=suite).read_text()
    started = json.loads((trained / "run.json").read_text())["provenance"]["started"]
    assert started not in text
    assert started[:10] not in text
    assert str(trained.parents[1]) not in text


def test_a_record_that_is_given_is_shown_and_nothing_measured(trained: Path, tmp_path: Path) -> None:
    run = open_run(trained)
    record = Record("shown as given", run.steps, probes=["loss", "gone"])
    text = write_report(run, tmp_path / "given.html", record=record).read_text()
    assert "shown as given" in text


def test_the_default_place_is_beside_checkpoints_or_here(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = open_run(trained)
    monkeypatch.chdir(tmp_path)
    assert default_out(run) == trained.parents[1] / "reports" / "small-s1.html"
    elsewhere: Run = replace(run, path=tmp_path / "runs" / "mine", name="../../evil")
    assert default_out(elsewhere) == tmp_path / "reports" / "mine.html"


def test_a_place_that_cannot_be_written_is_told_in_one_line(
    trained: Path, suite: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GrokscopeError, match="writing the report of small-s1") as told:
        write_report(trained, tmp_path / "file" / "page.html", suite=suite)
    assert "\n" not in str(told.value)
    with pytest.raises(GrokscopeError, match="writing the report"):
        write_report(trained, tmp_path, suite=suite)  # a folder
    with pytest.raises(GrokscopeError, match="writing the report"):
        write_report(trained, "", suite=suite)
    assert list(tmp_path.rglob("*.part")) == []


def test_what_was_stored_is_the_record(trained: Path, suite: Path) -> None:
    assert load_record(trained / "measurements.h5", {"another": "key"}) is None
