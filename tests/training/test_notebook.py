"""The trainer against the loop that people write in a notebook, from the same weights and the same split.

In float64, where two right programs agree to rounding; float32 trajectories drift apart by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from grokscope.training import Recipe, train
from grokscope.trajectory import Trajectory

Params = dict[str, Tensor]


def notebook(forward: Callable[[Params, Tensor], Tensor], recipe: Recipe, params: Params) -> Params:
    """Full batch, torch's AdamW, F.cross_entropy; the split is drawn here once more."""
    settings, task = recipe.train, recipe.config()["task"]
    p, total = task["p"], task["p"] ** 2
    order = torch.randperm(total, generator=torch.Generator().manual_seed(recipe.seed))
    chosen = order[: int(task["train_fraction"] * total)].sort().values
    pairs = torch.stack([chosen // p, chosen % p], dim=1)
    labels = (pairs[:, 0] + pairs[:, 1]) % p
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.AdamW(
        leaves.values(), lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    )
    for _ in range(settings.steps):
        optimizer.zero_grad()
        F.cross_entropy(forward(leaves, pairs), labels).backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in leaves.items()}


def check_equal(recipe: Recipe, forward: Callable[[Params, Tensor], Tensor], directory: Path) -> None:
    train(recipe, directory, device="cpu")
    with Trajectory(directory / "trajectory.h5") as stored:
        first = {name: torch.from_numpy(value) for name, value in stored.params_at(0).items()}
        last = stored.params_at(-1)
        assert stored.steps[-1] == recipe.train.steps
        assert set(stored.dtypes.values()) == {np.dtype(np.float64)}
    expected = notebook(forward, recipe, first)
    for name, value in expected.items():
        if name.endswith("attn.b_K"):
            # It shifts all scores of a query alike, so its gradient is rounding, which Adam makes larger.
            assert max(np.abs(last[name]).max(), value.abs().max()) < 1e-8
            continue
        np.testing.assert_allclose(last[name], value.numpy(), rtol=0, atol=1e-10, err_msg=name)
        assert np.abs(last[name] - first[name].numpy()).max() > 0.01, name


def mlp(params: Params, pairs: Tensor) -> Tensor:
    x = params["embed.W_E"][pairs].flatten(1)
    layer = 1
    while f"hidden.{layer}.W" in params:
        x = torch.relu(x @ params[f"hidden.{layer}.W"] + params[f"hidden.{layer}.b"])
        layer += 1
    return x @ params["head.W_U"]


def summed_gelu_mlp(params: Params, pairs: Tensor) -> Tensor:
    x = params["embed_a.W_E"][pairs[:, 0]] + params["embed_b.W_E"][pairs[:, 1]]
    x = F.gelu(x @ params["hidden.1.W"])
    return x @ params["head.W_U"] + params["head.b_U"]


def transformer(params: Params, pairs: Tensor, *, norms: bool, biases: bool) -> Tensor:
    """All positions, a causal mask, one einsum per sum sign."""
    p = params["embed.W_E"].shape[0] - 1
    w = {key.removeprefix("blocks.0."): value for key, value in params.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.w"], w[f"{name}.b"], 1e-5) if norms else x

    tokens = torch.cat([pairs, torch.full((len(pairs), 1), p)], dim=1)
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"]
    y = norm(x, "ln1")
    q, k, v = (torch.einsum("ntd,hdk->nhtk", y, w[f"attn.W_{letter}"]) for letter in "QKV")
    if biases:
        q, k, v = (z + w[f"attn.b_{letter}"][:, None] for z, letter in zip((q, k, v), "QKV", strict=True))
    scores = torch.einsum("nhsk,nhtk->nhst", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), -torch.inf)
    mixed = torch.einsum("nhst,nhtk->nhsk", scores.softmax(-1), v)
    x = x + torch.einsum("nhsk,hkd->nsd", mixed, w["attn.W_O"]) + (w["attn.b_O"] if biases else 0)
    hidden = norm(x, "ln2") @ w["mlp.W_in"] + (w["mlp.b_in"] if biases else 0)
    x = x + torch.relu(hidden) @ w["mlp.W_out"] + (w["mlp.b_out"] if biases else 0)
    logits = norm(x, "ln_final") @ w["unembed.W_U"] + (w["unembed.b_U"] if biases else 0)
    return logits[:, -1]


FLOAT64 = ("train.dtype=float64", "save.schedule=['0:end:20']", "save.evaluate=[]")


def test_mlp(tiny, tmp_path):
    check_equal(tiny(*FLOAT64), mlp, tmp_path / "run")


def test_mlp_of_two_hidden_layers_with_warmup(tiny, tmp_path):
    check_equal(tiny(*FLOAT64, "model.hidden=[12, 9]", "train.warmup=10"), mlp, tmp_path / "run")


def test_mlp_with_separate_summed_embeddings_gelu_and_a_head_bias(tiny, tmp_path):
    changes = (
        "model.embedding=separate", "model.combine=sum", "model.activation=gelu", "model.hidden_bias=false",
        "model.head_bias=true",
    )  # fmt: skip
    check_equal(tiny(*FLOAT64, *changes), summed_gelu_mlp, tmp_path / "run")


TRANSFORMER = "model={family='transformer', d_model=12, n_heads=3, d_mlp=16}"


def test_transformer(tiny, tmp_path):
    check_equal(
        tiny(*FLOAT64, TRANSFORMER),
        lambda params, pairs: transformer(params, pairs, norms=False, biases=False),
        tmp_path / "run",
    )


def test_transformer_with_layer_norm_and_biases(tiny, tmp_path):
    check_equal(
        tiny(*FLOAT64, TRANSFORMER, "model.layer_norm=true", "model.biases=true", "train.warmup=10"),
        lambda params, pairs: transformer(params, pairs, norms=True, biases=True),
        tmp_path / "run",
    )
