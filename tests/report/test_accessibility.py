"""The page as axe finds it: at both widths, in both themes, moving and still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report import live_payload as made
from tests.report.chromium import Chromium, Tab, needs_chromium

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")

pytestmark = needs_chromium


def findings(tab: Tab) -> list[tuple[str, str, list[Any]]]:
    """What axe has against the page: rule, impact, and the elements."""
    found = axe.Axe().run(tab.page).response["violations"]
    return [(v["id"], v["impact"], [node["target"] for node in v["nodes"]][:5]) for v in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_on_the_moving_page(
    browser: Chromium, page_text: str, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(made.with_live(page_text, made.payload()))
    tab = browser.open(file, width=width, scheme=scheme, address="#step=50&pin=20")
    tab.wait("document.documentElement.dataset.ready !== undefined")
    tab.page.locator("#figure-f1-1").get_by_role("button", name="Table").click()
    if width == 390:
        tab.page.get_by_role("button", name="More").click()
    for place in ("#figure-f1-1", "#probe-2-fourier .views", "#now"):
        tab.page.locator(place).scroll_into_view_if_needed()
        tab.page.wait_for_timeout(100)
    assert findings(tab) == []


def test_axe_finds_nothing_on_the_still_page(browser: Chromium, page_text: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page_text.replace('id="live"', 'id="nothing"'))
    assert findings(browser.open(file)) == []


def test_a_finding_would_be_noticed(browser: Chromium, page_text: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page_text.replace("</main>", '<img src="data:,"><button></button></main>'))
    assert {"image-alt", "button-name"} <= {rule for rule, _, _ in findings(browser.open(file))}
