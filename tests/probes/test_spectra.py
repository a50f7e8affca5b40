"""Spectra of planted maps: known singular values, balance, explicit products, masked maps, chance bands."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from grokscope.measures.spectra import balance_gap
from grokscope.models import (
    DeepLinearSettings,
    MLPSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.probes.norms import norms
from grokscope.probes.record import Record
from grokscope.probes.spectra import NORMS, RANKS, spectra
from grokscope.probes.stepwise import random_params as random_weights
from grokscope.runs import Model, Run
from grokscope.tasks import CompletionSettings, ModularSettings

F64 = torch.float64
LEVELS = (0.05, 0.5, 0.95)
NAMES = ("singular_values", *RANKS, "numerical_rank", *NORMS)


def measured(run: Run, **options) -> Record:
    record = Record(run.name, run.steps)
    spectra(run, record, **{"null_samples": 4, **options})
    return record


def value(record: Record, name: str) -> np.ndarray:
    found = record.get(name)
    assert found is not None, record.absent.get(name, name)
    return found


def orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64)).Q


def balanced(sigma: Tensor, depth: int) -> Params:
    """Layers (in, out) of equal singular values σ^{1/L} whose bases fit together."""
    bases = [orthogonal(len(sigma), seed) for seed in range(depth + 1)]
    return {
        f"layer.{layer}.W": bases[layer - 1] @ torch.diag(sigma ** (1 / depth)) @ bases[layer].mT
        for layer in range(1, depth + 1)
    }


def random_params(settings, p: int, seed: int = 0) -> Params:
    model = build_model(settings, n_tokens=p, n_inputs=None, n_classes=p)
    return model.init(torch.Generator().manual_seed(seed), F64)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_planted_singular_values_of_a_deep_linear_net(make_run, depth):
    sigma = torch.tensor([2.0, 1.0, 1.0], dtype=F64)
    settings = DeepLinearSettings(depth=depth)
    run = make_run(settings, CompletionSettings(d=3, rank=1), [balanced(sigma, depth)])
    record = measured(run)
    expected = {
        "stable_rank": 1.5,
        "participation": 2.0,
        "entropy_rank": 2.381102,
        "effective_rank": 2.828427,
        "numerical_rank": 3,
        "schatten_half": 3.414214,
        "nuclear": 4.0,
        "frobenius": math.sqrt(6),
        "spectral": 2.0,
        "schatten_two_over_depth": {1: 6.0, 2: 4.0, 3: 3.587401}[depth],
    }
    np.testing.assert_allclose(value(record, "spectra.product.singular_values"), [[2, 1, 1]], rtol=1e-12)
    for name, number in expected.items():
        assert value(record, f"spectra.product.{name}")[0] == pytest.approx(number, abs=5e-7), name
    assert value(record, "spectra.balance_gap")[0] == pytest.approx(0, abs=1e-12)
    for layer in range(1, depth + 1):
        values = value(record, f"spectra.layer.{layer}.singular_values")[0]
        np.testing.assert_allclose(values, sigma.numpy() ** (1 / depth), rtol=1e-12)
    assert record.measurements["spectra.product.singular_values"].dims == ("step", "rank.product")
    assert record.coordinates["rank.product"] == [1, 2, 3]
    assert record.notes["spectra"]["product"]["factors"] == depth


def test_balance_gap_of_scaled_factors(make_run):
    sigma, saves, scales = torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=F64), [], (1.0, 1.5, 4.0)
    for t in scales:
        layers = balanced(sigma, 2)
        saves.append({"layer.1.W": layers["layer.1.W"] * t, "layer.2.W": layers["layer.2.W"] / t})
    record = measured(make_run(DeepLinearSettings(depth=2), CompletionSettings(d=4, rank=1), saves))
    expected = [(t - 1 / t) ** 2 * float(sigma.sum()) for t in scales]
    np.testing.assert_allclose(value(record, "spectra.balance_gap"), expected, atol=1e-12)


def test_a_rank_deficient_product_keeps_its_numerical_rank(make_run):
    generator = torch.Generator().manual_seed(3)
    layers = {
        "layer.1.W": torch.randn(9, 2, generator=generator, dtype=F64),
        "layer.2.W": torch.randn(2, 9, generator=generator, dtype=F64),
    }
    settings = DeepLinearSettings(depth=2, width=2)
    task = CompletionSettings(d=9, rank=2)
    record = measured(make_run(settings, task, [layers], dtype=np.float32))
    product = layers["layer.1.W"].float().double() @ layers["layer.2.W"].float().double()
    expected = np.linalg.svd(product.numpy(), compute_uv=False)[:2]
    np.testing.assert_allclose(value(record, "spectra.product.singular_values")[0], expected, rtol=1e-12)
    assert value(record, "spectra.product.numerical_rank").tolist() == [2]
    assert value(record, "spectra.product.numerical_rank").dtype.kind == "i"


def test_rounding_of_the_stored_weights_is_in_no_rank(make_run):
    sigma = torch.tensor([2.0, 2e-9, 2e-9], dtype=F64)
    save = {"layer.1.W": torch.diag(sigma)}
    record = measured(
        make_run(DeepLinearSettings(depth=1), CompletionSettings(d=3, rank=1), [save], dtype=np.float32)
    )
    for name in (*RANKS, "numerical_rank"):
        assert value(record, f"spectra.product.{name}")[0] == 1, name
    for name in ("nuclear", "frobenius", "spectral"):
        assert value(record, f"spectra.product.{name}")[0] == 2, name
    np.testing.assert_allclose(value(record, "spectra.product.singular_values")[0], sigma, rtol=1e-6)


def explicit_transformer_maps(params: Params, p: int, layer_norm: bool) -> dict[str, np.ndarray]:
    w = {name: tensor.numpy() for name, tensor in params.items()}
    table, head = w["embed.W_E"][:p], w["unembed.W_U"][:, :p]
    query = (w["embed.W_E"][p] + w["pos_embed.W_pos"][2])[None]
    read, final = table, head
    if layer_norm:
        read, query = table * w["blocks.0.ln1.w"], query * w["blocks.0.ln1.w"]
        final = w["ln_final.w"][:, None] * head
    maps = {
        "embedding": table,
        "unembedding": head.T,
        "direct": table @ final,
        "neuron_logit": (w["blocks.0.mlp.W_out"] @ final).T,
    }
    attention = {x: w[f"blocks.0.attn.W_{x}"] for x in "QKVO"}
    for h in range(2):
        maps[f"ov.{h}"] = read @ attention["V"][h] @ attention["O"][h] @ final
        maps[f"qk.{h}"] = read @ attention["Q"][h] @ attention["K"][h].T @ read.T
        maps[f"qk_query.{h}"] = query @ attention["Q"][h] @ attention["K"][h].T @ read.T
    return maps


@pytest.mark.parametrize("layer_norm", [False, True])
def test_transformer_maps_are_the_explicit_products(make_run, layer_norm):
    p = 9
    settings = TransformerSettings(
        d_model=8, n_heads=2, d_head=3, d_mlp=12, d_vocab_out=11, layer_norm=layer_norm
    )
    saves = [random_params(settings, p, seed) for seed in range(3)]
    if layer_norm:
        for params in saves:
            params["blocks.0.ln1.w"] = torch.linspace(0.5, 2, 8, dtype=F64)
            params["ln_final.w"] = torch.linspace(2, 0.1, 8, dtype=F64)
    record = measured(make_run(settings, ModularSettings(p=p), saves))
    for step, params in enumerate(saves):
        for name, matrix in explicit_transformer_maps(params, p, layer_norm).items():
            found = value(record, f"spectra.{name}.singular_values")[step]
            expected = np.linalg.svd(matrix, compute_uv=False)
            np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9, atol=1e-12)
            assert np.allclose(expected[len(found) :], 0, atol=1e-12)
    assert value(record, "spectra.ov.0.singular_values").shape == (3, 3)
    for quantity in NAMES[1:]:
        assert "rank 1" in record.absent[f"spectra.qk_query.1.{quantity}"]
    assert record.notes["spectra"]["ov.1"]["factors"] == 4
    masked = "spectra.mean_active.effective_rank"
    if layer_norm:
        assert "LayerNorm" in record.absent[masked]
        assert "gain folded" in record.notes["spectra"]["ov.0"]["note"]
    else:
        assert value(record, masked).shape == (3,)
        assert "not linear" in record.absent["spectra.token_to_logit.effective_rank"]
    assert "deep linear" in record.absent["spectra.balance_gap"]


@pytest.mark.parametrize("hidden", [(10,), (10, 7)])
@pytest.mark.parametrize("combine", ["concatenation", "sum"])
def test_masked_maps_are_means_of_the_jacobians(make_run, hidden, combine):
    p = 7
    settings = MLPSettings(d_embed=4, hidden=hidden, combine=combine, head_bias=True, embedding="separate")
    params = random_params(settings, p)
    params["hidden.1.b"] = torch.linspace(-1, 1, hidden[0], dtype=F64)
    run = make_run(settings, ModularSettings(p=p), [params])
    record = measured(run)
    inputs = run.task.inputs[run.task.train_mask]
    z = run.model.combined(params, inputs)
    jacobians = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: run.model.from_z(params, x[None])[0], row) for row in z]
    )
    mean = jacobians.mean(0)
    second = torch.einsum("nci,ncj->ij", jacobians, jacobians) / len(z)
    tables = params["embed_a.W_E"].mT, params["embed_b.W_E"].mT
    slots = torch.block_diag(*tables) if combine == "concatenation" else torch.cat(tables, dim=1)
    expected = {
        "mean_active": torch.linalg.svdvals(mean),
        "agop": torch.linalg.eigvalsh(second).flip(0).clamp(min=0).sqrt(),
        "token_to_logit": torch.linalg.svdvals(mean @ slots),
    }
    for name, sigma in expected.items():
        found = value(record, f"spectra.{name}.singular_values")[0]
        np.testing.assert_allclose(found, sigma[: len(found)].numpy(), rtol=1e-8, atol=1e-7)
        assert np.allclose(sigma[len(found) :], 0, atol=1e-12)
        q = sigma[sigma > 1e-7] / sigma[sigma > 1e-7].sum()
        rank = float(torch.exp(-(q * q.log()).sum()))
        assert value(record, f"spectra.{name}.effective_rank")[0] == pytest.approx(rank, rel=1e-5)
    depth = {"mean_active": len(hidden) + 1, "agop": len(hidden) + 1, "token_to_logit": len(hidden) + 2}
    for name, layers in depth.items():
        energy = value(record, f"spectra.{name}.schatten_two_over_depth")[0]
        values = value(record, f"spectra.{name}.singular_values")[0]
        assert energy == pytest.approx((values[values > 1e-7] ** (2 / layers)).sum(), rel=1e-9)


def test_gelu_has_no_masked_maps_and_every_name_its_reason(make_run):
    settings = MLPSettings(d_embed=3, hidden=(5,), activation="gelu")
    record = measured(make_run(settings, ModularSettings(p=5), [random_params(settings, 5)]))
    for name in ("mean_active", "agop", "token_to_logit"):
        for quantity in NAMES:
            assert "GELU" in record.absent[f"spectra.{name}.{quantity}"]
    for name in ("embedding", "unembedding", "neuron_logit"):
        assert all(f"spectra.{name}.{quantity}" in record.measurements for quantity in NAMES)
    linear = DeepLinearSettings(depth=2)
    record = measured(
        make_run(linear, CompletionSettings(d=3, rank=1), [balanced(torch.ones(3, dtype=F64), 2)], name="l")
    )
    assert "no gates" in record.absent["spectra.agop.stable_rank"]


def test_chance_bands_are_those_of_gaussian_products(make_run):
    settings = TransformerSettings(d_model=12, n_heads=2, d_mlp=20)
    p = 11
    record = measured(make_run(settings, ModularSettings(p=p), [random_params(settings, p)]), null_samples=64)
    generator = torch.Generator().manual_seed(9)

    def draw(*shape: int) -> Tensor:
        return torch.randn(200, *shape, generator=generator, dtype=F64)

    products = {"embedding": draw(p, 12), "ov.0": draw(p, 12) @ draw(12, 6) @ draw(6, 12) @ draw(12, p)}
    for name, matrix in products.items():
        sigma = torch.linalg.svdvals(matrix)
        q = sigma / sigma.sum(-1, keepdim=True)
        ranks = torch.exp(-torch.xlogy(q, q).sum(-1)).numpy()
        expected = np.quantile(ranks, [0.05, 0.5, 0.95])
        found = value(record, f"spectra.{name}.effective_rank.null")
        np.testing.assert_allclose(found, expected, atol=0.35 * (expected[2] - expected[0]))
    assert record.measurements["spectra.ov.0.effective_rank.null"].dims == ("null_quantile",)
    assert record.coordinates["null_quantile"] == [0.05, 0.5, 0.95]
    assert value(record, "spectra.mean_active.stable_rank.null").shape == (3,)


MEASURES = (*RANKS, "numerical_rank", *NORMS)


def rescaled(model: Model, like: Params, samples: int) -> list[Params]:
    """The random weights behind the bands, each tensor at the Frobenius norm of that of ``like``; separate
    embeddings, which enter side by side, at the norm of both."""

    def norm(params: Params, name: str) -> Tensor:
        together = [n for n in params if n.startswith("embed") and name.startswith("embed")] or [name]
        return torch.cat([params[n].flatten() for n in together]).norm()

    blocks = random_weights(model, samples)
    draws = [{n: v[i] for n, v in b.items()} for b in blocks for i in range(len(next(iter(b.values()))))]
    return [
        {n: v * norm(like, n) / norm(draw, n) if float(v.norm()) else v for n, v in draw.items()}
        for draw in draws
    ]


@pytest.mark.parametrize(
    "settings",
    [
        MLPSettings(d_embed=6, hidden=(9,)),
        MLPSettings(d_embed=6, hidden=(9, 7), combine="sum"),
        MLPSettings(d_embed=6, hidden=(9,), embedding="separate", combine="sum"),
    ],
)
def test_chance_at_the_norms_of_a_save_is_that_of_rescaled_weights(make_run, settings):
    """The gates among them: without biases they do not feel the scale of a weight."""
    p, scales = 8, (0.2, 3.0)
    saves = [{n: v * s for n, v in random_params(settings, p, 5).items()} for s in scales]
    run = make_run(settings, ModularSettings(p=p), saves)
    record = measured(run, null_samples=5)
    for row, save in enumerate(run.params(index) for index in range(2)):
        drawn = rescaled(run.model, save, 5)
        name = f"rescaled-{row}"
        of_draws = measured(make_run(settings, ModularSettings(p=p), drawn, name=name), null_samples=2)
        of_gates = {"mean_active", "agop", "token_to_logit"}
        for which in of_gates if run.model.separate_embeddings else of_gates | run.model.maps(save).keys():
            sigma = value(of_draws, f"spectra.{which}.singular_values")
            size = value(record, f"spectra.{which}.factor_norms")[row]
            found = size * value(record, f"spectra.{which}.singular_values.null")
            np.testing.assert_allclose(found, np.quantile(sigma, LEVELS, axis=0), rtol=1e-9, atol=1e-9)
            for quantity in MEASURES:
                null = f"spectra.{which}.{quantity}.null"
                if quantity == "frobenius" and which not in of_gates:
                    assert "drawn with this norm" in record.absent[null]
                    continue
                band = value(record, null)
                expected = np.quantile(value(of_draws, f"spectra.{which}.{quantity}"), LEVELS)
                np.testing.assert_allclose(band if quantity not in NORMS else band[row], expected, rtol=1e-9)
    assert record.measurements["spectra.agop.nuclear.null"].dims == ("step", "null_quantile")
    assert record.measurements["spectra.agop.singular_values.null"].dims == ("null_quantile", "rank.agop")


def test_chance_of_maps_of_many_factors_is_that_of_rescaled_factors(make_run):
    settings, p = TransformerSettings(d_model=8, n_heads=2, d_mlp=12), 7
    saves = [{n: v * s for n, v in random_params(settings, p, 5).items()} for s in (0.2, 3.0)]
    run = make_run(settings, ModularSettings(p=p), saves)
    record = measured(run, null_samples=5)
    drawn = rescaled(run.model, saves[0], 5)
    for which in ("direct", "ov.0", "qk.1", "neuron_logit"):
        for row, save in enumerate(saves):
            norms = [torch.linalg.matrix_norm(factor) for factor in run.model.maps(save)[which].factors]
            products = []
            for params in drawn:
                sides = zip(run.model.maps(params)[which].factors, norms, strict=True)
                parts = [factor * norm / torch.linalg.matrix_norm(factor) for factor, norm in sides]
                products.append(torch.linalg.multi_dot(parts))
            sigma = torch.linalg.svdvals(torch.stack(products)).numpy()
            for quantity, numbers in {
                "nuclear": sigma.sum(-1),
                "schatten_two_over_depth": (np.where(sigma > 1e-9, sigma, 0) ** (2 / len(norms))).sum(-1),
                "frobenius": np.sqrt((sigma**2).sum(-1)),
                "spectral": sigma[:, 0],
            }.items():
                band = value(record, f"spectra.{which}.{quantity}.null")[row]
                np.testing.assert_allclose(band, np.quantile(numbers, LEVELS), rtol=1e-9)


def test_chance_of_a_sum_of_paths_is_at_the_norm_of_the_sum(make_run):
    settings, p = TransformerSettings(d_model=8, n_heads=2, d_mlp=12), 7
    run = make_run(settings, ModularSettings(p=p), [random_params(settings, p, 5)])
    record = measured(run, null_samples=5)
    blocks = random_weights(run.model, 5)
    drawn = [{n: v[i] for n, v in b.items()} for b in blocks for i in range(5)]
    of_draws = measured(make_run(settings, ModularSettings(p=p), drawn, name="draws", dtype=np.float64))
    for which in ("mean_active", "agop"):
        nuclear, own = (value(of_draws, f"spectra.{which}.{of}") for of in ("nuclear", "frobenius"))
        expected = value(record, f"spectra.{which}.frobenius")[0] * np.quantile(nuclear / own, LEVELS)
        np.testing.assert_allclose(value(record, f"spectra.{which}.nuclear.null")[0], expected, rtol=1e-9)
        assert "drawn with this norm" in record.absent[f"spectra.{which}.frobenius.null"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_chance_of_the_balance_gap_is_that_of_rescaled_layers(make_run, depth):
    sigma = torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=F64)
    saves = [{n: v * s for n, v in balanced(sigma, depth).items()} for s in (1.0, 4.0)]
    run = make_run(DeepLinearSettings(depth=depth), CompletionSettings(d=4, rank=1), saves)
    band = value(measured(run, null_samples=6), "spectra.balance_gap.null")
    for row, save in enumerate(saves):
        drawn = rescaled(run.model, save, 6)
        gaps = [balance_gap([layers[f"layer.{i + 1}.W"].mT for i in range(depth)]) for layers in drawn]
        np.testing.assert_allclose(band[row], np.quantile(torch.stack(gaps), LEVELS), rtol=1e-9, atol=1e-12)


def test_a_save_that_is_not_finite_has_no_band(make_run):
    settings = MLPSettings(d_embed=3, hidden=(5,))
    params = random_params(settings, 5)
    broken = {**params, "head.W_U": params["head.W_U"] * math.nan}
    record = measured(make_run(settings, ModularSettings(p=5), [params, broken]))
    for which in ("unembedding", "mean_active"):
        assert np.isfinite(value(record, f"spectra.{which}.nuclear.null")).all(-1).tolist() == [True, False]
        assert np.isfinite(value(record, f"spectra.{which}.factor_norms")).tolist() == [True, False]


def test_ranks_are_ordered(make_run):
    settings = MLPSettings(d_embed=6, hidden=(9,))
    saves = [random_params(settings, 8, seed) for seed in range(4)]
    record = measured(make_run(settings, ModularSettings(p=8), saves))
    order = ("stable_rank", "participation", "entropy_rank", "effective_rank", "numerical_rank")
    for name in ("embedding", "unembedding", "mean_active", "agop", "token_to_logit"):
        ranks = np.stack([value(record, f"spectra.{name}.{rank}") for rank in order])
        assert (np.diff(ranks, axis=0) >= -1e-9).all()


def test_blocks_agree_with_one_read(make_run, monkeypatch):
    settings = MLPSettings(d_embed=3, hidden=(5,))
    run = make_run(settings, ModularSettings(p=5), [random_params(settings, 5, seed) for seed in range(5)])
    whole = measured(run)
    monkeypatch.setattr("grokscope.probes.stepwise._BLOCK_BYTES", 1)
    single = measured(run)
    for name, measurement in whole.measurements.items():
        np.testing.assert_allclose(value(single, name), measurement.values, rtol=1e-12, err_msg=name)


def test_a_zero_map_has_norms_but_no_rank_and_json_no_nan(make_run):
    settings = MLPSettings(d_embed=3, hidden=(5,))
    params = random_params(settings, 5)
    zero = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    broken = {**params, "head.W_U": params["head.W_U"] * math.nan}
    record = measured(make_run(settings, ModularSettings(p=5), [zero, params, broken]))
    values = json.loads(json.dumps(record.to_json(), allow_nan=False))["measurements"]
    for name in ("embedding", "unembedding", "mean_active", "agop"):
        assert values[f"spectra.{name}.effective_rank"]["values"][0] is None
        assert values[f"spectra.{name}.frobenius"]["values"][0] == 0
        assert values[f"spectra.{name}.effective_rank"]["values"][1] > 0
    assert values["spectra.unembedding.singular_values"]["values"][2] == [None] * 5
    assert values["spectra.agop.nuclear"]["values"][2] is None
    assert values["spectra.embedding.stable_rank"]["values"][2] > 0
    record = measured(make_run(settings, ModularSettings(p=5), [zero], name="zero"))
    assert "zero" in record.absent["spectra.agop.stable_rank"]
    assert "spectra.agop.stable_rank.null" not in record.measurements


def test_figures_are_small(make_run, drawings):
    steps = np.unique(np.geomspace(1, 10_000, 200).astype(int)).tolist()
    settings = TransformerSettings(d_model=8, n_heads=2, d_mlp=12)
    pair = [random_params(settings, 7, seed) for seed in range(2)]
    run = make_run(settings, ModularSettings(p=7), [pair[i % 2] for i in range(len(steps))], steps=steps)
    found = drawings(spectra, measured(run))
    assert "Attention heads" in found
    # random weights at every other save are the worst case for the length of a line
    assert max(len(svg) for svg in found.values()) < 60_000, {t: len(svg) for t, svg in found.items()}


def test_figures_of_a_deep_linear_net_of_one_save(make_run, drawings):
    sigma = torch.tensor([2.0, 1.0, 0.0], dtype=F64)
    run = make_run(DeepLinearSettings(depth=3), CompletionSettings(d=3, rank=1), [balanced(sigma, 3)])
    record = measured(run)
    norms(run, record)
    found = drawings(spectra, record)
    assert "Balance of the layers" in found
    assert "Attention heads" not in found
    assert value(record, "spectra.product.numerical_rank").tolist() == [2]
