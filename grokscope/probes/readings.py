"""What is read off the saves of a run: computed in blocks of bounded memory, and never twice.

A reading belongs to one save (:func:`per_save`), to two neighbours (:func:`per_pair`) or to none
(:func:`once`). Each value is kept in ``<run>/readings`` under everything it depends on: the digests of the saves,
the name and the source of what computes it, its options, and the run's task, split, function and settings. A
longer run costs its new saves only, and a second measurement nothing. A store that is damaged or cannot be
written costs the time of computing again.

Shape legend: T selected saves, t saves of one block.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.probes.sources import file_hash, package_hash, source_of
from grokscope.runs import Params, Run
from grokscope.trajectory.digests import DIGEST_BYTES, save_digests

Values = dict[str, Tensor]
"""Readings by key, each with the axis of saves first."""

READINGS = "readings"
"""The folder of a run that keeps them."""

BLOCK_BYTES = 32 * 2**20
"""What one block of saves may hold: its weights in float64 and what its reader declares beside them."""

_KEPT_FILES = 4  # of one name: a change of source or options leaves the older ones behind
_KEY, _OF = "key", "of"
_ROWS = 16  # blocks are multiples of it where they can be: a trajectory is stored in chunks of as many saves
_DAMAGED = (OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile)


def per_save(
    run: Run,
    name: str,
    read: Callable[[Params], Values],
    *,
    names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    bytes_per_save: int = 0,
) -> Values:
    """What ``read`` gives of every selected save.

    Args:
        name: of the reading: letters, digits, ``-``, ``_`` and ``.``; it begins the name of its file.
        read: takes parameters (t, …) in float64 of any t saves and returns ``{key: (t, …)}``: the same keys,
            dtypes and shapes every time, numbers or booleans, NaN where a save has none. A save's values must
            not depend on the block it is in, to the last bit. What it closes over must follow from the run's
            settings or stand in ``options``.
        names: the tensors that it needs; by default all.
        options: plain data that its values depend on beside the weights and the run's settings.
        bytes_per_save: what it holds for each save beside the weights.

    Returns:
        ``{key: (T, …)}``, keys in the order in which ``read`` gave them.

    Raises:
        GrokscopeError: what ``read`` returns is not of that form, or what it raises.
    """
    return _readings(run, name, read, 1, names, options, bytes_per_save)


def per_pair(
    run: Run,
    name: str,
    read: Callable[[Params, Params], Values],
    *,
    names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    bytes_per_save: int = 0,
) -> Values:
    """What ``read(before, after)`` gives of each selected save and the next, ``{key: (T − 1, …)}``.

    Both are parameters (t, …) in float64. Arguments and errors as in :func:`per_save`; for a single save the
    result is empty.
    """
    return _readings(run, name, read, 2, names, options, bytes_per_save)


def once(
    run: Run, name: str, compute: Callable[[], Values], *, options: Mapping[str, Any] | None = None
) -> Values:
    """What ``compute`` gives, which depends on the run's settings and on ``options`` alone, not on its saves.

    Arguments and errors as in :func:`per_save`; the results have any shapes.
    """
    path, key = _place(run, name, compute, options)
    stored = _load(path, key, None)
    if stored is not None:
        return {k: torch.from_numpy(v) for k, v in stored.items()}
    values = compute()
    _store(path, name, key, {k: _as_array(name, k, v) for k, v in values.items()})
    return values


def by_save(read: Callable[[Params], Values]) -> Callable[[Params], Values]:
    """A reader of blocks from a reader of single saves, which takes tensors without the axis of saves.

    For measures whose last bits would depend on the size of a block.
    """

    def block(params: Params) -> Values:
        count = len(next(iter(params.values())))
        each = [read({name: value[row] for name, value in params.items()}) for row in range(count)]
        return {key: torch.stack([one[key] for one in each]) for key in each[0]}

    block.__wrapped__ = read  # pyright: ignore[reportFunctionMemberAccess]  (its source is what counts)
    return block


def saves_in_block(run: Run, bytes_per_save: int = 0, names: Sequence[str] | None = None) -> int:
    """How many saves of ``run`` are held at once."""
    shapes = run.model.shapes
    weights = sum(8 * math.prod(shapes[name]) for name in (shapes if names is None else names))
    block = max(1, BLOCK_BYTES // max(weights + bytes_per_save, 1))
    return block - block % _ROWS if block > _ROWS else block


def _readings(
    run: Run,
    name: str,
    read: Callable[..., Values],
    width: int,
    names: Sequence[str] | None,
    options: Mapping[str, Any] | None,
    bytes_per_save: int,
) -> Values:
    """Readings of ``width`` consecutive saves each: from the store where they are known, else computed."""
    path, key = _place(run, name, read, options)
    every = save_digests(run.trajectory, run.path / READINGS)
    digests = every[run.rows]
    count = len(digests) - width + 1
    if count < 1:
        return {}
    of = np.concatenate([digests[i : count + i] for i in range(width)], axis=1)
    identity = of.view(f"V{width * DIGEST_BYTES}")[:, 0]
    found: dict[str, np.ndarray] = {}
    stored = _load(path, key, width) or {}
    places = _places(of, stored.get(_OF))
    missing = np.flatnonzero(places < 0)
    if stored:
        found = {k: v[np.maximum(places, 0)] for k, v in stored.items() if k != _OF}
    if not len(missing):
        return {k: torch.from_numpy(v) for k, v in found.items()}
    # equal saves have equal readings
    _, first = np.unique(identity[missing], return_index=True)
    done = np.ones(count, bool)
    done[missing] = False
    try:
        _fill(run, name, read, width, names, bytes_per_save, missing[np.sort(first)], found, done)
    finally:
        # what an interruption leaves unfinished is not lost either
        if done.any() and found:
            kept = {_OF: of[done], **{k: v[done] for k, v in found.items()}}
            _store(path, name, key, _with_others(kept, stored, every, width))
    _copy_equal(identity, done, found)
    return {k: torch.from_numpy(v) for k, v in found.items()}


def _places(of: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """For each row of ``of`` where it is in ``known``, -1 where it is not."""
    place = {} if known is None else {bytes(row): index for index, row in enumerate(known)}
    return np.array([place.get(bytes(row), -1) for row in of], np.int64)


def _with_others(
    kept: dict[str, np.ndarray], stored: dict[str, np.ndarray], every: np.ndarray, width: int
) -> dict[str, np.ndarray]:
    """Readings to keep: these, and those stored of saves that are in the trajectory but were not selected."""
    if not stored:
        return kept
    there = {bytes(row) for row in every}
    halves = stored[_OF].reshape(-1, width, DIGEST_BYTES)
    current = np.array([all(bytes(half) in there for half in row) for row in halves], bool)
    others = current & (_places(stored[_OF], kept[_OF]) < 0)
    return {k: np.concatenate([v, stored[k][others]]) for k, v in kept.items()}


def _fill(
    run: Run,
    name: str,
    read: Callable[..., Values],
    width: int,
    names: Sequence[str] | None,
    bytes_per_save: int,
    missing: np.ndarray,
    found: dict[str, np.ndarray],
    done: np.ndarray,
) -> None:
    """Compute the rows ``missing``, putting them into ``found`` and marking them ``done``."""
    wanted = list(run.model.shapes) if names is None else list(names)
    block = max(1, saves_in_block(run, bytes_per_save, wanted) // width)
    with run.trajectory:
        for start in range(0, len(missing), block):
            rows = missing[start : start + block]
            # consecutive pairs share a save, which is read once
            needed, place = np.unique(rows[:, None] + np.arange(width), return_inverse=True)
            place = place.reshape(len(rows), width)
            weights = _weights(run, wanted, needed)
            if width == 1:
                values = read(weights)
            else:
                sides = [{n: _taken(w, place[:, side]) for n, w in weights.items()} for side in range(width)]
                values = read(*sides)
            _put(name, values, rows, found, done, first=start == 0 and not found)
            done[rows] = True


def _weights(run: Run, names: Sequence[str], index: np.ndarray) -> Params:
    """Parameters (t, …) in float64 at the selected saves ``index``, which increase."""
    rows = run.rows[index]
    whole = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) == rows[-1] - rows[0] + 1 else rows
    return {n: torch.from_numpy(run.trajectory.read(n, whole)).to(torch.float64) for n in names}


def _taken(values: Tensor, places: np.ndarray) -> Tensor:
    first, count = int(places[0]), len(places)
    if np.array_equal(places, np.arange(first, first + count)):
        return values[first : first + count]
    return values[torch.from_numpy(places)]


def _put(
    name: str,
    values: Values,
    rows: np.ndarray,
    found: dict[str, np.ndarray],
    done: np.ndarray,
    *,
    first: bool,
) -> None:
    arrays = {key: _as_array(name, key, value) for key, value in values.items()}
    for key, array in arrays.items():
        if not array.ndim or len(array) != len(rows):
            raise GrokscopeError(
                f"reading {name}: {key!r} has shape {array.shape} for {len(rows)} saves, expected as many rows"
            )
        if first:
            found[key] = np.zeros((len(done), *array.shape[1:]), array.dtype)
    expected = {key: (value.shape[1:], value.dtype) for key, value in found.items()}
    given = {key: (array.shape[1:], array.dtype) for key, array in arrays.items()}
    if given != expected:
        odd = sorted(set(given.items()) ^ set(expected.items()), key=str)[0]
        raise GrokscopeError(
            f"reading {name}: {odd[0]!r} is {odd[1]} of some saves only, expected the same keys, shapes and "
            "dtypes of every save"
        )
    for key, array in arrays.items():
        found[key][rows] = array


def _copy_equal(identity: np.ndarray, done: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Give saves that were left out because another equals them the readings of that one."""
    left = np.flatnonzero(~done)
    if not len(left):
        return
    place = {bytes(identity[row]): int(row) for row in np.flatnonzero(done)}
    same = [place[bytes(identity[row])] for row in left]
    for values in found.values():
        values[left] = values[same]


def _as_array(name: str, key: str, value: Any) -> np.ndarray:
    if not isinstance(value, Tensor) or value.is_complex() or key in (_KEY, _OF):
        raise GrokscopeError(
            f"reading {name}: {key!r} is {type(value).__name__}, expected a real tensor under another name than "
            f"{_KEY!r} and {_OF!r}"
        )
    return value.detach().cpu().numpy()


def _place(
    run: Run, name: str, read: Callable[..., Any], options: Mapping[str, Any] | None
) -> tuple[Path, str]:
    """The file that a reading is kept in, and the text of everything but the saves that it depends on."""
    function = getattr(read, "__wrapped__", read)
    try:
        given = json.dumps(dict(options or {}), sort_keys=True)
    except TypeError:
        raise GrokscopeError(f"reading {name}: options {options!r} were given, expected plain data") from None
    source = source_of(function)
    key = json.dumps(
        {
            "name": name,
            "function": getattr(function, "__qualname__", ""),
            "source": _hash_of(source) if source else "",
            "options": given,
            "run": _settings(run),
            "grokscope": package_hash(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        sort_keys=True,
    )
    return run.path / READINGS / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz", key


@cache
def _hash_of(path: str) -> str:
    return file_hash(path)


def _settings(run: Run) -> str:
    """A hash of all but the weights that a reading may depend on.

    How long the run is and when it was saved and evaluated is left out: a longer run is the same run.
    """
    config = {k: v for k, v in run.config.items() if k not in ("name", "save")}
    if isinstance(config.get("train"), Mapping):
        config["train"] = {k: v for k, v in config["train"].items() if k != "steps"}
    lacks = [why if why is None else why.reason for why in (run.lacks("function"), run.lacks("split"))]
    described = [config, lacks, str(run.dtype), run.function and [run.function.name, run.function.sha256]]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode("utf-8", "replace"))
    digest.update(run.task.train_mask.numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, key: str, width: int | None) -> dict[str, np.ndarray] | None:
    """Stored arrays by key, with the digests they are of where ``width`` is given; ``None`` where unusable."""
    try:
        with zipfile.ZipFile(path) as archive:
            # what is written here is never compressed, so a small file cannot unfold into a large one
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                return None
        with np.load(path, allow_pickle=False) as stored:
            if str(stored[_KEY]) != key:
                return None
            arrays = {name: stored[name] for name in stored.files if name != _KEY}
    except _DAMAGED:
        return None
    if any(array.dtype.kind not in "fiub" for array in arrays.values()):
        return None
    if width is None:
        return arrays
    of = arrays.get(_OF)
    if of is None or of.dtype != np.uint8 or of.shape[1:] != (width * DIGEST_BYTES,) or len(arrays) < 2:
        return None
    if any(array.ndim < 1 or len(array) != len(of) for array in arrays.values()):
        return None
    return arrays


def _store(path: Path, name: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write under a temporary name, then rename; a folder that cannot be written is left alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for member, array in {_KEY: np.array(key), **arrays}.items():
                with archive.open(f"{member}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        return
    with suppress(OSError):
        older = [file for file in path.parent.glob(f"{name}-*.npz") if len(file.stem) == len(path.stem)]
        for file in sorted(older, key=lambda file: file.stat().st_mtime)[:-_KEPT_FILES]:
            file.unlink(missing_ok=True)
