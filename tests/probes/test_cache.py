"""Measuring a run once: when the stored record is used, and when it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.probes import Suite
from grokscope.probes.cache import MEASUREMENTS, cache_key, chosen_probes, measure_run
from grokscope.runs import Run, open_run
from grokscope.training import recipe_from, train

CONFIG = {
    "name": "tiny",
    "seed": 3,
    "task": {"name": "modular", "op": "add", "p": 5, "train_fraction": 0.5},
    "model": {"family": "mlp", "d_embed": 4, "hidden": [8], "activation": "relu"},
    "train": {"steps": 6, "optimizer": "sgd", "lr": 1e-2},
    "save": {"schedule": ["0:end:2"], "snapshots": 6},
}
NORMS = Suite("norms only", ("norms",))
PLUGIN = """
from grokscope.probes import Quantity, register

@register("counted_{n}", question="How many?", quantities=[Quantity("counted.{n}", "", "A count.")])
def counted(run, record):
    record.add("counted.{n}", [float({n})] * len(record.steps))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    directory = tmp_path / "checkpoints" / "tiny-s3"
    train(recipe_from(CONFIG, "a test"), directory, device="cpu")
    return open_run(directory)


class Counter:
    """Counts the probes that really ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, position: int, total: int) -> None:
        self.names.append(name)


def test_the_second_time_nothing_is_measured_and_the_record_is_the_same(run: Run) -> None:
    count = Counter()
    first = measure_run(run, NORMS, progress=count)
    second = measure_run(open_run(run.path), NORMS, progress=count)
    assert count.names == ["norms"]
    assert json.dumps(first.to_json()) == json.dumps(second.to_json())
    assert list(first.measurements) == list(second.measurements)
    measure_run(run, NORMS, progress=count, refresh=True)
    assert count.names == ["norms", "norms"]


def test_another_suite_measures_again(run: Run) -> None:
    count = Counter()
    measure_run(run, NORMS, progress=count)
    measure_run(run, Suite("loss only", ("loss",)), progress=count)
    assert count.names == ["norms", "loss"]


@pytest.mark.parametrize("change", [{"only": ["norms"]}, {"steps": "0:4:2"}])
def test_a_part_is_measured_but_does_not_take_the_place_of_the_whole(
    run: Run, change: dict[str, Any]
) -> None:
    count = Counter()
    suite = Suite("two", ("norms", "loss"))
    measure_run(run, suite, progress=count)
    part = measure_run(run, suite, progress=count, **change)
    assert len(part.steps) == (3 if "steps" in change else 4)
    before = list(count.names)
    assert len(before) > 2
    measure_run(run, suite, progress=count)
    assert count.names == before


def test_the_key_follows_everything_a_record_depends_on(run: Run, tmp_path: Path) -> None:
    def key(at: Run = run, suite: Suite = NORMS, steps: str | None = None) -> str:
        return json.dumps(cache_key(at, suite, chosen_probes(suite), steps), sort_keys=True)

    plain = key()
    assert key(open_run(run.path)) == plain
    keys = {
        plain,
        key(suite=Suite("norms only", ("norms",), "", {"norms": {}})),
        key(steps="0:4:2"),
        key(run.select("0:4:2")),
    }
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["config"]["train"]["lr"] = 0.5
    (run.path / "run.json").write_text(json.dumps(manifest))
    keys.add(key(open_run(run.path)))
    assert len(keys) == 5


def test_a_plug_in_runs_is_stored_and_its_file_is_in_the_key(run: Run, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.replace("{n}", "7"))
    count = Counter()
    first = measure_run(run, NORMS, plugins=[plugin], progress=count)
    again = measure_run(run, NORMS, plugins=[plugin], progress=count)
    assert count.names == ["norms", "counted_7"]
    for record in (first, again):
        values = record.get("counted.7")
        assert values is not None
        assert np.array_equal(values, [7.0] * 4)
    probes = chosen_probes(NORMS, plugins=[plugin])
    before = cache_key(run, NORMS, probes, None)
    plugin.write_text(plugin.read_text() + "\n# edited\n")
    assert cache_key(run, NORMS, probes, None) != before


def test_damaged_measurements_are_measured_again(run: Run) -> None:
    count = Counter()
    measure_run(run, NORMS, progress=count)
    (run.path / MEASUREMENTS).write_bytes(b"not a file of measurements")
    assert measure_run(run, NORMS, progress=count).get("norm.total") is not None
    assert count.names == ["norms", "norms"]


def test_a_folder_that_cannot_be_written_still_measures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise GrokscopeError("writing measurements: no")

    monkeypatch.setattr("grokscope.probes.record.Record.save", refuse)
    assert measure_run(run, NORMS).get("norm.total") is not None
    assert MEASUREMENTS not in os.listdir(run.path)


def test_an_unknown_probe_is_told(run: Run) -> None:
    with pytest.raises(GrokscopeError, match="did you mean 'norms'"):
        measure_run(run, NORMS, only=["norm"])
