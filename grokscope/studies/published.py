"""What papers reported, as they reported it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def published(name: str) -> dict[str, Any]:
    """The numbers of one paper: its setup, the reported values, and where they disagree with each other."""
    source = resources.files("grokscope.studies") / "published" / f"{name}.json"
    return json.loads(source.read_text(encoding="utf-8"))
