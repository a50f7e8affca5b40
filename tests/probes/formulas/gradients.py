"""Formulas of gradients and updates: LaTeX, plain numpy, and the measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from grokscope.measures import chain_rule, gradients
from grokscope.measures.sample_gradients import GELU_LARGEST_SLOPE
from tests.probes.formulas.rows import C, N, Rng, Row, T, form_of, fro

# --- gradients: blocks θ of two tensors with gradients g; per-sample gradients


def blocks(rng: Rng) -> tuple[Any, ...]:
    """Head and embedding, each as gradient and parameters, two tensors of a block."""
    return tuple(
        [rng.normal(size=s) * rng.uniform(0.5, 2) for s in ((4, size), (size,))] for size in (3, 3, 7, 7)
    )


def flat(tensors: Any) -> Any:
    return np.concatenate([t.ravel() for t in tensors])


def sized(g: Any, theta: Any) -> gradients.BlockGradient:
    names = [str(number) for number in range(len(g))]
    grads, params = ({k: T(t) for k, t in zip(names, of, strict=True)} for of in (g, theta))
    return gradients.gradient_norms(grads, params, {"block": tuple(names)})["block"]


def decayed(g: Any, theta: Any) -> list[Any]:
    names = [str(number) for number in range(len(g))]
    grads, params = ({k: T(t) for k, t in zip(names, of, strict=True)} for of in (g, theta))
    return [t.numpy() for t in gradients.with_decay(grads, params, dict.fromkeys(names, 0.3)).values()]


def ratio(size: str) -> Callable[..., Any]:
    return lambda gu, u, ge, e: getattr(gradients.head_over_embedding(sized(gu, u), sized(ge, e)), size)


def moved(size: str) -> Callable[..., Any]:
    def of(u1: Any, u: Any, e1: Any, e: Any) -> float:
        steps = [
            gradients.update_norms({"0": T(flat(before))}, {"0": T(flat(after))}, {"block": ("0",)})["block"]
            for before, after in ((u, u1), (e, e1))
        ]
        return gradients.update_ratio(*(getattr(step, size) for step in steps))

    return of


def concatenated(rng: Rng) -> tuple[Any, ...]:
    """A network of two hidden layers on the concatenated embeddings of two of 6 residues, and its samples."""
    shapes = ((8, 9), (9,), (9, 6), (6,), (6, C), (C,))
    operands = rng.integers(6, size=(N, 2))
    operands[:4, 1] = operands[:4, 0]
    scale = rng.uniform(0.1, 0.3)  # of weights that put the head above some of the bounds
    weights = [rng.normal(size=shape) * scale for shape in shapes]
    return (*weights, rng.normal(size=(6, 4)), operands, rng.normal(size=(N, C)))


def account(*given: Any) -> chain_rule.Account:
    *weights, e, operands, delta = given
    z = e[operands].reshape(N, 8)
    return chain_rule.per_sample_account(
        form_of(*weights, activation="gelu"), T(z), None, embedding_width=4, combine="concatenation",
        same_operand=T(operands[:, 0] == operands[:, 1]), delta=T(delta),
    )  # fmt: skip


def bounds(*given: Any) -> Any:
    """(4, N): β of the head, of both layers and of the embedding, with biases."""
    w1, b1, w2, b2, u, _, e, operands, delta = given
    h0 = e[operands].reshape(N, 8)
    gelu = torch.nn.functional.gelu
    h1 = gelu(T(h0 @ w1 + b1)).numpy()
    h2 = gelu(T(h1 @ w2 + b2)).numpy()
    kappa, two = GELU_LARGEST_SLOPE, lambda m: np.linalg.norm(m, 2)
    assert round(kappa, 3) == 1.129
    found = np.zeros((4, N))
    for i in range(N):
        size, (a, b) = fro(delta[i]), operands[i]
        biased = [math.sqrt(1 + fro(h[i]) ** 2) for h in (h0, h1, h2)]
        spread = np.zeros((8, 24))
        for slot, row in enumerate((a, b)):
            spread[4 * slot : 4 * slot + 4, 4 * row : 4 * row + 4] = np.eye(4)
        assert np.allclose(spread @ e.ravel(), h0[i])
        found[0, i] = size * biased[2]
        found[1, i] = kappa**2 * biased[0] * two(w2) * two(u) * size
        found[2, i] = kappa * biased[1] * two(u) * size
        found[3, i] = two(spread) * kappa**2 * two(w1) * two(w2) * two(u) * size
    return found


def read_bounds(*given: Any) -> Any:
    found = account(*given)
    assert found.embedding is not None
    parts = (found.head, *found.layers, found.embedding)
    return torch.stack([part.bound_with_bias for part in parts])


def above(*given: Any) -> float:
    sizes, upper = account(*given).head.with_bias.numpy(), bounds(*given)[3]
    return float(np.mean([sizes[i] > upper[i] for i in range(N)]))


def forced(*given: Any) -> Any:
    found = account(*given)
    assert found.embedding is not None
    return (found.head.with_bias > found.embedding.bound_with_bias).double().mean()


def per_sample(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(size=(N, 12)) + 0.5,)


GRADIENTS = [
    Row(
        "gradients.with_decay.<block>.norm",
        r"\left\|g+\lambda\theta\right\|,\quad g=\nabla_\theta L",
        blocks,
        lambda g, theta, *_: fro(flat(g) + 0.3 * flat(theta)),
        lambda g, theta, *_: sized(decayed(g, theta), theta).norm,
    ),
    Row(
        "gradients.with_decay.<block>.per_parameter",
        r"\frac{\left\|g+\lambda\theta\right\|}{\sqrt{n}},\quad\theta\in\text{R}^n",
        blocks,
        lambda g, theta, *_: fro(flat(g) + 0.3 * flat(theta)) / math.sqrt(flat(g).size),
        lambda g, theta, *_: sized(decayed(g, theta), theta).per_parameter,
    ),
    Row(
        "gradients.with_decay.<block>.relative",
        r"\frac{\left\|g+\lambda\theta\right\|}{\left\|\theta\right\|}",
        blocks,
        lambda g, theta, *_: fro(flat(g) + 0.3 * flat(theta)) / fro(flat(theta)),
        lambda g, theta, *_: sized(decayed(g, theta), theta).relative,
    ),
    Row(
        "gradients.head_over_embedding",
        r"\frac{\left\|g_U\right\|}{\left\|g_E\right\|},\quad g_U=\nabla_U L,\quad g_E=\nabla_E L",
        blocks,
        lambda gu, u, ge, e: fro(flat(gu)) / fro(flat(ge)), ratio("norm"),
    ),
    Row(
        "gradients.head_over_embedding_per_parameter",
        r"\frac{\left\|g_U\right\|/\sqrt{n_U}}{\left\|g_E\right\|/\sqrt{n_E}}",
        blocks,
        lambda gu, u, ge, e: (fro(flat(gu)) / math.sqrt(15)) / (fro(flat(ge)) / math.sqrt(35)),
        ratio("per_parameter"),
    ),
    Row(
        "gradients.head_over_embedding_relative",
        r"\frac{\left\|g_U\right\|/\left\|U\right\|}{\left\|g_E\right\|/\left\|E\right\|}",
        blocks,
        lambda gu, u, ge, e: (fro(flat(gu)) / fro(flat(u))) / (fro(flat(ge)) / fro(flat(e))), ratio("relative"),
    ),
    Row(
        "gradients.head_above_bound",
        r"\frac{1}{N}\left|\left\{i:\left\|\nabla_U\ell_i\right\|>\beta_{E,i}\right\}\right| \\ "
        r"\beta_E=\left\|B\right\|_2\,\kappa^L\prod_{k}\left\|W_k\right\|_2\left\|U\right\|_2\left\|"
        r"\delta\right\| \\ "
        r"z=BE,\quad\kappa=1\text{ (ReLU)},\,1.129\text{ (GELU)}",
        concatenated, above, forced,
    ),
    Row(
        "gradients.bound_slack.<block>",
        r"\operatorname*{mean}_{i:\beta_i>0}\frac{\left\|\nabla\ell_i\right\|}{\beta_i},\quad\beta_U="
        r"\left\|\delta\right\|\left\|h_L\right\| \\ "
        r"\beta_{W_l}=\kappa^{L-l+1}\left\|h_{l-1}\right\|\prod_{k>l}\left\|W_k\right\|_2\left\|U\right"
        r"\|_2\left\|\delta\right\| \\ "
        r"\beta_E=\left\|B\right\|_2\,\kappa^L\prod_{k}\left\|W_k\right\|_2\left\|U\right\|_2\left\|"
        r"\delta\right\| \\ "
        r"z=BE,\quad\kappa=1\text{ (ReLU)},\,1.129\text{ (GELU)} \\ "
        r"\left\|h\right\|\text{ with a bias: }\sqrt{1+\left\|h\right\|^2}",
        concatenated, bounds, read_bounds,
    ),
    Row(
        "gradients.cancellation.<block>",
        r"\frac{\left\|\operatorname*{mean}_i\nabla\ell_i\right\|}{\operatorname*{mean}_i\left\|\nabla"
        r"\ell_i\right\|}",
        per_sample,
        lambda g: fro(g.mean(0)) / np.mean([fro(g[i]) for i in range(N)]),
        lambda g: chain_rule.cancellation(fro(g.mean(0)), T(np.array([fro(row) for row in g]))),
    ),
    Row(
        "gradients.update_ratio",
        r"\frac{\left\|U(t')-U(t)\right\|}{\left\|E(t')-E(t)\right\|},\quad t'\text{ the next save}",
        blocks,
        lambda u1, u, e1, e: fro(flat(u1) - flat(u)) / fro(flat(e1) - flat(e)), moved("norm"),
    ),
    Row(
        "gradients.update_ratio.relative",
        r"\frac{\left\|U(t')-U(t)\right\|/\left\|U(t)\right\|}{\left\|E(t')-E(t)\right\|/\left\|E(t)"
        r"\right\|},\quad t'\text{ the next save}",
        blocks,
        lambda u1, u, e1, e: (fro(flat(u1) - flat(u)) / fro(flat(u))) / (fro(flat(e1) - flat(e)) / fro(flat(e))),
        moved("relative"),
    ),
    Row(
        "gradients.<block>.norm",
        r"\left\|g\right\|,\quad g=\nabla_\theta L",
        blocks,
        lambda g, theta, *_: fro(flat(g)), lambda g, theta, *_: sized(g, theta).norm,
    ),
    Row(
        "gradients.<block>.per_parameter",
        r"\frac{\left\|g\right\|}{\sqrt{n}},\quad\theta\in\text{R}^n",
        blocks,
        lambda g, theta, *_: fro(flat(g)) / math.sqrt(flat(g).size),
        lambda g, theta, *_: sized(g, theta).per_parameter,
    ),
    Row(
        "gradients.<block>.relative",
        r"\frac{\left\|g\right\|}{\left\|\theta\right\|}",
        blocks,
        lambda g, theta, *_: fro(flat(g)) / fro(flat(theta)), lambda g, theta, *_: sized(g, theta).relative,
    ),
]  # fmt: skip
