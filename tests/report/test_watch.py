"""The report of a run in training: what is written when, and what is left at the end."""

from __future__ import annotations

import shutil
import signal
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from grokscope.errors import GrokscopeError
from grokscope.probes import Quantity, Record
from grokscope.probes.cache import measure_run
from grokscope.probes.dense import dense_series
from grokscope.report import write_report
from grokscope.report.watch import committed, is_finished, make_plain, refresh, watch_run
from grokscope.runs import Run, open_run
from grokscope.training import recipe_from, train

RECIPE = (Path(__file__).parents[1] / "little.toml").read_text()
SAVES = 16
"""Saves of the whole run; those of step 40 and before are committed when it is stopped there."""
RELOADS = '<meta http-equiv="refresh"'


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "one.toml"
    path.write_text('probes = ["loss"]\n')
    return path


@pytest.fixture
def measured(suite: Path) -> Callable[[Run], Record]:
    return lambda run: measure_run(run, suite)


def train_to(directory: Path, last: int | None) -> None:
    """Train the run on, to step ``last`` or to its end."""

    def report(step: int, scalars: Mapping[str, float]) -> None:
        if last is not None and step >= last:
            signal.raise_signal(signal.SIGINT)

    train(
        recipe_from(tomllib.loads(RECIPE), "little.toml"), directory, device="cpu", resume=True, report=report
    )


def test_a_run_in_training_is_reported_as_it_grows(tmp_path: Path, measured: Callable[[Run], Record]) -> None:
    directory, out = tmp_path / "checkpoints" / "little-s3", tmp_path / "reports" / "little-s3.html"
    train_to(directory, 40)
    held = committed(directory)
    assert 0 < held < SAVES
    pages: list[str] = []
    counts: list[int] = []
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert seconds == 3.2
        pages.append(out.read_text())
        if looks == 2:  # nothing new at the first look
            train_to(directory, None)

    written = watch_run(
        directory, out, measured=measured, every=3.2, sleep=sleep,
        told=lambda run, record: counts.append(len(record.steps)),
    )  # fmt: skip
    assert written == out
    assert counts == [held, SAVES]
    assert looks == 2
    assert pages[0].count(RELOADS) == 1
    assert 'content="3">' in pages[0]
    assert pages[0] == pages[1]
    final = out.read_text()
    assert RELOADS not in final
    # the last page is the one that the report itself would be, and nothing is left beside it
    assert (
        final
        == write_report(
            directory, tmp_path / "other" / out.name, record=measured(open_run(directory))
        ).read_text()
    )
    assert sorted(path.name for path in out.parent.iterdir()) == ["little-s3.html", "little-s3.json"]


def test_a_run_without_saves_is_waited_for_and_ctrl_c_leaves_a_plain_page(
    trained: Path, tmp_path: Path, measured: Callable[[Run], Record]
) -> None:
    directory, out = tmp_path / "little-s3", tmp_path / "page.html"
    whole = trained / "checkpoints" / "little-s3"
    train_to(directory, 40)
    (directory / "trajectory.h5").rename(tmp_path / "later.h5")
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            assert not out.exists()
            (tmp_path / "later.h5").rename(directory / "trajectory.h5")
        if looks == 2:
            assert RELOADS in out.read_text()
            raise KeyboardInterrupt

    watch_run(directory, out, measured=measured, sleep=sleep)
    assert looks == 2
    assert RELOADS not in out.read_text()
    assert "little-s3" in out.read_text()
    assert whole.is_dir()


def test_an_interrupt_before_any_save_leaves_nothing(
    tmp_path: Path, measured: Callable[[Run], Record]
) -> None:
    directory, out = tmp_path / "little-s3", tmp_path / "page.html"
    train_to(directory, 40)
    (directory / "trajectory.h5").unlink()

    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    assert watch_run(directory, out, measured=measured, sleep=sleep) == out
    assert not out.exists()


def test_a_finished_run_is_reported_once(
    workspace: Path, measured: Callable[[Run], Record], tmp_path: Path
) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError("it has nothing to wait for")

    out = watch_run(
        workspace / "checkpoints" / "little-s3", tmp_path / "a" / "page.html", measured=measured, sleep=sleep
    )
    assert RELOADS not in out.read_text()


def test_a_log_that_has_no_entry_yet_is_no_log(trained: Path) -> None:
    run = open_run(trained / "checkpoints" / "little-s3")
    record = Record("little-s3", run.steps)
    record.declare((Quantity("loss.train", "nat", "Mean cross-entropy."),))
    record.add("loss.train", run.steps * 1.0)
    assert len(dense_series(run, record)["loss.train"][0]) > len(run.steps)
    nothing = {name: values[:0] for name, values in run.scalars.items()}
    run.__dict__["scalars"] = nothing  # as a writer leaves it before its first whole block
    assert dense_series(run, record)["loss.train"][0].tolist() == run.steps.tolist()


def test_what_is_finished() -> None:
    assert is_finished({"kind": "imported"})
    assert is_finished({"kind": "trained", "provenance": {"finished": "then"}})
    assert not is_finished({"kind": "trained", "provenance": {}})
    assert not is_finished({"kind": "forked"})


def test_plain_pages_stay_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = '<head>\n<meta charset="utf-8">\n<title>a</title>'
    page.write_text(text.replace("<title>", refresh(0.2) + "<title>"))
    assert 'content="1">' in page.read_text()
    make_plain(page)
    assert page.read_text() == text
    make_plain(page)
    assert page.read_text() == text
    make_plain(tmp_path / "none.html")


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_pace_is_refused(
    trained: Path, tmp_path: Path, every: float, measured: Callable[[Run], Record]
) -> None:
    with pytest.raises(GrokscopeError, match="--every"):
        watch_run(
            trained / "checkpoints" / "little-s3", tmp_path / "page.html", measured=measured, every=every
        )


def test_a_place_that_cannot_be_written_is_told(
    workspace: Path, tmp_path: Path, measured: Callable[[Run], Record]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GrokscopeError, match="writing the report of little-s3") as told:
        watch_run(workspace / "checkpoints" / "little-s3", tmp_path / "file" / "page.html", measured=measured)
    assert "\n" not in str(told.value)
    shutil.rmtree(workspace)
