from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.trajectory import Trajectory, TrajectoryWriter, verify_trajectory
from tests.trajectory.little_run import (
    PARAMS,
    SCALARS,
    arrays,
    checksum_of_whole,
    committed,
    fresh,
    train,
)


def test_dtypes_round_trip_bit_for_bit(tmp_path):
    draw = np.random.default_rng(0)
    values = {
        "half": draw.normal(size=(5, 2)).astype(np.float16),
        "single": draw.normal(size=(5, 2)).astype(np.float32),
        "double": draw.normal(size=(5,)),
        "whole": draw.integers(-9, 9, size=(2, 2, 2)),
        "byte": draw.integers(0, 9, size=3).astype(np.uint8),
        "flag": draw.random((4, 4)) > 0.5,
        "odd": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "blocks.0.attn.W_Q": draw.normal(size=(1, 3, 3)),
    }
    path = tmp_path / "run.h5"
    with TrajectoryWriter(path, {k: (v.shape, v.dtype) for k, v in values.items()}, []) as writer:
        for step in (0, 7, 10**12):
            writer.save(step, values)
    with Trajectory(path) as run:
        assert run.steps.tolist() == [0, 7, 10**12]
        assert run.names == tuple(sorted(values))
        for name, value in values.items():
            stored = run.read(name)
            assert stored.dtype == value.dtype == run.dtypes[name]
            assert run.shapes[name] == value.shape
            assert all(row.tobytes() == value.tobytes() for row in stored)


def test_saved_arrays_are_copied_at_once(tmp_path):
    weights = {"W": np.zeros((3, 2), np.float32), "n": np.asarray(0)}
    with TrajectoryWriter(tmp_path / "run.h5", PARAMS, []) as writer:
        for step in range(20):
            writer.save(step, weights)
            weights["W"] += 1
    with Trajectory(tmp_path / "run.h5") as run:
        np.testing.assert_array_equal(run.read("W")[:, 0, 0], np.arange(20))


def test_only_whole_blocks_are_committed_until_the_end(tmp_path):
    path = tmp_path / "run.h5"
    writer = fresh(path)
    assert writer.resume_bound == -1
    assert committed(path) == (0, 0)
    train(writer, 0, 15)
    writer.abandon()
    assert committed(path) == (8, 12)
    writer.close()
    assert committed(path) == (8, 12)
    other = tmp_path / "other.h5"
    with fresh(other) as writer:
        train(writer, 0, 15)
    assert committed(other) == (8, 15)


def test_an_exception_in_the_run_keeps_what_was_saved(tmp_path):
    path = tmp_path / "run.h5"

    def interrupted() -> None:
        with fresh(path) as writer:
            train(writer, 0, 15)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert committed(path) == (8, 15)


@pytest.mark.parametrize("graceful", [False, True])
@pytest.mark.parametrize("stop", [1, 7, 8, 12, 24, 25, 30])
@pytest.mark.parametrize("end", [30, 49])
def test_stopped_and_resumed_equals_undisturbed(tmp_path, graceful, stop, end):
    expected = checksum_of_whole(tmp_path / "whole.h5", end)
    path = tmp_path / "run.h5"
    writer = fresh(path)
    train(writer, 0, stop)
    writer.close() if graceful else writer.abandon()
    before = committed(path)
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        with Trajectory(path) as run:
            ends = [run.steps[-1] if before[0] else -1, run.scalars["step"][-1] if before[1] else -1]
        assert writer.resume_bound == min(ends)
        train(writer, max(0, writer.resume_bound - 3), end)
    report = verify_trajectory(path)
    assert (report.checksum, report.problems) == (expected, ())
    assert sorted(os.listdir(tmp_path)) == ["run.h5", "whole.h5"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stops=st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=4),
    rows=st.integers(1, 5),
    scalar_rows=st.integers(1, 40),
    every=st.integers(1, 7),
)
def test_any_sequence_of_stops_gives_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, stops, rows, scalar_rows, every
):
    directory = tmp_path_factory.mktemp("stops")
    whole, path, end = directory / "whole.h5", directory / "run.h5", 60
    options = {"block_rows": rows, "scalar_rows": scalar_rows}
    with TrajectoryWriter(whole, PARAMS, SCALARS, **options) as writer:
        train(writer, 0, end, every)
    TrajectoryWriter(path, PARAMS, SCALARS, **options).abandon()
    before = (0, 0)
    for stop, graceful in stops:
        writer = TrajectoryWriter.resume(path, PARAMS, SCALARS)
        train(writer, max(0, writer.resume_bound), max(stop, writer.resume_bound + 1), every)
        writer.close() if graceful else writer.abandon()
        after = committed(path)
        assert after[0] >= before[0]
        assert after[1] >= before[1]
        before = after
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        train(writer, max(0, writer.resume_bound), end, every)
    assert verify_trajectory(path).checksum == verify_trajectory(whole).checksum


def test_resuming_a_finished_run_changes_not_a_byte(tmp_path):
    path = tmp_path / "run.h5"
    checksum_of_whole(path, 31)
    content = path.read_bytes()
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        assert writer.resume_bound == 30
        assert writer.stored_steps.tolist() == list(range(0, 31, 2))
        train(writer, 10, 31)
    assert path.read_bytes() == content


def test_the_old_file_stays_until_the_new_one_holds_as_much(tmp_path):
    path = tmp_path / "run.h5"
    with fresh(path, scalar_rows=40) as writer:
        train(writer, 0, 15)
    assert committed(path) == (8, 15)
    inode = path.stat().st_ino
    writer = TrajectoryWriter.resume(path, PARAMS, SCALARS)
    train(writer, 14, 39)
    wait_until(lambda: path.with_name("run.h5.next").exists())
    # Three more blocks of saves are ready, but the 15 scalar rows are not in a whole block yet.
    assert (path.stat().st_ino, committed(path)) == (inode, (8, 15))
    train(writer, 39, 40)
    wait_until(lambda: path.stat().st_ino != inode)
    assert committed(path)[1] == 40
    writer.abandon()
    assert committed(path) == (20, 40)
    assert os.listdir(tmp_path) == ["run.h5"]


def test_an_abandoned_resume_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.h5"
    checksum_of_whole(path, 15)
    content = path.read_bytes()
    writer = TrajectoryWriter.resume(path, PARAMS, SCALARS)
    train(writer, 0, 16)
    writer.abandon()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run.h5"]


def wait_until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_stale_successor_is_removed(tmp_path):
    path = tmp_path / "run.h5"
    expected = checksum_of_whole(tmp_path / "whole.h5", 25)
    checksum_of_whole(path, 15)
    path.with_name("run.h5.next").write_bytes(b"half of a file")
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        assert not path.with_name("run.h5.next").exists()
        train(writer, 4, 25)
    assert verify_trajectory(path).checksum == expected


def test_rows_beyond_the_markers_are_forgotten(tmp_path):
    path = tmp_path / "run.h5"
    expected = checksum_of_whole(tmp_path / "whole.h5", 40)
    checksum_of_whole(path, 24)
    with h5py.File(path, "r+", libver=("v108", "v108")) as file:
        weights = file["params/W"]
        assert isinstance(weights, h5py.Dataset)
        weights.resize(16, axis=0)
        weights[12:] = -1
    report = verify_trajectory(path)
    assert report.saves == 12
    assert "4 in /params/W" in report.problems[0]
    with TrajectoryWriter.resume(path, PARAMS, SCALARS) as writer:
        train(writer, 20, 40)
    assert verify_trajectory(path).checksum == expected
    assert verify_trajectory(path).problems == ()


def resumed(tmp_path: Path) -> TrajectoryWriter:
    path = tmp_path / "run.h5"
    checksum_of_whole(path, 24)
    return TrajectoryWriter.resume(path, PARAMS, SCALARS)


def test_recomputed_values_that_differ_are_refused(tmp_path):
    with resumed(tmp_path) as writer:
        writer.save(4, arrays(4))
        wrong = arrays(6)
        wrong["W"][1, 1] = np.nextafter(wrong["W"][1, 1], np.float32(0))
        with pytest.raises(
            GrokscopeError, match=r"step 6, tensor 'W': the recomputed values differ from the stored"
        ):
            writer.save(6, wrong)
        with pytest.raises(GrokscopeError, match=r"step 6, tensor 'loss': the recomputed values differ"):
            writer.scalar(6, {"loss": 2.0000001})
    with resumed_again(tmp_path) as writer, pytest.raises(GrokscopeError, match=r"tensor 'loss'"):
        writer.scalar(0, {"loss": -0.0})


def resumed_again(tmp_path: Path) -> TrajectoryWriter:
    return TrajectoryWriter.resume(tmp_path / "run.h5", PARAMS, SCALARS)


def test_a_changed_schedule_is_noticed(tmp_path):
    with resumed(tmp_path) as writer:
        with pytest.raises(GrokscopeError, match="step 5 is not among the stored saves"):
            writer.save(5, arrays(5))
        writer.save(4, arrays(4))
        with pytest.raises(GrokscopeError, match="expected step 6 next"):
            writer.save(8, arrays(8))
        with pytest.raises(GrokscopeError, match="the stored step 6 was not recomputed"):
            writer.save(30, arrays(30))


@pytest.mark.parametrize(
    ("params", "scalars", "named"),
    [
        ({"W": ((3, 2), np.float32)}, SCALARS, "'n'"),
        ({**PARAMS, "b": ((1,), np.float32)}, SCALARS, "'b'"),
        ({**PARAMS, "W": ((2, 3), np.float32)}, SCALARS, "'W' is (2, 3) float32 in this run, (3, 2) float32"),
        ({**PARAMS, "W": ((3, 2), np.float64)}, SCALARS, "'W' is (3, 2) float64"),
        (PARAMS, ["loss", "accuracy"], "'accuracy'"),
    ],
)
def test_a_run_of_other_tensors_is_not_resumed(tmp_path, params, scalars, named):
    path = tmp_path / "run.h5"
    checksum_of_whole(path, 24)
    with pytest.raises(GrokscopeError) as refused:
        TrajectoryWriter.resume(path, params, scalars)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("params", "scalars", "named"),
    [
        ({}, [], "no tensors"),
        ({"a/b": ((2,), "f4")}, [], "'a/b'"),
        ({"": ((2,), "f4")}, [], "''"),
        ({"W": ((2, 0), "f4")}, [], "empty axis"),
        ({"W": ((2,), "c8")}, [], "complex64"),
        ({"W": ((2,), object)}, [], "object"),
        ({"W": ((2,), ">f4")}, [], ">f4"),
        (PARAMS, ["a", "a"], "repeat"),
        (PARAMS, ["step"], "'step'"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_the_start(tmp_path, params, scalars, named):
    with pytest.raises(GrokscopeError) as refused:
        TrajectoryWriter(tmp_path / "run.h5", params, scalars)
    assert named in str(refused.value)
    assert os.listdir(tmp_path) == []


def test_an_existing_name_and_a_missing_directory_are_refused(tmp_path):
    path = tmp_path / "run.h5"
    fresh(path).close()
    with pytest.raises(GrokscopeError, match="it exists"):
        fresh(path)
    with pytest.raises(GrokscopeError, match="no such directory"):
        fresh(tmp_path / "none" / "run.h5")
    with pytest.raises(GrokscopeError, match="no such file"):
        TrajectoryWriter.resume(tmp_path / "missing.h5", PARAMS, SCALARS)


@pytest.mark.parametrize(
    ("step", "given_arrays", "named"),
    [
        (3, arrays(3), "steps must increase, the last one was 4"),
        (4, arrays(4), "steps must increase"),
        (-1, arrays(0), "0 or more"),
        (6, {"W": arrays(0)["W"]}, "'n' is missing"),
        (6, {**arrays(0), "w": arrays(0)["W"]}, "'w' was not declared"),
        (
            6,
            {**arrays(0), "W": np.zeros((2, 3), np.float32)},
            "'W' is (2, 3) float32, expected (3, 2) float32",
        ),
        (6, {**arrays(0), "W": np.zeros((3, 2))}, "'W' is (3, 2) float64, expected (3, 2) float32"),
    ],
)
def test_a_wrong_save_is_refused_and_the_run_goes_on(tmp_path, step, given_arrays, named):
    path = tmp_path / "run.h5"
    with fresh(path) as writer:
        writer.save(4, arrays(4))
        with pytest.raises(GrokscopeError) as refused:
            writer.save(step, given_arrays)
        assert named in str(refused.value)
        writer.save(8, arrays(8))
    with Trajectory(path) as run:
        assert run.steps.tolist() == [4, 8]
    with pytest.raises(GrokscopeError, match="after the trajectory was closed"):
        writer.save(10, arrays(10))
