"""Gradients of single samples: of the loss in the logits, through gates, and their norms in dense layers.

Per sample every weight gradient of a dense layer is an outer product, so its norm is a product of two norms and no
per-sample gradient is ever held.

Shape suffixes: N samples, C classes, d_0 input width, d_l width of hidden layer l.
"""

import math

import torch
from torch import Tensor

from grokscope.measures.regions import GatedForm, gated_forward

__all__ = [
    "GELU_LARGEST_SLOPE",
    "bypassed_layer_norms",
    "gate_pullback",
    "head_gradient_norms",
    "logit_gradient",
    "row_norms",
]

_SAFE = 1e-140  # squares of what is larger, and of what is smaller than its inverse, are in range

GELU_LARGEST_SLOPE = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
"""max |φ'| of the exact GELU x Φ(x), 1.12890…, reached at √2 where φ'' vanishes."""


def logit_gradient(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """δ = (softmax(z/τ) − onehot)/τ, the gradient of each sample's cross-entropy in its logits.

    The target's entry is minus the sum of the others: 1 − p would lose every digit on confident samples.

    Args:
        logits: (N, C), taken to float64.
        targets: (N,) integer classes in [0, C).
        temperature: τ > 0.

    Returns:
        (N, C) float64, rows summing to 0.

    Raises:
        ValueError: shapes that do not fit, logits that are not finite, a target that is not a class, or a
            temperature not above 0.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or targets.dtype.is_floating_point:
        raise ValueError(
            f"logit_gradient: got logits {tuple(logits.shape)} and {targets.dtype} targets "
            f"{tuple(targets.shape)}, expected (N, C) and integer (N,)"
        )
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]):
        raise ValueError(
            f"logit_gradient: got targets from {int(targets.min())} to {int(targets.max())}, "
            f"expected classes in [0, {logits.shape[1]})"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError("logit_gradient: got non-finite logits, expected finite ones")
    if not temperature > 0:
        raise ValueError(f"logit_gradient: got temperature {temperature}, expected a positive number")
    index = targets.to(logits.device, torch.int64).unsqueeze(1)
    others = torch.softmax(logits.to(torch.float64) / temperature, dim=1).scatter(1, index, 0.0)
    return others.scatter(1, index, -others.sum(dim=1, keepdim=True)) / temperature


def head_gradient_norms(features: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample gradient norms of a linear head, exact whatever comes before it.

    Args:
        features: (N, d), what the head is applied to.
        delta: (N, C), the gradient in the logits, from `logit_gradient`.

    Returns:
        ‖δ‖‖h‖ for the weight and ‖δ‖√(1 + ‖h‖²) for weight and bias together, (N,) each.

    Raises:
        ValueError: different numbers of samples.
    """
    if features.ndim != 2 or delta.ndim != 2 or features.shape[0] != delta.shape[0]:
        raise ValueError(
            f"head_gradient_norms: got features {tuple(features.shape)} and delta {tuple(delta.shape)}, "
            "expected (N, d) and (N, C)"
        )
    delta_norm = row_norms(delta)
    feature_norm = row_norms(features)
    return delta_norm * feature_norm, delta_norm * torch.hypot(feature_norm, torch.ones_like(feature_norm))


def bypassed_layer_norms(form: GatedForm, z: Tensor, delta: Tensor, *, output_bias: bool) -> Tensor:
    """Per-sample gradient norms of both matrices of a layer that writes into a residual stream, exact.

    With logits = (z + φ(z W_in + b_in) W_out + b_out) W_U + u, r = δ W_Uᵀ what reaches the stream and
    g = (r W_outᵀ) φ'(pre): ∇W_out = h ⊗ r, ∇b_out = r, ∇W_in = z ⊗ g and ∇b_in = g.

    Args:
        form: one hidden layer with a direct path: weights[0] = W_in, head = W_out W_U, direct = W_U.
        z: (N, d_0) the stream before the layer.
        delta: (N, C) the gradient of each sample's loss in the logits.
        output_bias: whether there is a b_out and it counts; b_in counts where the form has it.

    Returns:
        (N,) norms over W_in, W_out and their biases together.

    Raises:
        ValueError: a form without a direct path, or shapes that do not fit.
    """
    if form.direct is None or delta.shape != (z.shape[0], form.n_classes):
        raise ValueError(
            f"bypassed_layer_norms: got delta {tuple(delta.shape)} and a form "
            f"{'without' if form.direct is None else 'with'} a direct path, expected "
            f"({z.shape[0]}, {form.n_classes}) and one with it"
        )
    (pre,), _ = gated_forward(form, z)
    delta = delta.to(torch.float64)
    one = torch.ones(len(z), dtype=torch.float64, device=delta.device)
    hidden, stream = row_norms(form.activate(pre)), row_norms(z)
    above = row_norms(delta @ form.direct.T)
    below = row_norms((delta @ form.head.T) * _slope(form, pre))
    above = above * (torch.hypot(hidden, one) if output_bias else hidden)
    below = below * (stream if form.biases[0] is None else torch.hypot(stream, one))
    return torch.hypot(above, below)


def gate_pullback(form: GatedForm, pre: Tensor, above: Tensor) -> Tensor:
    """(N, d_l): the gradient in pre-activations from the one in activations, φ'(0) = 0 for ReLU."""
    if form.activation == "relu":
        return torch.ops.aten.threshold_backward(above, pre, 0)
    return above * _slope(form, pre)


def row_norms(rows: Tensor) -> Tensor:
    """(N,) float64 Euclidean norms, scaled where the squares of tiny or huge rows would leave the range."""
    rows = rows.to(torch.float64)
    plain = torch.linalg.vector_norm(rows, dim=1)
    if not len(plain) or (float(plain.min()) > _SAFE and float(plain.max()) < 1 / _SAFE):
        return plain
    scale = rows.abs().amax(dim=1)
    safe = torch.where(scale > 0, scale, 1.0)
    return scale * torch.linalg.vector_norm(rows / safe.unsqueeze(1), dim=1)


def _slope(form: GatedForm, pre: Tensor) -> Tensor:
    """φ'(pre), with φ'(0) = 0 for ReLU as for the gates."""
    if form.activation == "relu":
        return (pre > 0).to(torch.float64)
    density = torch.exp(-pre.square() / 2) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(pre) + pre * density
