"""One run as one row of the index: what is remembered of it beside its page, and when that still holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from grokscope.measures.crossings import Crossing, delay
from grokscope.probes.cache import MEASUREMENTS, cache_key, chosen_probes
from grokscope.probes.dense import Series, counted, dense_series
from grokscope.probes.readings import READINGS
from grokscope.probes.record import Record, load_record
from grokscope.probes.sources import file_hash
from grokscope.probes.suite import read_suite
from grokscope.runs import Run
from grokscope.trajectory.digests import remembered_checksum

SCHEMA = 1
ROWS = ".rows"
"""The folder beside the pages that remembers their rows."""
NOT_MEASURED, UNREADABLE = "not measured", "cannot be read"
WIDTH, HEIGHT = 120, 32
"""The box of the small curve, in units of its own."""

Ends = tuple[float | None, float | None]
Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """What the index says of one run.

    ``page`` is a file name beside the index, empty without one; ``origin`` is where a replay or a fork comes
    from; ``fit`` and ``grok`` are ``(after, by)`` in
    steps, ``delay`` the factor between them; ``train`` and ``test`` are points of the small curve, accuracy
    over log(1 + step). ``sentence`` is the verdict, or why there is none.
    """

    name: str
    page: str = ""
    task: str = ""
    model: str = ""
    seed: int | None = None
    state: str = NOT_MEASURED
    flags: tuple[str, ...] = ()
    sentence: str = ""
    fit: Ends | None = None
    grok: Ends | None = None
    delay: Ends | None = None
    step: int | None = None
    accuracy: float | None = None
    checksum: str = ""
    origin: str = ""
    train: Points = ()
    test: Points = ()


def row_of(run: Run, record: Record | None) -> Row:
    """The row of a run; of one that was not measured, what its training log and its settings tell."""
    config = run.config
    model = config.get("model")
    seed = config.get("seed")
    dense = dense_series(run, record or Record(run.name, run.steps))
    train, test = dense.get("accuracy.train"), dense.get("accuracy.test")
    row = Row(
        name=run.path.name,
        task=run.task.description or run.task.name,
        model=str(model.get("family", "")) if isinstance(model, Mapping) else "",
        seed=seed if isinstance(seed, int) and run.manifest.get("kind") != "imported" else None,
        step=int(run.steps[-1]),
        accuracy=_last(test),
        origin=origin_of_run(run),
        train=points(train, int(run.steps[-1])),
        test=points(test, int(run.steps[-1])),
    )
    if record is None:
        return row
    verdict = record.verdict
    fit, grok = record.events.get("fit"), record.events.get(counted(record)[0])
    return replace(
        row,
        state=verdict.state if verdict else "no state claimed",
        flags=verdict.flags if verdict else (),
        sentence=verdict.sentence if verdict else "",
        fit=_ends(fit),
        grok=_ends(grok),
        delay=delay(fit, grok) if fit is not None and grok is not None else None,
        checksum=remembered_checksum(run.trajectory, run.path / READINGS),
    )


def origin_of_run(run: Run) -> str:
    """Where a replay or a fork comes from, in words; empty for other runs."""
    if run.origin is None:
        return ""
    verb = "forked from" if run.manifest.get("kind") == "forked" else "replayed from"
    return f"{verb} {run.origin.get('name')} at step {run.origin.get('at')}"


def _ends(event: Crossing | None) -> Ends | None:
    return None if event is None else (event.after, event.by)


def _last(series: Series | None) -> float | None:
    if series is None:
        return None
    finite = series[1][np.isfinite(series[1])]
    return float(finite[-1]) if finite.size else None


def points(series: Series | None, last: int) -> Points:
    """(x, y) in whole units of the small box: one point for each second unit of x, the last there."""
    if series is None:
        return ()
    steps, values = series
    kept = np.isfinite(values) & (steps <= max(last, 1))
    if not kept.any():
        return ()
    x = np.log1p(steps[kept].astype(float)) / np.log1p(max(last, 1)) * WIDTH
    y = HEIGHT - 2 - np.clip(values[kept], 0, 1) * (HEIGHT - 4)
    found = {2 * round(float(a) / 2): round(float(b)) for a, b in zip(x, y, strict=True)}
    return tuple(found.items())


@dataclass(frozen=True)
class Kept:
    """A row as it was remembered: under which keys, and the SHA-256 of the page that was written with it."""

    row: Row
    key: str
    content: str
    page: str


def page_key(run: Run, suite: str | Path = "default", plugins: Sequence[str | Path] = ()) -> str:
    """A hash of everything that a page of the run depends on: its measurements' key, and what draws it."""
    return _hash(cache_key(run, read_suite(suite), chosen_probes(suite, plugins=plugins), None))


_CONTENT = ("trajectory", "rows", "run", "grokscope", "torch", "source")


def stored_record(run: Run) -> Record | None:
    """What was last measured at every save, whatever the suite, where it is still valid; nothing is measured."""
    path = run.path / MEASUREMENTS
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r", locking=False) as file:
            stored: Any = file["key"]
            key = json.loads(stored[()].decode())
        now = cache_key(run, read_suite("default"), (), None)
        if key["steps"] is not None or any(key[name] != now[name] for name in _CONTENT):
            return None
        return load_record(path, key)
    except (OSError, KeyError, ValueError, TypeError, AttributeError):
        return None


def content_key(run: Run) -> str:
    """A hash of what any page of the run depends on, whatever suite it was measured with."""
    key = cache_key(run, read_suite("default"), (), None)
    return _hash({name: key[name] for name in _CONTENT})


def _hash(key: Mapping[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(f"{text}\0{_drawn_by()}\0{version('matplotlib')}".encode()).hexdigest()


@cache
def _drawn_by() -> str:
    """A hash of the sources that turn measurements into a page."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for part in ("measures", "probes", "report"):
        for file in sorted((package / part).rglob("*")):
            if file.suffix in (".py", ".j2", ".css", ".js"):
                digest.update(f"{file.relative_to(package).as_posix()}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()


def keep_row(reports: Path, row: Row, key: str, content: str) -> None:
    """Remember ``row`` of the page that is there now; where that cannot be written, the page is made again."""
    path = reports / ROWS / f"{row.name}.json"
    shape = {
        "schema": SCHEMA,
        "key": key,
        "content": content,
        "page": file_hash(reports / row.page) if row.page else "",
        "row": asdict(row),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(shape), encoding="utf-8")
        temporary.replace(path)
    except (OSError, UnicodeError):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def kept_row(reports: Path, name: str) -> Kept | None:
    """What :func:`keep_row` left of the run ``name``; ``None`` for nothing, and for what cannot be read."""
    try:
        shape = json.loads((reports / ROWS / f"{name}.json").read_text(encoding="utf-8"))
        if shape["schema"] != SCHEMA:
            return None
        return Kept(_row(shape["row"]), *(str(shape[name]) for name in ("key", "content", "page")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _row(shape: Mapping[str, Any]) -> Row:
    """A row from JSON, every field of the type that the index relies on."""
    fields: dict[str, Any] = {}
    for name in ("name", "page", "task", "model", "state", "sentence", "checksum", "origin"):
        fields[name] = str(shape[name])
    for name in ("fit", "grok", "delay"):
        fields[name] = None if shape[name] is None else _two(shape[name])
    for name in ("train", "test"):
        fields[name] = tuple((int(x), int(y)) for x, y in shape[name])
    for name in ("seed", "step"):
        fields[name] = None if shape[name] is None else int(shape[name])
    fields["accuracy"] = None if shape["accuracy"] is None else float(shape["accuracy"])
    return Row(**fields, flags=tuple(str(flag) for flag in shape["flags"]))


def _two(pair: Any) -> Ends:
    low, high = (None if end is None else float(end) for end in pair)
    return low, high


def is_fresh(reports: Path, name: str, key: str) -> Row | None:
    """The remembered row where the page is the one that ``key`` would give again, its data beside it."""
    kept = kept_row(reports, name)
    if kept is None or kept.key != key or not kept.row.page:
        return None
    page = reports / kept.row.page
    return kept.row if page.with_suffix(".json").is_file() and file_hash(page) == kept.page else None
