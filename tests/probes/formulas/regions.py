"""Formulas of activation regions: LaTeX, plain numpy, and the measure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from grokscope.measures import fourier, gate_patterns, regions
from grokscope.measures.class_geometry import class_separation, simplex_gap
from grokscope.measures.linear_reduction import rule_gap, stable_rank_mean
from grokscope.measures.sampled_maps import read_maps
from grokscope.probes.region_readings import _relative, rule_gap_of
from tests.probes.formulas.rows import C, N, Rng, Row, T, form_of, fro, wave

# --- regions: gates of two layers at two or more saves; a network of two hidden layers


def patterns(rng: Rng) -> tuple[Any, ...]:
    now = rng.integers(2, size=(N, 4)).astype(bool)
    now[:, 3] &= bool(rng.integers(2))
    before = now ^ (rng.random((N, 4)) < 0.1)
    return now, before


def saves(rng: Rng) -> tuple[Any, ...]:
    """(T, N, 3) gates of 200 samples that freeze one after the other."""
    last = rng.integers(2, size=(200, 3)).astype(bool)
    still = np.arange(9)[:, None] >= rng.integers(1, rng.integers(4, 8), size=200)
    return (np.where(still[:, :, None], last, rng.integers(2, size=(9, 200, 3)).astype(bool)),)


def frozen_since(gates: Any) -> int:
    hold = [(gates[t:] == gates[-1]).all((0, 2)).sum() for t in range(len(gates))]
    return next(t for t in range(len(gates)) if hold[t] >= 0.99 * gates.shape[1])


def network(rng: Rng) -> tuple[Any, ...]:
    """Weights and biases of two hidden layers and a head, and (N, 5) inputs."""
    shapes = ((5, 8), (8,), (8, 6), (6,), (6, C), (C,))
    return (*(rng.normal(size=shape) for shape in shapes), rng.normal(size=(N, 5)))


def gates_of(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    """(n, 14) bool, and (n, 6) what the head reads."""
    first = x @ w1 + b1
    second = np.maximum(first, 0) @ w2 + b2
    return np.concatenate([first > 0, second > 0], axis=1), np.maximum(second, 0)


def maps_of(w1: Any, b1: Any, w2: Any, b2: Any, u: Any, c: Any, x: Any) -> tuple[Any, Any]:
    gates, _ = gates_of(x, w1, b1, w2, b2)
    d1, d2 = (
        [np.diag(g.astype(float)) for g in gates[:, :8]],
        [np.diag(g.astype(float)) for g in gates[:, 8:]],
    )
    a = np.array([u.T @ d2[i] @ w2.T @ d1[i] @ w1.T for i in range(len(x))])
    return a, np.array([u.T @ d2[i] @ (w2.T @ d1[i] @ b1 + b2) + c for i in range(len(x))])


def margin_entries(w1: Any, b1: Any, w2: Any, b2: Any, u: Any, c: Any, x: Any) -> Any:
    found = []
    for w, b, inputs in ((w1, b1, x), (w2, b2, np.maximum(x @ w1 + b1, 0))):
        for i in range(N):
            for j in range(w.shape[1]):
                scale = fro(w[:, j]) * fro(inputs[i]) + abs(b[j])
                found.append(abs(w[:, j] @ inputs[i] + b[j]) / scale)
    ordered = np.sort(found)
    return [ordered[0], *(ordered[math.ceil(share * len(ordered)) - 1] for share in (0.01, 0.1, 0.5))]


def margin_levels(*given: Any) -> Any:
    found = regions.gate_margin(form_of(*given[:-1]), T(given[-1]))
    return [found.minimum, found.quantile_01, found.quantile_10, found.median]


def wrong_network(rng: Rng) -> tuple[Any, ...]:
    """A network, and values and Jacobians that are not quite its own."""
    given = network(rng)
    a, b = maps_of(*given)
    values = np.einsum("icd,id->ic", a, given[-1]) + b
    return (*given, values + 0.1 * rng.normal(size=values.shape), a + 0.1 * rng.normal(size=a.shape))


def residuals(*given: Any) -> tuple[float, float]:
    *weights, x, values, jacobians = given
    form = form_of(*weights)
    found = read_maps(form, T(x), regions.gates(form, T(x)), T(values), dict(enumerate(T(jacobians))))
    return _relative(found, T(values))


def far_values(*given: Any) -> float:
    a, b = maps_of(*given[:7])
    reduced = np.array([a[i] @ given[6][i] + b[i] for i in range(N)])
    return abs(reduced - given[7]).max() / abs(given[7]).max()


def far_jacobians(*given: Any) -> float:
    a, _ = maps_of(*given[:7])
    return abs(a - given[8]).max() / abs(a).max()


def complexity(*given: Any) -> float:
    *weights, x = given
    frame = regions._frame(5, 3, 0).numpy()
    total = 0
    for i in range(N):
        around = np.concatenate([x[i] + 0.2 * frame, x[i] - 0.2 * frame])
        d, _ = gates_of(around, *weights[:4])
        total += (d.max(0).astype(int) - d.min(0).astype(int)).sum()
    return total / N


def classes(rng: Rng) -> tuple[Any, ...]:
    return rng.normal(size=(N, 5)), np.r_[np.arange(C), rng.integers(C, size=N - C)]


def separation(z: Any, y: Any) -> float:
    mu = np.array([z[y == c].mean(0) for c in range(C)])
    within = sum(fro(z[i] - mu[y[i]]) ** 2 for i in range(N))
    return within / (sum(fro(mu[c] - mu[d]) ** 2 for c in range(C) for d in range(C) if c != d) + 1e-12)


def simplex(z: Any, y: Any) -> float:
    mu = np.array([z[y == c].mean(0) for c in range(C)])
    g = np.array([[(mu[c] - mu.mean(0)) @ (mu[d] - mu.mean(0)) for d in range(C)] for c in range(C)])
    return fro(g / fro(g) - (np.eye(C) - np.ones((C, C)) / C) / math.sqrt(C - 1))


KEYS = (1, 3)


def outside_rule(maps: Any) -> float:
    a = maps.mean(0)
    off = a - a.mean(0)
    unit = [w / fro(w) for k in KEYS for w in (wave(k, C).real, wave(k, C).imag)]
    return fro(off - sum(np.outer(u, u) for u in unit) @ off) ** 2 / fro(off) ** 2


def rule_by_power(maps: Any) -> Any:
    mean = T(maps.mean(0))
    power = fourier.frequency_power(mean)
    found = rule_gap_of(power[None], list(KEYS))[0]
    torch.testing.assert_close(found, rule_gap(mean, fourier.fourier_basis(C).rows(KEYS)))
    return found


REGIONS = [
    Row(
        "regions.reduction_residual",
        r"\max\left(r_{\text{forward}},\,r_{\text{jacobian}}\right)",
        wrong_network,
        lambda *given: max(far_values(*given), far_jacobians(*given)), lambda *given: max(residuals(*given)),
    ),
    Row(
        "regions.reduction_residual.forward",
        r"\frac{\max_{i,c}\left|(A_i x_i+b_i-f(x_i))_c\right|}{\max_{i,c}\left|f(x_i)_c\right|} \\ "
        r"A_i=W_{L+1}D_{i,L}W_L\cdots D_{i,1}W_1",
        wrong_network, far_values,
        lambda *given: residuals(*given)[0],
    ),
    Row(
        "regions.reduction_residual.jacobian",
        r"\frac{\max_{i,c,k}\left|(A_i)_{ck}-\frac{\partial f_c}{\partial x_k}(x_i)\right|}{\max_{i,c,k}"
        r"\left|(A_i)_{ck}\right|}",
        wrong_network,
        far_jacobians, lambda *given: residuals(*given)[1],
    ),
    Row(
        "regions.count",
        r"\left|\left\{D_i:i\in\text{train}\right\}\right|,\quad D_{ij}=\left[\text{pre-activation}>0"
        r"\right]",
        patterns,
        lambda d, _: len({tuple(row) for row in d}), lambda d, _: gate_patterns.count_patterns([T(d)]),
    ),
    Row(
        "regions.flipped",
        r"\operatorname*{mean}_{i,j}\left|D_{ij}(t)-D_{ij}(t')\right|,\quad t'\text{ the save before }t",
        patterns,
        lambda d, before: abs(d.astype(int) - before.astype(int)).mean(),
        lambda d, before: gate_patterns.flipped_share([T(before)], [T(d)]),
    ),
    Row(
        "regions.frozen_samples",
        r"\frac{1}{N}\left|\left\{i:D_i(t)=D_i(t')\right\}\right|,\quad t'\text{ the save before }t",
        patterns,
        lambda d, before: sum((d[i] == before[i]).all() for i in range(N)) / N,
        lambda d, before: gate_patterns.frozen_samples([T(before)], [T(d)]),
    ),
    Row(
        "regions.frozen_since",
        r"\min\left\{t:\left|K_t\right|\ge 0.99\,N\right\} \\ "
        r"K_t=\left\{i:D_i(u)=D_i(T)\text{ for all }u\ge t\right\}",
        saves, frozen_since,
        lambda gates: gate_patterns.frozen_since(
            T(np.r_[np.ones((1, 200), bool), (gates[1:] != gates[:-1]).any(2)])
        ),
    ),
    Row(
        "regions.gate_margin",
        r"\frac{\left|w_j^\top x_i+b_j\right|}{\left\|w_j\right\|\left\|x_i\right\|+\left|b_j\right|}",
        network, margin_entries, margin_levels,
    ),
    Row(
        "regions.active_fraction",
        r"\operatorname*{mean}_{i,j}\,D_{ij}",
        patterns,
        lambda d, _: d.mean(), lambda d, _: gate_patterns.active_fraction([T(d)]),
    ),
    Row(
        "regions.dead_neurons",
        r"\left|\left\{j:\sum_i D_{ij}=0\right\}\right|",
        patterns,
        lambda d, _: sum(d[:, j].sum() == 0 for j in range(4)), lambda d, _: gate_patterns.dead_neurons([T(d)]),
    ),
    Row(
        "regions.stable_rank_mean",
        r"\operatorname*{mean}_{i:A_i\ne 0}\frac{\left\|A_i\right\|_F^2}{\left\|A_i\right\|_2^2}",
        network,
        lambda *given: np.mean([fro(a) ** 2 / np.linalg.norm(a, 2) ** 2 for a in maps_of(*given)[0] if a.any()]),
        lambda *given: stable_rank_mean(form_of(*given[:-1]), T(given[-1])),
    ),
    Row(
        "regions.class_separation",
        r"S=\frac{\sum_i\left\|z_i-\mu_{y_i}\right\|^2}{\sum_{c\ne d}\left\|\mu_c-\mu_d\right\|^2+"
        r"\delta},\quad\delta=10^{-12}",
        classes, separation,
        lambda z, y: class_separation(T(z), T(y), C).value,
    ),
    Row(
        "regions.class_separation.normalised",
        r"\frac{2C^2}{N}\,S \\ "
        r"S=\frac{\sum_i\left\|z_i-\mu_{y_i}\right\|^2}{\sum_{c\ne d}\left\|\mu_c-\mu_d\right\|^2+"
        r"\delta},\quad\delta=10^{-12}",
        classes,
        lambda z, y: 2 * C**2 / N * separation(z, y), lambda z, y: class_separation(T(z), T(y), C).normalised,
    ),
    Row(
        "regions.simplex_gap",
        r"\left\|\frac{G}{\left\|G\right\|_F}-\frac{I-J/C}{\sqrt{C-1}}\right\|_F,\quad J_{cd}=1 \\ "
        r"G_{cd}=(\mu_c-\bar{\mu})^\top(\mu_d-\bar{\mu})",
        classes, simplex, lambda z, y: simplex_gap(T(z), T(y), C),
    ),
    Row(
        "regions.rule_gap",
        r"\frac{\left\|(I-P)(A-\bar{A})\right\|_F^2}{\left\|A-\bar{A}\right\|_F^2} \\ "
        r"A=\operatorname*{mean}_i A_i,\quad\bar{A}_{ck}=\frac{1}{C}\sum_d A_{dk} \\ "
        r"P=\sum_{k\in K}\left(c_k c_k^\top+s_k s_k^\top\right)",
        lambda rng: (rng.normal(size=(N, C, 5)),), outside_rule,
        rule_by_power,
    ),
    Row(
        "regions.local_complexity",
        r"\operatorname*{mean}_i\,\sum_j\left(\max_{x\in V_i}D_j(x)-\min_{x\in V_i}D_j(x)\right) \\ "
        r"V_i=\left\{x_i\pm r\,v_k:k=1,\ldots,P\right\}",
        network, complexity,
        lambda *given: regions.local_complexity(form_of(*given[:-1]), T(given[-1]), 0.2, 3),
    ),
]  # fmt: skip
