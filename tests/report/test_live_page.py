"""Charts and views that follow the time, beside the printed figures that stay."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.scale import SymmetricalLogTransform

from tests.report import live_payload as made
from tests.report.chromium import needs_chromium
from tests.report.live_tab import Open, bent, drawn, frame, go_to, saved

pytestmark = needs_chromium


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


def test_value_axes_lie_as_the_printed_ones_do(open_page: Open) -> None:
    tab = open_page()
    values = np.array([-5, -1, -0.3, 0, 0.1, 1, 7, 40])
    place = "([axes, values]) => { const a = grokscope.valueAxis(axes, 6); return values.map((v) => a.place(v)); }"
    axes = {"ylim": [-5, 40], "yscale": "symlog", "ylinthresh": 1, "ylinscale": 0.3}
    printed = np.asarray(SymmetricalLogTransform(10, 1, 0.3).transform_non_affine(values), float)
    printed = (printed - printed[0]) / (printed[-1] - printed[0])
    np.testing.assert_allclose(tab.value(place, [axes, values.tolist()]), printed, rtol=1e-9, atol=1e-12)
    logs = tab.value(place, [{"ylim": [1e-4, 1], "yscale": "log"}, [1e-4, 1e-2, 1]])
    np.testing.assert_allclose(logs, [0, 0.5, 1], atol=1e-12)
    ticks = "([axes, most]) => grokscope.valueAxis(axes, most).ticks.map((tick) => tick.label)"
    assert tab.value(ticks, [axes, 6]) == ["−1", "0", "1", "10"]
    assert tab.value(ticks, [{"ylim": [2e-6, 20], "yscale": "log"}, 4]) == ["10⁻⁵", "10⁻³", "0.1", "10"]
    assert tab.value(ticks, [{"ylim": [-0.03, 1.03], "yscale": "linear"}, 6]) == [
        "0.0", "0.2", "0.4", "0.6", "0.8", "1.0",
    ]  # fmt: skip


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
    place = bent([100, 1]) / bent([1300])
    tab.wait("document.querySelector('#figure-f2-2 .cursor.present').hasAttribute('transform')")
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


def test_singular_values_keep_the_ranks_of_all_of_them(open_page: Open) -> None:
    tab = open_page()
    canvas = tab.page.locator(".view.values canvas").first
    canvas.scroll_into_view_if_needed()
    drawn(tab, "values")
    said = canvas.get_attribute("aria-label") or ""
    # five values are carried, of ranks 1, 3, 5, 8 and 12
    assert re.findall(r"rank (\d+): ", said) == ["1", "5", "12"]


def test_layers_are_chosen_by_name(open_page: Open) -> None:
    tab = open_page()
    select = tab.page.get_by_label("View bars: which")
    assert select.locator("option").all_text_contents() == ["embedding", "unembedding"]
    select.select_option("unembedding")
    frame(tab)
    assert tab.complaints == []


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
