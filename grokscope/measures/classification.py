"""What a classifier's logits say about its answers: loss, margin, accuracy, scale and softmax collapse.

Every per-sample quantity is returned per sample, so that one pass over the whole input grid serves the
training, test and mirrored subsets alike through `mean_over`.

Shape suffixes: N samples, C classes; leading axes (a step axis T, say) are written `...`.
Non-finite logits are not an error here: the samples they belong to come out as NaN or infinity.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Answers",
    "collapse_is_possible",
    "correct",
    "cross_entropy",
    "logits_norm",
    "margin",
    "mean_over",
    "read_answers",
    "softmax_collapsed",
]


class Answers(NamedTuple):
    """What each sample's logits say, (N,) float64 each.

    Attributes:
        loss: as `cross_entropy`.
        margin: as `margin`.
        correct: as `correct`, 1 or 0.
        norm: ‖z‖₂.
    """

    loss: Tensor
    margin: Tensor
    correct: Tensor
    norm: Tensor


def read_answers(logits: Tensor, targets: Tensor) -> Answers:
    """`cross_entropy`, `margin`, `correct` and the norm of each sample's logits, in one pass over them.

    Args:
        logits: (N, C) real with C ≥ 2; taken to float64.
        targets: (N,) integer classes in [0, C).

    Returns:
        The same numbers as the four functions give one by one.

    Raises:
        ValueError: as `margin`.
    """
    _check("read_answers", logits, targets)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"read_answers: got logits {tuple(logits.shape)}, expected (N, C) with C >= 2")
    logits = logits.to(torch.float64)
    norm = torch.linalg.vector_norm(logits, dim=1)
    if not bool(norm.sum().isfinite()):
        right = correct(logits, targets).to(torch.float64)
        return Answers(cross_entropy(logits, targets), margin(logits, targets), right, norm)
    index = targets.to(logits.device, torch.int64).unsqueeze(1)
    gaps = (logits - logits.gather(1, index)).scatter_(1, index, float("-inf"))
    top = gaps.amax(dim=1)
    right = (top < 0).to(torch.float64)
    tied = (top == 0).nonzero()[:, 0]
    if len(tied):  # the lowest class wins
        right[tied] = correct(logits[tied], targets[tied]).to(torch.float64)
    others = gaps.sub_(top.unsqueeze(1)).exp_().sum(dim=1).log_().add_(top)
    return Answers(torch.logaddexp(torch.zeros_like(others), others), -top, right, norm)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample in nats.

    Written as log(1 + Σ_{m≠y} exp(z_m − z_y)), which keeps full relative accuracy where the loss itself is
    far below the float64 resolution of 1 (−log of a softmax probability would read 0 there).

    Args:
        logits: (..., N, C) real, any floating dtype; taken to float64.
        targets: (N,) integer classes in [0, C).

    Returns:
        (..., N) float64.

    Raises:
        ValueError: the shapes do not fit, or a target is not a class.
    """
    others = torch.logsumexp(_gaps_to_target("cross_entropy", logits, targets), dim=-1)
    return torch.logaddexp(torch.zeros_like(others), others)


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Margin of each sample, z_y − max_{m≠y} z_m, in logit units.

    Args:
        logits: (..., N, C) real with C ≥ 2; taken to float64.
        targets: (N,) integer classes in [0, C).

    Returns:
        (..., N) float64. A tie has margin 0, whatever `correct` makes of it.

    Raises:
        ValueError: the shapes do not fit, a target is not a class, or there is only one class.
    """
    if logits.ndim and logits.shape[-1] < 2:
        raise ValueError(f"margin: got {logits.shape[-1]} class, expected at least 2")
    return -_gaps_to_target("margin", logits, targets).amax(dim=-1)


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the predicted class, the argmax, is the target.

    Ties go to the lowest class index, the rule of `torch.argmax` and `numpy.argmax`, so that accuracies agree
    exactly with those that other programs recorded. A tied sample may therefore count as correct although its
    margin is 0. The comparison is made in the dtype given.

    Args:
        logits: (..., N, C) real.
        targets: (N,) integer classes in [0, C).

    Returns:
        (..., N) bool.

    Raises:
        ValueError: the shapes do not fit, or a target is not a class.
    """
    _check("correct", logits, targets)
    return logits.argmax(dim=-1) == targets.to(logits.device)


def logits_norm(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Logit scale (arXiv 2606.18465): the mean over samples of ‖z/τ‖₂.

    Args:
        logits: (..., N, C) real with N ≥ 1; taken to float64.
        temperature: τ > 0, the temperature of the training loss.

    Returns:
        (...) float64.

    Raises:
        ValueError: no samples, fewer than two axes, or a temperature that is not positive.
    """
    if logits.ndim < 2 or logits.shape[-2] == 0:
        raise ValueError(f"logits_norm: got logits {tuple(logits.shape)}, expected (..., N, C) with N >= 1")
    if not temperature > 0:
        raise ValueError(f"logits_norm: got temperature {temperature}, expected a positive number")
    return torch.linalg.vector_norm(logits.to(torch.float64), dim=-1).mean(dim=-1) / temperature


def softmax_collapsed(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Share of samples whose softmax has collapsed (arXiv 2501.04697, softmax collapse).

    A sample has collapsed when Σ_m exp(z_m − max z) equals 1 exactly *and* the argmax is the target: its loss
    and its gradient are then exactly zero in that arithmetic. The dtype is the measurement: pass the
    logits in the dtype the run was trained in, not widened to float64.

    Args:
        logits: (..., N, C) in the training dtype.
        targets: (N,) integer classes in [0, C).
        mask: (N,) bool, the samples to count (the training set).

    Returns:
        (...) float64 in [0, 1].

    Raises:
        ValueError: the shapes do not fit, the logits are not floating point, or the mask is empty.
    """
    _check("softmax_collapsed", logits, targets)
    if not logits.dtype.is_floating_point:
        raise ValueError(
            f"softmax_collapsed: got {logits.dtype} logits, expected the floating training dtype"
        )
    total = (logits - logits.amax(dim=-1, keepdim=True)).exp().sum(dim=-1)
    return mean_over((total == 1) & correct(logits, targets), mask)


def collapse_is_possible(loss: Tensor, norm: Tensor, dtype: torch.dtype) -> bool:
    """Whether any softmax can have collapsed in ``dtype``, from losses in float64.

    A sum of 1 and smaller terms is rounded to 1 only where these are below half of the resolution, and they are
    what the loss is made of. Sixteen times that is allowed for logits that are themselves rounded.

    Args:
        loss: (N,) float64, N ≥ 1, from `cross_entropy`.
        norm: (N,) ‖z‖₂; where it is so large that rounded logits are uncertain, the answer is yes.
        dtype: the training dtype.
    """
    half = torch.finfo(dtype).eps / 2
    return not (float(loss.min()) > 16 * half and float(norm.max()) * half < 2**-6)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of per-sample values over the samples a mask selects.

    Args:
        values: (..., N) real or bool; taken to float64.
        mask: (N,) bool.

    Returns:
        (...) float64.

    Raises:
        ValueError: the mask is not a bool vector of length N, or selects nothing (no mean is defined).
    """
    if mask.dtype != torch.bool or values.ndim < 1 or mask.shape != values.shape[-1:]:
        raise ValueError(
            f"mean_over: got values {tuple(values.shape)} and a {mask.dtype} mask {tuple(mask.shape)}, "
            "expected (..., N) and a bool mask (N,)"
        )
    mask = mask.to(values.device)
    if not bool(mask.any()):
        raise ValueError("mean_over: got a mask that selects no sample, expected at least one")
    return values[..., mask].to(torch.float64).mean(dim=-1)


def _gaps_to_target(name: str, logits: Tensor, targets: Tensor) -> Tensor:
    """z_m − z_y for every class, with −∞ in the target's own place: (..., N, C) float64."""
    _check(name, logits, targets)
    wide = logits.to(torch.float64)
    index = targets.to(logits.device, torch.int64).unsqueeze(-1).expand(*logits.shape[:-1], 1)
    # float64 before subtracting: gaps of float32 logits are then exact
    return (wide - wide.gather(-1, index)).scatter(-1, index, float("-inf"))


def _check(name: str, logits: Tensor, targets: Tensor) -> None:
    if logits.ndim < 2 or targets.shape != logits.shape[-2:-1]:
        raise ValueError(
            f"{name}: got logits {tuple(logits.shape)} and targets {tuple(targets.shape)}, "
            "expected (..., N, C) and (N,)"
        )
    if targets.dtype.is_floating_point or targets.dtype == torch.bool:
        raise ValueError(f"{name}: got {targets.dtype} targets, expected integer classes")
    if targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= logits.shape[-1]:
            raise ValueError(
                f"{name}: got targets from {low} to {high}, expected classes in [0, {logits.shape[-1]})"
            )
