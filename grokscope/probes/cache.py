"""Measuring a run once: the record is kept beside the trajectory and read again while it is valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grokscope.errors import GrokscopeError
from grokscope.probes.readings import READINGS
from grokscope.probes.record import Record, load_record
from grokscope.probes.registry import Probe, load_plugin
from grokscope.probes.sources import file_hash, package_hash, source_of
from grokscope.probes.suite import Progress, Suite, choose, probe, read_suite
from grokscope.runs import Run
from grokscope.trajectory.digests import content_digest

MEASUREMENTS = "measurements.h5"


def chosen_probes(
    suite: str | Path | Suite = "default", *, only: Sequence[str] = (), plugins: Sequence[str | Path] = ()
) -> list[Probe]:
    """The probes that :func:`measure_run` runs under the same arguments, in order."""
    extra = [name for plugin in plugins for name in load_plugin(plugin)]
    return choose(suite if isinstance(suite, Suite) else read_suite(suite), only, extra)


def measure_run(
    run: Run,
    suite: str | Path | Suite = "default",
    *,
    only: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    steps: str | None = None,
    progress: Progress | None = None,
    refresh: bool = False,
) -> Record:
    """What :func:`~grokscope.probes.probe` measures, read from ``measurements.h5`` where that is still valid.

    It is valid for the same committed weights and scalars, the same run.json, suite, plug-in files and
    steps, and the same source of grokscope. A measurement of some probes or of some steps never takes the
    place of a whole one. A directory that cannot be written to costs the time of measuring, nothing else.

    Args:
        refresh: measure again, whatever is stored.

    Raises:
        GrokscopeError: as :func:`~grokscope.probes.probe`.
    """
    chosen = suite if isinstance(suite, Suite) else read_suite(suite)
    probes = chosen_probes(chosen, only=only, plugins=plugins)
    stored = run.path / MEASUREMENTS
    key = cache_key(run, chosen, probes, steps)
    if not refresh and (found := load_record(stored, key)) is not None:
        return found
    record = probe(run, chosen, only=only, plugins=plugins, steps=steps, progress=progress)
    if not (only or steps) or not stored.exists():
        try:
            record.save(stored, key)
        except GrokscopeError:
            return record
        # a record just measured and one read later must be the same in every detail
        return load_record(stored, key) or record
    return record


def cache_key(run: Run, suite: Suite, probes: Sequence[Probe], steps: str | None) -> dict[str, Any]:
    """Everything a record depends on, as plain data."""
    manifest = json.dumps(run.manifest, sort_keys=True, default=str)
    return {
        "trajectory": content_digest(run.trajectory, run.path / READINGS),
        "rows": hashlib.sha256(np.ascontiguousarray(run.rows, dtype="<i8").tobytes()).hexdigest(),
        "run": hashlib.sha256(manifest.encode("utf-8", "replace")).hexdigest(),
        "suite": json.loads(json.dumps(asdict(suite), default=str)),
        "probes": {item.name: file_hash(source_of(item.measure)) for item in probes},
        "steps": steps,
        "function": None if run.function is None else [run.function.name, run.function.sha256],
        "grokscope": version("grokscope"),
        "torch": str(torch.__version__),
        "source": package_hash(),
    }
