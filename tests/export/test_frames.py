"""Records as tables, data sets and Parquet files, against the record itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.export import libraries as libraries
from grokscope.export import to_pandas, to_parquet, to_xarray
from grokscope.measures.crossings import Crossing
from grokscope.probes import Measurement, Quantity, Record, Verdict

LOSS = Quantity("loss.train", "nat", "Mean cross-entropy.", "arXiv 2201.02177")
SHARE = Quantity("share", "1", "Share of power.")


@pytest.fixture
def record() -> Record:
    made = Record("a run", np.array([0, 10, 40]))
    made.declare(
        (LOSS, SHARE, Quantity("flipped", "1", "Gates that flipped."), Quantity("lines", "step", "Ends."))
    )
    made.coordinate("frequency", [1, 2])
    made.add("loss.train", np.array([4.0, np.nan, 0.5]))
    made.add("share", np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]), ("step", "frequency"))
    made.add("flipped", np.array([0.25, 0.5]), ("interval",))
    made.add("lines", np.array([1, 2, 3, 4]), ("frequency",))
    made.events["fit"] = Crossing(10, 40, False)
    made.delay = (float("inf"), None)
    made.verdict = Verdict("grokked", (), "It grokked.")
    made.probes = ["loss"]
    return made


def test_a_table_has_a_row_a_save_and_a_column_a_quantity(record: Record) -> None:
    pytest.importorskip("pandas")
    table = to_pandas(record)
    assert table.index.name == "step"
    assert table.index.tolist() == [0, 10, 40]
    assert list(table.columns) == ["loss.train", "flipped"]
    np.testing.assert_array_equal(table["loss.train"].to_numpy(), [4.0, np.nan, 0.5])
    np.testing.assert_array_equal(table["flipped"].to_numpy(), [np.nan, 0.25, 0.5])
    assert table.attrs["units"] == {"loss.train": "nat", "flipped": "1"}
    assert table.attrs["definitions"]["loss.train"] == "Mean cross-entropy. arXiv 2201.02177"
    assert (table.attrs["run"], table.attrs["state"]) == ("a run", "grokked")
    assert table.attrs["events"]["fit"] == {"after": 10, "by": 40}
    json.dumps(table.attrs, allow_nan=False)


def test_arrays_become_a_column_an_entry(record: Record) -> None:
    pytest.importorskip("pandas")
    table = to_pandas(record, arrays=True)
    assert list(table.columns) == ["loss.train", "share[1]", "share[2]", "flipped"]
    assert table["share[2]"].tolist() == [0.9, 0.8, 0.7]


def test_a_data_set_has_every_array_with_its_axes_and_units(record: Record) -> None:
    pytest.importorskip("xarray")
    found = to_xarray(record)
    assert set(found.data_vars) == set(record.measurements)
    for name, m in record.measurements.items():
        np.testing.assert_array_equal(found[name].to_numpy(), m.values)
        assert found[name].attrs["units"] == m.quantity.unit
    assert found["share"].dims == ("step", "frequency")
    assert found["share"].sel(step=10, frequency=2).item() == 0.8
    assert found["flipped"].sel(interval=40).item() == 0.5
    # an axis name at another length gets a name of its own, and no labels that are not its
    assert found["lines"].dims == ("frequency_4",)
    assert "frequency_4" not in found.coords
    assert found.attrs["verdict"] == "It grokked."
    assert json.loads(found.attrs["events"])["fit"] == {"after": 10, "by": 40}


def test_a_parquet_file_reads_back_and_equal_records_give_equal_bytes(record: Record, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = to_parquet(record, tmp_path / "deep" / "run.parquet")
    read = pandas.read_parquet(path)
    pandas.testing.assert_frame_equal(read, to_pandas(record, arrays=True))
    assert read.attrs["units"]["share"] == "1"
    assert to_parquet(record, tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["run.parquet"]


def test_a_place_that_cannot_be_written_is_told_in_one_line(record: Record, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "file").write_text("")
    with pytest.raises(GrokscopeError, match="expected a writable place") as told:
        to_parquet(record, tmp_path / "file" / "run.parquet")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("pandas", to_pandas),
        ("xarray", to_xarray),
        ("pyarrow", lambda record: to_parquet(record, "never.parquet")),
    ],
)
def test_a_missing_library_is_told_with_what_installs_it(
    record: Record,
    missing: str,
    call: Callable[[Record], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    real = importlib.import_module

    def fail(name: str) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name)

    monkeypatch.setattr(libraries, "import_module", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GrokscopeError) as told:
        call(record)
    line = str(told.value)
    assert "\n" not in line
    assert line.endswith(f"{missing} is not installed, expected it; run: pip install 'grokscope[frames]'")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_record_gives_empty_frames() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("xarray")
    empty = Record("nothing", np.zeros(0, np.int64))
    assert to_pandas(empty).shape == (0, 0)
    assert len(to_xarray(empty).data_vars) == 0
    empty.measurements["one"] = Measurement(np.array(3.0), (), SHARE)
    assert to_xarray(empty)["one"].item() == 3.0
