"""The page in a real browser: what it fetches, what it complains of, how it fits, and what arrives."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.probes import Record
from grokscope.report import render_page
from tests.report.chromium import Chromium, needs_chromium

pytestmark = needs_chromium


@pytest.fixture
def page(tmp_path: Path, page_text: str) -> Path:
    file = tmp_path / "report.html"
    file.write_text(page_text)
    return file


def test_a_page_that_fetches_and_errs_is_noticed(browser: Chromium, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><title>bad</title><img src='http://127.0.0.1:9/pixel.png'>"
        "<script>console.error('loud'); setTimeout(() => { throw new Error('thrown') }, 1)</script>"
    )
    tab = browser.open(bad)
    if not any("thrown" in complaint for complaint in tab.complaints):
        tab.page.wait_for_event("pageerror")
    assert tab.requests == ["http://127.0.0.1:9/pixel.png"]
    assert "error: loud" in tab.complaints


def test_a_script_that_the_policy_stops_is_noticed(browser: Chromium, page: Path) -> None:
    text = page.read_text()
    page.write_text(text.replace("</main>", "<script>document.title = 'run'</script></main>"))
    tab = browser.open(page)
    assert tab.value("document.title") != "run"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


def test_commands_get_a_button_that_copies_them(browser: Chromium, page: Path) -> None:
    tab = browser.open(page)
    assert tab.page.locator("code.copy").count() > 0
    assert tab.value(
        "[...document.querySelectorAll('code.copy')].every(c => c.nextElementSibling?.matches('button.copy'))"
    )


def test_printing_opens_what_is_folded_and_folds_it_again(browser: Chromium, page: Path) -> None:
    tab = browser.open(page)
    closed = "document.querySelectorAll('details:not([open])').length"
    before = tab.value(closed)
    assert before > 0
    assert tab.value(f"dispatchEvent(new Event('beforeprint')), {closed}") == 0
    assert tab.value(f"dispatchEvent(new Event('afterprint')), {closed}") == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fetches_nothing_and_raises_no_complaint(browser: Chromium, page: Path, scheme: str) -> None:
    tab = browser.open(page, scheme=scheme)
    assert tab.page.locator("svg.figure").count() == 3
    tab.page.wait_for_timeout(200)  # what a page does after loading
    assert tab.requests == []
    assert tab.complaints == []


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_page_never_scrolls_sideways(browser: Chromium, page: Path, width: int, scripts: bool) -> None:
    tab = browser.open(page, width=width, java_script_enabled=scripts)
    assert tab.value("window.innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width
    drawn = tab.value(
        "[...document.querySelectorAll('svg.figure, svg.plot')].map(f => f.getBoundingClientRect())"
        ".filter(r => r.width).map(r => [r.right, r.height])"
    )
    assert len(drawn) >= 3
    assert max(right for right, _ in drawn) <= width
    assert min(height for _, height in drawn) > 100


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_the_section_of_an_import_fits_and_its_table_stacks_on_a_phone(
    browser: Chromium, tmp_path: Path, record: Record, width: int, scheme: str
) -> None:
    long = "a.very.long.name/" + "x" * 90
    proof = [
        {"quantity": "loss.test", "step": step, "recorded": 1 / 3, "ours": 2 / 3, "difference": 1 / 3,
         "verdict": "one step off", "source": long, "note": f"a note that says why, {long}"}
        for step in range(30)
    ]  # fmt: skip
    card = {
        "title": long,
        "known": [long],
        "ignored": {long: long},
        "hypotheses": [{"about": long, "value": long, "basis": "tested", "evidence": long}],
    }
    audit = [
        {"finding": long, "evidence": long, "severity": "warning", "command": f"grokscope inspect {long}"}
    ]
    manifest = {"kind": "imported", "card": card, "proof": proof, "audit": audit}
    file = tmp_path / "imported.html"
    file.write_text(render_page(record, [], manifest))
    tab = browser.open(file, width=width, scheme=scheme)
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []
    display = tab.value("getComputedStyle(document.querySelector('#origin table.stack tr')).display")
    heads = tab.value("getComputedStyle(document.querySelector('#origin table.stack thead')).display")
    if width == 390:
        assert heads == "none"
        inner = "[...document.querySelectorAll('#origin .scroll')].every(e => e.scrollWidth <= e.clientWidth)"
        assert tab.value(inner)
    else:
        assert (display, heads) == ("table-row", "table-header-group")


def test_figures_take_the_colours_of_the_theme(browser: Chromium, page: Path) -> None:
    ink = "getComputedStyle(document.querySelector('svg.figure text')).fill"
    curve = "getComputedStyle(document.querySelector('svg.figure path[style*=\"stroke:var(--c1\"]')).stroke"
    tab = browser.open(page, scheme="light")
    light = tab.value(ink), tab.value(curve)
    tab.page.emulate_media(color_scheme="dark")
    dark = tab.value(ink), tab.value(curve)
    assert light[0] != dark[0]
    assert light[1] == "rgb(31, 111, 180)" != dark[1]


def test_the_exact_numbers_are_linked_beside_the_page(browser: Chromium, page: Path) -> None:
    tab = browser.open(page)
    links = tab.page.locator("#downloads a").evaluate_all("all => all.map(a => a.href)")
    assert links == [page.with_name("quickstart-s0.json").as_uri()]
