"""The page in a real browser, asked over its debugging pipe what it fetched and what it complained of."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grokscope.probes import Record
from grokscope.report import render_page

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)

# the browser reads its commands on descriptor 3 and answers on 4, whatever numbers the pipes have here
LAUNCHER = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.closerange(5, 256)
os.execvp(sys.argv[3], sys.argv[3:])
"""

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium or google-chrome on the PATH")


class Browser:
    """A headless Chromium and one tab of it. Messages are JSON, ended by a NUL byte, on file descriptors."""

    def __init__(self, folder: Path) -> None:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        profile = f"--user-data-dir={folder / 'profile'}"
        command = [str(EXECUTABLE), *FLAGS, profile, "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._last = 0
        self._session: str | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        left = b""
        while True:
            try:
                data = os.read(self._from, 1 << 16)
            except OSError:
                return
            if not data:
                return
            *messages, left = (left + data).split(b"\0")
            with self._changed:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self._changed.notify_all()

    def call(self, method: str, *, browser: bool = False, **params: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session and not browser:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        with self._changed:
            assert self._changed.wait_for(lambda: message["id"] in self._answers, timeout=30), (
                f"{method}: no answer"
            )
        answer = self._answers.pop(message["id"])
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def wait(self, method: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(e["method"] == method for e in self.events), timeout=30)

    def open(self, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Load a file in a new tab, everything it says being listened to from the start."""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "DOM"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait("Page.loadEventFired")
        time.sleep(0.2)  # what a page does after loading

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def requested(self) -> list[str]:
        """Addresses requested, but for the page's own file and for data held in it."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        addresses = [p["request"]["url"] for p in sent if p["type"] != "Document"]
        return [address for address in addresses if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """Errors, warnings, policy violations, uncaught exceptions, and dialogs."""
        found: list[str] = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(f"console.{params['type']}")
            elif event["method"] in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                found.append(event["method"])
        return found

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close", browser=True)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
        os.close(self._to)
        self._listener.join(timeout=10)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def page(tmp_path: Path, page_text: str) -> Path:
    file = tmp_path / "report.html"
    file.write_text(page_text)
    return file


def test_a_page_that_fetches_and_errs_is_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><title>bad</title><img src='http://127.0.0.1:9/pixel.png'>"
        "<script>console.error('loud'); setTimeout(() => { throw new Error('thrown') }, 1)</script>"
    )
    browser.open(bad)
    assert browser.requested() == ["http://127.0.0.1:9/pixel.png"]
    complaints = browser.complaints()
    assert "console.error" in complaints
    assert "Runtime.exceptionThrown" in complaints


def test_a_script_that_the_policy_stops_is_noticed(browser: Browser, page: Path) -> None:
    text = page.read_text()
    page.write_text(text.replace("</main>", "<script>document.title = 'run'</script></main>"))
    browser.open(page)
    assert browser.value("document.title") != "run"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_commands_get_a_button_that_copies_them(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.value("document.querySelectorAll('code.copy').length") > 0
    assert browser.value(
        "[...document.querySelectorAll('code.copy')].every(c => c.nextElementSibling?.matches('button.copy'))"
    )


def test_printing_opens_what_is_folded_and_folds_it_again(browser: Browser, page: Path) -> None:
    browser.open(page)
    closed = "document.querySelectorAll('details:not([open])').length"
    before = browser.value(closed)
    assert before > 0
    assert browser.value(f"dispatchEvent(new Event('beforeprint')), {closed}") == 0
    assert browser.value(f"dispatchEvent(new Event('afterprint')), {closed}") == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fetches_nothing_and_raises_no_complaint(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    assert browser.value("document.querySelectorAll('svg.figure').length") == 3
    assert browser.requested() == []
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_page_never_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    assert browser.value("window.innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    figures = "[...document.querySelectorAll('svg.figure')]"
    assert browser.value(f"Math.max(...{figures}.map(f => f.getBoundingClientRect().right))") <= width
    assert browser.value(f"Math.min(...{figures}.map(f => f.getBoundingClientRect().height))") > 100


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_the_section_of_an_import_fits_and_its_table_stacks_on_a_phone(
    browser: Browser, tmp_path: Path, record: Record, width: int, scheme: str
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
    browser.open(file, width=width, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    display = browser.value("getComputedStyle(document.querySelector('#origin table.stack tr')).display")
    heads = browser.value("getComputedStyle(document.querySelector('#origin table.stack thead')).display")
    if width == 390:
        assert heads == "none"
        inner = "[...document.querySelectorAll('#origin .scroll')].every(e => e.scrollWidth <= e.clientWidth)"
        assert browser.value(inner)
    else:
        assert (display, heads) == ("table-row", "table-header-group")


def test_figures_take_the_colours_of_the_theme(browser: Browser, page: Path) -> None:
    ink = "getComputedStyle(document.querySelector('svg.figure text')).fill"
    curve = "getComputedStyle(document.querySelector('svg.figure path[style*=\"stroke: var(--c1\"]')).stroke"
    browser.open(page, scheme="light")
    light = browser.value(ink), browser.value(curve)
    browser.open(page, scheme="dark")
    dark = browser.value(ink), browser.value(curve)
    assert light[0] != dark[0]
    assert light[1] == "rgb(31, 111, 180)" != dark[1]


def test_every_download_arrives(browser: Browser, page: Path, tmp_path: Path, record: Record) -> None:
    browser.open(page)
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.call("Browser.setDownloadBehavior", browser=True, behavior="allow", downloadPath=str(folder))
    links = "document.querySelectorAll('a[download]')"
    names = browser.value(f"[...{links}].map(a => a.download)")
    assert "quickstart-s0.json" in names
    for position, name in enumerate(names):
        browser.value(f"{links}[{position}].click()")
        deadline = time.monotonic() + 20
        while not (folder / name).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (folder / name).stat().st_size > 0
    assert json.loads((folder / "quickstart-s0.json").read_text()) == record.to_json()
    assert browser.complaints() == []
