"""Alignment of Jacobians: planted networks, autograd sample by sample, and what has no such input."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from grokscope.models import (
    ComposedSettings,
    DeepLinearSettings,
    FeatureMLPSettings,
    MLPSettings,
    ModelSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.probes import alignment as module
from grokscope.probes import probe, registered
from grokscope.runs import Run
from grokscope.tasks import BlobsSettings, ModularSettings

P = 5
PAIRS = ModularSettings(op="add", p=P, train_fraction=0.6)
BLOBS = BlobsSettings(d=6, classes=3, per_class=10)
FAMILIES: dict[str, tuple[ModelSettings, ModularSettings | BlobsSettings]] = {
    "concatenation": (MLPSettings(d_embed=4, hidden=(9, 7), head_bias=True), PAIRS),
    "sum, gelu": (MLPSettings(d_embed=4, hidden=(9,), combine="sum", activation="gelu"), PAIRS),
    "quadratic": (MLPSettings(d_embed=4, hidden=(9,), activation="quadratic"), PAIRS),
    "transformer": (TransformerSettings(d_model=8, n_heads=2, d_mlp=10), PAIRS),
    "features": (FeatureMLPSettings(hidden=(8, 7), activation="relu"), BLOBS),
    "linear": (DeepLinearSettings(depth=2), BLOBS),
}


def saves(settings: ModelSettings, *, n_inputs: int | None, classes: int) -> list[Params]:
    model = build_model(settings, n_tokens=None if n_inputs else P, n_inputs=n_inputs, n_classes=classes)
    generator = torch.Generator().manual_seed(3)
    return [
        {part.name: torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in model.parts}
        for _ in range(2)
    ]


@pytest.fixture
def run_of(make_run):
    def make(name: str) -> Run:
        settings, task = FAMILIES[name]
        n_inputs, classes = (None, P) if task is PAIRS else (6, 3)
        drawn = saves(settings, n_inputs=n_inputs, classes=classes)
        return make_run(settings, task, drawn, name=name.replace(", ", "-"))

    return make


def logits_at(run: Run, params: Params, x: Tensor) -> Tensor:
    return run.model.from_embedded(params, x[None])[0]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_number_sample_by_sample(name, run_of):
    run = run_of(name)
    record = probe(run, only=["alignment"])
    json.dumps(record.to_json(), allow_nan=False)
    for save in (0, 1):
        params = run.params(save)
        for subset, mask in (("train", run.task.train_mask), ("test", ~run.task.train_mask)):
            x = run.model.embedded(params, run.task.inputs[mask])
            assert isinstance(x, Tensor)
            rows: dict[str, list[float]] = {}
            for one in x:
                J = torch.autograd.functional.jacobian(partial(logits_at, run, params), one)
                assert isinstance(J, Tensor)
                total, sigma = J.sum(0), torch.linalg.svdvals(J)
                size = float(J.norm())
                cosines = [cosine(row, one) for row in J if float(row.norm())]
                if not cosines:  # all gates closed: sizes are zero, and there is no angle
                    for key in ("centroid_inner", "centroid_norm", "jacobian_norm"):
                        rows.setdefault(key, []).append(0.0)
                    continue
                for key, value in (
                    ("centroid", cosine(total, one)), ("centroid_inner", float(total @ one)),
                    ("centroid_norm", float(total.norm())), ("row_max", max(cosines)), ("row_min", min(cosines)),
                    ("common_row", float(total.norm()) / (len(J) ** 0.5 * size)), ("jacobian_norm", size),
                    ("first_component", float(sigma[0] ** 2 / (sigma**2).sum())),
                ):  # fmt: skip
                    rows.setdefault(key, []).append(value)
            assert len(rows) == len(module._MEASURES)
            for key, values in rows.items():
                found = record[f"alignment.{key}.{subset}"][save]
                assert found == pytest.approx(float(np.mean(values)), rel=1e-9, abs=1e-12), (key, subset)


def test_a_linear_map_of_rank_one(make_run):
    """Its Jacobian is the same everywhere and its rows are parallel."""
    settings = DeepLinearSettings(depth=1)
    row = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    column = torch.arange(1.0, 7.0, dtype=torch.float64)
    record = probe(make_run(settings, BLOBS, [{"layer.1.W": column[:, None] * row}]), only=["alignment"])
    assert record["alignment.first_component.test"][0] == pytest.approx(1)
    assert record["alignment.jacobian_norm.train"][0] == pytest.approx(float(column.norm() * row.norm()))
    assert record["alignment.centroid_norm.train"][0] == pytest.approx(0.5 * float(column.norm()))
    assert record["alignment.common_row.train"][0] == pytest.approx(0.5 / (3**0.5 * float(row.norm())))
    # the classes pull both ways along one line
    assert record["alignment.row_max.train"][0] == pytest.approx(-record["alignment.row_min.train"][0])


def test_only_so_many_samples_are_drawn_and_always_the_same(make_run, monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 6)
    settings, task = FAMILIES["concatenation"]
    run = make_run(settings, task, saves(settings, n_inputs=None, classes=P))
    chosen = module.samples(run)
    assert {name: len(places) for name, places in chosen.items()} == {"train": 6, "test": 6}
    assert all(torch.equal(a, b) for a, b in zip(chosen.values(), module.samples(run).values(), strict=True))
    assert bool(run.task.train_mask[chosen["train"]].all())
    assert not bool(run.task.train_mask[chosen["test"]].any())
    record = probe(run, only=["alignment"])
    assert record.notes["alignment.samples"] == {"train": 6, "test": 6}


def test_blocks_of_samples_change_nothing(make_run, monkeypatch):
    settings, task = FAMILIES["transformer"]
    params = saves(settings, n_inputs=None, classes=P)
    whole = probe(make_run(settings, task, params, name="whole"), only=["alignment"])
    monkeypatch.setattr(module, "_ENTRIES", 200)
    parts = probe(make_run(settings, task, params, name="parts"), only=["alignment"])
    for name in whole.names("alignment"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_what_has_no_such_input_says_why(make_run):
    settings = ComposedSettings(d_model=8, n_heads=2, d_mlp=6)
    record = probe(make_run(settings, PAIRS, saves(settings, n_inputs=None, classes=P)), only=["alignment"])
    assert not record.names("alignment")
    assert "composed" in record.absent["alignment.centroid.<subset>"]


def test_weights_that_are_zero_have_no_alignment(make_run):
    settings, task = FAMILIES["concatenation"]
    (params, _) = saves(settings, n_inputs=None, classes=P)
    zero = {name: torch.zeros_like(value) for name, value in params.items()}
    record = probe(make_run(settings, task, [zero]), only=["alignment"])
    assert "zero" in record.absent["alignment.row_max.train"]
    assert record["alignment.jacobian_norm.train"][0] == 0


def test_its_figures_are_drawn(run_of, drawings):
    record = probe(run_of("features"), only=["alignment"])
    assert len(drawings(registered()["alignment"], record)) == 2
