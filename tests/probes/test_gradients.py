"""Gradients by block against plain autograd, the chain-rule account sample by sample, and planted updates."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, one_hot

from grokscope.measures.sample_gradients import GELU_LARGEST_SLOPE, logit_gradient
from grokscope.models import (
    DeepLinearSettings,
    MLPSettings,
    ModelSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.probes import readings
from grokscope.probes.gradient_readings import GradientReader
from grokscope.probes.gradients import gradients
from grokscope.probes.record import Record
from grokscope.runs import Run
from grokscope.tasks import CompletionSettings, ModularSettings

TASK = ModularSettings(op="add", p=5, train_fraction=0.6)
MLP = MLPSettings(d_embed=3, hidden=(6, 4), head_bias=True)
RATIOS = {
    "norm": "gradients.head_over_embedding",
    "per_parameter": "gradients.head_over_embedding_per_parameter",
    "relative": "gradients.head_over_embedding_relative",
}


def measured(run: Run) -> Record:
    record = Record(run.name, run.steps)
    with torch.no_grad():
        gradients(run, record)
    json.dumps(record.to_json(), allow_nan=False)
    return record


def values(record: Record, name: str) -> np.ndarray:
    found = record.get(name)
    assert found is not None, record.absent.get(name)
    return found


def trained_with(run: Run, **train) -> Run:
    config = {**run.config, "train": train}
    return dataclasses.replace(run, manifest={**run.manifest, "config": config})


def random_saves(settings: ModelSettings, count: int, p: int = 5) -> list[Params]:
    model = build_model(settings, n_tokens=p, n_inputs=None, n_classes=p)
    generator = torch.Generator().manual_seed(2)
    return [
        {
            part.name: 0.6 * torch.randn(part.shape, generator=generator, dtype=torch.float64)
            + (part.kind == "gain")
            for part in model.parts
        }
        for _ in range(count)
    ]


def plain_mlp(settings: MLPSettings, params: Params, inputs: Tensor) -> Tensor:
    """The ordinary forward: look up, combine, multiply."""
    names = ("embed_a.W_E", "embed_b.W_E") if settings.embedding == "separate" else ("embed.W_E",) * 2
    first, second = (params[name] for name in names)
    left, right = first[inputs[:, 0]], second[inputs[:, 1]]
    x = torch.cat([left, right], dim=1) if settings.combine == "concatenation" else left + right
    for layer in range(1, len(settings.hidden) + 1):
        x = x @ params[f"hidden.{layer}.W"] + params[f"hidden.{layer}.b"]
        x = torch.relu(x) if settings.activation == "relu" else gelu(x)
    return x @ params["head.W_U"] + params.get("head.b_U", 0.0)


def plain_transformer(settings: TransformerSettings, params: Params, inputs: Tensor) -> Tensor:
    """All three positions, causal attention, read at the last."""
    heads, k = settings.n_heads, settings.d_model // settings.n_heads
    equals = torch.full((len(inputs), 1), params["embed.W_E"].shape[0] - 1)
    x = params["embed.W_E"][torch.cat([inputs, equals], dim=1)] + params["pos_embed.W_pos"]
    y = x
    for head in range(heads):
        q, key, v = (x @ params[f"blocks.0.attn.W_{n}"][head] for n in "QKV")
        scores = q @ key.mT / math.sqrt(k)
        scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
        y = y + scores.softmax(-1) @ v @ params["blocks.0.attn.W_O"][head]
    y = y + torch.relu(y @ params["blocks.0.mlp.W_in"]) @ params["blocks.0.mlp.W_out"]
    return (y @ params["unembed.W_U"])[:, -1]


def plain(settings: MLPSettings | TransformerSettings, params: Params, inputs: Tensor) -> Tensor:
    if isinstance(settings, MLPSettings):
        return plain_mlp(settings, params, inputs)
    return plain_transformer(settings, params, inputs)


def plain_gradients(run: Run, params: Params, forward, loss) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    mask = run.task.train_mask
    loss(forward(leaves, run.task.inputs[mask]), run.task.targets[mask]).backward()
    return {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in leaves.items()}


def block_norm(tensors: dict[str, Tensor], names) -> float:
    return float(torch.cat([tensors[name].flatten() for name in names]).norm())


def half_squared(logits: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (logits - one_hot(targets, logits.shape[1])).square().sum(1).mean()


def of_stablemax(logits: Tensor, targets: Tensor) -> Tensor:
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    return cross_entropy(s.log(), targets)


LOSSES = {"cross-entropy": cross_entropy, "squared": half_squared, "stablemax": of_stablemax}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "settings",
    [
        MLP,
        MLPSettings(d_embed=3, hidden=(6,), embedding="separate", activation="gelu"),
        MLPSettings(d_embed=3, hidden=(6,), combine="sum"),
        TransformerSettings(d_model=4, n_heads=2, d_mlp=6),
    ],
)
def test_block_gradients_are_those_of_a_plain_forward(make_run, settings, loss):
    saves = random_saves(settings, 2)
    run = trained_with(make_run(settings, TASK, saves), loss=loss, weight_decay=0.7)
    record = measured(run)
    criterion = LOSSES[loss]
    for index, params in enumerate(saves):
        grads = plain_gradients(run, params, lambda q, x: plain(settings, q, x), criterion)
        for block, names in run.model.blocks.items():
            norm, scale = block_norm(grads, names), block_norm(params, names)
            count = sum(params[name].numel() for name in names)
            expected = {"norm": norm, "per_parameter": norm / count**0.5, "relative": norm / scale}
            for size, value in expected.items():
                assert values(record, f"gradients.{block}.{size}")[index] == pytest.approx(value, rel=1e-10)
            decayed = block_norm({n: g + 0.7 * params[n] for n, g in grads.items()}, names)
            found = values(record, f"gradients.with_decay.{block}.norm")[index]
            assert found == pytest.approx(decayed, rel=1e-10)
        for size, name in RATIOS.items():
            above, below = (values(record, f"gradients.{b}.{size}")[index] for b in ("head", "embedding"))
            assert values(record, name)[index] == pytest.approx(above / below, rel=1e-12)
    assert record.notes["head_equality"]["largest_relative_difference"] < 1e-10
    assert record.notes["head_equality"]["samples"] == 4


@pytest.mark.parametrize(
    ("settings", "spread"),
    [
        (MLP, (1.0, math.sqrt(2))),
        (dataclasses.replace(MLP, activation="gelu", combine="sum"), (math.sqrt(2), 2.0)),
        (dataclasses.replace(MLP, embedding="separate"), (1.0, 1.0)),
    ],
)
def test_slack_and_cancellation_sample_by_sample(make_run, settings, spread):
    (params,) = saves = random_saves(settings, 1)
    run = make_run(settings, TASK, saves)
    record = measured(run)
    inputs, targets = run.task.inputs[run.task.train_mask], run.task.targets[run.task.train_mask]
    slope = 1.0 if settings.activation == "relu" else GELU_LARGEST_SLOPE
    norms = {block: [] for block in run.model.blocks}
    ratios = {block: [] for block in run.model.blocks}
    total: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in params.items()}
    forced = 0
    reach = {name: float(torch.linalg.matrix_norm(v, ord=2)) for name, v in params.items() if v.ndim == 2}
    for x, y in zip(inputs, targets, strict=True):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        logits = plain_mlp(settings, leaves, x[None])
        cross_entropy(logits, y[None]).backward()
        grads: dict[str, Tensor] = {
            name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in leaves.items()
        }
        delta = float((logits.detach().softmax(1) - one_hot(y[None], 5)).norm())
        layers = [run.model.combined(params, x[None])]
        for layer in (1, 2):
            pre = layers[-1] @ params[f"hidden.{layer}.W"] + params[f"hidden.{layer}.b"]
            layers.append(pre.relu() if settings.activation == "relu" else gelu(pre))
        with_bias = [math.sqrt(1 + float(h.square().sum())) for h in layers]
        head, second, first = reach["head.W_U"], reach["hidden.2.W"], reach["hidden.1.W"]
        bounds = {
            "head": delta * with_bias[2],
            "hidden.2": delta * head * slope * with_bias[1],
            "hidden.1": delta * head * second * slope**2 * with_bias[0],
            "embedding": delta * head * second * first * slope**2 * spread[int(x[0] == x[1])],
        }
        for block, names in run.model.blocks.items():
            norms[block].append(block_norm(grads, names))
            ratios[block].append(norms[block][-1] / bounds[block])
        forced += norms["head"][-1] > bounds["embedding"]
        total = {name: total[name] + grads[name] / len(inputs) for name in total}
    for block, names in run.model.blocks.items():
        slack = values(record, f"gradients.bound_slack.{block}")
        np.testing.assert_allclose(slack, [np.mean(ratios[block])], rtol=1e-9)
        assert slack[0] <= 1
        expected = block_norm(total, names) / np.mean(norms[block])
        np.testing.assert_allclose(values(record, f"gradients.cancellation.{block}"), [expected], rtol=1e-9)
    assert values(record, "gradients.bound_slack.head")[0] == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(values(record, "gradients.head_above_bound"), [forced / len(inputs)])


def test_gradients_keep_their_digits_when_every_sample_is_fitted(make_run):
    # a + b mod 2 from two neurons, h = (a + b, max(a + b − 1, 0)), every margin 50: δ = ±e⁻⁵⁰ to 22 digits
    settings = MLPSettings(d_embed=1, hidden=(2,), head_bias=True)
    wide = torch.float64
    params = {
        "embed.W_E": torch.tensor([[0.0], [1.0]], dtype=wide),
        "hidden.1.W": torch.ones(2, 2, dtype=wide),
        "hidden.1.b": torch.tensor([0.0, -1.0], dtype=wide),
        "head.W_U": 50 * torch.tensor([[-1.0, 1.0], [2.0, -2.0]], dtype=wide),
        "head.b_U": torch.tensor([50.0, 0.0], dtype=wide),
    }
    run = make_run(settings, ModularSettings(op="add", p=2, train_fraction=0.5), [params])
    mask = torch.tensor([True, True, False, True])
    run = dataclasses.replace(run, task=run.task.with_split(mask))
    record = measured(run)
    tiny = math.exp(-50) / (1 + math.exp(-50))
    hidden = np.array([[0.0, 0, 1], [1, 0, 1], [2, 1, 1]])  # with the bias's 1, of (0,0), (0,1), (1,1)
    delta = tiny * np.array([[-1.0, 1], [1, -1], [-1, 1]])
    expected = np.linalg.norm(hidden.T @ delta) / 3
    np.testing.assert_allclose(values(record, "gradients.head.norm"), [expected], rtol=1e-12)
    single = math.sqrt(2) * tiny * np.linalg.norm(hidden, axis=1)
    found = values(record, "gradients.cancellation.head")
    np.testing.assert_allclose(found, [expected / single.mean()], rtol=1e-12)
    assert record.notes["head_equality"]["largest_relative_difference"] < 1e-12


def test_update_ratios_of_planted_moves(make_run):
    (params,) = random_saves(MLP, 1)
    moved = {**params, "head.W_U": params["head.W_U"] + 0.3, "embed.W_E": params["embed.W_E"] - 0.2}
    still = {**moved, "head.W_U": moved["head.W_U"] + 0.1}
    record = measured(make_run(MLP, TASK, [params, moved, still]))
    ratio = values(record, "gradients.update_ratio")
    assert record.measurements["gradients.update_ratio"].dims == ("interval",)
    assert ratio[0] == pytest.approx(0.3 * math.sqrt(20) / (0.2 * math.sqrt(15)), rel=1e-12)
    assert math.isnan(ratio[1])
    assert record.notes["undefined"]["gradients.update_ratio"]["steps"] == [20]
    blocks = {"head": ("head.W_U", "head.b_U"), "embedding": ("embed.W_E",)}
    scale = block_norm(params, blocks["embedding"]) / block_norm(params, blocks["head"])
    relative = values(record, "gradients.update_ratio.relative")
    assert relative[0] == pytest.approx(ratio[0] * scale, rel=1e-12)


def test_a_completion_by_the_closed_form(make_run, drawings):
    settings, task = DeepLinearSettings(depth=2, width=3), CompletionSettings(d=4, rank=1)
    model = build_model(settings, n_tokens=None, n_inputs=4, n_classes=4)
    params = model.init(torch.Generator().manual_seed(0), torch.float64)
    run = trained_with(make_run(settings, task, [params]), loss="squared", weight_decay=0.01)
    record = measured(run)
    first, second = params["layer.1.W"], params["layer.2.W"]
    error = torch.where(run.task.train_mask, first @ second - run.task.targets, 0.0)
    np.testing.assert_allclose(
        values(record, "gradients.layer.1.norm"), [(error @ second.T).norm()], rtol=1e-12
    )
    head = float((first.T @ error).norm())
    np.testing.assert_allclose(values(record, "gradients.layer.2.norm"), [head], rtol=1e-12)
    rows = error.norm(dim=1) * first.norm(dim=1)
    expected = head / 4 / float(rows.mean())
    np.testing.assert_allclose(values(record, "gradients.cancellation.layer.2"), [expected], rtol=1e-12)
    assert "no gates" in record.absent["gradients.bound_slack.layer.1"]
    assert "networks with gates" in record.absent["gradients.cancellation.layer.1"]
    for name in (*RATIOS.values(), "gradients.update_ratio"):
        assert "no embedding" in record.absent[name]
    assert "Head over embedding" not in drawings(gradients, record)


@pytest.mark.parametrize(
    ("settings", "reason", "exact"),
    [
        (TransformerSettings(d_model=4, n_heads=2, d_mlp=6, biases=True), "attention", {"head", "mlp"}),
        (TransformerSettings(d_model=4, n_heads=2, d_mlp=6, layer_norm=True), "LayerNorm", {"head"}),
    ],
)
def test_transformers_keep_what_is_exact_in_the_account(make_run, settings, reason, exact):
    run = make_run(settings, TASK, random_saves(settings, 2))
    record = measured(run)
    for block in run.model.blocks:
        slack, shrink = (f"gradients.{kind}.{block}" for kind in ("bound_slack", "cancellation"))
        assert (slack in record.measurements) == (block == "head")
        assert (shrink in record.measurements) == (block in exact)
        assert block == "head" or reason in record.absent[slack]
        if block not in exact:
            assert reason in record.absent[shrink]
            assert "one backward pass a sample" in record.absent[shrink]
    assert reason in record.absent["gradients.head_above_bound"]
    assert record.notes["head_equality"]["largest_relative_difference"] < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "settings",
    [
        MLP,
        MLPSettings(d_embed=3, hidden=(6,), embedding="separate", activation="gelu"),
        TransformerSettings(d_model=4, n_heads=2, d_mlp=6),
        TransformerSettings(d_model=4, n_heads=2, d_mlp=6, biases=True, d_vocab_out=7),
    ],
)
def test_cancellation_sample_by_sample_for_every_loss(make_run, settings, loss):
    saves = random_saves(settings, 2)
    run = trained_with(make_run(settings, TASK, saves), loss=loss, weight_decay=0.0)
    record = measured(run)
    criterion = LOSSES[loss]
    mask = run.task.train_mask
    for index, params in enumerate(saves):
        norms = {block: [] for block in run.model.blocks}
        total = dict.fromkeys(run.model.blocks, 0.0)
        gradient: dict[str, Tensor] = {name: torch.zeros_like(v) for name, v in params.items()}
        for x, y in zip(run.task.inputs[mask], run.task.targets[mask], strict=True):
            leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
            criterion(run.model.forward(leaves, x[None]), y[None]).backward()
            grads = {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in leaves.items()}
            gradient = {name: gradient[name] + grads[name] / int(mask.sum()) for name in gradient}
            for block, names in run.model.blocks.items():
                norms[block].append(block_norm(grads, names))
        total = {block: block_norm(gradient, names) for block, names in run.model.blocks.items()}
        shown = [block for block in total if f"gradients.cancellation.{block}" in record.measurements]
        assert set(shown) == (set(total) if isinstance(settings, MLPSettings) else {"head", "mlp"})
        for block in shown:
            found = values(record, f"gradients.cancellation.{block}")[index]
            assert found == pytest.approx(total[block] / np.mean(norms[block]), rel=1e-9), block
    if isinstance(settings, MLPSettings):
        for block in run.model.blocks:
            assert values(record, f"gradients.bound_slack.{block}").max() <= 1
        assert values(record, "gradients.bound_slack.head") == pytest.approx([1, 1], abs=1e-12)


def test_without_decay_the_decayed_gradient_is_absent(make_run):
    run = make_run(MLP, TASK, random_saves(MLP, 1))
    assert "not recorded" in measured(run).absent["gradients.with_decay.head.norm"]
    run = trained_with(run, weight_decay=0.0)
    assert "no weight decay" in measured(run).absent["gradients.with_decay.head.norm"]


def test_every_quantity_is_recorded_or_absent_and_figures_draw(make_run, drawings):
    run = trained_with(make_run(MLP, TASK, random_saves(MLP, 3)), weight_decay=1.0)
    record = measured(run)
    assert not record.absent
    for quantity in gradients.quantities:
        assert any(quantity.matches(name) for name in record.measurements), quantity.name
    kinds = {name: record.measurements[name].quantity.name for name in record.measurements}
    assert kinds["gradients.with_decay.hidden.1.norm"] == "gradients.with_decay.<block>.norm"
    assert kinds["gradients.update_ratio.relative"] == "gradients.update_ratio.relative"
    assert kinds["gradients.hidden.1.norm"] == "gradients.<block>.norm"
    assert len(drawings(gradients, record)) == 3


def test_a_diverged_save_is_undefined_and_the_rest_stays(make_run):
    saves = random_saves(MLP, 3)
    saves[1]["hidden.1.W"][0, 0] = math.nan
    record = measured(make_run(MLP, TASK, saves))
    for name in ("gradients.head.norm", "gradients.cancellation.embedding", *RATIOS.values()):
        assert np.isnan(values(record, name)).tolist() == [False, True, False]
    assert np.isfinite(values(record, "gradients.update_ratio")).all()


def test_zero_weights_have_no_relative_gradient(make_run):
    params = {name: torch.zeros_like(value) for name, value in random_saves(MLP, 1)[0].items()}
    record = measured(make_run(MLP, TASK, [params]))
    assert "all zero" in record.absent["gradients.hidden.1.relative"]
    assert record.absent[RATIOS["norm"]] == "the embedding has no gradient"
    assert "one save only" in record.absent["gradients.update_ratio"]


@pytest.mark.parametrize(
    "settings", [MLP, TransformerSettings(d_model=8, n_heads=2, d_mlp=12), DeepLinearSettings(depth=2)]
)
def test_neither_blocks_nor_the_store_change_a_bit(make_run, monkeypatch, settings):
    deep = isinstance(settings, DeepLinearSettings)
    task = CompletionSettings(d=4, rank=1) if deep else TASK
    model = build_model(
        settings, n_tokens=None if deep else 5, n_inputs=4 if deep else None, n_classes=4 if deep else 5
    )
    saves = [model.init(torch.Generator().manual_seed(seed), torch.float64) for seed in range(5)]
    alone = measured(make_run(settings, task, saves, name="alone")).to_json()
    run = make_run(settings, task, saves, name="few")
    monkeypatch.setattr(readings, "BLOCK_BYTES", 1)  # a save at a time
    first, again = measured(run).to_json(), measured(run).to_json()
    assert first["measurements"] == again["measurements"] == alone["measurements"]
    assert first["absent"] == again["absent"] == alone["absent"]


def test_losses_beyond_the_digits_of_a_square_have_an_account(make_run):
    settings = MLPSettings(d_embed=3, hidden=(6,))
    saves = random_saves(settings, 2)
    run = make_run(settings, TASK, saves)
    # logits 600 nats apart: δ is about e^-600, whose square is 0
    inputs, targets = run.task.inputs[run.task.train_mask], run.task.targets[run.task.train_mask]
    reader = GradientReader(run)
    params = run.params(0)
    logits = run.model.forward(params, inputs)
    far = one_hot(targets, 5) * 600.0
    delta = logit_gradient(logits + far, targets)
    both = run.model.gradient_with_norms(params, inputs, lambda rows, _: delta[rows])
    assert both is not None
    account = reader._chain_rule(params, delta)
    torch.testing.assert_close(both[1].delta, account.delta, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        both[1].above[0] * both[1].inputs[0], account.layers[0].weight, rtol=1e-8, atol=0
    )
    assert float(account.delta.max()) < 1e-200
