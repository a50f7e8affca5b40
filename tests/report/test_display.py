"""How a run shows itself in a notebook."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from grokscope.probes.cache import measure_run
from grokscope.runs import open_run


class Balanced(HTMLParser):
    """Fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_run_shows_its_log_before_and_its_verdict_after_it_is_measured(workspace: Path) -> None:
    run = open_run(workspace / "checkpoints" / "little-s3")
    before = run._repr_html_()
    Balanced(before)
    assert "not measured" in before
    assert "grokscope report little-s3" in before
    assert "<svg" in before
    assert not (run.path / "measurements.h5").exists()  # showing measures nothing
    record = measure_run(run)
    after = run._repr_html_()
    Balanced(after)
    assert record.verdict is not None
    assert record.verdict.state in after
    assert record.verdict.sentence.split(":")[0] in after
    assert after == run._repr_html_()


def test_a_name_stays_text_and_nothing_acts(workspace: Path) -> None:
    run = open_run(workspace / "checkpoints" / "little-s3")
    shown = replace(run, name="<img src=x onerror=alert(1)>")._repr_html_()
    assert "<img" not in shown
    assert "<script" not in shown
    assert "<style" not in shown
    assert str(workspace) not in shown
