"""Fourier features as notebooks compute them: numpy's transforms of one checkpoint, frequency by frequency.

Neurons are read from the network's forward pass on all p² inputs and transformed in both operands.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from benchmarks.plain.networks import PlainMLP, Setting, network


def measure(weights: Mapping[str, np.ndarray], setting: Setting) -> dict[str, np.ndarray]:
    """Every ``fourier.<quantity>`` of one checkpoint."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    if setting.family == "mlp":
        maps = {"embedding": w["embed.W_E"], "unembedding": w["head.W_U"].T, "neuron_logit": w["head.W_U"].T}
    else:
        head = w["unembed.W_U"][:, : setting.p]
        maps = {
            "embedding": w["embed.W_E"][: setting.p],
            "unembedding": head.T,
            "neuron_logit": (w["blocks.0.mlp.W_out"] @ head).T,
        }
    found: dict[str, np.ndarray] = {}
    for name, matrix in maps.items():
        power = column_power(matrix).sum(1)
        share = power / power.sum()
        found[f"fourier.{name}.fraction"] = share
        found[f"fourier.{name}.gini"] = gini(share)
        found[f"fourier.{name}.gini_norm"] = gini(np.sqrt(share))
        found[f"fourier.{name}.participation"] = 1 / (share**2).sum()
    found["fourier.embedding.circularity"] = circularity(maps["embedding"])
    found["fourier.key_frequencies.by_embedding"] = smallest_set(found["fourier.embedding.fraction"])
    return {**found, **of_neurons(weights, setting, maps["neuron_logit"])}


def column_power(matrix: np.ndarray) -> np.ndarray:
    """(F, d): power of each column in each frequency, the constant dropped."""
    return np.abs(np.fft.rfft(matrix, axis=0))[1:] ** 2 * (2.0 / len(matrix))


def gini(values: np.ndarray) -> np.ndarray:
    ascending, count = np.sort(values), len(values)
    rank = np.arange(1, count + 1)
    return np.asarray(2 * (rank * ascending).sum() / (count * ascending.sum()) - (count + 1) / count)


def circularity(embedding: np.ndarray) -> np.ndarray:
    n = len(embedding)
    scores, scale, _ = np.linalg.svd(embedding - embedding.mean(0), full_matrices=False)
    total = 0.0
    for component in range(4):
        if scale[component] ** 2 >= 1e-12 * (scale**2).sum():
            spectrum = np.abs(np.fft.fft(scores[:, component])[1 : (n - 1) // 2 + 1]) ** 2
            total += min(1.0, 2.0 / n * spectrum.max())
    return np.asarray(total / 4)


def smallest_set(share: np.ndarray, wanted: float = 0.95) -> np.ndarray:
    chosen, total = np.zeros(len(share), bool), 0.0
    for k in np.argsort(-share.round(12), kind="stable"):
        if total >= wanted - 1e-10:
            break
        chosen[k] = True
        total += share[k]
    return chosen


def of_neurons(
    weights: Mapping[str, np.ndarray], setting: Setting, output: np.ndarray
) -> dict[str, np.ndarray]:
    """Participation, key frequencies, explained variance and phases of the neurons."""
    net, p = network(setting, weights), setting.p
    with torch.no_grad():
        grid = net.neurons(setting.pairs).numpy().reshape(p, p, -1)
        if isinstance(net, PlainMLP):
            table = net.W_E.numpy()
            d = table.shape[1]
            first, second = table @ net.W_1.numpy()[:d], table @ net.W_1.numpy()[d:]
        else:
            before = (net.combined(setting.pairs) @ net.W_in).numpy().reshape(p, p, -1)
            first, second = before.mean(1), before.mean(0)
    found: dict[str, np.ndarray] = {}
    real, signed = [], []
    for slot in (first, second):
        power = column_power(slot)
        real.append(((power / power.sum(0)) ** 2).sum(0))
        both = np.abs(np.fft.fft(slot, axis=0)[1:]) ** 2
        signed.append(((both / both.sum(0)) ** 2).sum(0))
    found["fourier.ipr"] = np.asarray(np.mean(real))
    found["fourier.ipr_complex"] = np.asarray(np.mean(signed))

    centred = grid - grid.mean((0, 1))
    variance = (centred**2).sum((0, 1))
    alive = variance > 1e-24 * (grid**2).sum((0, 1))
    transform = np.abs(np.fft.fft2(centred[:, :, alive], axes=(0, 1))) ** 2 / p**2
    energy = np.zeros((p // 2, alive.sum()))
    for k in range(1, p // 2 + 1):
        for i in (0, k, -k):
            for j in (0, k, -k):
                energy[k - 1] += transform[i, j]
    energy /= variance[alive]
    best, ordered = energy.argmax(0), np.sort(energy, axis=0)
    own = ordered[-1] - ordered[-2] >= 1e-9
    found["fourier.neuron_explained"] = ordered[-1].clip(max=1).mean()
    counts = np.bincount(best[own], minlength=p // 2)
    found["fourier.key_frequencies.by_neuron"] = counts / counts.sum()

    phases, amplitudes = [], []
    neurons = np.flatnonzero(alive)[own]
    for slot in (first, second, output):
        spectrum = np.fft.rfft(slot, axis=0)[best[own] + 1, neurons]
        phases.append(np.angle(spectrum))
        amplitudes.append(np.abs(spectrum))
    weight = amplitudes[0] * amplitudes[1] * amplitudes[2]
    mean = (weight * np.exp(1j * (phases[0] + phases[1] - phases[2]))).sum() / weight.sum()
    effective = weight.sum() ** 2 / (weight**2).sum()
    found["fourier.phase_cosine"], found["fourier.phase_resultant"] = mean.real, np.abs(mean)
    found["fourier.phase_angle"] = np.angle(mean)
    found["fourier.phase_chance"] = np.sqrt(np.pi / (4 * effective))
    return {name: np.asarray(value) for name, value in found.items()}
