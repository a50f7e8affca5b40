"""No number of a probe depends on the block its save is in, nor on whether it was read or computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch

from grokscope.models import DeepLinearSettings, MLPSettings, ModelSettings, TransformerSettings, build_model
from grokscope.probes import Record, probe, readings
from grokscope.probes.readings import READINGS
from grokscope.runs import Run
from grokscope.tasks import CompletionSettings, ModularSettings, TaskSettings, build_task

PROBES = ("norms", "fourier", "spectra")
RUNS: dict[str, tuple[ModelSettings, TaskSettings]] = {
    "mlp": (MLPSettings(d_embed=12, hidden=(20,)), ModularSettings(p=11)),
    "deep": (MLPSettings(d_embed=6, hidden=(8, 9)), ModularSettings(p=7)),
    "transformer": (TransformerSettings(d_model=12, n_heads=2, d_mlp=20), ModularSettings(p=11)),
    "product": (TransformerSettings(d_model=8, n_heads=2, d_mlp=9), ModularSettings(p=7, op="mul")),
    "linear": (DeepLinearSettings(depth=3), CompletionSettings(d=6, rank=2)),
}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, make_run: Callable[..., Run]) -> Run:
    model_settings, task_settings = RUNS[request.param]
    task = build_task(task_settings, 0)
    n_inputs = None if task.n_tokens is not None else task.inputs.shape[1]
    model = build_model(model_settings, n_tokens=task.n_tokens, n_inputs=n_inputs, n_classes=task.n_classes)
    generator = torch.Generator().manual_seed(3)
    saves = [model.init(generator, torch.float64) for _ in range(5)]
    first = model.parts[0].name
    saves[3] = {**saves[3], first: torch.full_like(saves[3][first], torch.nan)}
    return make_run(model_settings, task_settings, saves)


def measured(run: Run) -> Record:
    return probe(run, only=PROBES)


def assert_same(found: Record, expected: Record) -> None:
    assert list(found.measurements) == list(expected.measurements)
    assert found.absent == expected.absent
    for name, measurement in expected.measurements.items():
        assert np.array_equal(found[name], measurement.values, equal_nan=True), name


def test_blocks_and_the_store_change_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measured(run)
    assert_same(measured(run), expected)
    monkeypatch.setattr(readings, "BLOCK_BYTES", 1)
    shutil.rmtree(run.path / READINGS)
    assert_same(measured(run), expected)
    # saves that come one after another, as those of a run that goes on
    shutil.rmtree(run.path / READINGS)
    for last in (0, 20, 30):
        measured(run.select(f"0:{last}:1"))
    assert_same(measured(run), expected)
