"""Recorded histories: a quantity at many steps, wherever and however it was written down.

Scope: columns of a table, rows of a list, one entry per epoch, and lists inside a checkpoint, whose steps may
have to be worked out from their length; what was worked out or assumed is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from grokscope.foreign.gathering.numerals import number, resolution, whole
from grokscope.foreign.gathering.quantities import STEP_NAMES, bare_kind, norm_of, quantity_of, words_of

MAX_POINTS = 5_000_000
MAX_DEPTH = 6

Spacing = Literal["recorded", "deduced", "assumed"]

_STEP_WORDS = {"step", "steps", "epoch", "epochs", "iter", "iters", "iteration", "iterations"}
_EVERY_WORDS = {"every", "interval", "freq", "frequency", "period", "stride"}


@dataclass(frozen=True)
class Curve:
    """One recorded history.

    Attributes:
        quantity: such as ``loss.train``, ``accuracy.test``, ``norm.total``.
        steps, values: of the same length, steps increasing, values finite; accuracies as shares of 1.
        source: the name and the file, with what was assumed.
        resolution: half the last printed digit, 0 if unrounded.
        spacing: whether the steps are written down, follow from the length, or are only likely.
    """

    quantity: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    source: str
    resolution: float = 0.0
    spacing: Spacing = "recorded"

    def thinned(self, most: int) -> Curve:
        """At most ``most`` points, the first and the last among them."""
        if len(self.steps) <= most:
            return self
        chosen = [round(index * (len(self.steps) - 1) / (most - 1)) for index in range(most)]
        steps, values = tuple(self.steps[i] for i in chosen), tuple(self.values[i] for i in chosen)
        return Curve(self.quantity, steps, values, self.source, self.resolution, self.spacing)


@dataclass(frozen=True)
class Lengths:
    """What is known of how long a run was, for lists that do not say their steps.

    ``ends``: possible last steps, the surest first. ``every``: recorded spacings. ``saved``: the steps of
    which there are weights, to tell a column of epochs from one of steps.
    """

    ends: tuple[int, ...] = ()
    every: tuple[int, ...] = ()
    saved: frozenset[int] = frozenset()


def lengths_in(documents: Sequence[Any], names: Sequence[str], ends: Sequence[int] = ()) -> Lengths:
    """Spacings and lengths that settings speak of; ``names`` are those of lengths."""
    found_ends, every = list(ends), []
    for document in documents:
        for table in settings_in(document):
            found_ends += [end for name in names if (end := whole(table.get(name))) is not None]
            for name, value in table.items():
                spaced = isinstance(value, int) and not isinstance(value, bool) and value > 0
                if spaced and _EVERY_WORDS & set(words_of(str(name))):
                    every.append(value)
    return Lengths(tuple(dict.fromkeys(found_ends)), tuple(dict.fromkeys(every)))


def settings_in(document: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """A document's dicts that lie in dicts only: a list of rows speaks of many things, a dict of one."""
    if isinstance(document, Mapping):
        yield document
        if depth < 4:
            for value in document.values():
                yield from settings_in(value, depth + 1)


def curves_in_rows(
    source: str, rows: Sequence[Mapping[str, Any]], lengths: Lengths, above: tuple[str, ...] = ()
) -> list[Curve]:
    """The histories in rows of which each speaks of one step; values may be text, as in a table.

    ``above``: the names under which the rows lie, which may say what theirs leave open.
    """
    if not rows:
        return []
    flat = [_flattened(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    known = {name: quantity for name in names if (quantity := quantity_of((*above, *name)))}
    known |= _bare_beside(names, known)
    column = _step_column(names, flat, lengths.saved)
    found: list[Curve] = []
    for name, quantity in known.items():
        values = [row.get(name) for row in flat]
        words = f"{'.'.join(name)} in {source}"
        if column is None:
            read = [number(value) for value in values]
            found += _listed(quantity, read, words, lengths, resolution(values))
            continue
        points: dict[int, float] = {}
        for row, value in zip(flat, values, strict=True):
            step, read = number(row.get(column)), number(value)
            if step is not None and read is not None and 0 <= step < 2**62:
                points[int(step)] = read
        found += _curve(quantity, points, words, resolution(values), "recorded")
    return found


def curves_in(source: str, document: Any, lengths: Lengths, path: tuple[str, ...] = ()) -> list[Curve]:
    """The histories in a document or in what lies inside a checkpoint: lists, rows, one entry per epoch."""
    if len(path) > MAX_DEPTH:
        return []
    if isinstance(document, list):
        rows = [row for row in document if isinstance(row, Mapping)]
        if not rows or len(rows) < len(document):
            return []
        return curves_in_rows(source, rows, lengths, path)
    if not isinstance(document, Mapping):
        return []
    found: list[Curve] = []
    per_step = _per_step(document)
    if per_step is not None:
        if all(isinstance(row, Mapping) for _, row in per_step):
            rows = [{**row, "step": step} for step, row in per_step]
            return curves_in_rows(source, rows, lengths, path)
        quantity = quantity_of(path)
        if quantity:
            points = {step: read for step, value in per_step if (read := number(value)) is not None}
            printed = resolution([value for _, value in per_step])
            found += _curve(quantity, points, f"{'.'.join(path)} in {source}", printed, "recorded")
        return found
    here = {str(key): value for key, value in document.items()}
    series = {key: value for key, value in here.items() if _is_series(value)}
    known = {(key,): quantity for key in series if (quantity := quantity_of((*path, key)))}
    known |= _bare_beside([(key,) for key in series], known)
    for (key,), quantity in known.items():
        values = _values(series[key])
        words = f"{'.'.join((*path, key))} in {source}"
        steps = _steps_beside(key, len(values), here)
        printed = resolution(values) if not isinstance(series[key], Tensor) else 0.0
        read = values if _all_finite(values) else [number(value) for value in values]
        if steps is None:
            found += _listed(quantity, read, words, lengths, printed)
        else:
            points = {step: one for step, one in zip(steps, read, strict=True) if one is not None}
            found += _curve(quantity, points, words, printed, "recorded")
    for key, value in here.items():
        if isinstance(value, Mapping) or (
            isinstance(value, list) and value and isinstance(value[0], Mapping)
        ):
            found += curves_in(source, value, lengths, (*path, key))
    return found


def _step_column(
    names: Sequence[tuple[str, ...]], rows: Sequence[Mapping[tuple[str, ...], Any]], saved: frozenset[int]
) -> tuple[str, ...] | None:
    """The column that counts steps as the saved weights do, else the likeliest by its name."""
    known = [name for one in STEP_NAMES for name in names if len(name) == 1 and name[0].lower() == one]
    known = known or [name for name in names if set(words_of(name[-1])) & _STEP_WORDS][:1]
    if len(known) < 2 or not saved:
        return known[0] if known else None

    def hits(name: tuple[str, ...]) -> int:
        counted = {int(step) for row in rows if (step := number(row.get(name))) is not None}
        return len(counted & saved)

    return max(known, key=hits)


def _bare_beside(
    names: Sequence[tuple[str, ...]], known: Mapping[tuple[str, ...], str]
) -> dict[tuple[str, ...], str]:
    """``loss`` and ``acc`` alone are those of training where a test one stands beside them."""
    found: dict[tuple[str, ...], str] = {}
    for name in names:
        kind = bare_kind(name[-1]) if name not in known else None
        alone = kind and f"{kind}.train" not in known.values() and f"{kind}.test" in known.values()
        # Hugging Face's own log means by loss an average since the last row
        if alone and not any("eval" in words_of(other[-1]) for other in known):
            found[name] = f"{kind}.train"
    return found


def spacing(length: int, lengths: Lengths) -> tuple[range, Spacing, str]:
    """The steps of a list of ``length`` numbers that does not say them, and on what ground.

    Loops that log at ``step % every == 0`` are taken as the rule; a list that could as well start one spacing
    later is only *assumed* to start at 0.
    """
    for end in lengths.ends:
        if length in (end, end + 1):
            return range(length), "deduced", f"{length} numbers up to step {end}: one a step from 0"
    for end in lengths.ends:
        for every in lengths.every:
            if every > 1 and length in (end // every + 1, -(-end // every)):
                # E/k numbers fit 0, k, … E−k as well as k, 2k, … E
                sure: Spacing = "assumed" if length * every == end else "deduced"
                return range(0, length * every, every), sure, f"one in {every} steps from 0, as recorded"
    for end in lengths.ends:
        if 2 < length < end:
            low, high = end // length + 1, -(-(end + 1) // (length - 1)) - 1
            fitting = [
                k for k in range(max(low, 1), min(high, low + 1000) + 1) if -(-(end + 1) // k) == length
            ]
            if len(fitting) == 1:
                every = fitting[0]
                words = f"{length} numbers up to step {end}: one in {every} steps from 0"
                return range(0, length * every, every), "deduced", words
            for gaps in (length - 1, length):
                if end % gaps:
                    continue
                every = end // gaps
                words = f"{length} numbers up to step {end}: one in {every} steps from 0"
                return range(0, length * every, every), "assumed", words
    return range(length), "assumed", "nothing says at which steps: numbered from 0"


def _listed(
    quantity: str, values: Sequence[float | None], words: str, lengths: Lengths, resolution: float
) -> list[Curve]:
    steps, sure, why = spacing(len(values), lengths)
    if _all_finite(values):
        return _series(
            quantity, steps, [value for value in values if value is not None], words, resolution, sure, why
        )
    points = {step: value for step, value in zip(steps, values, strict=True) if value is not None}
    return _curve(quantity, points, words, resolution, sure, why)


def _curve(
    quantity: str, points: Mapping[int, float], words: str, resolution: float, sure: Spacing, why: str = ""
) -> list[Curve]:
    steps = sorted(points)
    return _series(quantity, steps, [points[step] for step in steps], words, resolution, sure, why)


def _series(
    quantity: str,
    steps: Sequence[int],
    values: list[float],
    words: str,
    resolution: float,
    sure: Spacing,
    why: str,
) -> list[Curve]:
    if not values or (quantity.startswith("loss") and min(values) < -1e-3):
        return []
    notes = [why] if why else []
    if quantity.startswith("accuracy"):
        if max(values) > 100 or min(values) < 0:
            return []
        if max(values) > 1 + 1e-6:
            values, resolution = [value / 100 for value in values], resolution / 100
            notes.append("in percent")
    place, _, file = words.rpartition(" in ")
    remark = f" ({'; '.join(notes)})" if notes else ""
    source = f"{place}{remark} in {file}"
    return [Curve(quantity, tuple(steps), tuple(values), source, resolution, sure)]


def _flattened(row: Mapping[str, Any], depth: int = 0) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping) and depth < 3:
            found |= {(str(key), *rest): one for rest, one in _flattened(value, depth + 1).items()}
        elif not isinstance(value, list):
            found[(str(key),)] = value
    return found


def _per_step(document: Mapping[str, Any]) -> list[tuple[int, Any]] | None:
    """The entries of a dict whose keys are all steps, such as ``{"0": {…}, "100": {…}}``."""
    if len(document) < 2:
        return None
    entries = []
    for key, value in document.items():
        last = words_of(str(key))
        if not last or not last[-1].isdigit() or not set(last[:-1]) <= _STEP_WORDS or len(last[-1]) > 18:
            return None
        entries.append((int(last[-1]), value))
    return entries if len({step for step, _ in entries}) == len(entries) else None


def _is_series(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 1 and 2 <= len(value) <= MAX_POINTS and not value.is_complex()
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_POINTS:
        return False
    types = set(map(type, value))
    plain = types <= {float, int, bool, type(None)}
    return plain or all(one is None or isinstance(one, int | float) or _is_scalar(one) for one in value)


def _all_finite(values: Sequence[Any]) -> bool:
    """Whether a list is nothing but finite floats, so that none needs a look of its own."""
    return (
        set(map(type, values)) == {float}
        and all(map(math.isfinite, values))
        and max(map(abs, values)) < 1e300
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _values(value: Any) -> list[Any]:
    return value.tolist() if isinstance(value, Tensor) else value


def _steps_beside(key: str, length: int, here: Mapping[str, Any]) -> list[int] | None:
    """Steps written down in a list of the same length beside a history; its own before those of all."""
    own = set(words_of(key))

    def fit(name: str) -> tuple[bool, int, str]:
        return not (own & set(words_of(name))), len(name), name

    names = [name for name in here if name != key and _STEP_WORDS & set(words_of(name)) and not norm_of(name)]
    for name in sorted(names, key=fit):
        value = here[name]
        if not _is_series(value) or len(value) != length:
            continue
        steps = [whole(one) for one in _values(value)]
        read = [step for step in steps if step is not None]
        if len(read) == length and all(a < b for a, b in pairwise(read)):
            return read
    return None
