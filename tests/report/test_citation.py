"""One line that says what a run showed, and the figures that claims point to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grokscope.measures.crossings import Crossing
from grokscope.probes.record import Claim, Quantity, Record, Verdict
from grokscope.probes.verdict import CLAIMS
from grokscope.report.citation import citation
from grokscope.report.evidence import Evidence, evidence_of_claims, shown_quantities
from grokscope.report.figures import Drawing


def test_a_citation_holds_verdict_interval_and_checksum() -> None:
    record = Record("mine", np.array([0, 1]))
    record.verdict = Verdict("grokked", (), "...")
    record.events = {
        "fit": Crossing(30, 31, False),
        "grok": Crossing(890, 895, False),
        "grok_unmirrored": Crossing(895, 900, False),
    }
    record.delay = (28.71, 29.83)
    assert citation(record, "a + b mod 59", "ab" * 32, "1.2") == (
        "mine (a + b mod 59); grokked; fit at steps 30 to 31; unmirrored grok at steps 895 to 900; delay 28.7 to "
        f"29.8× on all test pairs; sha256 {'ab' * 32}. Measured with grokscope 1.2."
    )


def test_what_was_not_seen_is_not_claimed() -> None:
    record = Record("mine", np.array([0, 1]))
    record.verdict = Verdict("memorised", (), "...")
    record.events = {"fit": Crossing(None, 5, False), "grok": Crossing(900, None, True)}
    record.delay = (180.0, None)
    line = citation(record, "", "", "1.2")
    assert line == "mine; memorised; fit by step 5; grok not seen by step 900. Measured with grokscope 1.2."


def test_a_run_that_nobody_judged() -> None:
    assert citation(Record("r", np.array([0])), "", "", "1") == "r; not judged. Measured with grokscope 1."


def chart(*names: str) -> dict[str, object]:
    return {"axes": [{"lines": [{"label": name, "series": name} for name in names]}]}


def test_claims_point_to_the_figure_of_the_accuracy_that_counts() -> None:
    claims = tuple(
        Claim(CLAIMS[name], 1.0, 1.0, None, True)
        for name in ("fitted", "grok_reached", "repeated_loss_spikes")
    )
    record = Record(
        "r", np.array([0]), verdict=Verdict("grokked", (), "", (*claims, Claim("?", 1, 1, None, True)))
    )
    charts = {
        "f1-1": chart("loss.train", "accuracy.train", "accuracy.test"),
        "f1-2": chart("accuracy.test_unmirrored"),
    }
    found = evidence_of_claims(record, charts, {"f1-1": 1, "f1-2": 2})
    assert found == [Evidence(1, "f1-1"), Evidence(2, "f1-2"), Evidence(1, "f1-1"), None]
    without = evidence_of_claims(record, {"f1-1": charts["f1-1"]}, {"f1-1": 1})
    assert without[1] == Evidence(1, "f1-1")  # a task without mirrored pairs
    assert evidence_of_claims(record, {}, {}) == [None] * 4


def test_a_figure_defines_what_it_shows(make_probe: Callable[..., object]) -> None:
    lines, needed, other = (Quantity(f"q.{name}", "1", name) for name in ("<layer>.size", "needed", "other"))
    probe = make_probe("q", (other, needed, lines))
    record = Record("r", np.array([0, 1]))
    record.declare([lines, needed, other])
    for name in ("q.first.size", "q.needed", "q.other"):
        record.add(name, np.zeros(2))
    drawing = Drawing("t", "c", "<svg/>", "", "f1-1", chart("q.first.size"), ("q.needed",))
    assert shown_quantities(drawing, record, probe) == [needed, lines]  # pyright: ignore[reportArgumentType]
