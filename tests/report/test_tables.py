"""What the tables of a page say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from grokscope.measures.crossings import Crossing
from grokscope.probes import Probe, Quantity, Record
from grokscope.report.formatting import number
from grokscope.report.tables import (
    FIGURE_ROWS,
    MOST_ROWS,
    Table,
    array_table,
    claim_rows,
    event_tables,
    figure_tables,
    moments,
    natural,
    series_table,
    share_out,
    single_table,
    small_arrays,
    unit,
    vitals,
)


def small() -> Record:
    record = Record("r", np.array([0, 10, 20, 30]))
    record.declare([Quantity("a.<x>", "nat", "First."), Quantity("b", "", "Second.")])
    return record


def test_each_name_goes_to_the_probe_that_declares_it(record: Record, probes: list[Probe]) -> None:
    held, others = share_out(record, probes)
    assert held["loss"].measured[:2] == ["loss.slope", "loss.test"]
    assert all(n.startswith("fourier") for n in held["fourier"].measured)
    assert held["fourier"].absent == [("fourier.circularity", "the two largest circles have equal variance")]
    assert others.measured == others.absent == []
    _, left = share_out(record, probes[:1])
    assert "fourier.chance" in left.measured
    assert len(left.absent) == 1


def test_a_plug_in_that_declares_everything_takes_only_what_is_its_own(
    record: Record, probes: list[Probe], make_probe: Callable[..., Probe]
) -> None:
    greedy = make_probe("greedy", (Quantity("<anything>", "", "All of it."),))
    held, _ = share_out(record, [*probes, greedy])
    assert held["greedy"].measured == []
    held, _ = share_out(record, [greedy, *probes])
    assert held["greedy"].measured == []


def test_the_order_of_names_is_that_of_the_declarations_and_natural(probes: list[Probe]) -> None:
    record = small()
    for name in ("b", "a.10", "a.2"):
        record.add(name, np.zeros(4))
    probe = probes[0]
    probe.quantities = record._declared
    held, _ = share_out(record, [probe])
    assert held["loss"].measured == ["a.2", "a.10", "b"]
    assert natural("x.2") < natural("x.10")


def test_moments_are_the_first_save_fit_grok_and_the_last() -> None:
    record = small()
    assert moments(record) == [("first save\nstep 0", 0), ("last save\nstep 30", 3)]
    record.events["fit"] = Crossing(5, 11, False)  # between saves: the next one shows it
    record.events["grok"] = Crossing(20, 30, False)
    assert moments(record) == [
        ("first save\nstep 0", 0),
        ("fit\nstep 20", 2),
        ("grok, last save\nstep 30", 3),
    ]
    record.events["grok"] = Crossing(30, None, True)
    assert len(moments(record)) == 3


def test_series_are_read_at_the_moments_and_undefined_entries_are_dashes() -> None:
    record = small()
    record.add("a.x", np.array([1.5, 2.5, 3.5, np.nan]))
    record.add("b", np.array([7, 8, 9]), ("interval",))
    table = series_table(record, ["a.x", "b"])
    assert table is not None
    assert table.rows == [("a.x", "1.500", "–", "nat"), ("b", "–", "9", "")]
    without = series_table(record, ["b"])
    assert without is not None
    assert "unit" not in without.head
    assert series_table(record, []) is None


def test_single_numbers_small_arrays_and_the_rest_are_shown_once_each() -> None:
    record = small()
    record.add("a.one", 3.0, ())
    record.add("a.few", np.array([1.0, 2.0]), ("k",))
    record.add("a.more", np.array([3.0, 4.0]), ("k",))
    record.add("a.square", np.array([[1.0, 2.0], [3.0, 4.0]]), ("k", "m"))
    record.add("a.long", np.zeros(500), ("n",))
    record.add("a.wide", np.zeros((4, 9)), ("step", "n"))
    record.coordinate("k", [5, 14])
    names = record.names()
    single, arrays = single_table(record, names), array_table(record, names)
    assert single is not None
    assert single.rows == [("a.one", "3", "nat")]
    few, square = small_arrays(record, names)
    assert (few.head, few.rows) == (
        ("k", "5", "14", "unit"),
        [("a.few", "1", "2", "nat"), ("a.more", "3", "4", "nat")],
    )
    assert square.title == "a.square (nat)"
    assert square.rows == [("5", "1", "2"), ("14", "3", "4")]
    assert arrays is not None
    assert [row[:2] for row in arrays.rows] == [("a.long", "n 500"), ("a.wide", "step 4 × n 9")]


def test_a_long_table_folds_its_end_away() -> None:
    rows = [(str(i), "0") for i in range(100)]
    table = Table(("n", "v"), rows)
    assert len(table.first) == MOST_ROWS
    assert table.first + table.rest == rows
    assert Table(("n", "v"), rows[: MOST_ROWS + 3]).rest == []


def test_events_come_in_order_with_the_unseen_last(record: Record) -> None:
    record.events["half_fall.loss.test"] = Crossing(5, 7, False)
    own, further = event_tables(record)
    assert own is not None
    assert [row[0] for row in own.rows] == ["fit", "grok", "grok_99"]
    assert own.rows[-1][2] == "not seen"
    assert further is not None
    assert further.rows == [("half_fall.loss.test", "5", "7")]
    assert event_tables(small()) == (None, None)


def test_a_pure_number_shows_no_unit() -> None:
    assert unit(Quantity("x", "1", "")) == ""
    assert unit(Quantity("x", "nat", "")) == "nat"


def test_claims_and_vitals_are_the_records(record: Record) -> None:
    assert [row[-1] for row in claim_rows(record)] == ["✓", "✓", "✗", "–"]
    assert claim_rows(small()) == []
    found = {v.label: v.value for v in vitals(record)}
    fit = record.events["fit"]
    assert found["Fit"] == f"{fit.after} to {fit.by}"
    assert found["Delay"].endswith("×")
    assert found["Mirrored test accuracy"] != found["Unmirrored test accuracy"]
    assert vitals(small()) == []


def chart(*lines: dict[str, Any], tables: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"box": [1, 1], "axes": [{"ylabel": "share", "lines": list(lines), "tables": list(tables)}]}


def of(*names: str) -> list[dict[str, Any]]:
    return [{"label": name, "series": name} for name in names]


def test_a_figure_has_twenty_rows_where_no_script_runs(
    record: Record, make_record: Callable[..., Record]
) -> None:
    (table,) = figure_tables(
        record, chart(*of("loss.train", "loss.slope", "fourier.embedding.fraction", "gone"))
    )
    assert table.head == ("step", "loss.train", "loss.slope")
    assert len(table.rows) == FIGURE_ROWS
    first, last = table.rows[0], table.rows[-1]
    assert first == ("0", number(record["loss.train"][0]), "–")  # nothing lies before the first save
    assert last[1:] == (number(record["loss.train"][-1]), number(record["loss.slope"][-1]))
    (few,) = figure_tables(make_record(5), chart(*of("loss.train")))
    assert len(few.rows) == 5
    assert figure_tables(record, chart(*of("gone"))) == []


def test_lines_of_their_own_stand_at_their_own_saves(record: Record) -> None:
    steps = record.steps[[0, 2, 4]].tolist()
    own = {"label": "k = 3", "series": None, "x": steps, "y": [0.5, None, 0.25]}
    (table,) = figure_tables(record, chart(own, *of("loss.train")))
    assert table.head == ("step", "share: k = 3", "loss.train")
    assert [row[:2] for row in table.rows] == [
        (str(step), text) for step, text in zip(steps, ("0.5000", "–", "0.2500"), strict=True)
    ]
    assert table.rows[1][2] == number(record["loss.train"][2])


def test_what_is_no_line_over_time_has_rows_too(record: Record) -> None:
    held = {"title": "Events", "head": ["name", "after step"], "columns": [["fit", "grok"], [30.0, None]]}
    (table,) = figure_tables(record, chart(tables=(held,)))
    assert (table.title, table.head, table.rows) == (
        "Events",
        ("name", "after step"),
        [("fit", "30"), ("grok", "–")],
    )
