"""The index over runs: its rows, when a page is written again, and the page itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.report import index as index_module
from grokscope.report import rows as rows_module
from grokscope.report.frame import resource
from grokscope.report.index import (
    INDEX,
    OLDER,
    render_index,
    report_many,
    report_run,
    runs_of,
    write_index,
)
from grokscope.report.rows import (
    HEIGHT,
    NOT_MEASURED,
    ROWS,
    UNREADABLE,
    WIDTH,
    Row,
    keep_row,
    kept_row,
    points,
    row_of,
    stored_record,
)
from grokscope.runs import open_run
from grokscope.work import Workers

SUITE = 'probes = ["loss", "norms"]\n'

FULL = Row(
    name="quickstart-s0",
    page="quickstart-s0.html",
    task="a + b mod 59",
    model="deep-linear",
    seed=3,
    state="grokked",
    flags=("not_monotone",),
    sentence="It grokked.",
    fit=(30, 31),
    grok=(895, 12_900),
    delay=(28.87, 30.0),
    step=1300,
    accuracy=0.99871,
    checksum="b5fca560aa",
    origin="forked from other at step 400",
    train=((0, 30), (60, 2), (120, 2)),
    test=((0, 30), (120, 3)),
)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(SUITE)
    return path


def cells(page: str) -> list[list[str]]:
    """The texts of the table's rows."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in body.split("<tr ")[1:]
    ]


def test_a_row_says_what_is_known() -> None:
    (row,) = cells(render_index([FULL]))
    assert row[0] == "quickstart-s0forked from other at step 400"
    assert row[1] == "grokked not monotone"
    assert row[3:] == [
        "30 to 31", "895 to 12\u202f900", "28.9 to 30×", "0.999", "1300", "a + b mod 59", "deep linear", "3",
        "b5fca560",
    ]  # fmt: skip
    page = render_index([FULL])
    assert '<a href="quickstart-s0.html">' in page
    assert "1 run: 1 grokked." in page
    assert 'd="M0 30L60 2L120 2"' in page
    assert 'd="M4 5h0"' in render_index([replace(FULL, test=((4, 5),))])  # a single evaluation is a dot
    assert "training accuracy ends near 1, test accuracy ends near 0.96." in page


def test_what_is_not_known_is_a_dash_and_what_was_not_seen_is_said() -> None:
    bare, unseen = cells(
        render_index([Row("bare"), Row("unseen", fit=(30, 31), grok=(1300, None), delay=(41.9, None))])
    )
    assert bare[1] == NOT_MEASURED
    assert set(bare[2:]) == {"–"}
    assert unseen[4:6] == ["not seen by step 1300", "at least 41.9×"]


def test_columns_carry_numbers_to_sort_by() -> None:
    page = render_index([FULL, Row("bare")])
    assert 'data-label="grok" data-sort="12900.0"' in page
    assert 'data-label="delay" data-sort="28.87"' in page
    assert page.count('data-label="grok" data-sort=""') == 1
    assert len(re.findall(r"<th scope=\"col\"[^>]*data-key=", page)) == 10


def test_markup_stays_text() -> None:
    evil = '<img src=x onerror="alert(1)">&\u202e'
    page = render_index([replace(FULL, name=evil, page=f"{evil}.html", task=evil, state=evil, sentence=evil)])
    assert "<img" not in page
    assert "\u202e" not in page
    assert 'onerror="' not in page
    assert 'href="%3Cimg' in page


def test_only_the_script_of_the_page_may_run() -> None:
    page = render_index([FULL])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    digest = base64.b64encode(hashlib.sha256(resource("index.js").encode()).digest()).decode()
    assert policy.replace("&#39;", "'").endswith(f"script-src 'sha256-{digest}'")
    assert "default-src &#39;none&#39;" in policy
    assert page.count("<script>") == 1
    assert "http:" not in page
    assert "https:" not in page


def test_equal_rows_give_equal_bytes_and_no_rows_a_page() -> None:
    assert render_index([FULL]) == render_index([FULL])
    assert "There is no run in this workspace yet." in render_index([])


def test_the_small_curve_stays_in_its_box() -> None:
    steps = np.arange(0, 5000, 3)
    values = np.where(steps < 900, np.nan, 1.7 * np.tanh(steps / 3000))
    found = points((steps, values), 4998)
    assert found[-1] == (WIDTH, 2)
    assert all(0 <= x <= WIDTH and 2 <= y <= HEIGHT - 2 for x, y in found)
    assert [x for x, _ in found] == sorted({x for x, _ in found})
    assert points(None, 10) == ()
    assert points((steps, np.full(len(steps), np.nan)), 10) == ()
    assert points((np.array([0]), np.array([0.5])), 0) == ((0, HEIGHT // 2),)


def test_a_kept_row_is_read_back_and_a_damaged_one_is_not_there(tmp_path: Path) -> None:
    keep_row(tmp_path, FULL, "key", "content")
    kept = kept_row(tmp_path, FULL.name)
    assert kept is not None
    assert (kept.row, kept.key, kept.content) == (FULL, "key", "content")
    path = tmp_path / ROWS / f"{FULL.name}.json"
    shape = json.loads(path.read_text())
    for damage in ("", "[]", "{}", json.dumps({**shape, "schema": 99}), json.dumps({**shape, "row": {"name": 1}}),
                   json.dumps({**shape, "row": {**shape["row"], "fit": [1, "<b>"]}})):  # fmt: skip
        path.write_text(damage)
        assert kept_row(tmp_path, FULL.name) is None


def test_a_page_is_written_once_and_again_when_something_changed(
    workspace: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, run = workspace / "reports", open_run(workspace / "checkpoints" / "little-s3")

    def report() -> bool:
        done = report_run(run, reports, suite=suite)
        assert done.page == reports / "little-s3.html"
        return done.written

    assert report()
    page = reports / "little-s3.html"
    before = (page.read_bytes(), page.stat().st_mtime_ns)
    assert not report()
    assert (page.read_bytes(), page.stat().st_mtime_ns) == before
    page.write_text("something else")
    assert report()
    assert page.read_bytes() == before[0]
    page.unlink()
    assert report()
    page.with_suffix(".json").unlink()
    assert report()
    monkeypatch.setattr(rows_module, "_drawn_by", lambda: "another version")
    assert report()
    assert not report()


def test_the_index_shows_pages_and_flags_older_ones(workspace: Path, suite: Path) -> None:
    checkpoints, reports = workspace / "checkpoints", workspace / "reports"
    shutil.copytree(checkpoints / "little-s3", checkpoints / "little-s10")
    done = report_run(open_run(checkpoints / "little-s3"), reports, suite=suite)
    assert done.written
    page = write_index(workspace)
    assert page == reports / INDEX
    three, ten = cells(page.read_text())
    assert (three[0], ten[0]) == ("little-s3", "little-s10")  # by number, not by letter
    assert three[1] != NOT_MEASURED
    assert ten[1] == NOT_MEASURED
    assert len(three[-1]) == 8
    assert '<a href="little-s3.html">' in page.read_text()
    assert "little-s10.html" not in page.read_text()

    before = page.stat().st_mtime_ns
    write_index(workspace)
    assert page.stat().st_mtime_ns == before  # nothing changed, nothing written

    manifest = checkpoints / "little-s3" / "run.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "remark": "changed"}))
    write_index(workspace)
    assert OLDER in cells(page.read_text())[0][1]


def test_measurements_without_a_kept_row_are_read(workspace: Path, tmp_path: Path) -> None:
    from grokscope.probes.cache import measure_run

    run = open_run(workspace / "checkpoints" / "little-s3")
    assert stored_record(run) is None
    measure_run(run, only=["loss"], steps="0:20:4")
    assert stored_record(run) is None  # of some saves only
    (run.path / "measurements.h5").unlink()
    mine = tmp_path / "mine.toml"
    mine.write_text('probes = ["loss", "clocks"]\n')
    record = measure_run(run, mine)
    (row,) = cells(write_index(workspace).read_text())
    assert record.verdict is not None
    assert row[1].startswith(record.verdict.state)
    # they are believed before a row that was kept with an earlier page
    keep_row(workspace / "reports", replace(FULL, name="little-s3", page="little-s3.html"), "key", "earlier")
    (workspace / "reports" / "little-s3.html").write_text("")
    (row,) = cells(write_index(workspace).read_text())
    assert row[1].startswith(record.verdict.state)
    assert OLDER not in row[1]
    (run.path / "measurements.h5").write_bytes(b"damaged")
    assert stored_record(run) is None


def test_a_run_that_cannot_be_opened_has_a_row_that_says_why(workspace: Path) -> None:
    (workspace / "checkpoints" / "little-s3" / "run.json").write_text("{")
    text = write_index(workspace).read_text()
    assert UNREADABLE in text
    assert str(workspace) not in text
    assert cells(text)[0][0] == "little-s3"


def test_a_run_called_index_keeps_its_page(workspace: Path) -> None:
    shutil.copytree(workspace / "checkpoints" / "little-s3", workspace / "checkpoints" / "index")
    with pytest.raises(GrokscopeError, match="expected no run of that name"):
        write_index(workspace)


def test_many_runs_are_reported_and_one_that_fails_leaves_the_others_alone(
    workspace: Path, suite: Path
) -> None:
    checkpoints = workspace / "checkpoints"
    shutil.copytree(checkpoints / "little-s3", checkpoints / "twin")
    (checkpoints / "twin" / "trajectory.h5").write_bytes(b"nothing")
    told: list[str] = []
    good, bad = report_many(
        runs_of(workspace), workspace / "reports", suite=str(suite), workers=Workers(1),
        progress=lambda done: told.append(done.given),
    )  # fmt: skip
    assert (good.given, good.written, good.error) == ("little-s3", True, "")
    assert good.page is not None
    assert good.page.is_file()
    assert bad.page is None
    assert "trajectory.h5" in bad.error
    assert "\n" not in bad.error
    assert sorted(told) == ["little-s3", "twin"]


def test_a_fault_of_the_program_is_not_hidden(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(index_module, "report_run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        report_many(runs_of(workspace), workspace / "reports", workers=Workers(1))


def test_an_unmeasured_row_tells_what_the_log_tells(workspace: Path) -> None:
    run = open_run(workspace / "checkpoints" / "little-s3")
    row = row_of(run, None)
    assert (row.state, row.seed, row.step, row.model, row.task) == (NOT_MEASURED, 3, 60, "mlp", "a + b mod 7")
    assert row.accuracy == pytest.approx(run.scalars["accuracy.test"][-1])
    assert row.train
    assert row.fit is None
