"""Events and verdicts of runs whose every accuracy is planted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grokscope.probes import probe
from grokscope.probes.clocks import turning_point
from grokscope.tasks import ModularSettings, modular_task
from tests.probes.lookup import lookup_settings, memoriser, perfect, silent_network

P = 11
SETTINGS = ModularSettings(p=P, train_fraction=0.4)
SUITE = ["loss", "clocks"]


@pytest.fixture
def task():
    return modular_task(SETTINGS, 0)


def planted(make_run, networks, steps=None):
    return probe(make_run(lookup_settings(P), SETTINGS, networks, steps=steps), only=SUITE)


def test_a_run_that_groks_is_dated_by_its_saves(make_run, task):
    silent, learned, whole = silent_network(P), memoriser(task), perfect(task)
    record = planted(make_run, [silent] * 2 + [learned] * 3 + [whole] * 4)
    fit, grok = record.events["fit"], record.events["grok"]
    assert (fit.after, fit.by) == (10, 20)
    assert (grok.after, grok.by) == (40, 50)
    assert record.events["grok_unmirrored"] == grok
    assert record.delay == (40 / 20, 50 / 10)
    assert record.verdict is not None
    assert record.verdict.state == "grokked"
    assert "between steps 10 and 20" in record.verdict.sentence
    assert "between steps 40 and 50, 2 to 5 times later" in record.verdict.sentence
    shape = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert shape["events"]["fit"] == {"after": 10, "by": 20}
    assert shape["events"]["delay"] == {"low": 2.0, "high": 5.0}
    assert shape["verdict"]["state"] == "grokked"


def test_a_memoriser_is_called_one_and_its_accuracy_explained(make_run, task):
    record = planted(make_run, [silent_network(P)] * 2 + [memoriser(task)] * 8)
    assert record.verdict is not None
    assert record.verdict.state == "memorised"
    assert record.events["grok"].by is None
    test, mirrored = record["accuracy.test"][3], record.notes["loss.pairs"]["test_mirrored"]
    share = mirrored / (test * (mirrored + record.notes["loss.pairs"]["test_unmirrored"]))
    assert f"{share:.0%} of it mirrored pairs (1.000 of them right" in record.verdict.sentence
    shape = record.to_json()["events"]
    assert shape["grok"] == {"after": 90, "by": None}
    assert shape["delay"]["high"] is None


def test_generalising_at_once_is_not_grokking(make_run, task):
    record = planted(make_run, [silent_network(P)] * 3 + [perfect(task)] * 5, steps=range(100, 108))
    assert record.verdict is not None
    assert record.verdict.state == "generalised without delay"
    assert record.delay == (102 / 103, 103 / 102)


def test_a_run_that_never_fits(make_run):
    record = planted(make_run, [silent_network(P)] * 6)
    assert record.verdict is not None
    assert record.verdict.state == "not fitted"
    assert "not by step 50" in record.verdict.sentence


def test_a_coarse_interval_is_an_alert_with_a_command(make_run, task):
    record = planted(
        make_run,
        [silent_network(P), memoriser(task), memoriser(task), memoriser(task)] + [perfect(task)] * 3,
        steps=[0, 100, 101, 102, 5000, 5001, 5002],
    )
    texts = [alert.text for alert in record.alerts]
    assert any("interval of fit" in text for text in texts)
    assert any("interval of grok" in text for text in texts)
    assert all(alert.command.startswith("grokscope ") for alert in record.alerts)


def test_without_clocks_no_state_is_claimed(make_run, task):
    run = make_run(lookup_settings(P), SETTINGS, [memoriser(task)])
    assert probe(run, only=["loss"]).to_json()["verdict"]["state"] == "not applicable"


def test_classifier_clock_of_a_planted_loss(make_run, task):
    """A loss that falls from log p to nothing crosses every level between the same two saves."""
    record = planted(make_run, [silent_network(P)] * 4 + [perfect(task)] * 4)
    ends = record["clocks.classifier"]
    assert ends.shape == (len(record.coordinates["epsilon"]), 2)
    held = np.array(record.coordinates["epsilon"]) <= np.log(P)
    assert np.all(ends[held] == [30, 40])


def test_the_turning_point_is_where_the_fall_begins():
    steps = np.arange(0, 200, 10)
    rises_then_falls = np.concatenate([np.linspace(1, 3, 8), np.full(4, 3.0), np.linspace(2.5, 0, 8)])
    change = turning_point(steps, rises_then_falls, 20, 0.0, falls=True)
    assert change.crossing is not None
    assert (change.crossing.after, change.crossing.by) == (110, 120)
    rising = turning_point(steps, -rises_then_falls, 20, 0.0, falls=False)
    assert rising.crossing == change.crossing
    assert turning_point(steps, np.linspace(0, 1, 20), 20, 0.0, falls=True).crossing is None
