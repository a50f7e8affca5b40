"""Bringing a stranger's run in: read, recognise, rebuild, find the split, prove, store as a run of ours."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.audit import Finding, audit, audit_proof
from grokscope.foreign.containers import ForeignRun, Skipped, gather
from grokscope.foreign.dialects import Recognised, Unrecognised, recognise
from grokscope.foreign.facts import (
    ACTIVATION_NAMES,
    DECAY_NAMES,
    LEARNING_RATE_NAMES,
    OPERATION_NAMES,
    recorded_numbers,
)
from grokscope.foreign.hypotheses import (
    ACTIVATIONS,
    Hypothesis,
    find_activation,
    find_operation,
    operation_task,
    pair_outcomes,
)
from grokscope.foreign.proof import Comparison, measured, prove, recorded_optimiser, typical_error
from grokscope.foreign.split import Split, find_split
from grokscope.models import Params, Transformer, as_float64
from grokscope.models.anatomy import Activation
from grokscope.tasks import ModularSettings, Task, modular_task, pack_mask
from grokscope.trajectory import (
    MANIFEST_NAME,
    TrajectoryWriter,
    read_manifest,
    settings_dict,
    write_manifest,
)

RUNS_FOLDER = "checkpoints"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]{0,199}")


@dataclass(frozen=True)
class ImportedRun:
    """One run as understood: the function, the split, the proof, the audit; and where it was stored.

    Attributes:
        steps, saves: the weights under our names, in the dtype they came in.
        task: with the run's own split.
        path: the run's directory, ``None`` where it was only inspected.
    """

    name: str
    source: ForeignRun
    recognised: Recognised
    model: Transformer
    operation: str
    hypotheses: tuple[Hypothesis, ...]
    task: Task
    split: Split
    steps: tuple[int, ...]
    saves: tuple[Params, ...]
    proof: tuple[Comparison, ...]
    audit: tuple[Finding, ...]
    path: Path | None = None

    def card(self) -> dict[str, Any]:
        """What was recognised, JSON-ready."""
        found, settings = self.recognised, self.model.settings
        dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in self.saves[0].values()})
        return {
            "dialect": found.dialect.name,
            "title": found.dialect.title,
            "operation": self.operation,
            "p": found.p,
            "model": settings_dict(settings),
            "steps": [int(step) for step in self.steps],
            "step_from": self.source.snapshots[-1].step_from,
            "dtype": dtypes,
            "known": [*found.known, *self.source.notes],
            "guessed": list(found.guessed),
            "ignored": dict(found.ignored),
        }

    def as_json(self) -> dict[str, Any]:
        """The run in the shape that ``import`` and ``inspect`` print."""
        return {
            "name": self.name,
            "recognised": self.card(),
            "hypotheses": [one.as_json() for one in self.hypotheses],
            "proof": [one.as_json() for one in self.proof],
            "split": self.split.as_json(),
            "audit": [dict(one) for one in self.audit],
        }


@dataclass(frozen=True)
class ImportResult:
    """Everything that an import stored or an inspection found, and what was left out and why."""

    runs: tuple[ImportedRun, ...] = ()
    skipped: tuple[Skipped, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The documented shape of ``import --json`` and ``inspect --json``."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "skipped": [{"path": str(one.path), "why": one.why} for one in self.skipped],
        }


def import_paths(paths: Sequence[Path], workspace: Path, name: str | None = None) -> ImportResult:
    """Read the runs in ``paths`` and store each as ``workspace/checkpoints/<name>/``.

    ``name`` is by default that of the folder, or of the file where the file has a name of its own; several
    runs from one import are ``<name>.<stem>``. Nothing is stored unless everything recognised can be.

    Raises:
        GrokscopeError: nothing to read, nothing recognised, no training split found, a name that exists
            or cannot be a folder, or a disk that cannot be written.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise GrokscopeError(
            f"importing: --name was {name!r}, expected letters, digits and . _ - + = , @, beginning with a "
            "letter or digit"
        )
    result = _understand(paths, name)
    if not result.runs:
        first = result.skipped[0]
        more = f" (and {len(result.skipped) - 1} more)" if len(result.skipped) > 1 else ""
        raise GrokscopeError(_about(first.path, first.why) + more)
    home = workspace / RUNS_FOLDER
    for run in result.runs:
        if (home / run.name).exists():
            raise GrokscopeError(
                f"importing {paths[0]}: {home / run.name} exists, expected a new name; choose one with --name"
            )
    return ImportResult(tuple(_store(run, home) for run in result.runs), result.skipped)


def import_or_reuse(path: Path, workspace: Path) -> Path:
    """The directory of the one run in ``path``, imported now or already there from the same files.

    Raises:
        GrokscopeError: as :func:`import_paths`; or several runs in ``path``, of which one must be chosen.
    """
    result = _understand([path], None)
    if len(result.runs) > 1:
        names = ", ".join(run.name for run in result.runs)
        raise GrokscopeError(
            f"opening {path}: it holds {len(result.runs)} runs ({names}), expected one; import them first"
        )
    if result.runs:
        run = result.runs[0]
        target = workspace / RUNS_FOLDER / run.name
        if (target / MANIFEST_NAME).is_file():
            stored = read_manifest(target).get("provenance", {}).get("sources", {})
            if set(stored.values()) == set(_sources(run.source).values()):
                return target
    stored_as = import_paths([path], workspace).runs[0].path
    assert stored_as is not None
    return stored_as


def inspect_path(path: Path) -> dict[str, Any]:
    """What a foreign file or folder holds, in the shape of :meth:`ImportResult.as_json`; nothing is stored.

    A file that reads but is no known dialect is answered under ``skipped``.

    Raises:
        GrokscopeError: a missing path, a folder without weights, or a single file that cannot be read.
    """
    return _understand([path], None).as_json()


def _about(path: Path, why: str) -> str:
    return why if str(path) in why else f"importing {path}: {why}"


def _understand(paths: Sequence[Path], name: str | None) -> ImportResult:
    """Every run that can be rebuilt, named, and what was skipped."""
    sources, skipped = gather([Path(path) for path in paths])
    understood: list[ImportedRun] = []
    for source in sources:
        found = recognise(source.snapshots[-1].tensors)
        where = source.snapshots[-1].path
        if isinstance(found, Unrecognised):
            skipped.append(Skipped(where, found.why))
            continue
        try:
            understood.append(_rebuilt(source, found))
        except GrokscopeError as error:
            skipped.append(Skipped(where, str(error)))
    return ImportResult(tuple(_named(understood, Path(paths[0]), name)), tuple(skipped))


def _named(runs: list[ImportedRun], first: Path, name: str | None) -> list[ImportedRun]:
    if len(runs) == 1:
        return [replace(runs[0], name=name or _safe(runs[0].source.stem))]
    folder = first if first.is_dir() else first.parent
    base, taken, named = name or _safe(folder.resolve().name), set(), []
    for run in runs:
        stem = wanted = _safe(run.source.stem)
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


def _rebuilt(source: ForeignRun, found: Recognised) -> ImportedRun:
    """The function, the split and the proof of one recognised run."""
    last, facts = source.snapshots[-1], source.facts
    inside = dict(last.scalars)
    steps = tuple(one.step for one in source.snapshots)
    saves = tuple(found.translate(one.tensors) for one in source.snapshots)
    named = facts.find(OPERATION_NAMES, inside)
    operation, about_operation = find_operation(found.settings, found.p, saves, named)
    bare = operation_task(operation, found.p)
    outcomes: dict[Activation, tuple[Transformer, Tensor, Tensor]] = {}
    for activation in ACTIVATIONS:
        settings = replace(found.settings, activation=activation)
        model = Transformer(settings, found.p, found.p)
        each = [pair_outcomes(model, as_float64(params), bare) for params in saves]
        losses, right = torch.stack([one for one, _ in each]), torch.stack([one for _, one in each])
        outcomes[activation] = model, losses, right
    # which pairs were trained on shows under either activation
    _, losses, right = outcomes["relu"]
    split = find_split(facts, inside, losses, right, steps, str(last.path))
    task = modular_task(
        ModularSettings(op=operation, p=found.p, train_fraction=split.fraction, split_seed=split.seed), 0
    ).with_split(split.mask)
    numbers = recorded_numbers(facts, {one.step: one.scalars for one in source.snapshots})
    errors: dict[Activation, float | None] = {
        name: typical_error(numbers, measured(task, losses, right), steps)
        for name, (_, losses, right) in outcomes.items()
    }
    activation, about_activation = find_activation(facts.find(ACTIVATION_NAMES, inside), errors)
    model, losses, right = outcomes[activation]
    optimiser = recorded_optimiser(facts, inside)
    proof = prove(numbers, measured(task, losses, right), steps, model, saves, task, optimiser)
    unsaid = "the weights do not say"
    conventions = tuple(Hypothesis("convention", one, "assumed", unsaid) for one in found.guessed)
    return ImportedRun(
        name="",
        source=source,
        recognised=found,
        model=model,
        operation=operation,
        hypotheses=(*about_operation, about_activation, *conventions),
        task=task,
        split=split,
        steps=steps,
        saves=saves,
        proof=tuple(proof),
        audit=tuple(audit(task, steps, right, found.ignored, saves[-1]) + audit_proof(proof)),
    )


def _store(run: ImportedRun, home: Path) -> ImportedRun:
    """Write a run's directory whole: under a temporary name, then into place."""
    target, partial = home / run.name, home / f".{run.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        shapes = {name: (tuple(v.shape), v.numpy().dtype) for name, v in run.saves[0].items()}
        with TrajectoryWriter(partial / "trajectory.h5", shapes, scalars=[]) as writer:
            for step, params in zip(run.steps, run.saves, strict=True):
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
    task = {
        "name": "modular",
        "op": run.operation,
        "p": run.recognised.p,
        "train_fraction": run.split.fraction,
        "split_seed": run.split.seed,
    }
    printed = run.as_json()
    return {
        "name": run.name,
        "kind": "imported",
        "config": {
            "seed": run.split.seed,
            "task": task,
            "model": settings_dict(run.model.settings),
            **_recorded_training(run),
        },
        "split": pack_mask(run.split.mask),
        "card": {
            **printed["recognised"],
            "hypotheses": printed["hypotheses"],
            "split": printed["split"],
        },
        "proof": printed["proof"],
        "audit": printed["audit"],
        "recorded": run.source.facts.kept(),
        "provenance": {
            "grokscope": _version("grokscope"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": _version("numpy"),
            "h5py": _version("h5py"),
            "command": ["grokscope", *sys.argv[1:]],
            "imported": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": _sources(run.source),
        },
    }


def _recorded_training(run: ImportedRun) -> dict[str, dict[str, float]]:
    """The optimiser settings recorded beside the weights, under our names; nothing is assumed."""
    facts, inside = run.source.facts, dict(run.source.snapshots[-1].scalars)
    found = {"lr": facts.find(LEARNING_RATE_NAMES, inside), "weight_decay": facts.find(DECAY_NAMES, inside)}
    settings = {
        name: float(fact[0])
        for name, fact in found.items()
        if fact is not None and isinstance(fact[0], int | float) and 0 <= fact[0] < 1e6
    }
    return {"train": settings} if settings else {}


def _sources(source: ForeignRun) -> Mapping[str, str]:
    """sha256 of every file that the run was read from, and its full path."""
    files = [one.path for one in source.snapshots]
    folder = files[0].parent
    files += [folder / name for name in (*source.facts.documents, *source.facts.tables)]
    return {str(file.resolve()): _sha256(file) for file in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
