"""Kept drawings: the same page without drawing, and a new drawing whenever anything it shows has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grokscope import open_run, probe, write_report
from grokscope.probes import Record
from grokscope.report import figures
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.runs import Run
from grokscope.training import read_recipe, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("kept") / "run"
    changes = [
        "task.p=7",
        "model.d_embed=6",
        "model.hidden=[10]",
        "train.steps=20",
        "save.schedule=['0:end:5']",
    ]
    train(read_recipe("quickstart", [*changes, "save.evaluate=['0:end:5']"]), directory, device="cpu")
    return open_run(directory)


@pytest.fixture(scope="module")
def record(run: Run) -> Record:
    return probe(run, only=["loss", "norms"])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the figures that are really drawn."""
    titles: list[str] = []
    draw = figures.draw_figure

    def counted(
        spec: figures.FigureSpec, record: Record, prefix: str
    ) -> tuple[str, dict[str, object] | None]:
        titles.append(spec.title)
        return draw(spec, record, prefix)

    monkeypatch.setattr(figures, "draw_figure", counted)
    return titles


def page(run: Run, record: Record, out: Path) -> str:
    return write_report(run, out, record=record).read_text().replace(f"{out.stem}.json", "page.json")


def test_a_second_page_is_the_first_without_drawing(run, record, drawn, tmp_path):
    first = page(run, record, tmp_path / "a.html")
    count = len(drawn)
    assert count > 2
    assert page(run, record, tmp_path / "b.html") == first
    assert len(drawn) == count


def test_another_number_is_drawn_anew(run, record, drawn, tmp_path):
    page(run, record, tmp_path / "a.html")
    del drawn[:]
    name = "loss.test"
    measurement = record.measurements[name]
    values = measurement.values.copy()
    values[-1] = np.nextafter(values[-1], np.inf)
    changed = replace(record, measurements={**record.measurements, name: replace(measurement, values=values)})
    page(run, changed, tmp_path / "b.html")
    assert len(drawn) > 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', '{"drawings": {"a": 1}}', "\0\udcff"])
def test_what_is_damaged_is_drawn_anew(record, tmp_path, damage):
    kept = KeptDrawings(tmp_path, record)
    kept.put("loss/f1-1", "<svg/>")
    kept.store()
    assert KeptDrawings(tmp_path, record).get("loss/f1-1") == "<svg/>"
    (tmp_path / "figures.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    again = KeptDrawings(tmp_path, record)
    assert again.get("loss/f1-1") is None
    again.put("loss/f1-1", "<svg/>")
    again.store()
    assert json.loads((tmp_path / "figures.json").read_text())["drawings"] == {"loss/f1-1": "<svg/>"}


def test_a_folder_that_cannot_be_written_costs_only_time(record, tmp_path):
    (tmp_path / "file").write_text("")
    kept = KeptDrawings(tmp_path / "file", record)
    kept.put("a", "<svg/>")
    kept.store()
    assert KeptDrawings(tmp_path / "file", record).get("a") is None
