"""A row of the table of formulas, and what its plain numpy is written with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from grokscope.measures.regions import GatedForm

T = torch.as_tensor
Rng = np.random.Generator
N, C = 40, 7


@dataclass(frozen=True)
class Row:
    """A formula, what it says of random inputs, and what the toolkit makes of the same."""

    name: str
    latex: str
    inputs: Callable[[Rng], tuple[Any, ...]]
    plain: Callable[..., Any]
    measure: Callable[..., Any]
    rtol: float = 1e-9


def fro(x: Any) -> float:
    return math.sqrt(np.square(x).sum())


def wave(k: int, n: int) -> Any:
    return np.exp(-2j * np.pi * k * np.arange(n) / n)


def form_of(w1: Any, b1: Any, w2: Any, b2: Any, u: Any, c: Any, activation: str = "relu") -> GatedForm:
    return GatedForm((T(w1), T(w2)), (T(b1), T(b2)), T(u), T(c), activation=activation)
