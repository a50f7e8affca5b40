"""Pictures of a report as a browser shows it: wide and narrow, light and dark.

    python reports/picture.py reports/example.html --step 700

Beside the page it writes ``<name>.png`` (the README's, 1440 px wide), ``<name>-dark.png``, ``<name>-390.png`` and
``<name>-390-dark.png``. It needs Chromium on the PATH and ``pip install playwright``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZES = {"": (1440, 1660), "-390": (390, 1320)}
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


def take(page: Path, step: int | None, folder: Path) -> list[Path]:
    """Write the four pictures of ``page`` into ``folder`` and return their paths."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    made: list[Path] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for ending, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                )
                tab = context.new_page()
                tab.goto(page.resolve().as_uri() + ("" if step is None else f"#step={step}"))
                tab.wait_for_timeout(1500)
                made.append(folder / f"{page.stem}{ending}{'-dark' if scheme == 'dark' else ''}.png")
                tab.screenshot(path=made[-1])
                context.close()
        browser.close()
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--step", type=int, help="where the time cursor stands")
    parser.add_argument("--out", type=Path, help="the folder; default: that of the page")
    args = parser.parse_args()
    for path in take(args.page, args.step, args.out or args.page.parent):
        print(path)


if __name__ == "__main__":
    main()
