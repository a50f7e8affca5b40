"""Every probe on every family that a card can compose: it runs, and what it leaves out it gives a reason for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from grokscope.models import (
    ComposedSettings,
    MLPSettings,
    ModelSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.probes import Record, probe, registered
from grokscope.runs import Run
from grokscope.tasks import ModularSettings

P = 7
TASK = ModularSettings(op="add", p=P, train_fraction=0.6)
FAMILIES: dict[str, ModelSettings] = {
    "llama": ComposedSettings(
        d_model=8,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_mlp=10,
        norm="rms",
        norm_place="post",
        final_norm=False,
        positions="rotary",
        gated_mlp=True,
        activation="silu",
        tied=True,
    ),
    "pizza": ComposedSettings(
        d_model=8,
        n_heads=2,
        d_mlp=10,
        prompt=("a", "b"),
        attention="bidirectional",
        attention_share=0.3,
        b_offset=P,
        mlp_bias=True,
        d_vocab_out=2 * P,
    ),
    "deep": ComposedSettings(
        d_model=8, n_layers=2, n_heads=2, d_mlp=10, mlp_bias=True, head_bias=True, query_key_value_bias=True
    ),
    "attention-only": ComposedSettings(
        d_model=8, n_heads=2, d_mlp=0, norm="layer", tied=True, head_bias=True
    ),
    "mean": ComposedSettings(d_model=8, n_heads=2, d_mlp=10, read="mean", attention="bidirectional"),
    "quadratic": MLPSettings(
        inputs="one-hot", combine="sum", hidden=(12,), hidden_bias=False, activation="quadratic"
    ),
    "one-hot": MLPSettings(inputs="one-hot", hidden=(12,), output_scale=0.5, head_bias=True),
    "one-hot-gelu": MLPSettings(inputs="one-hot", combine="sum", hidden=(12, 6), activation="gelu"),
    "rows": MLPSettings(d_embed=4, hidden=(12,), b_offset=P, d_vocab_out=9, out_offset=1, output_scale=-2.0),
    "transformer-scaled": TransformerSettings(d_model=8, n_heads=2, d_mlp=10, biases=True, output_scale=0.5),
    "norms-bare": TransformerSettings(
        d_model=8, n_heads=2, d_mlp=10, layer_norm=True, norm_gain=False, norm_bias=False, output_scale=-2.0
    ),
    "composed-scaled": ComposedSettings(d_model=8, n_heads=2, d_mlp=10, mlp_bias=True, output_scale=3.0),
    "tanh": MLPSettings(d_embed=4, hidden=(12,), combine="sum", activation="tanh"),
}
RATIOS = tuple(f"gradients.head_over_embedding{end}" for end in ("", "_per_parameter", "_relative"))


def saves(settings: ModelSettings, count: int = 3) -> list[Params]:
    model = build_model(settings, n_tokens=P, n_inputs=None, n_classes=P)
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(count):
        params = {}
        for part in model.parts:
            values = 0.5 * torch.randn(part.shape, generator=generator, dtype=torch.float64)
            params[part.name] = values + (part.kind == "gain")
        found.append(params)
    return found


@pytest.fixture
def run_of(make_run: Callable[..., Run]) -> Callable[[str], Run]:
    return lambda name: make_run(FAMILIES[name], TASK, saves(FAMILIES[name]), name=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_probe_runs_and_every_absence_has_its_reason(name: str, run_of) -> None:
    record = probe(run_of(name))
    json.dumps(record.to_json(), allow_nan=False)
    assert all(isinstance(reason, str) and len(reason) > 8 for reason in record.absent.values())
    plain = [
        quantity.name
        for one in record.probes
        for quantity in registered()[one].quantities
        if "<" not in quantity.name
    ]
    for quantity in plain:
        assert (record.get(quantity) is None) == (quantity in record.absent), quantity
    for quantity, found in record.measurements.items():
        # an unbounded end of a clock's interval is stored so
        assert quantity.startswith("clocks.") or np.isfinite(found.values.astype(float)).all(), quantity


@pytest.mark.parametrize("name", FAMILIES)
def test_block_gradients_and_the_head_in_closed_form(name: str, run_of) -> None:
    run: Run = run_of(name)
    record = probe(run, only=["gradients"])
    inputs, targets = (x[run.task.train_mask] for x in (run.task.inputs, run.task.targets))
    leaves = {key: value.clone().requires_grad_() for key, value in run.params(-1).items()}
    cross_entropy(run.model.forward(leaves, inputs), targets).backward()
    for block, names in run.model.blocks.items():
        found = [leaves[key].grad for key in names]
        norm = math.sqrt(sum(float(g.square().sum()) for g in found if g is not None))
        assert record[f"gradients.{block}.norm"][-1] == pytest.approx(norm, rel=1e-9), block
    if run.model.tied:
        reason = "the head is tied to the embedding"
        assert record.notes["head_equality"]["reason"] == reason
        assert all(record.absent[ratio] == reason for ratio in RATIOS)
        assert not record.names("gradients.head")
        return
    assert record.notes["head_equality"]["largest_relative_difference"] < 1e-9
    if "embedding" in run.model.blocks:
        sizes = [record[f"gradients.{block}.norm"] for block in ("head", "embedding")]
        np.testing.assert_allclose(record[RATIOS[0]], sizes[0] / sizes[1], rtol=1e-12)
    else:
        assert all("one-hots" in record.absent[ratio] for ratio in RATIOS)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("one-hot", ("head", "hidden.1")),
        ("one-hot-gelu", ("head", "hidden.1", "hidden.2")),
        ("rows", ("head", "hidden.1", "embedding")),
        ("pizza", ("head", "mlp")),
        ("deep", ("head", "mlp.1")),
        ("mean", ("head",)),
    ],
)
def test_cancellation_sample_by_sample(name: str, blocks: tuple[str, ...], run_of) -> None:
    """The closed per-sample norms against one backward pass a sample, and the bounds above them."""
    run: Run = run_of(name)
    record = probe(run, only=["gradients"])
    inputs, targets = (x[run.task.train_mask] for x in (run.task.inputs, run.task.targets))
    params, total = run.params(-1), {block: [] for block in blocks}
    for x, y in zip(inputs, targets, strict=True):
        leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
        cross_entropy(run.model.forward(leaves, x[None]), y[None]).backward()
        for block in blocks:
            grads = [leaves[key].grad for key in run.model.blocks[block]]
            total[block].append(math.sqrt(sum(float(g.square().sum()) for g in grads if g is not None)))
    for block in blocks:
        expected = record[f"gradients.{block}.norm"][-1] / np.mean(total[block])
        assert record[f"gradients.cancellation.{block}"][-1] == pytest.approx(expected, rel=1e-9), block
    measured = {n.removeprefix("gradients.cancellation.") for n in record.names("gradients.cancellation")}
    assert measured == set(blocks)


def test_the_reasons_say_what_is_in_the_way(run_of) -> None:
    wanted: dict[str, dict[str, str]] = {
        "llama": {"regions.count": "RMSNorm", "gradients.cancellation.mlp.1": "attention and norms"},
        "attention-only": {
            "regions.count": "attention alone",
            "fourier.neuron_logit.fraction": "attention alone",
        },
        "quadratic": {
            "regions.count": "no region: the activation is quadratic",
            "spectra.mean_active.nuclear": "no region: the activation is quadratic",
        },
        "one-hot-gelu": {"regions.reduction_residual": "GELU"},
    }
    for name, reasons in wanted.items():
        record = probe(run_of(name), only=["fourier", "spectra", "regions", "gradients"])
        for quantity, reason in reasons.items():
            assert reason in record.absent[quantity], (name, quantity)


def test_maps_of_several_layers_are_measured_under_their_names(run_of, drawings) -> None:
    record = probe(run_of("llama"), only=["spectra", "gradients"])
    drawings(registered()["gradients"], record)
    for name in ("ov.0.0", "ov.1.3", "qk.1.2", "neuron_logit.0", "neuron_logit.1", "direct"):
        assert record.get(f"spectra.{name}.effective_rank") is not None, name
    assert "without the rotation" in record.notes["spectra"]["qk.0.1"]["note"]
    figure = drawings(registered()["spectra"], record)["Attention heads"]
    assert "head 1.3" in figure


def test_a_planted_one_hot_network_is_seen_through(make_run) -> None:
    """Cosines of one frequency in the first layer: one key frequency, and phases that add up."""
    settings, angle = (
        MLPSettings(inputs="one-hot", hidden=(6,), hidden_bias=False, combine="sum"),
        2 * math.pi / P,
    )
    phases = torch.arange(6, dtype=torch.float64) * math.pi / 3
    residues = torch.arange(P, dtype=torch.float64)
    params = {
        "hidden.1.W": torch.cos(2 * angle * residues[:, None] + phases),
        "head.W_U": torch.cos(2 * angle * residues[:, None] + 2 * phases).T.contiguous(),
    }
    record: Record = probe(make_run(settings, TASK, [params]), only=["fourier", "regions"])
    fraction: Any = record["fourier.embedding.fraction"]
    np.testing.assert_allclose(fraction[0], [0.0, 1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(record["fourier.phase_cosine"], [1.0], atol=1e-9)
    assert record["regions.reduction_residual"][0] < 1e-12
