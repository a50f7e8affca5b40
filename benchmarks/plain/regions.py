"""Activation regions as notebooks compute them: gates of one pass, ``np.unique``, Jacobians by ``torch.func``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from benchmarks.plain.networks import PlainMLP, PlainNetwork, Setting, network


@dataclass(frozen=True)
class Sample:
    """What is chosen beforehand: training samples, and how their surroundings are looked at."""

    rows: Tensor  # (n,) among the training samples
    compared: int
    radius: float
    directions: int
    seed: int
    frequencies: list[int]


def measure(weights: Mapping[str, np.ndarray], setting: Setting, sample: Sample) -> dict[str, np.ndarray]:
    """Every quantity of the regions probe that one checkpoint decides."""
    net, p = network(setting, weights), setting.p
    with torch.no_grad():
        z, hidden = net.combined(setting.train), net.neurons(setting.train)
        logits = net(setting.train)
        if isinstance(net, PlainMLP):
            first, bias, head, direct, read = net.W_1, net.b_1, net.W_U, None, hidden
        else:
            first, bias = net.W_in, torch.zeros(net.W_in.shape[1], dtype=torch.float64)
            head, direct, read = net.W_out @ net.W_U, net.W_U, z + hidden @ net.W_out
        pre = z @ first + bias
    gates = (pre > 0).numpy()
    found: dict[str, object] = {
        "regions.count": len(np.unique(gates, axis=0)),
        "regions.active_fraction": gates.mean(),
        "regions.dead_neurons": (~gates.any(0)).sum(),
    }
    scale = z.norm(dim=1)[:, None] * first.detach().norm(dim=0) + bias.detach().abs()
    distances = (pre.abs() / scale).numpy()
    levels = (0.0, 0.01, 0.1, 0.5)
    found["regions.gate_margin"] = np.quantile(distances, levels, method="inverted_cdf")
    chosen = z[sample.rows]
    found["regions.local_complexity"] = _local_complexity(first, bias, chosen, sample)
    found |= _maps(net, chosen, gates[sample.rows.numpy()], first, bias, head, direct, sample)

    mean = (head.detach().T * torch.from_numpy(gates.mean(0))) @ first.detach().T
    mean = (mean if direct is None else mean + direct.detach().T).numpy()
    centred = mean - mean.mean(0)
    spectrum = np.abs(np.fft.rfft(centred, axis=0)) ** 2
    outside = [k for k in range(1, p // 2 + 1) if k not in sample.frequencies]
    found["regions.rule_gap"] = spectrum[outside].sum() / spectrum[1:].sum()

    labels = (setting.train.sum(1) % p).numpy()
    for name, features in (("", read.numpy()), (".logits", logits.numpy())):
        found |= _separation(f"regions.class_separation{name}", features, labels)
    found["regions.simplex_gap"] = _simplex_gap(read.numpy(), labels)
    return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}


def between(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], setting: Setting
) -> dict[str, float]:
    """Gates that changed between two checkpoints."""
    sides = []
    with torch.no_grad():
        for weights in (before, after):
            sides.append((network(setting, weights).neurons(setting.train) > 0).numpy())
    changed = sides[0] != sides[1]
    return {"regions.flipped": changed.mean(), "regions.frozen_samples": 1 - changed.any(1).mean()}


def _local_complexity(first: Tensor, bias: Tensor, z: Tensor, sample: Sample) -> float:
    generator = torch.Generator().manual_seed(sample.seed)
    width = z.shape[1]
    gaussian = torch.randn(width, sample.directions, generator=generator, dtype=torch.float64)
    frame = torch.linalg.qr(gaussian).Q.T * sample.radius
    vertices = z[:, None] + torch.cat([frame, -frame])
    with torch.no_grad():
        signs = vertices @ first + bias > 0
    return (signs.any(1) & ~signs.all(1)).sum(1).double().mean().item()


def _maps(
    net: PlainNetwork,
    z: Tensor,
    gates: np.ndarray,
    first: Tensor,
    bias: Tensor,
    head: Tensor,
    direct: Tensor | None,
    sample: Sample,
) -> dict[str, float]:
    """Local linear maps by differentiation, their ranks, and the proof from weights and gates."""
    first, bias, head = first.detach(), bias.detach(), head.detach()

    def forward(x: Tensor) -> Tensor:
        if isinstance(net, PlainMLP):
            return torch.relu(x @ net.W_1 + net.b_1) @ net.W_U
        return (x + torch.relu(x @ net.W_in) @ net.W_out) @ net.W_U

    jacobians = vmap(jacrev(forward))(z).detach()  # (n, C, d)
    ranks = []
    for matrix in jacobians.numpy():
        sigma = np.linalg.svd(matrix, compute_uv=False)
        ranks.append((sigma**2).sum() / sigma[0] ** 2)
    opened = torch.from_numpy(gates).double()
    maps = torch.einsum("hc,nh,dh->ncd", head, opened, first)
    if direct is not None:
        maps = maps + direct.detach().T
    offsets = (opened * bias) @ head
    with torch.no_grad():
        logits = forward(z)
    reduced = torch.einsum("ncd,nd->nc", maps, z) + offsets
    compared = torch.arange(sample.compared) * len(z) // sample.compared
    by_values = (reduced - logits).abs().max() / logits.abs().max()
    by_slopes = (maps[compared] - jacobians[compared]).abs().max() / maps[compared].abs().max()
    return {
        "regions.stable_rank_mean": float(np.mean(ranks)),
        "regions.reduction_residual.forward": by_values.item(),
        "regions.reduction_residual.jacobian": by_slopes.item(),
        "regions.reduction_residual": max(by_values.item(), by_slopes.item()),
    }


def _means(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([features[labels == label].mean(0) for label in np.unique(labels)])


def _separation(name: str, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    means = _means(features, labels)
    within = sum(
        ((features[labels == label] - mean) ** 2).sum()
        for label, mean in zip(np.unique(labels), means, strict=True)
    )
    between_means = sum(((means - mean) ** 2).sum() for mean in means)
    value = within / (between_means + 1e-12)
    return {name: value, f"{name}.normalised": value * 2 * len(means) ** 2 / len(labels)}


def _simplex_gap(features: np.ndarray, labels: np.ndarray) -> float:
    means = _means(features, labels)
    centred = means - means.mean(0)
    gram, count = centred @ centred.T, len(means)
    simplex = (np.eye(count) - 1 / count) / np.sqrt(count - 1)
    return float(np.linalg.norm(gram / np.linalg.norm(gram) - simplex))
