"""The chain-rule account: exact per-sample gradient norms of every block beside their bounds.

The account (arXiv 2606.05863) takes a network as a `GatedForm` from its combined input z. Per sample every
weight gradient of such a network is an outer product, so exact norms cost one batched backward pass and no
per-sample gradient is ever held.

Shape suffixes: N samples, C classes, d_0 input width, d_l width of hidden layer l = 1..L.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grokscope.measures.regions import GatedForm, gated_forward
from grokscope.measures.sample_gradients import GELU_LARGEST_SLOPE, gate_pullback, logit_gradient, row_norms

__all__ = [
    "Account",
    "BlockAccount",
    "SampleNorms",
    "account_of",
    "bound_slack",
    "cancellation",
    "operand_norms",
    "per_sample_account",
]


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
    delta_norm = row_norms(delta)
    # all that follows is linear in δ: its direction alone keeps squares of tiny losses from underflow
    upstream = delta / delta_norm.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    direct_upstream = upstream

    inputs = [z, *(form.activate(pre) for pre in pre_activations)]
    upstream = upstream @ form.head.T
    above = []
    for number in reversed(range(len(form.weights))):
        upstream = gate_pullback(form, pre_activations[number], upstream)
        above.append(delta_norm * row_norms(upstream))
        upstream = upstream @ form.weights[number].T
    if form.direct is not None:
        upstream = upstream + direct_upstream @ form.direct.T
    embedding = None
    if combine is not None and embedding_width is not None:
        embedding = delta_norm * operand_norms(upstream, combine, same_operand)
    norms = SampleNorms(delta_norm, tuple(map(row_norms, inputs)), tuple(reversed(above)), embedding)
    return account_of(form, norms, combine, same_operand)


class SampleNorms(NamedTuple):
    """What the account needs of every sample, (N,) float64 each.

    Attributes:
        delta: ‖δ‖.
        inputs: ‖z‖, ‖h_1‖, …, ‖h_L‖, what each layer and the head read.
        above: ‖∂ℓ/∂pre_l‖ of each hidden layer.
        embedding: ‖∇_E ℓ‖ over all rows, or None without an embedding; see `operand_norms`.
    """

    delta: Tensor
    inputs: tuple[Tensor, ...]
    above: tuple[Tensor, ...]
    embedding: Tensor | None


def operand_norms(gradient: Tensor, combine: str, same_operand: Tensor | None) -> Tensor:
    """(N,) norm of the gradient in the embedding rows from the one (N, d_0) in z; see `per_sample_account`."""
    norms = row_norms(gradient)
    if combine != "concatenation":
        return _spread(norms, combine, same_operand) * norms
    if same_operand is not None and bool(same_operand.any()):
        first, second = gradient[same_operand].chunk(2, dim=1)
        norms[same_operand] = row_norms(first + second)
    return norms


def account_of(
    form: GatedForm, norms: SampleNorms, combine: str | None, same_operand: Tensor | None
) -> Account:
    """The account of `per_sample_account` from norms alone; ``form`` gives the bounds."""
    reach = _spectral_norm(form.head)
    head = _block_account(norms.delta, norms.inputs[-1], norms.delta, 1.0, form.head_bias is not None)
    slope = 1.0 if form.activation == "relu" else GELU_LARGEST_SLOPE
    layers = []
    for number in reversed(range(len(form.weights))):
        reach *= slope
        has_bias = form.biases[number] is not None
        layers.append(_block_account(norms.delta, norms.inputs[number], norms.above[number], reach, has_bias))
        reach *= _spectral_norm(form.weights[number])
    if form.direct is not None:
        reach += _spectral_norm(form.direct)
    embedding = None
    if norms.embedding is not None and combine is not None:
        bound = norms.delta * _spread(norms.delta, combine, same_operand) * reach
        embedding = BlockAccount(norms.embedding, norms.embedding, bound, bound)
    return Account(norms.delta, head, tuple(reversed(layers)), embedding)


def _spread(like: Tensor, combine: str, same_operand: Tensor | None) -> Tensor:
    """(N,) ‖B_i‖₂ of the map from embedding rows to z."""
    other, equal = (1.0, math.sqrt(2)) if combine == "concatenation" else (math.sqrt(2), 2.0)
    found = torch.full_like(like, other)
    return found if same_operand is None else found.masked_fill(same_operand.to(like.device), equal)


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
    delta_norm: Tensor, input_norm: Tensor, above: Tensor, reach: float, has_bias: bool
) -> BlockAccount:
    """A weight's gradient is input ⊗ what comes from above, its bias's the latter itself."""
    with_bias = torch.hypot(input_norm, torch.ones_like(input_norm)) if has_bias else input_norm
    return BlockAccount(
        weight=above * input_norm,
        with_bias=above * with_bias,
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


def _spectral_norm(matrix: Tensor) -> float:
    """‖matrix‖₂, from the largest eigenvalue of the smaller Gram matrix, which has all its digits."""
    scale = float(matrix.abs().max())
    if not 0 < scale < math.inf:
        return scale
    matrix = matrix / scale
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return scale * math.sqrt(float(torch.linalg.eigvalsh(gram)[-1]))


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
