"""One file per question: each binds measures to a run and draws the answer.

A new probe is a function of a run and a record under :func:`register`; see ``probes/README.md``.
"""

from __future__ import annotations

from grokscope.probes.record import (
    Alert,
    Claim,
    Crossing,
    Measurement,
    Quantity,
    Record,
    Verdict,
    load_record,
)
from grokscope.probes.registry import FigureSpec, Probe, load_plugin, register, registered
from grokscope.probes.suite import Suite, builtin_suites, probe, read_suite

__all__ = [
    "Alert",
    "Claim",
    "Crossing",
    "FigureSpec",
    "Measurement",
    "Probe",
    "Quantity",
    "Record",
    "Suite",
    "Verdict",
    "builtin_suites",
    "load_plugin",
    "load_record",
    "probe",
    "read_suite",
    "register",
    "registered",
]
