"""The activation regions of a gated network: which gates are open, how firmly, and how densely regions lie.

A *gated form* is the part of a network from its combined input z to the logits, one checkpoint at a time, in
the row-vector convention `x @ W`. Everything in this module needs only the signs of pre-activations and is
defined for ReLU and GELU alike. `gate_patterns` counts and compares the patterns; the affine maps, which
exist for ReLU alone, are in `linear_reduction`.

Shape suffixes: N samples, C classes, d_0 input width, d_l width of hidden layer l = 1..L.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "GateMargin",
    "GatedForm",
    "gate_margin",
    "gated_forward",
    "gates",
    "local_complexity",
    "margin_of",
    "relative_distances",
]

_ACTIVATIONS = ("relu", "gelu")
_BLOCK_ELEMENTS = 2**23  # float64 elements held at once by a blocked loop: 64 MiB


@dataclass(frozen=True, eq=False)
class GatedForm:
    """A network from z to logits: h_0 = z, h_l = φ(h_{l−1} W_l + b_l), logits = h_L U + u (+ z B).

    Tensors are taken to float64 on construction; none carries a leading axis.

    Attributes:
        weights: layer l: (d_{l−1}, d_l), hidden layers in order, at least one.
        biases: (d_l,) each, or None for a layer without.
        head: U, (d_L, C).
        head_bias: u, (C,), or None.
        direct: B, (d_0, C), a linear bypass from z to the logits (a transformer's residual stream), or None;
            only with one hidden layer.
        activation: "relu" or "gelu" (the exact one, x Φ(x)).

    Raises:
        ValueError: shapes that do not chain, an unknown activation, a non-finite parameter.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    head: Tensor
    head_bias: Tensor | None = None
    direct: Tensor | None = None
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"GatedForm: got activation {self.activation!r}, expected one of {_ACTIVATIONS}")
        if not self.weights or len(self.weights) != len(self.biases):
            raise ValueError(
                f"GatedForm: got {len(self.weights)} weights and {len(self.biases)} biases, "
                "expected as many of one as of the other, at least one"
            )
        if self.direct is not None and len(self.weights) != 1:
            raise ValueError(
                f"GatedForm: got a direct path over {len(self.weights)} hidden layers, expected one layer"
            )
        # fields are frozen for callers; the widening to float64 happens once, here
        set_field = object.__setattr__
        set_field(self, "weights", tuple(w.to(torch.float64) for w in self.weights))
        set_field(self, "biases", tuple(None if b is None else b.to(torch.float64) for b in self.biases))
        set_field(self, "head", self.head.to(torch.float64))
        for name in ("head_bias", "direct"):
            value = getattr(self, name)
            set_field(self, name, None if value is None else value.to(torch.float64))

        width = self.weights[0].shape[0] if self.weights[0].ndim == 2 else -1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            out = weight.shape[-1] if weight.ndim == 2 else -1
            _check_parameter(f"weight of layer {number}", weight, (width, out))
            _check_parameter(f"bias of layer {number}", bias, (out,))
            width = out
        classes = self.head.shape[-1] if self.head.ndim == 2 else -1
        _check_parameter("head", self.head, (width, classes))
        _check_parameter("head bias", self.head_bias, (classes,))
        _check_parameter("direct path", self.direct, (self.weights[0].shape[0], classes))

    @property
    def input_width(self) -> int:
        """d_0, the width of z."""
        return self.weights[0].shape[0]

    @property
    def n_classes(self) -> int:
        """C, the number of logits."""
        return self.head.shape[1]

    def activate(self, pre_activation: Tensor) -> Tensor:
        """φ, entry by entry."""
        if self.activation == "relu":
            return pre_activation.clamp(min=0)
        return torch.nn.functional.gelu(pre_activation)


def gated_forward(form: GatedForm, z: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The ordinary forward pass.

    Args:
        form: the network.
        z: (N, d_0) combined inputs; taken to float64. Differentiable in z.

    Returns:
        The pre-activations of each hidden layer, (N, d_l) each, and the logits (N, C).

    Raises:
        ValueError: z is not (N, d_0).
    """
    if z.ndim != 2 or z.shape[1] != form.input_width:
        raise ValueError(f"gated_forward: got inputs {tuple(z.shape)}, expected (N, {form.input_width})")
    z = z.to(torch.float64)
    hidden = z
    pre_activations = []
    for weight, bias in zip(form.weights, form.biases, strict=True):
        pre = hidden @ weight if bias is None else hidden @ weight + bias
        pre_activations.append(pre)
        hidden = form.activate(pre)
    logits = hidden @ form.head
    if form.head_bias is not None:
        logits = logits + form.head_bias
    if form.direct is not None:
        logits = logits + z @ form.direct
    return tuple(pre_activations), logits


def gates(form: GatedForm, z: Tensor) -> tuple[Tensor, ...]:
    """Open gates, 1[pre-activation > 0], so that D(0) = 0.

    Args:
        form: the network; for GELU the signs, which do not make the network affine.
        z: (N, d_0) combined inputs.

    Returns:
        One (N, d_l) bool tensor per hidden layer.

    Raises:
        ValueError: z is not (N, d_0), or a pre-activation is not a number.
    """
    return tuple(pre > 0 for pre in _pre_activations("gates", form, z))


@dataclass(frozen=True)
class GateMargin:
    """Relative distances of pre-activations from their gates, in [0, 1], over all samples and layers."""

    minimum: float
    quantile_01: float
    quantile_10: float
    median: float
    excluded: int


def gate_margin(form: GatedForm, z: Tensor, pre_activations: Sequence[Tensor] | None = None) -> GateMargin:
    """How far samples are from flipping a gate: |pre| / (‖w‖‖x‖ + |b|), x the input of that layer.

    Entries whose denominator is zero (a neuron without weights or a layer whose input is dead) are excluded
    and counted. Invariant to rescaling a first-layer neuron; further up the scale of each neuron below
    enters ‖x‖, so deeper margins depend on how a ReLU network's scale is spread over its layers.

    Args:
        form: the network.
        z: (N, d_0) combined inputs.
        pre_activations: (N, d_l) of each layer, where `gated_forward` of the same form and inputs has given
            them already; they are not changed.

    Returns:
        The minimum and the 1 %, 10 % and 50 % quantiles, each the smallest entry with at least that share of
        all entries at or below it.

    Raises:
        ValueError: z is not (N, d_0), a pre-activation is NaN, pre-activations that do not fit, or no entry
            has a positive denominator.
    """
    if pre_activations is None:
        pre_activations = _pre_activations("gate_margin", form, z)
    shapes = [tuple(pre.shape) for pre in pre_activations]
    if shapes != [(z.shape[0], weight.shape[1]) for weight in form.weights]:
        raise ValueError(f"gate_margin: got pre-activations {shapes}, expected (N, d_l) of every layer")
    inputs = [z.to(torch.float64), *(form.activate(pre) for pre in pre_activations[:-1])]
    kept = []
    excluded = 0
    for x, weight, bias, pre in zip(inputs, form.weights, form.biases, pre_activations, strict=True):
        ratios = relative_distances(pre, x, torch.linalg.vector_norm(weight, dim=0), bias)
        kept.append(ratios.flatten())
        excluded += pre.numel() - ratios.numel()
    ratios = kept[0] if len(kept) == 1 else torch.cat(kept)
    return margin_of(ratios.detach().cpu().numpy(), excluded)


def relative_distances(pre: Tensor, x: Tensor, weight_norms: Tensor, bias: Tensor | None) -> Tensor:
    """|pre| / (‖w‖‖x‖ + |b|) of one layer: (N, d_l), or flat where an entry without a scale is left out.

    Args:
        pre: (N, d_l) pre-activations, not changed.
        x: (N, d_{l−1}) what the layer reads.
        weight_norms: (d_l,) ‖w‖ of each neuron.
        bias: (d_l,) or None.
    """
    input_norms = torch.linalg.vector_norm(x, dim=1).unsqueeze(1)
    scale = input_norms * weight_norms
    if bias is not None:
        scale += bias.abs()
    ratios = pre.abs().div_(scale)
    return ratios if bool(scale.min() > 0) else ratios[scale > 0]


def margin_of(entries: NDArray[np.float64], excluded: int) -> GateMargin:
    """The quantiles of `gate_margin` from all relative distances, flat, whose order is not kept.

    Raises:
        ValueError: no entry.
    """
    if not entries.size:
        raise ValueError(
            f"gate_margin: got {excluded} entries with no scale, expected one with ‖w‖‖x‖ + |b| > 0"
        )
    # selecting beats sorting, and what is left of the larger quantile is all that the smaller one needs
    count, quantiles = entries.size, []
    for share in (0.5, 0.1, 0.01):
        index = math.ceil(share * count) - 1
        entries.partition(index)
        quantiles.append(float(entries[index]))
        entries = entries[: index + 1]
    return GateMargin(float(entries.min()), quantiles[2], quantiles[1], quantiles[0], excluded)


def local_complexity(form: GatedForm, z: Tensor, radius: float, n_directions: int, seed: int = 0) -> float:
    """Local complexity (arXiv 2402.15555): gates crossing a small cross-polytope around a sample.

    Around each sample x the 2P vertices x ± r·v_p are put through the network, v_1..v_P one orthonormal
    frame drawn once from the seed on the CPU and used for every sample. A neuron counts where its gate is not
    the same at all vertices; for one layer this is |pre| < r·max_p |w·v_p| (up to ties).

    Args:
        form: the network.
        z: (N, d_0) combined inputs, N ≥ 1.
        radius: r > 0, in units of z.
        n_directions: P, 1 ≤ P ≤ d_0.
        seed: of the frame.

    Returns:
        The mean over samples of the count summed over layers.

    Raises:
        ValueError: z is not (N, d_0) with a sample, a radius that is not positive, P out of range.
    """
    width = form.input_width
    if z.ndim != 2 or z.shape[1] != width or z.shape[0] == 0:
        raise ValueError(f"local_complexity: got inputs {tuple(z.shape)}, expected (N >= 1, {width})")
    if not radius > 0:
        raise ValueError(f"local_complexity: got radius {radius}, expected a positive number")
    if not 1 <= n_directions <= width:
        raise ValueError(
            f"local_complexity: got {n_directions} directions, expected between 1 and the input width {width}"
        )
    frame = _frame(width, n_directions, seed).to(z.device)
    first = form.weights[0]
    steps = radius * (frame @ first)
    pre = z.to(torch.float64) @ first
    if form.biases[0] is not None:
        pre += form.biases[0]
    _require_numbers("local_complexity", 1, pre)
    # at all vertices of a sample the first layer is known from its value there and one product of the frame
    reach = steps.abs().amax(dim=0)
    crossed = int(((pre + reach > 0) & ~(pre - reach > 0)).sum())
    if len(form.weights) == 1:
        return crossed / z.shape[0]
    steps = torch.cat([steps, -steps])
    widest = max(w.shape[1] for w in form.weights)
    for part in pre.split(max(1, _BLOCK_ELEMENTS // (2 * n_directions * widest))):
        hidden = form.activate((part.unsqueeze(1) + steps).flatten(0, 1))
        for number, (weight, bias) in enumerate(zip(form.weights[1:], form.biases[1:], strict=True), start=2):
            above = hidden @ weight if bias is None else torch.addmm(bias, hidden, weight)
            _require_numbers("local_complexity", number, above)
            at_vertices = (above > 0).view(part.shape[0], 2 * n_directions, -1)
            crossed += int((at_vertices.any(dim=1) & ~at_vertices.all(dim=1)).sum())
            hidden = form.activate(above)
    return crossed / z.shape[0]


@lru_cache(maxsize=8)
def _frame(width: int, n_directions: int, seed: int) -> Tensor:
    """(P, d_0) orthonormal rows."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(width, n_directions, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.T


def _pre_activations(name: str, form: GatedForm, z: Tensor) -> tuple[Tensor, ...]:
    pre_activations, _ = gated_forward(form, z)
    for number, pre in enumerate(pre_activations, start=1):
        _require_numbers(name, number, pre)
    return pre_activations


def _require_numbers(name: str, layer: int, pre: Tensor) -> None:
    if bool(pre.isnan().any()):
        raise ValueError(f"{name}: got NaN pre-activations in layer {layer}, expected numbers with a sign")


def _check_parameter(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if tuple(value.shape) != shape:
        expected = "(" + ", ".join("*" if size < 0 else str(size) for size in shape) + ")"
        raise ValueError(f"GatedForm: got {name} of shape {tuple(value.shape)}, expected {expected}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"GatedForm: got non-finite values in the {name}, expected finite parameters")
