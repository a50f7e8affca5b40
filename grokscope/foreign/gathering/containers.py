"""From files to runs: steps with named tensors, and what was recorded beside them.

Scope: the way from paths to runs. Which files there are is for ``folders`` to say, where in a file the weights
lie for ``contents``, which files make a run for ``assembly``; what the tensors mean for others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.assembly import ForeignRun, Skipped, Snapshot, distinct, groups_of, runs_of
from grokscope.foreign.gathering.beside import (
    Beside,
    Group,
    ReadUnit,
    bytes_of,
    companion_of,
    is_home,
    read_companion,
    read_optimiser,
)
from grokscope.foreign.gathering.contents import find_states
from grokscope.foreign.gathering.documents import belongs
from grokscope.foreign.gathering.folders import Unit, find_units, is_companion_name
from grokscope.foreign.reading.safe_read import SUFFIXES, read_file

__all__ = ["MAX_OPTIMISER_BYTES", "ForeignRun", "Skipped", "Snapshot", "gather"]

MAX_OPTIMISER_BYTES = 2**30
"""Optimiser states kept in memory from one import; later ones are left aside."""

_ARRAYS = (".npz", ".npy", ".h5", ".hdf5", ".pkl", ".pickle")


def gather(paths: Sequence[Path]) -> tuple[list[ForeignRun], list[Skipped]]:
    """Every run in the files and folders given, folders searched to any depth.

    Files whose names differ only in a step (``ckpt_10.pt``, ``ckpt_200.pt``), a folder per step, or one file
    that holds many steps make one run; files that say ``final`` or ``memorize`` instead of a number join
    the run whose name they share. Splits, histories and optimiser states in files of their own become part
    of the runs beside them.

    Raises:
        GrokscopeError: a missing path, a folder without weights, or, where a single file was given, the
            reason why it cannot be read.
    """
    found = find_units(paths)
    skipped = [Skipped(path, why) for path, why in found.left]
    beside = Beside()
    read: list[ReadUnit] = []
    strict = len(found.units) == 1 and not skipped
    budget = MAX_OPTIMISER_BYTES
    empty: list[ReadUnit] = []
    for unit in found.units:
        try:
            one = _read_unit(unit)
        except GrokscopeError as error:
            if strict:
                raise
            skipped += [Skipped(part, str(error)) for part in unit.parts]
            continue
        budget -= bytes_of(one.content.optimizer)
        if budget < 0 and one.content.optimizer is not None:
            notes = (*one.notes, "some optimiser states are left aside: they are too large to keep together")
            one = ReadUnit(unit, replace(one.content, optimizer=None), notes)
        (read if one.content.states else empty).append(one)
    read, records = _apart(read)
    for one in records:
        beside.companions[one.unit.path] = one.content.beside
    names = [one.unit.name for one in read]
    for one in empty:
        path = one.unit.path
        known = any(is_home(path, other.unit) for other in read)
        words_fit = is_companion_name(path.stem) and belongs(path.stem, names)
        if known and words_fit:
            beside.companions[path] = companion_of(one)
            continue
        why = _no_weights(one)
        if strict:
            raise GrokscopeError(why)
        skipped.append(Skipped(path, why))
    for path in found.companions:
        read_companion(path, beside)
    for path in found.aside:
        budget = read_optimiser(path, beside, budget)
    runs: list[ForeignRun] = []
    groups = groups_of(read)
    in_folder = Counter(group.home for group in groups)
    known = {*found.companions, *found.aside, *beside.companions}
    for group in groups:
        alone = in_folder[group.home] == 1 and not _others_in(group.home, group, known)
        made, left = runs_of(group, beside, alone)
        runs += made
        skipped += left
    if strict and not runs and skipped:
        raise GrokscopeError(f"reading {skipped[0].path}: {skipped[0].why}, expected the weights of a step")
    if not runs:
        skipped += [Skipped(path, f"importing {path}: it holds optimiser or generator state and no weights")
                    for path in found.aside]  # fmt: skip
    return distinct(runs, skipped), skipped


def _others_in(folder: Path, group: Group, known: set[Path]) -> bool:
    """Whether other weights lie in the folder, asked for or not: what has no name of its run is then nobody's."""
    own = {part for one, _ in group.members for part in one.unit.parts} | known
    try:
        names = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    except OSError:
        return False
    return any(path not in own and not is_companion_name(path.stem) for path in names)


def _apart(read: Sequence[ReadUnit]) -> tuple[list[ReadUnit], list[ReadUnit]]:
    """Weights, and arrays beside them whose format and name are those of records: ``results.npz``."""
    records = [
        one
        for one in read
        if one.unit.path.suffix.lower() in _ARRAYS
        and is_companion_name(one.unit.path.stem)
        and belongs(one.unit.path.stem, ())
    ]
    apart = {id(one) for one in records}
    weights = [one.unit for one in read if id(one) not in apart]
    near = {id(one) for one in records if any(is_home(one.unit.path, unit) for unit in weights)}
    return [one for one in read if id(one) not in near], [one for one in read if id(one) in near]


def _read_unit(unit: Unit) -> ReadUnit:
    """One unit read, shards merged."""
    readings = [read_file(part) for part in unit.parts]
    notes = [note for one in readings for note in one.notes]
    notes += [one.how for one in readings if one.how]
    content: Any = readings[0].content
    if len(readings) > 1:
        merged: dict[str, Any] = {}
        for one, part in zip(readings, unit.parts, strict=True):
            if not isinstance(one.content, dict):
                raise GrokscopeError(
                    f"reading {part}: a shard that holds a {type(one.content).__name__}, expected named tensors"
                )
            merged |= one.content
        content = merged
        notes.append(f"merged from {len(readings)} shards")
    found = find_states(content)
    return ReadUnit(unit, found, tuple(dict.fromkeys((*found.notes, *notes))))


def _no_weights(one: ReadUnit) -> str:
    return (
        f"reading {one.unit.path}: no state dict in it: it holds {one.content.what}; expected a state dict "
        "(names and tensors), bare or under a key"
    )
