"""The names that published code gives to the weights of a one-layer transformer, and how they become ours.

A dialect is a table: their name, our name, the order of axes on their side. What follows from names and
shapes alone is known; what the weights do not say (the activation, say) is a guess that ``hypotheses`` tests.

Axis legend: v tokens (p residues and "="), d model width, H heads, k head width, m neurons, c logits,
n positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from grokscope.models import TransformerSettings

MAX_MODULUS = 1024

_ATTENTION = "blocks.0.attn."
_MLP = "blocks.0.mlp."

CANONICAL_AXES: dict[str, str] = {
    "embed.W_E": "v d",
    "pos_embed.W_pos": "n d",
    **{f"{_ATTENTION}W_{x}": "H d k" for x in "QKV"},
    f"{_ATTENTION}W_O": "H k d",
    f"{_MLP}W_in": "d m",
    f"{_MLP}W_out": "m d",
    "unembed.W_U": "d c",
}
"""Our weight matrices and their axes; a file must hold all of them."""

BIAS_AXES: dict[str, str] = {
    **{f"{_ATTENTION}b_{x}": "H k" for x in "QKV"},
    f"{_ATTENTION}b_O": "d",
    f"{_MLP}b_in": "m",
    f"{_MLP}b_out": "d",
    "unembed.b_U": "c",
}

NORM_AXES: dict[str, str] = {
    f"{place}.{part}": "d" for place in ("blocks.0.ln1", "blocks.0.ln2", "ln_final") for part in ("w", "b")
}


@dataclass(frozen=True)
class Dialect:
    """One way of writing the weights down.

    ``renames``: their name → (our name, axes on their side). ``buffers``: their name → what it is.
    ``copies``: their name → the name, also theirs, that it must equal. ``causal``: whether attention was
    masked, ``None`` where a mask in the file says so.
    """

    name: str
    title: str
    renames: Mapping[str, tuple[str, str]]
    buffers: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    causal: bool | None = None


def _own_names(*tables: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name: (name, axes) for table in tables for name, axes in table.items()}


TRANSFORMER_LENS = Dialect(
    name="transformer-lens ≤3",
    title="state dict of a one-layer TransformerLens ≤3 HookedTransformer",
    renames=_own_names(CANONICAL_AXES, BIAS_AXES, NORM_AXES),
    buffers={f"{_ATTENTION}mask": "the causal mask", f"{_ATTENTION}IGNORE": "the score of masked positions"},
    copies={"x_embed": "embed.W_E", "y_embed": "embed.W_E"},
)

BARE = Dialect(
    name="bare parameters",
    title="bare parameters of a one-layer transformer without biases, attention not masked",
    renames={
        "embed": ("embed.W_E", "v d"),
        "pos": ("pos_embed.W_pos", "n d"),
        **{f"W_{x}": (f"{_ATTENTION}W_{x}", "H d k") for x in "QKV"},
        "W_O": (f"{_ATTENTION}W_O", "H k d"),
        "W_in": (f"{_MLP}W_in", "d m"),
        "W_out": (f"{_MLP}W_out", "m d"),
        "unembed": ("unembed.W_U", "d c"),
    },
    causal=False,
)

DIALECTS: tuple[Dialect, ...] = (TRANSFORMER_LENS, BARE)


@dataclass(frozen=True)
class Recognised:
    """A set of tensors under a dialect.

    Attributes:
        settings: the function, its activation a guess until tested.
        p: the modulus: rows of the embedding less the one of "=".
        known, guessed: what the file says, what it does not, one sentence each.
        ignored: their name → why the tensor is not a weight.
    """

    dialect: Dialect
    settings: TransformerSettings
    p: int
    known: tuple[str, ...]
    guessed: tuple[str, ...]
    ignored: Mapping[str, str]

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our parameters, float32 or float64, from one step's tensors of the same names and shapes."""
        params: dict[str, Tensor] = {}
        for theirs, (ours, axes) in self.dialect.renames.items():
            if theirs in tensors:
                target = (CANONICAL_AXES | BIAS_AXES | NORM_AXES)[ours]
                params[ours] = _stored(rearrange(tensors[theirs], f"{axes} -> {target}"))
        if self.settings.biases:
            sizes = _sizes(params, CANONICAL_AXES)
            some = params["embed.W_E"]
            for ours, axes in BIAS_AXES.items():
                params.setdefault(ours, torch.zeros([sizes[axis] for axis in axes.split()], dtype=some.dtype))
        return params


@dataclass(frozen=True)
class Unrecognised:
    """Why a set of tensors is none of the dialects."""

    why: str


def recognise(tensors: Mapping[str, Tensor]) -> Recognised | Unrecognised:
    """The dialect of a set of tensors, or the reason why there is none.

    Every tensor must be accounted for: a name left over means another function than the one rebuilt.
    """
    closest = max(DIALECTS, key=lambda dialect: len(dialect.renames.keys() & tensors.keys()))
    required = [theirs for theirs, (ours, _) in closest.renames.items() if ours in CANONICAL_AXES]
    present = [name for name in required if name in tensors]
    if len(present) < len(required) / 2:
        known = " or ".join(f"{dialect.name} ({next(iter(dialect.renames))}, …)" for dialect in DIALECTS)
        return Unrecognised(f"{_listed(tensors)}: no known dialect, expected {known}")
    return _fit(closest, tensors)


def _fit(dialect: Dialect, tensors: Mapping[str, Tensor]) -> Recognised | Unrecognised:
    missing = [t for t, (ours, _) in dialect.renames.items() if ours in CANONICAL_AXES and t not in tensors]
    if missing:
        return _no(dialect, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    ignored = {name: what for name, what in dialect.buffers.items() if name in tensors}
    for copy, original in dialect.copies.items():
        if copy in tensors:
            if not _same(tensors[copy], tensors[original]):
                return _no(dialect, f"{copy} is not the copy of {original} that it should be")
            ignored[copy] = f"a copy of {original}"
    over = [name for name in tensors if name not in dialect.renames and name not in ignored]
    if over:
        return _no(dialect, f"{_listed({name: tensors[name] for name in over})} would be left over")

    ours = {dialect.renames[name][0]: tensors[name] for name in tensors if name in dialect.renames}
    axes = {dialect.renames[name][0]: dialect.renames[name][1] for name in tensors if name in dialect.renames}
    for name, value in ours.items():
        if not value.dtype.is_floating_point:
            return _no(dialect, f"{name} is {value.dtype}, expected floating point")
    try:
        sizes = _sizes(ours, axes)
    except ValueError as error:
        return _no(dialect, str(error))
    has_norm = [name for name in NORM_AXES if name in ours]
    if has_norm and len(has_norm) < len(NORM_AXES):
        absent = next(name for name in NORM_AXES if name not in ours)
        return _no(dialect, f"{has_norm[0]} is there and {absent} is not")
    return _described(dialect, sizes, set(ours), ignored, _mask_in(tensors))


def _no(dialect: Dialect, why: str) -> Unrecognised:
    return Unrecognised(f"the names are those of the dialect {dialect.name}, but {why}")


def _described(
    dialect: Dialect,
    sizes: Mapping[str, int],
    ours: set[str],
    ignored: Mapping[str, str],
    mask: bool | None,
) -> Recognised | Unrecognised:
    p, out = sizes["v"] - 1, sizes["c"]
    if sizes["n"] != 3:
        return _no(dialect, f"there are {sizes['n']} positions, expected the 3 of [a, b, =]")
    if not 2 <= p <= MAX_MODULUS:
        expected = f"expected 3 to {MAX_MODULUS + 1} (the residues and '=')"
        return _no(dialect, f"{sizes['v']} tokens were given, {expected}")
    if out < p:
        return _no(dialect, f"{out} logits were given, expected at least one for each of the {p} residues")
    biases = [name for name in BIAS_AXES if name in ours]
    layer_norm = any(name in ours for name in NORM_AXES)
    causal = dialect.causal if dialect.causal is not None else mask is not False
    settings = TransformerSettings(
        d_model=sizes["d"],
        n_heads=sizes["H"],
        d_head=0 if sizes["k"] * sizes["H"] == sizes["d"] else sizes["k"],
        d_mlp=sizes["m"],
        layer_norm=layer_norm,
        biases=bool(biases),
        causal=causal,
        d_vocab_out=0 if out == p else out,
    )
    known = [
        f"the modulus is {p}: {sizes['v']} rows of the embedding, one of them for '='",
        f"one layer, {sizes['H']} heads of width {sizes['k']}, width {sizes['d']}, {sizes['m']} neurons",
        f"{'LayerNorm with gains' if layer_norm else 'no LayerNorm with gains'}, "
        f"{'biases' if biases else 'no biases'}",
    ]
    if out > p:
        known.append(f"the head has {out} logits, of which the first {p} are the residues")
    if biases and len(biases) < len(BIAS_AXES):
        absent = ", ".join(name for name in BIAS_AXES if name not in ours)
        known.append(f"biases not in the file are taken as zero: {absent}")
    guessed = [
        "the prompt is [a, b, =] with '=' as the last token, and the answer is read at '='",
    ]
    attention = f"attention is {'' if causal else 'not '}causal"
    if dialect.causal is None and mask is not None:
        known.append(f"{attention}, as the mask in the file says")
    else:
        guessed.append(f"{attention}: with one layer, read at the last position, no logit depends on it")
    if not layer_norm:
        guessed.append("nothing normalises the residual stream (without gains, that would leave no tensor)")
    return Recognised(dialect, settings, p, tuple(known), tuple(guessed), ignored)


def _mask_in(tensors: Mapping[str, Tensor]) -> bool | None:
    """Whether the mask in a file hides later positions; ``None`` without one."""
    mask = tensors.get(f"{_ATTENTION}mask")
    if mask is None or mask.ndim != 2:
        return None
    return not bool(mask.to(torch.float64).triu(1).any())


def _sizes(tensors: Mapping[str, Tensor], axes: Mapping[str, str]) -> dict[str, int]:
    """The size of every named axis; ValueError where two tensors disagree on one."""
    sizes: dict[str, int] = {}
    first: dict[str, str] = {}
    for name, letters in axes.items():
        names, shape = letters.split(), tuple(tensors[name].shape)
        if len(names) != len(shape) or not all(shape):
            raise ValueError(f"{name} has shape {shape}, expected ({', '.join(names)}), none of them 0")
        for axis, size in zip(names, shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name} has shape {shape}, and {first[axis]} makes {axis} = {sizes[axis]}")
            first.setdefault(axis, name)
    return sizes


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _stored(tensor: Tensor) -> Tensor:
    """float64 stays; anything narrower widens to float32 without loss."""
    return tensor.contiguous() if tensor.dtype == torch.float64 else tensor.to(torch.float32).contiguous()


def _listed(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{name} {tuple(value.shape)}" for name, value in list(tensors.items())[:6]]
    more = f" and {len(tensors) - 6} more" if len(tensors) > 6 else ""
    return f"tensors {', '.join(shown)}{more}"
