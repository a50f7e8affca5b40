"""Forks: with nothing changed the parent itself, with a change the parent up to there and nothing else new."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.runs import open_run
from grokscope.training import Outcome, Recipe, train
from grokscope.training.fork import Fork, fork_run, forked_recipe, prepare_forks
from grokscope.training.parent import open_parent
from grokscope.training.replay import read_stretch, replay_run
from grokscope.trajectory import (
    Trajectory,
    read_manifest,
    read_snapshot,
    snapshot_steps,
    verify_trajectory,
    write_manifest,
)

SETTINGS = ("save.schedule=['0:end:4']", "save.evaluate=['0:end:2']", "save.snapshots=15")


@pytest.fixture(scope="module")
def parent(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("parent") / "parent"
    train(tiny(*SETTINGS), directory, device="cpu")
    return directory


def forked(run: Path, at: int, directory: Path, *overrides: str, **options: Any) -> Outcome:
    return fork_run(open_parent(run, f"forking {run.name}"), at, directory, overrides, **options)


def arrays(directory: Path) -> dict[str, dict[int, bytes]]:
    """Every stored number: name → step → bytes."""
    with Trajectory(directory / "trajectory.h5") as run:
        stored = {
            name: {int(step): row.tobytes() for step, row in zip(run.steps, run.read(name), strict=True)}
            for name in run.names
        }
        scalars = run.scalars
    steps = scalars.pop("step").tolist()
    stored |= {
        name: {step: value.tobytes() for step, value in zip(steps, series, strict=True)}
        for name, series in scalars.items()
    }
    return stored


def assert_goes_on(directory: Path, run: Path, at: int) -> None:
    """From ``at`` on it holds what ``run`` holds, bit for bit, and the state at ``at`` besides."""
    mine, whole = arrays(directory), arrays(run)
    assert mine.keys() == whole.keys()
    for name, rows in mine.items():
        expected = {step: row for step, row in whole[name].items() if step >= at}
        assert {step: row for step, row in rows.items() if step in expected} == expected, name
        assert rows.keys() - expected.keys() <= {at}
        assert min(rows) == at


def one_line(caught: pytest.ExceptionInfo[GrokscopeError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message


def at(step: int, action: Callable[[], None]) -> Callable[[int, object], None]:
    def report(now: int, scalars: object) -> None:
        if now == step:
            action()

    return report


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Stop(Exception):
    """A failure of the caller: only whole blocks are kept, as after a kill."""


def stop() -> None:
    raise Stop


@pytest.mark.parametrize("step", [0, 1, 15, 16, 23, 30, 45, 59])
def test_a_fork_with_nothing_changed_is_the_parent(parent, tmp_path, step):
    outcome = forked(parent, step, tmp_path / "fork")
    assert (outcome.step, outcome.finished) == (60, True)
    assert_goes_on(tmp_path / "fork", parent, step)
    # its optimiser too
    for snapshot in snapshot_steps(tmp_path / "fork"):
        if snapshot in snapshot_steps(parent):
            mine, whole = read_snapshot(tmp_path / "fork", snapshot), read_snapshot(parent, snapshot)
            assert mine[1] == whole[1]
            assert {k: v.tobytes() for k, v in mine[0].items()} == {
                k: v.tobytes() for k, v in whole[0].items()
            }
    manifest = read_manifest(tmp_path / "fork")
    assert (manifest["name"], manifest["kind"]) == ("fork", "forked")
    origin = manifest["parent"]
    assert (origin["name"], origin["kind"], origin["at"], origin["changed"]) == (
        "parent",
        "trained",
        step,
        {},
    )
    assert origin["checksum"] == verify_trajectory(parent / "trajectory.h5").checksum
    assert manifest["config"] == read_manifest(parent)["config"]
    assert manifest["split"] == read_manifest(parent)["split"]
    assert {p.name for p in tmp_path.iterdir()} == {"fork"}


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.batch_size=7",),
        ("train.optimizer=sgd", "train.momentum=0.9", "train.lr=0.5", "train.weight_decay=0.01"),
        ("train.optimizer=gd", "train.lr=0.5", "train.weight_decay=0.01", "train.warmup=40"),
        ("train.dtype=float64", "save.precision=float32"),
        ("train.lr=0.1", "save.onset_fall=0.03", "save.schedule=['0:end:20', 'onset:19:1']"),
    ],
)
def test_any_training_is_forked(tiny, tmp_path, overrides):
    train(tiny(*SETTINGS, *overrides), tmp_path / "parent", device="cpu")
    for step in (18, 41):
        forked(tmp_path / "parent", step, tmp_path / f"fork{step}")
        assert_goes_on(tmp_path / f"fork{step}", tmp_path / "parent", step)


def test_a_fork_takes_an_open_window_along(tiny, tmp_path):
    recipe = tiny(
        *SETTINGS[1:], "train.lr=0.1", "save.onset_fall=0.03", "save.schedule=['0:end:20', 'onset:19:1']"
    )
    train(recipe, tmp_path / "parent", device="cpu")
    onset = read_manifest(tmp_path / "parent")["onset"]
    assert 20 < onset["step"] < 50
    for step in (onset["step"] - 1, onset["step"], onset["step"] + 1, onset["step"] + 9):
        directory = tmp_path / f"fork{step}"
        forked(tmp_path / "parent", step, directory)
        assert_goes_on(directory, tmp_path / "parent", step)
        assert read_manifest(directory)["onset"] == onset
    # a window that the parent did not have counts from where the parent's loss fell
    train(tiny(*SETTINGS, "train.lr=0.1", "save.onset_fall=0.03"), tmp_path / "plain", device="cpu")
    step, window = onset["step"] + 9, "save.schedule=['onset:19:1']"
    forked(tmp_path / "plain", step, tmp_path / "late", window)
    assert read_manifest(tmp_path / "late")["onset"] == onset
    assert open_run(tmp_path / "late").steps.tolist() == [*range(step, onset["step"] + 20), 60]
    # by another share it is open from the first evaluation that satisfies that, here the first of the fork
    forked(tmp_path / "plain", step, tmp_path / "other", window, "save.onset_fall=0.02")
    assert read_manifest(tmp_path / "other")["onset"] == {**onset, "step": step, "fall": 0.02}
    assert open_run(tmp_path / "other").steps.tolist() == [*range(step, 61)]


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.weight_decay=0",), ("train.lr=0.02",), ("train.betas=[0.8, 0.9]",), ("train.warmup=50",),
        ("train.decay=after",), ("train.loss=squared",), ("train.batch_size=9",),
        ("train.weight_decay=0.5", "train.lr=0.005"),
    ],
)  # fmt: skip
def test_a_fork_shares_the_state_and_nothing_that_follows(parent, tmp_path, overrides):
    forked(parent, 20, tmp_path / "fork", *overrides)
    mine, whole = arrays(tmp_path / "fork"), arrays(parent)
    for name in ("embed.W_E", "hidden.1.W", "head.W_U", "time.sum_lr"):
        assert mine[name][20] == whole[name][20]
    for name in ("embed.W_E", "hidden.1.W", "head.W_U"):
        assert mine[name].keys() == {step for step in whole[name] if step >= 20}
        assert all(mine[name][step] != whole[name][step] for step in mine[name] if step > 20)
    changed = read_manifest(tmp_path / "fork")["parent"]["changed"]
    assert set(changed) == {text.partition("=")[0] for text in overrides}
    config = open_run(tmp_path / "fork").config
    for field, values in changed.items():
        assert values["from"] != values["to"] == config["train"][field.removeprefix("train.")]


def test_a_change_acts_from_the_step_on(parent, tmp_path):
    """Without gradient the effect of a change is in closed form."""
    zero = ("train.optimizer=gd", "train.lr=1e-30", "train.weight_decay=1e29")
    recipe = forked_recipe(open_parent(parent, "a test"))
    assert recipe.train.weight_decay == 1.0
    root = tmp_path / "root"
    train(_with(recipe, *zero), root, device="cpu")
    # each update multiplies the weights by 1 − lr·decay = 0.9; the fork's by 0.8
    forked(root, 20, tmp_path / "fork", "train.weight_decay=2e29")
    before, after = open_run(root), open_run(tmp_path / "fork")
    start = before.params(5)["hidden.1.W"].numpy()
    assert before.steps[5] == after.steps[0] == 20
    for row, step in enumerate(after.steps.tolist()):
        found = after.params(row)["hidden.1.W"].numpy()
        np.testing.assert_allclose(found, start * 0.8 ** (step - 20), rtol=1e-5)


def _with(recipe: Recipe, *overrides: str) -> Recipe:
    from grokscope.training import recipe_from
    from grokscope.trajectory import apply_overrides

    return recipe_from(apply_overrides(recipe.config(), overrides), "a test")


def test_a_fork_may_be_longer_and_saved_otherwise(parent, tiny, tmp_path):
    outcome = forked(
        parent, 33, tmp_path / "fork", "train.steps=80", "save.schedule=['0:end:7']", "save.evaluate=[]",
        "save.precision=float64",
    )  # fmt: skip
    assert outcome.step == 80
    assert open_run(tmp_path / "fork").steps.tolist() == [33, 35, 42, 49, 56, 63, 70, 77, 80]
    train(tiny("train.steps=80", "save.schedule=['0:end:1']"), tmp_path / "whole", device="cpu")
    with (
        Trajectory(tmp_path / "fork" / "trajectory.h5") as run,
        Trajectory(tmp_path / "whole" / "trajectory.h5") as whole,
    ):
        for name in run.names:
            assert run.dtypes[name] == np.float64
            np.testing.assert_array_equal(run.read(name), whole.read(name, run.steps))


def test_forks_and_replays_are_parents_too(parent, tmp_path):
    forked(parent, 20, tmp_path / "one")
    forked(tmp_path / "one", 40, tmp_path / "two")
    assert_goes_on(tmp_path / "two", parent, 40)
    assert read_manifest(tmp_path / "two")["parent"]["name"] == "one"
    one = open_parent(tmp_path / "one", "a test")
    replay_run(one, read_stretch("24:44:4", one, "a test"), tmp_path / "three")
    assert arrays(tmp_path / "three")["head.W_U"].items() <= arrays(parent)["head.W_U"].items()
    forked(tmp_path / "three", 30, tmp_path / "four", "train.steps=60", *SETTINGS)
    assert_goes_on(tmp_path / "four", parent, 30)
    with pytest.raises(GrokscopeError) as caught:
        forked(tmp_path / "one", 19, tmp_path / "five")
    assert "--at 19 asks for step 19, expected 20 or later, where it took up a state of parent" in one_line(
        caught
    )


# Stopped on the way


@pytest.mark.parametrize("step", [20, 31, 44, 60])
@pytest.mark.parametrize("how", [interrupt, stop])
def test_a_stopped_fork_is_resumed_bit_for_bit(parent, checksum, tmp_path, step, how):
    changes = ("train.weight_decay=0.5", "save.evaluate=['0:end:1']", "save.schedule=['0:end:1']")
    forked(parent, 20, tmp_path / "whole", *changes)
    run = open_parent(parent, "a test")
    recipe = forked_recipe(run, changes)
    prepare_forks(run, 20, [Fork(tmp_path / "fork", recipe)])
    try:
        train(recipe, tmp_path / "fork", device="cpu", resume=True, report=at(step, how))
    except Stop:
        assert how is stop
    # as any run, or by the same command
    if step % 2:
        outcome = train(recipe, tmp_path / "fork", device="cpu", resume=True)
    else:
        outcome = forked(parent, 20, tmp_path / "fork", *changes, resume=True)
    assert outcome.finished
    assert checksum(tmp_path / "fork") == checksum(tmp_path / "whole")


def test_a_fork_whose_first_snapshot_is_lost_is_not_begun_anew(parent, tmp_path):
    run = open_parent(parent, "a test")
    recipe = forked_recipe(run)
    prepare_forks(run, 20, [Fork(tmp_path / "fork", recipe)])
    (tmp_path / "fork" / "snapshots" / "20.safetensors").unlink()
    with pytest.raises(GrokscopeError) as caught:
        train(recipe, tmp_path / "fork", device="cpu", resume=True)
    assert "the snapshot of its first step, 20, is missing or damaged" in one_line(caught)


def test_a_fork_of_an_interrupted_run_goes_as_far_as_it_came(tiny, parent, tmp_path):
    train(tiny(*SETTINGS), tmp_path / "half", device="cpu", report=at(38, interrupt))
    forked(tmp_path / "half", 38, tmp_path / "fork")
    assert_goes_on(tmp_path / "fork", parent, 38)
    with pytest.raises(GrokscopeError) as caught:
        forked(tmp_path / "half", 39, tmp_path / "more")
    assert "at most 38, the last step that it reached" in one_line(caught)


def test_ctrl_c_on_the_way_there_leaves_nothing(parent, tmp_path):
    with pytest.raises(GrokscopeError) as caught:
        forked(parent, 29, tmp_path / "fork", report=at(22, interrupt))
    assert "interrupted at step 22 on the way to 29, nothing was written" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Several


def test_several_forks_share_one_way_there(parent, checksum, tmp_path):
    run = open_parent(parent, "a test")
    decays = [0.0, 0.5, 1.0]
    forks = [
        Fork(tmp_path / f"decay{decay}", forked_recipe(run, [f"train.weight_decay={decay}"]))
        for decay in decays
    ]
    seen: list[int] = []
    prepare_forks(run, 28, forks, report=lambda step, _: seen.append(step))
    assert seen == list(range(16, 28, 2))
    for made in forks:
        assert train(made.recipe, made.directory, device="cpu", resume=True).finished
    forked(parent, 28, tmp_path / "alone", "train.weight_decay=0.5")
    assert checksum(tmp_path / "alone") == checksum(tmp_path / "decay0.5")
    assert_goes_on(tmp_path / "decay1.0", parent, 28)
    # asked again, those that exist are left alone and a new one is made
    before = checksum(tmp_path / "decay0.0")
    more = [*forks, Fork(tmp_path / "decay2.0", forked_recipe(run, ["train.weight_decay=2"]))]
    with pytest.raises(GrokscopeError, match="exists, expected a new name"):
        prepare_forks(run, 28, more)
    assert not (tmp_path / "decay2.0").exists()
    prepare_forks(run, 28, more, resume=True)
    assert checksum(tmp_path / "decay0.0") == before
    assert train(more[-1].recipe, more[-1].directory, device="cpu", resume=True).finished


# Refused


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("task.op=mul", "task.op"),
        ("task.train_fraction=0.5", "task.train_fraction"),
        ("task.split_seed=4", "task.split_seed"),
        ("model.hidden=[13]", "model.hidden"),
        ("model.activation=gelu", "model.activation"),
        ("seed=4", "seed"),
        ("train.dtype=float64", "train.dtype"),
        ("train.optimizer=sgd", "train.optimizer"),
    ],
)
def test_what_a_state_means_cannot_be_changed(parent, tmp_path, override, field):
    with pytest.raises(GrokscopeError) as caught:
        forked(parent, 20, tmp_path / "fork", override)
    assert f"{field} was set to" in one_line(caught)
    assert not (tmp_path / "fork").exists()


@pytest.mark.parametrize(
    ("step", "overrides", "part"),
    [
        (61, (), "--at 61 asks for step 61, expected at most 60, its last step"),
        (60, (), "a step before the last"),
        (30, ("train.steps=30",), "a step before the last"),
        (20, ("train.lr=0",), "train.lr is 0"),
        (20, ("train.lrr=1",), "did you mean 'lr'"),
        (20, ("train.lr",), "FIELD=VALUE"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(parent, tmp_path, step, overrides, part):
    with pytest.raises(GrokscopeError) as caught:
        forked(parent, step, tmp_path / "fork", *overrides)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_goes_on_beyond_the_end_of_its_parent(parent, tiny, checksum, tmp_path):
    forked(parent, 60, tmp_path / "fork", "train.steps=90")
    train(tiny(*SETTINGS, "train.steps=90"), tmp_path / "whole", device="cpu")
    assert_goes_on(tmp_path / "fork", tmp_path / "whole", 60)


def test_resuming_what_is_another_run_is_refused(parent, tmp_path):
    forked(parent, 20, tmp_path / "fork")
    for step, target, part in ((21, "fork", "is a fork of parent at step 20"), (20, "other", "kind trained")):
        if target == "other":
            train(forked_recipe(open_parent(parent, "a test")), tmp_path / "other", device="cpu")
        with pytest.raises(GrokscopeError) as caught:
            forked(parent, step, tmp_path / target, resume=True)
        assert part in one_line(caught)
    with pytest.raises(GrokscopeError, match=r"train.weight_decay is 0.0 in the recipe and 1.0 in the run"):
        forked(parent, 20, tmp_path / "fork", "train.weight_decay=0", resume=True)


def test_a_run_without_the_newer_fields_is_a_parent(tiny, parent, tmp_path):
    """As a version before windows that wait for the onset wrote it."""
    train(tiny(*SETTINGS), tmp_path / "old", device="cpu")
    manifest = read_manifest(tmp_path / "old")
    del manifest["config"]["save"]["onset_fall"]
    write_manifest(tmp_path / "old", manifest)
    forked(tmp_path / "old", 20, tmp_path / "fork")
    assert_goes_on(tmp_path / "fork", parent, 20)
    assert train(tiny(*SETTINGS), tmp_path / "old", device="cpu", resume=True).finished


def test_an_imported_run_has_no_forks(tiny, parent, tmp_path):
    train(tiny(*SETTINGS), tmp_path / "run", device="cpu")
    write_manifest(tmp_path / "run", {**read_manifest(tmp_path / "run"), "kind": "imported"})
    with pytest.raises(GrokscopeError) as caught:
        forked(tmp_path / "run", 20, tmp_path / "fork")
    assert "it is imported, expected a run that grokscope trained" in one_line(caught)
