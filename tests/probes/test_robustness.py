"""Accuracy under noise: planted networks whose answer under noise is known, and what has no such input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from grokscope.models import (
    ComposedSettings,
    DeepLinearSettings,
    FeatureMLPSettings,
    MLPSettings,
    build_model,
)
from grokscope.probes import probe, registered
from grokscope.probes import robustness as module
from grokscope.tasks import BlobsSettings, CompletionSettings, ModularSettings, XorSettings, build_task

F64 = torch.float64


def drawn(settings, *, n_tokens=None, n_inputs=None, classes: int) -> dict[str, torch.Tensor]:
    model = build_model(settings, n_tokens=n_tokens, n_inputs=n_inputs, n_classes=classes)
    generator = torch.Generator().manual_seed(1)
    return {part.name: torch.randn(part.shape, generator=generator, dtype=F64) for part in model.parts}


def test_a_linear_rule_loses_what_the_normal_distribution_says(make_run):
    """One sign decides and the net reads it alone: noise of a·rms flips it with probability Φ(−1/(a·rms))."""
    task = XorSettings(d=2, train=4, test=4000)
    built = build_task(task, 0)
    # |x₁ + x₂| − 1 is the product of two signs: four ReLUs
    w = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, 0.0]], dtype=F64)
    params = {"hidden.1.W": w, "hidden.1.b": torch.tensor([0.0, 0.0, 1.0], dtype=F64),
              "head.W_U": torch.tensor([[1.0], [1.0], [-1.0]], dtype=F64)}  # fmt: skip
    settings = FeatureMLPSettings(hidden=(3,), activation="relu", head_bias=False)
    record = probe(make_run(settings, task, [params]), only=["robustness", "loss"])
    assert record["accuracy.test"][0] == 1
    for amplitude, name in module.NAMES.items():
        # x₁ + x₂ is moved by N(0, 2a²), rms 1; right while | |s + n| − 0 | stays on its side of 1
        spread = amplitude * math.sqrt(2)
        same = norm.sf(1, 2, spread) + norm.cdf(-1, 2, spread)
        other = norm.cdf(1, 0, spread) - norm.cdf(-1, 0, spread)
        share = float((built.targets[4:] > 0).double().mean())
        expected = share * same + (1 - share) * other
        assert record[name][0] == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(module.SAMPLES))


@pytest.mark.parametrize("family", ["features", "pairs"])
def test_every_number_sample_by_sample(family, make_run):
    if family == "features":
        settings, task = (
            FeatureMLPSettings(hidden=(8,), activation="relu"),
            BlobsSettings(d=6, classes=3, per_class=10),
        )
        params = [drawn(settings, n_inputs=6, classes=3)]
    else:
        settings, task = (
            MLPSettings(d_embed=4, hidden=(9,)),
            ModularSettings(op="add", p=5, train_fraction=0.4),
        )
        params = [drawn(settings, n_tokens=5, classes=5)]
    run = make_run(settings, task, params)
    record = probe(run, only=["robustness"])
    inputs, targets = run.task.inputs[~run.task.train_mask], run.task.targets[~run.task.train_mask]
    x = run.model.embedded(run.params(0), inputs)
    assert isinstance(x, torch.Tensor)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    rms = math.sqrt(sum(float(v) ** 2 for v in x.flatten()) / x.numel())
    for amplitude, name in module.NAMES.items():
        right = [
            int(run.model.from_embedded(run.params(0), (row + amplitude * rms * shift)[None])[0].argmax())
            == int(y)
            for row, shift, y in zip(x, noise, targets, strict=True)
        ]
        assert record[name][0] == np.mean(right)
    assert set(record.names("robustness")) == set(module.NAMES.values())


def test_only_so_many_samples_are_drawn(make_run, monkeypatch):
    settings, task = (
        FeatureMLPSettings(hidden=(8,), activation="relu"),
        BlobsSettings(d=6, classes=3, per_class=10),
    )
    params = [drawn(settings, n_inputs=6, classes=3)]
    monkeypatch.setattr(module, "SAMPLES", 4)
    record = probe(make_run(settings, task, params), only=["robustness"])
    assert all(record[name][0] * 4 == round(record[name][0] * 4) for name in module.NAMES.values())


def test_what_has_no_classes_or_no_such_input_says_why(make_run):
    pairs = ModularSettings(op="add", p=5, train_fraction=0.6)
    composed = ComposedSettings(d_model=8, n_heads=2, d_mlp=6)
    record = probe(make_run(composed, pairs, [drawn(composed, n_tokens=5, classes=5)]), only=["robustness"])
    assert "composed" in record.absent["robustness.noise_1"]
    linear = DeepLinearSettings(depth=1)
    matrix = CompletionSettings(d=4, rank=1)
    record = probe(
        make_run(linear, matrix, [drawn(linear, n_inputs=4, classes=4)], name="matrix"), only=["robustness"]
    )
    assert "real numbers" in record.absent["robustness.noise_1"]


def test_weights_that_are_not_finite_have_no_number(make_run):
    settings, task = (
        FeatureMLPSettings(hidden=(8,), activation="relu"),
        BlobsSettings(d=6, classes=3, per_class=10),
    )
    good = drawn(settings, n_inputs=6, classes=3)
    bad = {name: torch.full_like(value, math.nan) for name, value in good.items()}
    record = probe(make_run(settings, task, [good, bad]), only=["robustness"])
    assert np.isnan(record["robustness.noise_1"][1])
    assert not np.isnan(record["robustness.noise_1"][0])


def test_its_figure_is_drawn(make_run, drawings):
    settings, task = (
        FeatureMLPSettings(hidden=(8,), activation="relu"),
        BlobsSettings(d=6, classes=3, per_class=10),
    )
    params = drawn(settings, n_inputs=6, classes=3)
    record = probe(make_run(settings, task, [params, params]), only=["loss", "robustness"])
    assert len(drawings(registered()["robustness"], record)) == 1
