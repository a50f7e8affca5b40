"""What was recorded beside the weights: settings and metrics, as plain data, looked up by name.

Scope: the documents in the folder of the weights, and what lies inside a checkpoint besides weights. How
people call things is in ``quantities``, how histories are written in ``curves``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from grokscope.foreign.gathering.curves import (
    Curve,
    Lengths,
    curves_in,
    curves_in_rows,
    lengths_in,
    settings_in,
)
from grokscope.foreign.gathering.documents import documents_beside
from grokscope.foreign.gathering.numerals import number, printed_resolution, whole
from grokscope.foreign.gathering.quantities import (
    ACTIVATION_NAMES,
    DECAY_NAMES,
    FRACTION_NAMES,
    LEARNING_RATE_NAMES,
    LENGTH_NAMES,
    OPERATION_NAMES,
    RAN_NAMES,
    SEED_NAMES,
    STEP_NAMES,
    quantity_of,
)

__all__ = [
    "ACTIVATION_NAMES",
    "DECAY_NAMES",
    "FRACTION_NAMES",
    "LEARNING_RATE_NAMES",
    "LENGTH_NAMES",
    "OPERATION_NAMES",
    "SEED_NAMES",
    "STEP_NAMES",
    "Facts",
    "Recorded",
    "facts_beside",
    "recorded",
    "recorded_curves",
    "recorded_norms",
    "recorded_numbers",
    "settings_in",
    "whole",
]

MAX_KEPT_CHARACTERS = 65536
"""Longest JSON text of one file that is copied into a run; longer ones are only named."""
MAX_KEPT_POINTS = 400
"""Points of one recorded curve that are copied into a run."""
MAX_KEPT_CURVES = 64
INSIDE = "the file itself"


@dataclass(frozen=True)
class Recorded:
    """A number that the authors wrote down; ``resolution`` is half its last printed digit, 0 if unrounded."""

    quantity: str
    step: int
    value: float
    source: str
    resolution: float = 0.0

    @property
    def place(self) -> str:
        """The file that says so."""
        return self.source.rpartition(" in ")[2]


@dataclass(frozen=True)
class Facts:
    """What lies beside the weights of one run.

    Attributes:
        documents: name of a file → its content as plain data; that of a file of arrays or pairs, such as
            ``train_data.pth``, may hold tensors.
        tables: name of a CSV file → its rows of text.
        unread: name → why it was left alone.
        paths: name → where the file lies. Names are relative to the folder of the weights.
    """

    documents: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)

    def find(self, names: Sequence[str], inside: Mapping[str, Any] | None = None) -> tuple[Any, str] | None:
        """The value under the first of ``names`` that occurs, and where: inside the file, then beside it.

        Numbers (tensors of one among them), truth values and text count, at any depth of nesting.
        """
        sources: list[tuple[str, Any]] = [(INSIDE, inside)] if inside else []
        sources += list(self.documents.items())
        tables = [(source, table) for source, document in sources for table in _tables_in(document)]
        for name in names:
            for source, table in tables:
                if name in table and (value := _scalar(table[name])) is not None:
                    return value, f"{name} in {source}"
        return None

    def kept(self, inside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The documents small enough to copy, JSON-ready; the rest as a remark; curves thinned."""
        found: dict[str, Any] = {}
        for name, document in self.documents.items():
            found[name] = _copied(document)
        for name, rows in self.tables.items():
            found[name] = f"{len(rows)} rows: {', '.join(rows[0])[:1000] if rows else 'no columns'}"
        curves = [_curve_json(curve) for curve in recorded_curves(self, inside or {})[:MAX_KEPT_CURVES]]
        if curves:
            found["curves"] = curves
        return found | {name: f"not read: {why}" for name, why in self.unread.items()}


def facts_beside(
    folder: Path,
    stem: str | Collection[str],
    alone: bool,
    *,
    read: dict[Path, Any] | None = None,
    without: Collection[str] = (),
) -> Facts:
    """The documents of ``folder`` that belong to the weights called ``stem``, or any of several stems.

    Those of general names (``config.json``, ``metrics.csv``) belong to all weights of the folder, others
    to the weights whose stem they share; where the weights are ``alone`` in the folder, all do. Where the
    folder only holds weights (``checkpoints``), those one level up belong as well.
    """
    stems = [stem] if isinstance(stem, str) else stem
    found = documents_beside(folder, stems, alone, read, without)
    return Facts(found.plain, found.tables, found.unread, found.paths)


def recorded_numbers(facts: Facts, inside: Mapping[int, Mapping[str, Any]]) -> list[Recorded]:
    """Every recorded loss and accuracy at a saved step; ``inside`` maps saved steps to a file's scalars.

    Documents without steps are taken to speak of the last save, unless they say how far the run went. A
    number written twice counts once. Accuracies in percent become shares.
    """
    return [one for one in recorded(facts, inside) if not one.quantity.startswith("norm.")]


def recorded_norms(facts: Facts, inside: Mapping[int, Mapping[str, Any]]) -> list[Recorded]:
    """Every recorded norm of all weights at a saved step: ``norm.total``, or ``norm.squared`` for its square.

    Arguments as those of :func:`recorded_numbers`.
    """
    return [one for one in recorded(facts, inside) if one.quantity.startswith("norm.")]


def recorded_curves(facts: Facts, inside: Mapping[str, Any], last_step: int | None = None) -> list[Curve]:
    """Every recorded history of a loss, an accuracy or a norm, inside a file and beside it.

    Args:
        inside: what lies beside the weights in a file, that of the last save by choice.
        last_step: the step of that file where it is known.
    """
    return _curves(facts, inside, _lengths(facts, inside, last_step))


def _curves(facts: Facts, inside: Mapping[str, Any], lengths: Lengths) -> list[Curve]:
    found = curves_in(INSIDE, inside, lengths)
    for name, document in facts.documents.items():
        found += curves_in(name, document, lengths, (Path(name).stem,))
    for name, rows in facts.tables.items():
        found += curves_in_rows(name, rows, lengths, (Path(name).stem,))
    return found


def _lengths(facts: Facts, inside: Mapping[str, Any], last_step: int | None) -> Lengths:
    ends = [end for name in STEP_NAMES if (end := whole(inside.get(name))) is not None]
    if last_step:
        ends.append(last_step)
    return lengths_in([inside, *facts.documents.values()], (*RAN_NAMES, *LENGTH_NAMES), ends)


def recorded(facts: Facts, inside: Mapping[int, Mapping[str, Any]]) -> list[Recorded]:
    """The numbers of :func:`recorded_numbers` and :func:`recorded_norms` together."""
    if not inside:
        return []
    last, saved = max(inside), frozenset(inside)
    found = _in_files(inside)
    for source, document in facts.documents.items():
        found += _in_document(source, document, inside, last)
    # a later file holds the histories of the earlier ones, but the very last may be bare
    for step in sorted(inside, reverse=True):
        lengths = replace(_lengths(Facts(), inside[step], step), saved=saved)
        curves = _curves(Facts(), inside[step], lengths) if inside[step] else []
        if curves:
            break
    else:
        curves = []
    curves += _curves(facts, {}, replace(_lengths(facts, {}, last), saved=saved))
    for curve in curves:
        if curve.spacing == "assumed":
            continue
        found += [
            Recorded(curve.quantity, step, value, curve.source, curve.resolution)
            for step, value in zip(curve.steps, curve.values, strict=True)
            if step in inside
        ]
    once: dict[tuple[str, int, float], Recorded] = {}
    for one in found:
        once.setdefault((one.quantity, one.step, one.value), one)
    return sorted(once.values(), key=lambda one: (one.step, one.quantity, one.source))


def _in_files(inside: Mapping[int, Mapping[str, Any]]) -> list[Recorded]:
    """The numbers beside the weights in each file; percent is seen over all files together."""
    series: dict[tuple[str, str], dict[int, float]] = {}
    for step, table in inside.items():
        for quantity, (path, value) in _outermost(table).items():
            series.setdefault((quantity, ".".join(path)), {})[step] = value
    found: list[Recorded] = []
    for (quantity, name), values in series.items():
        share, remark = _share(quantity, list(values.values()))
        found += [
            Recorded(quantity, step, value * share, f"{name}{remark} in {INSIDE}")
            for step, value in values.items()
            if share
        ]
    return found


def _in_document(
    source: str, document: Any, inside: Mapping[int, Mapping[str, Any]], last: int
) -> list[Recorded]:
    """Numbers that stand alone in a document, without a history."""
    if not isinstance(document, Mapping):
        return []
    found = _outermost(document)
    kinds: dict[str, list[float]] = {}
    for quantity, (_, value) in found.items():
        kinds.setdefault(quantity.partition(".")[0], []).append(value)
    told: list[Recorded] = []
    for quantity, (path, value) in found.items():
        kind = quantity.partition(".")[0]
        table: Any = document
        for name in path[:-1]:
            table = table[name]
        named = (whole(table.get(name)) for name in (*STEP_NAMES, *RAN_NAMES))
        step = next((one for one in named if one is not None), last)
        share, remark = _share(quantity, kinds[kind])
        if share and step in inside:
            # norms have scales of their own
            printed = printed_resolution([value] if kind == "norm" else kinds[kind])
            words = f"{'.'.join(path)}{remark} in {source}"
            told.append(Recorded(quantity, step, value * share, words, printed * share))
    return told


def _outermost(document: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], float]]:
    """Each quantity where it stands least deep in nested dicts; left out where equals disagree."""
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for path, value in _numbers_in(document, ()):
        quantity = quantity_of(path)
        if quantity is not None:
            found.setdefault(quantity, []).append((path, value))
    chosen: dict[str, tuple[tuple[str, ...], float]] = {}
    for quantity, places in found.items():
        depth = min(len(path) for path, _ in places)
        top = [(path, value) for path, value in places if len(path) == depth]
        # several names in one table are fine, several tables speak of several things
        if len({path[:-1] for path, _ in top}) == 1 or len({value for _, value in top}) == 1:
            chosen[quantity] = top[0]
    return chosen


def _numbers_in(
    document: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in document.items():
        here = (*path, str(key))
        if isinstance(value, Mapping):
            if len(here) < 5:
                yield from _numbers_in(value, here)
        elif not isinstance(value, str) and (read := number(value)) is not None:
            yield here, read


def _share(quantity: str, values: Sequence[float]) -> tuple[float, str]:
    """What to multiply an accuracy by, and the remark; 0 where it can be no accuracy."""
    if not quantity.startswith("accuracy."):
        return 1.0, ""
    if min(values) < 0 or max(values) > 100:
        return 0.0, ""
    return (0.01, " (in percent)") if max(values) > 1 + 1e-6 else (1.0, "")


def _scalar(value: Any) -> Any:
    """A number, truth value or text as such, else ``None``."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_complex() else None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str) and value != "" else None


def _tables_in(document: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """A document's dicts, outermost first: itself, those nested in it, those in a list of rows."""
    if isinstance(document, Mapping):
        yield document
        nested = list(document.values())
    elif isinstance(document, list):
        # lists of numbers hold no dicts and may be very long
        nested = document if document and isinstance(document[0], Mapping | list) else []
    else:
        return
    if depth < 4:
        for value in nested:
            if isinstance(value, Mapping | list):
                yield from _tables_in(value, depth + 1)


def _copied(document: Any) -> Any:
    try:
        text = json.dumps(document, allow_nan=False, default=_described)
    except (ValueError, TypeError, RecursionError):
        return "not plain data, not copied"
    short = len(text) <= MAX_KEPT_CHARACTERS
    return json.loads(text) if short else f"{len(text)} characters, not copied"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _curve_json(curve: Curve) -> dict[str, Any]:
    thin = curve.thinned(MAX_KEPT_POINTS)
    return {
        "quantity": thin.quantity,
        "source": thin.source,
        "spacing": thin.spacing,
        "points": len(curve.steps),
        "steps": list(thin.steps),
        "values": list(thin.values),
    }
