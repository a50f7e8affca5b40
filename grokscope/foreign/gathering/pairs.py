"""Recorded splits: which operand pairs were trained or tested on, where a file lists them.

Scope: lists of pairs, indices of pairs and masks over pairs, inside a checkpoint or in a file beside it. What
an index counts is for ``split`` to find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from grokscope.foreign.gathering.facts import INSIDE, Facts
from grokscope.foreign.gathering.quantities import side_of, words_of

MAX_ENTRIES = 4_000_000
MAX_COLUMNS = 8
MAX_FOUND = 32

Role = Literal["train", "test"]
Kind = Literal["pairs", "indices", "mask"]

_INDEX_WORDS = {"idx", "idxs", "index", "indices", "indexes", "inds", "ind", "ids", "perm", "permutation"}
_PAIR_WORDS = {
    "data", "dataset", "pairs", "pair", "inputs", "input", "x", "xs", "set", "examples", "samples", "tokens",
    "tuples",
}  # fmt: skip
_ANSWER_WORDS = {"y", "ys", "labels", "label", "targets", "target", "answers", "outputs", "output"}
_HOLDER_WORDS = {"split", "splits", "partition"}
_NEUTRAL = {"the", "is", "in", "mask", "my", "all", "list", "tensor", "array"} | _HOLDER_WORDS


@dataclass(frozen=True)
class PairList:
    """One recorded list of operand pairs.

    Attributes:
        role: whether these are the pairs trained on or those held out.
        kind: ``pairs``: (N, k) int64, the operands in the first columns, whatever else the author kept (an
            "=" token, the answer) in the others; ``indices``: (N,) int64; ``mask``: (N,) bool, ``True`` for
            the pairs of ``role``.
        source: the name and the file.
    """

    name: str
    role: Role
    kind: Kind
    values: Tensor
    source: str


def recorded_pairs(facts: Facts, inside: Mapping[str, Any]) -> list[PairList]:
    """Every recorded list of training or test pairs, those inside the file first.

    Args:
        inside: what lies beside the weights in a file.
    """
    found: list[PairList] = []
    for source, document, path in _sources(facts, inside):
        for name, value in _values_in(document, path):
            if len(found) >= MAX_FOUND:
                return found
            # the file's name may say what the names in it leave open, and is not one of them
            found += _read(name, value, source, ".".join(name[1:] if path and name[1:] else name))
    return found


def _sources(facts: Facts, inside: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    yield INSIDE, inside, ()
    for name, document in facts.documents.items():
        yield name, document, _of_file(name)
    for name, rows in facts.tables.items():
        columns = list(rows[0]) if rows else []
        numbers = [[row[column] for column in columns] for row in rows] if len(columns) <= MAX_COLUMNS else []
        if numbers and all(cell.isdecimal() and len(cell) < 10 for row in numbers for cell in row):
            yield name, [[int(cell) for cell in row] for row in numbers], _of_file(name)


def _values_in(document: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(document, Mapping):
        if len(path) < 5:
            for key, value in document.items():
                yield from _values_in(value, (*path, str(key)))
    elif isinstance(document, list | Tensor) and path:
        yield path, document


def _read(path: Sequence[str], value: Any, source: str, name: str) -> list[PairList]:
    """The pair lists under one name; a list of two under ``split`` is the training part and the rest."""
    leaf = set(words_of(path[-1]))
    if leaf & _ANSWER_WORDS:
        return []
    role = side_of(path[-1]) or next((side for name in reversed(path[:-1]) if (side := side_of(name))), None)
    if not all(_is_known(word) for word in leaf):
        return []
    if role is None and leaf & _HOLDER_WORDS and isinstance(value, list) and len(value) == 2:
        parts = [_shaped(part, leaf) for part in value]
        if all(part is not None for part in parts):
            return [
                PairList(name, side, part[0], part[1], f"{name} in {source}")
                for side, part in zip(("train", "test"), parts, strict=True)
                if part is not None
            ]
    if role not in ("train", "test"):
        return []
    shaped = _shaped(value, leaf)
    if shaped is None:
        return []
    return [PairList(name, "train" if role == "train" else "test", *shaped, f"{name} in {source}")]


def _is_known(word: str) -> bool:
    return word in _INDEX_WORDS | _PAIR_WORDS | _NEUTRAL or side_of(word) is not None


def _of_file(name: str) -> tuple[str, ...]:
    """What the name of a file says of its content: its words for splits, whatever run it belongs to."""
    stem = Path(name).stem
    return ("_".join(word for word in words_of(stem) if _is_known(word)) or stem,)


def _shaped(value: Any, words: set[str]) -> tuple[Kind, Tensor] | None:
    """What a value is by its shape: truth values are a mask, rows of whole numbers pairs, others indices."""
    tensor = _tensor(value)
    if tensor is None or not 2 <= tensor.numel() <= MAX_ENTRIES or min(tensor.shape) < 1:
        return None
    if tensor.is_floating_point():
        whole = tensor.isfinite().all() and tensor.abs().max() < 2**31 and torch.equal(tensor, tensor.round())
        if not whole:
            return None
        tensor = tensor.to(torch.int64)
    if tensor.dtype == torch.bool:
        square = tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]
        return ("mask", tensor.reshape(-1)) if tensor.ndim == 1 or square else None
    tensor = tensor.to(torch.int64)
    if int(tensor.min()) < 0 or int(tensor.max()) >= 2**31:
        return None
    if "mask" in words or "is" in words:
        zero_one = int(tensor.max()) <= 1 and tensor.ndim <= 2
        return ("mask", tensor.to(torch.bool).reshape(-1)) if zero_one else None
    if tensor.ndim == 1:
        return "indices", tensor
    return ("pairs", tensor) if tensor.ndim == 2 and 2 <= tensor.shape[1] <= MAX_COLUMNS else None


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if not value.is_complex() else None
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_ENTRIES:
        return None
    types = set(map(type, value))
    if types == {bool} or types == {int}:
        rows: Any = value
    elif types == {list}:
        rows = [_row(one) for one in value]
        if any(row is None or len(row) != len(rows[0] or ()) for row in rows):
            return None
    elif all(isinstance(one, Tensor) and one.ndim == 1 and not one.is_complex() for one in value):
        sizes = {one.shape for one in value}
        return torch.stack(value) if len(sizes) == 1 else None
    else:
        return None
    try:
        return torch.tensor(rows)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return None


def _row(value: list[Any]) -> list[int] | None:
    """One pair with what follows it: (a, b), (a, b, c) or ((a, b), c)."""
    if len(value) > MAX_COLUMNS:
        return None
    flat: list[int] = []
    for one in value:
        if isinstance(one, list) and one and len(one) <= MAX_COLUMNS:
            flat += [whole for part in one if (whole := _whole(part)) is not None]
        elif (whole := _whole(one)) is not None:
            flat.append(whole)
        else:
            return None
    return flat or None


def _whole(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None
