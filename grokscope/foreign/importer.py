"""Bringing a stranger's run in: read, recognise, rebuild, find the split, prove, store as a run of ours."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.containers import ForeignRun, Skipped, gather
from grokscope.foreign.gathering.facts import DECAY_NAMES, LEARNING_RATE_NAMES
from grokscope.foreign.imported import ImportedRun, ImportResult, declared_card
from grokscope.foreign.splitting.find import Split
from grokscope.foreign.understand import Reading, Understood, understand
from grokscope.tasks import pack_mask
from grokscope.trajectory import (
    MANIFEST_NAME,
    TrajectoryWriter,
    read_manifest,
    settings_dict,
    write_manifest,
)

__all__ = [
    "RUNS_FOLDER",
    "ImportResult",
    "ImportedRun",
    "declared_card",
    "import_or_reuse",
    "import_paths",
    "inspect_path",
    "name_runs",
    "store_runs",
]

RUNS_FOLDER = "checkpoints"
_SAY_NOTHING = {
    "checkpoint", "checkpoints", "ckpt", "ckpts", "default", "full", "latest", "logs", "model", "models", "out",
    "output", "outputs", "result", "results", "run", "runs", "save", "saved", "saved_models", "saved_runs",
    "saves", "tmp", "weights",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]{0,199}")


def import_paths(
    paths: Sequence[Path], workspace: Path, name: str | None = None, how: Reading | None = None
) -> ImportResult:
    """Read the runs in ``paths`` and store each as ``workspace/checkpoints/<name>/``.

    ``name`` is by default that of the folder, or of the file where the file has a name of its own; several
    runs from one import are ``<name>.<stem>``. Nothing is stored unless everything recognised can be. ``how``
    holds a card or a function of the user's own.

    Raises:
        GrokscopeError: nothing to read, a card that does not fit, a name that exists or cannot be a folder,
            or a disk that cannot be written.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise GrokscopeError(
            f"importing: --name was {name!r}, expected letters, digits and . _ - + = , @, beginning with a "
            "letter or digit"
        )
    result = _understand(paths, name, how)
    return store_runs(_some(result), result.skipped, workspace, Path(paths[0]))


def _some(result: ImportResult) -> tuple[ImportedRun, ...]:
    """The runs of a result that has some."""
    if not result.runs:
        first = result.skipped[0]
        more = f" (and {len(result.skipped) - 1} more)" if len(result.skipped) > 1 else ""
        raise GrokscopeError(_about(first.path, first.why) + more)
    return result.runs


def store_runs(
    runs: Sequence[ImportedRun], skipped: Sequence[Skipped], workspace: Path, given: Path
) -> ImportResult:
    """Store understood runs under their names in a workspace: all of them, or none where a name is taken."""
    home = workspace / RUNS_FOLDER
    for run in runs:
        if (home / run.name).exists():
            raise GrokscopeError(
                f"importing {given}: {home / run.name} exists, expected a new name; choose one with --name"
            )
    return ImportResult(tuple(_store(run, home) for run in runs), tuple(skipped))


def import_or_reuse(path: Path, workspace: Path, how: Reading | None = None) -> Path:
    """The directory of the one run in ``path``, imported now or already there from the same files.

    Raises:
        GrokscopeError: as :func:`import_paths`; or several runs in ``path``, of which one must be chosen.
    """
    gathered = gather([Path(path)])
    if len(gathered[0]) == 1:
        (source,) = gathered[0]
        if (stored := _stored_before(source, _safe(_telling_name(source)), workspace)) is not None:
            return stored
    result = _understand([path], None, how, gathered)
    if len(result.runs) > 1:
        names = ", ".join(run.name for run in result.runs)
        raise GrokscopeError(
            f"opening {path}: it holds {len(result.runs)} runs ({names}), expected one; import them first"
        )
    for run in result.runs:
        if (stored := _stored_before(run.found.source, run.name, workspace)) is not None:
            return stored
    stored_as = store_runs(_some(result), result.skipped, workspace, path).runs[0].path
    assert stored_as is not None
    return stored_as


def _stored_before(source: ForeignRun, name: str, workspace: Path) -> Path | None:
    """The directory of this name in a workspace, where it was imported from the same files."""
    target = workspace / RUNS_FOLDER / name
    if not (target / MANIFEST_NAME).is_file():
        return None
    stored = read_manifest(target).get("provenance", {}).get("sources", {})
    return target if set(stored.values()) == set(_sources(source).values()) else None


def inspect_path(path: Path, how: Reading | None = None) -> dict[str, Any]:
    """What a foreign file or folder holds, in the shape of :meth:`ImportResult.as_json`; nothing is stored.

    Raises:
        GrokscopeError: a missing path, a folder without weights, or a single file that cannot be read.
    """
    return _understand([path], None, how).as_json()


def _about(path: Path, why: str) -> str:
    return why if str(path) in why else f"importing {path}: {why}"


def _understand(
    paths: Sequence[Path],
    name: str | None,
    how: Reading | None,
    gathered: tuple[list[ForeignRun], list[Skipped]] | None = None,
) -> ImportResult:
    """Every run that can be read, named, and what was skipped; ``gathered`` where the files are read already."""
    sources, skipped = gathered or gather([Path(path) for path in paths])
    found: list[ImportedRun] = []
    reading = how or Reading()
    for source in sources:
        folder = source.snapshots[-1].path.parent
        near = [(str(one.path), one.why) for one in skipped if one.path.is_relative_to(folder)]
        try:
            found.append(ImportedRun("", understand(source, reading, near, str(paths[0]))))
        except GrokscopeError as error:
            if reading.card is not None or reading.function is not None:
                raise
            skipped.append(Skipped(source.snapshots[-1].path, str(error)))
    return ImportResult(tuple(_named(found, Path(paths[0]), name)), tuple(skipped))


def _named(runs: list[ImportedRun], first: Path, name: str | None) -> list[ImportedRun]:
    if len(runs) == 1:
        return [replace(runs[0], name=name or _safe(_telling_name(runs[0].found.source)))]
    folder = first if first.is_dir() else first.parent
    stems = [replace(run, name=run.found.source.stem) for run in runs]
    return name_runs(stems, name or _safe(folder.resolve().name))


def _telling_name(source: ForeignRun) -> str:
    """The name of the run, or that of the nearest folder above it whose name says more than "runs" does."""
    folders = [path.name for path in source.snapshots[-1].path.resolve().parents]
    return next(
        (one for one in (source.stem, *folders) if one and one.lower() not in _SAY_NOTHING), source.stem
    )


def name_runs(runs: Sequence[ImportedRun], base: str) -> list[ImportedRun]:
    """Runs called ``<base>.<their name>``, no two alike; a single one is called ``base``."""
    if len(runs) == 1:
        return [replace(runs[0], name=base)]
    taken: set[str] = set()
    named = []
    for run in runs:
        stem = wanted = _safe(run.name)
        count = 1
        while wanted in taken:
            count += 1
            wanted = f"{stem}-{count}"
        taken.add(wanted)
        named.append(replace(run, name=f"{base}.{wanted}"))
    return named


def _safe(text: str) -> str:
    """A folder name from whatever a stranger called it."""
    cleaned = re.sub(r"[^A-Za-z0-9._+=,@-]+", "-", text).lstrip("._+=,@-")[:100]
    return cleaned or "import"


def _store(run: ImportedRun, home: Path) -> ImportedRun:
    """Write a run's directory whole: under a temporary name, then into place."""
    target, partial = home / run.name, home / f".{run.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        shapes = {name: (tuple(v.shape), v.numpy().dtype) for name, v in run.found.saves[0].items()}
        with TrajectoryWriter(partial / "trajectory.h5", shapes, scalars=[]) as writer:
            for step, params in zip(run.found.steps, run.found.saves, strict=True):
                writer.save(step, {name: value.numpy() for name, value in params.items()})
        write_manifest(partial, _manifest(run))
        partial.rename(target)
    except OSError as error:
        why = error.strerror or str(error)
        raise GrokscopeError(f"importing into {target}: {why}, expected a writable folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(run, path=target)


def _manifest(run: ImportedRun) -> dict[str, Any]:
    found, printed = run.found, run.as_json()
    function, split = found.function, found.split
    task: dict[str, Any] = {"name": "unknown"}
    seed = 0
    if function is not None:
        task = settings_dict(function.task_settings)
        if isinstance(split, Split):
            task["train_fraction"] = split.fraction
            if split.seed is not None:
                seed = task["split_seed"] = split.seed
    manifest: dict[str, Any] = {
        "name": run.name,
        "kind": "imported",
        "config": {
            "seed": seed,
            "task": task,
            "model": settings_dict(found.model.settings),  # pyright: ignore[reportAttributeAccessIssue]
            **_recorded_training(found),
        },
    }
    if isinstance(split, Split):
        manifest["split"] = pack_mask(split.mask)
    elif split is not None:
        manifest["no_split"] = split.why
    if function is not None and found.why:
        manifest["no_function"] = found.why
    if found.user_function is not None:
        manifest["function"] = {"name": found.user_function.name, "sha256": found.user_function.sha256}
    return manifest | {
        "card": {**printed["recognised"], "hypotheses": printed["hypotheses"], "split": printed["split"]},
        "proof": printed["proof"],
        "audit": printed["audit"],
        "recorded": found.source.facts.kept(dict(found.source.snapshots[-1].scalars)),
        "provenance": {
            "grokscope": _version("grokscope"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": _version("numpy"),
            "h5py": _version("h5py"),
            "command": ["grokscope", *sys.argv[1:]],
            "imported": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": _sources(found.source),
        },
    }


def _recorded_training(found: Understood) -> dict[str, dict[str, float | str]]:
    """The optimiser settings recorded beside the weights, under our names, and a loss that the record tells."""
    facts, inside = found.source.facts, dict(found.source.snapshots[-1].scalars)
    said = {"lr": facts.find(LEARNING_RATE_NAMES, inside), "weight_decay": facts.find(DECAY_NAMES, inside)}
    settings: dict[str, float | str] = {
        name: float(fact[0])
        for name, fact in said.items()
        if fact is not None and isinstance(fact[0], int | float) and 0 <= fact[0] < 1e6
    }
    if found.function is not None and found.function.loss.squared:
        settings["loss"] = "squared"
    return {"train": settings} if settings else {}


def _sources(source: ForeignRun) -> Mapping[str, str]:
    """sha256 of every file that the run was read from, and its full path."""
    files = list(dict.fromkeys(one.path for one in source.snapshots))
    files += [path for path in source.facts.paths.values() if path.is_file()]
    return {str(file.resolve()): _sha256(file) for file in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
