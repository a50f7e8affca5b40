"""``run.json``, what a run is: written whole or not at all, read with its schema checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grokscope.errors import GrokscopeError
from grokscope.trajectory.atomic import replace_file

MANIFEST_NAME = "run.json"
MANIFEST_SCHEMA = 1


def write_manifest(directory: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Write ``run.json`` into a run directory; a kill leaves the old one or the new one.

    ``schema`` is added when absent. Raises GrokscopeError when the content is no JSON (NaN and infinities
    are none) or cannot be written.
    """
    path = Path(directory) / MANIFEST_NAME
    try:
        text = json.dumps({"schema": MANIFEST_SCHEMA, **manifest}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise GrokscopeError(f"write {path}: {error}, expected what JSON can hold") from None
    replace_file(path, text.encode())
    return path


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The content of ``run.json`` in a run directory.

    Raises GrokscopeError when the directory is no run, the file no JSON object with a ``schema``, or the
    schema newer than this version knows.
    """
    path = Path(directory) / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise GrokscopeError(
            f"open {directory}: not a run: there is no {MANIFEST_NAME}, expected a run directory"
        ) from None
    except UnicodeDecodeError:
        raise GrokscopeError(f"open {path}: not JSON: it is not UTF-8 text") from None
    except OSError as error:
        raise GrokscopeError(f"open {path}: cannot read it: {error.strerror}") from None
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrokscopeError(f"open {path}: not JSON: {error}") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise GrokscopeError(f"open {path}: not a run: expected a JSON object with a whole number 'schema'")
    if schema > MANIFEST_SCHEMA:
        raise GrokscopeError(
            f"open {path}: its schema is {schema}, this version reads up to {MANIFEST_SCHEMA}"
        )
    return manifest
