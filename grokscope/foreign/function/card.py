"""Cards: what a set of tensor names means, as data.

A card says which function a file holds: which tensor plays which part and in which order its axes lie, and as
much of the architecture and of the task as its writer knew. What it leaves open is inferred from shapes or
searched. The dialects that grokscope knows by itself are such cards too, so there is one way to declare a
layout, and a user's ``--card FILE`` says nothing that a built-in one could not.

Axis legend: v tokens, d model width, H heads, G heads of keys and values, k head width, m neurons,
n positions, c logits, i and o the two sides of a hidden layer.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from grokscope.errors import GrokscopeError, nearest
from grokscope.models import ComposedSettings, MLPSettings

MAX_CARD_BYTES = 2**20

Family = Literal["transformer", "mlp"]

TARGETS: dict[str, tuple[str, str]] = {
    "embedding": ("embed.W_E", "v d"),
    "embedding_a": ("embed_a.W_E", "v d"),
    "embedding_b": ("embed_b.W_E", "v d"),
    "position": ("pos_embed.W_pos", "n d"),
    "embedding_norm_gain": ("embed.ln.w", "d"),
    "embedding_norm_bias": ("embed.ln.b", "d"),
    "query": ("blocks.{layer}.attn.W_Q", "H d k"),
    "key": ("blocks.{layer}.attn.W_K", "G d k"),
    "value": ("blocks.{layer}.attn.W_V", "G d k"),
    "output": ("blocks.{layer}.attn.W_O", "H k d"),
    "query_bias": ("blocks.{layer}.attn.b_Q", "H k"),
    "key_bias": ("blocks.{layer}.attn.b_K", "G k"),
    "value_bias": ("blocks.{layer}.attn.b_V", "G k"),
    "output_bias": ("blocks.{layer}.attn.b_O", "d"),
    "norm1_gain": ("blocks.{layer}.ln1.w", "d"),
    "norm1_bias": ("blocks.{layer}.ln1.b", "d"),
    "norm2_gain": ("blocks.{layer}.ln2.w", "d"),
    "norm2_bias": ("blocks.{layer}.ln2.b", "d"),
    "mlp_in": ("blocks.{layer}.mlp.W_in", "d m"),
    "mlp_gate": ("blocks.{layer}.mlp.W_gate", "d m"),
    "mlp_out": ("blocks.{layer}.mlp.W_out", "m d"),
    "mlp_in_bias": ("blocks.{layer}.mlp.b_in", "m"),
    "mlp_gate_bias": ("blocks.{layer}.mlp.b_gate", "m"),
    "mlp_out_bias": ("blocks.{layer}.mlp.b_out", "d"),
    "final_norm_gain": ("ln_final.w", "d"),
    "final_norm_bias": ("ln_final.b", "d"),
    "head": ("unembed.W_U", "d c"),
    "head_bias": ("unembed.b_U", "c"),
    "hidden": ("hidden.{layer}.W", "i o"),
    "hidden_bias": ("hidden.{layer}.b", "o"),
}
"""Role of a tensor → our name for it and the order of its axes on our side."""

SETTINGS: dict[Family, type[ComposedSettings] | type[MLPSettings]] = {
    "transformer": ComposedSettings,
    "mlp": MLPSettings,
}

_RULE = re.compile(r"^(?P<roles>[a-z0-9_ ]+?)(?:\.(?P<layer>\d{1,3}))?\s*:(?P<axes>.+)$")
_PLACE = re.compile(r"\\\{(layer|head)\\\}")


@dataclass(frozen=True)
class Rule:
    """One kind of tensor: names that match ``pattern``, the roles packed in it, the order of its axes.

    ``axes`` lists alternatives; where shapes allow several of them, the search decides. ``layer`` is the number
    that a rule gives where the name has no ``{layer}``.
    """

    pattern: re.Pattern[str]
    roles: tuple[str, ...]
    axes: tuple[str, ...]
    layer: int = 0


@dataclass(frozen=True)
class Card:
    """A declared layout.

    Attributes:
        function: settings of the family that the card fixes, under the names of our families.
        task: ``operation``, ``p``, or ``group``, where the card knows them.
        split: how the training pairs were drawn: ``recipe``, ``seed``, ``train_fraction``.
        ignored: patterns of tensors that are no weights → why.
        copies: patterns of tensors that repeat another → the name of that other.
        hints: settings that this dialect usually has, tried first.
    """

    name: str
    title: str
    family: Family
    rules: tuple[Rule, ...]
    function: Mapping[str, Any] = field(default_factory=dict)
    hints: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[tuple[re.Pattern[str], str], ...] = ()
    copies: tuple[tuple[re.Pattern[str], str], ...] = ()
    source: str = "built in"


def read_card(path: Path) -> Card:
    """The card in a TOML file.

    Raises:
        GrokscopeError: one line, for a file that cannot be read, is no TOML, or says what no card can say.
    """
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise GrokscopeError(f"reading card {path}: more than {MAX_CARD_BYTES} bytes, expected a card")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise GrokscopeError(
            f"reading card {path}: {error.strerror or error}, expected a TOML file"
        ) from None
    except UnicodeDecodeError:
        raise GrokscopeError(f"reading card {path}: it is not UTF-8 text, expected a TOML file") from None
    return parse_card(text, str(path), default_name=path.stem)


def parse_card(text: str, where: str, default_name: str = "card") -> Card:
    """The card in TOML ``text``; ``where`` names it in messages. Raises as :func:`read_card`."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise GrokscopeError(f"reading card {where}: {error}, expected TOML") from None
    return card_of(document, where, default_name)


_SECTIONS = ("name", "title", "function", "hints", "task", "split", "tensors", "ignored", "copies")


def card_of(document: Mapping[str, Any], where: str, default_name: str) -> Card:
    """The card that a parsed document declares; sections that a card does not know are refused."""
    for key in document:
        if key not in _SECTIONS:
            raise GrokscopeError(
                f"reading card {where}: unknown section {key!r}{nearest(key, _SECTIONS)}; "
                f"known are {', '.join(_SECTIONS)}"
            )
    tables = {key: _table(document, key, where) for key in _SECTIONS[2:]}
    function = dict(tables["function"])
    family = function.pop("family", "transformer")
    if family not in SETTINGS:
        raise GrokscopeError(
            f"reading card {where}: function.family is {family!r}, expected one of {', '.join(SETTINGS)}"
            f"{nearest(str(family), SETTINGS)}"
        )
    for section in (function, tables["hints"]):
        _known_settings(section, family, where)
    _known_task(tables["task"], where)
    _only(tables["split"], _SPLIT_KEYS, "split", where)
    if not tables["tensors"]:
        raise GrokscopeError(f"reading card {where}: no [tensors], expected names and what they are")
    return Card(
        name=_text(document.get("name", default_name), "name", where),
        title=_text(document.get("title", f"the layout of {default_name}"), "title", where),
        family=family,
        rules=tuple(_rule(name, text, where) for name, text in tables["tensors"].items()),
        function=function,
        hints=tables["hints"],
        task=tables["task"],
        split=tables["split"],
        ignored=tuple((compiled(name), _text(why, name, where)) for name, why in tables["ignored"].items()),
        copies=tuple((compiled(name), _text(of, name, where)) for name, of in tables["copies"].items()),
        source=where,
    )


def compiled(name: str) -> re.Pattern[str]:
    """A name with ``{layer}`` and ``{head}`` in places of numbers, as a pattern of whole names."""
    return re.compile("^" + _PLACE.sub(lambda m: rf"(?P<{m[1]}>\d{{1,4}})", re.escape(name)) + "$")


def _rule(name: str, text: Any, where: str) -> Rule:
    match = _RULE.match(text) if isinstance(text, str) else None
    if match is None:
        raise GrokscopeError(
            f"reading card {where}: tensors.{name!r} is {text!r}, expected 'role: axes', such as "
            "'query: (H k) d'"
        )
    roles = tuple(match["roles"].split())
    for role in roles:
        if role not in TARGETS:
            raise GrokscopeError(
                f"reading card {where}: tensors.{name!r} is a {role!r}, expected one of {', '.join(TARGETS)}"
                f"{nearest(role, TARGETS)}"
            )
    axes = tuple(" ".join(one.split()) for one in match["axes"].split("|"))
    for one in axes:
        check_axes(one, f"reading card {where}: tensors.{name!r}")
    return Rule(compiled(name), roles, axes, int(match["layer"] or 0))


def check_axes(text: str, about: str) -> None:
    """Refuse axes that no tensor could have, in one line."""
    letters = re.findall(r"[A-Za-z]+|\d+", text)
    legal = re.fullmatch(r"\s*(?:\(\s*(?:\w+\s*)+\)|\w+)(?:\s+(?:\(\s*(?:\w+\s*)+\)|\w+))*\s*", text)
    if not legal or any(one not in "vdHGkmncio" and not one.isdigit() for one in letters):
        raise GrokscopeError(
            f"{about} has the axes {text!r}, expected letters of v d H G k m n c i o, numbers and brackets"
        )


def _table(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise GrokscopeError(f"reading card {where}: {key} is {found!r}, expected a table")
    return found


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise GrokscopeError(f"reading card {where}: {key} is {value!r}, expected text")
    return value


def _known_settings(section: Mapping[str, Any], family: Family, where: str) -> None:
    known = {one.name for one in fields(SETTINGS[family])} - {"family", "init_scale"}
    for key in section:
        if key not in known:
            raise GrokscopeError(
                f"reading card {where}: unknown setting {key!r} of a {family}{nearest(key, known)}; "
                f"known are {', '.join(sorted(known))}"
            )


_TASK_KEYS = ("operation", "p", "group", "order", "softmax")
RESIDUES, EVERY_LOGIT = "the residues", "all logits"
_SOFTMAX = (RESIDUES, EVERY_LOGIT)


def softmax_options(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Over which logits the loss was taken: as the card says, or both ways where it does not."""
    return (task["softmax"],) if "softmax" in task else _SOFTMAX


_SPLIT_KEYS = ("recipe", "seed", "train_fraction")


def _only(section: Mapping[str, Any], keys: tuple[str, ...], what: str, where: str) -> None:
    for key in section:
        if key not in keys:
            raise GrokscopeError(
                f"reading card {where}: unknown {what} field {key!r}{nearest(key, keys)}; "
                f"known are {', '.join(keys)}"
            )


def _known_task(section: Mapping[str, Any], where: str) -> None:
    _only(section, _TASK_KEYS, "task", where)
    softmax = section.get("softmax", _SOFTMAX[0])
    if softmax not in _SOFTMAX:
        raise GrokscopeError(
            f"reading card {where}: task.softmax is {softmax!r}, expected one of {', '.join(_SOFTMAX)}"
        )
    p = section.get("p")
    if p is not None and (not isinstance(p, int) or isinstance(p, bool) or p < 2):
        raise GrokscopeError(f"reading card {where}: task.p is {p!r}, expected a whole number of at least 2")


@cache
def builtin_cards() -> tuple[Card, ...]:
    """The dialects known by name, the most specific first."""
    folder = resources.files("grokscope.foreign.function") / "cards"
    found = [
        (one.name, one.read_text(encoding="utf-8")) for one in folder.iterdir() if one.name.endswith(".toml")
    ]
    return tuple(parse_card(text, name, Path(name).stem) for name, text in sorted(found))
