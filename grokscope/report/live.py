"""What the page carries so that its script can move through the run: series, charts and views, as JSON.

Budgets are part of the format: at most ``MOST_SERIES`` series in single precision at every save; every other array
in the precision that its probe declares. What the page holds is for looking; the exact numbers are in the JSON file
beside it.

Shape legend: T saves, S series.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grokscope.probes.record import Record
from grokscope.probes.registry import Probe
from grokscope.probes.views import Frames, ViewSpec
from grokscope.report.encoding import encoded
from grokscope.report.figures import is_builtin
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.report.live_charts import series_of
from grokscope.runs import Run

MOST_SERIES = 120
EVENTS = ("fit", "grok")
"""Events that stand on every time axis."""


@dataclass(frozen=True)
class LiveView:
    """A view as the page holds it: encoded content, and the probe whose section it belongs to."""

    probe: str
    content: Mapping[str, Any]


def make_views(
    run: Run,
    record: Record,
    probes: Sequence[Probe],
    kept: KeptDrawings | None = None,
    *,
    strict: bool = False,
) -> list[LiveView]:
    """Every view of ``probes`` that has something to show of ``run``, from ``kept`` where it was made before."""
    found: list[LiveView] = []
    if not len(record.steps) or not np.array_equal(run.steps, record.steps):
        return found
    for probe in probes:
        for spec in probe.views:
            name = f"{probe.name}/view/{spec.name}"
            held = kept.get(name) if kept is not None else None
            if held is None:
                held = json.dumps(_made(spec, run, record, strict=strict and is_builtin(probe)))
                if kept is not None:
                    kept.put(name, held)
            content = json.loads(held)
            if content is not None:
                found.append(LiveView(probe.name, content))
    return found


def _made(spec: ViewSpec, run: Run, record: Record, *, strict: bool) -> dict[str, Any] | None:
    """The view's content; one that fails says so in its place, since the page must stand, unless ``strict``."""
    try:
        content = spec.make(run, record)
        return None if content is None else _view(spec, content)
    except Exception as error:
        if strict:
            raise
        first = next(iter(str(error).splitlines()), "")
        failure = f"It could not be made: {type(error).__name__}: {first}"[:300]
        return {"id": spec.name, "title": spec.title, "caption": failure, "kind": "failed"}


def live_json(
    record: Record,
    charts: Mapping[str, Mapping[str, Any]],
    views: Sequence[LiveView],
    section_of: Mapping[str, str],
) -> str:
    """The page's data as JSON that may stand inside a script element; empty where nothing moves.

    Args:
        charts: descriptions of the drawn figures, by the figure's key.
        section_of: id of each probe's section.
    """
    if len(record.steps) < 2 or not (charts or views):
        return ""
    charts = {key: json.loads(json.dumps(chart)) for key, chart in charts.items()}
    names = _carried(record, charts)
    place = {name: index for index, name in enumerate(names)}
    for chart in charts.values():
        for axes in chart["axes"]:
            for line in axes["lines"]:
                if line["series"] is not None:
                    _point_to(line, place, record)
    shape = {
        "steps": [int(step) for step in record.steps],
        "last": int(record.steps[-1]),
        "events": [
            {"name": name, "label": name, "after": event.after, "by": event.by}
            for name in EVENTS
            if (event := record.events.get(name)) is not None and event.by is not None
        ],
        "series": {
            "names": names,
            "units": [record.measurements[name].quantity.unit for name in names],
            "intervals": [int(record.measurements[name].dims[0] == "interval") for name in names],
            "values": encoded(Frames(np.array([_over_saves(record, name) for name in names]), "float32")),
        },
        "charts": charts,
        "views": [{**view.content, "probe": section_of.get(view.probe, "")} for view in views],
    }
    return as_script_data(shape)


def as_script_data(shape: Any) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(shape, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _view(spec: ViewSpec, content: Mapping[str, Any]) -> dict[str, Any]:
    held = {"id": spec.name, "title": spec.title, "caption": spec.caption, "kind": spec.kind}
    return {**held, **_encoded_within(content)}


def _encoded_within(value: Any) -> Any:
    if isinstance(value, Frames):
        return encoded(value)
    if isinstance(value, Mapping):
        return {str(key): _encoded_within(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded_within(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _carried(record: Record, charts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The series of the charts, in their order, as many as the page may hold."""
    wanted = list(dict.fromkeys(name for chart in charts.values() for name in series_of(dict(chart))))
    there = [n for n in wanted if (m := record.measurements.get(n)) is not None and m.values.ndim == 1]
    return there[:MOST_SERIES]


def _over_saves(record: Record, name: str) -> np.ndarray:
    """(T,) a series at every save; what lies between two saves stands at the later one."""
    measured = record.measurements[name]
    values = np.asarray(measured.values, dtype=float)
    return np.concatenate([[np.nan], values]) if measured.dims[0] == "interval" else values


def _point_to(line: dict[str, Any], place: Mapping[str, int], record: Record) -> None:
    """Replace a series' name by its number, or by its points where the page has no room for it."""
    name = line["series"]
    line["series"] = place.get(name)
    if line["series"] is None:
        values = _over_saves(record, name)
        line["x"] = [int(step) for step in record.steps]
        line["y"] = [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]
