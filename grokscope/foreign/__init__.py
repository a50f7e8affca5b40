"""Third-party checkpoints: read safely, recognised, rebuilt as a function, and proved against the record."""

from __future__ import annotations

from grokscope.foreign.catalog import CatalogEntry, import_from_catalog, read_catalog
from grokscope.foreign.evidence.proof import Comparison
from grokscope.foreign.function.card import Card, builtin_cards, read_card
from grokscope.foreign.gathering.containers import ForeignRun, Skipped, Snapshot, gather
from grokscope.foreign.gathering.curves import Curve
from grokscope.foreign.gathering.facts import (
    Facts,
    Recorded,
    recorded_curves,
    recorded_norms,
    recorded_numbers,
)
from grokscope.foreign.gathering.pairs import PairList, recorded_pairs
from grokscope.foreign.importer import (
    ImportedRun,
    ImportResult,
    import_or_reuse,
    import_paths,
    inspect_path,
)
from grokscope.foreign.reading.safe_read import SUFFIXES, read_weights
from grokscope.foreign.splitting.find import NoSplit, Split, find_split
from grokscope.foreign.understand import Reading, Understood, understand
from grokscope.foreign.words import describe

__all__ = [
    "SUFFIXES",
    "Card",
    "CatalogEntry",
    "Comparison",
    "Curve",
    "Facts",
    "ForeignRun",
    "ImportResult",
    "ImportedRun",
    "NoSplit",
    "PairList",
    "Reading",
    "Recorded",
    "Skipped",
    "Snapshot",
    "Split",
    "Understood",
    "builtin_cards",
    "describe",
    "find_split",
    "gather",
    "import_from_catalog",
    "import_or_reuse",
    "import_paths",
    "inspect_path",
    "read_card",
    "read_catalog",
    "read_weights",
    "recorded_curves",
    "recorded_norms",
    "recorded_numbers",
    "recorded_pairs",
    "understand",
]
