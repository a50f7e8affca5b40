"""Phases of neurons that compute with one frequency: do the output phases answer the input phases?

A neuron of frequency k reads cos(w_k a + phi_a) and cos(w_k b + phi_b) and writes cos(w_k c + psi), w_k = 2
pi k/n. It works towards c = a + b when psi = phi_a + phi_b, towards c = a - b when psi = phi_a - phi_b. The
misfit is theta = phi_a + sign phi_b - psi. Aligned phases alone are no evidence of generalisation: they also
appear in runs that only memorise.

Shape suffixes: n points of the cyclic axis, h neurons; leading axes are batch axes. Float64 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.cyclic import fourier_basis


@dataclass(frozen=True, eq=False)
class Phases:
    """Phases (radians, in (-pi, pi]) and amplitudes of every neuron at its own frequency.

    Attributes:
        input_a, input_b, output: (..., h) the phases phi_a, phi_b and psi.
        theta: (..., h) phi_a + sign phi_b - psi, wrapped.
        weight: (..., h) product of the three amplitudes over its largest value in the batch element; 0 for a
            neuron that is left out.
        used: (..., h) boolean: 1 <= frequency < n/2 and all three amplitudes positive. Elsewhere phases are
            0 and mean nothing.
    """

    input_a: Tensor
    input_b: Tensor
    output: Tensor
    theta: Tensor
    weight: Tensor
    used: Tensor


@dataclass(frozen=True, eq=False)
class PhaseStatistics:
    """Weighted circular statistics of theta, each of shape (...).

    Attributes:
        cosine: mean of cos(theta); 1 when every neuron answers its inputs.
        resultant: |mean of e^{i theta}|, in [0, 1]; 1 when all misfits are equal, whatever they are.
        angle: argument of that mean, radians; 0 for the right answer, meaningless where ``resultant`` is at
            chance.
        neurons: number of neurons used.
        effective_neurons: (sum weight)^2 / sum weight^2, the number to hand to `resultant_chance`.
    """

    cosine: Tensor
    resultant: Tensor
    angle: Tensor
    neurons: Tensor
    effective_neurons: Tensor


def fit_phases(input_a: Tensor, input_b: Tensor, output: Tensor, frequency: Tensor, sign: int = 1) -> Phases:
    """Least-squares phases of each neuron's input and output weights at its own frequency.

    Args:
        input_a, input_b: (..., n, h) weights from the residues of either operand into the neurons.
        output: (..., n, h) weights from the neurons to the classes, class axis first.
        frequency: (..., h) integers, the neuron's frequency; -1 for a neuron without one. Neurons at n/2,
            which have a sign but no phase, are left out.
        sign: +1 for addition, -1 for subtraction (first minus second operand).

    Raises ValueError for another sign, for shapes that do not agree and for non-finite weights.
    """
    if sign not in (1, -1):
        raise ValueError(f"phases: got sign {sign}, expected +1 (addition) or -1 (subtraction)")
    shapes = [tuple(t.shape) for t in (input_a, input_b, output)]
    if (
        input_a.dim() < 2
        or len(set(shapes)) != 1
        or tuple(frequency.shape) != (*shapes[0][:-2], shapes[0][-1])
    ):
        raise ValueError(
            f"phases: got weights of shapes {shapes} and frequencies {tuple(frequency.shape)}, "
            "expected three (..., n, h) and one (..., h)"
        )
    n = input_a.shape[-2]
    eligible = (frequency >= 1) & (2 * frequency < n)
    index = torch.where(eligible, frequency, 0).to(torch.int64)
    phase_a, amplitude_a = _phase(input_a, index)
    phase_b, amplitude_b = _phase(input_b, index)
    phase_out, amplitude_out = _phase(output, index)
    used = eligible & (amplitude_a > 0) & (amplitude_b > 0) & (amplitude_out > 0)
    weight = torch.where(used, amplitude_a * amplitude_b * amplitude_out, 0.0)
    largest = weight.amax(-1, keepdim=True) if weight.shape[-1] else weight
    weight = weight / torch.where(largest > 0, largest, 1.0)
    phase_a, phase_b, phase_out = (torch.where(used, phase, 0.0) for phase in (phase_a, phase_b, phase_out))
    theta = phase_a + sign * phase_b - phase_out
    theta = torch.atan2(torch.sin(theta), torch.cos(theta))
    return Phases(phase_a, phase_b, phase_out, theta, weight, used)


def phase_statistics(phases: Phases) -> PhaseStatistics:
    """Circular statistics of the misfit over neurons, weighted by the product of the three amplitudes.

    Raises ValueError where no neuron of the batch element has a phase.
    """
    total = phases.weight.sum(-1)
    empty = int((total <= 0).sum())
    if empty:
        raise ValueError(
            f"phase statistics: no neuron with a frequency below n/2 and weight in all three places, "
            f"expected at least one (fails for {empty} of {total.numel()})"
        )
    cosine = (phases.weight * torch.cos(phases.theta)).sum(-1) / total
    sine = (phases.weight * torch.sin(phases.theta)).sum(-1) / total
    return PhaseStatistics(
        cosine=cosine,
        resultant=torch.hypot(cosine, sine).clamp(max=1.0),
        angle=torch.atan2(sine, cosine),
        neurons=phases.used.sum(-1),
        effective_neurons=total.square() / phases.weight.square().sum(-1),
    )


def resultant_chance(neurons: float) -> float:
    """Mean resultant of n independent uniform phases, sqrt(pi / (4 n)) for large n; ValueError for n <= 0."""
    if not neurons > 0:
        raise ValueError(f"chance of the resultant: got {neurons} neurons, expected a positive number")
    return math.sqrt(math.pi / (4.0 * neurons))


def _phase(weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Phase of A cos(w_k a + phi) for each column at its own k, and A relative to the map's largest entry."""
    values = weights.to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("phases: got weights with non-finite entries, expected finite values")
    n = values.shape[-2]
    largest = values.abs().amax((-2, -1), keepdim=True)
    values = values / torch.where(largest > 0, largest, 1.0)
    coefficients = fourier_basis(n, values.device).matrix @ values
    # rows 2k - 1 and 2k are cos_k and sin_k; where there is no k any row will do
    cosine = (2 * index - 1).clamp(min=0)[..., None, :]
    real = coefficients.gather(-2, cosine)[..., 0, :]
    imaginary = -coefficients.gather(-2, cosine + 1)[..., 0, :]
    return torch.atan2(imaginary, real), torch.hypot(real, imaginary) * math.sqrt(2.0 / n)
