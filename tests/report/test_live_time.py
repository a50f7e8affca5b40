"""The time bar: one time for the whole page, moved by every means there is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.report import live_payload as made
from tests.report.chromium import needs_chromium
from tests.report.live_tab import Open, at_step, bent, drawn, frame, go_to

pytestmark = needs_chromium


def test_the_time_axis_is_that_of_the_printed_figures_or_linear_or_around_events(open_page: Open) -> None:
    tab = open_page()
    places = """(scale) => {
      grokscope.time.scale = scale;
      return grokscope.time.steps.map((step) => grokscope.time.place(step));
    }"""
    steps = np.array(made.STEPS, dtype=float)
    decades = bent(made.STEPS)
    np.testing.assert_allclose(tab.value(places, "log"), decades / decades[-1], rtol=1e-9)
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
    share = float(bent([200])[0] / bent([1300])[0])
    tab.page.mouse.move(spine["x"] + share * spine["width"], y)
    tab.page.mouse.up()
    assert at_step(tab) == 200
    tab.page.mouse.move(spine["x"] + 5, y)
    assert at_step(tab) == 200


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
