"""Measurements as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import numpy as np

from grokscope.probes import Probe, Quantity, Record
from grokscope.report.csv_files import (
    arrays_csv,
    csv_files,
    definitions_csv,
    probe_csv,
)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_every_number_over_steps_to_the_last_bit(record: Record) -> None:
    read = rows(
        probe_csv(record, ["loss.train", "loss.slope", "fourier.embedding.fraction", "fourier.chance"])
    )
    assert [int(r["step"]) for r in read] == record.steps.tolist()
    assert [float(r["loss.train"]) for r in read] == record.measurements["loss.train"].values.tolist()
    assert read[0]["loss.slope"] == ""
    assert [float(r["loss.slope"]) for r in read[1:]] == record.measurements["loss.slope"].values.tolist()
    fraction = record.measurements["fourier.embedding.fraction"].values
    assert float(read[-1]["fourier.embedding.fraction[5]"]) == fraction[-1, 4]
    assert "fourier.chance" not in read[0]


def test_undefined_entries_are_empty(record: Record) -> None:
    read = rows(probe_csv(record, ["fourier.unembedding.gini"]))
    assert [r["fourier.unembedding.gini"] for r in read[:2]] == ["", ""]
    assert "nan" not in probe_csv(record, record.names())


def test_arrays_without_steps_go_to_a_file_of_their_own(record: Record, probes: list[Probe]) -> None:
    read = rows(arrays_csv(record, record.names("fourier")))
    assert [(r["quantity"], r["at"], r["value"]) for r in read][:2] == [
        ("fourier.chance", "", "0.0481"),
        ("fourier.key_frequencies", "0", "5"),
    ]
    assert arrays_csv(record, ["loss.train"]) == ""
    assert list(csv_files(record, probes)) == [
        "loss.csv",
        "fourier.csv",
        "fourier-arrays.csv",
        "definitions.csv",
    ]


def test_definitions_name_units_meanings_and_sources(record: Record) -> None:
    read = {r["quantity"]: r for r in rows(definitions_csv(record))}
    assert set(read) == set(record.measurements)
    assert read["fourier.embedding.gini"]["source"] == "arXiv 2606.13753"
    assert read["loss.slope"]["unit"] == "nat/step"


def test_no_cell_is_a_formula(make_probe: Callable[..., Probe]) -> None:
    record = Record("r", np.array([0]))
    record.declare([Quantity("=cmd()", "+1", "-meaning", "@source")])
    record.add("=cmd()", np.array([-1.0]))
    (header, line), (_, definition) = (
        list(csv.reader(io.StringIO(text)))
        for text in (probe_csv(record, ["=cmd()"]), definitions_csv(record))
    )
    assert header == ["step", "'=cmd()"]
    assert line == ["0", "-1.0"]
    assert definition == ["'=cmd()", "'+1", "'-meaning", "'@source"]
