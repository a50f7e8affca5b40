"""The frame of a study's page."""

from __future__ import annotations

import pytest

from grokscope.errors import GrokscopeError
from grokscope.report.figures import Drawing
from grokscope.report.study_frame import StudyRow, study_page

ROWS = (
    StudyRow("exponent of the delay", "1.0", "0.97", "0.91 to 1.03", "agrees", "eight seeds"),
    StudyRow("final norm", "12.1", "14.0", "13.2 to 14.9", "differs"),
    StudyRow("critical width", "64", "–", "–", "cannot tell", "not reached"),
)
FIGURE = Drawing("Delay over decay", "Each point is a run.", '<svg class="figure"><title>x</title></svg>')


def test_published_and_ours_stand_side_by_side_with_their_verdicts() -> None:
    page = study_page(
        "Delay scales", "The delay falls as 1/λ.", ROWS, [FIGURE], [("a-s0", "a-s0.html")], "Width."
    )
    for row in ROWS:
        assert row.quantity in page
        assert f">{row.verdict}</td>" in page
    assert '<td data-label="published">12.1</td><td data-label="ours">14.0</td>' in page
    assert "1 agrees" in page
    assert "1 cannot tell" in page
    assert FIGURE.svg in page
    assert '<a href="a-s0.html">' in page
    assert "Width." in page
    assert page == study_page(
        "Delay scales", "The delay falls as 1/λ.", ROWS, [FIGURE], [("a-s0", "a-s0.html")], "Width."
    )


def test_words_in_place_of_numbers_may_break() -> None:
    row = StudyRow("clock", "logarithmic under a condition of the paper", "4.2", "4 to 5", "agrees")
    page = study_page(
        "A", "B", [row], [], [], "", findings=[("rate", "a power in six of the six runs", "–", "")]
    )
    assert '<td data-label="published" class="t">logarithmic' in page
    assert '<td data-label="ours">4.2</td>' in page
    assert '<td data-label="ours" class="t">a power' in page


def test_a_value_stays_beside_what_it_is_the_value_of() -> None:
    row = StudyRow("rank clock, L = 2", "1", "1", "–", "agrees")
    page = study_page("A", "B", [row], [], [], "", findings=[("fit clock, L = 3", "4", "–", "")])
    for words in ("L\u00a0=\u00a02", "L\u00a0=\u00a03"):
        assert words in page


def test_a_long_list_of_runs_is_folded() -> None:
    few, many = ([(f"a-s{seed}", "") for seed in range(count)] for count in (24, 25))
    assert "<details open>\n<summary>24 runs</summary>" in study_page("A", "B", [], [], few, "")
    assert "<details>\n<summary>25 runs</summary>" in study_page("A", "B", [], [], many, "")


def test_what_is_empty_is_left_away() -> None:
    page = study_page("Nothing", "No result.", [], [], [], "")
    for heading in ("Published and ours", "Figures", "Left out", "Runs</h2>"):
        assert heading not in page


def test_a_figure_that_failed_says_so() -> None:
    page = study_page("A", "B", [], [Drawing("T", "C", "", "ValueError: no data")], [], "")
    assert "This figure could not be drawn: ValueError: no data" in page


def test_text_and_addresses_cannot_act() -> None:
    evil = "<script>alert(1)</script>"
    row = StudyRow(evil, evil, evil, evil, "agrees", evil)
    page = study_page(evil, evil, [row], [Drawing(evil, evil, "")], [(evil, "javascript:alert(1)")], evil)
    assert "<script" not in page
    assert "javascript:" not in page


def test_another_verdict_is_refused() -> None:
    with pytest.raises(GrokscopeError, match="expected agrees, differs, cannot tell"):
        StudyRow("q", "1", "2", "", "maybe")
