"""Names on the command line to runs in a workspace, and what a command does to its process and files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from grokscope.errors import GrokscopeError, nearest

if TYPE_CHECKING:
    from grokscope.runs import Run
    from grokscope.user_code import UserFunction


def settle_process() -> None:
    """Settings of this process alone: one thread, and no returning of memory between steps.

    Small matrices lose time on a second thread.
    """
    import torch

    from grokscope.training.machine import keep_heap

    torch.set_num_threads(1)
    keep_heap()


def open_given(given: str, workspace: Path, function: UserFunction | None = None) -> Run:
    """The run named or located by ``given``; published weights are imported on the way.

    ``function`` is the user's own forward, for weights that have no other.
    """
    from grokscope.runs import open_run

    directory = run_directory(given, workspace)
    if directory is None:
        from grokscope.foreign import Reading, import_or_reuse

        directory = import_or_reuse(existing(given, workspace), workspace, Reading(function=function))
    return open_run(directory, function)


def run_directory(given: str, workspace: Path) -> Path | None:
    """The directory of the run ``given`` names or locates, or ``None`` where it is not one of ours."""
    for candidate in (workspace / "checkpoints" / given, Path(given)):
        if (candidate / "run.json").is_file():
            return candidate
    return None


def existing(given: str, workspace: Path) -> Path:
    """``given`` as a path that exists."""
    if not Path(given).exists():
        missing_run(given, workspace)
    return Path(given)


def missing_run(given: str, workspace: Path) -> NoReturn:
    """Say that there is no such run, with the nearest name there is."""
    folder = workspace / "checkpoints"
    known = sorted(p.parent.name for p in folder.glob("*/run.json"))
    listed = f"one of {', '.join(known[:8])}" if known else f"a run in {folder}"
    found = (
        "it is no run: there is no run.json in it"
        if Path(given).exists()
        else "no run of that name and no such path"
    )
    raise GrokscopeError(f"opening {given!r}: {found}, expected {listed}, or a path{nearest(given, known)}")


def checked_name(name: str) -> str:
    """``name`` if a run may be called so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", name):
        raise GrokscopeError(
            f"naming a run: {name!r} was given, expected letters, digits and . _ + - (at most 128)"
        )
    return name


def write_text(path: Path, text: str) -> None:
    """Write a whole file in one move, its folder made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise GrokscopeError(f"writing {path}: {error.strerror}, expected a writable place") from None
