"""Weight norms: planted values, what counts as a weight matrix, and saves that are not finite."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from grokscope.models import MLPSettings, Params, TransformerSettings, build_model
from grokscope.probes.norms import norms
from grokscope.probes.record import Record
from grokscope.tasks import ModularSettings

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
