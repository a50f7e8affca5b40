"""What one step of the report's time bar costs in script.

    python benchmarks/scrub.py PAGE.html [--moves 200] [--width 1440] [--pin STEP]

The page is opened in headless Chromium and its slider is moved from save to save, as a hand would, at every place
where something follows the time: the pictures near the top, then each figure and each row of pictures. The page
times its own update and says so in an event, ``grokscope:step``; laying out and painting by the browser come after it
and are not in the numbers. Printed: median and 95th percentile of all moves, and the places that cost most.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
from pathlib import Path
from typing import Any

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PLACES = """() => [...document.querySelectorAll('#now .views, main figure, section.probe .views')]
    .filter((element) => element.checkVisibility() && element.querySelector('.plot, .cursor, canvas, .stacked'))
    .map((element, at) => { element.dataset.place = at; return element.closest('[id]').id; })"""
SCRUB = """async ([place, moves, offset]) => {
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    document.querySelector(`[data-place="${place}"]`).scrollIntoView({ block: 'center' });
    for (let wait = 0; wait < 12; wait++) await frame();
    const taken = [];
    const note = ({ detail }) => taken.push([detail.milliseconds, detail.panels]);
    document.addEventListener('grokscope:step', note);
    const slider = document.querySelector('.timebar input[type=range]');
    for (let move = 0; move < moves; move++) {
        slider.value = (offset + move * 37) % (Number(slider.max) + 1);
        slider.dispatchEvent(new Event('input'));
        await frame();
    }
    document.removeEventListener('grokscope:step', note);
    return taken;
}"""


def scrub(page: Any, moves: int) -> dict[str, list[tuple[float, int]]]:
    """(milliseconds, drawings redone) of every move, by the id of the place that was on the screen."""
    found: dict[str, list[tuple[float, int]]] = {}
    for place, name in enumerate(page.evaluate(PLACES)):
        taken = page.evaluate(SCRUB, [place, moves, 11 * place])
        found.setdefault(name, []).extend((float(cost), int(panels)) for cost, panels in taken)
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed."""
    return sorted(values)[max(0, round(share * len(values)) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--moves", type=int, default=200, help="moves at each place")
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--pin", type=int, help="a step to compare with, which doubles the pictures")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        page = browser.new_page(viewport={"width": options.width, "height": options.height})
        pin = "" if options.pin is None else f"&pin={options.pin}"
        page.goto(f"{options.page.resolve().as_uri()}#step=0{pin}")
        page.wait_for_selector("html[data-ready]", state="attached")
        saves = page.evaluate("grokscope.time.steps.length")
        found = scrub(page, options.moves)
        version = browser.version
        browser.close()
    every = [cost for taken in found.values() for cost, _ in taken]
    print(
        f"{options.page.name}: {options.page.stat().st_size / 1e6:.2f} MB, {saves} saves, {len(every)} moves"
    )
    print(f"Chromium {version}, {platform.machine()}, window {options.width} x {options.height}")
    print(
        f"script of a step: median {statistics.median(every):.2f} ms, 95th percentile {percentile(every, 0.95):.2f} ms"
    )
    order = sorted(found, key=lambda name: -statistics.median(cost for cost, _ in found[name]))
    for name in order[:6]:
        costs = [cost for cost, _ in found[name]]
        drawn = max(panels for _, panels in found[name])
        print(
            f"  {name:32} median {statistics.median(costs):6.2f} ms, "
            f"95th percentile {percentile(costs, 0.95):6.2f} ms, up to {drawn} drawings"
        )


if __name__ == "__main__":
    main()
