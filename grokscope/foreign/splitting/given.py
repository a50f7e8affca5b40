"""Seeds and training fractions that the authors wrote down, in files and in the names of files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grokscope.foreign.gathering.facts import FRACTION_NAMES, SEED_NAMES, Facts

MORE_SEED_NAMES = (
    "random_seed",
    "manual_seed",
    "torch_seed",
    "np_seed",
    "numpy_seed",
    "rng_seed",
    "shuffle_seed",
)
TEST_FRACTION_NAMES = ("test_size", "test_fraction", "frac_test", "test_frac", "test_ratio", "val_fraction")
_FRACTION_IN_NAME = re.compile(
    r"(?:frac|fraction|ratio|split|tf)[a-z]*[_=-]?(?:train[_=-]?)?(0?\.\d+|\d{2}(?=%|pct|percent))",
    re.IGNORECASE,
)
_SEED_IN_NAME = re.compile(r"seed[_=-]?(\d{1,9})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Given:
    """Seeds and fractions that were written down, each with where."""

    seeds: tuple[tuple[int, str], ...]
    fractions: tuple[tuple[float, str], ...]


def recorded_settings(facts: Facts, inside: Mapping[str, Any], names: Sequence[str] = ()) -> Given:
    """Every seed and training fraction that is written down and makes sense, in files and in their names."""
    seeds: dict[int, str] = {}
    fractions: dict[float, str] = {}
    for name in (*SEED_NAMES, *MORE_SEED_NAMES):
        seed = facts.find((name,), inside)
        if seed is not None and (whole := _whole(seed[0])) is not None:
            seeds.setdefault(whole, seed[1])
    for name in (*FRACTION_NAMES, *TEST_FRACTION_NAMES):
        fraction = facts.find((name,), inside)
        share = None if fraction is None else _share(fraction[0])
        if fraction is not None and share is not None:
            share = round(1 - share, 12) if name in TEST_FRACTION_NAMES else share
            fractions.setdefault(share, fraction[1])
    beside = [*names, *facts.documents, *facts.tables, *(str(path) for path in facts.paths.values())]
    for name in beside:
        for text in _FRACTION_IN_NAME.findall(name):
            share = _share(float(text))
            if share is not None:
                fractions.setdefault(share, f"the name {_short(name)}")
        for text in _SEED_IN_NAME.findall(name):
            seeds.setdefault(int(text), f"the name {_short(name)}")
    return Given(tuple(seeds.items()), tuple(fractions.items()))


def _short(name: str) -> str:
    return name.rpartition("/")[2][:80]


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value.strip()[:20])
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 2**63 else None


def _share(value: Any) -> float | None:
    """A fraction of the pairs, from a number or its text; percent where it is above 1."""
    try:
        share = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return None
    share = share / 100 if 1 < share < 100 else share
    return share if 0 < share < 1 else None
