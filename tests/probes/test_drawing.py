"""Drawing aids: time axes, event marks, thinning, labels."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing
from grokscope.probes import Quantity, Record
from grokscope.probes.drawing import (
    CHANCE,
    EVENT_COLOURS,
    MAX_POINTS,
    TRAIN,
    PowerLabel,
    chance_lines,
    curve,
    finish,
    mark_events,
    new_figure,
    step_label,
    styled,
    thin,
    time_axes,
)


def record_of(steps: list[int]) -> Record:
    record = Record("r", np.array(steps))
    record.declare([Quantity("x", "", "Something."), Quantity("gap", "", "Between saves.")])
    record.add("x", np.arange(len(steps), dtype=float))
    record.add("gap", np.arange(len(steps) - 1, dtype=float), ("interval",))
    return record


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (5, "5"), (1000, "1k"), (1500, "1500"), (20_000, "20k"), (15_500, "15.5k"), (2e6, "2M")],
)
def test_steps_are_labelled_shortly(value: float, label: str) -> None:
    assert step_label(value) == label


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (1000.0, "1000"),
        (1e-6, "10⁻⁶"),
        (-1e5, "−10⁵"),
        (0.01, "0.01"),
        (2e-5, "2×10⁻⁵"),
        (0.5, "0.5"),
        (1.5, ""),
    ],
)
def test_powers_are_plain_text(value: float, label: str) -> None:
    assert PowerLabel()(value) == label


def test_thinning_keeps_the_ends_and_never_repeats() -> None:
    for count in (1, 2, MAX_POINTS, MAX_POINTS + 1, 10_000):
        kept = thin(count)
        assert kept[0] == 0
        assert kept[-1] == count - 1
        assert len(kept) == len(set(kept)) == min(count, MAX_POINTS)
    assert thin(0).size == 0


def test_the_time_axis_is_logarithmic_for_long_runs_and_shows_step_zero() -> None:
    (long,) = time_axes(Figure(), record_of([0, 10, 100, 10_000]))
    assert long.get_xscale() == "symlog"
    assert long.get_xlim() == (0, 10_000)
    assert [step_label(t) for t in long.get_xticks()] == ["0", "10", "100", "1k", "10k"]
    (short,) = time_axes(Figure(), record_of([0, 10, 20]))
    assert short.get_xscale() == "linear"
    (plain,) = time_axes(Figure(), record_of([0, 10, 10_000]), log=False)
    assert plain.get_xscale() == "linear"
    assert len(time_axes(Figure(), record_of([0, 10]), 2)) == 2


def test_events_are_marked_where_they_lie_and_their_names_keep_apart() -> None:
    record = record_of([0, 10, 100, 1000])
    record.events["fit"] = Crossing(90, 100, False)
    record.events["grok"] = Crossing(100, 110, False)
    (axes,) = time_axes(Figure(), record)
    assert [t.get_text() for t in axes.texts] == ["fit", "grok"]
    assert [t.get_horizontalalignment() for t in axes.texts] == ["right", "left"]
    edges = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches]  # pyright: ignore
    assert edges == [(90, 100), (100, 110)]


def test_unseen_events_are_not_marked_and_a_late_one_stays_inside() -> None:
    record = record_of([0, 10, 100, 1000])
    record.events["fit"] = Crossing(100, None, True)
    record.events["grok"] = Crossing(990, 1000, False)
    (axes,) = time_axes(Figure(), record)
    assert [(t.get_text(), t.get_horizontalalignment()) for t in axes.texts] == [("grok", "right")]
    mark_events(axes, record, ["elsewhere"])
    assert len(axes.texts) == 1
    assert set(EVENT_COLOURS) == {"fit", "grok"}


def test_a_curve_between_saves_stands_at_the_later_one_and_an_absent_one_is_told() -> None:
    record = record_of([0, 10, 20])
    (axes,) = time_axes(Figure(), record)
    assert curve(axes, record, "gap", "gap", TRAIN)
    assert axes.lines[-1].get_xdata().tolist() == [10, 20]  # pyright: ignore
    assert not curve(axes, record, "y", "y", TRAIN)


def test_a_band_that_moves_is_its_two_ends_and_is_told_as_chance() -> None:
    record = record_of(list(range(0, 4000, 10)))
    (axes,) = time_axes(Figure(), record)
    drawn = len(axes.lines)
    levels = record.steps[:, None] * np.array([1.0, 2.0, 3.0])
    chance_lines(axes, record.steps, levels, "random weights", TRAIN)
    low, high = axes.lines[drawn:]
    for line, factor in ((low, 1.0), (high, 3.0)):
        steps, values = (np.asarray(data) for data in line.get_data())
        np.testing.assert_array_equal(values, factor * steps)
        assert (steps[0], steps[-1]) == (0, 3990)
        assert len(steps) <= 60
        assert line.get_gid() == CHANCE
    assert axes.get_legend_handles_labels()[1] == ["random weights"]


def test_the_style_ends_with_its_context_and_leaves_the_backend_alone() -> None:
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.facecolor": "red"}):
        backend = matplotlib.rcParams._get_backend_or_none()  # pyright: ignore
        with styled():
            assert matplotlib.rcParams["axes.facecolor"] == "none"
            assert matplotlib.rcParams["lines.linewidth"] != 9.0
        assert matplotlib.rcParams["axes.facecolor"] == "red"
        assert matplotlib.rcParams._get_backend_or_none() == backend  # pyright: ignore


def test_finishing_labels_logarithms_in_plain_text_and_keeps_bad_mathematics_as_text() -> None:
    with styled():
        figure = new_figure((4, 3))
        axes = figure.subplots()
        axes.plot([1, 2], [1e-6, 1e3])
        axes.set_yscale("log")
        axes.set_title(r"$\lambda$")
        axes.set_xlabel(r"$\nosuch$ and \x07".replace(r"\x07", "\x07"))
        axes.pcolormesh(np.zeros((40, 40)))
        finish(figure)
    assert isinstance(axes.yaxis.get_major_formatter(), PowerLabel)
    assert axes.title.get_parse_math() or axes.get_title(loc="left")
    assert not axes.xaxis.label.get_parse_math()
    assert "\x07" not in axes.get_xlabel()
    assert axes.collections[0].get_rasterized()


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1e-6, 1e3, ["10⁻⁶", "10⁻⁴", "0.01", "1", "100"]),
        (0.015, 0.13, ["0.02", "0.05", "0.1"]),
        (0.31, 0.72, ["0.4", "0.5", "0.6", "0.7"]),
        (2.0e-5, 4.2e-5, ["2×10⁻⁵", "3×10⁻⁵", "4×10⁻⁵"]),
        (1.01, 1.09, ["1.025", "1.05", "1.075"]),
    ],
)
def test_a_logarithmic_axis_of_any_span_has_labels(low: float, high: float, labels: list[str]) -> None:
    with styled():
        figure = new_figure((4, 4))
        axes = figure.subplots()
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        finish(figure)
        figure.canvas.draw()
        shown = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        assert [text.get_text() for value, text in shown if low <= value <= high] == labels
