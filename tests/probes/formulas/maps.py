"""Formulas of Fourier features and spectra: LaTeX, plain numpy, and the measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from grokscope.measures import fourier, phases, spectra
from grokscope.measures.neuron_frequencies import mean_explained, neuron_frequencies, neuron_shares
from grokscope.measures.nulls import factor_norms
from tests.probes.formulas.rows import Rng, Row, T, fro, wave

# --- fourier: tables (n, d) of n residues, odd and even n; shares f of F frequencies


def table(rng: Rng) -> tuple[Any, ...]:
    n = int(rng.integers(5, 15))
    return (rng.normal(size=(n, 6)) + 3,)


def fraction(table: Any) -> Any:
    n = len(table)
    power = [
        (1 if 2 * k == n else 2) / n * np.square(abs(wave(k, n) @ table)).sum() for k in range(1, n // 2 + 1)
    ]
    return np.array(power) / sum(power)


def shares(rng: Rng) -> tuple[Any, ...]:
    return (rng.dirichlet(np.ones(9) / 2),)


def gini(f: Any) -> float:
    f, count = np.sort(f), len(f)
    return 2 * sum((i + 1) * f[i] for i in range(count)) / (count * f.sum()) - (count + 1) / count


def circularity(table: Any) -> float:
    n = len(table)
    u, s, _ = np.linalg.svd(table - table.mean(0), full_matrices=False)
    v = (u * s).T[:4]
    below = range(1, (n + 1) // 2)
    power = [[2 / (n * part @ part) * abs(wave(k, n) @ part) ** 2 for k in below] for part in v]
    return sum(max(of) for of in power) / 4


def complex_ratio(w: Any) -> float:
    n, found = len(w), []
    for h in range(w.shape[1]):
        hat = np.array([wave(nu, n) @ w[:, h] for nu in range(1, n)])
        tilde = hat / math.sqrt(np.square(abs(hat)).sum())
        found.append((abs(tilde) ** 4).sum())
    return float(np.mean(found))


def smallest_set(f: Any) -> Any:
    for size in range(1, len(f) + 1):
        best = np.argsort(-f)[:size]
        if f[best].sum() >= 0.95:
            return np.isin(np.arange(len(f)), best)
    raise AssertionError(f)


def activations(rng: Rng) -> tuple[Any, ...]:
    n = int(rng.integers(5, 9))
    return (rng.normal(size=(n, n, 12)) + 1,)


def block_energy(x: Any) -> Any:
    """(h, F) by the sums of the formula."""
    n = len(x)
    found = np.zeros((x.shape[2], n // 2))
    for k in range(1, n // 2 + 1):
        waves = [np.ones(n), wave(k, n).real] + ([] if 2 * k == n else [wave(k, n).imag])
        unit = [w / fro(w) for w in waves]
        for i, u in enumerate(unit):
            for j, v in enumerate(unit):
                if (i, j) != (0, 0):
                    found[:, k - 1] += np.einsum("a,b,abh->h", u, v, x) ** 2
    return found


def neuron_weights(rng: Rng) -> tuple[Any, ...]:
    n = 11
    k = rng.integers(1, 6, size=8)
    return (*(rng.normal(size=(n, 8)) for _ in range(3)), k)


def misfits(a: Any, b: Any, out: Any, k: Any) -> tuple[Any, Any]:
    n = len(a)
    parts = [np.array([wave(k[h], n) @ w[:, h] for h in range(len(k))]) for w in (a, b, out)]
    theta = np.angle(parts[0]) + np.angle(parts[1]) - np.angle(parts[2])
    return theta, abs(parts[0]) * abs(parts[1]) * abs(parts[2])


def resultant(a: Any, b: Any, out: Any, k: Any) -> complex:
    theta, w = misfits(a, b, out, k)
    return (w * np.exp(1j * theta)).sum() / w.sum()


def statistics(a: Any, b: Any, out: Any, k: Any) -> phases.PhaseStatistics:
    return phases.phase_statistics(phases.fit_phases(T(a), T(b), T(out), T(k)))


def chance(a: Any, b: Any, out: Any, k: Any) -> float:
    _, w = misfits(a, b, out, k)
    return math.sqrt(math.pi / (4 * w.sum() ** 2 / np.square(w).sum()))


FOURIER = [
    Row(
        "fourier.<map>.fraction",
        r"f_k=\frac{P_k}{\sum_{l=1}^F P_l},\quad F=\left\lfloor n/2\right\rfloor \\ "
        r"P_k=\frac{c_k}{n}\sum_j\left|\sum_{a=0}^{n-1}M_{aj}e^{-2\pi\text{i}ka/n}\right|^2 \\ "
        r"c_k=2,\quad c_{n/2}=1",
        table, fraction,
        lambda m: fourier.frequency_fraction(T(m)),
    ),
    Row(
        "fourier.<map>.gini",
        r"\frac{2\sum_{i=1}^F i\,f_{(i)}}{F\sum_{i=1}^F f_{(i)}}-\frac{F+1}{F} \\ "
        r"f_{(1)}\le\cdots\le f_{(F)}",
        shares, gini, lambda f: fourier.gini(T(f)),
    ),
    Row(
        "fourier.<map>.gini_norm",
        r"\frac{2\sum_{i=1}^F i\sqrt{f_{(i)}}}{F\sum_{i=1}^F\sqrt{f_{(i)}}}-\frac{F+1}{F} \\ "
        r"f_{(1)}\le\cdots\le f_{(F)}",
        shares,
        lambda f: gini(np.sqrt(f)), lambda f: fourier.gini(T(f).sqrt()),
    ),
    Row(
        "fourier.<map>.participation",
        r"\frac{1}{\sum_{k=1}^F f_k^2}",
        shares,
        lambda f: 1 / sum(f**2), lambda f: fourier.participation(T(f)),
    ),
    Row(
        "fourier.<map>.circularity",
        r"\frac{1}{4}\sum_{l=1}^4\,\max_{1\le k<n/2}\frac{2}{n\left\|v_l\right\|^2}\left|"
        r"\sum_{a=0}^{n-1}v_{l,a}e^{2\pi\text{i}ka/n}\right|^2 \\ "
        r"\text{where }v_l\text{ has no variance, }0",
        table, circularity,
        lambda m: fourier.circularity(T(m)),
    ),
    Row(
        "fourier.ipr",
        r"\operatorname*{mean}_h\,\sum_{k=1}^F f_{h,k}^2",
        table,
        lambda w: np.mean([np.square(fraction(w[:, [h]])).sum() for h in range(w.shape[1])]),
        lambda w: fourier.inverse_participation(T(w)),
    ),
    Row(
        "fourier.ipr_complex",
        r"\operatorname*{mean}_h\,\sum_{\nu=1}^{n-1}\left|\tilde{w}_{h,\nu}\right|^4 \\ "
        r"\tilde{w}_{h,\nu}=\frac{\hat{w}_{h,\nu}}{\sqrt{\sum_{\mu=1}^{n-1}\left|\hat{w}_{h,\mu}"
        r"\right|^2}} \\ "
        r"\hat{w}_{h,\nu}=\sum_{a=0}^{n-1}w_{h,a}e^{-2\pi\text{i}\nu a/n}",
        table, complex_ratio,
        lambda w: fourier.complex_inverse_participation(T(w)),
    ),
    Row(
        "fourier.key_frequencies.by_neuron",
        r"\frac{\left|\left\{h:k_h=k\right\}\right|}{\left|\left\{h:k_h\text{ exists}\right\}\right|},"
        r"\quad k_h=\argmax_k E_{h,k} \\ "
        r"E_{h,k}=\sum_{u,v}\left(\sum_{a,b}u(a)v(b)x_h(a,b)\right)^2 \\ "
        r"u,v\in\left\{1,\cos_k,\sin_k\right\}\text{ of norm 1},\,(u,v)\ne(1,1)",
        activations,
        lambda x: np.bincount(block_energy(x).argmax(1), minlength=len(x) // 2) / x.shape[2],
        lambda x: neuron_shares(neuron_frequencies(T(x)), len(x)),
    ),
    Row(
        "fourier.key_frequencies.by_embedding",
        r"\argmin_K\left\{\left|K\right|:\sum_{k\in K}f_k\ge 0.95\right\}",
        shares, smallest_set,
        lambda f: fourier.key_frequencies_by_embedding(T(f)),
    ),
    Row(
        "fourier.neuron_explained",
        r"\operatorname*{mean}_h\,\max_k\frac{E_{h,k}}{\sum_{a,b}(x_h(a,b)-\bar{x}_h)^2} \\ "
        r"E_{h,k}=\sum_{u,v}\left(\sum_{a,b}u(a)v(b)x_h(a,b)\right)^2 \\ "
        r"u,v\in\left\{1,\cos_k,\sin_k\right\}\text{ of norm 1},\,(u,v)\ne(1,1)",
        activations,
        lambda x: np.mean(block_energy(x).max(1) / np.square(x - x.mean((0, 1))).sum((0, 1))),
        lambda x: mean_explained(neuron_frequencies(T(x))),
    ),
    Row(
        "fourier.phase_cosine",
        r"\frac{\sum_h w_h\cos\,\theta_h}{\sum_h w_h},\quad w=\alpha_a\alpha_b\alpha_\psi",
        neuron_weights,
        lambda *given: resultant(*given).real, lambda *given: statistics(*given).cosine,
    ),
    Row(
        "fourier.phase_resultant",
        r"\left|\frac{\sum_h w_h e^{\text{i}\theta_h}}{\sum_h w_h}\right|",
        neuron_weights,
        lambda *given: abs(resultant(*given)), lambda *given: statistics(*given).resultant,
    ),
    Row(
        "fourier.phase_angle",
        r"\operatorname{arg}\,\sum_h w_h e^{\text{i}\theta_h}",
        neuron_weights,
        lambda *given: np.angle(resultant(*given)), lambda *given: statistics(*given).angle,
    ),
    Row(
        "fourier.phase_chance",
        r"\sqrt{\frac{\pi}{4n}},\quad n=\frac{\left(\sum_h w_h\right)^2}{\sum_h w_h^2}",
        neuron_weights, chance,
        lambda *given: phases.resultant_chance(float(statistics(*given).effective_neurons)),
    ),
]  # fmt: skip

# --- spectra: a product (6, 5) of three factors, of rank 3 or 4


def factors(rng: Rng) -> tuple[Any, ...]:
    rank = int(rng.integers(3, 5))
    return ([rng.normal(size=(6, rank)), rng.normal(size=(rank, 8)), rng.normal(size=(8, 5))],)


def sigma(chain: Any) -> Any:
    """The singular values of the product that are not zero."""
    return np.linalg.svd(chain[0] @ chain[1] @ chain[2], compute_uv=False)[: chain[0].shape[1]]


def perplexity(q: Any) -> float:
    q = q / q.sum()
    return math.exp(-sum(q * np.log(q)))


def kept(measure: Callable[..., Any], *more: Any) -> Callable[..., Any]:
    def of(chain: Any) -> Any:
        found = spectra.factored_singular_values([T(part) for part in chain])
        return measure(spectra.above_tolerance(found, (6, 5), torch.float64), *more)

    return of


def ranked(chain: Any) -> int:
    s = np.linalg.svd(chain[0] @ chain[1] @ chain[2], compute_uv=False)
    return sum(s > max(6, 5) * np.finfo(float).eps * s[0])


def rebuilt(chain: Any) -> Any:
    """The scales with which A is the sum of the formula."""
    a = chain[0] @ chain[1] @ chain[2]
    u, s, v = np.linalg.svd(a)
    count = chain[0].shape[1]
    assert np.allclose(a, sum(s[i] * np.outer(u[:, i], v[i]) for i in range(count)))
    return s[:count]


SHAPE = ((6, 5), torch.float64)
SPECTRA = [
    Row(
        "spectra.<map>.factor_norms",
        r"\prod_{i=1}^q\left\|F_i\right\|_F,\quad A=F_1\cdots F_q",
        factors,
        lambda chain: math.prod(fro(part) for part in chain),
        lambda chain: factor_norms([T(part) for part in chain]),
    ),
    Row(
        "spectra.<map>.singular_values",
        r"A=\sum_i\sigma_i u_i v_i^\top,\quad\sigma_1\ge\sigma_2\ge\cdots\ge 0",
        factors,
        rebuilt,
        lambda chain: spectra.factored_singular_values([T(part) for part in chain]),
    ),
    Row(
        "spectra.<map>.stable_rank",
        r"\frac{\left\|A\right\|_F^2}{\left\|A\right\|_2^2}=\frac{\sum_i\sigma_i^2}{\sigma_1^2}",
        factors,
        lambda chain: fro(a := chain[0] @ chain[1] @ chain[2]) ** 2 / np.linalg.norm(a, 2) ** 2,
        kept(spectra.stable_rank),
    ),
    Row(
        "spectra.<map>.effective_rank",
        r"\exp\left(-\sum_i q_i\ln\,q_i\right),\quad q_i=\frac{\sigma_i}{\sum_j\sigma_j}",
        factors,
        lambda chain: perplexity(sigma(chain)), kept(spectra.effective_rank),
    ),
    Row(
        "spectra.<map>.entropy_rank",
        r"\exp\left(-\sum_i q_i\ln\,q_i\right),\quad q_i=\frac{\sigma_i^2}{\sum_j\sigma_j^2}",
        factors,
        lambda chain: perplexity(sigma(chain) ** 2), kept(spectra.entropy_rank),
    ),
    Row(
        "spectra.<map>.participation",
        r"\frac{\left(\sum_i\sigma_i^2\right)^2}{\sum_i\sigma_i^4}",
        factors,
        lambda chain: sum(sigma(chain) ** 2) ** 2 / sum(sigma(chain) ** 4), kept(spectra.participation_rank),
    ),
    Row(
        "spectra.<map>.numerical_rank",
        r"\left|\left\{i:\sigma_i>\max(m,n)\,\varepsilon\,\sigma_1\right\}\right|",
        factors, ranked,
        kept(spectra.numerical_rank, *SHAPE),
    ),
    Row(
        "spectra.<map>.schatten_two_over_depth",
        r"\sum_i\sigma_i^{2/L}",
        factors,
        lambda chain: sum(sigma(chain) ** (2 / 3)), kept(spectra.schatten_power, 2 / 3, *SHAPE),
    ),
    Row(
        "spectra.<map>.schatten_half",
        r"\sum_i\sigma_i^{1/2}",
        factors,
        lambda chain: sum(sigma(chain) ** 0.5), kept(spectra.schatten_power, 0.5, *SHAPE),
    ),
    Row(
        "spectra.<map>.nuclear",
        r"\sum_i\sigma_i",
        factors,
        lambda chain: sum(sigma(chain)), kept(spectra.schatten_power, 1.0, *SHAPE),
    ),
    Row(
        "spectra.<map>.frobenius",
        r"\left\|A\right\|_F=\sqrt{\sum_i\sigma_i^2}",
        factors,
        lambda chain: fro(chain[0] @ chain[1] @ chain[2]), kept(spectra.frobenius),
    ),
    Row(
        "spectra.<map>.spectral",
        r"\left\|A\right\|_2=\sigma_1",
        factors,
        lambda chain: np.linalg.norm(chain[0] @ chain[1] @ chain[2], 2), kept(spectra.spectral),
    ),
    Row(
        "spectra.balance_gap",
        r"\sum_{l=1}^L\left\|W_l\right\|_F^2-L\sum_i\sigma_i(A)^{2/L} \\ "
        r"A=W_L\cdots W_1",
        factors,
        lambda chain: sum(fro(w) ** 2 for w in chain) - 3 * sum(sigma(chain) ** (2 / 3)),
        lambda chain: spectra.balance_gap([T(w) for w in reversed(chain)]),
    ),
]  # fmt: skip
