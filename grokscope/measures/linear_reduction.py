"""Fixed-activation-region linear reductions (arXiv 2606.05863) of a ReLU network.

With the gates of sample i held fixed the network is affine in its combined input: f(z) = A_i z + b_i,
A_i = Uᵀ D_{L,i} W_Lᵀ … D_{1,i} W_1ᵀ (+ Bᵀ for a direct path), a C × d_0 matrix acting on columns. GELU has no
such reduction, and every function here that needs one refuses it.

Shape suffixes: N or n samples, C classes, d_0 input width, d_l width of hidden layer l = 1..L.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grokscope.measures.regions import GatedForm, gates

__all__ = [
    "Residual",
    "affine_maps",
    "agop",
    "mean_active",
    "mean_active_and_agop",
    "reduction_residual",
    "rule_gap",
    "stable_rank_mean",
]

_BLOCK_ELEMENTS = 2**23  # float64 elements of A_i held at once: 64 MiB


def affine_maps(form: GatedForm, z: Tensor) -> tuple[Tensor, Tensor]:
    """A_i and b_i as explicit matrices, from weights and gates only.

    Meant for a few samples: the result has n·C·d_0 elements.

    Args:
        form: a ReLU network.
        z: (n, d_0) combined inputs, which decide the gates and nothing else.

    Returns:
        A (n, C, d_0) and b (n, C), float64.

    Raises:
        ValueError: z is not (n, d_0), or the activation is not ReLU.
    """
    _require_relu("affine_maps", form)
    return _maps_from_gates(form, gates(form, z))


def mean_active(form: GatedForm, gate_pattern: Sequence[Tensor]) -> Tensor:
    """Mean of A_i over samples.

    In closed form up to two hidden layers, where the mean of the gates (or of their outer products) is all
    that enters: Uᵀ diag(ḡ) W_1ᵀ, and Uᵀ [W_2ᵀ ∘ (G_2ᵀG_1/N)] W_1ᵀ. Deeper, a sum over distinct patterns in
    blocks of bounded memory.

    Args:
        form: a ReLU network.
        gate_pattern: one (N, d_l) bool tensor per layer, N ≥ 1.

    Returns:
        (C, d_0) float64.

    Raises:
        ValueError: gates that do not fit the form, no sample, or an activation that is not ReLU.
    """
    pattern = _checked_pattern("mean_active", form, gate_pattern)
    n = pattern[0].shape[0]
    if len(pattern) == 1:
        return _mean_of_one_layer(form, pattern[0].sum(dim=0).to(torch.float64) / n)
    if len(pattern) == 2:
        together = _open_together(pattern[1], pattern[0]) / n
        return form.head.T @ (form.weights[1].T * together) @ form.weights[0].T
    total = form.head.new_zeros(form.n_classes, form.input_width)
    for maps, counts in _distinct_maps(form, pattern):
        total += torch.einsum("n,ncd->cd", counts, maps)
    return total / n


def agop(form: GatedForm, gate_pattern: Sequence[Tensor]) -> Tensor:
    """Average gradient outer product (arXiv 2407.20199), (1/N) Σ_i A_iᵀ A_i.

    For one hidden layer in closed form, with K = UUᵀ, B the direct path and ḡ the mean gate:
    W_1 [K ∘ (GᵀG/N)] W_1ᵀ + W_1 diag(ḡ) U Bᵀ + (W_1 diag(ḡ) U Bᵀ)ᵀ + B Bᵀ. Deeper, a sum over distinct
    patterns in blocks of bounded memory. Its eigenvalues are squared scales of the maps.

    Args:
        form: a ReLU network.
        gate_pattern: one (N, d_l) bool tensor per layer, N ≥ 1.

    Returns:
        (d_0, d_0) float64, symmetric positive semidefinite.

    Raises:
        ValueError: gates that do not fit the form, no sample, or an activation that is not ReLU.
    """
    pattern = _checked_pattern("agop", form, gate_pattern)
    n = pattern[0].shape[0]
    if len(pattern) > 1:
        total = form.head.new_zeros(form.input_width, form.input_width)
        for maps, counts in _distinct_maps(form, pattern):
            rows = (maps * counts.sqrt()[:, None, None]).flatten(0, 1)
            total += rows.T @ rows
        return total / n
    return _agop_of_one_layer(form, _open_together(pattern[0], pattern[0]) / n)


def mean_active_and_agop(form: GatedForm, gate_pattern: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`mean_active` and `agop`, counting the gates of one hidden layer once for both."""
    pattern = _checked_pattern("mean_active_and_agop", form, gate_pattern)
    if len(pattern) > 1:
        return mean_active(form, pattern), agop(form, pattern)
    together = _open_together(pattern[0], pattern[0]) / pattern[0].shape[0]
    return _mean_of_one_layer(form, together.diagonal()), _agop_of_one_layer(form, together)


def _mean_of_one_layer(form: GatedForm, open_share: Tensor) -> Tensor:
    mean = (form.head.T * open_share) @ form.weights[0].T
    return mean if form.direct is None else mean + form.direct.T


def _agop_of_one_layer(form: GatedForm, together: Tensor) -> Tensor:
    """From the shares (h, h) of samples at which both gates of a pair are open."""
    weight = form.weights[0]
    product = weight @ ((form.head @ form.head.T) * together) @ weight.T
    if form.direct is not None:
        cross = (weight * together.diagonal()) @ form.head @ form.direct.T
        product = product + cross + cross.T + form.direct @ form.direct.T
    return (product + product.T) / 2


def _open_together(first: Tensor, second: Tensor) -> Tensor:
    """(h, h') float64: at how many samples gate i of ``first`` and gate j of ``second`` (N, h') are both open.

    Whole numbers below 2^24 are exact in single precision, at half the cost, and numpy knows that the product
    of a matrix with its own transpose is symmetric.
    """
    exact = np.float32 if first.shape[0] < 2**24 else np.float64
    left = first.cpu().numpy().astype(exact)
    right = left if second is first else second.cpu().numpy().astype(exact)
    return torch.from_numpy(left.T @ right).to(device=first.device, dtype=torch.float64)


@dataclass(frozen=True)
class Residual:
    """How far the reduction is from the network itself.

    Attributes:
        forward: max |A_i z_i + b_i − f(z_i)| over max |f|, all samples.
        jacobian: max |A_i − ∂f/∂z(z_i)| over max |A|, the samples of the Jacobian check.
        n_forward, n_jacobian: the numbers of samples compared.
    """

    forward: float
    jacobian: float
    n_forward: int
    n_jacobian: int


def reduction_residual(
    form: GatedForm, z: Tensor, forward: Callable[[Tensor], Tensor], n_jacobian: int = 8
) -> Residual:
    """Proof that the reduction is right: explicit A_i, b_i against the model's ordinary forward and Jacobian.

    A_i and b_i come from weights and gates alone, so agreement with `forward`, which must be the model's own
    code and not a masked form of it, is evidence. Rounding level (1e-12) is right for a ReLU network. Maps
    are formed in blocks of bounded memory. The Jacobian is compared on samples spread evenly over z.

    Args:
        form: a ReLU network.
        z: (N, d_0) combined inputs, N ≥ 1.
        forward: (n, d_0) float64 → (n, C), each row on its own, differentiable by autograd.
        n_jacobian: samples of the Jacobian check, at least 1 (all of z if it has fewer).

    Raises:
        ValueError: z is not (N, d_0), the activation is not ReLU, no sample, `forward` returns another shape,
            values that are not finite, or logits or maps that are all zero (no scale to compare with).
    """
    _require_relu("reduction_residual", form)
    if z.ndim != 2 or z.shape[1] != form.input_width or z.shape[0] == 0 or n_jacobian < 1:
        raise ValueError(
            f"reduction_residual: got inputs {tuple(z.shape)} and {n_jacobian} Jacobian samples, "
            f"expected (N >= 1, {form.input_width}) and at least 1"
        )
    z = z.detach().to(torch.float64)
    difference, scale = 0.0, 0.0
    with torch.no_grad():
        for part in z.split(_block(form)):
            maps, offsets = _maps_from_gates(form, gates(form, part))
            logits = _logits_of(forward, part, form)
            reduced = torch.einsum("ncd,nd->nc", maps, part) + offsets
            difference = max(difference, _largest("A_i z_i + b_i less the forward pass", reduced - logits))
            scale = max(scale, _largest("the forward pass", logits))
    if scale == 0:
        raise ValueError("reduction_residual: got logits that are all zero, expected a scale to compare with")

    n_compared = min(n_jacobian, z.shape[0])
    # one evenly spread, repeatable choice: a random one would make the residual differ between readings
    chosen = torch.arange(n_compared, device=z.device) * z.shape[0] // n_compared
    with torch.enable_grad():
        inputs = z[chosen].clone().requires_grad_()
        logits = _logits_of(forward, inputs, form)
        # rows do not interact, so the gradient of a column sum is that column's gradient in every row
        rows = [
            torch.autograd.grad(logits[:, c].sum(), inputs, retain_graph=True)[0]
            for c in range(form.n_classes)
        ]
    jacobian = torch.stack(rows, dim=1)
    maps, _ = _maps_from_gates(form, gates(form, z[chosen]))
    largest_map = _largest("the maps A_i", maps)
    if largest_map == 0:
        raise ValueError("reduction_residual: got maps that are all zero, expected a scale to compare with")
    return Residual(
        forward=difference / scale,
        jacobian=_largest("A_i less the Jacobian", maps - jacobian) / largest_map,
        n_forward=z.shape[0],
        n_jacobian=n_compared,
    )


def stable_rank_mean(form: GatedForm, z: Tensor) -> float:
    """Mean over samples of the stable rank ‖A_i‖_F²/‖A_i‖₂² of their maps (arXiv 2606.05863).

    Args:
        form: a ReLU network.
        z: (n, d_0) combined inputs of a small fixed set of samples.

    Returns:
        Between 1 and min(C, d_0). A sample whose map is zero (every path closed) has no rank and is left out.

    Raises:
        ValueError: z is not (n, d_0), the activation is not ReLU, or no sample has a map that is not zero.
    """
    _require_relu("stable_rank_mean", form)
    ranks = []
    for part in z.split(_block(form)):
        maps, _ = _maps_from_gates(form, gates(form, part))
        largest = maps.abs().amax(dim=(1, 2))
        maps = maps[largest > 0] / largest[largest > 0][:, None, None]
        # a Gram matrix loses only small eigenvalues, and the stable rank reads the largest and the trace
        gram = maps @ maps.mT if form.n_classes <= form.input_width else maps.mT @ maps
        spectrum = torch.linalg.eigvalsh(gram)
        ranks.append(gram.diagonal(dim1=1, dim2=2).sum(dim=1) / spectrum[:, -1])
    joined = torch.cat(ranks) if ranks else z.new_zeros(0)
    if joined.numel() == 0:
        raise ValueError(
            f"stable_rank_mean: got {z.shape[0]} samples without a non-zero map, expected at least one with"
        )
    return float(joined.mean())


def rule_gap(maps: Tensor, basis_rows: Tensor) -> Tensor:
    """Rule gap (arXiv 2606.05863): ‖(I − P) Π A‖_F² / ‖Π A‖_F², the share of a map outside the rule.

    Π removes the mean over classes and P projects the class axis on the key Fourier functions. Meaningful
    only where classes are residues.

    Args:
        maps: (..., C, d).
        basis_rows: (r, C) orthonormal rows spanning the key Fourier subspace of functions of the class.

    Returns:
        (...) float64 in [0, 1]; 0 where every column of the centred map follows the rule.

    Raises:
        ValueError: shapes that do not fit, rows that are not orthonormal, non-finite maps, or a map that is
            constant over classes (nothing left to compare).
    """
    if maps.ndim < 2 or basis_rows.ndim != 2 or basis_rows.shape[1] != maps.shape[-2]:
        raise ValueError(
            f"rule_gap: got maps {tuple(maps.shape)} and basis {tuple(basis_rows.shape)}, "
            "expected (..., C, d) and (r, C)"
        )
    basis = basis_rows.to(torch.float64)
    identity = torch.eye(basis.shape[0], dtype=torch.float64, device=basis.device)
    if basis.shape[0] and float((basis @ basis.T - identity).abs().max()) > 1e-8:
        raise ValueError("rule_gap: got basis rows that are not orthonormal, expected orthonormal rows")
    if not bool(maps.isfinite().all()):
        raise ValueError("rule_gap: got non-finite maps, expected finite ones")
    wide = maps.to(torch.float64)
    centred = wide - wide.mean(dim=-2, keepdim=True)
    outside = centred - basis.T @ (basis @ centred)
    total = centred.square().sum(dim=(-2, -1))
    # rounding of the mean leaves crumbs in a map that is constant over classes
    if bool((total <= 1e-28 * wide.square().sum(dim=(-2, -1))).any()):
        raise ValueError("rule_gap: got a map that is constant over classes, expected one that varies")
    return (outside.square().sum(dim=(-2, -1)) / total).clamp(max=1.0)


def _require_relu(name: str, form: GatedForm) -> None:
    if form.activation != "relu":
        raise ValueError(
            f"{name}: got activation {form.activation!r}, expected 'relu': only a piecewise linear network "
            "is affine with its gates held fixed"
        )


def _checked_pattern(name: str, form: GatedForm, gate_pattern: Sequence[Tensor]) -> list[Tensor]:
    _require_relu(name, form)
    pattern = list(gate_pattern)
    n = min((len(g) for g in pattern if g.ndim), default=0)
    expected = [(n, w.shape[1]) for w in form.weights]
    if n == 0 or [tuple(g.shape) for g in pattern] != expected or any(g.dtype != torch.bool for g in pattern):
        given = [f"{g.dtype} {tuple(g.shape)}" for g in pattern]
        widths = [w.shape[1] for w in form.weights]
        raise ValueError(f"{name}: got gates {given}, expected bool (N >= 1, d_l) with widths {widths}")
    return pattern


def _maps_from_gates(form: GatedForm, pattern: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A (n, C, d_0) and b (n, C), multiplied out from the logits down to the input."""
    n = pattern[0].shape[0]
    maps = form.head.T.expand(n, -1, -1)
    offsets = form.head.new_zeros(n, form.n_classes)
    if form.head_bias is not None:
        offsets = offsets + form.head_bias
    layers = zip(form.weights, form.biases, pattern, strict=True)
    for weight, bias, open_gates in reversed(list(layers)):
        maps = maps * open_gates.unsqueeze(1)
        if bias is not None:
            offsets = offsets + maps @ bias
        maps = maps @ weight.T
    if form.direct is not None:
        maps = maps + form.direct.T
    return maps, offsets


def _distinct_maps(form: GatedForm, pattern: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The maps of the distinct patterns, in blocks, with the number of samples that have each."""
    joined, counts = torch.unique(torch.cat(pattern, dim=1), dim=0, return_counts=True)
    block = _block(form)
    for part, part_counts in zip(joined.split(block), counts.split(block), strict=True):
        layers = part.split([w.shape[1] for w in form.weights], dim=1)
        yield _maps_from_gates(form, layers)[0], part_counts.to(torch.float64)


def _block(form: GatedForm) -> int:
    widest = max(form.input_width, *(w.shape[1] for w in form.weights))
    return max(1, _BLOCK_ELEMENTS // (form.n_classes * widest))


def _logits_of(forward: Callable[[Tensor], Tensor], part: Tensor, form: GatedForm) -> Tensor:
    logits = forward(part)
    if tuple(logits.shape) != (part.shape[0], form.n_classes):
        raise ValueError(
            f"reduction_residual: got logits {tuple(logits.shape)} from the forward pass, "
            f"expected {(part.shape[0], form.n_classes)}"
        )
    return logits.to(torch.float64)


def _largest(what: str, values: Tensor) -> float:
    largest = float(values.detach().abs().max())
    if not largest < float("inf"):
        raise ValueError(f"reduction_residual: got non-finite values in {what}, expected finite ones")
    return largest
