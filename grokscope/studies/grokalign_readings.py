"""What one run of the study ``grokalign`` says: when it got there, how its Jacobians lay, and what noise it bore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.measures.crossings import Crossing, first_hold, lead_lag
from grokscope.probes.clocks import turning_point
from grokscope.probes.many import Choice, measure_many
from grokscope.probes.record import Record
from grokscope.studies.grokalign_runs import Case
from grokscope.studies.sweep import Arm, Bench, Log

PROBES = ("loss", "alignment", "robustness")
ALIGNED = "alignment.row_max.train"
NOISE = "robustness.noise_1"
SHOWN = ("accuracy.test", ALIGNED, NOISE)
"""Series that the figure draws."""
FIT = 0.99
Order = Literal["alignment", "accuracy", "overlap", "no onset"]


@dataclass(frozen=True, eq=False)
class Reading:
    """One run.

    Attributes:
        reached: when the test accuracy was at the level that ends a run, between two evaluations.
        fit: when 99 % of the training samples were right.
        at_fit: test accuracy at the first evaluation of the fit; ``None`` where it did not fit.
        final: test accuracy at the end.
        ends: name → value at the last save of everything that was probed.
        saves: (T,) steps of the series below.
        series: (T,) by name, at the saves: those of `SHOWN`.
        first: whether the Jacobians turned along their inputs before the test accuracy rose.
        onsets: of both.
    """

    seed: int
    reached: Crossing
    fit: Crossing
    at_fit: float | None
    final: float
    ends: dict[str, float]
    saves: np.ndarray
    series: dict[str, np.ndarray]
    first: Order
    onsets: dict[str, Crossing]

    def as_json(self, *, whole: bool) -> dict[str, Any]:
        """Plain data; with the series where it is ``whole``."""
        found: dict[str, Any] = {
            "seed": self.seed, "reached": self.reached.as_json(), "fit": self.fit.as_json(),
            "test_accuracy_at_fit": self.at_fit, "test_accuracy_at_end": self.final, "moved_first": self.first,
            "onsets": {name: crossing.as_json() for name, crossing in self.onsets.items()}, "at_end": self.ends,
        }  # fmt: skip
        if whole:
            found["saves"] = self.saves.tolist()
            found["series"] = {name: values.tolist() for name, values in self.series.items()}
        return found

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Reading:
        """What :meth:`as_json` wrote; without its series where it was not whole."""

        def floats(values: Sequence[float | None]) -> np.ndarray:
            return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)

        return cls(
            seed=record["seed"],
            reached=Crossing.from_json(record["reached"]),
            fit=Crossing.from_json(record["fit"]),
            at_fit=record["test_accuracy_at_fit"],
            final=record["test_accuracy_at_end"],
            ends={name: np.nan if value is None else value for name, value in record["at_end"].items()},
            saves=np.asarray(record.get("saves", ()), dtype=np.int64),
            series={name: floats(values) for name, values in record.get("series", {}).items()},
            first=record["moved_first"],
            onsets={name: Crossing.from_json(ends) for name, ends in record["onsets"].items()},
        )


Readings = dict[str, list[Reading]]
"""Label of a method → its runs, in the order of their seeds."""


def saved_case(bench: Bench, case: Case) -> Readings:
    """Those of a case's arms that the saved result holds."""

    def load(record: Mapping[str, Any]) -> list[Reading]:
        return [Reading.from_json(one) for one in record["readings"]]

    found = {
        label: bench.earlier(arm, load, case.key, "arms", arm.name) for label, arm in case.arms().items()
    }
    return {label: readings for label, readings in found.items() if readings is not None}


def read_case(bench: Bench, case: Case, arms: dict[str, Arm]) -> Readings:
    """Every run of the given arms, which are finished."""
    logs = [(label, log) for label, arm in arms.items() for log in bench.logs(arm)]
    names = [log.name for _, log in logs]
    with bench.bar("probing", len(names)) as tick:
        measured = measure_many(
            names, bench.workspace, Choice(only=PROBES), workers=bench.workers, with_records=True,
            progress=lambda _: tick(),
        )  # fmt: skip
    found: Readings = {label: [] for label in arms}
    for (label, log), one in zip(logs, measured, strict=True):
        if one.record is None:
            raise GrokscopeError(one.error)
        found[label].append(read_run(log, one.record, case.stop))
    return found


def read_run(log: Log, record: Record, stop: float) -> Reading:
    """One run from its log and its probes."""
    fit = log.reached("accuracy.train", FIT)
    test = log.scalars["accuracy.test"]
    names = [name for name in record.names() if name.startswith(("alignment.", "robustness.", "accuracy."))]
    series = {name: record[name] for name in names if record.measurements[name].dims == ("step",)}
    first, onsets = order_of(record.steps, series, fit)
    return Reading(
        seed=log.seed,
        reached=first_hold(log.steps, test, stop, q=1),
        fit=fit,
        at_fit=None if fit.by is None else float(test[np.searchsorted(log.steps, fit.by)]),
        final=float(test[-1]),
        ends={name: float(values[-1]) for name, values in series.items()},
        saves=record.steps,
        series={name: series[name] for name in SHOWN if name in series},
        first=first,
        onsets=onsets,
    )


def order_of(
    steps: np.ndarray, series: dict[str, np.ndarray], fit: Crossing
) -> tuple[Order, dict[str, Crossing]]:
    """Which rose first after the fit, the alignment or the test accuracy; said only where their intervals are apart."""
    onsets: dict[str, Crossing] = {}
    if fit.by is not None:
        for name, values in (("alignment", series.get(ALIGNED)), ("accuracy", series.get("accuracy.test"))):
            if values is None:
                continue
            change = turning_point(steps, values, fit.by, 0.0, falls=False)
            if change.crossing is not None and change.crossing.by is not None:
                onsets[name] = change.crossing
    if len(onsets) < 2:
        return "no onset", onsets
    order = lead_lag(onsets).order
    return ("overlap" if order is None else order[0]), onsets  # pyright: ignore[reportReturnType]  (one of the names)
