"""Formulas of Jacobians beside their inputs: LaTeX, plain numpy, and the measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from grokscope.measures.alignment import alignment
from tests.probes.formulas.rows import C, N, Rng, Row, T

_JACOBIAN = r" \\ J_x=\frac{\partial f}{\partial x}\in\text{R}^{C\times d}"


def jacobians(rng: Rng) -> tuple[Any, ...]:
    return rng.normal(size=(N, C, 4)) + rng.normal(), rng.normal(size=(N, 4))


def cos(a: Any, b: Any) -> float:
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def over(of: Callable[[Any, Any], Any]) -> Callable[[Any, Any], float]:
    """The mean of ``of`` over samples."""
    return lambda J, x: float(np.mean([of(one, row) for one, row in zip(J, x, strict=True)]))


def measured(name: str) -> Callable[[Any, Any], float]:
    return lambda J, x: float(getattr(alignment(T(J), T(x)), name).mean())


ALIGNMENT = [
    Row(f"alignment.{name}.<subset>", latex + _JACOBIAN, jacobians, over(plain), measured(attribute))
    for name, attribute, latex, plain in (
        ("centroid", "centroid", r"\operatorname*{mean}_x\cos(J_x^T 1,x)", lambda J, x: cos(J.sum(0), x)),
        ("centroid_inner", "centroid_inner", r"\operatorname*{mean}_x\,\langle J_x^T 1,x\rangle",
         lambda J, x: J.sum(0) @ x),
        ("centroid_norm", "centroid_norm", r"\operatorname*{mean}_x\left\|J_x^T 1\right\|",
         lambda J, x: np.linalg.norm(J.sum(0))),
        ("common_row", "common_row",
         r"\operatorname*{mean}_x\frac{\left\|J_x^T 1\right\|}{\sqrt{C}\left\|J_x\right\|_F}",
         lambda J, x: np.linalg.norm(J.sum(0)) / (np.sqrt(len(J)) * np.linalg.norm(J))),
        ("row_max", "row_max", r"\operatorname*{mean}_x\max_c\cos(J_{x,c},x)", lambda J, x: max(cos(r, x) for r in J)),
        ("row_min", "row_min", r"\operatorname*{mean}_x\min_c\cos(J_{x,c},x)", lambda J, x: min(cos(r, x) for r in J)),
        ("first_component", "first_component",
         r"\operatorname*{mean}_x\frac{\sigma_1(J_x)^2}{\sum_i\sigma_i(J_x)^2}",
         lambda J, x: np.linalg.norm(J, 2) ** 2 / np.linalg.norm(J) ** 2),
        ("jacobian_norm", "norm", r"\operatorname*{mean}_x\left\|J_x\right\|_F", lambda J, x: np.linalg.norm(J)),
    )
]  # fmt: skip
