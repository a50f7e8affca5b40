"""Settings of the function that were written down beside the weights, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grokscope.foreign.gathering.facts import Facts
from grokscope.models.anatomy import Activation

MODULUS_NAMES = (
    "p",
    "prime",
    "modulus",
    "mod",
    "P",
    "C",
    "group_parameter",
    "n_classes",
    "num_classes",
    "modulo",
)
HEADS_NAMES = ("n_heads", "num_heads", "n_head", "nhead", "heads", "num_attention_heads", "nheads")
KV_HEADS_NAMES = ("n_kv_heads", "num_key_value_heads", "n_key_value_heads", "num_kv_heads")
ACTIVATION_NAMES = (
    "act_type",
    "act_fn",
    "activation",
    "act",
    "activation_function",
    "hidden_act",
    "nonlinearity",
)
SHARE_NAMES = ("attn_coeff", "attention_coeff", "attn_rate")
NORM_FIRST_NAMES = ("norm_first", "pre_norm", "prenorm")
CAUSAL_NAMES = ("causal", "is_causal", "attention_dir", "use_mask", "causal_mask")
EPSILON_NAMES = ("layer_norm_eps", "norm_eps", "rms_norm_eps", "eps_ln", "layer_norm_epsilon")
ROTARY_BASE_NAMES = ("rope_theta", "rotary_base", "rope_base")
OPERATION_NAMES = (
    "operation",
    "op",
    "fn_name",
    "fn",
    "group",
    "task",
    "funcs",
    "binary_op",
    "operator",
    "task_name",
)

ACTIVATION_WORDS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "quad": "quadratic",
    "quadratic": "quadratic",
    "square": "quadratic",
    "x2": "quadratic",
    "tanh": "tanh",
}

OPERATION_WORDS: dict[str, str] = {
    **dict.fromkeys(("add", "addition", "plus", "+", "x+y", "a+b", "modular_addition", "modadd", "mod_add",
                     "cyclicgroup", "sum", "add_mod", "modular-addition"), "add"),
    **dict.fromkeys(("sub", "subtraction", "subtract", "minus", "-", "x-y", "a-b", "modular_subtraction"), "sub"),
    **dict.fromkeys(("mul", "multiplication", "multiply", "mult", "times", "*", "x*y", "a*b", "product",
                     "modular_multiplication"), "mul"),
    **dict.fromkeys(("div", "division", "divide", "/", "x/y", "a/b", "modular_division"), "div"),
    **dict.fromkeys(("x2+y2", "x^2+y^2", "x**2+y**2", "a^2+b^2", "a**2+b**2", "x2py2", "sum_of_squares",
                     "squares", "sum_squares"), "x2+y2"),
    **dict.fromkeys(("x2+xy+y2", "x^2+xy+y^2", "x**2+x*y+y**2", "a^2+ab+b^2", "x2pxypy2", "quad1",
                     "x^2+x*y+y^2"), "x2+xy+y2"),
    **dict.fromkeys(("symmetricgroup", "permutation", "permutations", "s5", "s_5", "s4", "s3", "alternatinggroup",
                     "x_mul_y", "perm", "permutation_composition"), "group"),
}  # fmt: skip
"""What people write for an operation, in lower case and without spaces → our name."""


def recorded_number(
    facts: Facts, inside: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[float, str] | None:
    """A finite number under one of ``names``, and where it is written."""
    found = facts.find(names, inside)
    if found is None or isinstance(found[0], bool):
        return None
    try:
        value = float(found[0])
    except (TypeError, ValueError):
        return None
    return (value, found[1]) if abs(value) < 1e12 else None


def recorded_whole(facts: Facts, inside: Mapping[str, Any], names: tuple[str, ...]) -> tuple[int, str] | None:
    """A whole number of at least 1 under one of ``names``, and where it is written."""
    found = recorded_number(facts, inside, names)
    return (int(found[0]), found[1]) if found and found[0] >= 1 and found[0] == int(found[0]) else None


def recorded_word(
    facts: Facts, inside: Mapping[str, Any], names: tuple[str, ...], words: Mapping[str, Any]
) -> tuple[Any, str] | None:
    """Our word for what is written under one of ``names``; ``None`` for words that we do not know."""
    found = facts.find(names, inside)
    if found is None:
        return None
    text = "".join(str(found[0]).lower().split())
    return (words[text], found[1]) if text in words else None


def recorded_flag(facts: Facts, inside: Mapping[str, Any], names: tuple[str, ...]) -> tuple[bool, str] | None:
    """A yes or no under one of ``names``, and where it is written."""
    found = facts.find(names, inside)
    if found is None:
        return None
    text = str(found[0]).lower()
    if text in ("true", "1", "yes", "causal"):
        return True, found[1]
    if text in ("false", "0", "no", "bidirectional"):
        return False, found[1]
    return None
