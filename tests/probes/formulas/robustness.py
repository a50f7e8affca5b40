"""Formulas of accuracy under noise: LaTeX, plain numpy, and what the probe does to its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from grokscope.probes.robustness import AMPLITUDES, NAMES, right_under_noise
from tests.probes.formulas.rows import C, N, Rng, Row, T


def answers(rng: Rng) -> tuple[Any, ...]:
    """A linear rule, inputs, answers and noise."""
    return rng.normal(size=(4, C)), rng.normal(size=(N, 4)), rng.integers(C, size=N), rng.normal(size=(N, 4))


def plain(amplitude: float) -> Callable[..., float]:
    def of(W: Any, x: Any, y: Any, xi: Any) -> float:
        size = amplitude * np.sqrt(np.mean(x**2))
        return float(
            np.mean([np.argmax(W.T @ (row + size * n)) == k for row, k, n in zip(x, y, xi, strict=True)])
        )

    return of


def measured(amplitude: float) -> Callable[..., float]:
    def of(W: Any, x: Any, y: Any, xi: Any) -> float:
        return float(
            right_under_noise(lambda z: z @ T(W), T(x), torch.as_tensor(y), T(xi), amplitude, signs=False)
        )

    return of


ROBUSTNESS = [
    Row(
        NAMES[amplitude],
        r"\operatorname*{mean}_{i\in\text{test}}\,[\hat{y}(x_i+s\xi_i)=y_i] \\ "
        rf"s={amplitude:g}\sqrt{{\operatorname*{{mean}}_{{i,j}}\,x_{{ij}}^2}},\quad\xi_{{ij}}\sim N(0,1)",
        answers, plain(amplitude), measured(amplitude),
    )
    for amplitude in AMPLITUDES
]  # fmt: skip
