"""Many recipes from one: seeds times values of any field, each with a name of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokscope.errors import GrokscopeError
from grokscope.training.recipe import Recipe, read_recipe
from grokscope.workspace import checked_name


@dataclass(frozen=True)
class Varied:
    """A field by its dotted name and the values that it takes, as they were written."""

    field: str
    values: tuple[str, ...]


def read_seeds(text: str) -> range:
    """``"A:B"``, the seeds from A up to but not including B. Raises GrokscopeError."""
    match = re.fullmatch(r"\s*(\d{1,18}):(\d{1,18})\s*", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise GrokscopeError(
            f"reading seeds: --seeds {text!r} was given, expected A:B with A below B (B is left out), for "
            "example 0:8"
        )
    return range(int(match[1]), int(match[2]))


def read_varied(text: str) -> Varied:
    """``"FIELD=V,V,..."``; commas inside brackets, braces or quotes belong to a value. Raises GrokscopeError."""
    field, equals, values = text.partition("=")
    field = field.strip()
    found = tuple(value.strip() for value in _split(values))
    if not equals or not field or not all(found):
        raise GrokscopeError(
            f"varying: --vary {text!r} was given, expected FIELD=V,V,..., for example train.lr=0.01,0.03"
        )
    if field == "name":
        raise GrokscopeError(
            f"varying: --vary {text!r} was given, but name is not a setting: runs are named by what varies "
            "(--name gives the first part)"
        )
    return Varied(field, found)


def vary_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    seed: int | None = None,
    seeds: range | None = None,
    vary: Sequence[Varied] = (),
    name: str | None = None,
) -> list[tuple[str, Recipe]]:
    """Every combination of seeds and values as (name, recipe), the seed running slowest.

    A name is ``<name or recipe>-s<seed>`` and, for every field that varies, ``.<field>-<value>``: the last
    word of the field (all of it where two end alike), the value as the recipe holds it, so that ``1e-3`` and
    ``0.001`` are one run with one name.

    Args:
        source: a recipe as :func:`~grokscope.training.read_recipe` takes it.
        overrides: ``FIELD=VALUE`` strings for all of them.
        seed: one seed for all; not together with ``seeds``.
        name: in place of the recipe's own name; with neither ``seeds`` nor ``vary``, the whole name.

    Raises:
        GrokscopeError: seed and seeds, or a field given twice; a value that the field does not take; two
            runs that would be the same.
    """
    fields = [item.field for item in vary]
    _refuse_twice(fields, overrides, seed, seeds)
    if name is not None and seeds is None and not fields:
        return [(checked_name(name), read_recipe(source, overrides, seed))]
    labels = _labels(fields)
    base_seeds: Sequence[int | None] = [seed] if seeds is None else seeds
    found: dict[str, Recipe] = {}
    combinations = itertools.product(*(item.values for item in vary))
    for this_seed, values in itertools.product(base_seeds, list(combinations)):
        settings = [f"{field}={value}" for field, value in zip(fields, values, strict=True)]
        recipe = read_recipe(source, [*overrides, *settings], this_seed)
        config = recipe.config()
        parts = [f"{labels[field]}-{_written(_at(config, field))}" for field in fields if field != "seed"]
        full = checked_name(".".join([f"{name or recipe.name}-s{recipe.seed}", *parts]))
        if full in found:
            raise GrokscopeError(
                f"varying {source}: two runs would be {full}, expected distinct values of "
                f"{' and '.join(fields) or 'seed'}"
            )
        found[full] = recipe
    return list(found.items())


def _refuse_twice(
    fields: Sequence[str], overrides: Sequence[str], seed: int | None, seeds: range | None
) -> None:
    if seed is not None and seeds is not None:
        raise GrokscopeError("varying: --seed and --seeds were both given, expected one of them")
    given = [override.partition("=")[0].strip() for override in overrides]
    for position, field in enumerate(fields):
        if field in fields[:position]:
            raise GrokscopeError(f"varying: {field} was given to --vary twice, expected one list of values")
        if field in given:
            raise GrokscopeError(f"varying: {field} was given to both --vary and --set, expected one of them")
        if field == "seed" and (seed is not None or seeds is not None):
            raise GrokscopeError("varying: seed was given to --vary and to --seed or --seeds, expected one")


def _labels(fields: Sequence[str]) -> dict[str, str]:
    """The last word of each field, or the whole field where another ends in the same word."""
    last = {field: field.rsplit(".", 1)[-1] for field in fields}
    ends = list(last.values())
    return {field: word if ends.count(word) == 1 else field for field, word in last.items()}


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def _at(config: Mapping[str, Any], field: str) -> Any:
    """The value of a dotted field; ``None`` where it is left out because it is none."""
    value: Any = config
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _written(value: Any) -> str:
    """A value as part of a name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, (list, tuple)):
        return "+".join(_written(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "+".join(f"{key}-{_written(item)}" for key, item in value.items()) or "none"
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "none" if value is None else str(value))
