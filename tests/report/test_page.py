"""The page as text: structure, escaping, policy, size."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing
from grokscope.probes import Alert, Claim, FigureSpec, Probe, Quantity, Record, Verdict
from grokscope.report import Facts, render_page

VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements of a page in order, with their attributes and their text; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag
        if tag not in ("a", "b", "code", "small", "span", "cite"):
            self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def page(page_text: str) -> Page:
    return Page(page_text)


def test_the_head_declares_language_encoding_and_policy(page: Page, page_text: str) -> None:
    assert page_text.startswith('<!doctype html>\n<html lang="en">')
    assert page.all("meta")[0] == {"charset": "utf-8"}
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    script = re.search(r"<script>(.*?)</script>", page_text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    expected = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    assert policy == f"{expected}{digest}'"


def test_the_page_says_the_verdict_its_claims_alerts_and_vital_numbers(page: Page, record: Record) -> None:
    assert record.verdict is not None
    assert record.verdict.sentence in page.text
    for claim in record.verdict.claims:
        assert claim.text in page.text
    assert "grokscope probe quickstart-s0 --steps 0:10000:50" in page.text
    for label in ("Fit", "Grok", "Delay", "Mirrored test accuracy", "Unmirrored test accuracy", "Test loss"):
        assert f"{label} " in page.text


def test_a_section_a_probe_in_the_order_they_ran(page: Page) -> None:
    sections = [s["id"] for s in page.all("section") if "id" in s]
    assert sections == ["probe-1-loss", "probe-2-fourier", "recipe", "provenance", "downloads"]
    text = page.text
    for piece in (
        "Which frequencies does it use?", "Mirrored pairs are memory.", "Figure 3. Power by frequency.",
        "the two largest circles have equal variance", "Gini coefficient of the shares of power.",
        "arXiv 2606.13753", "weight_decay = 1.0", "grokscope train quickstart --set task.p=59 --name 'a run'",
        "not recorded", "content checksum sha256 abc", "fourier.axis.order 59",
    ):  # fmt: skip
        assert piece in text
    assert "Figure 4" not in text


def test_ids_are_unique_and_every_reference_inside_the_page_has_its_target(
    page: Page, page_text: str
) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    wanted = {a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")}
    drawn = re.sub(r"<script.*?</script>", "", page_text, flags=re.DOTALL)
    wanted |= set(re.findall(r"url\(#([^)]+)\)", drawn))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            wanted |= set(attributes.get(name, "").split())
    assert len(wanted) > 10
    assert wanted <= set(ids)


def test_nothing_outside_the_page_is_pointed_to(page: Page, page_text: str) -> None:
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                # the one file beside the page is the one that holds its numbers
                allowed = value.startswith(("#", "data:")) or value == "quickstart-s0.json"
                assert allowed, (tag, name, value[:80])
            assert not name.startswith("on")
    # names of XML vocabularies are no addresses that anything fetches
    assert "http:" not in re.sub(r"http://www\.w3\.org/(2000/svg|1998/Math/MathML)", "", page_text)
    assert "https:" not in page_text
    assert page.all("link") == page.all("iframe") == []
    assert page.all("script") == [{"type": "application/json", "id": "live"}, {}]
    assert "@import" not in page_text


def test_figures_and_tables_are_named_for_those_who_do_not_see_them(page: Page) -> None:
    figures = page.all("svg")
    assert len(figures) == 3
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in figures)
    assert len(page.all("figcaption")) == 3
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_two_pages_of_equal_records_are_equal(
    make_record: Callable[..., Record], probes: list[Probe], manifest: dict[str, Any]
) -> None:
    facts = Facts(checksum="abc", data="a.json")
    assert render_page(make_record(), probes, manifest, facts) == render_page(
        make_record(), probes, manifest, facts
    )


def test_a_thousand_saves_of_many_series_stay_under_two_megabytes(
    make_record: Callable[..., Record],
    make_probe: Callable[..., Probe],
    probes: list[Probe],
    manifest: dict[str, Any],
) -> None:
    record = make_record(1000, extra=150, frequencies=56)
    many = make_probe("many", (Quantity("many.<series>", "", "One of many."),))
    text = render_page(record, [*probes, many], manifest, Facts(command="a run"))
    assert len(text.encode()) < 2_000_000
    shown = Page(text).text
    assert "many.149" in shown
    assert "grokscope probe 'a run' --json FILE" in shown


def test_a_bare_record_makes_a_page() -> None:
    shown = Page(render_page(Record("r", np.array([], dtype=np.int64)), [], {})).text
    assert "not applicable" in shown
    assert "no state is claimed" in shown


def test_a_probe_that_measured_nothing_for_one_reason_says_it_in_a_line(
    make_probe: Callable[..., Probe],
) -> None:
    quantities = (Quantity("a.one", "1", "One."), Quantity("a.two", "1", "Two."))
    probe = make_probe("a", quantities, caveat="A caveat.")
    record = Record("r", np.array([0]), probes=["a"])
    record.declare(quantities)
    for quantity in quantities:
        record.skip(quantity.name, "nobody knows the split")
    shown = Page(render_page(record, [probe], {})).text
    assert "Nothing of this was measured: nobody knows the split." in shown
    assert "A caveat." not in shown
    record.skip("a.two", "another reason")
    shown = Page(render_page(record, [probe], {})).text
    assert "Nothing of this was measured" not in shown
    assert "A caveat." in shown


BAD = "<script>alert(1)</script>"
WORSE = "\"'></style></script><svg/onload=alert(2)>{{ 7*7 }}&amp;\ud800\x00"
HOSTILE = BAD + WORSE


def everywhere(value: Any) -> Any:
    """The same structure with the hostile text in the place of every key and every string."""
    if isinstance(value, Mapping):
        return {f"{key}{HOSTILE}": everywhere(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [everywhere(inner) for inner in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.fixture
def hostile_page(make_probe: Callable[..., Probe], manifest: dict[str, Any]) -> str:
    def draw(record: Record, figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(record.steps, np.ones(3), label=HOSTILE, gid=HOSTILE)
        axes.set(title=HOSTILE, xlabel=HOSTILE)
        axes.legend()

    def fail(record: Record, figure: Figure) -> None:
        raise ValueError(HOSTILE)

    quantities = tuple(Quantity(f"{HOSTILE}{i}", HOSTILE, HOSTILE, HOSTILE) for i in range(5))
    probe = make_probe(
        HOSTILE, quantities, (FigureSpec(HOSTILE, HOSTILE, draw), FigureSpec(HOSTILE, HOSTILE, fail)),
        title=HOSTILE, question=HOSTILE, caveat=HOSTILE, module="grokscope_plugin_x",
    )  # fmt: skip
    record = Record(HOSTILE, np.array([0, 1, 2]))
    record.declare(quantities)
    record.add(quantities[0].name, np.ones(3))
    record.add(quantities[1].name, np.ones((3, 2)), ("step", HOSTILE))
    record.add(quantities[2].name, np.ones(2), (HOSTILE,))
    record.add(quantities[3].name, 1.0, ())
    record.coordinate(HOSTILE, [HOSTILE, HOSTILE])
    record.skip(quantities[4].name, HOSTILE)
    record.events[HOSTILE] = Crossing(0, 1, False)
    record.notes[HOSTILE] = {HOSTILE: [HOSTILE]}
    record.alerts.append(Alert(HOSTILE, HOSTILE))
    record.verdict = Verdict(HOSTILE, (HOSTILE,), HOSTILE, (Claim(HOSTILE, 1.0, None, None, None),))
    record.probes = [HOSTILE]
    facts = Facts(HOSTILE, ((HOSTILE, HOSTILE),), HOSTILE, HOSTILE)
    hostile = {
        **everywhere(manifest),
        "config": everywhere(manifest["config"]),
        "kind": HOSTILE,
        "schema": HOSTILE,
    }
    hostile["config"]["model"] = {"family": HOSTILE}
    hostile["provenance"] = everywhere(manifest["provenance"])
    return render_page(record, [probe], hostile, facts)


def test_nothing_that_a_run_says_becomes_markup(hostile_page: str, page: Page, page_text: str) -> None:
    shown = Page(hostile_page)  # tags still balance: no text has opened or closed one
    assert shown.all("script") == [{"type": "application/json", "id": "live"}, {}]
    assert re.findall(r"<script>(.*?)</script>", hostile_page, re.DOTALL) == re.findall(
        r"<script>(.*?)</script>", page_text, re.DOTALL
    )
    ours = {tag for tag, _ in page.elements} | {"p", "style"}
    assert {tag for tag, _ in shown.elements} <= ours
    assert "49" not in shown.text.replace(HOSTILE, "")
    for tag, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert re.fullmatch(r"[A-Za-z0-9._-]*", attributes.get("id", ""))
        assert re.fullmatch(r"[A-Za-z0-9._-]*", attributes.get("download", ""))
    assert hostile_page.count("<style>") == hostile_page.count("</style>") == 1
    assert shown.text.count(BAD) > 40
    hostile_page.encode("utf-8", "replace")


def test_a_hostile_probe_name_keeps_its_place_and_its_failure_is_told(hostile_page: str) -> None:
    shown = Page(hostile_page)
    assert f"This figure could not be drawn: ValueError: {BAD}" in shown.text
    assert len(shown.all("svg")) == 1
