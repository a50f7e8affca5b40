"""Optimiser snapshots, ``snapshots/<step>.safetensors``: sparse, and written whole or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from grokscope.errors import GrokscopeError
from grokscope.trajectory.atomic import replace_file, temporary_path

SNAPSHOTS_DIRECTORY = "snapshots"

_NAME = re.compile(r"(0|[1-9][0-9]*)\.safetensors")


def write_snapshot(
    directory: str | Path,
    step: int,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Store the optimiser's state at a step of the run in ``directory``, replacing one already there.

    ``metadata`` are strings kept beside the arrays. What an earlier, killed write left behind is removed.
    Raises GrokscopeError when the arrays cannot be stored or there is no space; nothing is left then.
    """
    place = _place(directory, step)
    try:
        place.parent.mkdir(exist_ok=True)
        for stale in place.parent.glob(temporary_path(Path("*.safetensors")).name):
            with contextlib.suppress(OSError):
                stale.unlink()
    except OSError as error:
        raise GrokscopeError(f"write {place}: {error.strerror}") from None
    try:
        # Not ascontiguousarray, which would give a 0-d step counter an axis.
        tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        content = safetensors.numpy.save(tensors, dict(metadata or {}))
    except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise GrokscopeError(f"write {place}: {error}, expected numeric arrays and text metadata") from None
    replace_file(place, content)
    return place


def snapshot_steps(directory: str | Path) -> list[int]:
    """The steps of which there is a snapshot, ascending; half-written files do not count."""
    try:
        names = [entry.name for entry in (Path(directory) / SNAPSHOTS_DIRECTORY).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def read_snapshot(directory: str | Path, step: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a snapshot.

    Raises GrokscopeError when there is none of that step (naming those there are) or it is damaged.
    """
    place = _place(directory, step)
    try:
        with safetensors.safe_open(place, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return arrays, dict(stored.metadata() or {})
    except FileNotFoundError:
        steps = ", ".join(str(known) for known in snapshot_steps(directory)) or "none"
        raise GrokscopeError(f"open {place}: no snapshot of step {step}; there are: {steps}") from None
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise GrokscopeError(f"open {place}: damaged snapshot ({error})") from None


def _place(directory: str | Path, step: int) -> Path:
    return Path(directory) / SNAPSHOTS_DIRECTORY / f"{int(step)}.safetensors"
