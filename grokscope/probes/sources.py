"""Hashes of the source files that a number passes through, so that a change of them measures again."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_PARTS = ("measures", "models", "probes", "tasks", "trajectory")
_DRAWN_ONLY = "drawing.py"  # figures are drawn anew from every record


def source_of(function: Callable[..., Any]) -> str:
    """The file that defines ``function``, empty where it has none."""
    try:
        return inspect.getsourcefile(function) or ""
    except TypeError:
        return ""


def file_hash(path: str | Path) -> str:
    """SHA-256, in hex, of a file; empty where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


@cache
def package_hash() -> str:
    """A hash of grokscope's own source files that a measurement passes through."""
    package = Path(__file__).resolve().parents[1]
    files = [package / "runs.py", package / "user_code.py"]
    files += [file for part in _PARTS for file in sorted((package / part).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        if not file.name.endswith(_DRAWN_ONLY):
            digest.update(f"{file.relative_to(package).as_posix()}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()
