"""Measurements: named arrays with the step axis first, events, and what is absent and why."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from grokscope.errors import GrokscopeError, nearest
from grokscope.measures.crossings import Crossing

SCHEMA = 1


@dataclass(frozen=True)
class Quantity:
    r"""A public name, its unit and what it means.

    ``name`` may hold ``<map>``-like placeholders that stand for one or more dotted words. ``formula`` is the LaTeX
    of what is computed, in the symbols of ``meaning``, one for all instances of the name; ``\\`` begins a new
    line. It is empty where words say it better. Pass it by keyword.
    """

    name: str
    unit: str
    meaning: str
    source: str = ""
    formula: str = field(default="", kw_only=True)

    def matches(self, name: str) -> bool:
        """Whether a concrete name is an instance of this one."""
        pattern, given = self.name.split("."), name.split(".")
        return _match(pattern, given)


def _match(pattern: list[str], given: list[str]) -> bool:
    if not pattern:
        return not given
    if pattern[0].startswith("<"):
        return any(_match(pattern[1:], given[used:]) for used in range(1, len(given) + 1))
    return bool(given) and given[0] == pattern[0] and _match(pattern[1:], given[1:])


@dataclass(frozen=True)
class Measurement:
    """One measured array: ``dims`` names its axes (``step`` first), NaN marks an undefined entry."""

    values: np.ndarray
    dims: tuple[str, ...]
    quantity: Quantity


@dataclass(frozen=True)
class Claim:
    """One checkable statement: a number, its threshold, its interval, and whether it holds."""

    text: str
    value: float | None
    threshold: float | None
    interval: tuple[float | None, float | None] | None
    holds: bool | None


@dataclass(frozen=True)
class Alert:
    """Something a reader must know, and the command that would resolve it."""

    text: str
    command: str


@dataclass(frozen=True)
class Verdict:
    """The state of a run, in a word and a sentence, with the claims behind it."""

    state: str
    flags: tuple[str, ...]
    sentence: str
    claims: tuple[Claim, ...] = ()


@dataclass
class Record:
    """Everything measured on one run. Probes add to it; the report, CSV and JSON read from it."""

    run: str
    steps: np.ndarray
    measurements: dict[str, Measurement] = field(default_factory=dict)
    coordinates: dict[str, list[Any]] = field(default_factory=dict)
    events: dict[str, Crossing] = field(default_factory=dict)
    delay: tuple[float | None, float | None] | None = None
    absent: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    verdict: Verdict | None = None
    probes: list[str] = field(default_factory=list)
    _declared: tuple[Quantity, ...] = ()

    def declare(self, quantities: Sequence[Quantity]) -> None:
        """Make ``quantities`` the ones that :meth:`add` and :meth:`skip` accept."""
        self._declared = tuple(quantities)

    def _quantity(self, name: str) -> Quantity:
        for quantity in self._declared:
            if quantity.matches(name):
                return quantity
        known = ", ".join(q.name for q in self._declared)
        raise GrokscopeError(f"recording {name!r}: the probe declares {known or 'no quantity'}")

    def add(
        self, name: str, values: Tensor | np.ndarray | Sequence[Any] | float, dims: Sequence[str] = ("step",)
    ) -> None:
        """Record one measured array; ``dims`` names its axes.

        An axis called ``step`` has the length of :attr:`steps`, ``interval`` one less (it lies between
        consecutive saves); other axes take their labels from :meth:`coordinate`.
        """
        quantity = self._quantity(name)
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.dtype.kind not in "fiub":
            array = array.astype(np.float64)
        if array.ndim != len(dims):
            raise GrokscopeError(f"recording {name!r}: {array.ndim} axes were given for dims {tuple(dims)}")
        expected = {"step": len(self.steps), "interval": max(len(self.steps) - 1, 0)}
        for axis, dim in enumerate(dims):
            if dim in expected and array.shape[axis] != expected[dim]:
                raise GrokscopeError(
                    f"recording {name!r}: axis {dim!r} has length {array.shape[axis]}, expected {expected[dim]}"
                )
        self.measurements[name] = Measurement(array, tuple(dims), quantity)
        self.absent.pop(name, None)

    def skip(self, name: str, reason: str) -> None:
        """Record that a quantity is not defined here, and why."""
        self._quantity(name)
        self.absent[name] = reason

    def coordinate(self, dim: str, labels: Iterable[Any]) -> None:
        """Label the entries of a non-step axis (frequencies, levels, head numbers)."""
        self.coordinates[dim] = [v.item() if hasattr(v, "item") else v for v in labels]

    def get(self, name: str) -> np.ndarray | None:
        """The values of ``name``, or ``None`` when it was not measured."""
        found = self.measurements.get(name)
        return None if found is None else found.values

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of ``name``; :class:`GrokscopeError` with the reason where it was not measured."""
        found = self.measurements.get(name)
        if found is not None:
            return found.values
        why = self.absent.get(name)
        reason = f"absent: {why}" if why else f"not measured{nearest(name, self.measurements)}"
        raise GrokscopeError(f"reading {name!r} of {self.run}: it is {reason}")

    def names(self, prefix: str = "") -> list[str]:
        """Names measured, in order, under a dotted prefix."""
        return [n for n in self.measurements if not prefix or n == prefix or n.startswith(prefix + ".")]

    def to_json(self) -> dict[str, Any]:
        """The documented shape; every number finite, undefined entries and unbounded ends ``null``."""
        measured = {
            name: {
                "dims": list(m.dims),
                "values": _plain(m.values),
                "unit": m.quantity.unit,
                "definition": _definition(m.quantity),
            }
            for name, m in self.measurements.items()
        }
        events: dict[str, Any] = {n: {"after": e.after, "by": e.by} for n, e in self.events.items()}
        if self.delay is not None:
            events["delay"] = {"low": _number(self.delay[0]), "high": _number(self.delay[1])}
        verdict = self.verdict or Verdict(
            "not applicable", (), "The clocks were not among the probes that ran, so no state is claimed."
        )
        return {
            "run": self.run,
            "schema": SCHEMA,
            "steps": [int(step) for step in self.steps],
            "coordinates": _finite(self.coordinates),
            "measurements": measured,
            "events": events,
            "absent": dict(self.absent),
            "alerts": [asdict(alert) for alert in self.alerts],
            "notes": _finite(self.notes),
            "verdict": _finite(asdict(verdict)),
        }

    def save(self, path: Path, key: Mapping[str, Any]) -> None:
        """Write everything as HDF5 under a temporary name, then rename; ``key`` says what it is valid for."""
        # of this process: two commands may measure one run at the same time
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        state = {
            "events": {n: asdict(e) for n, e in self.events.items()},
            "delay": self.delay,
            "absent": self.absent,
            "alerts": [asdict(alert) for alert in self.alerts],
            "notes": self.notes,
            "coordinates": self.coordinates,
            "verdict": None if self.verdict is None else asdict(self.verdict),
            "probes": self.probes,
            "order": list(self.measurements),
        }
        try:
            with h5py.File(temporary, "w", libver=("v108", "v108"), locking=False) as file:
                file.attrs["schema"] = SCHEMA
                file.attrs["run"] = self.run
                file.create_dataset("key", data=json.dumps(dict(key), sort_keys=True))
                file.create_dataset("state", data=json.dumps(state, default=_plain))
                file.create_dataset("steps", data=self.steps)
                for name, m in self.measurements.items():
                    data = file.create_dataset(f"measurements/{name}", data=m.values)
                    data.attrs["dims"] = json.dumps(m.dims)
                    data.attrs["quantity"] = json.dumps(asdict(m.quantity))
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise GrokscopeError(f"writing measurements to {path}: {error}") from None


def load_record(path: Path, key: Mapping[str, Any]) -> Record | None:
    """The record saved at ``path`` if it was saved under the same ``key``, else ``None``."""
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r", locking=False) as file:
            if _text(file["key"]) != json.dumps(dict(key), sort_keys=True) or file.attrs["schema"] != SCHEMA:
                return None
            state = json.loads(_text(file["state"]))
            record = Record(str(file.attrs["run"]), np.asarray(file["steps"][...]))  # pyright: ignore
            for name in state["order"]:
                data: Any = file[f"measurements/{name}"]
                quantity = Quantity(**json.loads(data.attrs["quantity"]))
                dims = tuple(json.loads(data.attrs["dims"]))
                record.measurements[name] = Measurement(np.asarray(data[...]), dims, quantity)
    except (OSError, KeyError, ValueError, TypeError):
        return None  # a cache that cannot be read is measured again
    record.events = {n: Crossing(**e) for n, e in state["events"].items()}
    record.delay = tuple(state["delay"]) if state["delay"] is not None else None
    record.absent, record.notes = state["absent"], state["notes"]
    record.coordinates, record.probes = state["coordinates"], state["probes"]
    record.alerts = [Alert(**a) for a in state["alerts"]]
    if state["verdict"] is not None:
        v = state["verdict"]
        claims = tuple(
            Claim(**{**c, "interval": None if c["interval"] is None else tuple(c["interval"])})
            for c in v["claims"]
        )
        record.verdict = Verdict(v["state"], tuple(v["flags"]), v["sentence"], claims)
    return record


def _text(dataset: Any) -> str:
    return dataset[()].decode()


def _definition(quantity: Quantity) -> str:
    return f"{quantity.meaning} {quantity.source}".strip()


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _plain(values: Any) -> Any:
    """Nested lists of finite numbers or None."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return _finite(values.tolist())
        return values.tolist()
    return values.item() if hasattr(values, "item") else str(values)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return _number(value) if isinstance(value, float) else value
