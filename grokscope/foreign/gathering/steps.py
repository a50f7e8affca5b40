"""The step in a file's name, and which files of a folder are the steps of one run.

Scope: names only. A number is a step because of the word before it (``step_500``), because it is all that
varies among the files of a folder (``grok_113_20000``, ``grok_113_40000``), or because nothing else is
there; ``seed_3``, ``p97`` and ``frac0.30`` are settings, and files that differ in them are different runs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

STEP_WORDS = frozenset({
    "step", "steps", "globalstep", "iter", "iters", "iteration", "iterations", "it", "update", "updates",
})  # fmt: skip
EPOCH_WORDS = frozenset({"epoch", "epochs", "ep", "e"})
SAVE_WORDS = frozenset({
    "ckpt", "checkpoint", "chkpt", "cp", "model", "state", "states", "params", "weights", "snapshot", "save",
    "saved", "net", "network", "dict", "statedict", "pytorch",
})  # fmt: skip
SETTING_WORDS = frozenset({
    "seed", "s", "run", "trial", "exp", "experiment", "p", "mod", "prime", "modulus", "wd", "decay", "lr",
    "frac", "fraction", "d", "dim", "dmodel", "width", "depth", "layers", "layer", "heads", "head", "h", "l",
    "n", "k", "m", "c", "v", "version", "fold", "rank", "split", "scale", "batch", "bs", "size", "hidden",
    "embed", "vocab", "group", "data", "dataset", "job", "task", "rep", "replicate", "gpu", "worker", "shard",
    "part", "dmlp", "mlp", "alpha", "beta", "eps", "temp", "ratio", "train", "index", "idx", "id", "no",
})  # fmt: skip
METRIC_WORDS = frozenset(
    {"loss", "acc", "accuracy", "ppl", "score", "metric", "valloss", "valacc", "testacc"}
)

MARKERS: dict[str, str] = {
    **dict.fromkeys(("init", "initial", "untrained", "start"), "init"),
    **dict.fromkeys(("memorize", "memorise", "memorized", "memorised", "memorization", "mem"), "memorize"),
    **dict.fromkeys(("grok", "grokked", "generalize", "generalized", "generalise"), "grok"),
    "best": "best",
    **dict.fromkeys(("final", "last", "end", "latest", "trained"), "final"),
}
"""Words that say when a file was saved without a number."""
MARKER_ORDER = ("init", "memorize", "grok", "best", "", "final")

Kind = Literal["step", "epoch", "save", "setting", "metric"]

_NUMBER = re.compile(r"\d+(?:\.\d+)?[eE][+-]\d+|\d+\.\d+|\d+")
_DATE = re.compile(r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$")
_SEPARATORS = "_-=. +,@~()[]"
_EDGE = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True)
class Number:
    """One number of a name: where it lies (its word included from ``word_start``), and what it is."""

    word_start: int
    start: int
    end: int
    value: int
    kind: Kind


@dataclass(frozen=True)
class Place:
    """Where a file stands among the steps of its run, as far as its name says.

    ``how``: ``step`` and ``epoch`` where a word says so, ``save`` for a number alone, ``marker`` for a word
    alone (in ``marker``), ``none`` for neither.
    """

    name: str
    step: int | None = None
    how: Literal["step", "epoch", "save", "marker", "none"] = "none"
    marker: str = ""


@dataclass(frozen=True)
class NameGroup:
    """Names that belong to one run; ``base`` is what they share, without general words and the step."""

    base: str
    places: tuple[Place, ...]


def numbers_in(stem: str) -> list[Number]:
    """The numbers of a name with what each is; those inside an identifier (``7r4zst7evs``) are none."""
    found: list[Number] = []
    for match in _NUMBER.finditer(stem):
        start, end = match.span()
        letters = re.search(r"[A-Za-z]*$", stem[:start])
        word = letters.group() if letters else ""
        word_start, attached = start - len(word), bool(word)
        suffix = re.match(r"([kKmM])(?![A-Za-z0-9])", stem[end:])
        after = stem[end + len(suffix.group(1)) if suffix else end :]
        following = re.match(rf"[{re.escape(_SEPARATORS)}]?([A-Za-z]+)(?=(.?\d)?)", after)
        right = following.group(1).lower() if following and following.group(2) is None else ""
        glued_right = re.match(r"[A-Za-z]+", after)
        named = _word_kind(word) in ("step", "epoch")
        if word_start and _EDGE.match(stem[word_start - 1]) and not named:
            continue
        if glued_right and _word_kind(glued_right.group()) not in ("step", "epoch"):
            continue
        if not attached:
            before = re.search(rf"([A-Za-z]+)[{re.escape(_SEPARATORS)}]$", stem[:start])
            if before:
                word, word_start = before.group(1), before.start(1)
        kind = _kind(word, attached, right, found[-1] if found else None, stem, start)
        text, scale = match.group(), {"k": 1_000, "m": 1_000_000}.get(suffix[1].lower(), 1) if suffix else 1
        whole = text.isdigit() or (suffix is not None and re.fullmatch(r"\d+\.\d+", text) is not None)
        if not whole and kind != "metric":
            kind = "setting"
        if kind == "save" and (_DATE.match(text) and text != stem):
            kind = "setting"
        if len(text) > 18 and kind != "metric":
            kind = "setting"
        value = (
            round(float(text) * scale) if whole and not text.isdigit() else int(text) * scale if whole else 0
        )
        found.append(Number(word_start, start, end + (1 if suffix else 0), value, kind))
    return found


def _word_kind(word: str) -> Kind | None:
    lower = word.lower()
    if lower in STEP_WORDS or (lower.endswith(("step", "steps", "iter")) and len(lower) < 24):
        return "step"
    if lower in EPOCH_WORDS or (lower.endswith(("epoch", "epochs")) and len(lower) < 24):
        return "epoch"
    if lower in METRIC_WORDS:
        return "metric"
    if lower in SETTING_WORDS:
        return "setting"
    return "save" if lower in SAVE_WORDS else None


def _kind(word: str, attached: bool, right: str, before: Number | None, stem: str, start: int) -> Kind:
    left = _word_kind(word) if word else "save"
    if left in ("step", "epoch", "metric"):
        return left
    # "500_steps", "100epochs": the word behind a number names it where the one before does not
    behind = _word_kind(right) if right else None
    if behind in ("step", "epoch") and right not in ("e", "it", "ep"):
        return behind
    if left is None:
        # an unknown word that touches its number (p97, wd1) is a setting's name
        return "setting" if attached else "save"
    return left


def place_of(stem: str) -> Place:
    """The place of a file or folder whose name is looked at alone."""
    return grouped([stem])[0].places[0]


def folder_step(name: str) -> Place | None:
    """The step that the name of a folder gives to the weights in it, as ``checkpoint-500``; else ``None``.

    Folders are numbered for many reasons, so a word must say step or epoch, or the name must be nothing but
    a number, with a word for a save at most.
    """
    numbers = [one for one in numbers_in(name) if one.kind in ("step", "epoch", "save")]
    for kind in ("step", "epoch"):
        for one in numbers:
            if one.kind == kind:
                return Place(name, one.value, kind)
    bare = re.fullmatch(r"(?:(?:ckpt|checkpoint|chkpt|snapshot|save)[_\-=.]?)?\d{1,18}[kKmM]?", name, re.I)
    return Place(name, numbers[0].value, "save") if bare and numbers and not _DATE.match(name) else None


def grouped(stems: Sequence[str]) -> list[NameGroup]:
    """The names of one folder as runs, in the order of their first names. Equal names stay apart."""
    marked = {stem: found for stem in stems if (found := _marker(stem)) is not None}
    templates: dict[str, list[tuple[str, list[Number]]]] = defaultdict(list)
    plain: list[str] = []
    for stem in stems:
        if stem in marked:
            continue
        numbers = numbers_in(stem)
        open_ones = _candidates(numbers)
        if open_ones:
            blank = open_ones + [
                one for one in numbers if one.kind == "metric" or _is_epoch_beside(one, numbers)
            ]
            templates[_blanked(stem, blank)].append((stem, open_ones))
        else:
            plain.append(stem)
    groups: list[NameGroup] = []
    for members in templates.values():
        for group in _numbered(members):
            only = group.places[0]
            if len(group.places) == 1 and only.how == "save" and not _ends_in_number(only.name):
                # a nameless number somewhere in the name of a single file says nothing
                plain.append(only.name)
            else:
                groups.append(group)
    return _with_markers(groups, plain, marked, stems)


def _candidates(numbers: Sequence[Number]) -> list[Number]:
    """The numbers that may be the step: those so named, else those without a name."""
    for kind in ("step", "epoch"):
        named = [one for one in numbers if one.kind == kind]
        if named:
            return named[-1:]
    return [one for one in numbers if one.kind == "save"]


def _is_epoch_beside(one: Number, numbers: Sequence[Number]) -> bool:
    return one.kind == "epoch" and any(other.kind == "step" for other in numbers)


def _ends_in_number(stem: str) -> bool:
    numbers = numbers_in(stem)
    return bool(numbers) and numbers[-1].kind == "save" and numbers[-1].end == len(stem)


def _blanked(stem: str, numbers: Sequence[Number]) -> str:
    for one in sorted(set(numbers), key=lambda found: -found.start):
        stem = f"{stem[: one.start]}#{stem[one.end :]}"
    return stem


def _base(stem: str, step: Sequence[Number]) -> str:
    """A name without its steps, their words, and the general words at its ends."""
    for one in sorted(set(step), key=lambda found: -found.start):
        word = stem[one.word_start : one.start].strip(_SEPARATORS)
        known = _word_kind(word) in ("step", "epoch", "save", "metric")
        head = stem[: one.word_start if known else one.start]
        if one.kind == "metric":
            head = re.sub(r"(?:train|test|val|valid|eval)[_\-. ]*$", "", head)
        stem = head + stem[one.end :]
    return core_of(stem)


def core_of(stem: str) -> str:
    """A name without the words for a save at its ends."""
    text = stem.strip(_SEPARATORS)
    while text:
        head, tail = (
            re.match(r"[A-Za-z]+(?![A-Za-z0-9])", text),
            re.search(r"(?<![A-Za-z0-9])[A-Za-z]+$", text),
        )
        if head and _word_kind(head.group()) in ("step", "epoch", "save"):
            text = text[head.end() :].strip(_SEPARATORS)
        elif tail and _word_kind(tail.group()) in ("step", "epoch", "save"):
            text = text[: tail.start()].strip(_SEPARATORS)
        else:
            break
    return re.sub(r"[_\-=. ]{2,}", "_", text)


def _marker(stem: str) -> tuple[str, str] | None:
    """(marker, the rest of the name) where a word says when a file was saved and no number does."""
    if any(one.kind in ("step", "epoch") for one in numbers_in(stem)):
        return None
    words = re.split(r"([_\-. ]+)", stem)
    if words[-1].lower() in MARKERS:
        return MARKERS[words[-1].lower()], core_of("".join(words[:-2]))
    others = [word for word in words[1:] if word.strip(_SEPARATORS)]
    if words[0].lower() in MARKERS and all(_word_kind(word) == "save" for word in others):
        return MARKERS[words[0].lower()], ""
    return None


def _numbered(members: Sequence[tuple[str, list[Number]]]) -> list[NameGroup]:
    """The runs among names that are equal but for their candidate numbers."""
    index = _varying(members)
    runs: dict[tuple[int, ...], list[tuple[str, list[Number]]]] = defaultdict(list)
    together = index < 0
    for stem, numbers in members:
        rest = () if together else tuple(one.value for i, one in enumerate(numbers) if i != index)
        runs[rest].append((stem, numbers))
    index = -index - 1 if index < 0 else index
    groups = []
    for run in runs.values():
        places = []
        for stem, numbers in run:
            kind = numbers[index].kind
            how: Literal["step", "epoch", "save"] = kind if kind in ("step", "epoch") else "save"
            places.append(Place(stem, numbers[index].value, how))
        stem, numbers = run[0]
        read = numbers_in(stem)
        beside = [one for one in read if one.kind == "metric" or _is_epoch_beside(one, read)]
        steps = numbers if together else [numbers[index]]
        groups.append(NameGroup(_base(stem, [*steps, *beside]), tuple(places)))
    return groups


def _varying(members: Sequence[tuple[str, list[Number]]]) -> int:
    """Which candidate is the step; ``-1 - index`` where the others vary with it and make no other runs."""
    count = len(members[0][1])
    columns = [[numbers[i].value for _, numbers in members] for i in range(count)]
    varying = [i for i in range(count) if len(set(columns[i])) > 1]
    if len(varying) < 2:
        return varying[0] if varying else count - 1
    # epoch and step of the same save grow together
    order = sorted(range(len(members)), key=lambda row: columns[varying[0]][row])
    rising = all(
        len(set(columns[i])) == len(members)
        and all(columns[i][a] < columns[i][b] for a, b in pairwise(order))
        for i in varying
    )
    if rising and len(members) > 2:
        return -1 - max(varying, key=lambda i: max(columns[i]))
    return max(varying, key=lambda i: (len(set(columns[i])), i))


def _with_markers(
    groups: list[NameGroup], plain: Sequence[str], marked: dict[str, tuple[str, str]], stems: Sequence[str]
) -> list[NameGroup]:
    """Names with a word instead of a number put to the run whose other names agree with theirs."""
    wanted: dict[str, list[Place]] = defaultdict(list)
    for stem in stems:
        if stem in marked:
            marker, base = marked[stem]
            wanted[base].append(Place(stem, None, "marker", marker))
    alone: list[NameGroup] = []
    bases = {group.base for group in groups}
    for stem in plain:
        base = core_of(stem)
        # a bare "model" beside numbered files, or a name that a marked one repeats
        if (base == "" and bases == {""}) or base in wanted:
            wanted[base].append(Place(stem))
        else:
            alone.append(NameGroup(base, (Place(stem),)))
    for base, places in wanted.items():
        fitting = [group for group in groups if group.base == base]
        if len(fitting) == 1:
            groups[groups.index(fitting[0])] = NameGroup(base, fitting[0].places + tuple(places))
        else:
            alone.append(NameGroup(base, tuple(places)))
    first = {stem: index for index, stem in reversed(list(enumerate(stems)))}
    return sorted([*groups, *alone], key=lambda group: min(first[place.name] for place in group.places))
