"""Regression on a sample with a teacher: linear, sparse linear, or a few ReLUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.tasks.task import Levels, Task, random_stream


@dataclass(frozen=True)
class RegressionSettings:
    """``[task]`` of a recipe: ``train`` samples in ``d`` dimensions and the answers of a teacher (arXiv 2505.20172).

    ``teacher`` is *linear*, *sparse* (linear with ``support`` coefficients that are not zero) or *relu* (``neurons``
    ReLUs). ``noise`` is the standard deviation that is added to the training answers. ``loss`` is ½ Σ (ŷ − y)², a
    *sum* over the training samples, or their *mean*. ``split_seed`` is the seed of the sample where it differs from
    the run's, which draws the teacher.
    """

    name: Literal["regression"] = "regression"
    teacher: Literal["linear", "sparse", "relu"] = "linear"
    d: int = 40
    train: int = 20
    test: int = 200
    support: int = 3
    neurons: int = 3
    span: float = 2.0
    noise: float = 0.0
    loss: Literal["sum", "mean"] = "sum"
    split_seed: int | None = None


def regression_task(settings: RegressionSettings, seed: int) -> Task:
    """Inputs (N, d), targets (N, 1), training samples first; N = train + test.

    Linear teachers see standard Gaussian inputs. The dense one has coefficients N(0, 1/d), the sparse one random signs
    at random places. The ReLU teacher sees inputs uniform on [−span, span]^d and answers Σ_j a_j max(0, w_j·(x − c_j))
    with random signs a_j, w_j on the unit sphere and c_j uniform on the same cube, so that every kink lies among the
    inputs. The paper leaves its coefficients open.

    ``train_mask`` is (N, 1): a sample has one entry.

    Raises:
        GrokscopeError: no training or test sample, sizes that make no teacher, or a noise or span out of range.
    """
    d, total = settings.d, settings.train + settings.test
    if d < 1 or min(settings.train, settings.test) < 1:
        raise GrokscopeError(
            f"building a regression task: task.d = {d}, task.train = {settings.train} and task.test = {settings.test}, "
            "expected at least 1 of each"
        )
    if not 1 <= settings.support <= d and settings.teacher == "sparse":
        raise GrokscopeError(
            f"building a regression task: task.support = {settings.support}, expected between 1 and task.d = {d}"
        )
    if not (settings.neurons >= 1 and settings.span > 0 and 0 <= settings.noise < float("inf")):
        raise GrokscopeError(
            f"building a regression task: task.neurons = {settings.neurons}, task.span = {settings.span} and "
            f"task.noise = {settings.noise}, expected at least 1, above 0 and at least 0"
        )
    split_seed = seed if settings.split_seed is None else settings.split_seed
    sample, teacher = (
        random_stream(split_seed, "regression sample"),
        random_stream(seed, "regression teacher"),
    )
    facts: dict[str, object] = {}
    if settings.teacher == "relu":
        inputs = settings.span * (2 * torch.rand(total, d, generator=sample, dtype=torch.float64) - 1)
        answers = _relus(settings, inputs, teacher)
    else:
        inputs = torch.randn(total, d, generator=sample, dtype=torch.float64)
        coefficients = _coefficients(settings, teacher)
        answers = inputs @ coefficients
        facts["coefficients"] = coefficients.tolist()
    mask = torch.zeros(total, 1, dtype=torch.bool)
    mask[: settings.train] = True
    if settings.noise:
        deviation = torch.randn(settings.train, generator=sample, dtype=torch.float64)
        answers[: settings.train] += settings.noise * deviation
    kind = {
        "linear": "a linear teacher",
        "sparse": f"a linear teacher of {settings.support} coefficients",
        "relu": f"a teacher of {settings.neurons} ReLUs",
    }[settings.teacher]
    return Task(
        name=f"regression on {kind} in {d} dimensions",
        kind="regression",
        inputs=inputs,
        targets=answers[:, None],
        train_mask=mask,
        n_classes=1,
        n_tokens=None,
        chance=None,
        levels=Levels("error", fit=1e-2, grok=0.05),
        description=f"{kind} in {d} dimensions, {settings.train} samples in training and {settings.test} others",
        facts=facts,
        mean_loss=settings.loss == "mean",
    )


def _coefficients(settings: RegressionSettings, stream: torch.Generator) -> Tensor:
    """(d,): what a linear teacher multiplies."""
    d = settings.d
    if settings.teacher == "linear":
        return torch.randn(d, generator=stream, dtype=torch.float64) * d**-0.5
    places = torch.randperm(d, generator=stream)[: settings.support]
    found = torch.zeros(d, dtype=torch.float64)
    found[places] = _signs(settings.support, stream)
    return found


def _relus(settings: RegressionSettings, inputs: Tensor, stream: torch.Generator) -> Tensor:
    """(N,): the answers of the ReLU teacher."""
    shape = (settings.neurons, settings.d)
    weights = torch.randn(shape, generator=stream, dtype=torch.float64)
    weights /= torch.linalg.vector_norm(weights, dim=1, keepdim=True)
    centres = settings.span * (2 * torch.rand(shape, generator=stream, dtype=torch.float64) - 1)
    pre = inputs @ weights.T - (weights * centres).sum(dim=1)
    return pre.clamp(min=0) @ _signs(settings.neurons, stream)


def _signs(count: int, stream: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, (count,), generator=stream).to(torch.float64) - 1.0
