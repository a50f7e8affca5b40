"""The onset: by hand, against a slow reading of its definition, and in runs that are stopped around it."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.tasks import TASK_SETTINGS, build_task
from grokscope.training import Recipe, train
from grokscope.training.onset import OnsetWatch
from grokscope.trajectory import (
    Trajectory,
    read_manifest,
    read_settings,
    read_snapshot,
    snapshot_steps,
    verify_trajectory,
    write_manifest,
)

P = 7


@pytest.fixture(scope="module")
def task():
    table = {"name": "modular", "op": "add", "p": P, "train_fraction": 0.6}
    return build_task(read_settings(TASK_SETTINGS["modular"], table, "a test"), 0)


def opened(task, accuracies, losses, fall=0.4) -> int | None:
    watch = OnsetWatch(task, fall)
    found = [
        step
        for step, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
        if watch.observe(step, {"accuracy.train": accuracy, "loss.test": loss})
    ]
    assert len(found) <= 1
    assert watch.step == (found[0] if found else None)
    return watch.step


@pytest.mark.parametrize(
    ("losses", "fall", "expected"),
    [
        ([1, 5, 10, 9, 6.1, 5.9, 1], 0.4, 5),
        ([1, 5, 10, 9, 6.1, 5.9, 1], 0.05, 3),
        ([1, 5, 10, 6, 6, 6, 6], 0.4, None),  # exactly the share is not under it
        ([10, 5, 4, 3, 3, 3, 3], 0.4, None),  # what fell before the fit does not count
        ([10, 5, 4, 3, 2.3, 3, 3], 0.4, 4),
        ([1, 5, 10, 1, 20, 1, 1], 0.4, 3),  # it opens once
        ([1, 2, 3, 4, 5, 6, 7], 0.4, None),
    ],
)
def test_the_onset_by_hand(task, losses, fall, expected):
    fitted = [0.5, 0.9, 1, 1, 1, 1, 1]
    assert opened(task, fitted, losses, fall) == expected


def test_without_a_fit_there_is_no_onset(task):
    # a skill of 0.99 is an accuracy of 0.99 + 0.01/7
    assert opened(task, [0.991] * 4, [9, 8, 2, 1]) is None
    assert opened(task, [0.992] * 4, [9, 8, 2, 1]) == 2


def test_losing_the_fit_does_not_take_it_back(task):
    assert opened(task, [1, 0.2, 0.2], [9, 8, 2]) == 2


def test_a_completion_is_fitted_by_its_error():
    table = {"name": "completion", "d": 6, "rank": 1, "train_fraction": 0.5}
    completion = build_task(read_settings(TASK_SETTINGS["completion"], table, "a test"), 0)
    watch = OnsetWatch(completion, 0.4)
    errors, losses = [0.5, 0.02, 0.01, 0.001, 0.0], [9.0, 4.0, 3.0, 2.0, 1.0]
    told = [
        watch.observe(step, {"error.train": error, "loss.test": loss})
        for step, (error, loss) in enumerate(zip(errors, losses, strict=True))
    ]
    assert told == [False, False, False, False, True]
    assert watch.largest == 3.0


def slow(accuracies: list[float], losses: list[float], fall: float) -> int | None:
    for now in range(len(losses)):
        fits = [i for i in range(now + 1) if (accuracies[i] - 1 / P) / (1 - 1 / P) >= 0.99]
        if fits and losses[now] < (1 - fall) * max(losses[fits[0] : now + 1]):
            return now
    return None


@given(
    st.lists(st.tuples(st.sampled_from([0.3, 0.99, 1.0]), st.floats(0, 20)), max_size=30),
    st.floats(0.01, 0.9), st.integers(0, 30),
)  # fmt: skip
def test_it_is_what_its_definition_says_wherever_it_was_interrupted(task, rows, fall, stop):
    accuracies, losses = [a for a, _ in rows], [x for _, x in rows]
    expected = slow(accuracies, losses, fall)
    assert opened(task, accuracies, losses, fall) == expected
    before, after = OnsetWatch(task, fall), OnsetWatch(task, fall)
    scalars = [{"accuracy.train": a, "loss.test": x} for a, x in rows]
    for step, values in enumerate(scalars[:stop]):
        before.observe(step, values)
    after.restore(before.state())
    for step, values in enumerate(scalars[stop:], start=min(stop, len(scalars))):
        after.observe(step, values)
    assert (after.step, after.largest) == (expected, before_to_the_end(task, scalars, fall).largest)
    # under another share it was no onset, and may come again
    other = OnsetWatch(task, fall / 2)
    other.restore(before.state())
    assert (other.step, other.largest) == (None, before.largest)


def before_to_the_end(task, scalars, fall) -> OnsetWatch:
    watch = OnsetWatch(task, fall)
    for step, values in enumerate(scalars):
        watch.observe(step, values)
    return watch


# In runs


@pytest.fixture(scope="module")
def waiting(tiny) -> Recipe:
    """A run whose test loss falls by 3 % of its largest value between its steps 30 and 42."""
    return tiny(
        "train.lr=0.1", "train.steps=90", "save.onset_fall=0.03", "save.snapshots=10",
        "save.schedule=['0:end:30', 'onset:12:1']", "save.evaluate=['0:end:3', 'onset:20:2']",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(waiting, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(waiting, directory, device="cpu")
    return directory


def onset_of(directory: Path) -> int:
    return read_manifest(directory)["onset"]["step"]


def test_a_run_saves_and_evaluates_what_its_onset_opens(tiny, waiting, whole):
    onset = onset_of(whole)
    assert 20 < onset < 60
    assert onset % 3 == 0
    with Trajectory(whole / "trajectory.h5") as run:
        steps, scalars = run.steps.tolist(), run.scalars
    assert steps == sorted({0, 30, 60, 90, *range(onset, onset + 13)})
    expected = {*range(0, 91, 3), *range(onset, onset + 21, 2), *steps}
    assert scalars["step"].tolist() == sorted(expected)
    fitted = np.flatnonzero((scalars["accuracy.train"] - 1 / P) / (1 - 1 / P) >= 0.99)[0]
    at = int(np.flatnonzero(scalars["step"] == onset)[0])
    largest = scalars["loss.test"][fitted : at + 1].max()
    assert read_manifest(whole)["onset"] == {"step": onset, "fell_from": largest, "fall": 0.03}
    assert scalars["loss.test"][at] < 0.97 * largest
    before = scalars["loss.test"][fitted:at]
    assert (before >= 0.97 * np.maximum.accumulate(before)).all()
    assert len(steps) <= waiting.most_saves()
    assert len(expected) <= waiting.most_evaluations()
    # the same run without the windows: nothing else is different
    plain = tiny("train.lr=0.1", "train.steps=90", "save.schedule=['0:end:1']", "save.evaluate=[]")
    train(plain, whole.parent / "plain", device="cpu")
    with (
        Trajectory(whole / "trajectory.h5") as run,
        Trajectory(whole.parent / "plain" / "trajectory.h5") as all_,
    ):
        for name in run.names:
            assert run.read(name).tobytes() == all_.read(name, np.asarray(steps)).tobytes()


@pytest.mark.parametrize("offset", [-12, -1, 0, 1, 7, 12, 13, 25])
def test_a_run_stopped_around_its_onset_resumes_bit_for_bit(waiting, whole, checksum, tmp_path, offset):
    at = (onset_of(whole) + offset) // 3 * 3

    def report(step: int, scalars: object) -> None:
        if step == at:
            signal.raise_signal(signal.SIGINT)

    directory = tmp_path / "run"
    assert not train(waiting, directory, device="cpu", report=report).finished
    assert train(waiting, directory, device="cpu", resume=True).finished
    assert checksum(directory) == checksum(whole)
    assert read_manifest(directory)["onset"] == read_manifest(whole)["onset"]


def test_the_snapshots_hold_what_was_seen(whole):
    onset = onset_of(whole)
    for step in snapshot_steps(whole):
        _, metadata = read_snapshot(whole, step)
        # a snapshot is taken before the evaluation of its step
        assert metadata.get("onset_step") == (str(onset) if step > onset else None)
        if step > onset:
            assert float(metadata["onset_fell_from"]) == read_manifest(whole)["onset"]["fell_from"]


def test_an_onset_that_never_comes_is_recorded_as_such(tiny, tmp_path):
    train(tiny("save.schedule=['onset:10:1']", "save.evaluate=[]"), tmp_path / "run", device="cpu")
    assert read_manifest(tmp_path / "run")["onset"]["step"] is None
    with Trajectory(tmp_path / "run" / "trajectory.h5") as run:
        assert run.steps.tolist() == [60]


@pytest.mark.parametrize("fall", ["0", "1", "-0.5", "nan", "many"])
def test_a_share_that_is_none_is_refused(tiny, fall):
    with pytest.raises(GrokscopeError, match="onset_fall"):
        tiny(f"save.onset_fall={fall}")


def test_a_run_killed_before_its_last_word_says_it_when_resumed(tiny, tmp_path):
    recipe = tiny("save.schedule=['0:end:5','onset:20:1']", "save.evaluate=['0:end:2']")
    directory = tmp_path / "run"
    train(recipe, directory, device="cpu")
    whole = read_manifest(directory)
    facts = {key: value for key, value in whole["provenance"].items() if key not in ("finished", "seconds")}
    # everything is committed, and the manifest is as it was at the start
    early = {key: value for key, value in whole.items() if key != "onset"} | {"provenance": facts}
    before = verify_trajectory(directory / "trajectory.h5").as_dict()["checksum"]
    write_manifest(directory, early)
    assert train(recipe, directory, device="cpu", resume=True).finished
    found = read_manifest(directory)
    assert found["onset"] == whole["onset"]
    assert "finished" in found["provenance"]
    assert verify_trajectory(directory / "trajectory.h5").as_dict()["checksum"] == before
