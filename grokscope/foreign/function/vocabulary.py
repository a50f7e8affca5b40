"""What people call the tensors of a small transformer, for files that no named dialect describes.

A name is read as a container with a number (its layer), perhaps the number of a head, and a word for its part,
looked up in the tables below. ``nn.Linear`` stores (out, in); a bare parameter may be either way round, and
where the shape does not tell, the search does.

Axis legend: as in ``card``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LAYER = re.compile(
    r"(?:^|\.)(?:blocks?|layers?|h|encoder_layers|decoder_layers|transformer_blocks|transformer_layers|"
    r"attn_layers|resblocks|encoder|decoder|transformer|model|stack|body|attentions|mlps|ffns)"
    r"[._](?P<layer>\d{1,3})(?=[._])"
)
_HEAD = re.compile(r"(?:^|[._])(?:\w*heads?|h)\.(?P<head>\d{1,3})[._]")
_HALVES = re.compile(r"^([01])\.(?:fn\.(?!net))?")
_SEQUENCE = re.compile(
    r"(?:\w+[._])*(?:mlp|ffn?|feed_?forward|ff_?net|net|fc)s?(?:\.\w+)?\.\d{1,2}\.(weight|bias)"
)

_ATTENTION = (
    r"(?:\w+[._])*(?:self_?attn|self_?attention|attention|attn|mha|msa|sa|multi_?head\w*)(?:[._]\w+)*?[._]"
)
_MLP = r"(?:\w+[._])*(?:mlp|ffn?|feed_?forward|ff_?net|fc)(?:[._]\w+)*?[._]"
_ANYWHERE = r"(?:\w+[._])*"

_WEIGHT = r"(?:\.(?:weight|kernel|W|w))?"
_BIAS = r"(?:\.(?:bias|b))?"
_GAIN = r"\.(?:weight|gamma|w|scale|g|w_ln|a_2|gain)"
_SHIFT = r"\.(?:bias|beta|b|b_ln|b_2|shift)"

_NORM_1 = (
    r"ln_?1 norm_?1 layer_?norm_?1 rms_?1 rms_?norm_?1 attn_?norm attn_?ln ln_?attn norm_?attn self_attn_norm "
    r"attn\.(?:norm|ln|layer_?norm) attention\.(?:norm|ln|layer_?norm) attention\.output\.layer_?norm "
    "self_attn_layer_norm attention_norm input_layernorm pre_attn_norm attn_layer_norm ln_?a"
)
_NORM_2 = (
    r"ln_?2 norm_?2 layer_?norm_?2 rms_?2 rms_?norm_?2 mlp_?norm mlp_?ln ln_?mlp norm_?mlp ffn?_?norm norm_?ffn? "
    r"(?:mlp|ffn?|feed_?forward)\.(?:norm|ln|layer_?norm) output\.layer_?norm "
    "ffn?_ln ln_ffn? final_layer_norm post_attention_layernorm pre_mlp_norm ff_layer_norm ln_?m"
)
_FINAL_NORM = (
    "ln_?f ln_?final ln_?out ln_?post final_?ln final_?(?:layer_?)?norm norm_?f norm_?final norm_?out norm_last "
    "output_?norm out_?norm ln norm layer_?norm"
)
_EMBED_NORM = r"emb(?:ed(?:ding)?s?)?_?(?:norm|ln) embed\.ln ln_?emb\w* ln_?0 norm_emb\w* embed_layer_?norm"
_MLP_IN = (
    "in in_proj up up_proj c_fc fc_?1 fc_in linear_?1 lin_?1 dense_?1 dense_h_to_4h w_?in w_?1 W_up input l_?1 "
    "hidden expand proj_in in_layer proj_up first linear_in"
)
_MLP_OUT = (
    "out out_proj down down_proj c_proj fc_?2 fc_out linear_?2 lin_?2 dense_?2 dense_4h_to_h w_?out w_?2 W_down "
    "output proj l_?2 contract proj_out out_layer proj_down second linear_out"
)
_MLP_IN_ALONE = (
    "linear_?1 lin_?1 fc_?1 w_?in up_proj mlp_?in ff_?1 ffn_?1 mlp_?1 mlp_up intermediate.dense W_?1 mlp_fc1"
)
_MLP_OUT_ALONE = "linear_?2 lin_?2 fc_?2 w_?out down_proj mlp_?out ff_?2 ffn_?2 mlp_?2 mlp_down W_?2 mlp_fc2"
_GATE = "gate_proj gate w_?gate linear_gate fc_gate w_?3 linear_v"
_GATE_AND_IN = "gate_up gate_up_proj w_?12 gate_and_up fc_gate_up wi_fused"
_PACKED = "in_proj qkv qkv_proj c_attn to_qkv w_?qkv query_key_value qkv_linear attn_qkv"
_PROJECTION = {
    letter: f"{letter} {word} to_{letter} w_?{letter} {letter}_proj {letter}_lin {letter}_linear {word}_proj "
    f"{word}_linear W_{word} w{letter} linear_{letter} fc_{letter} {plural}"
    for letter, word, plural in (("q", "query", "queries"), ("k", "key", "keys"), ("v", "value", "values"))
}
_OUTPUT = (
    r"out_proj o o_proj out proj c_proj to_out(?:\.0)? wo w_?o output dense fc_out fc linear_out proj_out out_lin "
    "combine_heads linear unify_?heads out_linear output_proj"
)
_OUTPUT_ALONE = "w_?o o_proj attn_?out attn_?proj attn_out_proj to_out"
_POSITION = r"pos(?:ition)?(?:al)?(?:_?[a-z]\w*)? wpe W_pos W_P pe p_emb\w*"
_POSITION_INSIDE = r"(?:\.(?:W_pos|pos_?emb\w*|embedding|emb|pe|W_P|table))?"
_HEAD_WORDS = (
    r"un_?emb(?:ed(?:ding)?)? w_?u lm_head head classifier fc_?out "
    r"out(?:put)?(?:_(?:layer|proj|linear|head|fc|projection))? readout decoder "
    r"final(?:_(?:linear|fc|layer|proj))? to_logits logits proj projection linear fc lin_out "
    "classification_head predictor last u mlp_head"
)
_HEAD_INSIDE = r"(?:\.(?:linear|fc|proj|\d))?"
_EMBEDDING = (
    r"tok(?:en)?s?(?:_?emb\w*)? (?:\w+_)?emb(?:ed(?:ding)?s?)?(?:_tokens?|_layer|_table|_matrix)? "
    r"embedder w_?te w_?e e input_emb\w* number_emb\w*"
)
_EMBEDDING_INSIDE = r"(?:\.(?:W_E|embedding|token|tok|emb|table|embed|token_emb\w*|0))?"

_SQUARE = "(H k) d | d (H k)"

_Row = tuple[str, str, str, tuple[str, ...], str]
"""(what may stand before, words, what may stand after, roles, axes)."""

_IN_LAYER: tuple[_Row, ...] = (
    (_ATTENTION, _PACKED, r"(?:\.weight|_weight|\.kernel)?", ("query", "key", "value"), "(3 H k) d | d (3 H k)"),
    (_ATTENTION, _PACKED, r"(?:\.bias|_bias)", ("query_bias", "key_bias", "value_bias"), "(3 H k)"),
    (_ANYWHERE, "qkv qkv_proj to_qkv w_?qkv c_attn", _WEIGHT, ("query", "key", "value"), "(3 H k) d | d (3 H k)"),
    (_ANYWHERE, "qkv qkv_proj to_qkv w_?qkv c_attn", _BIAS, ("query_bias", "key_bias", "value_bias"), "(3 H k)"),
    (_ANYWHERE, _PROJECTION["q"], _WEIGHT, ("query",), f"H d k | H k d | {_SQUARE}"),
    (_ANYWHERE, _PROJECTION["k"], _WEIGHT, ("key",), "G d k | G k d | (G k) d | d (G k)"),
    (_ANYWHERE, _PROJECTION["v"], _WEIGHT, ("value",), "G d k | G k d | (G k) d | d (G k)"),
    (_ANYWHERE, _PROJECTION["q"] + " b_?q", _BIAS, ("query_bias",), "H k | (H k)"),
    (_ANYWHERE, _PROJECTION["k"] + " b_?k", _BIAS, ("key_bias",), "G k | (G k)"),
    (_ANYWHERE, _PROJECTION["v"] + " b_?v", _BIAS, ("value_bias",), "G k | (G k)"),
    (_ATTENTION, _OUTPUT, _WEIGHT, ("output",), "H k d | d (H k) | (H k) d"),
    (_ATTENTION, _OUTPUT + " b_?o", _BIAS, ("output_bias",), "d"),
    (_ANYWHERE, _OUTPUT_ALONE, _WEIGHT, ("output",), "H k d | d (H k) | (H k) d"),
    (_ANYWHERE, _OUTPUT_ALONE + " b_?o", _BIAS, ("output_bias",), "d"),
    (_ANYWHERE, _NORM_1, _GAIN, ("norm1_gain",), "d"),
    (_ANYWHERE, _NORM_1, _SHIFT, ("norm1_bias",), "d"),
    (_ANYWHERE, _NORM_2, _GAIN, ("norm2_gain",), "d"),
    (_ANYWHERE, _NORM_2, _SHIFT, ("norm2_bias",), "d"),
    (_ANYWHERE, "kv kv_proj to_kv w_?kv c_kv", _WEIGHT, ("key", "value"), "(2 G k) d | d (2 G k)"),
    (_ANYWHERE, "kv kv_proj to_kv w_?kv c_kv", _BIAS, ("key_bias", "value_bias"), "(2 G k)"),
    (_MLP, _GATE_AND_IN, _WEIGHT, ("mlp_gate", "mlp_in"), "(2 m) d | d (2 m)"),
    (_MLP, _GATE, _WEIGHT, ("mlp_gate",), "m d | d m"),
    (_ANYWHERE, "gate_proj w_gate", _WEIGHT, ("mlp_gate",), "m d | d m"),
    (_MLP, _MLP_IN, _WEIGHT, ("mlp_in",), "m d | d m"),
    (_MLP, _MLP_IN + " b_?in b_?1", _BIAS, ("mlp_in_bias",), "m"),
    (_MLP, _MLP_OUT, _WEIGHT, ("mlp_out",), "d m | m d"),
    (_MLP, _MLP_OUT + " b_?out b_?2", _BIAS, ("mlp_out_bias",), "d"),
    (_ANYWHERE, _MLP_IN_ALONE, _WEIGHT, ("mlp_in",), "m d | d m"),
    (_ANYWHERE, _MLP_IN_ALONE + " b_?in b_?1", _BIAS, ("mlp_in_bias",), "m"),
    (_ANYWHERE, _MLP_OUT_ALONE, _WEIGHT, ("mlp_out",), "d m | m d"),
    (_ANYWHERE, _MLP_OUT_ALONE + " b_?out b_?2", _BIAS, ("mlp_out_bias",), "d"),
)  # fmt: skip

_OUTSIDE: tuple[_Row, ...] = (
    (_ANYWHERE, _EMBED_NORM, _GAIN, ("embedding_norm_gain",), "d"),
    (_ANYWHERE, _EMBED_NORM, _SHIFT, ("embedding_norm_bias",), "d"),
    (_ANYWHERE, _FINAL_NORM, _GAIN, ("final_norm_gain",), "d"),
    (_ANYWHERE, _FINAL_NORM, _SHIFT, ("final_norm_bias",), "d"),
    (_ANYWHERE, _POSITION, _POSITION_INSIDE + _WEIGHT, ("position",), "n d | 1 n d | n 1 d | d n"),
    (_ANYWHERE, _HEAD_WORDS, _HEAD_INSIDE + r"(?:\.W_U|\.weight|\.W|\.w|\.kernel)?", ("head",), "c d | d c"),
    (_ANYWHERE, _HEAD_WORDS + " b_?u", _HEAD_INSIDE + r"(?:\.b_U|\.bias|\.b)?", ("head_bias",), "c"),
    (_ANYWHERE, _EMBEDDING, _EMBEDDING_INSIDE + _WEIGHT, ("embedding",), "v d | d v"),
)

_BUFFERS = (
    (r"(?:.*[._])?(?:\w*mask|tril|triu)|.*attn\.bias", "an attention mask", 2),
    (r"(?:.*[._])?(?:inv_freq|rotary\w*|freqs\w*|cos\w*|sin\w*|rope\w*)", "a table of the rotation", 0),
    (r".*IGNORE|.*masked_bias", "the score of masked positions", 0),
    (r"(?:.*[._])?(?:position_ids|pos_ids|positions|arange)", "indices", 0),
    (r"(?:.*[._])?(?:num_batches_tracked|running_mean|running_var)", "statistics of a batch norm", 0),
    (r"(?:.*[._])?(?:fourier_)?basis", "a fixed basis", 2),
)
"""Pattern of a buffer's name, what it is, and the least number of its axes."""


@dataclass(frozen=True)
class Meaning:
    """What a name may mean: roles, the layer and the head that it names (or none), alternatives of its axes."""

    roles: tuple[str, ...]
    layer: int | None
    head: int | None
    axes: tuple[str, ...]


def buffer_named(name: str, ndim: int, is_float: bool) -> str | None:
    """What kind of buffer a tensor is by its name or type; ``None`` for what may be a weight."""
    for pattern, what, least in _COMPILED_BUFFERS:
        if pattern.fullmatch(name) and (ndim >= least or not is_float):
            return what
    return None if is_float else "no floating-point numbers"


def meanings(name: str, ndim: int) -> Iterator[Meaning]:
    """What ``name`` may mean for a tensor of ``ndim`` axes, the likeliest first."""
    name = name.replace("/", ".")
    match = LAYER.search(name)
    layer = int(match["layer"]) if match else None
    rest = name[match.end() :].lstrip("._") if match else name
    if match:
        # a layer that is a list of its attention and its MLP
        rest = _HALVES.sub(lambda half: ("attn.", "mlp.")[int(half[1])], rest)
    of_head = _HEAD.search(rest)
    if of_head:
        yield from _of_one_head(rest, of_head, layer, ndim)
    yield from _in_sequence(rest, layer, ndim)
    yield from _looked_up(_COMPILED_IN_LAYER, rest, layer, ndim)
    yield from _looked_up(_COMPILED_OUTSIDE, name if match else rest, None, ndim)


def _looked_up(table: tuple[_Compiled, ...], text: str, layer: int | None, ndim: int) -> Iterator[Meaning]:
    for pattern, roles, axes in table:
        fitting = tuple(one for one in axes if axis_count(one) == ndim)
        if fitting and pattern.fullmatch(text):
            yield Meaning(roles, layer, None, fitting)


def _of_one_head(rest: str, match: re.Match[str], layer: int | None, ndim: int) -> Iterator[Meaning]:
    """A projection of a single head, (k, d) or (d, k), its bias (k)."""
    word = rest[match.end() :]
    for found in _looked_up(_COMPILED_IN_LAYER, word, layer, ndim):
        group = "G" if found.roles[0].startswith(("key", "value")) else "H"
        if found.roles[0] in ("query", "key", "value"):
            yield Meaning(found.roles, layer, int(match["head"]), (f"{group} k d", f"{group} d k"))
        elif found.roles[0].endswith("_bias") and found.roles[0] in ("query_bias", "key_bias", "value_bias"):
            yield Meaning(found.roles, layer, int(match["head"]), (f"{group} k",))


def _in_sequence(rest: str, layer: int | None, ndim: int) -> Iterator[Meaning]:
    """A linear layer in an ``nn.Sequential``: whichever of the two is still missing, the inner one first."""
    match = _SEQUENCE.fullmatch(rest)
    if match and match[1] == "weight" and ndim == 2:
        yield Meaning(("mlp_in",), layer, None, ("m d", "d m"))
        yield Meaning(("mlp_out",), layer, None, ("d m", "m d"))
    elif match and match[1] == "bias" and ndim == 1:
        yield Meaning(("mlp_in_bias",), layer, None, ("m",))
        yield Meaning(("mlp_out_bias",), layer, None, ("d",))
    elif match and match[1] == "weight" and ndim == 1:
        # a sequence that begins with its norm
        yield Meaning(("norm2_gain",), layer, None, ("d",))


def axis_count(axes: str) -> int:
    """Number of axes in a pattern such as ``(H k) d``."""
    return len(re.findall(r"\([^)]*\)|\w+", axes))


_Compiled = tuple[re.Pattern[str], tuple[str, ...], tuple[str, ...]]


def _compile(table: tuple[_Row, ...]) -> tuple[_Compiled, ...]:
    return tuple(
        (
            re.compile(f"{before}(?:{'|'.join(words.split())}){after}", re.IGNORECASE),
            roles,
            tuple(one.strip() for one in axes.split("|")),
        )
        for before, words, after, roles, axes in table
    )


_COMPILED_IN_LAYER = _compile(_IN_LAYER)
_COMPILED_OUTSIDE = _compile(_OUTSIDE)
_COMPILED_BUFFERS = tuple((re.compile(p, re.IGNORECASE), what, least) for p, what, least in _BUFFERS)
