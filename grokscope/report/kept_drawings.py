"""Drawn figures kept beside a run, so that the page of a record that was drawn before takes no drawing.

Drawing is most of what a page costs. A figure depends on the record, on the sources of the package and on
matplotlib; it is kept under a hash of all three, and anything that does not fit is drawn anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from grokscope.probes.record import Record
from grokscope.probes.sources import file_hash

_FILE = "figures.json"


class KeptDrawings:
    """The drawings of one record in ``folder``, read when made; :meth:`store` writes what was added."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._path = folder / _FILE
        self._key = _key(record)
        self._grew = False
        self._drawings: dict[str, str] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("key") == self._key:
                held = found.get("drawings")
                if isinstance(held, dict) and all(isinstance(svg, str) for svg in held.values()):
                    self._drawings = held

    def get(self, name: str) -> str | None:
        """The SVG text kept as ``name``."""
        return self._drawings.get(name)

    def put(self, name: str, svg: str) -> None:
        """Keep ``svg`` as ``name``."""
        self._drawings[name] = svg
        self._grew = True

    def store(self) -> None:
        """Write everything in one move; where that is not possible the next page is drawn again."""
        if not self._grew:
            return
        temporary = self._path.with_name(f".{_FILE}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"key": self._key, "drawings": self._drawings}), encoding="utf-8")
            temporary.replace(self._path)
        except (OSError, UnicodeError):
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _key(record: Record) -> str:
    """A hash of everything that a figure can show, and of what draws it."""
    digest = hashlib.sha256(f"{_sources()}\0{version('matplotlib')}\0{record.run}\0".encode())
    digest.update(np.ascontiguousarray(record.steps).tobytes())
    for name, measurement in record.measurements.items():
        values = np.ascontiguousarray(measurement.values)
        digest.update(f"{name}\0{measurement.dims}\0{values.dtype}\0{values.shape}\0".encode())
        digest.update(values.tobytes())
    rest = (record.coordinates, record.events, record.notes, record.absent, record.verdict, record.probes)
    digest.update(repr(rest).encode("utf-8", "replace"))
    return digest.hexdigest()


@cache
def _sources() -> str:
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for part in ("measures", "probes", "report"):
        for file in sorted((package / part).rglob("*.py")):
            digest.update(f"{file.relative_to(package).as_posix()}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()
