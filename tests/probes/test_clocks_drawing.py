"""Which quantity moved first, drawn: order is claimed only where intervals do not overlap."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from grokscope.measures.crossings import Crossing
from grokscope.probes.clocks_drawing import MOST_ONSETS, compared, draw_events, draw_onsets
from grokscope.probes.drawing import MIRRORED, NEUTRAL, TEST, TRAIN, new_figure, styled
from grokscope.probes.record import Record
from grokscope.probes.regions_drawing import stretches


def at(after: int | None, by: int | None) -> Crossing:
    return Crossing(after, by, by is None)


@pytest.mark.parametrize(
    ("event", "reference", "order"),
    [
        (at(0, 10), at(10, 20), "before"),  # half-open intervals that touch do not overlap
        (at(20, 30), at(10, 20), "after"),
        (at(0, 11), at(10, 20), "open"),
        (at(10, 20), at(10, 20), "open"),
        (at(None, 10), at(10, 20), "before"),
        (at(None, 10), at(None, 20), "open"),
        (at(0, 10), None, "open"),
    ],
)
def test_order_is_decided_by_intervals(event: Crossing, reference: Crossing | None, order: str) -> None:
    assert compared(event, reference) == order


def drawn(events: dict[str, Crossing]) -> Figure:
    record = Record("r", np.arange(0, 1000, 10), events=events)
    with styled():
        figure = new_figure((8.0, 4.0))
        draw_onsets(record, figure)
    return figure


def test_onsets_are_signed_and_coloured_by_their_order() -> None:
    figure = drawn({
        "onset.loss.test": at(100, 200),
        "onset.fourier.embedding.gini": at(50, 90),
        "onset.spectra.product.effective_rank": at(300, 310),
        "onset.spectra.embedding.stable_rank": at(150, 160),
        "onset.spectra.embedding.effective_rank": at(900, None),
        "fit": at(10, 20),
    })  # fmt: skip
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "◀ embedding: gini",
        "embedding: stable rank",
        "● loss: test",
        "▶ product: effective rank",
    ]
    bars = [line for line in axes.lines if line.get_linewidth() == 6]
    assert [bar.get_color() for bar in bars] == [TRAIN, NEUTRAL, TEST, MIRRORED]
    assert list(np.asarray(bars[0].get_xdata())) == [50, 90]


def test_the_test_loss_stays_among_many() -> None:
    events = {f"onset.spectra.m{i}.stable_rank": at(10 * i, 10 * i + 10) for i in range(40)}
    labels = [
        t.get_text() for t in drawn({**events, "onset.loss.test": at(900, 910)}).axes[0].get_yticklabels()
    ]
    assert len(labels) == MOST_ONSETS
    assert labels[-1] == "● loss: test"


def test_events_follow_the_time_axis_of_every_other_figure() -> None:
    record = Record("r", np.arange(0, 1000, 10), events={"fit": at(10, 20), "grok": at(500, 510)})
    with styled():
        figure = new_figure((8.0, 4.0))
        draw_events(record, figure)
    assert figure.axes[0].get_xlim() == (0, 990)
    assert figure.axes[0].get_xscale() == "symlog"


def test_stretches_are_runs_between_saves() -> None:
    assert stretches(np.array([True, True, False, True])) == [(0, 2), (3, 4)]
    assert stretches(np.array([False, False])) == []
    assert stretches(np.array([True])) == [(0, 1)]
    assert stretches(np.array([], dtype=bool)) == []
