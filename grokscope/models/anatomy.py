"""What every model tells the probes, so that no probe reads a raw parameter name.

Shape legend: T saved steps (any leading axes), N samples, C classes, p residues, d width of an embedding,
h neurons. Matrices act on row vectors, ``x @ W``, so they are stored (in, out) as TransformerLens does.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.blocks import FirstLayer, block_rows, block_slices
from grokscope.measures.chain_rule import SampleNorms
from grokscope.measures.regions import GatedForm

Params = dict[str, Tensor]
"""A flat parameter dict."""

Pullback = Callable[[Tensor], Params]
"""From a gradient in the logits (N, C) to the gradient of every tensor."""

Linearised = Callable[[Params], tuple[Tensor, Pullback]]
"""From parameters to the logits (N, C) of fixed inputs, and their pullback."""

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
        stacks: whether :meth:`linearised` takes several runs at once, on leading axes.
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
    stacks: bool = False
    no_function: Absent | None = None
    no_anatomy: Absent | None = None

    @abc.abstractmethod
    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        """Initial parameters, drawn in float64 on the CPU and rounded to ``dtype``."""

    @abc.abstractmethod
    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, C) logits (or outputs) of ``inputs`` (N, 2) int64 or (N, d)."""

    def linearised(self, inputs: Tensor) -> Linearised:
        """The logits of ``inputs`` as a function of the parameters, with the pullback to them.

        Loss gradients in the logits are known in closed form, so trainer and probes need no graph of the loss,
        and a model that knows its own structure needs none at all: if it ``stacks``, parameters and inputs may
        share leading axes (…, N, 2), one run each. This is the plain way, for any family, without such axes.
        """

        def at(params: Params) -> tuple[Tensor, Pullback]:
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
                logits = self.forward(leaves, inputs)

            def pullback(delta: Tensor) -> Params:
                found = torch.autograd.grad(logits, list(leaves.values()), delta, allow_unused=True)
                return {
                    name: torch.zeros_like(leaf) if grad is None else grad
                    for (name, leaf), grad in zip(leaves.items(), found, strict=True)
                }

            return logits.detach(), pullback

        return at

    def logit_blocks(self, params: Params, inputs: Tensor, *, grid: bool) -> Iterator[tuple[slice, Tensor]]:
        """(rows, logits (n, C)) of ``inputs`` (N, …), in order and in blocks that stay in the cache.

        ``grid`` says that the inputs are every pair of residues, in order. Use a block before the next.
        """
        found = self.forward_grid(params) if grid else None
        logits = found.flatten(0, 1) if isinstance(found, Tensor) else self.forward(params, inputs)
        return ((part, logits[part]) for part in block_slices(len(logits), block_rows(logits.shape[1])))

    def first_layer(self, params: Params, form: GatedForm, inputs: Tensor) -> FirstLayer:
        """What ``inputs`` (N, …) bring to the first layer of this model's gated form."""
        z, weight, bias = self.combined(params, inputs), form.weights[0], form.biases[0]
        if bias is None:
            return FirstLayer(lambda rows: z[rows], lambda rows: z[rows] @ weight)
        return FirstLayer(lambda rows: z[rows], lambda rows: torch.addmm(bias, z[rows], weight))

    def stream_write(self, params: Params) -> tuple[Tensor, Tensor | None] | None:
        """W_out (h, d) and b_out (d,) where the head reads z + φ(pre) W_out + b_out; ``None`` elsewhere."""
        return None

    def gradient_with_norms(
        self, params: Params, inputs: Tensor, delta_of: Callable[[slice, Tensor], Tensor]
    ) -> tuple[Params, SampleNorms] | None:
        """Σ_i ∇ℓ_i by tensor, and the norms of every sample's share, where one pass gives both.

        ``delta_of`` takes rows of ``inputs`` and their logits (n, C) to the gradients of their losses in these.
        """
        return None

    @abc.abstractmethod
    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, dim): z, the combined input that the gated part of the network sees."""

    @abc.abstractmethod
    def from_z(self, params: Params, z: Tensor) -> Tensor:
        """(N, C) logits from the combined input, by the model's ordinary computation."""

    def embedded(self, params: Params, inputs: Tensor) -> Tensor | Absent:
        """(N, dim): the input in the space in which it can be moved: features, or embedded operands in a row."""
        return self.combined(params, inputs)

    def from_embedded(self, params: Params, x: Tensor) -> Tensor:
        """(N, C) logits from :meth:`embedded`, where that is not absent."""
        return self.from_z(params, x)

    def input_gradient(self, params: Params, inputs: Tensor, directions: Tensor) -> Tensor:
        """(N, dim): J_xᵀv of every sample, J_x that of the logits in :meth:`embedded` and v its row of (N, C).

        Differentiable in the parameters. This is the plain way, by differentiating twice; a network whose gates
        are constant almost everywhere needs no second derivative.

        Raises:
            GrokscopeError: there is no embedded input.
        """
        with torch.enable_grad():
            x = self.embedded(params, inputs)
            if isinstance(x, Absent):
                raise GrokscopeError(f"differentiating in the input: {x.reason}, expected an embedded input")
            x = x if x.requires_grad else x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.from_embedded(params, x), x, directions, create_graph=True)
        return found

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


def through_gates(
    weights: Sequence[Tensor], head: Tensor, gates: Sequence[Tensor], directions: Tensor
) -> Tensor:
    """(N, d_0): directions (N, C) back through the head (h, C) and through layers whose gates are given."""
    found = directions @ head.mT
    for weight, gate in zip(reversed(weights), reversed(gates), strict=True):
        found = (found * gate) @ weight.mT
    return found


def checked_scale(what: str, scale: float) -> float:
    """The ``output_scale`` of a family. Raises GrokscopeError for one that leaves no logits."""
    if scale == 0 or not math.isfinite(scale):
        raise GrokscopeError(
            f"building {what}: model.output_scale = {scale}, expected a finite number that is not 0"
        )
    return scale


def scaled(scale: float, x: Tensor) -> Tensor:
    """c x, and x itself where c is 1."""
    return x if scale == 1.0 else scale * x


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


def activate_in_place(name: Activation, pre: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`activation_pullback` needs of the pre-activation, and the activation; ``pre`` may be overwritten."""
    if name == "relu":
        post = pre.clamp_min_(0)
        return post, post
    return pre, activate(name, pre)


def activation_pullback(name: Activation, pre: Tensor, post: Tensor, above: Tensor) -> Tensor:
    """The gradient in the pre-activation from ``above``, the one in the activation, which may be overwritten."""
    aten = torch.ops.aten
    if name == "relu":
        # the gradient of max(x, 0) as that of a leaky unit of slope 0: the same numbers, twice as fast
        return aten.leaky_relu_backward.grad_input(above, post, 0.0, False, grad_input=above)
    if name in ("gelu", "gelu_tanh"):
        return aten.gelu_backward(above, pre, approximate="tanh" if name == "gelu_tanh" else "none")
    if name == "silu":
        return aten.silu_backward(above, pre)
    if name == "tanh":
        return aten.tanh_backward(above, post)
    return 2 * pre * above


def why_no_gates(activation: Activation) -> Absent | None:
    """Why a network with this activation has no gated form, ``None`` where it has one."""
    return None if activation in GATES else Absent(f"no region: the activation is {activation}")


def draw(generator: torch.Generator, shape: tuple[int, ...], std: float, dtype: torch.dtype) -> Tensor:
    """A Gaussian tensor drawn in float64 on the CPU, rounded to ``dtype``."""
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * std).to(dtype)


def as_float64(params: Mapping[str, Any]) -> Params:
    """Parameters as float64 tensors, the precision of every measure."""
    return {name: torch.as_tensor(value).to(torch.float64) for name, value in params.items()}
