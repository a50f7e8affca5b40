from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.trajectory import Trajectory, TrajectoryWriter, verify_trajectory

COUNT = 23
VALUES = np.random.default_rng(3).normal(size=(COUNT, 3, 2)).astype(np.float32)
STEPS = np.arange(COUNT) * 10


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "run.h5"
    write(path)
    return path


def write(path: Path, block_rows: int = 5, values: np.ndarray = VALUES) -> None:
    params = {"W": ((3, 2), np.float32), "half": ((), np.float64)}
    with TrajectoryWriter(path, params, ["loss", "acc"], block_rows=block_rows, scalar_rows=7) as writer:
        for step, value in zip(STEPS.tolist(), values, strict=True):
            writer.save(step, {"W": value, "half": np.asarray(step / 2)})
        for step in range(31):
            writer.scalar(step, {"acc": step / 31, "loss": 1 / (1 + step)})


def test_everything_is_read_back(path):
    with Trajectory(path) as run:
        np.testing.assert_array_equal(run.steps, STEPS)
        assert run.names == ("W", "half")
        assert run.shapes == {"W": (3, 2), "half": ()}
        assert run.dtypes == {"W": np.dtype("f4"), "half": np.dtype("f8")}
        assert run.schema == 1
        np.testing.assert_array_equal(run.read("W"), VALUES)
        np.testing.assert_array_equal(run.read("half"), STEPS / 2)
        assert list(run.scalars) == ["step", "acc", "loss"]
        np.testing.assert_array_equal(run.scalars["step"], np.arange(31))
        np.testing.assert_array_equal(run.scalars["loss"], 1 / (1 + np.arange(31)))
        for index in (0, 7, -1):
            at = run.params_at(index)
            assert set(at) == {"W", "half"}
            np.testing.assert_array_equal(at["W"], VALUES[index])
            assert at["half"] == STEPS[index] / 2
            assert at["half"].shape == ()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(
        st.slices(COUNT),
        st.lists(st.integers(-COUNT, COUNT - 1), max_size=12).map(
            lambda rows: np.array(rows, dtype=np.int64)
        ),
        st.lists(st.booleans(), min_size=COUNT, max_size=COUNT).map(np.array),
    )
)
def test_any_choice_of_rows_is_that_of_numpy(path, rows):
    with Trajectory(path) as run:
        np.testing.assert_array_equal(run.read("W", rows), VALUES[rows])


@pytest.mark.parametrize("rows", [np.array([COUNT]), np.array([-COUNT - 1]), np.zeros(COUNT + 1, dtype=bool)])
def test_rows_outside_the_run_are_refused(path, rows):
    with Trajectory(path) as run, pytest.raises(GrokscopeError, match="within 23 saves"):
        run.read("W", rows)
    with Trajectory(path) as run, pytest.raises(GrokscopeError, match="within 23 saves"):
        run.params_at(COUNT)


def test_an_unknown_tensor_is_refused_with_the_nearest(path):
    with (
        Trajectory(path) as run,
        pytest.raises(GrokscopeError, match=r"did you mean 'half'.*stored are W, half"),
    ):
        run.read("halve")


def test_what_is_handed_out_is_a_copy(path):
    with Trajectory(path) as run:
        run.steps[:] = 0
        run.scalars["step"][:] = 0
        np.testing.assert_array_equal(run.steps, STEPS)
        assert run.scalars["step"][-1] == 30


def test_the_checksum_is_over_names_dtypes_shapes_and_bytes(path, tmp_path):
    digest = hashlib.sha256()
    loss = 1 / (1 + np.arange(31))
    for name, array in [
        ("steps", STEPS.astype("<i8")),
        ("params/W", VALUES),
        ("params/half", STEPS / 2),
        ("scalars/step", np.arange(31)),
        ("scalars/acc", np.arange(31) / 31),
        ("scalars/loss", loss),
    ]:
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    with Trajectory(path) as run:
        assert run.checksum() == digest.hexdigest()
    # Another chunking is another file of the same content.
    other = tmp_path / "other.h5"
    write(other, block_rows=3)
    assert other.read_bytes() != path.read_bytes()
    assert verify_trajectory(other).checksum == digest.hexdigest()


@pytest.mark.parametrize("row", [0, 12, 22])
def test_the_checksum_sees_one_bit(path, tmp_path, row):
    values = VALUES.copy()
    values.view(np.int32)[row, 1, 1] ^= 1
    write(tmp_path / "other.h5", values=values)
    assert verify_trajectory(tmp_path / "other.h5").checksum != verify_trajectory(path).checksum


def test_verify_reports_what_is_there(path):
    report = verify_trajectory(path)
    assert (report.schema, report.saves, report.first_step, report.last_step) == (1, COUNT, 0, 220)
    assert (report.scalar_rows, report.problems) == (31, ())
    assert report.as_dict()["checksum"] == report.checksum
    assert len(report.checksum or "") == 64


def test_verify_before_any_commit_says_so(tmp_path):
    path = tmp_path / "run.h5"
    with TrajectoryWriter(path, {"W": ((2,), "f4")}, ["loss"]) as writer:
        writer.save(0, {"W": np.zeros(2, np.float32)})
        report = verify_trajectory(path)
        assert (report.saves, report.first_step, report.last_step, report.checksum) == (0, None, None, None)
        assert "nothing is committed yet" in report.problems[0]
    assert verify_trajectory(path).problems == ()


def chunk_place(path: Path, name: str, row: int) -> tuple[int, int]:
    with h5py.File(path) as file:
        dataset = file[name]
        assert isinstance(dataset, h5py.Dataset)
        info = dataset.id.get_chunk_info_by_coord((row, *(0,) * (dataset.ndim - 1)))
        return info.byte_offset, info.size


def test_a_corrupted_chunk_is_named(tmp_path):
    path = tmp_path / "run.h5"
    write(path)
    offset, size = chunk_place(path, "params/W", 5)
    with path.open("r+b") as raw:
        raw.seek(offset + size // 2)
        byte = raw.read(1)[0]
        raw.seek(offset + size // 2)
        raw.write(bytes([byte ^ 1]))
    with pytest.raises(GrokscopeError) as damaged:
        verify_trajectory(path)
    assert "tensor 'W' is damaged in rows 5 to 9" in str(damaged.value)
    assert "\n" not in str(damaged.value)
    with Trajectory(path) as run:
        # The other blocks and tensors are as readable as before.
        np.testing.assert_array_equal(run.read("W", slice(10, None)), VALUES[10:])
        np.testing.assert_array_equal(run.read("half"), STEPS / 2)


def test_a_missing_chunk_is_damage_and_not_zeros(tmp_path):
    path = tmp_path / "run.h5"
    write(path)
    with h5py.File(path, "r+", libver=("v108", "v108")) as file:
        weights = file["params/W"]
        assert isinstance(weights, h5py.Dataset)
        weights.resize(15, axis=0)
        weights.resize(COUNT, axis=0)
    with Trajectory(path) as run:
        np.testing.assert_array_equal(run.read("W", slice(0, 15)), VALUES[:15])
        with pytest.raises(GrokscopeError, match=r"tensor 'W' is damaged.*rows 15 to 19 is missing"):
            run.read("W", slice(12, 17))


def test_a_tensor_shorter_than_the_marker_is_damage(tmp_path):
    path = tmp_path / "run.h5"
    write(path)
    with h5py.File(path, "r+", libver=("v108", "v108")) as file:
        weights = file["params/W"]
        assert isinstance(weights, h5py.Dataset)
        weights.resize(15, axis=0)
    with pytest.raises(GrokscopeError, match="/params/W is shorter than /steps"):
        verify_trajectory(path)


def test_opening_is_lazy_and_refresh_looks_again(tmp_path):
    path = tmp_path / "run.h5"
    run = Trajectory(path)
    with pytest.raises(GrokscopeError, match="no such file"):
        run.steps  # noqa: B018
    params = {"W": ((2,), "f4")}
    with TrajectoryWriter(path, params, [], block_rows=2) as writer:
        for step in range(3):
            writer.save(step, {"W": np.full(2, step, np.float32)})
    assert run.steps.tolist() == [0, 1, 2]
    with TrajectoryWriter.resume(path, params, []) as writer:
        for step in range(7):
            writer.save(step, {"W": np.full(2, step, np.float32)})
    # A view of one moment, until asked again.
    assert run.steps.tolist() == [0, 1, 2]
    assert run.read("W").shape == (3, 2)
    run.refresh()
    assert run.steps.tolist() == list(range(7))
    np.testing.assert_array_equal(run.read("W")[:, 0], np.arange(7))
    run.close()
    assert run.steps.size == 7


def test_importing_the_package_is_light():
    code = (
        "import sys, grokscope.trajectory\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'sklearn', 'click'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
