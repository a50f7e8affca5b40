"""Weights under their authors' own names, whose function is not known or is given as code.

Scope: norms, spectra of every tensor and the frequencies of a declared embedding need no function. With one,
given as a callable, losses and gradients are taken through it; what lies between its inputs and its logits
stays unknown.

Shape legend: T saves (any leading axes), N samples, C classes, p residues, d width of the embedding.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError, nearest
from grokscope.measures.regions import GatedForm
from grokscope.models.anatomy import MapView, Model, Params, Part, draw

UserForward = Callable[[Params, Tensor], Tensor]
"""(parameters under their authors' names, (N, 2) int64 inputs) → (N, C) logits."""

PREFIX = "tensor."
"""What public names of tensors begin with, so that a stranger's name can never be taken for one of ours."""

UNKNOWN = "neither a known layout nor a card tells how these tensors make a function"
AS_CODE = "a function given as code has no known gates, neurons or head"
BLOCK_OF_INPUTS = 4096
_LONGEST_NAME = 100


@dataclass(frozen=True)
class WeightsOnlySettings:
    """``[model]`` of imported weights that no family of ours describes.

    Attributes:
        tensors: stored name → shape, in the authors' own orientation.
        names: stored name → the authors' own, where it could not be stored as it was (a ``/`` in it).
        kinds: name → its role; by default a tensor of two axes or more is a matrix, any other a bias.
        blocks: name → the block it belongs to; by default ``tensor.`` and its name up to the last dot.
        embedding: the tensor that holds one vector a residue, where that is known.
        embedding_rows: whether residues are its rows or its columns.
        n_residues: how many of them are residues, from the first on; 0 for as many as the task has.
        reason: why there is no function, as a part of a sentence.
    """

    family: Literal["weights"] = "weights"
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, Literal["matrix", "bias", "gain"]] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)
    embedding: str = ""
    embedding_rows: Literal["rows", "columns"] = "rows"
    n_residues: int = 0
    reason: str = ""


class WeightsOnly(Model):
    """The tensors of ``settings``; :meth:`with_function` adds a function of the user's own.

    Raises:
        GrokscopeError: no tensor, a field that names none of them, a matrix without two axes, or an
            embedding that does not hold its residues.
    """

    family: ClassVar[str] = "weights"
    combine = "none"

    def __init__(self, settings: WeightsOnlySettings, n_tokens: int | None, n_classes: int) -> None:
        self.settings = settings
        _check(settings)
        self.n_residues = settings.n_residues or n_tokens or 0
        self.n_tokens, self.n_classes, self.n_layers = n_tokens, n_classes, 1
        self.public = public_names(list(settings.tensors))
        blocks = _blocks(settings, self.public)
        self.parts = tuple(
            Part(name, tuple(shape), _kind(settings, name), blocks[name])
            for name, shape in settings.tensors.items()
        )
        if settings.embedding:
            _check_embedding(settings, self.n_residues)
        self.no_function = Absent(settings.reason or UNKNOWN)
        self.no_anatomy = self.no_function
        self._function: UserForward | None = None

    def with_function(self, function: UserForward) -> WeightsOnly:
        """The same weights with a function: ``function(params, inputs)`` → (N, C) logits.

        It gets the parameters in float64 under their authors' names, each a copy, and (N, 2) int64 operand
        pairs; it has to be differentiable by torch for gradients to be measured.
        """
        model = copy.copy(self)
        model._function, model.no_function, model.no_anatomy = function, None, Absent(AS_CODE)
        return model

    def without_function(self, reason: str) -> WeightsOnly:
        """The same weights without a function, for another reason than that of the settings."""
        model = copy.copy(self)
        model._function, model.no_function = None, Absent(reason)
        model.no_anatomy = model.no_function
        return model

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        """Gaussian matrices of variance 1/fan-in, gains 1 and biases 0: shapes to compare with, no recipe."""
        params: Params = {}
        for part in self.parts:
            if part.kind == "matrix":
                params[part.name] = draw(generator, part.shape, part.shape[-2] ** -0.5, dtype)
            else:
                fill = torch.ones if part.kind == "gain" else torch.zeros
                params[part.name] = fill(part.shape, dtype=dtype)
        return params

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, C) float64 logits by the user's function, at most 4096 inputs at a time.

        Raises:
            GrokscopeError: no function is known; the function fails; or what it returns is no (N, C) tensor
                of finite floating-point numbers (for weights that are finite).
        """
        if self._function is None:
            raise self._refusal()
        named = {self.settings.names.get(name, name): value for name, value in params.items()}
        doubled = {name: value.to(torch.float64) for name, value in named.items()}
        if not len(inputs):
            return torch.zeros(0, self.n_classes, dtype=torch.float64)
        blocks = [self._run(doubled, block) for block in inputs.split(BLOCK_OF_INPUTS)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def _run(self, params: Params, inputs: Tensor) -> Tensor:
        assert self._function is not None
        called = getattr(self._function, "__name__", "the function given")
        expected = (
            f"expected a function of (params, inputs) that returns ({len(inputs)}, {self.n_classes}) logits, "
            "params being float64 tensors under their authors' names and inputs (N, 2) int64"
        )
        try:
            logits = self._function({n: v.clone() for n, v in params.items()}, inputs.clone())
        except (Exception, SystemExit) as error:  # whatever a stranger's function does, one line tells it
            said = "".join(c if c.isprintable() else " " for c in str(error)[:1000])
            said = " ".join(said.split())[:300]
            raise GrokscopeError(f"running {called}: {type(error).__name__}: {said}; {expected}") from None
        if not isinstance(logits, Tensor):
            raise GrokscopeError(f"running {called}: it returned a {type(logits).__name__}, {expected}")
        if logits.shape != (len(inputs), self.n_classes) or not logits.is_floating_point():
            kind = str(logits.dtype).removeprefix("torch.")
            raise GrokscopeError(f"running {called}: it returned {tuple(logits.shape)} {kind}, {expected}")
        wanted = torch.is_grad_enabled() and any(value.requires_grad for value in params.values())
        if wanted and not logits.requires_grad:
            raise GrokscopeError(
                f"running {called}: torch cannot follow its logits back to the parameters (a detach, or numpy), "
                "expected a function that torch can differentiate"
            )
        if not bool(logits.isfinite().all()) and all(bool(v.isfinite().all()) for v in params.values()):
            raise GrokscopeError(f"running {called}: its logits are not all finite though the weights are")
        return logits.to(torch.float64)

    def _refusal(self) -> GrokscopeError:
        why = self.no_function.reason if self.no_function else AS_CODE
        return GrokscopeError(f"running a weights-only model: {why}, expected a model with a known function")

    def forward_grid(self, params: Params) -> Tensor | Absent:
        if self.no_function is not None:
            return self.no_function
        p = self.n_tokens
        if p is None:
            return super().forward_grid(params)
        pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        return self.forward(params, pairs).unflatten(0, (p, p))

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        raise self._unseen("combined input")

    def embedded(self, params: Params, inputs: Tensor) -> Absent:
        return self.no_anatomy or Absent("it is not known what lies between inputs and logits")

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        raise self._unseen("combined input")

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        raise self._unseen("head")

    def _unseen(self, part: str) -> GrokscopeError:
        return GrokscopeError(f"reading the {part} of a weights-only model: {self._inside().reason}")

    def _inside(self) -> Absent:
        assert self.no_anatomy is not None
        return self.no_anatomy

    def gated(self, params: Params) -> GatedForm | Absent:
        return self._inside()

    def slots(self, params: Params) -> Absent:
        return self._inside()

    def unembedding(self, params: Params) -> Absent:
        return Absent("no tensor is declared to be the unembedding")

    def neuron_logit(self, params: Params) -> Absent:
        return self._inside()

    def neuron_inputs(self, params: Params) -> Absent:
        return self._inside()

    def neuron_grid(self, params: Params) -> Absent:
        return self._inside()

    def embeddings(self, params: Params) -> dict[str, Tensor]:
        """``embedding`` (…, p, d), where one is declared and the number of its residues is known."""
        name = self.settings.embedding
        if not name or not self.n_residues:
            return {}
        table = params[name] if self.settings.embedding_rows == "rows" else params[name].mT
        return {"embedding": table[..., : self.n_residues, :]}

    def maps(self, params: Params) -> dict[str, MapView]:
        """The declared embedding, and every matrix as it was stored, under ``tensor.<name>``.

        A tensor of more than two axes is read as a matrix of its last axis by all others, joined.
        """
        found = {name: MapView((table,)) for name, table in self.embeddings(params).items()}
        for part in self.parts:
            if part.kind != "matrix":
                continue
            value, axes = params[part.name], len(part.shape)
            note = "as it was stored, in its authors' orientation"
            if axes > 2:
                value = value.flatten(value.dim() - axes, value.dim() - 2)
                rows, columns = math.prod(part.shape[:-1]), part.shape[-1]
                note = f"{part.shape} read as {rows} × {columns}, all axes but the last joined"
            found[self.public[part.name]] = MapView((value,), note)
        return found


def public_names(names: list[str]) -> dict[str, str]:
    """Name → ``tensor.`` and the name in letters, digits and ``_ . -``, distinct and of bounded length.

    Such a name can stand in a dotted name, a column, an HDF5 path and a file.
    """
    given: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        words = [re.sub(r"[^A-Za-z0-9_-]+", "-", word) for word in name.split(".")]
        base = PREFIX + (".".join(word for word in words if word)[:_LONGEST_NAME].rstrip(".") or "unnamed")
        public, count = base, 1
        while public in taken:
            count += 1
            public = f"{base}-{count}"
        taken.add(public)
        given[name] = public
    return given


def _kind(settings: WeightsOnlySettings, name: str) -> Literal["matrix", "bias", "gain"]:
    return settings.kinds.get(name) or ("matrix" if len(settings.tensors[name]) > 1 else "bias")


def _blocks(settings: WeightsOnlySettings, public: Mapping[str, str]) -> dict[str, str]:
    """Name → block: declared, ``embedding``, or the public name of the module that the tensor is in."""
    blocks: dict[str, str] = {}
    for name in settings.tensors:
        module, _, last = public[name].rpartition(".")
        whole = public[name] if f"{module}." == PREFIX else module
        found = "embedding" if name == settings.embedding else whole or last
        blocks[name] = settings.blocks.get(name, found)
    return blocks


def _check(settings: WeightsOnlySettings) -> None:
    where, tensors = "building a weights-only model", settings.tensors
    if not tensors:
        raise GrokscopeError(f"{where}: model.tensors is empty, expected the shape of at least one tensor")
    declared = [("kinds", settings.kinds), ("blocks", settings.blocks), ("names", settings.names)]
    for fieldname, table in declared:
        for name in table:
            _known(name, tensors, f"model.{fieldname}")
    if settings.embedding:
        _known(settings.embedding, tensors, "model.embedding")
    for name, block in settings.blocks.items():
        # blocks stand in dotted names of quantities, some of which are taken
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", block) or block in _TAKEN:
            raise GrokscopeError(
                f"{where}: the block of {name!r} is {block!r}, expected words of letters, digits, _ and - "
                f"with dots between them, and none of {', '.join(_TAKEN)}"
            )
    for name, shape in tensors.items():
        if _kind(settings, name) == "matrix" and len(shape) < 2:
            raise GrokscopeError(
                f"{where}: {name!r} is declared a matrix and has shape {tuple(shape)}, expected two axes or more"
            )
    if settings.n_residues < 0:
        raise GrokscopeError(f"{where}: model.n_residues is {settings.n_residues}, expected 0 or more")


_TAKEN = (
    "total", "at_grok", "with_decay", "bound_slack", "cancellation", "update_ratio", "head_over_embedding",
    "head_over_embedding_per_parameter", "head_over_embedding_relative", "head_above_bound",
)  # fmt: skip


def _known(name: str, tensors: Mapping[str, object], fieldname: str) -> None:
    if name not in tensors:
        raise GrokscopeError(
            f"building a weights-only model: {fieldname} names {name!r}, expected one of its {len(tensors)} "
            f"tensors{nearest(name, tensors)}"
        )


def _check_embedding(settings: WeightsOnlySettings, n_residues: int) -> None:
    shape = settings.tensors[settings.embedding]
    along = shape[0 if settings.embedding_rows == "rows" else -1]
    if len(shape) != 2 or along < n_residues:
        raise GrokscopeError(
            f"building a weights-only model: model.embedding {settings.embedding!r} has shape {tuple(shape)}, "
            f"expected two axes and at least {n_residues} {settings.embedding_rows}"
        )
