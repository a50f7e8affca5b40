"""From files to runs: steps with named tensors, and what was recorded beside them.

Scope: which files belong together, which step each holds, where in a file the state dict lies. What the
tensors mean is for ``dialects`` to say.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.facts import LENGTH_NAMES, STEP_NAMES, Facts, facts_beside, scalars_of
from grokscope.foreign.safe_read import SUFFIXES, Plain, read_weights

MAX_FILES = 10_000

STATE_KEYS = ("model_state_dict", "state_dict", "model")
"""Where a checkpoint keeps its state dict, where the file is not itself one."""

_WRAPPERS = ("module.", "_orig_mod.")
_NUMBERED = re.compile(
    r"^(?P<prefix>(?:.*[_\-=])?(?:ckpt|checkpoint|step|epoch|iter|model|state|params|weights|ep|it|e)?[_\-=]?)"
    r"(?P<number>\d{1,18})$",
    re.IGNORECASE,
)
_GENERIC_STEMS = {
    "model", "final", "checkpoint", "ckpt", "weights", "state", "params", "best", "last", "pytorch_model"
}  # fmt: skip

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Snapshot:
    """The tensors of one step, with the scalars that lay beside them in the file."""

    step: int
    step_from: str
    path: Path
    tensors: Tensors
    scalars: Mapping[str, Any]


@dataclass(frozen=True)
class ForeignRun:
    """One run as its author left it: snapshots in order of their steps, all of the same shapes."""

    stem: str
    snapshots: tuple[Snapshot, ...]
    facts: Facts
    notes: tuple[str, ...] = ()


def gather(paths: Sequence[Path]) -> tuple[list[ForeignRun], list[Skipped]]:
    """Every run in the files and folders given, folders searched to any depth.

    Files of a folder whose names differ only in a final number (``ckpt_10.pt``, ``ckpt_200.pt``) are the
    steps of one run; any other file is a run by itself.

    Raises:
        GrokscopeError: a missing path, a folder without weights, or, where a single file was given, the
            reason why it cannot be read.
    """
    files = _files_of(paths)
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in files:
        match = _NUMBERED.match(file.stem)
        groups[file.parent, f"{match['prefix']}#" if match else file.name].append(file)
    runs: list[ForeignRun] = []
    skipped: list[Skipped] = []
    for (folder, _), members in sorted(groups.items()):
        in_folder = sum(1 for parent, _ in groups if parent == folder)
        try:
            run, left = _one_run(members, folder, alone=in_folder == 1)
        except GrokscopeError as error:
            if len(files) == 1:
                raise
            skipped += [Skipped(member, str(error)) for member in members]
            continue
        skipped += left
        runs.append(run)
    return runs, skipped


def _files_of(paths: Sequence[Path]) -> list[Path]:
    if not paths:
        raise GrokscopeError("importing: no path was given, expected at least one file or folder of weights")
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = list(_weights_under(path))
            if not inside:
                raise GrokscopeError(
                    f"importing {path}: the folder holds no weights, expected files in {', '.join(SUFFIXES)}"
                )
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            raise GrokscopeError(f"importing {path}: no such file or folder, expected weights of a model")
    return list(found)


def _weights_under(folder: Path) -> Iterable[Path]:
    count = 0
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                count += 1
                if count > MAX_FILES:
                    raise GrokscopeError(
                        f"importing {folder}: more than {MAX_FILES} files of weights, expected fewer"
                    )
                yield Path(parent) / name


def _one_run(members: list[Path], folder: Path, *, alone: bool) -> tuple[ForeignRun, list[Skipped]]:
    """The run of one group of files; a group of several files survives the loss of some."""
    numbered = _NUMBERED.match(members[0].stem)
    stem = _stem(members, folder, numbered["prefix"] if numbered else None)
    facts = facts_beside(folder, stem if len(members) > 1 else members[0].stem, alone)
    snapshots: list[Snapshot] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    for member in members:
        try:
            snapshots.append(_snapshot(member, facts, notes))
        except GrokscopeError as error:
            if len(members) == 1:
                raise
            skipped.append(Skipped(member, str(error)))
    if not snapshots:
        raise GrokscopeError(skipped[0].why)
    snapshots.sort(key=lambda one: (one.step, one.path.name))
    kept, left = _consistent(snapshots)
    if not kept:
        raise GrokscopeError(f"reading {left[0].path}: {left[0].why}, expected the weights of a step")
    return ForeignRun(stem, tuple(kept), facts, tuple(dict.fromkeys(notes))), skipped + left


def _stem(members: list[Path], folder: Path, prefix: str | None) -> str:
    """What to call a run: its folder, or its file where the file has a name of its own."""
    home = folder.resolve().name or "import"
    if len(members) > 1:
        word = (prefix or "").rstrip("_-=").lower()
        plain = word in _GENERIC_STEMS or word in {"", "step", "epoch", "iter", "ep", "it", "e"}
        return home if plain else f"{home}.{word}"
    return home if members[0].stem.lower() in _GENERIC_STEMS else members[0].stem


def _snapshot(path: Path, facts: Facts, notes: list[str]) -> Snapshot:
    content = read_weights(path)
    tensors, beside = _state_of(path, content, notes)
    step, step_from = _step_of(path, beside, facts)
    return Snapshot(step, step_from, path, tensors, beside)


def _state_of(path: Path, content: Plain, notes: list[str]) -> tuple[Tensors, dict[str, Any]]:
    """The state dict in a file's content, and the scalars beside it."""
    if not isinstance(content, dict):
        raise GrokscopeError(
            f"reading {path}: it holds a {type(content).__name__}, expected a state dict (names and tensors)"
        )
    for key in STATE_KEYS:
        nested = content.get(key)
        if isinstance(nested, dict) and nested and all(isinstance(one, Tensor) for one in nested.values()):
            notes.append(f"the state dict lies under {key!r}")
            return _unwrapped(nested, notes), scalars_of(content)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(list(content)[:8]) or "nothing"
        raise GrokscopeError(
            f"reading {path}: no state dict in it (it holds {keys}), expected names and tensors, bare or "
            f"under {', '.join(STATE_KEYS)}"
        )
    rest = {name: value for name, value in content.items() if name not in tensors}
    return _unwrapped(tensors, notes), scalars_of(rest)


def _unwrapped(tensors: Tensors, notes: list[str]) -> Tensors:
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            notes.append(f"{wrapper!r} taken off every name: it comes from a wrapper around the model")
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _step_of(path: Path, beside: Mapping[str, Any], facts: Facts) -> tuple[int, str]:
    match = _NUMBERED.match(path.stem)
    if match:
        return int(match["number"]), f"the file name {path.name}"
    # a list of rows speaks of many steps, a table of this one
    tables = [("the file itself", beside)]
    tables += [(name, document) for name, document in facts.documents.items() if isinstance(document, dict)]
    for names in (STEP_NAMES, LENGTH_NAMES):
        for source, table in tables:
            for name in names:
                value = table.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62:
                    return value, f"{name} in {source}"
    return 0, "no record: the step is not known, 0 stands for it"


def _consistent(snapshots: list[Snapshot]) -> tuple[list[Snapshot], list[Skipped]]:
    """Those of the most common shapes, one a step, with finite numbers; the others with the reason."""
    signatures = [_signature(one.tensors) for one in snapshots]
    usual = Counter(signatures).most_common(1)[0][0]
    kept: list[Snapshot] = []
    left: list[Skipped] = []
    for one, signature in zip(snapshots, signatures, strict=True):
        if signature != usual:
            odd = sorted(set(signature) ^ set(usual))[0]
            why = f"its tensors are not those of the other steps (such as {odd[0]} {odd[1]})"
            left.append(Skipped(one.path, why))
        elif kept and kept[-1].step == one.step:
            same = all(one.tensors[name].equal(value) for name, value in kept[-1].tensors.items())
            what = "with the same tensors" if same else "with other tensors"
            why = f"step {one.step} is already there from {kept[-1].path.name}, {what}"
            left.append(Skipped(one.path, why))
        elif bad := next((name for name, value in one.tensors.items() if not value.isfinite().all()), None):
            left.append(Skipped(one.path, f"{bad} holds values that are not finite"))
        else:
            kept.append(one)
    return kept, left


def _signature(tensors: Tensors) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    return tuple(sorted((name, tuple(value.shape), str(value.dtype)) for name, value in tensors.items()))
