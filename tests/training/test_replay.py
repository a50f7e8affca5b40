"""Replays: the same bits as the run itself would have saved, and a difference is never passed over."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.runs import open_run
from grokscope.training import Recipe, train
from grokscope.training.parent import open_parent
from grokscope.training.replay import Replay, read_stretch, replay_run
from grokscope.trajectory import Trajectory, read_manifest, snapshot_steps, verify_trajectory, write_manifest

SPARSE = ("save.schedule=['0:end:10']", "save.evaluate=['0:end:5']", "save.snapshots=15")


@pytest.fixture(scope="module")
def dense(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run saved at every step, as far as it goes: what every replay has to be a part of."""
    directory = tmp_path_factory.mktemp("dense") / "run"
    train(tiny("save.schedule=['0:end:1']", "save.evaluate=['0:end:1']"), directory, device="cpu")
    return directory


@pytest.fixture
def sparse(tiny: Callable[..., Recipe], tmp_path: Path) -> Path:
    """The same run saved every 10 steps, with snapshots at 15, 30, 45 and 60."""
    directory = tmp_path / "sparse"
    train(tiny(*SPARSE), directory, device="cpu")
    return directory


def again(run: Path, steps: str, name: str = "again", **options: Any) -> Replay:
    parent = open_parent(run, f"replaying {run.name}")
    stretch = read_stretch(steps, parent, f"replaying {run.name}")
    return replay_run(parent, stretch, run.with_name(name), **options)


def assert_part_of(directory: Path, whole: Path) -> None:
    """Every save and every evaluation is that of ``whole``, bit for bit."""
    with Trajectory(directory / "trajectory.h5") as run, Trajectory(whole / "trajectory.h5") as all_:
        rows = np.flatnonzero(np.isin(all_.steps, run.steps))
        assert all_.steps[rows].tolist() == run.steps.tolist()
        for name in run.names:
            assert run.read(name).tobytes() == all_.read(name, rows).tobytes(), name
        there = np.isin(all_.scalars["step"], run.scalars["step"])
        for name, series in run.scalars.items():
            assert series.tobytes() == all_.scalars[name][there].tobytes(), name


def one_line(caught: pytest.ExceptionInfo[GrokscopeError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message


@pytest.mark.parametrize(
    ("steps", "expected", "begun", "same"),
    [
        ("20:40:1", range(20, 41), 15, (3, 1)),
        ("30:33:1", range(30, 34), 30, (1, 0)),
        ("29:33:2", [29, 31, 33], 15, (2, 1)),
        ("31:45:6", [31, 37, 43, 45], 30, (2, 1)),
        ("0:10:3", [0, 3, 6, 9, 10], 0, (2, 0)),
        ("0:60:20", [0, 20, 40, 60], 0, (7, 4)),
        ("60:60:1", [60], 60, (1, 0)),
        ("7:7:1", [7], 0, (1, 0)),
        ("50::4", [50, 54, 58, 60], 45, (2, 1)),
        (":3", [0, 1, 2, 3], 0, (1, 0)),
    ],
)
def test_a_replay_is_the_run_itself(sparse, dense, steps, expected, begun, same):
    made = again(sparse, steps)
    run = open_run(made.directory)
    assert run.steps.tolist() == list(expected)
    assert run.scalars["step"].tolist() == list(expected)
    assert_part_of(made.directory, dense)
    assert (made.begun, made.same_saves, made.same_snapshots) == (begun, *same)
    assert made.saves == len(run.steps)
    # nothing else is left in the folder, and the original is as it was
    assert {p.name for p in sparse.parent.iterdir()} == {"sparse", "again"}
    manifest = read_manifest(made.directory)
    assert (manifest["name"], manifest["kind"]) == ("again", "replayed")
    first, last = expected[0], expected[-1]
    parent = manifest["parent"]
    assert (parent["name"], parent["kind"], parent["at"]) == ("sparse", "trained", first)
    assert parent["steps"].split(":")[:2] == [str(first), str(last)]
    assert parent["checksum"] == verify_trajectory(sparse / "trajectory.h5").checksum
    assert parent["same"] == {"saves": same[0], "snapshots": same[1]}
    assert "finished" in manifest["provenance"]
    assert torch.equal(run.task.train_mask, open_run(sparse).task.train_mask)


def test_the_same_replay_gives_the_same_arrays(sparse, checksum):
    assert checksum(again(sparse, "20:40:3", "one").directory) == checksum(
        again(sparse, "20:40:3", "two").directory
    )


@pytest.mark.parametrize("steps", ["25:35:1", "20:40:5", "33:33:1"])
def test_a_replay_can_be_replayed(sparse, dense, steps):
    first = again(sparse, "20:40:4", "first").directory
    second = again(first, steps, "second")
    assert_part_of(second.directory, dense)
    # from its own snapshots, of which the first is of the step that it begins at
    assert second.begun in (20, 30)
    assert read_manifest(second.directory)["parent"]["kind"] == "replayed"


def test_a_replay_of_a_replay_does_not_go_beyond_it(sparse):
    first = again(sparse, "20:40:4", "first").directory
    with pytest.raises(GrokscopeError) as caught:
        again(first, "10:30:1", "second")
    assert "expected 20 or later, where it took up a state of sparse" in one_line(caught)
    with pytest.raises(GrokscopeError) as caught:
        again(first, "30:50:1", "second")
    assert "at most 40, its last step" in one_line(caught)


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.batch_size=7",),
        ("train.optimizer=sgd", "train.momentum=0.9", "train.lr=0.5", "train.weight_decay=0.01"),
        ("train.optimizer=gd", "train.lr=0.5", "train.weight_decay=0.01", "train.warmup=40"),
        ("train.dtype=float64",),
        ("train.dtype=float64", "save.precision=float32"),
        ("train.loss=squared", "train.decay=after"),
    ],
)
def test_any_training_is_replayed(tiny, tmp_path, overrides):
    train(tiny(*overrides, *SPARSE), tmp_path / "sparse", device="cpu")
    train(tiny(*overrides, "save.schedule=['0:end:1']"), tmp_path / "dense", device="cpu")
    assert_part_of(again(tmp_path / "sparse", "33:52:1").directory, tmp_path / "dense")


def test_what_the_onset_had_triggered_plays_no_part(tiny, tmp_path):
    settings = ("train.lr=0.1", "save.onset_fall=0.03")
    train(
        tiny(*settings, *SPARSE[1:], "save.schedule=['0:end:30', 'onset:9:1']"),
        tmp_path / "run",
        device="cpu",
    )
    train(tiny(*settings, "save.schedule=['0:end:1']"), tmp_path / "dense", device="cpu")
    made = again(tmp_path / "run", "31:50:2")
    assert open_run(made.directory).steps.tolist() == [*range(31, 50, 2), 50]
    assert_part_of(made.directory, tmp_path / "dense")


# Runs that are not finished, or damaged


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


def test_an_interrupted_run_is_replayed_as_far_as_it_came(tiny, dense, tmp_path):
    train(tiny(*SPARSE), tmp_path / "run", device="cpu", report=at(35, interrupt))
    assert_part_of(again(tmp_path / "run", "12:35:1").directory, dense)
    with pytest.raises(GrokscopeError) as caught:
        again(tmp_path / "run", "12:36:1", "more")
    assert "at most 35, the last step that it reached, 25 before its end" in one_line(caught)
    assert not (tmp_path / "more").exists()


def test_a_killed_run_is_replayed_as_far_as_its_last_snapshot(tiny, dense, tmp_path):
    with pytest.raises(Stop):
        train(tiny(*SPARSE), tmp_path / "run", device="cpu", report=at(50, stop))
    assert snapshot_steps(tmp_path / "run") == [15, 30, 45]
    assert len(Trajectory(tmp_path / "run" / "trajectory.h5").steps) == 0
    made = again(tmp_path / "run", "20:45:1")
    assert_part_of(made.directory, dense)
    assert (made.same_saves, made.same_snapshots) == (0, 2)
    with pytest.raises(GrokscopeError, match="at most 45"):
        again(tmp_path / "run", "20:46:1", "more")


def test_before_anything_is_committed_there_is_nothing_to_replay(tiny, tmp_path):
    with pytest.raises(Stop):
        train(tiny(*SPARSE), tmp_path / "run", device="cpu", report=at(5, stop))
    with pytest.raises(GrokscopeError) as caught:
        again(tmp_path / "run", "0:3:1")
    assert "nothing of it is committed yet" in one_line(caught)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_snapshot_costs_only_time(sparse, dense, damage):
    snapshot = sparse / "snapshots" / "30.safetensors"
    if damage == "missing":
        snapshot.unlink()
    else:
        snapshot.write_bytes(snapshot.read_bytes()[:100])
    made = again(sparse, "31:38:1")
    assert made.begun == 15
    assert_part_of(made.directory, dense)


# Differences


def test_saved_weights_that_differ_name_the_step_and_the_tensor(sparse):
    with h5py.File(sparse / "trajectory.h5", "r+") as file:
        weights: Any = file["params/hidden.1.W"]
        weights[3] = weights[3] + 1e-7
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "25:35:5")
    message = one_line(caught)
    assert "tensor 'hidden.1.W' at step 30 differs from the stored one" in message
    assert not sparse.with_name("again").exists()
    assert {p.name for p in sparse.parent.iterdir()} == {"sparse"}
    # off the way there is nothing to object to
    assert again(sparse, "46:49:1").begun == 45


@pytest.mark.parametrize("what", ["weights", "second_moment", "sum_lr"])
def test_a_snapshot_that_differs_is_told(sparse, what):
    from grokscope.trajectory import read_snapshot, write_snapshot

    arrays, metadata = read_snapshot(sparse, 30)
    if what == "sum_lr":
        metadata["sum_lr"] = "0.25"
    else:
        arrays[what] = arrays[what] * np.float32(1.0001)
    write_snapshot(sparse, 30, arrays, metadata)
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "25:35:1")
    message = one_line(caught)
    assert "in the snapshot at step 30 differs" in message
    assert ("sum of learning rates" if what == "sum_lr" else what) in message
    if what == "weights":
        # begun from there, the saves tell
        with pytest.raises(GrokscopeError, match=r"tensor '.*' at step 30 differs"):
            again(sparse, "32:35:1")


def test_a_difference_is_told_with_what_has_changed(sparse):
    manifest = read_manifest(sparse)
    manifest["provenance"]["torch"] = "1.0.0"
    write_manifest(sparse, manifest)
    with h5py.File(sparse / "trajectory.h5", "r+") as file:
        weights: Any = file["params/hidden.1.W"]
        weights[3] = weights[3] + 1e-7
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "25:35:5")
    assert f"torch 1.0.0 then, {torch.__version__} now" in one_line(caught)


# Conditions


def changed(directory: Path, **facts: Any) -> None:
    manifest = read_manifest(directory)
    manifest["provenance"] |= facts
    write_manifest(directory, manifest)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_products_are_those_of_the_original(sparse, monkeypatch, precision):
    from grokscope.training import machine

    monkeypatch.setattr(machine, "choose_precision", lambda device: "medium")
    changed(sparse, matmul_precision=precision)
    before = torch.get_float32_matmul_precision()
    made = again(sparse, "0:60:30")
    assert torch.get_float32_matmul_precision() == before
    assert read_manifest(made.directory)["provenance"]["matmul_precision"] == precision


def test_products_that_cannot_be_had_are_refused(sparse, monkeypatch):
    from grokscope.training import machine

    monkeypatch.setattr(machine, "choose_precision", lambda device: "highest")
    changed(sparse, matmul_precision="medium")
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "0:60:30")
    assert "'medium'" in one_line(caught)


def test_a_device_that_cannot_be_had_is_refused(sparse, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    changed(sparse, device="cuda")
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "0:60:30")
    assert "trained on cuda, which this machine does not have" in one_line(caught)


def test_a_run_that_shared_an_axis_on_a_gpu_is_refused(sparse):
    changed(sparse, runs_on_one_axis=8)
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "0:20:1")
    assert "8 runs on one axis" in one_line(caught)
    assert not sparse.with_name("again").exists()


def test_other_threads_are_refused(sparse):
    changed(sparse, threads=2)
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "0:60:30")
    assert "2 threads under provenance and 1 under config" in one_line(caught)


# What is no stretch


@pytest.mark.parametrize(
    "steps",
    ["", "5", "a:b", "5:2:1", "0:10:0", "0:10:-1", "-1:10:1", "0:10:1:1", "0:0:1", "1.5:3", "0:end:1"],
)
def test_steps_that_are_no_stretch_are_refused(sparse, steps):
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, steps)
    message = one_line(caught)
    assert repr(steps) in message
    assert "A:B:K" in message


def test_steps_beyond_the_run_are_refused(sparse):
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "50:61:1")
    assert "--steps 50:61:1 asks for step 61, expected at most 60, its last step" in one_line(caught)


def test_an_existing_name_is_refused(sparse):
    made = again(sparse, "50:60:5").directory
    before = verify_trajectory(made / "trajectory.h5").checksum
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "50:60:2")
    assert "exists, expected a new name (--name)" in one_line(caught)
    assert verify_trajectory(made / "trajectory.h5").checksum == before


def test_an_imported_run_is_refused(sparse):
    write_manifest(sparse, {**read_manifest(sparse), "kind": "imported"})
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "0:10:1")
    assert "it is imported, expected a run that grokscope trained" in one_line(caught)


@pytest.mark.parametrize("parent", [{"at": -1}, {"at": "x"}, {"at": True}, 3, {"at": 1.5}])
def test_a_parent_that_is_none_is_refused(sparse, parent):
    write_manifest(sparse, {**read_manifest(sparse), "kind": "forked", "parent": parent})
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "0:10:1")
    assert "'at' is a step" in one_line(caught)


@pytest.mark.parametrize("step", [15, 25, 30])
def test_ctrl_c_leaves_nothing(sparse, step):
    with pytest.raises(GrokscopeError) as caught:
        again(sparse, "20:40:5", report=at(step, interrupt))
    assert "nothing was written" in str(caught.value)
    assert {p.name for p in sparse.parent.iterdir()} == {"sparse"}


def test_what_a_killed_replay_left_is_cleared_away(sparse, dense):
    left = sparse.with_name(".again.part")
    (left / "snapshots").mkdir(parents=True)
    (left / "trajectory.h5").write_bytes(b"half")
    assert_part_of(again(sparse, "50:60:5").directory, dense)
    assert {p.name for p in sparse.parent.iterdir()} == {"sparse", "again"}
