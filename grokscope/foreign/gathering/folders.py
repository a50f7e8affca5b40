"""Which files in folders are weights to read, and which only lie beside them.

Scope: names and sizes. Sharded weights are one unit; a folder per step is seen as the steps of one run;
optimiser, scheduler and generator files are set aside.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.documents import HOLDERS, belongs
from grokscope.foreign.gathering.quantities import words_of
from grokscope.foreign.gathering.steps import MARKERS, folder_step, place_of
from grokscope.foreign.reading.safe_read import SUFFIXES

MAX_FILES = 10_000
MAX_TOTAL_BYTES = 16 * 2**30
"""Most bytes of weights in one import."""
MAX_SHARDS = 256
MAX_COMPANIONS = 64
INDEX_SUFFIX = ".index.json"

_ASIDE = re.compile(
    r"^(optim|optimizer|optimiser|scheduler|lr_scheduler|scaler|rng_state|random_states?|training_args|sampler)"
    r"([_\-.]?(state(_dict)?|\d+))*$",
    re.IGNORECASE,
)
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})$")
_DATA_WORDS = frozenset({
    "train", "test", "val", "data", "dataset", "split", "splits", "idx", "indices", "index", "pairs", "mask",
    "history", "losses", "loss", "metrics", "metric", "log", "logs", "curves", "results", "stats", "acc",
    "accuracies", "inputs", "labels",
})  # fmt: skip
_WEIGHT_WORDS = frozenset(
    {"model", "ckpt", "checkpoint", "weights", "state", "params", "final", "best", "last"}
)
_DATA_FOLDERS = frozenset(
    {"data", "dataset", "datasets", "split", "splits", "logs", "log", "metrics", "results"}
)


@dataclass(frozen=True)
class Unit:
    """One set of weights on disk.

    Attributes:
        path: the file, the first of several shards.
        parts: all its files.
        home: the folder whose run it belongs to; above ``path`` where a folder per step holds it.
        name: what tells its step: the file's stem, or the step folder's name.
        kind: equal for units that may be steps of one run.
    """

    path: Path
    parts: tuple[Path, ...]
    home: Path
    name: str
    kind: str = ""

    @property
    def by_folder(self) -> bool:
        """Whether a folder of its own says its step."""
        return self.home != self.path.parent


@dataclass
class Found:
    """Units to read, what lies beside them, and what was left out with the reason."""

    units: list[Unit] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    companions: list[Path] = field(default_factory=list)
    left: list[tuple[Path, str]] = field(default_factory=list)


def find_units(paths: Sequence[Path]) -> Found:
    """Everything in the files and folders given, folders searched to any depth.

    Raises:
        GrokscopeError: nothing given, a missing path, a folder without weights, or more than can be read.
    """
    files = _files_of(paths)
    total = sum(_size(file) for file in files)
    if total > MAX_TOTAL_BYTES:
        raise GrokscopeError(
            f"importing {paths[0]}: {total} bytes of weights, expected at most {MAX_TOTAL_BYTES} in one import"
        )
    found = Found()
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    for folder, members in by_folder.items():
        _sort_out(folder, members, found, alone=len(files) == 1 and not paths[0].is_dir())
    known = set(files)
    for folder in {unit.path.parent for unit in found.units} | {unit.home for unit in found.units}:
        for near in _near(folder):
            if near not in known:
                known.add(near)
                (found.aside if _ASIDE.match(near.stem) else found.companions).append(near)
    return found


def companion_homes(path: Path) -> set[Path]:
    """The folders whose runs a companion file may speak of: its own, and the one above a folder of data."""
    homes = {path.parent}
    if path.parent.name.lower() in _DATA_FOLDERS:
        homes.add(path.parent.parent)
    return homes


def folders_above(home: Path) -> list[Path]:
    """A folder of weights and those above it of which it is only the holder of weights."""
    found, here = [home], home
    while here.name.lower() in HOLDERS and here.parent != here and len(found) < 3:
        here = here.parent
        found.append(here)
    return found


def is_companion_name(stem: str) -> bool:
    """Whether a name speaks of data or metrics and not of weights."""
    words = set(words_of(stem))
    return bool(words & _DATA_WORDS) and not words & _WEIGHT_WORDS


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


def _weights_under(folder: Path) -> Iterator[Path]:
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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sort_out(folder: Path, members: list[Path], found: Found, *, alone: bool) -> None:
    """The units among the files of one folder; a file given by itself is always one."""
    shards: dict[str, list[Path]] = defaultdict(list)
    plain: list[Path] = []
    for file in members:
        match = _SHARD.match(file.stem)
        if match and not alone:
            shards[f"{match['stem']}{file.suffix}"].append(file)
        elif _ASIDE.match(file.stem) and not alone:
            found.aside.append(file)
        else:
            plain.append(file)
    names = {file.name for file in plain}
    for file in plain:
        if file.name == "pytorch_model.bin" and "model.safetensors" in names:
            found.left.append((file, "model.safetensors beside it holds the same weights"))
            continue
        found.units.append(_unit(file, (file,), folder))
    for name, parts in shards.items():
        index = folder / f"{name}{INDEX_SUFFIX}"
        missing = _missing_shards(index, parts)
        if missing:
            found.left += [(part, f"one of several shards, {missing}") for part in parts]
        else:
            found.units.append(_unit(parts[0], tuple(parts), folder, Path(name).stem))


def _missing_shards(index: Path, parts: Sequence[Path]) -> str:
    """Why shards are not whole, or nothing; the index counts where there is one."""
    if len(parts) > MAX_SHARDS:
        return f"of which there are more than {MAX_SHARDS}"
    wanted = set()
    for part in parts:
        match = _SHARD.match(part.stem)
        assert match is not None
        count = int(match["count"])
        if count > MAX_SHARDS:
            return f"of which there should be more than {MAX_SHARDS}"
        wanted |= {f"{match['stem']}-{i:05d}-of-{count:05d}{part.suffix}" for i in range(1, count + 1)}
    if index.is_file() and _size(index) < 16 * 2**20:
        try:
            weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            wanted = {str(name) for name in weights.values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"whose index {index.name} cannot be read"
    lacking = sorted(wanted - {part.name for part in parts})
    return f"of which {lacking[0]} is missing" if lacking else ""


def _unit(path: Path, parts: tuple[Path, ...], folder: Path, stem: str | None = None) -> Unit:
    stem = stem or path.stem
    here = folder.resolve().name
    own = place_of(stem)
    step = folder_step(here)
    numberless = own.how in ("none", "marker") and not is_companion_name(stem)
    marked = here.lower() in MARKERS
    if numberless and (
        (step is not None and _is_step_only(here))
        or ((marked or step is not None) and _has_sibling(folder, path.name))
    ):
        return Unit(path, parts, _above(folder), here, f"{stem}{path.suffix}")
    return Unit(path, parts, folder, stem)


def _is_step_only(name: str) -> bool:
    """Whether a folder's name is a step and nothing else, as ``checkpoint-500`` and ``100``."""
    return re.fullmatch(r"[A-Za-z]*[_\-=. ]?\d{1,18}[kKmM]?", name) is not None


def _has_sibling(folder: Path, name: str) -> bool:
    """Whether a folder beside this one is a step's as well and holds a file of the same name."""
    here = folder.resolve()
    try:
        with os.scandir(here.parent) as entries:
            others = [entry.name for entry in entries if entry.name != here.name][:MAX_FILES]
    except OSError:
        return False
    return any(folder_step(other) is not None and (here.parent / other / name).is_file() for other in others)


def _above(folder: Path) -> Path:
    return folder.parent if folder.name not in ("", "..", ".") else folder.resolve().parent


def _near(folder: Path) -> list[Path]:
    """Files beside weights that may speak of them though nobody named them: splits, histories, optimisers."""
    found: list[Path] = []
    for here in folders_above(folder):
        try:
            names = sorted(entry.name for entry in os.scandir(here))
        except OSError:
            continue
        for name in names:
            path = here / name
            if path.suffix.lower() not in SUFFIXES or name.startswith(".") or len(found) >= MAX_COMPANIONS:
                continue
            useful = _ASIDE.match(path.stem) or (is_companion_name(path.stem) and belongs(path.stem, ()))
            if useful and path.is_file():
                found.append(path)
    return found
