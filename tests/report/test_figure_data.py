"""The data behind bars, dots, spans and heat maps, read off the axes that show them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.probes import Record
from grokscope.probes.drawing import CYCLE, band, styled, time_axes
from grokscope.report.encoding import decoded
from grokscope.report.figure_data import short_rows, tables_of
from grokscope.report.figures import THEME
from grokscope.report.live_charts import describe


@pytest.fixture
def axes(record: Record) -> Axes:
    with styled():
        return time_axes(Figure(layout="constrained"), record)[0]


@pytest.fixture
def plain() -> Axes:
    axes = Figure().subplots()
    axes.set_xlabel("width")
    axes.set_ylabel("loss")
    return axes


def test_named_stretches_are_rows_with_their_ends(axes: Axes) -> None:
    axes.plot([10, 40], [0, 0], linewidth=6)
    axes.plot([40], [0], marker="|")  # the mark at the end of a stretch
    axes.plot([20, 30], [1, 1])
    axes.plot([5, 8], [1, 1])
    axes.plot([7], [2], marker="o")
    axes.set_yticks([0, 1, 2, 3], ["fit", "frozen", "seen", "never"])
    (table,) = tables_of(axes)
    assert table["head"] == ["name", "after step", "by step"]
    assert list(zip(*table["columns"], strict=True)) == [
        ("fit", 10, 40), ("frozen", 5, 8), ("frozen", 20, 30), ("seen", 7, 7), ("never", None, None),
    ]  # fmt: skip


def test_a_heat_map_holds_its_values_where_each_cell_begins(axes: Axes) -> None:
    values = np.random.default_rng(0).random((4, 3))
    values[2, 1] = np.nan
    mesh = axes.pcolormesh([0, 10, 20, 40], [0.5, 1.5, 2.5, 3.5, 4.5], values)
    axes.set_ylabel("frequency")
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.set_label("share")
    (table,) = tables_of(axes)
    assert table["title"] == "share by step and frequency"
    assert (table["head"], table["x"], table["labels"]) == (["step"], [0, 10, 20], ["1", "2", "3", "4"])
    found = decoded(table["values"]).T
    assert np.array_equal(np.isnan(found), np.isnan(values))
    assert np.nanmax(np.abs(found - values)) <= table["values"]["error"] * 1.01
    assert tables_of(bar.ax) == []
    ((title, head, rows),) = short_rows([table], 4)
    assert (title, head) == ("share by step and frequency", ("step", "1", "4"))
    assert [row[0] for row in rows] == [0, 10, 20]
    assert rows[1][1:] == pytest.approx([values[0, 1], values[3, 1]], abs=0.01)


def test_a_picture_is_a_heat_map_too(plain: Axes) -> None:
    plain.imshow(np.arange(6.0).reshape(2, 3), extent=(0, 3, 2, 0))
    (table,) = tables_of(plain)
    assert (table["x"], table["labels"]) == ([0.5, 1.5, 2.5], ["0.5", "1.5"])
    assert np.allclose(decoded(table["values"]), np.arange(6.0).reshape(2, 3).T, atol=0.02)
    plain.images[0].remove()
    plain.imshow(np.zeros((2, 2, 3)))
    assert tables_of(plain) == []


def test_dots_bars_and_levels(plain: Axes) -> None:
    plain.scatter([1, 2], [3, 4], c=[5, 6])
    plain.bar([10], [4], width=2)
    plain.axhline(7, label="limit")
    dots, bars, levels = tables_of(plain)
    assert (dots["head"], dots["columns"]) == (["width", "loss", "value"], [[1, 2], [3, 4], [5, 6]])
    assert (bars["head"][:2], bars["columns"]) == (["width, from", "width, to"], [[9], [11], [0], [4]])
    assert (levels["head"], levels["columns"]) == (["level", "loss"], [["limit"], [7]])


def test_intervals_and_the_curve_through_them_share_a_table(plain: Axes) -> None:
    plain.vlines([1, 2], [0.5, 1.5], [1, 3])
    plain.plot([1, 2], [1, 3], label="upper")
    plain.plot([0, 5], [1, 3])
    plain.set_title("preferred: power")
    first, second = tables_of(plain)
    assert first["title"] == "preferred: power"
    assert first["head"] == ["width", "loss, from", "loss, to", "loss: upper"]
    assert first["columns"] == [[1, 2], [0.5, 1.5], [1, 3], [1, 3]]
    assert second["head"] == ["width", "loss"]


def test_bands_and_marks_of_events_are_no_data(axes: Axes) -> None:
    band(axes, 0.1, 0.2)
    assert tables_of(axes) == []


def test_only_axes_that_are_not_drawn_anew_have_tables(record: Record) -> None:
    with styled():
        figure = Figure(layout="constrained")
        live, heat = time_axes(figure, record, 2)
        live.plot([0, 1], [0, 1], label="a", color=CYCLE[0])
        heat.pcolormesh([0, 1, 2], [0, 1], [[1.0, 2.0]])
    chart = describe(figure, THEME)
    assert chart is not None
    assert [("tables" in axes, axes["live"]) for axes in chart["axes"]] == [(False, True), (True, False)]
    assert json.loads(json.dumps(chart, allow_nan=False)) == chart


def test_a_figure_without_time_is_described_by_its_tables(plain: Axes) -> None:
    plain.plot([1, 2, 3], [3, 2, 1])
    chart = describe(plain.get_figure(), THEME)  # pyright: ignore[reportArgumentType]
    assert chart is not None
    ((axes),) = chart["axes"]
    assert not axes["time"]
    assert axes["tables"][0]["columns"] == [[1, 2, 3], [3, 2, 1]]
    empty = Figure()
    empty.subplots()
    assert describe(empty, THEME) is None
