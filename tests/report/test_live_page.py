"""The page as an instrument: one time for everything on it, moved by every means there is."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.scale import SymmetricalLogTransform

from tests.report import live_payload as made
from tests.report.chromium import Chromium, Tab, needs_chromium, running

pytestmark = needs_chromium

READY = "document.documentElement.dataset.ready !== undefined"
Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with running() as started:
        yield started


@pytest.fixture
def open_page(browser: Chromium, page_text: str, tmp_path: Path) -> Open:
    """Open the page of the made-up run with a payload made by hand; keywords go to ``Chromium.open``."""

    def opened(live: dict[str, Any] | None = None, *, ready: bool = True, **options: Any) -> Tab:
        file = tmp_path / "report.html"
        file.write_text(made.with_live(page_text, made.payload() if live is None else live))
        tab = browser.open(file, **options)
        if ready:
            tab.wait(READY)
        return tab

    return opened


def frame(tab: Tab) -> None:
    """Wait for what was asked to be drawn."""
    tab.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drawn(tab: Tab, kind: str) -> None:
    """Wait until the view of this kind has read its arrays and shows a step."""
    tab.wait(f"document.querySelector('.view.{kind} .stand').textContent !== ''")


def at_step(tab: Tab) -> int:
    return tab.value("grokscope.time.step")


def go_to(tab: Tab, step: int) -> None:
    tab.page.get_by_label("Step", exact=True).fill(str(step))
    tab.page.keyboard.press("Enter")
    frame(tab)


def decoded(tab: Tab, meta: dict[str, Any], index: int) -> list[float]:
    return tab.value(
        "async ([meta, at]) => Array.from((await grokscope.decode(meta)).values(at))", [meta, index]
    )


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


def test_keyframes_snap_to_the_nearest_and_say_which(open_page: Open) -> None:
    tab = open_page(address="#step=50")
    meta = made.levels(np.zeros((3, 1)), frames=[0, 8, 18])
    rows = tab.value("async (meta) => { const f = await grokscope.decode(meta);"
                     " return [0, 4, 5, 13, 14, 21].map((row) => f.standsAt(row)); }", meta)  # fmt: skip
    assert rows == [0, 0, 8, 8, 18, 18]
    stand = tab.page.locator(".view.matrix .stand")
    stand.scroll_into_view_if_needed()
    drawn(tab, "matrix")
    assert stand.text_content() == "step 50"
    go_to(tab, 100)
    assert stand.text_content() == "step 50 (nearest kept to 100)"


def test_the_time_axis_is_that_of_the_printed_figures_or_linear_or_around_events(open_page: Open) -> None:
    tab = open_page()
    places = """(scale) => {
      grokscope.time.scale = scale;
      return grokscope.time.steps.map((step) => grokscope.time.place(step));
    }"""
    steps = np.array(made.STEPS, dtype=float)
    bent = SymmetricalLogTransform(10, 1, 0.4).transform_non_affine(steps)
    np.testing.assert_allclose(tab.value(places, "log"), bent / bent[-1], rtol=1e-9)
    np.testing.assert_allclose(tab.value(places, "linear"), steps / 1300, rtol=1e-12)
    aligned = np.interp(steps, [0, 31, 895, 1300], [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(tab.value(places, "events"), aligned, rtol=1e-9)
    offered = tab.page.get_by_label("Time axis").locator("option").all_text_contents()
    assert offered == ["logarithmic", "linear", "around events"]


def test_without_events_there_is_nothing_to_align_to(open_page: Open) -> None:
    tab = open_page(made.payload(events=[]))
    assert tab.page.get_by_label("Time axis").locator("option").all_text_contents() == [
        "logarithmic",
        "linear",
    ]


def test_another_time_scale_redraws_the_charts(open_page: Open) -> None:
    tab = open_page()
    tab.page.locator(".plot").first.scroll_into_view_if_needed()
    curve = tab.page.locator(".plot .curves path").first
    curve.scroll_into_view_if_needed()
    frame(tab)
    before = curve.get_attribute("d")
    tab.page.get_by_label("Time axis").select_option("linear")
    frame(tab)
    after = curve.get_attribute("d")
    assert before
    assert after
    assert before != after
    assert after.count("L") == made.SAVES - 1


def test_the_address_says_where_to_stand_and_is_kept(open_page: Open) -> None:
    tab = open_page(address="#step=893&pin=21")
    assert at_step(tab) == 895
    assert tab.value("grokscope.time.steps[grokscope.time.pinned]") == 20
    tab.value("location.hash = '#step=51'")
    tab.wait("grokscope.time.step === 50 && grokscope.time.pinned === null")
    go_to(tab, 700)
    tab.wait("location.hash === '#step=700'")
    tab.page.get_by_role("button", name="Pin this step").click()
    go_to(tab, 1000)
    tab.wait("location.hash === '#step=1000&pin=700'")


def test_an_address_that_is_no_number_is_left_alone(open_page: Open) -> None:
    tab = open_page(address="#step=%3Cb%3E&pin=-4")
    assert at_step(tab) == 1300
    assert tab.complaints == []


def test_the_slider_moves_the_time_by_keys(open_page: Open) -> None:
    tab = open_page(address="#step=100")
    slider = tab.page.get_by_role("slider")
    slider.focus()
    for key, step in (("ArrowRight", 200), ("ArrowLeft", 100), ("ArrowLeft", 50), ("Home", 0), ("End", 1300)):
        tab.page.keyboard.press(key)
        assert at_step(tab) == step, key
    tab.page.keyboard.press("PageDown")
    assert at_step(tab) < 1300
    assert (
        slider.get_attribute("aria-valuetext")
        == f"step {tab.page.get_by_label('Step', exact=True).input_value()} of 1300, after fit, after grok"
    )
    go_to(tab, 31)
    assert slider.get_attribute("aria-valuetext") == "step 31 of 1300, after fit, before grok"


def test_the_number_box_snaps_to_the_nearest_save(open_page: Open) -> None:
    tab = open_page()
    box = tab.page.get_by_label("Step", exact=True)
    go_to(tab, 640)
    assert (at_step(tab), box.input_value()) == (600, "600")
    go_to(tab, 99999)
    assert (at_step(tab), box.input_value()) == (1300, "1300")


def test_space_plays_from_save_to_save_and_stops_at_the_end(open_page: Open) -> None:
    tab = open_page(clock=True, ready=False)
    tab.page.wait_for_selector(".timebar")
    tab.page.clock.pause_at(3_600_000)
    tab.page.get_by_role("slider").focus()
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press(" ")
    assert tab.page.get_by_role("button", name="Pause").count() == 1
    tab.page.clock.run_for(600)
    assert 0 < tab.value("grokscope.time.row") < made.SAVES - 1
    tab.page.clock.run_for(60_000)
    assert at_step(tab) == 1300
    assert tab.page.get_by_role("button", name="Play").count() == 1


def test_with_reduced_motion_play_goes_on_slowly(open_page: Open) -> None:
    tab = open_page(clock=True, ready=False, reduced_motion="reduce", address="#step=0")
    tab.page.wait_for_selector(".timebar")
    tab.page.clock.pause_at(3_600_000)
    tab.page.get_by_role("button", name="Play").click()
    tab.page.clock.run_for(900)
    assert tab.value("grokscope.time.row") == 0
    tab.page.clock.run_for(200)
    assert tab.value("grokscope.time.row") == 1


def test_where_the_time_came_to_rest_is_said_once(open_page: Open) -> None:
    tab = open_page(clock=True, ready=False)
    tab.page.wait_for_selector(".timebar")
    tab.page.clock.pause_at(3_600_000)
    said = tab.page.locator(".timebar [aria-live]")
    tab.page.clock.run_for(700)
    first = said.text_content()
    tab.page.get_by_role("slider").focus()
    for _ in range(3):
        tab.page.keyboard.press("ArrowLeft")
    assert said.text_content() == first
    tab.page.clock.run_for(700)
    assert said.text_content() == "step 895 of 1300, after fit, after grok"


def test_values_at_the_cursor_stand_in_the_legend(open_page: Open) -> None:
    tab = open_page(address="#step=50")
    legend = tab.page.locator("figure#figure-f1-1 .entries").first
    legend.scroll_into_view_if_needed()
    frame(tab)
    train, test = made.curves()[:2, made.STEPS.index(50)]
    assert legend.locator(".value:not(.pinned)").all_text_contents() == [f"{train:.3f}", f"{test:.2f}"]
    tab.page.get_by_role("button", name="Pin this step").click()
    go_to(tab, 1300)
    assert legend.locator(".value.pinned").all_text_contents() == [f"{train:.3f}", f"{test:.2f}"]


def test_bands_levels_and_lines_of_their_own_are_drawn(open_page: Open) -> None:
    tab = open_page()
    plot = tab.page.locator("figure#figure-f2-1 svg.plot")
    plot.scroll_into_view_if_needed()
    frame(tab)
    assert set(plot.locator(".band-name").all_text_contents()) == {"random weights", "half"}
    assert plot.locator(".event-name").all_text_contents() == ["fit", "grok"]
    own, slope = plot.locator(".curves path").all()
    assert (own.get_attribute("d") or "").count("L") == 2
    # a slope belongs to the stretch before a save: the first save has none
    assert (slope.get_attribute("d") or "").count("L") == made.SAVES - 2


def test_live_charts_take_the_place_of_printed_ones_but_on_paper(open_page: Open) -> None:
    tab = open_page()
    shown = (
        "key => ['svg.figure', '.live'].map(s => document.querySelector(`#figure-${key} ${s}`))"
        ".map(e => e !== null && e.checkVisibility())"
    )
    assert tab.value(shown, "f1-1") == [False, True]
    assert tab.value(shown, "f2-2") == [True, False]
    tab.page.emulate_media(media="print")
    assert tab.value(shown, "f1-1") == [True, False]
    assert tab.value("document.querySelector('.timebar').checkVisibility()") is False


def test_a_heat_map_gets_the_cursor_where_the_step_is(open_page: Open) -> None:
    tab = open_page(address="#step=100&pin=1")
    tab.page.locator("figure#figure-f2-2 svg.figure").scroll_into_view_if_needed()
    frame(tab)
    bend = SymmetricalLogTransform(10, 1, 0.4).transform_non_affine
    place = bend(np.array([100.0, 1.0])) / bend(np.array([1300.0]))
    moves = "kind => document.querySelector(`#figure-f2-2 .cursor.${kind}`).getAttribute('transform')"
    for kind, share in zip(("present", "pinned"), place, strict=True):
        found = float(tab.value(moves, kind).removeprefix("translate(").split()[0])
        assert found == pytest.approx(60 + 240 * share, abs=0.06)


def test_of_a_mixed_figure_the_rest_stands_beside_what_is_drawn_anew(open_page: Open, tmp_path: Path) -> None:
    live = made.payload()
    live["charts"]["f1-1"]["axes"][0].update(live=False, lines=[])
    tab = open_page(live, address="#step=100")
    figure = tab.page.locator("#figure-f1-1")
    figure.scroll_into_view_if_needed()
    frame(tab)
    assert figure.locator(".live > *").evaluate_all("all => all.map(e => e.tagName)") == ["svg", "DIV"]
    part = figure.locator("svg.part")
    assert part.get_attribute("aria-label") == "Loss and accuracy"
    left, _, width, _ = (float(side) for side in (part.get_attribute("viewBox") or "").split())
    assert left < 60
    assert 250 < width < 400, "the half of the sheet that is not drawn anew"
    assert part.locator(".cursor.present").get_attribute("visibility") == "visible"
    assert figure.locator(".axes .of").all_text_contents() == ["accuracy"]
    _, text = saved(tab, "f1-1", "SVG", tmp_path)
    assert "accuracy" in text
    assert "nat" in text


def test_a_figure_whose_parts_cannot_be_told_apart_stays_as_printed(open_page: Open) -> None:
    live = made.payload()
    live["charts"]["f1-1"]["axes"][1]["rect"] = [-900, 0, -800, 10]
    tab = open_page(live)
    figure = tab.page.locator("#figure-f1-1")
    assert figure.locator(".live").count() == 0
    assert figure.locator("svg.figure").is_visible()


def test_a_pointer_on_a_chart_moves_the_time(open_page: Open) -> None:
    tab = open_page(address="#step=0")
    plot = tab.page.locator("figure#figure-f1-1 svg.plot").first
    plot.scroll_into_view_if_needed()
    frame(tab)
    box = plot.bounding_box()
    spine = plot.locator(".spine").bounding_box()
    assert box
    assert spine
    y = box["y"] + box["height"] / 2
    tab.page.mouse.move(spine["x"] + 1, y)
    tab.page.mouse.down()
    bend = SymmetricalLogTransform(10, 1, 0.4).transform_non_affine
    share = float(bend(np.array([200.0]))[0] / bend(np.array([1300.0]))[0])
    tab.page.mouse.move(spine["x"] + share * spine["width"], y)
    tab.page.mouse.up()
    assert at_step(tab) == 200
    tab.page.mouse.move(spine["x"] + 5, y)
    assert at_step(tab) == 200


def test_a_pair_is_read_out_by_pointer_and_keys(open_page: Open) -> None:
    tab = open_page()
    canvas = tab.page.locator(".view.answers canvas")
    canvas.scroll_into_view_if_needed()
    drawn(tab, "answers")
    readout = tab.page.locator(".view.answers .readout")
    box = canvas.bounding_box()
    assert box
    cell = box["width"] / made.PRIME
    tab.page.mouse.move(box["x"] + 5.5 * cell, box["y"] + 3.5 * cell)
    assert readout.text_content() == "a=3, b=5: test, wrong; mirrored pair (5, 3) in training"
    canvas.focus()
    tab.page.keyboard.press("ArrowUp")
    assert readout.text_content() == "a=2, b=5: test, right; mirrored pair (5, 2) in training"
    for _ in range(5):
        tab.page.keyboard.press("ArrowDown")
    assert readout.text_content() == "a=6, b=5: training, right"
    go_to(tab, 0)
    assert readout.text_content() == "a=6, b=5: training, wrong"
    assert "0.0 % of the 7 by 7 pairs right" in (canvas.get_attribute("aria-label") or "")


def test_the_answer_grid_has_four_looks(open_page: Open) -> None:
    tab = open_page(address="#step=50")
    tab.page.locator(".view.answers canvas").scroll_into_view_if_needed()
    drawn(tab, "answers")
    looks = tab.value(
        """() => {
          const canvas = document.querySelector('.view.answers canvas');
          const cell = canvas.width / 7, context = canvas.getContext('2d');
          const at = (a, b) => [0.5, 0.06].map((part) =>
            [...context.getImageData((b + part) * cell, (a + part) * cell, 1, 1).data].slice(0, 3).join());
          return { trained: at(4, 1), tested: at(1, 4) };
        }"""
    )
    middle, edge = looks["trained"]
    assert middle != edge, "a training pair is marked inside its cell"
    assert len(set(looks["tested"])) == 1
    assert looks["tested"][0] != edge, "right and wrong differ"


def test_pinning_puts_views_side_by_side_or_over_each_other(open_page: Open) -> None:
    tab = open_page(address="#step=50")
    tab.page.get_by_role("button", name="Pin this step").click()
    go_to(tab, 1300)
    answers = tab.page.locator(".view.answers .stand")
    answers.first.scroll_into_view_if_needed()
    drawn(tab, "answers")
    drawn(tab, "bars")
    assert answers.all_text_contents() == ["A: step 50", "step 1300"]
    assert tab.page.locator(".view.bars .stand").all_text_contents() == ["step 1300 · hollow: A, step 50"]
    tab.page.get_by_role("button", name="Unpin").click()
    frame(tab)
    assert answers.all_text_contents() == ["step 1300"]


def test_every_kind_of_view_draws_something(open_page: Open) -> None:
    tab = open_page()
    for kind in ("answers", "bars", "plane", "values", "matrix", "neurons", "phases"):
        canvas = tab.page.locator(f".view.{kind} canvas")
        canvas.scroll_into_view_if_needed()
        drawn(tab, kind)
        inked = tab.value(
            """kind => { const canvas = document.querySelector(`.view.${kind} canvas`);
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(data.buffer)).size; }""",
            kind,
        )
        assert inked >= 3, kind
        assert ": " in (canvas.get_attribute("aria-label") or ""), kind
    tab.page.locator(".view.shares").scroll_into_view_if_needed()
    drawn(tab, "shares")
    assert tab.page.locator(".view.shares .parts b").all_text_contents() == ["20.0 %", "40.0 %", "40.0 %"]
    assert "does not know how to show" in (
        tab.page.locator("article", has_text="View tea leaves").text_content() or ""
    )
    assert tab.complaints == []
    assert tab.requests == []


def test_views_stand_at_the_top_or_in_their_section(open_page: Open) -> None:
    tab = open_page()
    titles = "where => [...document.querySelectorAll(`${where} article h3`)].map(h => h.textContent)"
    assert tab.value(titles, "#now") == ["View answers", "View plane", "View bars"]
    assert tab.value(titles, "#probe-2-fourier") == ["View values", "View neurons", "View phases"]
    assert tab.value(titles, "#probe-1-loss") == ["View matrix", "View shares", "View tea leaves"]


def test_layers_are_chosen_by_name(open_page: Open) -> None:
    tab = open_page()
    select = tab.page.get_by_label("View bars: which")
    assert select.locator("option").all_text_contents() == ["embedding", "unembedding"]
    select.select_option("unembedding")
    frame(tab)
    assert tab.complaints == []


def test_only_what_is_on_the_screen_follows(open_page: Open) -> None:
    tab = open_page(height=500)
    count = """step => new Promise(done => {
      document.addEventListener('grokscope:step', e => done(e.detail), { once: true });
      grokscope.time.set(grokscope.time.rowOf(step));
    })"""
    tab.wait("document.documentElement.dataset.read !== undefined")
    top = tab.value(count, 50)
    assert (top["step"], top["row"]) == (50, made.STEPS.index(50))
    tab.page.locator("#provenance").scroll_into_view_if_needed()
    frame(tab)
    assert tab.value(count, 100)["panels"] < tab.page.locator(".axes, .view canvas").count() / 2


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
    assert figure.locator(".data thead th").all_text_contents() == [
        "step", "loss (nat): train", "loss (nat): test", "accuracy: train", "accuracy: test",
    ]  # fmt: skip
    figure.get_by_role("button", name="Later rows").click()
    assert rows.count() == 50
    assert figure.get_by_role("button", name="Later rows").is_disabled()
    button.click()
    assert rows.count() == 0


def saved(tab: Tab, figure: str, button: str, folder: Path) -> tuple[str, str]:
    with tab.page.expect_download() as waiting:
        tab.page.locator(f"#figure-{figure}").get_by_role("button", name=button, exact=True).click()
    name = waiting.value.suggested_filename
    waiting.value.save_as(folder / name)
    return name, (folder / name).read_text()


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


def test_a_heat_map_offers_its_drawing_only(open_page: Open) -> None:
    tab = open_page()
    assert tab.page.locator("#figure-f2-2 .tools button").all_text_contents() == ["SVG"]


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


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_what_has_the_focus_is_never_under_the_time_bar(open_page: Open, width: int, height: int) -> None:
    tab = open_page(width=width, height=height)
    hidden = tab.value(
        """async () => {
          const bar = document.querySelector('.timebar'), covered = [];
          const all = [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')];
          for (const element of all) {
            if (bar.contains(element) || !element.checkVisibility()) continue;
            element.focus();
            await new Promise((done) => requestAnimationFrame(done));
            const [mine, edge] = [element.getBoundingClientRect(), bar.getBoundingClientRect().top];
            if (mine.height < edge && mine.bottom > edge + 1) covered.push(element.outerHTML.slice(0, 80));
          }
          return [all.length, covered];
        }"""
    )
    assert hidden[0] > 20
    assert hidden[1] == []


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_moving_page_never_scrolls_sideways(open_page: Open, width: int) -> None:
    tab = open_page(width=width, address="#step=50&pin=2")
    for place in ("#now", "#figure-f1-1", "#probe-2-fourier .views", "#provenance"):
        tab.page.locator(place).scroll_into_view_if_needed()
        frame(tab)
        assert tab.value("document.documentElement.scrollWidth") <= width


def test_what_was_never_seen_is_printed(open_page: Open) -> None:
    tab = open_page()
    tab.wait("document.documentElement.dataset.read !== undefined")
    tab.value("dispatchEvent(new Event('beforeprint'))")
    assert tab.value(
        "[...document.querySelectorAll('.view .stand')].every(e => e.textContent.startsWith('step '))"
    )
    assert tab.value("grokscope.colour('--ink')") == "#1b2430"


def test_a_phone_folds_the_bar(open_page: Open) -> None:
    tab = open_page(width=390, height=844)
    pin = tab.page.get_by_role("button", name="Pin this step")
    more = tab.page.get_by_role("button", name="More")
    assert pin.is_hidden()
    assert more.get_attribute("aria-expanded") == "false"
    more.click()
    assert pin.is_visible()
    bar = tab.page.locator(".timebar").bounding_box()
    assert bar
    assert bar["height"] < 844 / 4
