"""Published weights through the families: the loss over the whole grid, as computed once by other code.

The files are read from the folder ``$GROKSCOPE_THIRD_PARTY``; without it these tests are skipped.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grokscope.models import MLP, Composed, ComposedSettings, MLPSettings, Model

PIZZA = "fjzzq2002+pizza/code/save/model_"
ATTENTION, MLP_ = "blocks.0.attn.", "blocks.0.mlp."


@pytest.fixture(scope="module")
def folder() -> Path:
    path = os.environ.get("GROKSCOPE_THIRD_PARTY")
    if not path:
        pytest.skip("GROKSCOPE_THIRD_PARTY is not set")
    return Path(path)


def read(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / name, map_location="cpu", weights_only=True)


def check(folder: Path, name: str, model: Model, params: dict[str, Tensor]) -> None:
    assert {key: tuple(value.shape) for key, value in params.items()} == model.shapes
    assert model.n_tokens is not None
    residues = torch.arange(model.n_tokens)
    pairs = torch.cartesian_prod(residues, residues)
    logits = model.forward({key: value.double() for key, value in params.items()}, pairs)
    targets = pairs.sum(dim=1) % model.n_tokens
    expected = json.loads((folder / "expected.json").read_text())[name]["recomputed_float64"]
    assert float(cross_entropy(logits, targets)) == pytest.approx(expected["full_loss"], rel=1e-6)
    assert float((logits.argmax(1) == targets).double().mean()) == expected["full_acc"]


@pytest.mark.parametrize(
    ("stem", "share", "offset"), [("18c9ev5v5p", 0.004066910851478034, 59), ("p99zdpze5l", 0.0, 0)]
)
def test_two_tokens_and_mixed_attention(folder: Path, stem: str, share: float, offset: int) -> None:
    name = f"{PIZZA}{stem}.pt"
    found = read(folder, name)
    params = {"embed.W_E": found["embed.W_E"].T}
    params |= {key: found[key] for key in ("pos_embed.W_pos", "unembed.W_U", f"{MLP_}b_in", f"{MLP_}b_out")}
    params |= {f"{ATTENTION}W_{x}": found[f"{ATTENTION}W_{x}"].mT for x in "QKV"}
    params[f"{ATTENTION}W_O"] = found[f"{ATTENTION}W_O"].T.reshape(4, 32, 128)
    params |= {f"{MLP_}W_{x}": found[f"{MLP_}W_{x}"].T for x in ("in", "out")}
    settings = ComposedSettings(
        prompt=("a", "b"),
        attention="bidirectional",
        attention_share=share,
        b_offset=offset,
        mlp_bias=True,
        d_vocab_out=59 + offset,
    )
    check(folder, name, Composed(settings, 59, 59), params)


def test_pre_norm_with_packed_projections(folder: Path) -> None:
    name = "porth-bot+grokking-transformer/runs/p97_frac0.30_wd1_seed0.pt"
    found = read(folder, name)
    params = {
        "embed.W_E": found["tok_emb.weight"],
        "pos_embed.W_pos": found["pos_emb"],
        "unembed.W_U": found["unembed.weight"].T,
        f"{ATTENTION}W_O": found[f"{ATTENTION}proj.weight"].T.reshape(4, 32, 128),
    }
    for x, weight in zip("QKV", found[f"{ATTENTION}qkv.weight"].chunk(3), strict=True):
        params[f"{ATTENTION}W_{x}"] = weight.reshape(4, 32, 128).mT
    for ours, theirs in (
        ("blocks.0.ln1", "blocks.0.ln1"),
        ("blocks.0.ln2", "blocks.0.ln2"),
        ("ln_final", "ln_f"),
    ):
        params |= {f"{ours}.w": found[f"{theirs}.gamma"], f"{ours}.b": found[f"{theirs}.beta"]}
    for ours, theirs in (("in", "up"), ("out", "down")):
        params[f"{MLP_}W_{ours}"] = found[f"{MLP_}{theirs}.weight"].T
        params[f"{MLP_}b_{ours}"] = found[f"{MLP_}{theirs}.bias"]
    settings = ComposedSettings(norm="layer", activation="gelu", mlp_bias=True)
    check(folder, name, Composed(settings, 97, 97), params)


def test_mlps_on_embeddings(folder: Path) -> None:
    name = f"{PIZZA}7r4zst7evs.pt"
    found = read(folder, name)
    first = {"hidden.1.W": found["l1.weight"].T, "hidden.1.b": found["l1.bias"]}
    params = {"embed.W_E": found["embed.weight"], **first, "head.W_U": found["unembed.weight"].T}
    check(folder, name, MLP(MLPSettings(d_embed=128, hidden=(256,)), 59, 59), params)

    name = f"{PIZZA}amw6ox6bzn.pt"
    found = read(folder, name)
    params = {"embed.W_E": found["embed.weight"], "head.W_U": found["unembed.weight"].T}
    for layer in (1, 2):
        params[f"hidden.{layer}.W"] = found[f"l{layer}.weight"].T
        params[f"hidden.{layer}.b"] = found[f"l{layer}.bias"]
    check(folder, name, MLP(MLPSettings(d_embed=256, hidden=(256, 256), combine="sum"), 59, 59), params)

    name = "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments/C113_MLP_seed1/model.pt"
    found = read(folder, name)
    names = {"embed_a.W_E": "W_x", "embed_b.W_E": "W_y", "hidden.1.W": "W", "head.W_U": "W_U"}
    settings = MLPSettings(d_embed=256, hidden=(128,), embedding="separate", hidden_bias=False)
    check(folder, name, MLP(settings, 113, 113), {ours: found[theirs] for ours, theirs in names.items()})


def test_mlp_on_a_sum_of_one_hots(folder: Path) -> None:
    place = "Y-Agent+modular-addition-feature-learning/src/saved_models"
    name = f"{place}/p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102/49800.pth"
    found = read(folder, name)["model"]
    params = {"hidden.1.W": found["mlp.W_in"].T, "head.W_U": found["mlp.W_out"].T}
    settings = MLPSettings(inputs="one-hot", combine="sum", hidden=(512,), hidden_bias=False)
    check(folder, name, MLP(settings, 23, 23), params)
