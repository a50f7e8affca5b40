"""Series over the saves of a run: NaN where a measure refuses its input, with the reason it gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grokscope.probes.record import Record


class SaveSeries:
    """Named arrays over the saves of a run, or over the intervals between them, undefined until set.

    A save at which a measure raises ``ValueError`` (a diverged weight, a block without gradient) stays
    undefined, and :meth:`record` says at which steps and why.
    """

    def __init__(self, steps: np.ndarray) -> None:
        self._steps = steps
        self._values: dict[str, np.ndarray] = {}
        self._dims: dict[str, tuple[str, ...]] = {}
        self._reasons: dict[str, str] = {}
        self._whole: set[str] = set()

    def declare(
        self,
        *names: str,
        dims: Sequence[str] = ("step",),
        width: int | None = None,
        whole: bool = False,
        reason: str = "",
    ) -> None:
        """Make room for ``names``; ``dims`` starts with ``step`` or ``interval``, ``width`` is axis 2.

        ``whole`` numbers are recorded as integers where none is undefined. ``reason`` is what is told of
        entries that no measure refused and that still have no value.
        """
        count = len(self._steps) - (dims[0] == "interval")
        for name in names:
            self._values[name] = np.full((count,) if width is None else (count, width), np.nan)
            self._dims[name] = tuple(dims)
            if whole:
                self._whole.add(name)
            if reason:
                self._reasons[name] = reason

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def fill(self, name: str, values: np.ndarray) -> None:
        """Set every entry of ``name``, NaN where there is none; of intervals, one less than of saves."""
        self._values[name] = values

    def refuse(self, name: str, reason: str) -> None:
        """Why undefined entries of ``name`` are undefined."""
        self._reasons[name] = reason

    def record(self, record: Record) -> None:
        """Add every series; skip those without a value, and note the steps of single undefined entries."""
        undefined: dict[str, dict[str, object]] = {}
        for name, values in self._values.items():
            if not len(values):
                record.skip(name, "it compares consecutive saves, and there is one save only")
                continue
            missing = np.isnan(values).reshape(len(values), -1).all(axis=1)
            reason = self._reasons.get(name, "it has no value")
            if missing.all():
                record.skip(name, reason)
                continue
            whole = name in self._whole and not missing.any()
            record.add(name, values.astype(np.int64) if whole else values, self._dims[name])
            if missing.any():
                steps = self._steps[len(self._steps) - len(values) :][missing]
                undefined[name] = {"reason": reason, "steps": [int(step) for step in steps]}
        if undefined:
            record.notes.setdefault("undefined", {}).update(undefined)
