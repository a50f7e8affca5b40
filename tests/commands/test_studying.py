"""``grokscope study``: trains what is missing, once; says what is not finished; page, data and links."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grokscope import cli
from grokscope.studies import STUDIES, Bench, Finding, Row, StudyResult
from grokscope.studies.sweep import Arm
from grokscope.training import fleet
from grokscope.training.fleet_worker import FleetRun

Call = Callable[..., tuple[int, list[str], list[str]]]
TINY = (
    "task.p=7", "task.train_fraction=0.6", "model.d_embed=6", "model.hidden=[12]", "train.steps=20",
    'save.schedule=["0:end:5"]', 'save.evaluate=["0:end:5"]',
)  # fmt: skip
ARMS = {
    rate: Arm(f"tiny.lr{rate:g}", "delay-law", (*TINY, f"train.lr={rate!r}"), (0, 1)) for rate in (0.01, 0.02)
}


def run_tiny(bench: Bench) -> StudyResult:
    """The last training loss of every arm."""
    known = {
        rate: bench.earlier(arm, lambda record: record["last"], f"{rate:g}") for rate, arm in ARMS.items()
    }
    arms = {rate: arm for rate, arm in ARMS.items() if known[rate] is None}
    arms = bench.ready(arms, enough=len(arms) < len(ARMS))
    bench.train_arms(list(arms.values()))
    last = {rate: values for rate, values in known.items() if values is not None}
    last |= {
        rate: [float(log.scalars["loss.train"][-1]) for log in bench.logs(arm)] for rate, arm in arms.items()
    }
    return StudyResult(
        "tiny", bench.scale, "A tiny study", "It was trained.",
        rows=tuple(Row(f"loss at {r:g}", 1.0, float(np.mean(one)), None, "cannot tell") for r, one in last.items()),
        findings=(Finding("arms", float(len(last))),), left_out="Much.",
        data={f"{rate:g}": {"seeds": [0, 1], "last": values} for rate, values in last.items()},
    )  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STUDIES, "tiny", run_tiny)
    monkeypatch.setattr("grokscope.studies.CONTINUES", {"tiny"})

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["grokscope", "study", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        said = [line for line in re.split(r"[\n\r]", captured.err) if line.startswith("grokscope: ")]
        return code, captured.out.splitlines(), said

    return run


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("checkpoints/*/trajectory.h5")}


def test_it_trains_once_and_links_the_page_of_every_run(call, tmp_path):
    code, out, said = call("tiny", "--device", "cpu", "--jobs", 1, "--json", "rows.json")
    assert (code, said) == (0, [])
    assert out[0] == "It was trained."
    page = (tmp_path / "reports" / "study-tiny-small.html").read_text()
    for name in ("tiny.lr0.01-s0", "tiny.lr0.01-s1", "tiny.lr0.02-s0", "tiny.lr0.02-s1"):
        assert f'href="{name}.html"' in page
        assert (tmp_path / "reports" / f"{name}.html").is_file()
    whole = json.loads((tmp_path / "reports" / "study-tiny-small.json").read_text())
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows == {key: whole[key] for key in ("study", "scale", "rows")}
    losses = [row["ours"] for row in rows["rows"]]
    assert losses == [np.mean(whole["data"][rate]["last"]) for rate in ("0.01", "0.02")]
    assert losses[0] != losses[1]
    before = written(tmp_path)
    assert len(before) == 4
    assert call("tiny", "--device", "cpu", "--jobs", 1)[0] == 0
    assert written(tmp_path) == before
    assert (tmp_path / "reports" / "study-tiny-small.html").read_text() == page


def test_shares_are_trained_apart_and_the_last_makes_the_page(call, tmp_path):
    arguments = ("tiny", "--device", "cpu", "--jobs", 1, "--no-pages", "--shard")
    code, _, said = call(*arguments, "1/2")
    assert code == 2
    assert "2 of 4 runs are not finished" in said[-1]
    assert "the same command goes on" in said[-1]
    assert not (tmp_path / "reports").exists()
    code, _, said = call(*arguments, "2/2")
    assert (code, said) == (0, [])
    assert len(written(tmp_path)) == 4
    assert "href=" not in re.sub(
        r'href="#[^"]*"', "", (tmp_path / "reports" / "study-tiny-small.html").read_text()
    )


def test_the_page_of_what_is_finished_names_what_is_not(call, tmp_path):
    code, _, said = call("tiny", "--finished", "--no-pages")
    assert code == 2
    assert "none of 2 arms has all its runs finished" in said[-1]
    assert not (tmp_path / "checkpoints").exists()
    for seed in (0, 1):
        name, recipe = ARMS[0.02].runs()[seed]
        fleet.train_fleet([recipe], [tmp_path / "checkpoints" / name], device="cpu")
    code, _, said = call("tiny", "--finished", "--no-pages")
    assert (code, said) == (0, [])
    whole = json.loads((tmp_path / "reports" / "study-tiny-small.json").read_text())
    assert [row["quantity"] for row in whole["rows"]] == ["loss at 0.02"]
    assert whole["left_out"] == "Not finished when this page was made: tiny.lr0.01 is not finished. Much."
    assert len(written(tmp_path)) == 2


def test_it_goes_on_from_the_json_of_an_earlier_result(call, tmp_path):
    for name, recipe in ARMS[0.02].runs():
        fleet.train_fleet([recipe], [tmp_path / "checkpoints" / name], device="cpu")
    assert call("tiny", "--finished", "--no-pages")[0] == 0
    first = json.loads((tmp_path / "reports" / "study-tiny-small.json").read_text())
    elsewhere = tmp_path / "elsewhere"
    code, _, said = call(
        "tiny", "--device", "cpu", "--jobs", 1, "--no-pages", "--workspace", elsewhere,
        "--from", "reports/study-tiny-small.json",
    )  # fmt: skip
    assert (code, said) == (0, [])
    whole = json.loads((elsewhere / "reports" / "study-tiny-small.json").read_text())
    taken = "1 arms of runs (tiny.lr0.02, ...)"
    assert whole["left_out"] == f"Taken from study-tiny-small.json, not run again: {taken}. Much."
    assert {row["quantity"]: row["ours"] for row in whole["rows"]}["loss at 0.02"] == first["rows"][0]["ours"]
    assert sorted(path.name for path in (elsewhere / "checkpoints").iterdir()) == [
        "tiny.lr0.01-s0",
        "tiny.lr0.01-s1",
    ]
    page = (elsewhere / "reports" / "study-tiny-small.html").read_text()
    assert taken in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "expected the JSON of a study"),
        ("[]", "it is of None at scale None"),
        ('{"study": "delay-law", "scale": "small", "data": {}}', "it is of delay-law at scale small"),
        ('{"study": "tiny", "scale": "small", "data": []}', "expected tiny at scale small with its data"),
        ('{"study": "tiny", "scale": "small", "data": {}}', "with its data and recipes"),
        ('{"study": "tiny", "scale": "small", "recipes": {}, "data": {"0.01": {"last": []}}}', "result: KeyError"),
        ('{"study": "tiny", "scale": "small", "recipes": {}, "data": {"0.01": 3}}', "expected what a study wrote"),
    ],
)  # fmt: skip
def test_what_is_no_earlier_result_is_one_line(call, tmp_path, text, said):
    if text is not None:
        (tmp_path / "saved.json").write_text(text)
    code, out, lines = call("tiny", "--finished", "--no-pages", "--from", "saved.json")
    assert (code, out, len(lines)) == (2, [], 1)
    assert said in lines[0]
    assert not (tmp_path / "checkpoints").exists()


def test_a_study_that_cannot_go_on_from_a_result_says_so(call, tmp_path):
    code, _, lines = call("two-clocks", "--finished", "--from", "saved.json")
    assert (code, len(lines)) == (2, 1)
    assert "--from saved.json was given, expected it only for tiny" in lines[0]


def test_an_interrupted_study_says_how_it_goes_on(call, monkeypatch):
    """It has no --resume: the same command is enough."""

    def stopped(recipes, directories, **rest):
        return [FleetRun(directory, "stopped", 3) for directory in directories]

    monkeypatch.setattr(fleet, "train_fleet", stopped)
    code, _, said = call("tiny", "--device", "cpu", "--jobs", 1)
    assert code == 2
    assert said[-1].endswith("what was computed is saved; the same command goes on")


def test_a_name_that_is_no_study_is_one_line(call):
    code, out, said = call("delay-lax")
    assert (code, out) == (2, [])
    assert len(said) == 1
    assert "delay-law" in said[0]
