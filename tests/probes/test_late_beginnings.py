"""Runs that begin in the middle of another: nothing that happened before their first save is dated in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope import open_run, probe
from grokscope.probes import Record
from grokscope.training import read_recipe, train
from grokscope.training.fork import fork_run
from grokscope.training.parent import open_parent
from grokscope.training.replay import read_stretch, replay_run

LATE = 200


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that fits near step 40, and is far from generalising when the others begin."""
    directory = tmp_path_factory.mktemp("late") / "parent"
    recipe = read_recipe(
        "quickstart",
        [
            "task.p=23",
            "train.steps=300",
            "model.hidden=[96]",
            "save.snapshots=50",
            "save.evaluate=['0:end:2']",
        ],
    )
    train(recipe, directory, device="cpu")
    return directory


def measured(directory: Path) -> Record:
    return probe(open_run(directory), only=["loss", "norms", "spectra", "fourier", "clocks"])


def assert_left_open(record: Record) -> None:
    fit = record.events["fit"]
    assert fit.after is None
    assert fit.by == LATE
    assert not [name for name in record.events if name.startswith("onset")], record.events
    assert f"begins at step {LATE}" in str(record.notes["clocks.no_structural_events"])


def test_the_parent_dates_its_fit(parent):
    record = measured(parent)
    fit = record.events["fit"]
    assert fit.after is not None
    assert fit.by is not None
    assert 0 < fit.by < LATE
    assert record.verdict is not None
    assert not record.verdict.sentence.startswith(("A fork", "Steps"))
    assert open_run(parent).origin is None


def test_a_fork_says_whose_it_is_and_dates_nothing_before_itself(parent):
    place = parent.with_name("fork")
    fork_run(open_parent(parent, "forking"), LATE, place, ["train.weight_decay=0.5"])
    record = measured(place)
    assert_left_open(record)
    assert record.verdict is not None
    assert record.verdict.sentence.startswith(
        "A fork of parent at step 200, with train.weight_decay changed."
    )
    assert open_run(place).origin is not None
    assert not open_run(place).trained_here


def test_a_replay_says_which_steps_it_is(parent):
    place, found = parent.with_name("replay"), open_parent(parent, "replaying")
    replay_run(found, read_stretch(f"{LATE}:240:1", found, "replaying"), place)
    record = measured(place)
    assert_left_open(record)
    assert record.verdict is not None
    assert record.verdict.sentence.startswith("Steps 200 to 240 of parent, computed again")
