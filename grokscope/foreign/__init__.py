"""Third-party checkpoints: read safely, recognised, rebuilt as a function, and proved against the record."""

from __future__ import annotations

from grokscope.foreign.containers import ForeignRun, Skipped, Snapshot, gather
from grokscope.foreign.dialects import DIALECTS, Dialect, Recognised, Unrecognised, recognise
from grokscope.foreign.importer import (
    ImportedRun,
    ImportResult,
    import_or_reuse,
    import_paths,
    inspect_path,
)
from grokscope.foreign.proof import Comparison
from grokscope.foreign.safe_read import SUFFIXES, read_weights
from grokscope.foreign.split import Split, find_split
from grokscope.foreign.words import describe

__all__ = [
    "DIALECTS",
    "SUFFIXES",
    "Comparison",
    "Dialect",
    "ForeignRun",
    "ImportResult",
    "ImportedRun",
    "Recognised",
    "Skipped",
    "Snapshot",
    "Split",
    "Unrecognised",
    "describe",
    "find_split",
    "gather",
    "import_or_reuse",
    "import_paths",
    "inspect_path",
    "read_weights",
    "recognise",
]
