"""A run's scalars for TensorBoard and for Weights & Biases: every series of one number a step."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.export.libraries import load_library
from grokscope.probes.dense import Series
from grokscope.probes.record import Record
from grokscope.runs import Run

PROJECT = "grokscope"


def scalar_series(run: Run, record: Record | None = None) -> dict[str, Series]:
    """Name → (steps, values) of the training log and of what was measured; undefined entries are left out.

    Losses and accuracies are those of the log where it has them, since it is denser than the saves.
    """
    found: dict[str, Series] = {}
    scalars = run.scalars
    for name, values in scalars.items():
        if name != "step":
            found[name] = _defined(scalars["step"], values)
    for name, m in record.measurements.items() if record is not None else ():
        if name in found or m.dims not in (("step",), ("interval",)) or record is None:
            continue
        steps = record.steps if m.dims == ("step",) else record.steps[1:]
        found[name] = _defined(steps, m.values.astype(np.float64))
    return {name: series for name, series in sorted(found.items()) if len(series[0])}


def _defined(steps: np.ndarray, values: np.ndarray) -> Series:
    kept = np.isfinite(values)
    return steps[kept].astype(np.int64), values[kept].astype(np.float64)


def to_tensorboard(run: Run, record: Record | None, folder: str | Path) -> Path:
    """Write the scalars as one event file in ``folder``; an earlier export of the same run is replaced.

    Dots in names become slashes, by which TensorBoard groups. In place of wall time stands the step in
    seconds, so that equal runs give equal bytes. Values are float32, as the format has them.

    Raises:
        GrokscopeError: TensorBoard is not installed, or the file cannot be written.
    """
    doing = f"exporting {run.name} to TensorBoard"
    load_library("tensorboard", "tensorboard", doing)
    summary = load_library("torch.utils.tensorboard.summary", "tensorboard", doing)
    events = load_library("tensorboard.compat.proto.event_pb2", "tensorboard", doing)
    writing = load_library("tensorboard.summary.writer.record_writer", "tensorboard", doing)
    path = Path(folder) / f"events.out.tfevents.0.{run.path.name}"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            writer = writing.RecordWriter(file)
            writer.write(events.Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
            for name, (steps, values) in scalar_series(run, record).items():
                tag = name.replace(".", "/")
                for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                    event = events.Event(wall_time=float(step), step=step, summary=summary.scalar(tag, value))
                    writer.write(event.SerializeToString())
            writer.flush()
        temporary.replace(path)
    except OSError as error:
        raise GrokscopeError(f"{doing}: {path}: {error.strerror}, expected a writable folder") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def to_wandb(
    run: Run,
    record: Record | None,
    folder: str | Path,
    *,
    project: str = PROJECT,
    online: bool = False,
) -> Path:
    """Log config, scalars and verdict as one Weights & Biases run; without ``online`` nothing leaves the machine.

    ``wandb sync`` sends an offline run later. Its id follows from the run's content, so the same run is sent once.

    Returns:
        the folder that Weights & Biases wrote.

    Raises:
        GrokscopeError: wandb is not installed, or what it says when it fails.
    """
    doing = f"exporting {run.name} to Weights & Biases"
    wandb = load_library("wandb", "wandb", doing)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GrokscopeError(f"{doing}: {folder}: {error.strerror}, expected a writable folder") from None
    content = hashlib.sha256(f"{run.name}\0{run.trajectory.checksum()}".encode()).hexdigest()
    by_step: dict[int, dict[str, float]] = defaultdict(dict)
    for name, (steps, values) in scalar_series(run, record).items():
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            by_step[step][name.replace(".", "/")] = value
    try:
        with wandb.init(
            project=project,
            name=run.name,
            id=content[:16],
            dir=str(folder),
            mode="online" if online else "offline",
            config=dict(run.config),
            settings=wandb.Settings(silent=True, disable_git=True, save_code=False, console="off"),
        ) as logged:
            for step in sorted(by_step):
                logged.log(by_step[step], step=step)
            logged.summary.update(_summary(record))
            written = Path(logged.dir).parent
    except (OSError, ValueError, RuntimeError, wandb.Error) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise GrokscopeError(f"{doing}: {first}, expected a run that it accepts") from None
    return written


def _summary(record: Record | None) -> dict[str, Any]:
    """What is said of the whole run: its state and the intervals of its events."""
    if record is None:
        return {}
    found: dict[str, Any] = {}
    if record.verdict is not None:
        found |= {"state": record.verdict.state, "verdict": record.verdict.sentence}
    for name, event in record.events.items():
        found[f"events/{name}/after"], found[f"events/{name}/by"] = event.after, event.by
    return {name: value for name, value in found.items() if value is not None}
