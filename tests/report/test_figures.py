"""Figures as SVG inside a page: deterministic, closed in themselves, with text as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from grokscope.probes import FigureSpec, Probe, Quantity, Record
from grokscope.probes.drawing import CYCLE, TRAIN, curve, time_axes
from grokscope.report.figures import THEME, draw_figures, figure_svg

HOSTILE = "<script>alert(1)</script>\"'&]]>"


def svgs(probes: list[Probe], record: Record) -> list[str]:
    return [d.svg for p in probes for d in draw_figures(p, record, p.name, strict=True)]


def test_two_renders_are_equal(probes: list[Probe], make_record: Callable[..., Record]) -> None:
    assert svgs(probes, make_record()) == svgs(probes, make_record())


def test_different_data_give_different_figures(
    probes: list[Probe], make_record: Callable[..., Record]
) -> None:
    assert svgs(probes, make_record(60))[0] != svgs(probes, make_record(50))[0]


def test_ids_carry_the_prefix_and_every_reference_has_its_target(probes: list[Probe], record: Record) -> None:
    for probe in probes:
        for position, drawing in enumerate(draw_figures(probe, record, probe.name, strict=True), 1):
            root = ElementTree.fromstring(drawing.svg)
            ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
            assert len(ids) == len(set(ids)) > 2
            assert all(i.startswith(f"{probe.name}-{position}-") for i in ids)
            used = re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing.svg)
            assert used
            assert set(used) <= set(ids)


def test_an_svg_is_scalable_named_and_closed_in_itself(probes: list[Probe], record: Record) -> None:
    text = svgs(probes, record)[0]
    root = ElementTree.fromstring(text)
    assert root.attrib["viewBox"].split()[2:] == ["648", "266.4"]
    assert "width" not in root.attrib
    assert root.attrib["role"] == "img"
    titles = {e.attrib["id"]: e.text for e in root[:2]}
    assert [titles[i] for i in root.attrib["aria-labelledby"].split()] == [
        "Loss and accuracy",
        "Bands mark fit and grok.",
    ]
    assert "http" not in text
    assert "<style" not in text
    assert "metadata" not in text
    assert "font-family" not in text
    assert {"fit", "grok", "training step", "accuracy"} <= {e.text for e in root.iter("text")}


def test_colours_of_the_drawing_style_follow_the_theme(probes: list[Probe], record: Record) -> None:
    text = svgs(probes, record)[0]
    for colour in CYCLE[:2]:
        assert f"var({THEME[colour]}, {colour})" in text
    assert re.findall(r"(?<!, )#[0-9a-f]{6}", text) == []


def test_a_text_from_a_run_stays_text(record: Record, make_probe: Callable[..., Probe]) -> None:
    def draw(record: Record, figure: Figure) -> None:
        (axes,) = time_axes(figure, record)
        curve(axes, record, "loss.train", HOSTILE, TRAIN, gid=HOSTILE, url="https://example.org/")
        axes.set_ylabel("bell \x07 and \ud800, 群 and a bad $\\formula$")
        axes.legend()

    svg = figure_svg(FigureSpec(HOSTILE, HOSTILE, draw), record, "f")
    root = ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert "http" not in svg
    assert not [e for e in root.iter() if "href" in e.attrib and not e.attrib["href"].startswith("#")]
    texts = [e.text for e in root.iter("text")]
    assert texts.count(HOSTILE) == 1
    assert "bell \ufffd and \ufffd, 群 and a bad $\\formula$" in texts
    assert root[0].text == root[1].text == HOSTILE


def test_a_figure_whose_data_are_absent_is_left_out(probes: list[Probe], record: Record) -> None:
    titles = [d.title for d in draw_figures(probes[1], record, "f", strict=True)]
    assert titles == ["Fourier concentration", "Power by frequency"]


@pytest.mark.parametrize(
    ("need", "drawn"),
    [
        ("fourier.<map>.gini", True),
        ("fourier.<map>", True),
        ("loss.<subset>.null", False),
        ("many.<series>", False),
    ],
)
def test_a_need_with_a_placeholder_is_met_by_any_instance(
    make_probe: Callable[..., Probe], record: Record, need: str, drawn: bool
) -> None:
    spec = FigureSpec("t", "c", lambda record, figure: None, needs=(need,))
    assert bool(draw_figures(make_probe("any", (), (spec,)), record, "f", strict=True)) is drawn


def test_many_cells_become_one_picture(probes: list[Probe], make_record: Callable[..., Record]) -> None:
    heat = svgs(probes, make_record(300, frequencies=113))[2]
    assert 'href="data:image/png;base64,' in heat
    assert len(heat) < 200_000


def test_too_many_strokes_become_pixels_and_text_stays(record: Record) -> None:
    def draw(record: Record, figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(np.random.default_rng(0).random(20_000), "o", markersize=1)
        axes.set_xlabel("many points")

    svg = figure_svg(FigureSpec("t", "c", draw), record, "f")
    assert len(svg) < 400_000
    assert "many points" in svg
    assert svg.count("<use") < 100


def test_a_failing_figure_is_told_for_a_plug_in_and_raised_for_our_own(
    record: Record, make_probe: Callable[..., Probe]
) -> None:
    def draw(record: Record, figure: Figure) -> None:
        raise RuntimeError(f"no such thing {HOSTILE}\nsecond line")

    broken = FigureSpec("Broken", "Never seen.", draw)
    foreign = make_probe("foreign", (), (broken,), module="grokscope_plugin_mine")
    (drawing,) = draw_figures(foreign, record, "f", strict=True)
    assert drawing.svg == ""
    assert drawing.failure == f"RuntimeError: no such thing {HOSTILE}"
    ours = make_probe("ours", (), (broken,), module="grokscope.probes.ours")
    with pytest.raises(RuntimeError, match="no such thing"):
        draw_figures(ours, record, "f", strict=True)
    assert draw_figures(ours, record, "f", strict=False)[0].failure


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([0.0, 0.0, 0.0], "all weights are zero at every save, so"),
        ([0.0, np.nan, 0.0], "all weights are zero at every save that is finite"),
        ([np.nan] * 3, "no save has finite weights"),
    ],
)
def test_of_a_run_without_weights_a_figure_says_why_it_is_not_there(
    make_probe: Callable[..., Probe], sizes: list[float], said: str
) -> None:
    def draw(record: Record, figure: Figure) -> None:
        raise IndexError("tuple index out of range")

    record = Record("r", np.array([0, 1, 2]))
    record.declare([Quantity("norm.total", "", "Size.")])
    record.add("norm.total", np.array(sizes))
    ours = make_probe("ours", (), (FigureSpec("t", "c", draw),), module="grokscope.probes.ours")
    (drawing,) = draw_figures(ours, record, "f", strict=True)
    assert drawing.failure.startswith(said)
    foreign = make_probe("foreign", (), (FigureSpec("t", "c", draw),), module="grokscope_plugin_mine")
    assert draw_figures(foreign, record, "f", strict=True)[0].failure.startswith("IndexError")


def test_paths_are_short_and_end_where_they_ended(record: Record) -> None:
    x, y = np.linspace(0, 10, 200), np.random.default_rng(0).random(200)

    def draw(record: Record, figure: Figure) -> None:
        figure.subplots().plot(x, y, color=CYCLE[0])

    svg = figure_svg(FigureSpec("t", "c", draw), record, "f")
    paths = re.findall(r'd="M([\d.]+) ([\d.]+)l([^"MlzL]*)"', svg)
    start_x, start_y, steps = max(paths, key=lambda path: len(path[2]))
    moved = np.array([float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", steps)]).reshape(-1, 2)
    places = np.cumsum(np.vstack([[float(start_x), float(start_y)], moved]), axis=0)
    assert len(places) == 200
    assert len(steps) < 200 * 12
    # straight in both directions from data to paper, to within a tenth of a unit
    for side, values in enumerate((x, y)):
        slope, foot = np.polyfit(values, places[:, side], 1)
        assert np.abs(foot + slope * values - places[:, side]).max() < 0.11


def test_groups_that_do_nothing_are_gone_below_the_parts_of_a_figure(record: Record) -> None:
    def draw(record: Record, figure: Figure) -> None:
        for axes in figure.subplots(1, 2):
            axes.plot([0, 1], [0, 1])

    root = ElementTree.fromstring(figure_svg(FigureSpec("t", "c", draw), record, "f"))
    (sheet,) = root.findall("g")
    parts = list(sheet)
    assert [part.tag for part in parts] == ["g", "g", "g"]  # the paper and two axes
    assert all(inner.attrib for part in parts for inner in part.iter("g") if inner is not part)


def test_users_own_matplotlib_settings_do_not_show(probes: list[Probe], record: Record) -> None:
    import matplotlib

    plain = svgs(probes, record)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert svgs(probes, record) == plain


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_short_runs_draw(probes: list[Probe], make_record: Callable[..., Record], saves: int) -> None:
    record = make_record(saves)
    assert len(draw_figures(probes[0], record, "f", strict=True)) == 1


def test_numbers_are_short(record: Record) -> None:
    def draw(record: Record, figure: Figure) -> None:
        figure.subplots().plot(np.linspace(0, 1, 50), np.sin(np.linspace(0, 1, 50)))

    svg = figure_svg(FigureSpec("t", "c", draw), record, "f")
    paths = " ".join(re.findall(r' d="([^"]*)"', svg))
    assert re.search(r"\d\.\d", paths)
    assert not re.search(r"\.\d{3}", paths)
