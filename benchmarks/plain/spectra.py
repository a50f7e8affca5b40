"""Ranks and Schatten norms as notebooks compute them: explicit maps, ``np.linalg.svd`` of each, values only.

The maps of fixed regions are formed sample by sample (in batches), A_i = U^T D_i W^T, and averaged.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain.networks import PlainMLP, Setting, network

BATCH = 64


def measure(weights: Mapping[str, np.ndarray], setting: Setting) -> dict[str, np.ndarray]:
    """Every ``spectra.<map>.<quantity>`` of one checkpoint."""
    return {**of_weights(weights, setting), **of_regions(weights, setting)}


def of_weights(weights: Mapping[str, np.ndarray], setting: Setting) -> dict[str, np.ndarray]:
    """Those of the maps that need the weights alone."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    found: dict[str, np.ndarray] = {}
    if setting.family == "mlp":
        maps = {"embedding": (w["embed.W_E"], 1), "unembedding": (w["head.W_U"].T, 1)}
        maps["neuron_logit"] = maps["unembedding"]
    else:
        table, head = w["embed.W_E"][: setting.p], w["unembed.W_U"][:, : setting.p]
        maps = {
            "embedding": (table, 1),
            "unembedding": (head.T, 1),
            "neuron_logit": ((w["blocks.0.mlp.W_out"] @ head).T, 2),
            "direct": (table @ head, 2),
        }
        last = w["embed.W_E"][setting.p] + w["pos_embed.W_pos"][2]
        for h in range(len(w["blocks.0.attn.W_Q"])):
            q, k, v, o = (w[f"blocks.0.attn.W_{x}"][h] for x in "QKVO")
            maps[f"ov.{h}"] = (table @ v @ o @ head, 4)
            maps[f"qk.{h}"] = (table @ q @ k.T @ table.T, 4)
            found[f"spectra.qk_query.{h}.singular_values"] = np.array(
                [np.linalg.norm(last @ q @ k.T @ table.T)]
            )
    for name, (matrix, depth) in maps.items():
        sigma = np.linalg.svd(matrix, compute_uv=False)
        if name.startswith(("ov", "qk")):
            sigma = sigma[: w["blocks.0.attn.W_Q"].shape[2]]  # a head's maps have no more
        found |= _quantities(name, sigma, matrix.shape, depth, setting)
    return found


def of_regions(weights: Mapping[str, np.ndarray], setting: Setting) -> dict[str, np.ndarray]:
    """Those of the mean map, of the average gradient outer product, and of the map from tokens."""
    net = network(setting, weights)
    with torch.no_grad():
        open_gates = net.neurons(setting.train) > 0
        mlp = isinstance(net, PlainMLP)
        into, out = (net.W_1, net.W_U) if isinstance(net, PlainMLP) else (net.W_in, net.W_out @ net.W_U)
        mean = torch.zeros(out.shape[1], into.shape[0], dtype=torch.float64)
        outer = torch.zeros(into.shape[0], into.shape[0], dtype=torch.float64)
        for gates in open_gates.split(BATCH):
            maps = torch.einsum("nh,hc,dh->ncd", gates.double(), out, into)
            if not isinstance(net, PlainMLP):
                maps = maps + net.W_U.T
            mean += maps.sum(0)
            outer += torch.einsum("nce,ncd->ed", maps, maps)
        mean, outer = mean / len(open_gates), outer / len(open_gates)
        found = _quantities("mean_active", _values(mean), mean.shape, 2, setting)
        eigenvalues = np.linalg.eigvalsh(outer.numpy())[::-1]
        floor = len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues[0]
        scales = np.sqrt(np.where(eigenvalues > floor, eigenvalues, 0.0))
        found |= _quantities("agop", scales, outer.shape, 2, setting)
        if mlp:
            d = net.W_E.shape[1]
            tokens = torch.cat([mean[:, :d] @ net.W_E.T, mean[:, d:] @ net.W_E.T], dim=1)
            found |= _quantities("token_to_logit", _values(tokens), tokens.shape, 3, setting)
    return found


def _values(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.numpy(), compute_uv=False)


def _quantities(
    name: str, sigma: np.ndarray, shape: tuple[int, ...], depth: int, setting: Setting
) -> dict[str, np.ndarray]:
    tolerance = max(shape) * np.finfo(setting.stored).eps * sigma[0]
    kept = sigma[sigma > tolerance]
    shares, energies = kept / kept.sum(), kept**2 / (kept**2).sum()
    found = {
        "singular_values": sigma,
        "stable_rank": (kept**2).sum() / kept[0] ** 2,
        "effective_rank": np.exp(-(shares * np.log(shares)).sum()),
        "entropy_rank": np.exp(-(energies * np.log(energies)).sum()),
        "participation": (kept**2).sum() ** 2 / (kept**4).sum(),
        "numerical_rank": len(kept),
        "schatten_two_over_depth": (kept ** (2 / depth)).sum(),
        "schatten_half": np.sqrt(kept).sum(),
        "nuclear": kept.sum(),
        "frobenius": np.sqrt((kept**2).sum()),
        "spectral": kept[0],
    }
    return {f"spectra.{name}.{quantity}": np.asarray(value) for quantity, value in found.items()}
