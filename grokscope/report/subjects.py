"""Runs to be compared: what each shows, and which of them are seeds of one setting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grokscope.measures.crossings import Crossing, delay
from grokscope.probes.dense import Series, counted, dense_series
from grokscope.probes.record import Record
from grokscope.report.comparison import Between
from grokscope.report.formatting import flattened
from grokscope.report.rows import Row, row_of
from grokscope.runs import Run

UNSET = "–"


@dataclass(frozen=True)
class Subject:
    """One run of a comparison: its row of the index, its measurements, its densest curves, its settings.

    ``settings`` are dotted names and texts of its config without seed and label, and where it was taken up
    for a replay or a fork.
    """

    row: Row
    record: Record
    dense: Mapping[str, Series]
    settings: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.row.name


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone."""

    label: str
    members: tuple[Subject, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[Subject, ...]:
        """The members that count: one of each seed, every one where seeds are not known."""
        found: dict[Any, Subject] = {}
        for position, member in enumerate(self.members):
            seed = member.row.seed
            found.setdefault(("?", position) if seed is None else seed, member)
        return tuple(found.values())


def subject_of(run: Run, record: Record) -> Subject:
    """A run as a comparison needs it."""
    config = {key: value for key, value in run.config.items() if key not in ("seed", "name")}
    settings = dict(flattened(config))
    if run.manifest.get("kind") != "trained":
        settings["kind"] = str(run.manifest.get("kind"))
    if run.origin is not None:
        settings["parent.at"] = str(run.origin.get("at"))
    return Subject(row_of(run, record), record, dense_series(run, record), settings)


def groups_of(subjects: Sequence[Subject]) -> list[Group]:
    """Subjects by equal settings, in the order of their first member, labelled by what differs."""
    found: dict[str, list[Subject]] = {}
    for subject in subjects:
        found.setdefault(json.dumps(subject.settings, sort_keys=True), []).append(subject)
    differing = differing_settings(subjects)
    made = [
        Group(_label(members, differing), tuple(members), members[0].settings) for members in found.values()
    ]
    labels = [group.label for group in made]
    return [
        group
        if labels.count(group.label) == 1
        else Group(group.members[0].name, group.members, group.settings)
        for group in made
    ]


def differing_settings(subjects: Sequence[Subject]) -> list[str]:
    """Dotted names of the settings that are not the same in all subjects, in the order of the config."""
    names = dict.fromkeys(name for subject in subjects for name in subject.settings)
    return [n for n in names if len({subject.settings.get(n, UNSET) for subject in subjects}) > 1]


def _label(members: Sequence[Subject], differing: Sequence[str]) -> str:
    if len(members) == 1:
        return members[0].name
    if not differing:
        return "all runs"
    settings = members[0].settings
    shown = [f"{n.rpartition('.')[2]} {settings.get(n, UNSET)}" for n in differing[:3]]
    return ", ".join(shown) + (" …" if len(differing) > 3 else "")


def event_between(event: Crossing | None) -> Between | None:
    """The steps an event lies between; without an upper end where it was not seen."""
    if event is None:
        return None
    low = 0.0 if event.after is None else float(event.after)
    return Between(low, math.inf if event.by is None else float(event.by))


def delay_between(record: Record) -> Between | None:
    """The factor between fit and the grok that the verdict reads; ``None`` where nothing bounds it."""
    fit, grok = record.events.get("fit"), record.events.get(counted(record)[0])
    if fit is None or grok is None:
        return None
    low, high = delay(fit, grok)
    if low is None and high is None:
        return None
    return Between(low or 0.0, math.inf if high is None else high)


def final(record: Record, name: str) -> Between | None:
    """The last value of a series over saves, or the one number of the run."""
    values = record.get(name)
    if values is None or values.ndim > 1 or not values.size:
        return None
    last = float(values.ravel()[-1])
    return Between(last, last) if math.isfinite(last) else None
