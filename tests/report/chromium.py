"""A headless Chromium for the tests of the page, and what a page in it fetched and complained of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium or google-chrome on the PATH")


@dataclass
class Tab:
    """One page in a context of its own, listened to from the start."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def value(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(expression, argument)

    def wait(self, expression: str) -> None:
        """Until ``expression`` holds; Playwright's own way to wait is stopped by the page's policy."""
        for _ in range(1000):
            if self.value(expression):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"did not come true: {expression}")


@dataclass
class Chromium:
    """A running browser that opens files."""

    browser: Any
    contexts: list[Any] = field(default_factory=list)

    def open(
        self,
        file: Path,
        *,
        address: str = "",
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        before: str = "",
        clock: bool = False,
        **options: Any,
    ) -> Tab:
        """Load a file in a new context; ``before`` is a script that runs ahead of the page's own."""
        for old in self.contexts:
            old.close()
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        self.contexts[:] = [context]
        context.set_default_timeout(20_000)
        tab = Tab(context.new_page())
        if before:
            tab.page.add_init_script(before)
        if clock:
            tab.page.clock.install(time=0)
        tab.page.on("request", lambda request: _note_request(tab, request))
        tab.page.on("console", lambda said: _note_console(tab, said))
        tab.page.on("pageerror", lambda error: tab.complaints.append(f"thrown: {error}"))
        tab.page.on("dialog", lambda dialog: (tab.complaints.append("dialog"), dialog.dismiss()))
        tab.page.goto(file.as_uri() + address)
        return tab


def _note_request(tab: Tab, request: Any) -> None:
    if request.resource_type != "document" and not request.url.startswith("data:"):
        tab.requests.append(request.url)


def _note_console(tab: Tab, said: Any) -> None:
    tab.complaints.append(f"{said.type}: {said.text}")


@contextmanager
def running() -> Iterator[Chromium]:
    """The browser, closed afterwards with everything it opened."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=EXECUTABLE, args=list(FLAGS))
        chromium = Chromium(browser)
        yield chromium
        browser.close()
