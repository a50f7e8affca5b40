"""What the record says against a function that its answers speak for."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grokscope.foreign import Reading, describe, import_paths, inspect_path
from grokscope.foreign.function.rebuild import Function
from grokscope.foreign.gathering.containers import gather
from grokscope.foreign.understand import Understood, _weighed, understand
from grokscope.report.origin import alerts_of_audit, origin_of
from grokscope.trajectory import read_manifest


@pytest.fixture
def misrecorded(bare_folder: Path) -> Path:
    """The folder with every loss written down as three times and a bit of what it was."""
    table = bare_folder / "metrics.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({name: f"{3 * float(row[name]) + 0.5:.6f}" for name in ("train_loss", "test_loss")})
        row.update({name: f"{0.5 * float(row[name]):.6f}" for name in ("train_acc", "test_acc")})
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return bare_folder


def test_a_record_that_contradicts_a_function_is_a_doubt(misrecorded: Path, tmp_path: Path) -> None:
    printed = inspect_path(misrecorded)
    (run,) = printed["runs"]
    assert not run["recognised"]["proved"]
    assert run["recognised"]["operation"] == "add"
    doubt = run["recognised"]["doubt"]
    assert "recorded numbers conflict with it" in doubt
    lines = describe(printed)
    assert f"doubt    {doubt}" in lines
    assert any(line.startswith("warning  most recorded numbers contradict the rebuild") for line in lines)

    (stored,) = import_paths([misrecorded], tmp_path / "ws").runs
    assert stored.path is not None
    manifest = read_manifest(stored.path)
    assert "no_function" not in manifest
    origin = origin_of(manifest, "little")
    assert origin is not None
    assert any(name == "doubt" and "conflict with it" in text for name, text in origin.facts)
    assert any(one.finding == "most recorded numbers contradict the rebuild" for one in origin.findings)
    assert any("contradict" in alert.text for alert in alerts_of_audit(manifest))


def test_a_record_that_agrees_leaves_no_doubt(bare_folder: Path) -> None:
    (run,) = inspect_path(bare_folder)["runs"]
    assert run["recognised"]["proved"]
    assert "doubt" not in run["recognised"]


@pytest.fixture
def weighed(misrecorded: Path) -> Callable[[float], Understood]:
    """What is made of a contradicted function whose answers are so much evidence."""
    ((source,), _) = gather([misrecorded])
    found = understand(source, Reading(), [], str(misrecorded))
    function = found.function
    assert isinstance(function, Function)
    return lambda nats: _weighed(replace(found, why="", doubt=""), replace(function, nats=nats))


@pytest.mark.parametrize(("nats", "refused"), [(10.0, True), (40.0, True), (90.0, False), (1e4, False)])
def test_weak_answers_do_not_stand_against_the_record(
    weighed: Callable[[float], Understood], nats: float, refused: bool
) -> None:
    found = weighed(nats)
    assert bool(found.why) == refused
    assert bool(found.doubt) != refused
    assert not refused or "the function is not proved" in found.why
