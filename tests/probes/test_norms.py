"""Weight norms: planted values, what counts as a weight matrix, and saves that are not finite."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from grokscope.models import MLPSettings, Params, TransformerSettings, build_model
from grokscope.probes import probe
from grokscope.probes.norms import norms
from grokscope.probes.record import Record
from grokscope.tasks import ModularSettings, modular_task
from tests.probes.lookup import lookup_settings, memoriser, perfect, silent_network

TASK = ModularSettings(op="add", p=5)
MLP = MLPSettings(d_embed=3, hidden=(4,), head_bias=True)


def ones(settings: MLPSettings | TransformerSettings, value: float = 1.0) -> Params:
    model = build_model(settings, n_tokens=5, n_inputs=None, n_classes=5)
    return {name: torch.full(shape, value, dtype=torch.float64) for name, shape in model.shapes.items()}


def measured(run) -> Record:
    record = Record(run.name, run.steps)
    norms(run, record)
    return record


def value(record: Record, name: str) -> np.ndarray:
    found = record.get(name)
    assert found is not None, record.absent.get(name, name)
    return found


def test_counts_matrices_and_no_biases(make_run):
    record = measured(make_run(MLP, TASK, [ones(MLP), ones(MLP, -2.0)]))
    sizes = {"embedding": 15, "hidden.1": 24, "head": 20}
    for block, count in sizes.items():
        expected = np.sqrt(count) * np.array([1.0, 2.0])
        np.testing.assert_allclose(value(record, f"norm.{block}"), expected, rtol=1e-14)
    np.testing.assert_allclose(value(record, "norm.total"), np.sqrt(59) * np.array([1.0, 2.0]), rtol=1e-14)
    assert set(record.measurements) == {"norm.total", *(f"norm.{block}" for block in sizes)}


def test_position_embeddings_count_and_gains_and_two_dimensional_biases_do_not(make_run):
    settings = TransformerSettings(d_model=4, n_heads=2, d_mlp=6, biases=True, layer_norm=True)
    record = measured(make_run(settings, TASK, [ones(settings)]))
    expected = {"embedding": 24, "position": 12, "attention": 64, "mlp": 48, "head": 20}
    for block, count in expected.items():
        np.testing.assert_allclose(value(record, f"norm.{block}"), [np.sqrt(count)], rtol=1e-14)
    np.testing.assert_allclose(value(record, "norm.total"), [np.sqrt(sum(expected.values()))], rtol=1e-14)
    assert record.get("norm.norm") is None


def test_steps_are_selected_and_blocks_agree_with_one_read(make_run, monkeypatch):
    saves = [ones(MLP, float(value)) for value in range(1, 8)]
    run = make_run(MLP, TASK, saves)
    whole = value(measured(run), "norm.total")
    monkeypatch.setattr("grokscope.probes.stepwise._BLOCK_BYTES", 1)
    np.testing.assert_array_equal(value(measured(run), "norm.total"), whole)
    np.testing.assert_array_equal(value(measured(run.select("20:60:20")), "norm.total"), whole[[2, 4, 6]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_save_that_is_not_finite_is_null_in_json(make_run, bad):
    broken = ones(MLP)
    broken["head.W_U"][0, 0] = bad
    record = measured(make_run(MLP, TASK, [ones(MLP), broken]))
    text = json.dumps(record.to_json(), allow_nan=False)
    values = json.loads(text)["measurements"]
    assert values["norm.head"]["values"] == [pytest.approx(np.sqrt(20)), None]
    assert values["norm.total"]["values"][1] is None
    assert values["norm.embedding"]["values"][1] == pytest.approx(np.sqrt(15))


def test_no_finite_save_is_absent_with_its_reason(make_run):
    record = measured(make_run(MLP, TASK, [ones(MLP, np.nan)]))
    assert record.get("norm.total") is None
    assert "not finite" in record.absent["norm.total"]


def test_the_norm_at_grok_is_that_of_the_first_save_there(make_run):
    """A run that answers everything from its fourth save on, one save being enough."""
    task_settings = ModularSettings(p=11, train_fraction=0.4)
    task = modular_task(task_settings, 0)
    networks = [silent_network(11), memoriser(task), memoriser(task), perfect(task)]
    record = probe(make_run(lookup_settings(11), task_settings, networks), only=["loss", "norms"])
    assert record["norm.at_grok"] == record["norm.total"][3]
    assert record.notes["norm.at_grok"] == {"step": 30}
    record = probe(
        make_run(lookup_settings(11), task_settings, networks[:3], name="short"), only=["loss", "norms"]
    )
    assert "never reaches 0.9" in record.absent["norm.at_grok"]
    alone = probe(make_run(lookup_settings(11), task_settings, networks, name="alone"), only=["norms"])
    assert "run the loss probe" in alone.absent["norm.at_grok"]
