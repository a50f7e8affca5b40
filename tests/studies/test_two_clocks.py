"""A study that is joined from parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grokscope.studies import STUDIES, choose_study, write_result
from grokscope.studies.part import Part
from grokscope.studies.result import Finding, Row
from grokscope.studies.sweep import Bench
from grokscope.studies.two_clocks import PARTS, run_two_clocks


def part(name: str, left_out: str = "") -> Part:
    row = Row(f"clock of {name}", "O(log 1/eps)", "logarithmic", (1.0, 2.0), "agrees")
    return Part((row,), f"{name} has been seen.", (Finding(f"rate of {name}", 1.5),), (), f"{name}.", left_out,
                {name: [1, 2]})  # fmt: skip


def bench_in(place: Path) -> Bench:
    return Bench(place, "small", lambda runs: pytest.fail("nothing is trained here"))


def test_parts_are_joined_in_their_order(tmp_path: Path) -> None:
    result = run_two_clocks(bench_in(tmp_path), (lambda b: part("one", "a"), lambda b: part("two")))
    assert [row.quantity for row in result.rows] == ["clock of one", "clock of two"]
    assert [finding.quantity for finding in result.findings] == ["rate of one", "rate of two"]
    assert result.sentence == "one has been seen. two has been seen."
    assert (result.chosen, result.left_out) == ("one. two.", "a")
    assert result.data == {"one": [1, 2], "two": [1, 2]}
    pages = [write_result(result, tmp_path / name, {}) for name in ("a", "b")]
    assert [path.read_bytes() for path in pages[0]] == [path.read_bytes() for path in pages[1]]
    assert json.loads(pages[0][1].read_text())["study"] == "two-clocks"


def test_parts_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'one'"):
        run_two_clocks(bench_in(tmp_path), (lambda b: part("one"), lambda b: part("one")))


def test_the_study_has_a_name() -> None:
    assert STUDIES["two-clocks"] is choose_study("two-clocks")
    names = [f"{each.__module__}.{each.__qualname__}" for each in PARTS]
    assert names[0] == "grokscope.studies.deep_linear_clocks.deep_linear_part"
    assert len(set(names)) == len(names)
