"""What the page carries: series, charts read off the drawings, and the views of every probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope import open_run, probe, write_report
from grokscope.errors import Absent
from grokscope.measures.crossings import Crossing
from grokscope.probes import Probe, Record, registered
from grokscope.probes.drawing import CHANCE, CYCLE, SERIES, TRAIN, band, curve, time_axes
from grokscope.probes.loss import draw_answers
from grokscope.probes.registry import FigureSpec
from grokscope.probes.views import MOST_KEYFRAMES, keyframes
from grokscope.report.encoding import decoded
from grokscope.report.figures import THEME, draw_figure, draw_figures
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.report.live import MOST_SERIES, as_script_data, live_json, make_views
from grokscope.report.tables import figure_tables
from grokscope.runs import Run
from grokscope.training import read_recipe, train
from grokscope.trajectory import TrajectoryWriter

VIEWS = {
    "answers": "answers", "logits": "matrix", "spectrum": "bars", "plane": "plane", "neurons": "neurons",
    "phases": "phases", "singular-values": "values", "flips": "bars", "shares": "shares",
}  # fmt: skip


SMALL = ("task.p=11", "model.d_embed=8", "model.hidden=[16]", "train.steps=60", "save.schedule=['0:end:6']")


@pytest.fixture(scope="module")
def make_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    def make(*changes: str) -> Run:
        directory = tmp_path_factory.mktemp("live") / "run"
        train(read_recipe("quickstart", [*SMALL, *changes]), directory, device="cpu")
        return open_run(directory)

    return make


@pytest.fixture(scope="module")
def run(make_small: Callable[..., Run]) -> Run:
    return make_small()


@pytest.fixture(scope="module")
def record(run: Run) -> Record:
    return probe(run)


@pytest.fixture(scope="module")
def probes(record: Record) -> list[Probe]:
    return [registered()[name] for name in record.probes]


@pytest.fixture(scope="module")
def views(run: Run, record: Record, probes: list[Probe]) -> dict[str, dict[str, Any]]:
    return {view.content["id"]: dict(view.content) for view in make_views(run, record, probes)}


def test_every_probe_gives_its_views(views: dict[str, dict[str, Any]]) -> None:
    assert {name: view["kind"] for name, view in views.items()} == VIEWS
    assert all(view["title"] and view["caption"] for view in views.values())


def test_answers_are_those_of_the_network(run: Run, views: dict[str, dict[str, Any]]) -> None:
    view = views["answers"]
    right = decoded(view["right"])
    for row in (0, len(run.steps) - 1):
        logits = run.logits(run.params(row))
        assert np.array_equal(right[row], (logits.argmax(1) == run.task.targets).numpy())
    assert np.array_equal(decoded(view["train"])[0], run.task.train_mask.numpy())
    assert view["p"] == 11
    assert view["mirrored"] is True


def test_answers_without_a_split_mark_no_pair(run: Run, record: Record) -> None:
    lost = replace(run, task=replace(run.task, no_split=Absent("the split is not known")))
    content = draw_answers(lost, record)
    assert content is not None
    assert content["train"] is None
    assert content["mirrored"] is False


def test_no_pair_is_mirrored_where_order_matters(make_small: Callable[..., Run]) -> None:
    run = make_small("task.op=sub")
    content = draw_answers(run, Record("r", run.steps))
    assert content is not None
    assert content["train"] is not None
    assert content["mirrored"] is False


def test_the_logit_map_is_the_answer_over_the_mean(run: Run, views: dict[str, dict[str, Any]]) -> None:
    layer = views["logits"]["layers"][0]["values"]
    rows = layer["frames"]
    logits = run.logits(run.params(rows[-1]))
    expected = (logits.gather(1, run.task.targets[:, None])[:, 0] - logits.mean(1)).numpy()
    assert np.abs(decoded(layer)[-1].ravel() - expected).max() <= layer["error"] * 1.01 + 1e-6


def test_spectrum_and_singular_values_are_those_measured(
    record: Record, views: dict[str, dict[str, Any]]
) -> None:
    layer = views["spectrum"]["layers"][0]["values"]
    assert np.abs(decoded(layer) - record["fourier.embedding.fraction"]).max() <= layer["error"] * 1.01
    found = {layer["label"]: layer for layer in views["singular-values"]["layers"]}["mean active"]
    sigma = record["spectra.mean_active.singular_values"]
    shown = sigma[found["values"]["frames"]][:, [rank - 1 for rank in found["ranks"]]]
    held = decoded(found["values"])
    large = shown > 1e-8
    assert np.abs(held[large] / shown[large] - 1).max() <= found["values"]["error"] * 1.01


def test_flips_add_up_to_what_the_probe_measured(record: Record, views: dict[str, dict[str, Any]]) -> None:
    layer = views["flips"]["layers"][0]["values"]
    shares = decoded(layer).mean(1)
    expected = record["regions.flipped"][np.array(layer["frames"]) - 1]
    assert np.abs(shares - expected).max() <= layer["error"] * 1.01


def test_shares_are_of_squared_gradients(record: Record, views: dict[str, dict[str, Any]]) -> None:
    view = views["shares"]
    found = decoded(view["values"])
    squares = np.stack([record[f"gradients.{block}.norm"] ** 2 for block in view["labels"]], axis=1)
    assert np.abs(found - squares / squares.sum(1, keepdims=True)).max() <= view["values"]["error"] * 1.01


def test_neurons_and_phases_stand_for_the_same_neurons(
    record: Record, views: dict[str, dict[str, Any]]
) -> None:
    neurons, phases = views["neurons"], views["phases"]
    frequency = decoded(neurons["frequency"])
    assert set(np.unique(frequency)) <= set(range(6))
    assert neurons["frequency"]["error"] == 0
    weight = decoded(phases["weight"])
    assert frequency.shape == weight.shape == (11, 16)
    assert not weight[frequency == 0].any()  # a neuron without a frequency has no phase
    shares = np.array([(frequency[-1] == k).sum() for k in range(1, 6)]) / max((frequency[-1] > 0).sum(), 1)
    assert np.allclose(shares, record["fourier.key_frequencies.by_neuron"][-1])


def test_what_is_kept_is_not_made_again(
    run: Run, record: Record, probes: list[Probe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptDrawings(tmp_path, record)
    first = make_views(run, record, probes, kept)
    kept.store()
    for one in probes:
        monkeypatch.setattr(one, "views", [_refusing(spec) for spec in one.views])
    assert make_views(run, record, probes, KeptDrawings(tmp_path, record)) == first


def _refusing(spec: Any) -> Any:
    def refuse(run: Run, record: Record) -> None:
        raise AssertionError("made again")

    return replace(spec, make=refuse)


def test_a_plugins_view_that_fails_says_so_and_ours_raises(
    run: Run,
    record: Record,
    make_probe: Callable[..., Probe],
    probes: list[Probe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(run: Run, record: Record) -> None:
        raise ValueError("no <b>luck</b>\nat all")

    theirs = replace(make_probe("theirs", ()), measure=broken)  # of this module, so not grokscope's own
    theirs.view("broken", "bars", "Mine", "c")(broken)
    (view,) = make_views(run, record, [theirs])
    assert view.content["kind"] == "failed"
    assert view.content["caption"] == "It could not be made: ValueError: no <b>luck</b>"
    loss = probes[0]
    monkeypatch.setattr(loss, "views", [*loss.views, theirs.views[0]])
    with pytest.raises(ValueError, match="luck"):
        make_views(run, record, [loss], strict=True)
    assert make_views(run, record, [loss])[-1].content["kind"] == "failed"


def test_a_record_of_other_saves_gets_no_views(run: Run, probes: list[Probe]) -> None:
    assert make_views(run, Record("r", np.array([0, 1])), probes) == []


def test_series_come_back_in_single_precision(record: Record, probes: list[Probe]) -> None:
    charts = {d.key: d.chart for d in draw_figures(probes[0], record, "f1", strict=True) if d.chart}
    page = json.loads(live_json(record, charts, [], {}))
    names, values = page["series"]["names"], decoded(page["series"]["values"])
    assert {"loss.train", "accuracy.test"} <= set(names)
    for index, name in enumerate(names):
        assert np.array_equal(values[index], record[name].astype(np.float32))
    line = page["charts"]["f1-1"]["axes"][0]["lines"][0]
    assert names[line["series"]] == "loss.train"
    assert page["steps"] == record.steps.tolist()


def test_an_interval_stands_at_its_later_save(record: Record, probes: list[Probe]) -> None:
    regions = next(one for one in probes if one.name == "regions")
    charts = {d.key: d.chart for d in draw_figures(regions, record, "f5", strict=True) if d.chart}
    series = json.loads(live_json(record, charts, [], {}))["series"]
    index = series["names"].index("regions.flipped")
    assert series["intervals"][index] == 1
    values = decoded(series["values"])[index]
    assert np.isnan(values[0])
    assert np.array_equal(values[1:], record["regions.flipped"].astype(np.float32))


def test_no_more_series_than_the_page_may_hold(make_record: Callable[..., Record]) -> None:
    record = make_record(40, extra=150)
    lines = [{"label": "", "series": f"many.{i}"} for i in range(150)]
    page = json.loads(live_json(record, {"f1-1": {"axes": [{"lines": lines}]}}, [], {}))
    assert len(page["series"]["names"]) == MOST_SERIES
    beyond = page["charts"]["f1-1"]["axes"][0]["lines"][-1]
    assert beyond["series"] is None
    assert beyond["x"] == record.steps.tolist()
    assert np.allclose(beyond["y"], record["many.149"], rtol=1e-3)


def test_nothing_in_the_data_ends_the_script() -> None:
    text = as_script_data({"a": "</script><script>alert(1)//&<!--"})
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text)["a"].startswith("</script>")


def drawn(record: Record, draw: Callable[..., None]) -> dict[str, Any]:
    chart = draw_figure(FigureSpec("t", "c", draw), record, "f")[1]
    assert chart is not None
    return chart


def test_a_chart_is_what_was_drawn(make_record: Callable[..., Record]) -> None:
    record = make_record(30)

    def draw(record: Record, figure: Any) -> None:
        left, right = time_axes(figure, record, 2)
        curve(left, record, "loss.train", "train", TRAIN, linestyle="--")
        left.set_yscale("log")
        band(left, 0.1, 0.2, "random weights")
        left.axhline(0.5, label="level")
        right.plot([0, 10], [1.0, 2.5], color=CYCLE[1], label="mine")
        right.set_ylabel("share")

    left, right = drawn(record, draw)["axes"]
    assert left["live"] is right["live"] is True
    assert left["lines"][0] == {
        "label": "train", "colour": "--c1", "dash": [4, 3], "width": 1.7, "series": "loss.train",
    }  # fmt: skip
    assert left["bands"] == [{"from": 0.1, "to": pytest.approx(0.2), "label": "random weights"}]
    assert left["levels"] == [{"at": 0.5, "label": "level"}]
    assert left["yscale"] == "log"

    def folded(record: Record, figure: Any) -> None:
        (axes,) = time_axes(figure, record)
        curve(axes, record, "loss.train", "train", TRAIN)
        axes.set_yscale("symlog", linthresh=0.25, linscale=0.3)

    (axes,) = drawn(record, folded)["axes"]
    assert (axes["yscale"], axes["ylinthresh"], axes["ylinscale"]) == ("symlog", 0.25, 0.3)
    assert right["lines"][0]["x"] == [0, 10]
    assert right["lines"][0]["y"] == [1, 2.5]
    assert right["ylabel"] == "share"
    assert left["rect"][0] < left["rect"][2] <= right["rect"][0]
    assert {line["colour"] for line in (*left["lines"], *right["lines"])} <= set(THEME.values())


def test_what_is_more_than_lines_stays_a_drawing(make_record: Callable[..., Record]) -> None:
    record = make_record(30)

    def image(record: Record, figure: Any) -> None:
        (axes,) = time_axes(figure, record)
        axes.pcolormesh([0.0, 1.0], [0.0, 1.0], [[1.0]])

    def words(record: Record, figure: Any) -> None:
        (axes,) = time_axes(figure, record)
        axes.plot([0, 1], [0, 1])
        axes.set_yticks([0, 1], ["one", "two"])

    for draw in (image, words):
        assert drawn(record, draw)["axes"][0]["live"] is False


def test_the_two_ends_of_a_moving_band_have_names_in_tables(record: Record) -> None:
    levels = np.stack([record.steps * 1.0, record.steps * 2.0, record.steps * 3.0], axis=1)

    def draw(record: Record, figure: Any) -> None:
        (axes,) = time_axes(figure, record)
        axes.plot(record.steps, levels[:, 0], ":", gid=CHANCE, label="random weights")
        axes.plot(record.steps, levels[:, 2], ":", gid=CHANCE, label="")
        axes.set_ylabel("rank")

    chart = drawn(record, draw)
    (axes,) = chart["axes"]
    assert axes["live"]
    assert [(line["name"], line["label"]) for line in axes["lines"]] == [
        ("random weights, low", "random weights"), ("random weights, high", "")
    ]  # fmt: skip
    (table,) = figure_tables(record, chart)
    assert table.head == ("step", "rank: random weights, low", "rank: random weights, high")


def test_a_figure_without_time_has_its_data_and_no_chart(make_record: Callable[..., Record]) -> None:
    record = make_record(5)

    def plain(record: Record, figure: Any) -> None:
        figure.subplots().plot([0, 1], [0, 1])

    spec = FigureSpec("t", "c", plain)
    chart = draw_figure(spec, record, "f")[1]
    assert chart is not None
    assert [(axes["time"], axes["lines"], axes["tables"][0]["columns"]) for axes in chart["axes"]] == [
        (False, [], [[0, 1], [0, 1]])
    ]
    empty = FigureSpec("t", "c", lambda record, figure: None)
    assert draw_figure(empty, record, "f")[1] is None


def test_every_axes_of_every_figure_has_its_data(record: Record, probes: list[Probe]) -> None:
    drawings = [d for p in probes for d in draw_figures(p, record, p.name, strict=True)]
    assert len(drawings) > 12
    seen = any(event.by is not None for event in record.events.values())
    for drawing in drawings:
        assert drawing.chart is not None, drawing.title
        if drawing.title in ("What happened when", "Which quantity moved first") and not seen:
            continue  # nothing happened in so short a run
        for axes in drawing.chart["axes"]:
            assert axes["lines"] if axes["live"] else axes.get("tables"), drawing.title
        assert figure_tables(record, drawing.chart), drawing.title


def test_names_of_series_are_those_of_the_record(record: Record, probes: list[Probe]) -> None:
    for position, one in enumerate(probes, 1):
        for drawing in draw_figures(one, record, f"f{position}", strict=True):
            for axes in (drawing.chart or {"axes": []})["axes"]:
                for line in axes["lines"]:
                    assert line["series"] is None or line["series"] in record.measurements
                    assert SERIES not in line["label"]


def test_keyframes_are_dense_around_events() -> None:
    record = Record("r", np.arange(0, 5000, 5))
    record.events = {"fit": Crossing(100, 105, False), "grok": Crossing(3000, 3005, False)}
    rows = keyframes(record)
    assert len(rows) <= MOST_KEYFRAMES
    assert (np.diff(rows) > 0).all()
    assert rows[0] == 0
    assert rows[-1] == 999
    steps = record.steps[rows]
    plain = Record("r", record.steps)
    around = lambda these: int(((these > 2000) & (these < 4500)).sum())  # noqa: E731
    assert around(steps) > 1.5 * around(plain.steps[keyframes(plain)])


def test_all_keyframes_there_may_be_are_used() -> None:
    for count in (65, 93, 400):
        record = Record("r", np.arange(0, 10 * count, 10))
        record.events = {"fit": Crossing(30, 40, False), "grok": Crossing(500, 510, False)}
        rows = keyframes(record)
        assert len(set(rows.tolist())) == MOST_KEYFRAMES


def test_few_saves_are_all_keyframes() -> None:
    assert keyframes(Record("r", np.array([0, 3, 9]))).tolist() == [0, 1, 2]


def test_the_page_holds_the_live_data(run: Run, record: Record, tmp_path: Path) -> None:
    text = write_report(run, tmp_path / "page.html", record=record, strict=True).read_text()
    start = text.index('id="live">') + len('id="live">')
    page = json.loads(text[start : text.index("</script>", start)])
    assert {view["id"] for view in page["views"]} == set(VIEWS)
    assert all(f'id="{view["probe"]}"' in text for view in page["views"])
    assert all(f'data-figure="{key}"' in text for key in page["charts"])


@pytest.mark.parametrize("broken", [4, 10, range(11)])
def test_saves_that_are_not_finite_are_left_out(
    make_small: Callable[..., Run], broken: Any, tmp_path: Path
) -> None:
    run = make_small()
    stored, scalars = run.trajectory, run.scalars
    saves = [stored.params_at(row) for row in range(len(run.steps))]
    columns = {name: (stored.shapes[name], stored.dtypes[name]) for name in stored.names}
    path = run.path / "trajectory.h5"
    path.unlink()
    with TrajectoryWriter(
        path, columns, [n for n in scalars if n != "step"], expected_saves=len(saves)
    ) as writer:
        for row, weights in enumerate(saves):
            bad = row in ([broken] if isinstance(broken, int) else broken)
            writer.save(int(run.steps[row]), {n: v * np.nan if bad else v for n, v in weights.items()})
        for row, step in enumerate(scalars["step"]):
            writer.scalar(int(step), {n: float(v[row]) for n, v in scalars.items() if n != "step"})
    spoilt = open_run(run.path)
    record = probe(spoilt)
    found = make_views(spoilt, record, [registered()[name] for name in record.probes], strict=True)
    assert live_json(record, {}, found, {})  # numbers only, all of them finite
    frames = {
        v.content["id"]: v.content["frequency"]["frames"] for v in found if v.content["id"] == "neurons"
    }
    assert frames == (
        {} if not isinstance(broken, int) else {"neurons": [r for r in range(11) if r != broken]}
    )
