"""What the page carries: read as it was written, given out again, and not trusted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from grokscope.probes.views import Frames
from grokscope.report.encoding import decoded as read_back
from grokscope.report.encoding import encoded
from tests.report import live_payload as made
from tests.report.chromium import needs_chromium
from tests.report.live_tab import Open, decoded, drawn, frame, go_to, saved

pytestmark = needs_chromium


def test_arrays_are_read_as_they_were_written(open_page: Open) -> None:
    tab = open_page()
    draw = np.random.default_rng(1)
    whole = draw.integers(0, 256, (5, 3, 4))
    for coding in ("delta", "raw"):
        meta = made.levels(whole, coding=coding, low=-2.0, high=3.0)
        np.testing.assert_allclose(decoded(tab, meta, 4), (-2 + 5 * whole[4] / 255).ravel(), rtol=1e-6)
    ranged = made.levels(whole, low=[0, 1, 2, 3, 4], high=[1, 3, 5, 7, 9])
    np.testing.assert_allclose(decoded(tab, ranged, 3), (3 + 4 * whole[3] / 255).ravel(), rtol=1e-6)
    logs = np.array([[0, 1, 65535], [32768, 0, 5]])
    found = decoded(tab, made.words(logs, low=-3, high=1), 0)
    np.testing.assert_allclose(found, [0, 10 ** (-3 + 4 / 65535), 10], rtol=1e-6)
    numbers = np.array([[1.5, np.nan], [-3e-20, 7e20]], dtype=np.float32)
    both = tab.value(
        """async (meta) => {
          const frames = await grokscope.decode(meta);
          return [0, 1].map((at) => Array.from(frames.values(at), String));
        }""",
        made.floats(numbers),
    )
    assert both[0] == ["1.5", "NaN"]
    np.testing.assert_array_equal(np.array(both[1], dtype=np.float32), numbers[1])
    marks = draw.integers(0, 2, (4, 11)).astype(np.uint8)
    back = tab.value(
        """async (meta) => {
          const frames = await grokscope.decode(meta);
          return [0, 1, 2, 3].map((at) => [...Array(11).keys()].map((place) => frames.bit(at, place)));
        }""",
        made.bits(marks),
    )
    np.testing.assert_array_equal(back, marks)


@pytest.mark.parametrize("coding", ["flips", "xor"])
def test_the_page_reads_what_was_encoded_for_it(open_page: Open, coding: str) -> None:
    tab = open_page()
    draw = np.random.default_rng(5)
    marks = draw.random((300, 77)) < 0.5
    if coding == "flips":
        marks = np.cumsum(draw.random((300, 77)) < 0.02 * draw.random(77) ** 2, axis=0) % 2 == 1
    held = encoded(Frames(marks, "bits"))
    assert held["coding"] == coding
    back = tab.value(
        """async (meta) => {
          const frames = await grokscope.decode(meta);
          const [frame, place] = [[...Array(300).keys()], [...Array(77).keys()]];
          return frame.map((at) => place.map((bit) => frames.bit(at, bit)));
        }""",
        held,
    )
    np.testing.assert_array_equal(back, marks)
    values = draw.random((4, 5))
    values[1], values[2, 3] = np.nan, np.inf
    held = encoded(Frames(values, "byte"))
    for row in range(4):
        found = np.array(
            tab.value(
                "async ([meta, at]) => Array.from((await grokscope.decode(meta)).values(at), String)",
                [held, row],
            ),
            dtype=float,
        )
        np.testing.assert_allclose(found, read_back(held)[row], rtol=1e-5, atol=1e-7)


def test_what_is_undefined_at_a_step_is_hatched_and_said(open_page: Open) -> None:
    live = made.payload()
    gone = {"bars": ["layers", 0, "values"], "plane": ["layers", 0, "points"], "shares": ["values"]}
    for kind, path in gone.items():
        holder: Any = next(view for view in live["views"] if view["kind"] == kind)
        for key in path[:-1]:
            holder = holder[key]
        values = np.random.default_rng(1).random(holder[path[-1]]["shape"])
        values[4] = np.nan
        holder[path[-1]] = encoded(Frames(values, "byte", low=0.0, high=1.0))
    tab = open_page(live, address=f"#step={made.STEPS[4]}")
    for kind in ("bars", "plane"):
        tab.page.locator(f".view.{kind}").scroll_into_view_if_needed()
        drawn(tab, kind)
        label = tab.page.locator(f".view.{kind} canvas").get_attribute("aria-label") or ""
        assert "undefined at this step" in label
        assert tab.value(
            f"""() => {{
              const canvas = document.querySelector('.view.{kind} canvas');
              return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 0);
            }}"""
        )
    tab.page.locator(".view.shares").scroll_into_view_if_needed()
    drawn(tab, "shares")
    assert tab.page.locator(".view.shares .parts b").all_text_contents() == ["undefined at this step"] * 3
    go_to(tab, made.STEPS[5])
    assert "%" in (tab.page.locator(".view.shares .parts b").first.text_content() or "")
    tab.page.locator(".view.bars").scroll_into_view_if_needed()
    frame(tab)
    assert "undefined" not in (tab.page.locator(".view.bars canvas").get_attribute("aria-label") or "")
    assert tab.complaints == []


def test_a_table_shows_two_hundred_rows_at_a_time(open_page: Open) -> None:
    steps = list(range(450))
    live = made.payload(steps=steps, last=449, views=[], events=[])
    live["series"]["values"] = made.floats(np.tile(np.linspace(0.1, 1, 450), (5, 1)))
    tab = open_page(live, address="#step=210")
    figure = tab.page.locator("#figure-f1-1")
    button = figure.get_by_role("button", name="Table")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    rows = figure.locator(".data tbody tr")
    assert rows.count() == 200
    assert rows.first.locator("th").text_content() == "200"
    assert figure.locator(".data tr[aria-current] th").text_content() == "210"
    assert tab.value("document.querySelector('.data .scroll').scrollTop") > 0
    assert figure.locator(".data thead th").all_text_contents() == [
        "step", "loss (nat): train", "loss (nat): test", "accuracy: train", "accuracy: test",
    ]  # fmt: skip
    figure.get_by_role("button", name="Later rows").click()
    assert rows.count() == 50
    assert figure.get_by_role("button", name="Later rows").is_disabled()
    button.click()
    assert rows.count() == 0


def test_csv_and_json_hold_what_the_figure_shows(open_page: Open, tmp_path: Path) -> None:
    tab = open_page()
    name, text = saved(tab, "f1-1", "CSV", tmp_path)
    assert name == "quickstart-s0-f1-1-loss-and-accuracy.csv"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["step"]) for row in rows] == made.STEPS
    read = np.array([row["loss (nat): test"] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(read, made.curves()[1].astype(np.float32))
    name, text = saved(tab, "f2-1", "CSV", tmp_path)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [
        "step",
        "Gini coefficient: thinned",
        "Gini coefficient: slope (since the save before)",
    ]
    assert [row["Gini coefficient: thinned"] for row in rows if row["step"] in ("0", "1", "100")] == [
        "0.1",
        "",
        "0.5",
    ]
    assert rows[0]["Gini coefficient: slope (since the save before)"] == ""
    name, text = saved(tab, "f2-1", "JSON", tmp_path)
    (axes,) = json.loads(text)["axes"]
    assert axes["lines"][0]["y"] == [0.1, 0.5, 0.9]
    assert axes["lines"][1]["y"][0] is None
    assert axes["bands"][0]["label"] == "random weights"
    assert tab.complaints == []


@pytest.mark.parametrize("figure", ["f1-1", "f2-2"])
def test_a_saved_drawing_stands_on_its_own(open_page: Open, tmp_path: Path, figure: str) -> None:
    tab = open_page()
    tab.page.locator(f"#figure-{figure}").scroll_into_view_if_needed()
    frame(tab)
    name, text = saved(tab, figure, "SVG", tmp_path)
    assert name.endswith(".svg")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in text
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 1


def test_a_drawing_without_data_offers_itself_only(open_page: Open) -> None:
    tab = open_page()
    assert tab.page.locator("#figure-f2-2 .tools button").all_text_contents() == ["SVG"]


def test_a_heat_map_has_its_values_as_table_csv_and_json(open_page: Open, tmp_path: Path) -> None:
    live = made.payload()
    values = np.random.default_rng(7).random((3, 2))
    values[1, 0] = np.nan
    steps = [0, 100, 300]
    live["charts"]["f2-2"]["axes"][0]["tables"] = [
        {"title": "share by step", "head": ["step"], "x": steps, "labels": ["1", "2"],
         "values": encoded(Frames(values, "byte"))},
        {"title": "Events", "head": ["name", "after"], "columns": [["fit", "=2"], [30, None]]},
    ]  # fmt: skip
    tab = open_page(live)
    figure = tab.page.locator("#figure-f2-2")
    assert figure.locator(".tools button").all_text_contents() == ["Table", "CSV", "JSON", "SVG"]
    figure.get_by_role("button", name="Table").click()
    figure.locator(".data table").nth(1).wait_for()
    assert figure.locator(".data caption").all_text_contents()[1] == "Events"
    assert "rounded by at most" in (figure.locator(".data caption").first.text_content() or "")
    assert figure.locator(".data tbody th").all_text_contents() == ["0", "100", "300", "fit", "=2"]
    assert figure.locator(".data tbody td").nth(2).text_content() == "–"
    assert figure.locator(".data tbody td").nth(6).text_content() == "30"  # a column of whole numbers
    _, text = saved(tab, "f2-2", "CSV", tmp_path)
    first, second = text.strip().split("\n\n")
    rows = [row.split(",") for row in first.splitlines()]
    assert rows[0] == ["step", "1", "2"]
    assert rows[2][:2] == ["100", ""]
    assert float(rows[3][2]) == pytest.approx(values[2, 1], abs=0.002)
    assert second.splitlines() == ["name,after", "fit,30", "'=2,"]
    _, text = saved(tab, "f2-2", "JSON", tmp_path)
    tables = json.loads(text)["tables"]
    assert tables[1] == {"title": "Events", "head": ["name", "after"], "columns": [["fit", "=2"], [30, None]]}
    assert tables[0]["columns"][1][1] is None
    assert tab.complaints == []


def test_without_scripts_nothing_moves_and_nothing_pretends_to(open_page: Open) -> None:
    tab = open_page(java_script_enabled=False, ready=False)
    assert tab.page.locator(".timebar, .tools, .live, .view").count() == 0
    assert tab.page.locator("svg.figure").count() == 3
    assert tab.page.locator("#now, .views").first.is_hidden()


@pytest.mark.parametrize(
    "before",
    [
        "delete window.DecompressionStream",
        "DecompressionStream = class { constructor() { throw Error('no') } }",
    ],
)
def test_where_arrays_cannot_be_unpacked_the_printed_page_stands(open_page: Open, before: str) -> None:
    tab = open_page(before=before, ready=False)
    said = tab.page.locator("#now [role=status]")
    said.wait_for()
    assert "printed figures stand" in (said.text_content() or "")
    assert tab.page.locator(".timebar").count() == 0
    assert tab.page.locator("svg.figure").first.is_visible()
    assert tab.complaints == []


def test_an_array_that_is_not_what_it_says_spoils_only_its_view(open_page: Open) -> None:
    live = made.payload()
    live["views"][0]["right"]["shape"] = [made.SAVES + 1, made.PRIME**2]
    tab = open_page(live)
    view = tab.page.locator("article", has_text="View answers")
    view.scroll_into_view_if_needed()
    view.locator("text=could not be read").wait_for()
    assert tab.page.locator(".view.bars canvas").is_visible()


def test_markup_in_names_stays_text(open_page: Open, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)></script><b>&amp;"
    live = made.payload()
    live["events"][0]["label"] = live["views"][0]["title"] = live["views"][0]["caption"] = hostile
    axes = live["charts"]["f1-1"]["axes"][0]
    axes["ylabel"] = axes["lines"][0]["label"] = "=cmd()" + hostile
    live["views"][1]["layers"][0]["label"] = hostile
    tab = open_page(live)
    tab.page.locator("#figure-f1-1").scroll_into_view_if_needed()
    tab.page.locator("#figure-f1-1").get_by_role("button", name="Table").click()
    frame(tab)
    assert tab.page.locator("h3", has_text=hostile).count() == 1
    assert tab.value("document.querySelectorAll('main img, .timebar img, main b > b').length") == 0
    _, text = saved(tab, "f1-1", "CSV", tmp_path)
    assert next(csv.reader(io.StringIO(text)))[1].startswith("'=cmd()")
    assert tab.complaints == []
