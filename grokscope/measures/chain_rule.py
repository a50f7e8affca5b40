"""The chain-rule account: exact per-sample gradient norms of every block beside their bounds.

The account (arXiv 2606.05863) takes a network as a `GatedForm` from its combined input z. Per sample every
weight gradient of such a network is an outer product, so exact norms cost one batched backward pass and no
per-sample gradient is ever held.

Shape suffixes: N samples, C classes, d_0 input width, d_l width of hidden layer l = 1..L.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.regions import GatedForm, gated_forward

__all__ = [
    "GELU_LARGEST_SLOPE",
    "Account",
    "BlockAccount",
    "bound_slack",
    "bypassed_layer_norms",
    "cancellation",
    "head_gradient_norms",
    "logit_gradient",
    "per_sample_account",
]

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
    delta_norm = _row_norms(delta)
    feature_norm = _row_norms(features)
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
    hidden, stream = _row_norms(form.activate(pre)), _row_norms(z)
    above = _row_norms(delta @ form.direct.T)
    below = _row_norms((delta @ form.head.T) * _slope(form, pre))
    above = above * (torch.hypot(hidden, one) if output_bias else hidden)
    below = below * (stream if form.biases[0] is None else torch.hypot(stream, one))
    return torch.hypot(above, below)


@dataclass(frozen=True, eq=False)
class BlockAccount:
    """Per-sample gradient norms of one block beside their chain-rule bound.

    Attributes:
        weight: (N,) ‖∇_W ℓ_i‖, the weight matrix alone (for the embedding, all rows together).
        with_bias: (N,) the same over weight and bias together; equal to `weight` where there is no bias.
        bound: (N,) the right-hand side for `weight`.
        bound_with_bias: (N,) the right-hand side for `with_bias`.
    """

    weight: Tensor
    with_bias: Tensor
    bound: Tensor
    bound_with_bias: Tensor

    def slack(self) -> float:
        """`bound_slack` of the weight alone; the same ratio holds with the bias."""
        return bound_slack(self.weight, self.bound)


@dataclass(frozen=True, eq=False)
class Account:
    """The chain-rule account of every sample.

    Attributes:
        delta: (N,) ‖δ_i‖.
        head: the head U; its bound is an equality.
        layers: hidden layers in order.
        embedding: the embedding rows, or None where the network was taken from raw features.
    """

    delta: Tensor
    head: BlockAccount
    layers: tuple[BlockAccount, ...]
    embedding: BlockAccount | None


def per_sample_account(
    form: GatedForm,
    z: Tensor,
    targets: Tensor | None,
    *,
    embedding_width: int | None,
    combine: str | None,
    same_operand: Tensor | None = None,
    temperature: float = 1.0,
    delta: Tensor | None = None,
) -> Account:
    """Per-sample gradient norms and their chain-rule bounds (arXiv 2606.05863).

    Of cross-entropy, or of any loss whose gradient δ in the logits is given: nothing else of the loss enters.
    With  h the last hidden layer, κ = 1 for ReLU and `GELU_LARGEST_SLOPE` for GELU: ‖∇_U ℓ‖ = ‖δ‖‖h‖, and below
    it
    ‖∇_{W_l} ℓ‖ ≤ κ^{L−l+1} ‖h_{l−1}‖ Π_{k>l} ‖W_k‖₂ ‖U‖₂ ‖δ‖, h_0 = z,
    ‖∇_E ℓ‖ ≤ ‖B_i‖₂ (κ^L Π_k ‖W_k‖₂ ‖U‖₂ + ‖direct‖₂) ‖δ‖, where B_i takes embedding rows to z.
    A bias that comes with a weight multiplies both sides by √(1 + ‖input‖²)/‖input‖.

    The embedding's own norm is exact for two operands: for a concatenation √(‖g_a‖² + ‖g_b‖²) and, where both
    operands are one row, ‖g_a + g_b‖ (‖B_i‖₂ = 1 and √2); for a sum √2‖g‖ and 2‖g‖ (‖B_i‖₂ = √2 and 2).
    Operands with separate embedding tables never share a row: pass `same_operand=None` for them.

    Args:
        form: the network from z to logits.
        z: (N, d_0) combined inputs.
        targets: (N,) integer classes; None where `delta` is given.
        embedding_width: d of one operand's embedding: d_0 = 2d for a concatenation, d for a sum. None with
            `combine=None`.
        combine: "concatenation", "sum", or None for raw features (no embedding block).
        same_operand: (N,) bool, samples whose operands are one row of one shared table; None for nowhere.
        temperature: τ > 0 of the training loss, with `targets`.
        delta: (N, C), the gradient of each sample's loss in the logits; z − y for ½‖z − y‖².

    Returns:
        Per-sample norms and bounds, float64.

    Raises:
        ValueError: shapes that do not fit, an unknown `combine`, both or neither of `targets` and `delta`, a
            `delta` that is not finite, or what `logit_gradient` refuses.
    """
    _check_embedding(form, z, embedding_width, combine, same_operand)
    z = z.to(torch.float64)
    pre_activations, logits = gated_forward(form, z)
    delta = _loss_gradient(logits, targets, temperature, delta)
    delta_norm = _row_norms(delta)
    # all that follows is linear in δ: its direction alone keeps squares of tiny losses from underflow
    upstream = delta / delta_norm.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    direct_upstream = upstream

    inputs = [z, *(form.activate(pre) for pre in pre_activations)]
    reach = _spectral_norm(form.head)
    head = _block_account(
        delta_norm, inputs[-1], torch.ones_like(delta_norm), 1.0, form.head_bias is not None
    )
    slope = 1.0 if form.activation == "relu" else GELU_LARGEST_SLOPE
    upstream = upstream @ form.head.T
    layers = []
    for number in reversed(range(len(form.weights))):
        upstream = upstream * _slope(form, pre_activations[number])
        reach *= slope
        has_bias = form.biases[number] is not None
        layers.append(_block_account(delta_norm, inputs[number], _row_norms(upstream), reach, has_bias))
        upstream = upstream @ form.weights[number].T
        reach *= _spectral_norm(form.weights[number])
    if form.direct is not None:
        upstream = upstream + direct_upstream @ form.direct.T
        reach += _spectral_norm(form.direct)

    embedding = None
    if combine is not None and embedding_width is not None:
        same = torch.zeros(z.shape[0], dtype=torch.bool) if same_operand is None else same_operand
        same = same.to(z.device)
        one = z.new_ones(())  # two Python numbers in `torch.where` would make float32
        if combine == "concatenation":
            first, second = upstream[:, :embedding_width], upstream[:, embedding_width:]
            norms = torch.where(same, _row_norms(first + second), _row_norms(upstream))
            spread = torch.where(same, math.sqrt(2) * one, one)
        else:
            spread = torch.where(same, 2 * one, math.sqrt(2) * one)
            norms = spread * _row_norms(upstream)
        norms, bound = delta_norm * norms, delta_norm * spread * reach
        embedding = BlockAccount(norms, norms, bound, bound)
    return Account(delta_norm, head, tuple(reversed(layers)), embedding)


def bound_slack(left: Tensor, right: Tensor) -> float:
    """Mean over samples of left/right for a bound left ≤ right.

    Args:
        left, right: (N,) not negative. Samples with right = 0 (nothing reached the block) are left out.

    Returns:
        In [0, 1]; 1 where the bound is an equality.

    Raises:
        ValueError: shapes that differ, no sample with right > 0, or a bound that is broken beyond rounding.
    """
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(
            f"bound_slack: got {tuple(left.shape)} and {tuple(right.shape)}, expected equal (N,)"
        )
    positive = right > 0
    if not bool(positive.any()):
        raise ValueError("bound_slack: got no sample with a positive bound, expected at least one")
    ratios = left[positive].to(torch.float64) / right[positive].to(torch.float64)
    worst = float(ratios.max())
    if not worst <= 1 + 1e-9:
        raise ValueError(f"bound_slack: got left/right = {worst}, expected at most 1")
    return float(ratios.clamp(max=1.0).mean())


def cancellation(full_gradient_norm: float, per_sample_norms: Tensor) -> float:
    """‖mean ∇ℓ_i‖ / mean ‖∇ℓ_i‖: 1 where all samples pull one way, near 0 where they cancel.

    Args:
        full_gradient_norm: norm of the gradient of the mean loss over the same samples and the same tensors.
        per_sample_norms: (N,), N ≥ 1.

    Returns:
        In [0, 1] up to rounding.

    Raises:
        ValueError: no sample, or per-sample gradients that are all zero.
    """
    if per_sample_norms.ndim != 1 or per_sample_norms.numel() == 0:
        raise ValueError(f"cancellation: got norms {tuple(per_sample_norms.shape)}, expected (N >= 1,)")
    mean = float(per_sample_norms.to(torch.float64).mean())
    if not mean > 0:
        raise ValueError(f"cancellation: got a mean per-sample norm of {mean}, expected a positive number")
    return full_gradient_norm / mean


def _block_account(
    delta_norm: Tensor, layer_input: Tensor, upstream_norm: Tensor, reach: float, has_bias: bool
) -> BlockAccount:
    """A weight's gradient is input ⊗ upstream, its bias's the upstream itself."""
    input_norm = _row_norms(layer_input)
    with_bias = torch.hypot(input_norm, torch.ones_like(input_norm)) if has_bias else input_norm
    return BlockAccount(
        weight=delta_norm * upstream_norm * input_norm,
        with_bias=delta_norm * upstream_norm * with_bias,
        bound=delta_norm * reach * input_norm,
        bound_with_bias=delta_norm * reach * with_bias,
    )


def _loss_gradient(
    logits: Tensor, targets: Tensor | None, temperature: float, delta: Tensor | None
) -> Tensor:
    """δ of cross-entropy on the targets, or the given one."""
    if targets is not None and delta is None:
        return logit_gradient(logits, targets, temperature)
    if targets is not None or delta is None:
        raise ValueError(
            f"per_sample_account: got {'both' if delta is not None else 'neither'} of targets and delta, "
            "expected one"
        )
    if delta.shape != logits.shape or not bool(delta.isfinite().all()):
        raise ValueError(
            f"per_sample_account: got delta {tuple(delta.shape)}, expected finite {tuple(logits.shape)}"
        )
    return delta.to(torch.float64)


def _slope(form: GatedForm, pre: Tensor) -> Tensor:
    """φ'(pre), with φ'(0) = 0 for ReLU as for the gates."""
    if form.activation == "relu":
        return (pre > 0).to(torch.float64)
    density = torch.exp(-pre.square() / 2) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(pre) + pre * density


def _row_norms(rows: Tensor) -> Tensor:
    """(N,) float64 Euclidean norms, scaled so that the squares of tiny rows do not underflow."""
    rows = rows.to(torch.float64)
    scale = rows.abs().amax(dim=1)
    safe = torch.where(scale > 0, scale, 1.0)
    return scale * torch.linalg.vector_norm(rows / safe.unsqueeze(1), dim=1)


def _spectral_norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def _check_embedding(
    form: GatedForm, z: Tensor, width: int | None, combine: str | None, same_operand: Tensor | None
) -> None:
    if combine not in ("concatenation", "sum", None):
        raise ValueError(
            f"per_sample_account: got combine={combine!r}, expected 'concatenation', 'sum' or None"
        )
    if combine is None:
        if width is not None or same_operand is not None:
            raise ValueError(
                "per_sample_account: got an embedding width or same operands with combine=None, "
                "expected neither"
            )
        return
    expected = None if width is None else (2 * width if combine == "concatenation" else width)
    if expected != form.input_width:
        raise ValueError(
            f"per_sample_account: got embedding width {width} and input width {form.input_width}, expected "
            f"{'twice the' if combine == 'concatenation' else 'the'} embedding width as input width"
        )
    if same_operand is not None and (same_operand.dtype != torch.bool or same_operand.shape != z.shape[:1]):
        raise ValueError(
            f"per_sample_account: got {same_operand.dtype} same operands {tuple(same_operand.shape)}, "
            f"expected bool {tuple(z.shape[:1])}"
        )
