"""Which figure shows what a claim rests on, and which quantities a figure shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import Probe
from grokscope.probes.verdict import CLAIMS
from grokscope.report.figures import Drawing
from grokscope.report.live_charts import series_of

_COUNTED = ("accuracy.test_unmirrored", "error.test", "accuracy.test", "accuracy.all")
_TRAINED = ("accuracy.train", "error.train", "accuracy.all")
_SHOWN_BY = {
    "fitted": _TRAINED,
    "repeated_loss_spikes": ("loss.train",),
    **dict.fromkeys(
        (
            "grok_reached",
            "test_holds_at_end",
            "delayed",
            "without_delay",
            "highest_skill_after_fit",
            "slope_of_last_part",
            "final_skill",
        ),
        _COUNTED,
    ),
}
"""By claim, the series that show it, the one that counts most first."""


@dataclass(frozen=True)
class Evidence:
    """A figure of the page: its number and its key."""

    number: int
    key: str


def evidence_of_claims(
    record: Record, charts: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, int]
) -> list[Evidence | None]:
    """For each claim of the verdict the figure that shows what it rests on, ``None`` where none does.

    Args:
        charts: what the figures show over time, by key.
        numbers: the number of each figure, by key.
    """
    claims = record.verdict.claims if record.verdict else ()
    names = {text: name for name, text in CLAIMS.items()}
    return [_figure_of(_SHOWN_BY.get(names.get(claim.text, ""), ()), charts, numbers) for claim in claims]


def _figure_of(
    wanted: tuple[str, ...], charts: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, int]
) -> Evidence | None:
    for name in wanted:
        for key, chart in charts.items():
            if name in series_of(dict(chart)) and key in numbers:
                return Evidence(numbers[key], key)
    return None


def shown_quantities(drawing: Drawing, record: Record, probe: Probe) -> list[Quantity]:
    """The quantities that a figure shows, in the order in which their probe declares them."""
    names = list(drawing.needs)
    if drawing.chart is not None:
        names += series_of(dict(drawing.chart))
    used = {
        record.measurements[name].quantity
        for wanted in names
        for name in ([wanted] if wanted in record.measurements else [])
    }
    patterns = [name for name in names if "<" in name]
    return [q for q in probe.quantities if q in used or q.name in patterns]
