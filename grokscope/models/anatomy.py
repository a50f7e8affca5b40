"""What every model tells the probes, so that no probe reads a raw parameter name.

Shape legend: T saved steps (any leading axes), N samples, C classes, p residues, d width of an embedding,
h neurons. Matrices act on row vectors, ``x @ W``, so they are stored (in, out) as TransformerLens does.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.regions import GatedForm

Params = dict[str, Tensor]
"""A flat parameter dict."""

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "quadratic", "tanh"]
"""``gelu`` is x Φ(x), ``gelu_tanh`` its tanh approximation, ``silu`` x σ(x), ``quadratic`` x²."""

GATES = ("relu", "gelu")
"""Activations whose pre-activations have a gate, so that the network has a gated form."""


@dataclass(frozen=True)
class Part:
    """One tensor of the parameter dict and its role.

    ``kind``: a *matrix* counts in norms; a *bias* or *gain* (of a LayerNorm) does not. ``block`` names the
    group it belongs to: ``embedding``, ``position``, ``attention``, ``hidden.<l>``, ``mlp``, ``layer.<l>``,
    ``norm``, ``head``; ``attention.<l>`` and ``mlp.<l>`` where there are several layers, ``head_bias`` where
    the head itself is tied to the embedding.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "bias", "gain"]
    block: str


@dataclass(frozen=True)
class MapView:
    """An end-to-end map as the product of its factors, (…, m, k)(…, k, l)…(…, r, n), and what to know."""

    factors: tuple[Tensor, ...]
    note: str = ""

    def matrix(self) -> Tensor:
        """(…, m, n): the product."""
        product = self.factors[0]
        for factor in self.factors[1:]:
            product = product @ factor
        return product


class Model(abc.ABC):
    """A family of pure functions of a flat parameter dict, with its anatomy.

    Attributes:
        combine: how the operands meet: by concatenation or sum of embeddings, by attention, or not at all.
        n_layers: the number of factors of the deepest end-to-end product.
        separate_embeddings: whether no row of an embedding serves both operands.
        tied: whether the head is the embedding, so that it has no tensor of its own.
        gated_block: the block whose tensors are the one layer of a gated form that writes into a residual
            stream, ``None`` where there is no such block or its tensors appear in the form more than once.
        output_scale: a constant c: logits = c (head_input @ unembeddingᵀ + bias).
        no_function: why nothing that needs the function may be measured, ``None`` where all may.
        no_anatomy: why nothing is known of what lies between inputs and logits, ``None`` where it is.
    """

    family: ClassVar[str]
    combine: Literal["concatenation", "sum", "attention", "none"]
    parts: tuple[Part, ...]
    n_classes: int
    n_tokens: int | None
    n_layers: int
    separate_embeddings: bool = False
    tied: bool = False
    gated_block: str | None = None
    output_scale: float = 1.0
    no_function: Absent | None = None
    no_anatomy: Absent | None = None

    @abc.abstractmethod
    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        """Initial parameters, drawn in float64 on the CPU and rounded to ``dtype``."""

    @abc.abstractmethod
    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, C) logits (or outputs) of ``inputs`` (N, 2) int64 or (N, d)."""

    @abc.abstractmethod
    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, dim): z, the combined input that the gated part of the network sees."""

    @abc.abstractmethod
    def from_z(self, params: Params, z: Tensor) -> Tensor:
        """(N, C) logits from the combined input, by the model's ordinary computation."""

    @abc.abstractmethod
    def gated(self, params: Params) -> GatedForm | Absent:
        """The gated form from z to the logits, where the network has one."""

    @abc.abstractmethod
    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, d): what the head multiplies."""

    @abc.abstractmethod
    def maps(self, params: Params) -> dict[str, MapView]:
        """End-to-end maps by public name; leading step axes pass through."""

    def forward_grid(self, params: Params) -> Tensor | Absent:
        """(p, p, C) logits of every operand pair."""
        return Absent(f"the inputs of a {self.family} model are not pairs of residues")

    def embeddings(self, params: Params) -> dict[str, Tensor]:
        """``embedding``, or ``embedding_a`` and ``embedding_b``: (…, p, d), residues only, in order."""
        return {}

    def unembedding(self, params: Params) -> Tensor | Absent:
        """(…, C, d): the head, class axis first."""
        return Absent(f"a {self.family} model has no unembedding")

    def neuron_logit(self, params: Params) -> Tensor | Absent:
        """(…, C, h): what each neuron of the last hidden layer adds to each class."""
        return Absent(f"a {self.family} model has no neurons")

    def neuron_inputs(self, params: Params) -> tuple[Tensor, Tensor] | Absent:
        """Two (p, h): each last-layer neuron's pre-activation as a function of a and of b."""
        return Absent(f"a {self.family} model has no neurons")

    def neuron_bias(self, params: Params) -> Tensor | None:
        """(h,): the bias that ``neuron_inputs`` adds to the first of the two, where it adds one to a sum."""
        return None

    def neuron_grid(self, params: Params) -> Tensor | Absent:
        """(p, p, h): activations of the last hidden layer on every operand pair."""
        return Absent(f"a {self.family} model has no neurons")

    def slots(self, params: Params) -> Tensor | Absent:
        """(dim, p_a + p_b): the linear map from operand one-hots to z, where z is linear in them."""
        return Absent(f"the combined input of a {self.family} model is not linear in one-hot operands")

    @property
    def matrices(self) -> dict[str, str]:
        """Name → block of every weight matrix (no biases, no LayerNorm gains)."""
        return {part.name: part.block for part in self.parts if part.kind == "matrix"}

    @property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Block → names of all its tensors, in the order of ``parts``."""
        found: dict[str, list[str]] = {}
        for part in self.parts:
            found.setdefault(part.block, []).append(part.name)
        return {block: tuple(names) for block, names in found.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor."""
        return {part.name: part.shape for part in self.parts}


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "quadratic": torch.square,
    "tanh": torch.tanh,
}


def activate(name: Activation, x: Tensor) -> Tensor:
    """The activation, entry by entry."""
    return _ACTIVATIONS[name](x)


def why_no_gates(activation: Activation) -> Absent | None:
    """Why a network with this activation has no gated form, ``None`` where it has one."""
    return None if activation in GATES else Absent(f"no region: the activation is {activation}")


def draw(generator: torch.Generator, shape: tuple[int, ...], std: float, dtype: torch.dtype) -> Tensor:
    """A Gaussian tensor drawn in float64 on the CPU, rounded to ``dtype``."""
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * std).to(dtype)


def as_float64(params: Mapping[str, Any]) -> Params:
    """Parameters as float64 tensors, the precision of every measure."""
    return {name: torch.as_tensor(value).to(torch.float64) for name, value in params.items()}
