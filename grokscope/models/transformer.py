"""The one-layer transformer on [a, b, =], read at the last position, in TransformerLens ≤3 names.

The structured forward rests on three facts. Keys and values depend on (token, position) alone, so they are
tables over residues; the query at the last position is one constant vector, so scores are tables too; and
without LayerNorm W_O folds into W_in and W_U, and W_out into W_U. With one layer and the query at the last
position the causal mask hides nothing, so ``causal`` changes no logit: it is recorded, and tested.

Shape legend: P pairs (N, or a p×p grid), H heads, k head width, d model width, m neurons, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import embedding as rows_of
from torch.nn.functional import layer_norm

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.regions import GatedForm
from grokscope.models.anatomy import (
    Activation,
    Linearised,
    MapView,
    Model,
    Params,
    Part,
    activate,
    checked_scale,
    draw,
    scaled,
    why_no_gates,
)
from grokscope.models.transformer_blocks import logit_blocks
from grokscope.models.transformer_linearised import linearised

ATTENTION = "blocks.0.attn."
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class TransformerSettings:
    """``[model]`` of a recipe: one layer, tokens a, b and "=".

    ``d_head`` 0 means d_model / n_heads. ``d_vocab_out`` 0 means one logit a class; a larger head is cut
    to the classes. ``norm_gain`` and ``norm_bias`` say whether the norms of ``layer_norm`` have parameters.
    ``output_scale`` is a constant on the logits. Weights start as N(0, init_scale²/d_model), the unembedding as
    N(0, init_scale²/(classes + 1)), biases at zero, gains at one (arXiv 2301.05217, appendix A).
    """

    family: Literal["transformer"] = "transformer"
    d_model: int = 128
    n_heads: int = 4
    d_head: int = 0
    d_mlp: int = 512
    activation: Activation = "relu"
    layer_norm: bool = False
    norm_gain: bool = True
    norm_bias: bool = True
    biases: bool = False
    causal: bool = True
    d_vocab_out: int = 0
    output_scale: float = 1.0
    init_scale: float = 1.0


class _Tables(NamedTuple):
    """What each operand token brings to the last position: scores and values, and "="'s own."""

    score_a: Tensor  # (p, H)
    score_b: Tensor  # (p, H)
    score_eq: Tensor  # (H,)
    value_a: Tensor  # (p, H, k)
    value_b: Tensor  # (p, H, k)
    value_eq: Tensor  # (H, k)
    residual: Tensor  # (d,), the last position before attention


class Transformer(Model):
    """The one-layer transformer of ``settings`` for pairs of ``n_tokens`` residues."""

    family: ClassVar[str] = "transformer"
    combine = "attention"
    gated_block = "mlp"

    def __init__(self, settings: TransformerSettings, n_tokens: int, n_classes: int) -> None:
        heads, d = settings.n_heads, settings.d_model
        if min(heads, d, settings.d_mlp) < 1 or settings.d_head < 0 or (not settings.d_head and d % heads):
            raise GrokscopeError(
                f"building a transformer: model.d_model = {d}, model.n_heads = {heads}, model.d_head = "
                f"{settings.d_head}, model.d_mlp = {settings.d_mlp}, expected positive sizes and heads that "
                "divide d_model where d_head is 0"
            )
        out = settings.d_vocab_out or n_classes
        if out < n_classes:
            raise GrokscopeError(
                f"building a transformer: model.d_vocab_out = {out}, expected 0 or at least the {n_classes} classes"
            )
        self.settings = settings
        self.output_scale = checked_scale("a transformer", settings.output_scale)
        self.stacks = not (settings.layer_norm or settings.biases)
        self.n_tokens, self.n_classes, self.n_layers = n_tokens, n_classes, 2
        k, m = settings.d_head or d // heads, settings.d_mlp
        self.d_head = k
        matrix: list[tuple[str, tuple[int, ...], str]] = [
            ("embed.W_E", (n_tokens + 1, d), "embedding"),
            ("pos_embed.W_pos", (3, d), "position"),
            *[(f"{ATTENTION}W_{x}", (heads, d, k), "attention") for x in "QKV"],
            (f"{ATTENTION}W_O", (heads, k, d), "attention"),
            ("blocks.0.mlp.W_in", (d, m), "mlp"),
            ("blocks.0.mlp.W_out", (m, d), "mlp"),
            ("unembed.W_U", (d, out), "head"),
        ]
        bias: list[tuple[str, tuple[int, ...], str]] = [
            *[(f"{ATTENTION}b_{x}", (heads, k), "attention") for x in "QKV"],
            (f"{ATTENTION}b_O", (d,), "attention"),
            ("blocks.0.mlp.b_in", (m,), "mlp"),
            ("blocks.0.mlp.b_out", (d,), "mlp"),
            ("unembed.b_U", (out,), "head"),
        ]
        norms = ["blocks.0.ln1", "blocks.0.ln2", "ln_final"]
        parts = [Part(name, shape, "matrix", block) for name, shape, block in matrix]
        if settings.biases:
            parts += [Part(name, shape, "bias", block) for name, shape, block in bias]
        if settings.layer_norm and settings.norm_gain:
            parts += [Part(f"{name}.w", (d,), "gain", "norm") for name in norms]
        if settings.layer_norm and settings.norm_bias:
            parts += [Part(f"{name}.b", (d,), "bias", "norm") for name in norms]
        self.parts = tuple(parts)

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

    def _norm(self, params: Params, name: str, x: Tensor) -> Tensor:
        if not self.settings.layer_norm:
            return x
        gain, bias = params.get(f"{name}.w"), params.get(f"{name}.b")
        return layer_norm(x, (x.shape[-1],), gain, bias, NORM_EPSILON)

    def _project(self, params: Params, x: Tensor, which: str) -> Tensor:
        """Queries, keys or values (…, H, k) of residual vectors (…, d)."""
        weight = rearrange(params[f"{ATTENTION}W_{which}"], "H d k -> d (H k)")
        y = (x @ weight).unflatten(-1, (self.settings.n_heads, self.d_head))
        return y + params[f"{ATTENTION}b_{which}"] if self.settings.biases else y

    def _tables(self, params: Params) -> _Tables:
        p = self.n_tokens
        assert p is not None
        table, position = params["embed.W_E"], params["pos_embed.W_pos"]
        residual = table[p] + position[2]
        x = torch.cat([table[:p] + position[0], table[:p] + position[1], residual[None]])
        x = self._norm(params, "blocks.0.ln1", x)
        query = self._project(params, x[-1], "Q")
        scores = (self._project(params, x, "K") * query).sum(-1) * self.d_head**-0.5
        values = self._project(params, x, "V")
        return _Tables(
            scores[:p], scores[p : 2 * p], scores[-1], values[:p], values[p : 2 * p], values[-1], residual
        )

    def _mix(self, params: Params, a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attention-weighted values (P, H·k) of pairs, and the residual (d,); ``b`` None means the grid."""
        t = self._tables(params)
        if b is None:
            score_a, score_b = t.score_a[:, None], t.score_b[None, :]
            value_a, value_b = t.value_a[:, None], t.value_b[None, :]
        else:
            heads = (self.settings.n_heads, self.d_head)
            score_a, score_b = rows_of(a, t.score_a), rows_of(b, t.score_b)
            value_a = rows_of(a, t.value_a.flatten(1)).unflatten(-1, heads)
            value_b = rows_of(b, t.value_b.flatten(1)).unflatten(-1, heads)
        score_a, score_b = torch.broadcast_tensors(score_a, score_b)
        scores = torch.stack([score_a, score_b, t.score_eq.expand_as(score_a)], dim=-1)
        weight = torch.softmax(scores, dim=-1)[..., None]
        mixed = weight[..., 0, :] * value_a + weight[..., 1, :] * value_b + weight[..., 2, :] * t.value_eq
        return mixed.flatten(-2), t.residual

    def _output_matrix(self, params: Params) -> Tensor:
        return params[f"{ATTENTION}W_O"].flatten(0, 1)

    def _attended(self, params: Params, mixed: Tensor, residual: Tensor) -> Tensor:
        """(P, d): the residual stream at the last position after attention."""
        y = mixed @ self._output_matrix(params) + residual
        return y + params[f"{ATTENTION}b_O"] if self.settings.biases else y

    def _unembed(self, params: Params) -> Tensor:
        return params["unembed.W_U"][..., : self.n_classes]

    def _read(self, params: Params) -> tuple[Tensor, Tensor | None]:
        """What takes the head's input to the logits: (…, d, C) and (C,), the constant on the logits in both."""
        bias = params["unembed.b_U"][..., : self.n_classes] if self.settings.biases else None
        return scaled(self.output_scale, self._unembed(params)), (
            None if bias is None else scaled(self.output_scale, bias)
        )

    def _neurons(self, params: Params, z: Tensor) -> Tensor:
        pre = self._norm(params, "blocks.0.ln2", z) @ params["blocks.0.mlp.W_in"]
        return pre + params["blocks.0.mlp.b_in"] if self.settings.biases else pre

    def _final(self, params: Params, z: Tensor) -> Tensor:
        """What the head reads, from the post-attention residual."""
        hidden = activate(self.settings.activation, self._neurons(params, z))
        y = z + hidden @ params["blocks.0.mlp.W_out"]
        if self.settings.biases:
            y = y + params["blocks.0.mlp.b_out"]
        return self._norm(params, "ln_final", y)

    def from_z(self, params: Params, z: Tensor) -> Tensor:
        w_u, bias = self._read(params)
        logits = self._final(params, z) @ w_u
        return logits if bias is None else logits + bias

    def _logits(self, params: Params, mixed: Tensor, residual: Tensor) -> Tensor:
        if self.settings.layer_norm:
            return self.from_z(params, self._attended(params, mixed, residual))
        if self.settings.biases:
            residual = residual + params[f"{ATTENTION}b_O"]
        w_o, (w_u, bias) = self._output_matrix(params), self._read(params)
        w_in, w_out = params["blocks.0.mlp.W_in"], params["blocks.0.mlp.W_out"]
        offset_in, offset_out = residual @ w_in, residual @ w_u
        if bias is not None:
            offset_in = offset_in + params["blocks.0.mlp.b_in"]
            offset_out = offset_out + params["blocks.0.mlp.b_out"] @ w_u + bias
        hidden = activate(self.settings.activation, mixed @ (w_o @ w_in) + offset_in)
        return mixed @ (w_o @ w_u) + hidden @ (w_out @ w_u) + offset_out

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return self._logits(params, *self._mix(params, inputs[:, 0], inputs[:, 1]))

    def linearised(self, inputs: Tensor) -> Linearised:
        return linearised(self, inputs) if self.stacks else super().linearised(inputs)

    def logit_blocks(self, params: Params, inputs: Tensor, *, grid: bool) -> Iterator[tuple[slice, Tensor]]:
        return logit_blocks(self, params) if grid else super().logit_blocks(params, inputs, grid=False)

    def stream_write(self, params: Params) -> tuple[Tensor, Tensor | None] | None:
        if self.settings.layer_norm:
            return None
        return params["blocks.0.mlp.W_out"], params.get("blocks.0.mlp.b_out")

    def forward_grid(self, params: Params) -> Tensor:
        return self._logits(params, *self._mix(params, torch.empty(0), None))

    def combined(self, params: Params, inputs: Tensor) -> Tensor:
        return self._attended(params, *self._mix(params, inputs[:, 0], inputs[:, 1]))

    def embedded(self, params: Params, inputs: Tensor) -> Tensor:
        """(N, 3d): the residual stream before attention, a, b and "=" in a row."""
        table, position = params["embed.W_E"], params["pos_embed.W_pos"]
        last = torch.full((len(inputs), 1), self.n_tokens or 0, device=inputs.device)
        return (rows_of(torch.cat([inputs, last], dim=1), table) + position).flatten(1)

    def from_embedded(self, params: Params, x: Tensor) -> Tensor:
        stream = x.unflatten(-1, (3, self.settings.d_model))
        y = self._norm(params, "blocks.0.ln1", stream)
        query, key, value = (self._project(params, y, which) for which in "QKV")  # (N, 3, H, k)
        scores = (key * query[:, -1:]).sum(-1) * self.d_head**-0.5
        mixed = (torch.softmax(scores, dim=1)[..., None] * value).sum(1)
        return self.from_z(params, self._attended(params, mixed.flatten(1), stream[:, -1]))

    def head_input(self, params: Params, inputs: Tensor) -> Tensor:
        return self._final(params, self.combined(params, inputs))

    def _attended_grid(self, params: Params) -> Tensor:
        """(p, p, d): the post-attention residual of every operand pair."""
        return self._attended(params, *self._mix(params, torch.empty(0), None))

    def neuron_grid(self, params: Params) -> Tensor:
        return activate(self.settings.activation, self._neurons(params, self._attended_grid(params)))

    def neuron_inputs(self, params: Params) -> tuple[Tensor, Tensor]:
        grid = self._attended_grid(params)
        if self.settings.layer_norm:
            pre = self._neurons(params, grid)
            return pre.mean(dim=1), pre.mean(dim=0)
        # the pre-activation is affine in the residual, so the mean may be taken in the narrower space
        return self._neurons(params, grid.mean(dim=1)), self._neurons(params, grid.mean(dim=0))

    def gated(self, params: Params) -> GatedForm | Absent:
        if self.settings.layer_norm:
            return Absent(
                "LayerNorm stands between the residual stream and the logits, which are not affine in it"
            )
        if absent := why_no_gates(self.settings.activation):
            return absent
        w_out, (w_u, bias) = params["blocks.0.mlp.W_out"], self._read(params)
        if bias is not None:
            bias = bias + params["blocks.0.mlp.b_out"] @ w_u
        return GatedForm(
            weights=(params["blocks.0.mlp.W_in"],),
            biases=(params.get("blocks.0.mlp.b_in"),),
            head=w_out @ w_u,
            head_bias=bias,
            direct=w_u,
            activation=self.settings.activation,
        )

    def embeddings(self, params: Params) -> dict[str, Tensor]:
        return {"embedding": params["embed.W_E"][..., : self.n_tokens, :]}

    def unembedding(self, params: Params) -> Tensor:
        return self._unembed(params).mT

    def neuron_logit(self, params: Params) -> Tensor:
        return (params["blocks.0.mlp.W_out"] @ self._read(params)[0]).mT

    def maps(self, params: Params) -> dict[str, MapView]:
        embedding, unembed = self.embeddings(params)["embedding"], self._unembed(params)
        attend_in, note = embedding, ""
        attend_out = final = self._read(params)[0]
        query_in = (params["embed.W_E"][..., self.n_tokens, :] + params["pos_embed.W_pos"][..., 2, :])[
            ..., None, :
        ]
        if self.settings.layer_norm:
            note = "gain folded, not exact" if self.settings.norm_gain else "norm left out, not exact"
        if self.settings.layer_norm and self.settings.norm_gain:
            first, last = params["blocks.0.ln1.w"][..., None, :], params["ln_final.w"][..., :, None]
            attend_in, attend_out, final = embedding * first, last * final, last * final
            query_in = query_in * first
        found = {
            "embedding": MapView((embedding,)),
            "unembedding": MapView((unembed.mT,)),
            "neuron_logit": MapView((final.mT, params["blocks.0.mlp.W_out"].mT), note),
            "direct": MapView((embedding, final), note),
        }
        for head in range(self.settings.n_heads):
            w = {x: params[f"{ATTENTION}W_{x}"][..., head, :, :] for x in "QKVO"}
            keys = (w["K"].mT, attend_in.mT)
            found[f"ov.{head}"] = MapView((attend_in, w["V"], w["O"], attend_out), note)
            found[f"qk.{head}"] = MapView((attend_in, w["Q"], *keys), note)
            found[f"qk_query.{head}"] = MapView((query_in, w["Q"], *keys), note or "one row: its rank is 1")
        return found
