"""The densest series of losses and accuracies that a run has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grokscope.probes.record import Record
from grokscope.runs import Run

Series = tuple[NDArray[np.int64], NDArray[np.float64]]
"""(steps, values)."""


def dense_series(run: Run, record: Record) -> dict[str, Series]:
    """Every loss and accuracy at the densest steps there are: the training log, else the saves."""
    scalars = run.scalars if len(run.scalars.get("step", ())) else {}  # none is committed at first
    names = {
        n for n in (*record.names(), *scalars) if n.split(".")[0] in ("loss", "accuracy", "error", "time")
    }
    found: dict[str, Series] = {}
    for name in sorted(names):
        if name in scalars:
            found[name] = (scalars["step"].astype(np.int64), scalars[name])
            continue
        values = record.get(name)
        if values is not None and values.ndim == 1:
            found[name] = (record.steps, values.astype(np.float64))
    return found


FEW_PAIRS = 30
"""Unmirrored test pairs under which verdicts are read from all test pairs."""


def counted(record: Record) -> tuple[str, str]:
    """The event and the accuracy that verdicts are read from: unmirrored pairs where there are enough.

    Where the swap changes the answer all test pairs are unmirrored, and the two readings are one.
    """
    pairs = record.notes.get("loss.pairs", {})
    if "test_mirrored" in pairs and pairs.get("test_unmirrored", 0) >= FEW_PAIRS:
        return "grok_unmirrored", "accuracy.test_unmirrored"
    return "grok", "accuracy.test"
