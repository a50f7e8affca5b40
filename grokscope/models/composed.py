"""Transformers composed of known parts: norms, positions, masks, grouped queries, gated MLPs, tied heads.

The family of everything a card can declare. Nothing is folded and every sum is the textbook's; what keeps it
fast is that a vector is computed once for everything it depends on (``composed_layers``), that only positions
which reach the read ones are computed, and that pairs come in blocks.

Shape legend: N pairs, r read positions (1, or all for a mean), d model width, m neurons, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.regions import GatedForm
from grokscope.models import composed_layers as layers
from grokscope.models import composed_maps
from grokscope.models.anatomy import MapView, Model, Params, checked_scale, draw, scaled, why_no_gates
from grokscope.models.composed_layers import Rows
from grokscope.models.composed_parts import ComposedSettings, has_norm, list_parts, resolve

__all__ = ["Composed", "ComposedSettings"]

_BLOCK_ELEMENTS = 2**21
NO_MLP = "the network is attention alone: it has no MLP and so no neurons"


class Composed(Model):
    """The transformer of ``settings`` for pairs of ``n_tokens`` residues.

    Raises:
        GrokscopeError: sizes, a prompt or a place to read that do not fit.
    """

    family: ClassVar[str] = "composed"
    combine = "attention"

    def __init__(self, settings: ComposedSettings, n_tokens: int, n_classes: int) -> None:
        self.settings = settings
        self.output_scale = checked_scale("a transformer", settings.output_scale)
        self.layout = resolve(settings, n_tokens, n_classes)
        self.parts = list_parts(settings, self.layout)
        self.n_tokens, self.n_classes, self.n_layers = n_tokens, n_classes, settings.n_layers + 1
        self.separate_embeddings = settings.b_offset != 0
        self.tied = settings.tied
        if settings.d_mlp and len(self.layout.read) == 1:
            self.gated_block = "mlp" if settings.n_layers == 1 else f"mlp.{settings.n_layers - 1}"

    @property
    def last(self) -> int:
        """Number of the last layer, from 0."""
        return self.settings.n_layers - 1

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        params: Params = {}
        for part in self.parts:
            if part.kind == "matrix":
                fan = self.n_classes + 1 if part.block == "head" else self.settings.d_model
                params[part.name] = draw(generator, part.shape, self.settings.init_scale * fan**-0.5, dtype)
            else:
                fill = torch.ones if part.kind == "gain" else torch.zeros
                params[part.name] = fill(part.shape, dtype=dtype)
        return params

    def needed(self) -> list[tuple[int, ...]]:
        """The positions at which each layer's output is needed, in the order of layers."""
        length, wanted = len(self.layout.slots), [self.layout.read]
        while len(wanted) < self.settings.n_layers:
            seen = {j for i in wanted[0] for j in layers.visible(self.settings, i, length)}
            wanted.insert(0, tuple(sorted(seen)))
        return wanted

    def _blocks(self, inputs: Tensor) -> Iterator[Tensor]:
        s = self.settings
        a_pair = max(s.d_mlp * (1 + s.gated_mlp), 4 * s.d_model * len(self.layout.slots))
        yield from inputs.split(max(1, _BLOCK_ELEMENTS // a_pair))

    def _stream(self, params: Params, a: Tensor, b: Tensor) -> Tensor:
        """(N, r, d): the residual stream after the last layer's attention at the read positions."""
        s, layout = self.settings, self.layout
        stream: list[Rows | None] = list(layers.embed(s, layout, params))
        attended: list[Rows] = []
        for layer, wanted in enumerate(self.needed()):
            attended = layers.attend(s, layout, params, layer, stream, wanted, a, b)
            if layer < self.last:
                stream = [None] * len(stream)
                for i, rows in zip(wanted, attended, strict=True):
                    stream[i] = Rows(layers.finish_layer(s, params, layer, rows.values), rows.of)
        lifted = [layers.lift(rows, "ab", a, b).expand(len(a), -1) for rows in attended]
        return lifted[0][:, None] if len(lifted) == 1 else torch.stack(lifted, dim=1)

    def _over_blocks(self, params: Params, inputs: Tensor, then: Callable[[Tensor], Tensor]) -> Tensor:
        """``then`` of the (N, r, d) stream after the last attention, block by block."""
        found = [then(self._stream(params, *block.unbind(1))) for block in self._blocks(inputs)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _final(self, params: Params, z: Tensor) -> Tensor:
        """(N, d): what the head reads, from the (N, r, d) stream after the last attention."""
        x = layers.finish_layer(self.settings, params, self.last, z)
        x = layers.norm(self.settings, params, "ln_final", x)
        return x[:, 0] if x.shape[1] == 1 else x.mean(dim=1)

    def _unembed(self, params: Params) -> Tensor:
        """(…, d, C): the head's columns of the classes."""
        first, stop = self.settings.out_offset, self.settings.out_offset + self.n_classes
        if self.tied:
            return params["embed.W_E"][..., first:stop, :].mT
        return params["unembed.W_U"][..., first:stop]

    def _read(self, params: Params) -> tuple[Tensor, Tensor | None]:
        """What takes the head's input to the logits: (…, d, C) and (C,), the constant on the logits in both."""
        head, bias, first = self._unembed(params), None, self.settings.out_offset
        if self.settings.head_bias:
            bias = scaled(self.output_scale, params["unembed.b_U"][..., first : first + self.n_classes])
        return scaled(self.output_scale, head), bias

    def _logits(self, params: Params, z: Tensor) -> Tensor:
        head, bias = self._read(params)
        logits = self._final(params, z) @ head
        return logits if bias is None else logits + bias

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return self._over_blocks(params, inputs, lambda z: self._logits(params, z))

    def _pairs(self, params: Params) -> Tensor:
        """(p², 2): every pair of operands."""
        residues = torch.arange(self.layout.n_tokens, device=params["embed.W_E"].device)
        return torch.cartesian_prod(residues, residues)

    def _grid(self, params: Params, then: Callable[[Tensor], Tensor]) -> Tensor:
        p = self.layout.n_tokens
        return self._over_blocks(params, self._pairs(params), then).unflatten(0, (p, p))

    def forward_grid(self, params: Params) -> Tensor:
        return self._grid(params, lambda z: self._logits(params, z))

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, r·d): the stream after the last layer's attention, before any norm, read positions in a row."""
        return self._over_blocks(params, inputs, lambda z: z.flatten(1))

    def _unflattened(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (len(self.layout.read), self.settings.d_model))

    def embedded(self, params: Params, inputs: Tensor) -> Absent:
        return Absent("the positions of a composed transformer are not laid out as one input")

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        return self._logits(params, self._unflattened(z))

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        return self._over_blocks(params, inputs, lambda z: self._final(params, z))

    def _neurons_are_affine(self) -> bool:
        """Whether no norm stands between the stream after the last attention and the last layer's neurons."""
        nearest = "ln1" if self.settings.norm_place == "post" else "ln2"
        return not has_norm(self.settings, f"blocks.{self.last}.{nearest}")

    def gated(self, params: Params) -> GatedForm | Absent:
        s, count = self.settings, len(self.layout.read)
        if not s.d_mlp:
            return Absent(NO_MLP)
        later = (f"blocks.{self.last}.ln2", "ln_final")
        if not self._neurons_are_affine() or any(has_norm(s, name) for name in later):
            name = "LayerNorm" if s.norm == "layer" else "RMSNorm"
            return Absent(
                f"{name} stands between the residual stream and the logits, which are not affine in it"
            )
        if s.gated_mlp:
            return Absent("no region: the MLP multiplies two linear maps of its input")
        if absent := why_no_gates(s.activation):
            return absent
        prefix, (w_u, bias) = f"blocks.{self.last}.mlp.", self._read(params)
        w_in, b_in, w_out = (params.get(f"{prefix}{name}") for name in ("W_in", "b_in", "W_out"))
        assert w_in is not None
        assert w_out is not None
        if s.mlp_bias:
            written = params[f"{prefix}b_out"] @ w_u
            bias = written if bias is None else bias + written
        # a mean over positions is one layer whose neurons are those of every position
        return GatedForm(
            weights=(torch.block_diag(*[w_in] * count),),
            biases=(None if b_in is None else b_in.repeat(count),),
            head=(w_out @ w_u / count).repeat(count, 1),
            head_bias=bias,
            direct=(w_u / count).repeat(count, 1),
            activation=s.activation,
        )

    def _neurons(self, params: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations and activations (N, m) of the last layer, means over the read positions."""
        x = layers.after_attention(self.settings, params, self.last, z)
        pre, active = layers.neurons(self.settings, params, self.last, x)
        return pre.mean(dim=1), active.mean(dim=1)

    def neuron_grid(self, params: Params) -> Tensor | Absent:
        """(p, p, m): activations of the last layer, of which the logits see the mean over read positions."""
        if not self.settings.d_mlp:
            return Absent(NO_MLP)
        return self._grid(params, lambda z: self._neurons(params, z)[1])

    def neuron_inputs(self, params: Params) -> tuple[Tensor, Tensor] | Absent:
        """Two (p, m): means over the other operand of each pre-activation, that of the gate in a gated MLP."""
        if not self.settings.d_mlp:
            return Absent(NO_MLP)
        if self._neurons_are_affine():
            # the pre-activation is affine in the stream, so the mean may be taken in the narrower space
            stream = self._grid(params, lambda z: z)
            by_a, by_b = (self._neurons(params, stream.mean(dim=axis))[0] for axis in (1, 0))
            return by_a, by_b
        grid = self._grid(params, lambda z: self._neurons(params, z)[0])
        return grid.mean(dim=1), grid.mean(dim=0)

    def embeddings(self, params: Params) -> dict[str, Tensor]:
        table = params["embed.W_E"]
        rows = [
            table[..., first : first + self.layout.n_tokens, :] for first in map(self.layout.row_of, "ab")
        ]
        if not self.separate_embeddings:
            return {"embedding": rows[0]}
        return {"embedding_a": rows[0], "embedding_b": rows[1]}

    def unembedding(self, params: Params) -> Tensor:
        return self._unembed(params).mT

    def neuron_logit(self, params: Params) -> Tensor | Absent:
        if not self.settings.d_mlp:
            return Absent(NO_MLP)
        return (params[f"blocks.{self.last}.mlp.W_out"] @ self._read(params)[0]).mT

    def maps(self, params: Params) -> dict[str, MapView]:
        """End-to-end maps; see ``composed_maps.build_maps``."""
        return composed_maps.build_maps(
            self.settings, self.layout, params, self.embeddings(params), self._unembed(params)
        )
