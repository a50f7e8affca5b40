"""Formulas of losses, accuracies, margins and norms: LaTeX, plain numpy, and the measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from grokscope.measures import classification
from grokscope.measures.norms import frobenius_norm, frobenius_total
from grokscope.probes.loss import subsets
from grokscope.tasks import ModularSettings, modular_task
from tests.probes.formulas.rows import C, N, Rng, Row, T, fro

# --- loss: (N, C) logits z and answers y of one set of samples


def logits(rng: Rng) -> tuple[Any, ...]:
    return rng.normal(size=(N, C)) * 3, rng.integers(C, size=N)


def margins(z: Any, y: Any) -> Any:
    return np.array([z[i, y[i]] - max(z[i, m] for m in range(C) if m != y[i]) for i in range(N)])


def confident(rng: Rng) -> tuple[Any, ...]:
    z, y = logits(rng)
    z[: N // 2] *= 40
    return z.astype(np.float32), y


def collapsed(z: Any, y: Any) -> float:
    s = [sum((np.exp(z[i] - z[i].max())).astype(np.float32), start=np.float32(0)) for i in range(N)]
    return sum(s[i] == 1 and z[i].argmax() == y[i] for i in range(N)) / N


def pairs(op: str) -> Callable[[Rng], tuple[Any, ...]]:
    def draw(rng: Rng) -> tuple[Any, ...]:
        task = modular_task(ModularSettings(op=op, p=7, train_fraction=0.5), int(rng.integers(100)))
        return task, rng.integers(2, size=len(task.inputs)).astype(bool)

    return draw


def of_pairs(task: Any, right: Any, chosen: Callable[[int, int, set[Any]], bool]) -> float:
    found = [tuple(pair) for pair in task.inputs.tolist()]
    train = {pair for pair, known in zip(found, task.train_mask.tolist(), strict=True) if known}
    members = [i for i, pair in enumerate(found) if pair not in train and chosen(pair[0], pair[1], train)]
    return float(np.mean(right[members]))


def subset(name: str) -> Callable[..., Any]:
    return lambda task, right: classification.mean_over(T(right), T(subsets(task)[name]))


LOSS = [
    Row(
        "loss.train",
        r"\operatorname*{mean}_{i\in\text{train}}\,\ln\sum_m e^{z_{i,m}-z_{i,y_i}}\quad"
        r"\text{(cross-entropy)} \\ "
        r"\operatorname*{mean}_{i\in\text{train}}\,\frac{1}{2}\left\|z_i-\text{onehot}(y_i)\right\|^2"
        r"\quad\text{(squared)} \\ "
        r"\frac{1}{2}\sum_{(i,j)\in\text{train}}(\hat{y}_{ij}-y_{ij})^2\quad\text{(completion)}",
        logits,
        lambda z, y: np.mean([np.log(sum(np.exp(z[i, m] - z[i, y[i]]) for m in range(C))) for i in range(N)]),
        lambda z, y: classification.cross_entropy(T(z), T(y)).mean(),
    ),
    Row(
        "accuracy.test",
        r"\frac{\left|\left\{i\in \text{test}:\hat{y}_i=y_i\right\}\right|}{\left|\text{test}\right|} \\ "
        r"\hat{y}_i=\argmax_m z_{i,m}",
        logits,
        lambda z, y: sum(int(np.argmax(z[i])) == y[i] for i in range(N)) / N,
        lambda z, y: classification.correct(T(z), T(y)).double().mean(),
    ),
    Row(
        "accuracy.test_mirrored",
        r"\frac{\left|\left\{i\in M:\hat{y}_i=y_i\right\}\right|}{\left|M\right|} \\ "
        r"M=\left\{(a,b)\in\text{test}:a\ne b,\,(b,a)\in\text{train}\right\}",
        pairs("add"),
        lambda task, right: of_pairs(task, right, lambda a, b, train: a != b and (b, a) in train),
        subset("test_mirrored"),
    ),
    Row(
        "accuracy.test_unmirrored",
        r"\frac{\left|\left\{i\in \text{test}\setminus M:\hat{y}_i=y_i\right\}\right|}{\left|\text{test}"
        r"\setminus M\right|} \\ "
        r"M=\left\{(a,b)\in\text{test}:a\ne b,\,(b,a)\in\text{train}\right\}",
        pairs("add"),
        lambda task, right: of_pairs(task, right, lambda a, b, train: not (a != b and (b, a) in train)),
        subset("test_unmirrored"),
    ),
    Row(
        "accuracy.test_symmetry",
        r"\frac{\left|\left\{i\in V:\hat{y}_i=y_i\right\}\right|}{\left|V\right|} \\ "
        r"V=\left\{i\in\text{test}:g(i)\in\text{train}\text{ for a }g\in G\right\} \\ "
        r"y_{g(j)}=y_j\text{ for all }j",
        pairs("sub"),
        lambda task, right: of_pairs(task, right, lambda a, b, train: (-b % 7, -a % 7) in train),
        subset("test_symmetry"),
    ),
    Row(
        "accuracy.test_equivariant",
        r"\frac{\left|\left\{i\in V:\hat{y}_i=y_i\right\}\right|}{\left|V\right|} \\ "
        r"V=\left\{i\in\text{test}:g(i)\in\text{train}\text{ for a }g\in G\right\} \\ "
        r"y_{g(j)}=h_g(y_j)\text{ for all }j",
        pairs("sub"),
        lambda task, right: of_pairs(task, right, lambda a, b, train: (b, a) in train),
        subset("test_equivariant"),
    ),
    Row(
        "margin.min",
        r"\min_{i\in\text{train}}\left(z_{i,y_i}-\max_{m\ne y_i}z_{i,m}\right)",
        logits,
        lambda z, y: margins(z, y).min(),
        lambda z, y: classification.margin(T(z), T(y)).min(),
    ),
    Row(
        "margin.mean",
        r"\operatorname*{mean}_{i\in\text{train}}\left(z_{i,y_i}-\max_{m\ne y_i}z_{i,m}\right)",
        logits,
        lambda z, y: margins(z, y).mean(),
        lambda z, y: classification.margin(T(z), T(y)).mean(),
    ),
    Row(
        "logits.norm",
        r"\operatorname*{mean}_{i}\left\|z_i/\tau\right\|_2,\quad\tau=1",
        logits,
        lambda z, y: np.mean([np.sqrt(sum(z[i, m] ** 2 for m in range(C))) for i in range(N)]),
        lambda z, y: classification.read_answers(T(z), T(y)).norm.mean(),
    ),
    Row(
        "softmax.collapsed",
        r"\frac{\left|\left\{i\in\text{train}:s_i=1,\,\hat{y}_i=y_i\right\}\right|}{\left|\text{train}"
        r"\right|} \\ "
        r"s_i=\sum_m e^{z_{i,m}-\max_k z_{i,k}}\text{, rounded}",
        confident, collapsed,
        lambda z, y: classification.softmax_collapsed(T(z), T(y), torch.ones(N, dtype=torch.bool)),
    ),
]  # fmt: skip

# --- norms: matrices of one save


def matrices(rng: Rng) -> tuple[Any, ...]:
    return ([rng.normal(size=(4, 5)), rng.normal(size=(5, 2, 3))],)


NORMS = [
    Row(
        "norm.total",
        r"\sqrt{\sum_W\left\|W\right\|_F^2}",
        matrices,
        lambda ws: math.sqrt(sum(fro(w) ** 2 for w in ws)),
        lambda ws: frobenius_total([T(w) for w in ws], 0),
    ),
    Row(
        "norm.<block>",
        r"\sqrt{\sum_{W\in\text{block}}\left\|W\right\|_F^2}",
        matrices,
        lambda ws: math.sqrt(sum(fro(w) ** 2 for w in ws)),
        lambda ws: torch.stack([frobenius_norm(T(w), 0).square() for w in ws]).sum().sqrt(),
    ),
]  # fmt: skip
