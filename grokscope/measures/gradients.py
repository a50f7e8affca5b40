"""Head against embedding: gradient sizes by block, and what the optimiser really did between saves.

Both take named tensors of one checkpoint. Per-sample norms and their bounds are in `chain_rule`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "BlockGradient",
    "BlockUpdate",
    "HeadOverEmbedding",
    "gradient_norms",
    "head_over_embedding",
    "update_norms",
    "update_ratio",
    "with_decay",
]


@dataclass(frozen=True)
class BlockGradient:
    """Size of one block's gradient.

    Attributes:
        norm: ‖g‖₂ over all the block's tensors.
        per_parameter: ‖g‖/√(number of entries), the root mean square.
        relative: ‖g‖/‖θ‖, or None where the parameters are all zero.
    """

    norm: float
    per_parameter: float
    relative: float | None


def gradient_norms(
    grads: Mapping[str, Tensor], params: Mapping[str, Tensor], blocks: Mapping[str, tuple[str, ...]]
) -> dict[str, BlockGradient]:
    """Gradient sizes of named blocks of tensors.

    Args:
        grads: gradient of each tensor, any shape; taken to float64.
        params: the tensors, same names and shapes.
        blocks: block name → names of its tensors, at least one each.

    Returns:
        Block name → sizes.

    Raises:
        ValueError: a name that is missing, shapes that differ, an empty block, or non-finite values.
    """
    sizes = {}
    for block, names in blocks.items():
        norm, count = _block_norm("gradient_norms", block, names, grads)
        scale, _ = _block_norm("gradient_norms", block, names, params)
        _check_same_shapes("gradient_norms", names, grads, params)
        sizes[block] = BlockGradient(norm, norm / math.sqrt(count), norm / scale if scale > 0 else None)
    return sizes


def with_decay(
    grads: Mapping[str, Tensor], params: Mapping[str, Tensor], coefficients: Mapping[str, float]
) -> dict[str, Tensor]:
    """The gradient with weight decay added, g + λθ, the gradient of the loss plus λ/2 ‖θ‖².

    Args:
        grads: gradient of each tensor.
        params: the tensors, same names and shapes.
        coefficients: λ of each tensor; a tensor without one is not decayed.

    Returns:
        Name → float64 tensor.

    Raises:
        ValueError: a name that is missing from `params`, or shapes that differ.
    """
    decayed = {}
    for name, grad in grads.items():
        coefficient = coefficients.get(name, 0.0)
        wide = grad.to(torch.float64)
        if coefficient:
            _require_names("with_decay", (name,), params)
            _check_same_shapes("with_decay", (name,), grads, params)
            wide = wide + coefficient * params[name].to(torch.float64)
        decayed[name] = wide
    return decayed


@dataclass(frozen=True)
class HeadOverEmbedding:
    """The head's gradient over the embedding's in three scales; None where one is not defined (0 below)."""

    norm: float | None
    per_parameter: float | None
    relative: float | None


def head_over_embedding(head: BlockGradient, embedding: BlockGradient) -> HeadOverEmbedding:
    """Ratios of the head's gradient sizes to the embedding's (arXiv 2606.05863).

    Args:
        head, embedding: sizes from `gradient_norms`, of blocks that share no tensor (no tied head).

    Returns:
        The three ratios.
    """
    return HeadOverEmbedding(
        _ratio(head.norm, embedding.norm),
        _ratio(head.per_parameter, embedding.per_parameter),
        _ratio(head.relative, embedding.relative),
    )


@dataclass(frozen=True)
class BlockUpdate:
    """How far a block moved between two saves.

    Attributes:
        norm: ‖Δθ‖.
        relative: ‖Δθ‖/‖θ‖ with θ at the earlier save, or None where that is zero.
    """

    norm: float
    relative: float | None


def update_norms(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], blocks: Mapping[str, tuple[str, ...]]
) -> dict[str, BlockUpdate]:
    """What the optimiser really did to each block between two consecutive saves.

    Args:
        before, after: the tensors at the two saves, same names and shapes; subtracted in float64.
        blocks: block name → names of its tensors, at least one each.

    Returns:
        Block name → update sizes.

    Raises:
        ValueError: a name that is missing, shapes that differ, an empty block, or non-finite values.
    """
    updates = {}
    for block, names in blocks.items():
        for tensors in (before, after):
            _require_names("update_norms", names, tensors)
        _check_same_shapes("update_norms", names, before, after)
        moved = {name: after[name].to(torch.float64) - before[name].to(torch.float64) for name in names}
        norm, _ = _block_norm("update_norms", block, names, moved)
        scale, _ = _block_norm("update_norms", block, names, before)
        updates[block] = BlockUpdate(norm, norm / scale if scale > 0 else None)
    return updates


def update_ratio(delta_head: float, delta_embedding: float) -> float:
    """‖ΔU‖/‖ΔE‖ between two consecutive saves.

    Args:
        delta_head, delta_embedding: both the norms, or both the relative norms, of `update_norms`.

    Raises:
        ValueError: an embedding that did not move.
    """
    if not delta_embedding > 0:
        raise ValueError(
            f"update_ratio: got an embedding update of {delta_embedding}, expected a positive one"
        )
    return delta_head / delta_embedding


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _require_names(name: str, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> None:
    missing = [n for n in names if n not in tensors]
    if missing:
        raise ValueError(f"{name}: got no tensor {missing[0]!r}, expected one of {sorted(tensors)}")


def _check_same_shapes(
    name: str, names: tuple[str, ...], left: Mapping[str, Tensor], right: Mapping[str, Tensor]
) -> None:
    for tensor in names:
        if left[tensor].shape != right[tensor].shape:
            raise ValueError(
                f"{name}: got {tensor!r} of shapes {tuple(left[tensor].shape)} and "
                f"{tuple(right[tensor].shape)}, expected equal shapes"
            )


def _block_norm(
    name: str, block: str, names: tuple[str, ...], tensors: Mapping[str, Tensor]
) -> tuple[float, int]:
    _require_names(name, names, tensors)
    count = sum(tensors[n].numel() for n in names)
    if count == 0:
        raise ValueError(f"{name}: got block {block!r} without an entry, expected at least one")
    norms = [float(torch.linalg.vector_norm(tensors[n].to(torch.float64))) for n in names]
    norm = math.hypot(*norms)
    if not math.isfinite(norm):
        raise ValueError(f"{name}: got non-finite values in block {block!r}, expected finite ones")
    return norm, count
