"""An import, an inspection, or a stored run as lines for a reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_ROWS = 12


def describe(shape: Mapping[str, Any]) -> list[str]:
    """The lines that ``import`` and ``inspect`` print of the documented JSON shape."""
    lines: list[str] = []
    for run in shape["runs"]:
        lines += _recognised(run["name"], run["recognised"])
        lines.append("split    " + ", ".join(f"{key} {_short(value)}" for key, value in run["split"].items()))
        if run["recognised"].get("kind") != "trained":
            lines += _proof(run["proof"])
        lines += [f"audit    {found['finding']}: {found['evidence']}" for found in run["audit"]]
    lines += [f"skipped  {one['path']}: {one['why']}" for one in shape["skipped"]]
    return lines


def _recognised(name: str, card: Mapping[str, Any]) -> list[str]:
    """What a run is, and for one that others made what was known, guessed and left out."""
    steps = card["steps"]
    span = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} saves, steps {steps[0]} to {steps[-1]}"
    if "title" in card:
        lines = [f"{name}: {card['title']}, {card['operation']} modulo {card['p']}, {span}"]
    else:
        lines = [f"{name}: {card['task']}, {card['family']}, {card['parameters']} parameters, {span}"]
    for heading in ("known", "guessed"):
        lines += [f"{heading:<8} {text}" for text in card.get(heading, ())]
    lines += [f"ignored  {tensor}: {why}" for tensor, why in card.get("ignored", {}).items()]
    lines += [f"tensor   {tensor} {tuple(shape)}" for tensor, shape in card.get("tensors", {}).items()]
    if card.get("scalars"):
        lines.append(f"scalars  {', '.join(card['scalars'])}")
    if "checksum" in card:
        lines.append(f"content  sha256 {card['checksum']}")
    return lines


def _proof(rows: list[Mapping[str, Any]]) -> list[str]:
    """The numbers recorded beside the weights, next to ours: a count, then those that say most."""
    if not rows:
        return ["proof    no number is recorded beside the weights: the function is rebuilt and not proved"]
    verdicts: dict[str, int] = {}
    for row in rows:
        verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    lines = [f"proof    {len(rows)} recorded numbers: {counted}"]
    # disagreements first, then the latest steps, which say most about the function
    order = sorted(rows, key=lambda row: (row["verdict"] == "agrees", -(row["step"] or 0)))
    for row in order[:MOST_ROWS]:
        at = "" if row["step"] is None else f" at step {row['step']}"
        lines.append(
            f"         {row['quantity']}{at}: recorded {_short(row['recorded'])}, ours {_short(row['ours'])}, "
            f"{row['verdict']}"
        )
    if len(rows) > MOST_ROWS:
        lines.append(f"         and {len(rows) - MOST_ROWS} more (--json has all)")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, str | int) or value is None:
        return str(value)
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
