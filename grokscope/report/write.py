"""A run's report on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from grokscope.errors import GrokscopeError
from grokscope.probes import registered
from grokscope.probes.cache import measure_run
from grokscope.probes.readings import READINGS
from grokscope.probes.record import Record
from grokscope.probes.registry import load_plugin
from grokscope.probes.suite import Progress, Suite
from grokscope.report.formatting import whole
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.report.live import make_views
from grokscope.report.page import Facts, render_page
from grokscope.runs import Run, open_run
from grokscope.trajectory.digests import remembered_checksum

_DATA = "page data"
"""Among the things kept of a record: the hash of the JSON file that was written of it."""


def write_report(
    run: Run | str | Path,
    out: Path | str | None = None,
    *,
    record: Record | None = None,
    suite: str | Path | Suite = "default",
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
    strict: bool = False,
) -> Path:
    """Compile ``run`` into one HTML file and return its path.

    Args:
        run: an open run, or its directory.
        out: the file to write; see :func:`default_out`. An existing file is replaced in one move.
        record: measurements to show; by default the run is measured with ``suite``, or its stored
            measurements are read where they are still valid.
        plugins: Python files that register further probes; their code runs.
        progress: called before each probe.
        strict: raise where a figure of one of grokscope's own probes cannot be drawn, for tests.

    The measurements go into a JSON file of the same name beside the page.

    Raises:
        GrokscopeError: no such run, an unknown suite or probe, or a file that cannot be written.
    """
    if not isinstance(run, Run):
        run = open_run(run)
    if record is None:
        record = measure_run(run, suite, plugins=plugins, progress=progress)
    for plugin in plugins:
        load_plugin(plugin)  # their figures, when the record was given or read
    known = registered()
    probes = [known[name] for name in dict.fromkeys(record.probes) if name in known]
    kept = KeptDrawings(run.path / READINGS, record)
    views = make_views(run, record, probes, kept, strict=strict)
    out = default_out(run) if out is None else Path(out)
    data = out.parent / f"{out.stem}{'.data' if out.suffix == '.json' else ''}.json"
    facts = replace(facts_of(run), data=data.name)
    page = render_page(record, probes, run.manifest, facts, strict=strict, kept=kept, views=views)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _put(out, page.encode("utf-8", "replace"))
        if kept.get(_DATA) != _file_hash(data):  # else it holds this record already
            numbers = json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False).encode()
            _put(data, numbers)
            kept.put(_DATA, hashlib.sha256(numbers).hexdigest())
        kept.store()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise GrokscopeError(
            f"writing the report of {run.name}: {out} cannot be written ({why}), expected a file in a "
            "writable folder"
        ) from None
    return out


def _put(path: Path, content: bytes) -> None:
    """Write in one move; a file that holds the same already is left as it is."""
    if path.is_file() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def default_out(run: Run) -> Path:
    """``reports/<name>.html`` in the workspace: two folders above a run in ``checkpoints/``, else here."""
    folder = run.path.resolve()
    workspace = folder.parent.parent if folder.parent.name == "checkpoints" else Path.cwd()
    return workspace / "reports" / f"{folder.name}.html"


def facts_of(run: Run) -> Facts:
    """What the run itself tells beside its manifest."""
    weights = sum(math.prod(shape) for shape in run.model.shapes.values())
    entries = run.task.train_mask.numel()
    trained = f"{whole(int(run.task.train_mask.sum()))} of {whole(entries)}"
    if run.task.no_split is not None:
        trained = f"not known which of {whole(entries)}" if entries else "not known"
    checksum = remembered_checksum(run.trajectory, run.path / READINGS)
    return Facts(
        task=run.task.description or run.task.name,
        provenance=(
            ("measured with", f"grokscope {version('grokscope')}"),
            ("content checksum", f"sha256 {checksum}"),
            ("saves in the file", whole(len(run.trajectory.steps))),
            ("parameters", whole(weights)),
            ("training entries", trained),
        ),
        checksum=checksum,
        command=run.path.name,
    )
