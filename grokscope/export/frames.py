"""A record as a pandas table, as an xarray data set, and as a Parquet file.

Shape legend: T saves.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.export.libraries import load_library
from grokscope.probes.record import Measurement, Record

if TYPE_CHECKING:
    import pandas
    import xarray

_OVER_SAVES = ("step", "interval")


def to_pandas(record: Record, *, arrays: bool = False) -> pandas.DataFrame:
    """One row a save, the step as index, one column a quantity; NaN where a save has no value.

    A quantity between two saves stands in the row of the later one. ``attrs`` holds the run's name, its verdict and
    events, and unit and definition of every quantity, all as plain data.

    Args:
        arrays: also a column for each entry of quantities with further axes, ``name[label]``, as in the
            CSV tables; without it these are left out. Quantities without a step axis are never columns.

    Raises:
        GrokscopeError: pandas is not installed.
    """
    pandas = load_library("pandas", "frames", f"making a table of {record.run}")
    columns: dict[str, np.ndarray] = {}
    units: dict[str, str] = {}
    definitions: dict[str, str] = {}
    for name, m in record.measurements.items():
        if not set(_OVER_SAVES) & set(m.dims[:1]) or (len(m.dims) > 1 and not arrays):
            continue
        for label, values in _columns(record, m):
            columns[name + label] = _from_saves(values, "interval" in m.dims[:1])
        units[name] = m.quantity.unit
        definitions[name] = f"{m.quantity.meaning} {m.quantity.source}".strip()
    table = pandas.DataFrame(columns, index=pandas.Index(record.steps, name="step"))
    table.attrs = {**_facts(record), "units": units, "definitions": definitions}
    return table


def _columns(record: Record, m: Measurement) -> Iterator[tuple[str, np.ndarray]]:
    """(label in brackets, values over saves) of every place on the axes after the first."""
    axes = [_labels(record, dim, length) for dim, length in zip(m.dims[1:], m.values.shape[1:], strict=True)]
    for place in itertools.product(*(range(len(labels)) for labels in axes)):
        label = ",".join(str(labels[i]) for labels, i in zip(axes, place, strict=True))
        yield (f"[{label}]" if place else ""), m.values[(slice(None), *place)]


def _labels(record: Record, dim: str, length: int) -> list[Any]:
    labels = record.coordinates.get(dim, [])
    return list(labels) if len(labels) == length else list(range(length))


def _from_saves(values: np.ndarray, between: bool) -> np.ndarray:
    """Values by save: one ``between`` two saves belongs to the later."""
    if not between:
        return values
    found = np.full(len(values) + 1, np.nan)
    found[1:] = values
    return found


def _facts(record: Record) -> dict[str, Any]:
    """What stands beside the numbers: plain data that every format can carry."""
    shape = record.to_json()
    verdict = record.verdict
    return {
        "run": record.run,
        "state": verdict.state if verdict else "",
        "verdict": verdict.sentence if verdict else "",
        "events": shape["events"],
        "absent": dict(record.absent),
    }


def to_xarray(record: Record) -> xarray.Dataset:
    """Every measured array under its own name, with its axes, their labels as coordinates, units in ``attrs``.

    The axis ``step`` is labelled by the saved steps, ``interval`` by the step at its end. Where arrays use one axis
    name at several lengths, the later ones' axes are named ``<axis>_<length>``.

    Raises:
        GrokscopeError: xarray is not installed.
    """
    xarray = load_library("xarray", "frames", f"making a data set of {record.run}")
    lengths: dict[str, int] = {}
    variables: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    for name, m in record.measurements.items():
        dims = []
        for dim, length in zip(m.dims, m.values.shape, strict=True):
            own = dim if lengths.setdefault(dim, length) == length else f"{dim}_{length}"
            lengths[own] = length
            dims.append(own)
            known = record.coordinates.get(dim, [])
            if own not in labels and len(known) == length and dim not in _OVER_SAVES:
                labels[own] = np.asarray(known)
        attributes = {"units": m.quantity.unit, "long_name": m.quantity.meaning, "source": m.quantity.source}
        variables[name] = (tuple(dims), m.values, attributes)
    labels["step"] = record.steps
    if "interval" in lengths:
        labels["interval"] = record.steps[1:]
    facts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in _facts(record).items()}
    coordinates = {dim: (dim, values) for dim, values in labels.items()}
    return xarray.Dataset(variables, coords=coordinates, attrs=facts)


def to_parquet(record: Record, path: str | Path) -> Path:
    """Write :func:`to_pandas` with ``arrays=True`` as one Parquet file, in one move; equal records, equal bytes.

    ``pandas.read_parquet`` gives the table back with its ``attrs``.

    Raises:
        GrokscopeError: pandas or pyarrow is not installed, or the file cannot be written.
    """
    path = Path(path)
    load_library("pyarrow", "frames", f"writing {path}")
    table = to_pandas(record, arrays=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(temporary, engine="pyarrow", index=True)
        temporary.replace(path)
    except OSError as error:
        raise GrokscopeError(
            f"writing {path}: {error.strerror or error}, expected a writable place"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
