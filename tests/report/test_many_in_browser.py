"""The pages over many runs in a real browser: sorting, filtering, accessibility, widths, and scripts off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from grokscope.report.figures import Drawing
from grokscope.report.index import render_index
from grokscope.report.rows import Row
from grokscope.report.study_frame import StudyRow, study_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync",
    "--disable-component-update",
]  # fmt: skip

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason="no chromium or google-chrome on the PATH"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield opened
        opened.close()


def row(number: int, state: str, grok: int | None, **more: Any) -> Row:
    """A row whose event was seen by ``grok``, or not at all."""
    ends = (grok - 5, grok) if grok else (1300, None)
    return Row(
        f"run-s{number}", page=f"run-s{number}.html", task="a + b mod 59", model="mlp", seed=number, state=state,
        sentence=f"Run {number}.", fit=(30, 31), grok=ends, delay=(20.0, 30.0) if grok else (40.0, None), step=1300,
        accuracy=0.9, checksum="0123456789", train=((0, 30), (120, 2)), test=((0, 30), (120, 9)), **more,
    )  # fmt: skip


ROWS = [row(2, "grokked", 900), row(10, "memorised", None), row(1, "grokked", 1200, flags=("unstable",)),
        replace(row(7, "still moving", 100), origin="forked from run-s2 at step 400"), Row("bare")]  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pages") / "index.html"
    path.write_text(render_index(ROWS), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [StudyRow(f"quantity {v}", "1.0", "0.9", "0.8 to 1", v, "a note of some length") for v in
            ("agrees", "differs", "cannot tell")]  # fmt: skip
    figure = Drawing("A figure", "Redrawn.", '<svg class="figure" viewBox="0 0 10 5" role="img" aria-label="a line">'
                     '<path d="M0 0L10 5"/></svg>')  # fmt: skip
    path = tmp_path_factory.mktemp("pages") / "study.html"
    path.write_text(
        study_page("A study", "It agrees.", rows, [figure], [("run-s1", "run-s1.html")], "Width.")
    )
    return path.as_uri()


def names(page: Page) -> list[str]:
    """The runs that are shown, from top to bottom."""
    return [text.split("\n")[0] for text in page.locator("tbody tr:not([hidden]) th").all_inner_texts()]


def opened(browser: Browser, address: str, width: int = 1440, **options: Any) -> tuple[Page, list[str]]:
    """The page and what it complains of and asks for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url != address else None)
    page.goto(address)
    return page, said


def test_columns_sort_both_ways_and_what_has_no_value_stays_last(browser: Browser, index: str) -> None:
    page, said = opened(browser, index)
    assert names(page) == ["bare", "run-s1", "run-s2", "run-s7", "run-s10"]
    head = page.locator("thead th[data-key=grok]")
    head.get_by_role("button").click()
    assert names(page) == ["run-s7", "run-s2", "run-s1", "run-s10", "bare"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert names(page) == ["run-s1", "run-s2", "run-s7", "run-s10", "bare"]
    assert head.get_attribute("aria-sort") == "descending"
    assert page.locator("thead th[data-key=name]").get_attribute("aria-sort") == "none"
    assert page.locator("#order").input_value() == "-grok"
    assert said == []
    page.close()


def test_filters_count_aloud_and_the_address_keeps_the_view(browser: Browser, index: str) -> None:
    page, said = opened(browser, index)
    page.get_by_label("Find").fill("RUN unstable")
    assert names(page) == ["run-s1"]
    assert page.get_by_role("status").inner_text() == "1 of 5 runs"
    page.get_by_label("Find").fill("")
    page.get_by_label("State").select_option("grokked")
    assert names(page) == ["run-s1", "run-s2"]
    page.get_by_label("Sort by").select_option("-name")
    assert names(page) == ["run-s2", "run-s1"]
    address = page.url
    assert address.endswith("#sort=-name&state=grokked")
    page.get_by_label("Find").fill("nothing like it")
    assert names(page) == []
    assert page.get_by_text("No run matches.").is_visible()
    page.close()
    again, said_again = opened(browser, address)
    assert names(again) == ["run-s2", "run-s1"]
    assert said == []
    assert [line for line in said_again if not line.startswith("file:")] == []
    again.close()


def test_an_address_with_nonsense_shows_everything(browser: Browser, index: str) -> None:
    page, _ = opened(browser, f"{index}#sort=none&state=none")
    assert len(names(page)) == 5
    page.close()


def test_without_scripts_it_is_a_plain_table(browser: Browser, index: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(index)
    assert names(page) == [row.name for row in ROWS]
    assert page.locator("#tools").is_hidden()
    assert page.locator("thead button").count() == 0
    context.close()


@pytest.mark.parametrize("kind", ["index", "study"])
@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window_and_axe_finds_nothing(
    browser: Browser, request: pytest.FixtureRequest, kind: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page, said = opened(browser, request.getfixturevalue(kind), width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [(entry["id"], [node["target"] for node in entry["nodes"]]) for entry in found] == []
    assert said == []
    page.close()
