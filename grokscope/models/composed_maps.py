"""The end-to-end maps of a composed transformer: residues to classes, and residues to residues.

Every map is a path through the residual stream that goes through one part and past all others. The gains of
the norms on the path are folded in; what a norm divides by, biases and rotations are not part of a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from grokscope.models.anatomy import MapView, Params, scaled
from grokscope.models.composed_layers import sinusoids
from grokscope.models.composed_parts import ComposedSettings, Layout, has_norm


def build_maps(
    s: ComposedSettings, layout: Layout, params: Params, tables: Mapping[str, Tensor], unembed: Tensor
) -> dict[str, MapView]:
    """Maps by public name, of ``tables`` (…, p, d) of residues and ``unembed`` (…, d, C).

    One layer has ``ov.<head>``, ``qk.<head>``, ``neuron_logit``; several ``ov.<layer>.<head>`` and so on. A head
    of grouped queries takes the key and value of its group. ``qk_query.<head>`` is for one layer read at one
    position that holds a constant. With rows of its own for each operand, maps from residues are of a's.
    """
    paths = _Paths(s, params)
    several = s.n_layers > 1
    source = next(iter(tables.values()))
    embedded = source if s.embedding_scale == 1.0 else source * s.embedding_scale
    rows = "of operand a's rows" if len(tables) > 1 else ""
    past = "past the other layers" if several else ""
    found = {name: MapView((table,)) for name, table in tables.items()}
    found["unembedding"] = MapView((unembed.mT,))
    unembed = scaled(s.output_scale, unembed)
    after = paths.after(-1)
    found["direct"] = MapView(
        (paths.gained(embedded, paths.start()), paths.written(unembed, after)),
        _note(paths.note([*paths.start(), *after]), past, rows),
    )
    group = s.n_heads // layout.n_kv_heads
    for layer in range(s.n_layers):
        prefix, number = f"blocks.{layer}", f"{layer}." if several else ""
        before, after = [*paths.start(), *paths.before_attention(layer)], paths.after(layer)
        read, outward = paths.gained(embedded, before), paths.written(unembed, after)
        note = _note(paths.note([*before, *after]), past, rows)
        rotation = "without the rotation" if s.positions == "rotary" else ""
        turned = _note(paths.note(before), rotation, past, rows)
        query_in = _constant_query(s, layout, params) if layer == 0 and not several else None
        for head in range(s.n_heads):
            w_q, w_o = (params[f"{prefix}.attn.W_{x}"][..., head, :, :] for x in "QO")
            w_k, w_v = (params[f"{prefix}.attn.W_{x}"][..., head // group, :, :] for x in "KV")
            found[f"ov.{number}{head}"] = MapView((read, w_v, w_o, outward), note)
            found[f"qk.{number}{head}"] = MapView((read, w_q, w_k.mT, read.mT), turned)
            if query_in is not None:
                query = paths.gained(query_in, before)
                one_row = turned or "one row: its rank is 1"
                found[f"qk_query.{head}"] = MapView((query, w_q, w_k.mT, read.mT), one_row)
        if s.d_mlp:
            name = f"neuron_logit.{layer}" if several else "neuron_logit"
            after = paths.after(layer, of_mlp=True)
            factors = (paths.written(unembed, after).mT, params[f"{prefix}.mlp.W_out"].mT)
            found[name] = MapView(factors, _note(paths.note(after), past))
    return found


class _Paths:
    """Which norms stand on the way into and out of a part of the network, those that there are."""

    def __init__(self, s: ComposedSettings, params: Params) -> None:
        self.s, self.params = s, params

    def _present(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if has_norm(self.s, name)]

    def note(self, names: list[str]) -> str:
        """What to know about a path through these norms."""
        if not names:
            return ""
        return "gain folded, not exact" if self.s.norm_gain else "norm left out, not exact"

    def start(self) -> list[str]:
        """Norms between the embedding and the stream."""
        return self._present(["embed.ln"])

    def before_attention(self, layer: int) -> list[str]:
        """Norms between the embedding's place in the stream and what the attention of ``layer`` reads."""
        if self.s.norm_place == "pre":
            return self._present([f"blocks.{layer}.ln1"])
        if self.s.norm_place == "stream":
            return self._present([f"blocks.{earlier}.ln1" for earlier in range(layer + 1)])
        return [name for earlier in range(layer) for name in self._inside(earlier)]

    def _inside(self, layer: int) -> list[str]:
        """Norms of a post-norm layer, through which its residual stream goes."""
        return self._present([f"blocks.{layer}.ln1", f"blocks.{layer}.ln2"])

    def gained(self, rows: Tensor, names: Iterable[str]) -> Tensor:
        """(…, n, d) times the gains of the norms that have one."""
        for name in names:
            gain = self.params.get(f"{name}.w")
            rows = rows if gain is None else rows * gain[..., None, :]
        return rows

    def after(self, layer: int, *, of_mlp: bool = False) -> list[str]:
        """Norms from what ``layer`` writes into the stream to the logits; −1 for the embedding itself."""
        names = []
        if self.s.norm_place == "post":
            names = [name for later in range(max(layer, 0), self.s.n_layers) for name in self._inside(later)]
        if self.s.norm_place == "stream":
            names = self._present([f"blocks.{later}.ln1" for later in range(layer + 1, self.s.n_layers)])
        if of_mlp:
            names = [name for name in names if name != f"blocks.{layer}.ln1"]
        return [*names, *self._present(["ln_final"])]

    def written(self, unembed: Tensor, names: Iterable[str]) -> Tensor:
        """(…, d, C): the head behind the gains of the norms that have one."""
        for name in names:
            gain = self.params.get(f"{name}.w")
            unembed = unembed if gain is None else gain[..., :, None] * unembed
        return unembed


def _constant_query(s: ComposedSettings, layout: Layout, params: Params) -> Tensor | None:
    """(…, 1, d): the stream at the one read position before any norm, where it is the same for all pairs."""
    if len(layout.read) > 1 or layout.slots[min(layout.read)].of:
        return None
    position, table = min(layout.read), params["embed.W_E"]
    row = layout.slots[position].row
    x = table[..., :1, :] * 0 if row is None else table[..., row : row + 1, :] * s.embedding_scale
    if s.positions == "learned":
        x = x + params["pos_embed.W_pos"][..., position : position + 1, :]
    elif s.positions == "sinusoidal":
        x = x + sinusoids(len(layout.slots), s.d_model).to(table)[position]
    return x


def _note(*pieces: str) -> str:
    return "; ".join(piece for piece in pieces if piece)
