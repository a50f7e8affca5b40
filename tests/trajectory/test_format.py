from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.trajectory import Trajectory, TrajectoryWriter, block_rows, open_h5, rows_per_chunk
from grokscope.trajectory.format import blocks


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((), "f4", 16),
        ((128, 512), "f4", 16),
        ((256, 256), "f8", 8),
        ((1024, 512), "f4", 2),
        ((1024, 1024), "f4", 1),
        ((4096, 4096), "f4", 1),
        ((3, 3), bool, 16),
    ],
)
def test_a_chunk_holds_sixteen_rows_or_four_mebibytes(shape, dtype, expected):
    assert rows_per_chunk(shape, dtype) == expected


@given(st.lists(st.integers(1, 3000), max_size=3), st.sampled_from(["f4", "f8", "i8", "?"]))
def test_chunks_stay_within_bounds(shape, dtype):
    rows = rows_per_chunk(tuple(shape), dtype)
    row_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    assert 1 <= rows <= 16
    assert rows == 1 or rows * row_bytes <= 4 << 20
    assert rows == 16 or (rows + 1) * row_bytes > 4 << 20


def test_a_run_has_one_block_size():
    assert block_rows({"small": ((3,), "f4"), "large": ((1024, 512), "f4")}) == 2
    assert block_rows({}) == 16


@given(st.integers(0, 50), st.integers(1, 9))
def test_blocks_cover_the_rows_once(count, rows):
    covered = [row for start, stop in blocks(count, rows) for row in range(start, stop)]
    assert covered == list(range(count))


def one_line(error: pytest.ExceptionInfo[GrokscopeError], *parts: object) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


def written(path: Path, saves: int = 40) -> Path:
    with TrajectoryWriter(path, {"W": ((4, 4), "f4")}, ["loss"], block_rows=4, scalar_rows=4) as writer:
        for step in range(saves):
            writer.save(step, {"W": np.full((4, 4), step, np.float32)})
            writer.scalar(step, {"loss": step})
    return path


def test_what_is_no_hdf5_file_is_named_so(tmp_path):
    path = tmp_path / "run.h5"
    with pytest.raises(GrokscopeError) as missing:
        open_h5(path)
    one_line(missing, path, "no such file")
    with pytest.raises(GrokscopeError) as directory:
        open_h5(tmp_path)
    one_line(directory, tmp_path, "is not a file")
    path.touch()
    with pytest.raises(GrokscopeError) as empty:
        open_h5(path)
    one_line(empty, path, "empty")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(GrokscopeError) as noise:
        open_h5(path)
    one_line(noise, path, "not an HDF5 file")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999])
def test_truncated_files_are_named_so(tmp_path, kept):
    path = written(tmp_path / "run.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(GrokscopeError) as truncated:
        Trajectory(path).steps  # noqa: B018
    one_line(truncated, path, "truncated")


def test_a_damaged_byte_is_an_error_in_one_line_or_changes_nothing(tmp_path):
    path = written(tmp_path / "run.h5", saves=12)
    content = path.read_bytes()
    with Trajectory(path) as run:
        whole = run.checksum()
    draw = np.random.default_rng(1)
    caught: list[str] = []
    for position in draw.choice(len(content), size=100, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            with Trajectory(path) as run:
                # The last block of a marker may read as uncommitted; what is shown is right.
                assert run.checksum() == whole or run.steps.size < 12 or run.scalars["step"].size < 12
        except GrokscopeError as error:
            caught.append(str(error))
    assert len(caught) > 15
    assert not any("\n" in line for line in caught)


def test_an_hdf5_file_that_is_no_trajectory_and_a_newer_schema(tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = np.arange(3)
    with pytest.raises(GrokscopeError) as foreign:
        Trajectory(other).steps  # noqa: B018
    one_line(foreign, other, "not a grokscope-trajectory")
    newer = written(tmp_path / "newer.h5")
    with h5py.File(newer, "r+") as file:
        file.attrs.modify("schema", np.int64(7))
    with pytest.raises(GrokscopeError) as schema:
        Trajectory(newer).steps  # noqa: B018
    one_line(schema, newer, "schema is 7", "up to 1")


def test_a_trajectory_without_its_parts_is_damaged(tmp_path):
    path = written(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        del file["steps"]
    with pytest.raises(GrokscopeError) as damaged:
        Trajectory(path).steps  # noqa: B018
    one_line(damaged, path, "/steps")


def external_link(file: h5py.File, secret: Path) -> None:
    file["params/deep"] = h5py.ExternalLink(str(secret), "/data")


def external_group(file: h5py.File, secret: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(secret), "/")


def soft_link_through_an_external_one(file: h5py.File, secret: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(secret), "/")
    file["params/soft"] = h5py.SoftLink("/elsewhere/data")


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("params/raw", shape=(8,), dtype="u1", external=[(str(secret), 0, 8)])


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    virtual = h5py.VirtualLayout(shape=(3,), dtype="i8")
    virtual[:] = h5py.VirtualSource(str(secret), "data", shape=(3,))
    file.create_virtual_dataset("params/view", virtual)


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (external_link, "an external link"),
        (external_group, "an external link"),
        (soft_link_through_an_external_one, "an external link"),
        (external_storage, "external storage"),
        (virtual_dataset, "a virtual dataset"),
    ],
)
def test_files_that_reach_into_others_are_refused(tmp_path, plant, named):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = np.arange(3)
    path = written(tmp_path / "run.h5")
    Trajectory(path).steps  # noqa: B018
    with h5py.File(path, "r+") as file:
        plant(file, secret)
    with pytest.raises(GrokscopeError) as refused:
        open_h5(path)
    one_line(refused, path, named)
    with pytest.raises(GrokscopeError) as refused:
        Trajectory(path).steps  # noqa: B018
    one_line(refused, path, named)
    with pytest.raises(GrokscopeError) as refused:
        TrajectoryWriter.resume(path, {"W": ((4, 4), "f4")}, ["loss"])
    one_line(refused, path, named)


def test_links_in_a_circle_are_walked_once(tmp_path):
    path = tmp_path / "circle.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a/b")
        group["up"] = file["a"]
        group["root"] = file["/"]
        file["a/soft"] = h5py.SoftLink("/nowhere")
    with open_h5(path) as file:
        assert "a" in file


def test_the_file_can_be_opened_by_plain_h5py(tmp_path):
    path = written(tmp_path / "run.h5")
    with h5py.File(path) as file:
        steps = file["steps"]
        weights = file["params/W"]
        assert isinstance(steps, h5py.Dataset)
        assert isinstance(weights, h5py.Dataset)
        np.testing.assert_array_equal(steps[:], np.arange(40))
        assert weights.chunks == (4, 4, 4)
        assert weights.fletcher32
        assert weights.compression is None
        assert weights.dtype == np.float32
        assert weights.shape == (40, 4, 4)
