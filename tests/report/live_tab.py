"""Opening a page with a payload made by hand, and asking it things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.scale import SymmetricalLogTransform

from tests.report import live_payload as made
from tests.report.chromium import Chromium, Tab

READY = "document.documentElement.dataset.ready !== undefined"
Open = Callable[..., Tab]


def opener(browser: Chromium, page_text: str, folder: Path) -> Open:
    """What opens the page of the made-up run with a payload; keywords go to ``Chromium.open``."""

    def opened(live: dict[str, Any] | None = None, *, ready: bool = True, **options: Any) -> Tab:
        file = folder / "report.html"
        file.write_text(made.with_live(page_text, made.payload() if live is None else live))
        tab = browser.open(file, **options)
        if ready:
            tab.wait(READY)
        return tab

    return opened


def bent(steps: Sequence[float]) -> np.ndarray:
    """Steps on the logarithmic axis of the printed figures, in decades."""
    return np.asarray(SymmetricalLogTransform(10, 1, 0.4).transform_non_affine(np.array(steps, float)), float)


def frame(tab: Tab) -> None:
    """Wait until what came into sight, or was asked for, is drawn: that takes the browser up to three frames."""
    tab.value(
        """async () => {
          for (let left = 5; left > 0; left--) await new Promise((done) => requestAnimationFrame(done));
        }"""
    )


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


def saved(tab: Tab, figure: str, button: str, folder: Path) -> tuple[str, str]:
    with tab.page.expect_download() as waiting:
        tab.page.locator(f"#figure-{figure}").get_by_role("button", name=button, exact=True).click()
    name = waiting.value.suggested_filename
    waiting.value.save_as(folder / name)
    return name, (folder / name).read_text()
