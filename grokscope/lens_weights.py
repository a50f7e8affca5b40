"""A transformer of ours in the terms of TransformerLens 4: its settings, its tensors, its prompt.

Nothing of TransformerLens is imported here. Its native model is a pre-norm transformer with a norm in every place or
in none, softmax attention scaled by 1/√d_head, a bias on every linear layer but those of a gated MLP, and a
table of positions or a rotation. What ours has beyond that is folded into tensors where that is exact, and
refused where it is not.

Shape legend: d model width, k head width, H heads, G key-value heads, m neurons, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from einops import rearrange
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.models import Composed, ComposedSettings, Model, Params, Transformer, TransformerSettings
from grokscope.models.anatomy import scaled
from grokscope.models.composed_layers import sinusoids, visible

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
"""Our name of an activation → that of TransformerLens."""


@dataclass(frozen=True)
class Translation:
    """A checkpoint in the terms of TransformerLens 4.

    Attributes:
        config: what ``TransformerBridge.boot_native`` takes, plain values.
        weights: the bridge's state dict, in the type of the given parameters.
        prompt: for each position the operand whose residue stands there ("a", "b", or "" for a constant) and
            the token of residue 0, or of the constant.
        read: the positions whose logits count; several: their mean.
        classes: first and one past the last logit of the classes.
        notes: what is written otherwise than in the network, a sentence each.
    """

    config: dict[str, Any]
    weights: Params
    prompt: tuple[tuple[str, int], ...]
    read: tuple[int, ...]
    classes: tuple[int, int]
    notes: tuple[str, ...]

    def tokens(self, inputs: Tensor) -> Tensor:
        """(N, length) int64: the prompts of the pairs ``inputs`` (N, 2)."""
        columns = {"a": inputs[:, 0], "b": inputs[:, 1], "": torch.zeros_like(inputs[:, 0])}
        return torch.stack([columns[of] + first for of, first in self.prompt], dim=1)

    def logits(self, output: Tensor) -> Tensor:
        """(N, C): the classes' logits from the bridge's output (N, length, d_vocab_out)."""
        return output[:, list(self.read), slice(*self.classes)].mean(dim=1)


def translate(model: Model, params: Params) -> Translation:
    """``model`` with ``params`` in the terms of TransformerLens 4.

    Raises:
        GrokscopeError: a part that TransformerLens's native model cannot express.
    """
    composed = as_composed(model)
    s, layout = composed.settings, composed.layout
    _refuse(composed, params)
    notes: list[str] = []
    shared = _Attention(composed, notes)
    d, k = s.d_model, layout.d_head
    config = {
        "d_model": d,
        "n_layers": s.n_layers,
        "n_heads": s.n_heads * shared.copies,
        "n_key_value_heads": layout.n_kv_heads * shared.copies if layout.n_kv_heads < s.n_heads else None,
        "d_head": k,
        "d_mlp": s.d_mlp or None,
        "attn_only": s.d_mlp == 0,
        "gated_mlp": s.gated_mlp and s.d_mlp > 0,
        "act_fn": ACTIVATIONS.get(s.activation, "relu"),
        "normalization_type": _norm_type(s),
        "eps": s.norm_epsilon,
        "attention_dir": s.attention,
        "positional_embedding_type": "rotary" if s.positions == "rotary" else "standard",
        "rotary_base": int(s.rotary_base),
        "n_ctx": len(layout.slots) if s.positions == "rotary" else layout.n_positions,
        "d_vocab": layout.d_vocab + any(slot.row is None for slot in layout.slots),
        "d_vocab_out": layout.d_vocab_out,
        "tokenizer_prepends_bos": False,
    }
    weights = _tables(composed, params, notes)
    for layer in range(s.n_layers):
        weights |= shared.weights(params, layer)
        if s.d_mlp:
            weights |= _mlp(s, params, f"blocks.{layer}.mlp.")
    for name in [f"blocks.{layer}.{x}" for layer in range(s.n_layers) for x in ("ln1", "ln2")] + ["ln_final"]:
        weights |= _norm(s, params, name)
    weights |= _head(composed, params, notes)
    return Translation(
        config=config,
        weights={name: value.contiguous() for name, value in weights.items()},
        prompt=tuple((slot.of, layout.d_vocab if slot.row is None else slot.row) for slot in layout.slots),
        read=layout.read,
        classes=(s.out_offset, s.out_offset + composed.n_classes),
        notes=(*notes, *_missing_biases(s)),
    )


def as_composed(model: Model) -> Composed:
    """``model`` as a composed transformer with tensors of the same names and shapes.

    Raises:
        GrokscopeError: a model that is no transformer.
    """
    if isinstance(model, Composed):
        return model
    if not isinstance(model, Transformer):
        _refusal(f"a function of the family {model.family!r}", "a transformer")
    t: TransformerSettings = model.settings
    settings = ComposedSettings(
        d_model=t.d_model,
        n_heads=t.n_heads,
        d_head=t.d_head,
        d_mlp=t.d_mlp,
        activation=t.activation,
        norm="layer" if t.layer_norm else "none",
        attention="causal" if t.causal else "bidirectional",
        query_key_value_bias=t.biases,
        attention_bias=t.biases,
        mlp_bias=t.biases,
        head_bias=t.biases,
        norm_gain=t.norm_gain,
        norm_bias=t.norm_bias,
        d_vocab_out=t.d_vocab_out,
        output_scale=t.output_scale,
    )
    assert model.n_tokens is not None
    return Composed(settings, model.n_tokens, model.n_classes)


def _refusal(given: str, expected: str) -> NoReturn:
    raise GrokscopeError(f"handing a checkpoint to TransformerLens: it has {given}, expected {expected}")


def _refuse(model: Composed, params: Params) -> None:
    s = model.settings
    if s.d_mlp and s.activation not in ACTIVATIONS:
        _refusal(f"the activation {s.activation!r}", f"one of {', '.join(ACTIVATIONS)}")
    if s.norm != "none":
        if s.norm_place != "pre":
            what = "after its layers (post-norm)" if s.norm_place == "post" else "that replace the stream"
            _refusal(f"norms {what}", "norms before them (pre-norm), or none")
        places = {
            "before attention": s.attention_norm,
            "before the MLP": s.mlp_norm or not s.d_mlp,
            "before the head": s.final_norm,
        }
        lacking = [place for place, there in places.items() if not there]
        if lacking:
            _refusal(
                f"norms but none {' and none '.join(lacking)}",
                "a norm in every place of a pre-norm net, or none",
            )
        if s.embed_norm:
            _refusal("a norm of the embedding", "norms before attention, MLP and head only")
    if s.gated_mlp and s.mlp_bias and s.d_mlp:
        used = [name for name, value in params.items() if ".mlp.b_" in name and bool(value.any())]
        if used:
            _refusal(f"a gated MLP with biases ({used[0]})", "a gated MLP without, or an MLP without a gate")
    if s.positions == "rotary" and s.rotary_base != int(s.rotary_base):
        _refusal(f"the rotary base {s.rotary_base}", "a whole number")


def _norm_type(s: ComposedSettings) -> str | None:
    bare = not s.norm_gain
    if s.norm == "rms":
        return "RMSPre" if bare else "RMS"
    if s.norm == "layer":
        return "LNPre" if bare and not s.norm_bias else "LN"
    return None


def _norm(s: ComposedSettings, params: Params, name: str) -> Params:
    kind, like = _norm_type(s), params["embed.W_E"][0]
    if kind not in ("LN", "RMS") or (name.endswith("ln2") and not s.d_mlp):
        return {}
    found = {f"{name}.weight": params.get(f"{name}.w", torch.ones_like(like))}
    if kind == "LN":
        found[f"{name}.bias"] = params.get(f"{name}.b", torch.zeros_like(like))
    return found


def _tables(model: Composed, params: Params, notes: list[str]) -> Params:
    s, layout = model.settings, model.layout
    table = params["embed.W_E"]
    if s.embedding_scale != 1.0:
        notes.append(f"the embedding scale {s.embedding_scale:g} is multiplied into the token embedding")
        table = table * s.embedding_scale
    if any(slot.row is None for slot in layout.slots):
        notes.append(f"token {layout.d_vocab} is a row of zeros: the prompt has a zero vector in its place")
        table = torch.cat([table, torch.zeros_like(table[:1])])
    found = {"embed.weight": table}
    if s.positions == "rotary":
        return found
    if s.positions == "learned":
        positions = params["pos_embed.W_pos"]
    elif s.positions == "sinusoidal":
        notes.append("the sinusoidal positions are written out as a table")
        positions = sinusoids(layout.n_positions, s.d_model).to(table)
    else:
        notes.append("the network has no positions: their table is zero")
        positions = table.new_zeros(layout.n_positions, s.d_model)
    return found | {"pos_embed.weight": positions}


def _head(model: Composed, params: Params, notes: list[str]) -> Params:
    if model.tied:
        notes.append("the head is tied to the embedding: it is written out as a tensor of its own")
        weight = params["embed.W_E"]
    else:
        weight = params["unembed.W_U"].T
    bias = params.get("unembed.b_U", torch.zeros_like(weight[:, 0]))
    if model.output_scale != 1.0:
        notes.append(f"the constant {model.output_scale:g} on the logits is in the head")
    return {
        "unembed.weight": scaled(model.output_scale, weight),
        "unembed.bias": scaled(model.output_scale, bias),
    }


def _mlp(s: ComposedSettings, params: Params, prefix: str) -> Params:
    kinds = ("in", "gate", "out") if s.gated_mlp else ("in", "out")
    found = {f"{prefix}{x}.weight": params[f"{prefix}W_{x}"].T for x in kinds}
    if not s.gated_mlp:
        for x in kinds:
            weight = found[f"{prefix}{x}.weight"]
            found[f"{prefix}{x}.bias"] = params.get(f"{prefix}b_{x}", torch.zeros_like(weight[:, 0]))
    return found


def _missing_biases(s: ComposedSettings) -> list[str]:
    there = {
        "queries, keys and values": s.query_key_value_bias,
        "the attention's output": s.attention_bias,
        "the MLP": s.mlp_bias or s.gated_mlp or not s.d_mlp,
        "the head": s.head_bias,
    }
    missing = [name for name, has in there.items() if not has]
    return [f"the network has no biases of {', '.join(missing)}: they are zero"] if missing else []


class _Attention:
    """Attention as softmax attention: what is folded, and how many copies of the heads that takes.

    c·softmax(scores) + (1 − c) on n visible positions is softmax attention with twice the heads: those of the
    network, writing c times as much, and copies with queries of zero, so that their pattern is 1/n, writing
    (1 − c)·n times as much.
    """

    def __init__(self, model: Composed, notes: list[str]) -> None:
        s, layout = model.settings, model.layout
        self.model = model
        scale = {"head": 1.0, "width": (layout.d_head / s.d_model) ** 0.5, "none": layout.d_head**0.5}
        self.scale = scale[s.score_scale]
        if s.score_scale != "head":
            given = "1/√d_model" if s.score_scale == "width" else "1"
            notes.append(
                f"the scale {given} of the scores, in place of 1/√d_head, is multiplied into the queries"
            )
        if s.positions == "rotary" and s.rotary_pairs == "halves":
            notes.append("the columns of queries and keys are reordered, so that a rotation turns neighbours")
        c = s.attention_share
        # (queries are kept, what the output is multiplied by)
        self.kinds: list[tuple[bool, float]] = [(True, 1.0)]
        if c != 1.0:
            uniform = (False, (1.0 - c) * self._visible())
            self.kinds = [(True, c), uniform] if c != 0.0 else [uniform]
            copies = f"heads {s.n_heads} to {2 * s.n_heads - 1}" if c != 0.0 else "all heads"
            notes.append(
                f"the attention {c:.4g}·softmax + {1 - c:.4g} is written as softmax attention: {copies} have queries "
                "of zero, so that they attend to all visible positions alike, and outputs multiplied to match"
            )
        self.copies = len(self.kinds)

    def _visible(self) -> int:
        """How many positions are visible from each position that counts."""
        s, length = self.model.settings, len(self.model.layout.slots)
        counts = {len(visible(s, i, length)) for wanted in self.model.needed() for i in wanted}
        if len(counts) > 1:
            _refusal(
                f"the attention share {s.attention_share:g} under a causal mask, where positions see unequally many",
                "a share of 1, attention in both directions, or one layer read at one position",
            )
        return counts.pop()

    def weights(self, params: Params, layer: int) -> Params:
        """The tensors of one layer: linear layers stored (out, in), heads flattened."""
        s, prefix = self.model.settings, f"blocks.{layer}.attn."
        found: Params = {}
        for x in "QKV":
            weight = params[f"{prefix}W_{x}"]
            bias = params.get(f"{prefix}b_{x}", torch.zeros_like(weight[:, 0]))
            if x != "V" and s.positions == "rotary" and s.rotary_pairs == "halves":
                weight, bias = (rearrange(v, "... (two i) -> ... (i two)", two=2) for v in (weight, bias))
            factors = [self.scale * kept if x == "Q" else 1.0 for kept, _ in self.kinds]
            weight = torch.cat([weight * factor for factor in factors])
            bias = torch.cat([bias * factor for factor in factors])
            found[f"{prefix}{x.lower()}.weight"] = rearrange(weight, "H d k -> (H k) d")
            found[f"{prefix}{x.lower()}.bias"] = bias.flatten()
        weight = torch.cat([params[f"{prefix}W_O"] * factor for _, factor in self.kinds])
        found[f"{prefix}o.weight"] = rearrange(weight, "H k d -> d (H k)")
        found[f"{prefix}o.bias"] = params.get(f"{prefix}b_O", torch.zeros_like(weight[0, 0]))
        return found
