"""What was written down about a run against itself: documents, optimiser state, names and weights.

Scope: every comparison here is a finding, never an error, since a stranger's file may say anything. Values
are compared only where both sides speak of the same thing without doubt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grokscope.foreign.evidence.findings import AuditContext, Finding, finding, quoted
from grokscope.foreign.gathering.curves import settings_in
from grokscope.foreign.gathering.quantities import (
    DECAY_NAMES,
    FRACTION_NAMES,
    LEARNING_RATE_NAMES,
    SEED_NAMES,
)

RELATIVE = 1e-6

_MODULUS = ("p", "prime", "modulus", "mod", "modulo")
_CLASSES = ("c", "n_classes", "num_classes")
_GROUP = ("group_parameter",)
_WIDTHS = ("d_model", "embed_dim", "d_embed", "embedding_dim", "hidden_size", "n_embd")
_HIDDEN = ("d_mlp", "d_hidden", "hidden_dim", "mlp_dim", "d_ff", "ffn_dim", "intermediate_size")
_VOCABULARY = ("vocab_size", "n_vocab", "d_vocab", "num_tokens", "n_tokens")
_HEADS = ("n_heads", "n_head", "num_heads", "nhead", "num_attention_heads")
_LAYERS = ("n_layers", "n_layer", "num_layers", "num_hidden_layers")
_COUNTS = ("n_params", "num_params", "n_parameters", "num_parameters", "total_params")

SETTINGS: dict[str, tuple[str, ...]] = {
    "learning rate": LEARNING_RATE_NAMES,
    "weight decay": DECAY_NAMES,
    "training fraction": FRACTION_NAMES,
    "seed": SEED_NAMES,
    "modulus": _MODULUS,
    "width": _WIDTHS,
    "hidden width": _HIDDEN,
    "number of heads": _HEADS,
    "number of layers": _LAYERS,
}
"""What is compared, and the names of it in settings."""

NAME_WORDS: dict[str, tuple[str, ...]] = {
    "learning rate": ("lr", "learning_rate", "learningrate"),
    "weight decay": ("wd", "decay", "weight_decay", "weightdecay"),
    "training fraction": ("frac", "fraction", "frac_train", "train_frac", "train_fraction", "trainfrac"),
    "seed": ("seed",),
    "modulus": ("p", "mod", "prime", "modulus"),
    "width": ("d_model", "dmodel"),
    "hidden width": ("d_mlp", "dmlp", "d_hidden", "dhidden"),
    "number of heads": ("n_heads", "nheads", "heads"),
    "number of layers": ("n_layers", "nlayers", "layers"),
}
"""What is compared, and the words for it in names of files and folders, in lower case."""

_NUMBER = r"(?:10\^?-\d|\d+(?:[.]\d+)?(?:e-?\d+)?|\d+p\d+|[.]\d+)"
_LAYER = re.compile(r"(?:^|[.])(?:blocks|layers|layer|h|encoder)[.](\d+)[.]")
_BETA = re.compile(r"(?:adam_)?beta_?([12])$")


@dataclass(frozen=True)
class Said:
    """One number of a setting: ``key`` as written, ``source`` the document."""

    key: str
    value: float
    source: str

    @property
    def told(self) -> str:
        return f"{quoted(self.key)} in {quoted(self.source)} is {self.value:g}"


def conflicts(context: AuditContext) -> list[Finding]:
    """Every disagreement among documents, optimiser state, names and weights."""
    said = {about: list(_said(context, names)) for about, names in SETTINGS.items()}
    return [
        *_documents(context, said),
        *_against_optimiser(context, said),
        *_against_names(context, said),
        *_against_weights(context),
    ]


def unrecorded_settings(context: AuditContext) -> list[Finding]:
    """What an optimiser step needs and nobody wrote down."""
    groups = _groups(context)
    missing = [
        about
        for about, key in (("learning rate", "lr"), ("weight decay", "weight_decay"))
        if not list(_said(context, SETTINGS[about]))
        and not any(_number(group.get(key)) is not None for group in groups)
    ]
    if not missing:
        return []
    what = " and ".join(f"the {one}" for one in missing)
    evidence = f"{what} stand neither beside the weights nor in an optimiser state: no step can be replayed"
    resolve = f"write them into a config.json beside the weights, then {context.command('--name NAME')}"
    return [finding("optimiser settings are not recorded", evidence, resolve=resolve, missing=missing)]


def said_about(context: AuditContext, about: str) -> list[Said]:
    """Every number that the documents give for a setting."""
    return list(_said(context, SETTINGS[about]))


def _said(context: AuditContext, names: Iterable[str]) -> Iterator[Said]:
    documents = [("the file itself", context.inside), *context.facts.documents.items()]
    for source, document in documents:
        here: dict[str, list[Said]] = {}
        for table in settings_in(document):
            for key, value in table.items():
                if str(key).lower() in names and (number := _number(value)) is not None:
                    here.setdefault(str(key), []).append(Said(str(key), number, source))
        for each in here.values():
            # a document that gives several values speaks of several runs
            if all(_same(one.value, each[0].value) for one in each):
                yield each[0]


def _documents(context: AuditContext, said: Mapping[str, list[Said]]) -> list[Finding]:
    found = []
    for about, each in said.items():
        by_key: dict[str, list[Said]] = {}
        for one in each:
            by_key.setdefault(one.key.lower(), []).append(one)
        for ones in by_key.values():
            other = next((one for one in ones if not _same(one.value, ones[0].value)), None)
            if other is None:
                continue
            evidence = f"{about}: {ones[0].told}, {other.told}"
            resolve = context.command("--card FILE")
            numbers: dict[str, Any] = {"setting": about, "values": [ones[0].value, other.value]}
            found.append(
                finding("the record contradicts itself", evidence, "warning", resolve=resolve, **numbers)
            )
    return found


def _against_optimiser(context: AuditContext, said: Mapping[str, list[Said]]) -> list[Finding]:
    groups, found = _groups(context), []
    for about, key in (("learning rate", "lr"), ("weight decay", "weight_decay")):
        held = sorted({number for group in groups if (number := _number(group.get(key))) is not None})
        first = {number for group in groups if (number := _number(group.get(f"initial_{key}"))) is not None}
        for one in said[about]:
            if not held or any(_same(one.value, number) for number in (*held, *first)):
                continue
            listed = ", ".join(f"{number:g}" for number in held)
            evidence = f"{about}: {one.told}, in the optimiser state {listed}"
            scheduled = about == "learning rate" and not first
            evidence += " (a schedule would explain it)" if scheduled else ""
            resolve = context.command("--card FILE")
            numbers: dict[str, Any] = {"setting": about, "recorded": one.value, "optimiser": held}
            severity = "note" if scheduled else "warning"
            name = "the settings contradict the optimiser state"
            found.append(finding(name, evidence, severity, resolve=resolve, **numbers))
            break
    betas = _betas(context)
    for group in groups:
        held_betas = group.get("betas")
        if betas is None or not isinstance(held_betas, list | tuple) or len(held_betas) != 2:
            continue
        pair = [_number(one) for one in held_betas]
        written, source = betas
        if all(one is not None and _same(one, other) for one, other in zip(pair, written, strict=True)):
            continue
        here = f"betas: {written[0]:g}, {written[1]:g} in {quoted(source)}"
        evidence = f"{here}, in the optimiser state {pair[0]}, {pair[1]}"
        numbers: dict[str, Any] = {"setting": "betas", "recorded": list(written), "optimiser": pair}
        found.append(finding("the settings contradict the optimiser state", evidence, "warning", **numbers))
        break
    return found


def _against_names(context: AuditContext, said: Mapping[str, list[Said]]) -> list[Finding]:
    """Numbers in the names of the file and its folders, the file first: ``wd1``, ``p_23``, ``lr=1e-3``."""
    known: dict[str, list[Said]] = {about: list(each) for about, each in said.items()}
    for about, key in (("learning rate", "lr"), ("weight decay", "weight_decay")):
        held = {number for group in _groups(context) if (number := _number(group.get(key))) is not None}
        # biases and embeddings are often spared the decay
        known[about] += [Said(key, number, "the optimiser state") for number in sorted(held - {0.0} or held)]
    if context.task.n_tokens:
        known["modulus"] = [Said("the modulus", float(context.task.n_tokens), "the weights")]
    if context.split_known and not known["training fraction"]:
        share = float(context.task.train_mask.double().mean())
        known["training fraction"] = [Said("the training fraction", share, "the split")]
    found, done = [], set()
    for name in context.names:
        for about, text, readings in numbers_in_name(name):
            others = known.get(about, [])
            if (about, text) in done or not others:
                continue
            done.add((about, text))
            slack = 0.01 if about == "training fraction" else RELATIVE
            odd = [one for one in others if not any(_same(one.value, reading, slack) for reading in readings)]
            agreeing = [one for one in others if one not in odd]
            # a run has several seeds, of which the name need give but one
            if not odd or (about == "seed" and agreeing):
                continue
            evidence = f"{quoted(name)} says {about} {readings[0]:g}, but {odd[0].told}"
            evidence += f" (and {agreeing[0].told})" if agreeing else ""
            numbers: dict[str, Any] = {"setting": about, "named": readings[0], "recorded": odd[0].value}
            resolve = context.command("--card FILE")
            found.append(
                finding("the name contradicts the record", evidence, "warning", resolve=resolve, **numbers)
            )
    return found


def numbers_in_name(name: str) -> list[tuple[str, str, tuple[float, ...]]]:
    """(setting, text, what the text may mean) for every word and number in a name.

    ``wd_10-1`` is read as 10⁻¹, ``frac30`` as 30 or 0.30, ``frac03`` as 3 or 0.3, ``lr1e-3`` as written,
    ``frac0p3`` with p for the point.
    """
    found = []
    for about, words in NAME_WORDS.items():
        choice = "|".join(
            re.escape(word).replace("_", "[_-]?") for word in sorted(words, key=len, reverse=True)
        )
        pattern = rf"(?<![A-Za-z0-9])(?:{choice})\s*[=_:-]?\s*({_NUMBER})(?![0-9A-Za-z])"
        for match in re.finditer(pattern, name, re.IGNORECASE):
            readings = _readings(match[1], about)
            if readings:
                found.append((about, match[0], readings))
    return found


def _readings(text: str, about: str) -> tuple[float, ...]:
    power = re.fullmatch(r"10\^?-(\d)", text)
    if power:
        return (10.0 ** -int(power[1]),)
    point = re.fullmatch(r"(\d+)p(\d+)", text)
    value = float(f"{point[1]}.{point[2]}") if point else float(text)
    if not math.isfinite(value) or (about == "modulus" and (value < 2 or value != int(value))):
        return ()
    readings = [value]
    if about == "training fraction" and text.isdigit():
        readings = [value / 100, value] if value > 1 else [value]
    if text.isdigit() and len(text) > 1 and text.startswith("0") and about != "seed":
        readings.append(float(f"0.{text[1:]}"))
    return tuple(readings)


def _against_weights(context: AuditContext) -> list[Finding]:
    weights = {name: value for name, value in context.raw.items() if name not in context.ignored}
    sizes = {int(size) for value in weights.values() for size in value.shape}
    found: list[Finding] = []

    def report(one: Said, held: str) -> None:
        evidence = f"{one.told}, {held}"
        numbers: dict[str, Any] = {"setting": one.key, "recorded": one.value}
        found.append(
            finding(
                "the settings contradict the weights",
                evidence,
                "warning",
                resolve=context.command("--card FILE"),
                **numbers,
            )
        )

    tokens, classes = context.task.n_tokens, context.task.n_classes
    if tokens:
        for one in _whole(_said(context, _MODULUS)):
            if one.value not in (tokens, classes):
                report(one, f"the weights know {tokens} residues")
        for one in _whole(_said(context, _CLASSES)):
            if one.value > 2 and not classes <= one.value <= classes + 3 and one.value != tokens:
                report(one, f"the weights have {classes} answers")
        for one in _whole(_said(context, _GROUP)):
            if tokens not in _orders(int(one.value)):
                report(one, f"the weights know {tokens} elements")
    for names, multiples in ((_WIDTHS, (1, 3)), (_HIDDEN, (1, 2)), (_VOCABULARY, (1,))):
        for one in _whole(_said(context, names)):
            if sizes and not any(one.value * times in sizes for times in multiples):
                listed = ", ".join(str(size) for size in sorted(sizes))
                report(one, f"no weight has such an axis (axes: {listed})")
    heads = getattr(getattr(context.model, "settings", None), "n_heads", None)
    stacked = {int(value.shape[0]) for value in weights.values() if value.ndim == 3}
    for one in _whole(_said(context, _HEADS)):
        if stacked and one.value not in stacked and heads is not None and one.value != heads:
            report(one, f"the weights have {heads} heads")
    layers = {int(match[1]) for name in weights for match in _LAYER.finditer(name)}
    for one in _whole(_said(context, _LAYERS)):
        if layers and one.value != max(layers) + 1:
            report(one, f"the weights have {max(layers) + 1} layers")
    count = sum(value.numel() for value in weights.values())
    for one in _whole(_said(context, _COUNTS)):
        if weights and one.value != count:
            report(one, f"the weights are {count} numbers")
    return found


def _orders(n: int) -> set[int]:
    """Sizes that a group called by ``n`` may have: cyclic, dihedral, symmetric, alternating."""
    factorial = math.factorial(n) if n < 20 else 0
    return {n, 2 * n, factorial, factorial // 2}


def _whole(each: Iterable[Said]) -> Iterator[Said]:
    seen: set[tuple[str, float]] = set()
    for one in each:
        if one.value == int(one.value) and one.value >= 1 and (one.key, one.value) not in seen:
            seen.add((one.key, one.value))
            yield one


def _groups(context: AuditContext) -> list[Mapping[str, Any]]:
    groups = (context.optimizer or {}).get("param_groups")
    return [group for group in groups if isinstance(group, Mapping)] if isinstance(groups, list) else []


def _betas(context: AuditContext) -> tuple[tuple[float, float], str] | None:
    for source, document in [("the file itself", context.inside), *context.facts.documents.items()]:
        for table in settings_in(document):
            pair = table.get("betas")
            if isinstance(pair, list | tuple) and len(pair) == 2:
                one, two = _number(pair[0]), _number(pair[1])
                if one is not None and two is not None:
                    return (one, two), source
            single = {
                match[1]: value for key, value in table.items() if (match := _BETA.match(str(key).lower()))
            }
            one, two = _number(single.get("1")), _number(single.get("2"))
            if one is not None and two is not None:
                return (one, two), source
    return None


def _number(value: Any) -> float | None:
    """A finite number, also one written as text; no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e300 else None


def _same(one: float, other: float, relative: float = RELATIVE) -> bool:
    return abs(one - other) <= relative * max(abs(one), abs(other))
