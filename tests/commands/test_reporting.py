"""The commands over measurements as scripts use them: what they write, say and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grokscope.commands import reporting

Call = Callable[..., Any]


@pytest.fixture
def two(workspace: Path) -> Path:
    """The workspace with a second run, and a suite of two probes that takes no time."""
    checkpoints = workspace / "checkpoints"
    shutil.copytree(checkpoints / "little-s3", checkpoints / "little-s4")
    manifest = checkpoints / "little-s4" / "run.json"
    shape = json.loads(manifest.read_text())
    shape["config"]["seed"] = 4
    manifest.write_text(json.dumps({**shape, "name": "little-s4"}))
    (workspace / "two.toml").write_text('probes = ["loss", "norms"]\n')
    return workspace


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pages that were opened in a browser, of which there is none."""
    found: list[Path] = []
    monkeypatch.setattr(reporting, "show_page", found.append)
    return found


def common(workspace: Path) -> list[object]:
    return ["--suite", workspace / "two.toml", "--workspace", workspace]


def test_one_report_is_written_once_and_can_be_opened(call: Call, two: Path, opened: list[Path]) -> None:
    first = call("report", "little-s3", *common(two), "--open")
    page = two / "reports" / "little-s3.html"
    assert first.code == 0, first.err
    assert first.out.endswith(f"report  {page}\n")
    assert opened == [page]
    before = page.stat().st_mtime_ns
    again = call("report", "little-s3", *common(two))
    assert again.out == first.out
    assert page.stat().st_mtime_ns == before
    assert not (two / "reports" / "index.html").exists()


def test_a_browser_gets_the_address_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import webbrowser

    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", asked.append)
    reporting.show_page(tmp_path / "a page.html")
    assert asked == [(tmp_path / "a page.html").as_uri()]


def test_all_reports_every_run_and_the_index_and_then_only_what_changed(
    call: Call, two: Path, opened: list[Path]
) -> None:
    reports = two / "reports"
    first = call("report", "--all", *common(two), "--jobs", 1, "--open")
    assert first.code == 0, first.err
    pages = [reports / "little-s3.html", reports / "little-s4.html", reports / "index.html"]
    assert first.out.splitlines() == [f"report  {pages[0]}", f"report  {pages[1]}", f"index   {pages[2]}"]
    assert opened == [pages[2]]
    before = [(page.read_bytes(), page.stat().st_mtime_ns) for page in pages]

    again = call("report", "--all", *common(two), "--jobs", 1)
    assert again.out.count("(unchanged)") == 2
    assert [(page.read_bytes(), page.stat().st_mtime_ns) for page in pages] == before

    shutil.copytree(two / "checkpoints" / "little-s4", two / "checkpoints" / "little-s5")
    third = call("report", "--all", *common(two), "--jobs", 1)
    assert third.code == 0, third.err
    assert [(page.read_bytes(), page.stat().st_mtime_ns) for page in pages[:2]] == before[:2]
    assert pages[2].read_bytes() != before[2][0]
    assert "little-s5.html" in pages[2].read_text()


def test_an_index_that_is_there_is_kept_up_to_date(call: Call, two: Path) -> None:
    index = two / "reports" / "index.html"
    index.parent.mkdir()
    index.write_text("old")
    assert call("report", "little-s3", *common(two)).code == 0
    assert "little-s3.html" in index.read_text()


def test_all_of_an_empty_workspace_is_an_empty_index(call: Call, tmp_path: Path) -> None:
    shown = call("report", "--all", "--workspace", tmp_path)
    assert shown.code == 0, shown.err
    assert "no run in this workspace" in (tmp_path / "reports" / "index.html").read_text()


def test_a_run_that_fails_is_named_and_the_others_have_their_pages(call: Call, two: Path) -> None:
    (two / "checkpoints" / "little-s4" / "trajectory.h5").write_bytes(b"nothing")
    shown = call("report", "--all", *common(two), "--jobs", 1)
    assert "reporting 2 runs: 1 failed" in shown.last_line()
    assert (two / "reports" / "little-s3.html").exists()
    assert "cannot be read" in (two / "reports" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "0 runs and no --all were given"),
        (["little-s3", "--all"], "1 runs and --all were given"),
        (["little-s3", "little-s4", "--out", "x.html"], "expected one run with it"),
        (["--all", "--out", "x.html"], "expected one run with it"),
        (["little-s33"], "did you mean 'little-s3'"),
    ],
)
def test_what_report_refuses(call: Call, workspace: Path, arguments: list[str], expected: str) -> None:
    assert expected in call("report", *arguments, "--workspace", workspace).error()


def test_compare_writes_one_page(call: Call, two: Path, opened: list[Path]) -> None:
    shown = call("compare", "little-s3", "little-s4", *common(two), "--jobs", 1, "--open")
    assert shown.code == 0, shown.err
    page = two / "reports" / "compare-little-s3-little-s4.html"
    assert shown.out == f"report  {page}\n"
    assert opened == [page]
    before = page.read_bytes()
    assert b"little-s4" in before
    out = two / "elsewhere.html"
    assert call("compare", "little-s3", "little-s4", *common(two), "--jobs", 1, "--out", out).code == 0
    assert out.read_bytes() == before
    assert "1 were given" in call("compare", "little-s3", *common(two)).error()
    assert "more than once" in call("compare", "little-s3", "little-s3", *common(two)).error()
    path = two / "checkpoints" / "little-s3"
    assert "more than once" in call("compare", "little-s3", path, *common(two), "--jobs", 1).last_line()
    assert (
        "could not be measured" in call("compare", "little-s3", "none", *common(two), "--jobs", 1).last_line()
    )


def test_figures_are_written_and_named(call: Call, two: Path) -> None:
    shown = call("figures", "little-s3", *common(two), "--format", "svg", "--only", "norms")
    assert shown.code == 0, shown.err
    written = two / "reports" / "little-s3-figures" / "norms-weight-norms-over-training.svg"
    assert shown.out == f"wrote   {written}\n"
    assert written.is_file()
    assert "'norm'" in call("figures", "little-s3", *common(two), "--only", "norm").last_line()
    assert "gif" in call("figures", "little-s3", *common(two), "--format", "gif").error()


def test_watch_reports_a_finished_run_once(call: Call, two: Path, opened: list[Path]) -> None:
    index = two / "reports" / "index.html"
    index.parent.mkdir()
    index.write_text("old")
    shown = call("watch", "little-s3", *common(two), "--open")
    page = two / "reports" / "little-s3.html"
    assert shown.code == 0, shown.err
    assert shown.out.splitlines() == [f"step 60, 16 saves: {page}", f"report  {page}"]
    assert 'http-equiv="refresh"' not in page.read_text()
    assert opened == [page]
    assert "little-s3.html" in index.read_text()
    assert "--every was 0" in call("watch", "little-s3", *common(two), "--every", 0).error()
    assert "did you mean" in call("watch", "little-s33", *common(two)).error()


def test_export_writes_a_table(call: Call, two: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    shown = call("export", "little-s3", *common(two), "--format", "parquet")
    assert shown.code == 0, shown.err
    path = two / "reports" / "little-s3.parquet"
    assert shown.out == f"wrote   {path}\n"
    assert pandas.read_parquet(path).index.tolist() == list(range(0, 61, 4))
    out = two / "deep" / "table.parquet"
    assert call("export", "little-s3", *common(two), "--format", "parquet", "--out", out).code == 0
    assert out.read_bytes() == path.read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export_writes_tensorboard_events(call: Call, two: Path) -> None:
    pytest.importorskip("tensorboard")
    shown = call("export", "little-s3", *common(two), "--format", "tensorboard")
    assert shown.code == 0, shown.err
    assert len(list((two / "reports" / "tensorboard" / "little-s3").glob("*tfevents*"))) == 1


def test_what_export_refuses(call: Call, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--format" in call("export", "little-s3", *common(two)).error()
    refused = call("export", "little-s3", *common(two), "--format", "parquet", "--online")
    assert "expected it with wandb only" in refused.error()
    from grokscope.export import libraries

    def fail(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(libraries, "import_module", fail)
    for kind, extra in (("parquet", "frames"), ("tensorboard", "tensorboard"), ("wandb", "wandb")):
        line = call("export", "little-s3", *common(two), "--format", kind).error()
        assert line.rstrip().endswith(f"pip install 'grokscope[{extra}]'")
