"""An import, an inspection, or a stored run as lines for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grokscope.foreign.reading.plain import printable

MOST_ROWS = 12
MOST_NOTES = 8


def describe(shape: Mapping[str, Any]) -> list[str]:
    """The lines that ``import`` and ``inspect`` print of the documented JSON shape, each of one line."""
    lines: list[str] = []
    for run in shape["runs"]:
        card = run["recognised"]
        lines += _recognised(run["name"], card)
        trained = card.get("kind") == "trained"
        if not trained:
            lines += _hypotheses(run["hypotheses"], card.get("search"))
        lines.append("split    " + _split(run["split"]))
        if not trained:
            lines += _proof(run["proof"])
        lines += _audit(run["audit"])
    lines += [f"skipped  {one['path']}: {one['why']}" for one in shape["skipped"]]
    return [printable(line, 2000) for line in lines]


def _recognised(name: str, card: Mapping[str, Any]) -> list[str]:
    """What a run is, and for one that others made what was known, guessed and left out."""
    steps = card["steps"]
    span = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} saves, steps {steps[0]} to {steps[-1]}"
    if card.get("operation"):
        lines = [f"{name}: {card['title']}, {card['operation']} modulo {card['p']}, {span}"]
        if str(card["operation"])[:1].isupper():
            lines = [f"{name}: {card['title']}, products in {card['operation']}, {span}"]
    elif "title" in card:
        lines = [f"{name}: {card['title']}, {span}"]
    else:
        lines = [f"{name}: {card['task']}, {card['family']}, {card['parameters']} parameters, {span}"]
    if card.get("no_function"):
        lines.append(f"weights  only: {card['no_function']}")
    if card.get("doubt"):
        lines.append(f"doubt    {card['doubt']}")
    lines += [f"known    {text}" for text in card.get("known", ())]
    lines += [f"ignored  {tensor}: {why}" for tensor, why in card.get("ignored", {}).items()]
    lines += [f"tensor   {tensor} {tuple(shape)}" for tensor, shape in card.get("tensors", {}).items()]
    if card.get("scalars"):
        lines.append(f"scalars  {', '.join(card['scalars'])}")
    if "checksum" in card:
        lines.append(f"content  sha256 {card['checksum']}")
    return lines


def _hypotheses(rows: Sequence[Mapping[str, Any]], search: Mapping[str, Any] | None) -> list[str]:
    lines = [f"{row['basis']:<10}{row['about']} {row['value']}: {row['evidence']}" for row in rows]
    if search:
        cut = f"; {search['stopped']}" if search.get("stopped") else ""
        lines.append(
            f"search   {search['tried']} of {search['of']} hypotheses, at most "
            f"{search['budget']['hypotheses']}{cut}"
        )
    return lines


def _split(split: Mapping[str, Any]) -> str:
    """Where the training pairs come from, how many, how sure; then the evidence."""
    if split.get("why"):
        return f"not known: {split['why']}"
    told = [split.get("recipe") or split.get("convention"), split.get("source")]
    sizes = [
        f"{name.removeprefix('n_')} {split[name]}" for name in ("n_train", "n_test", "n") if split.get(name)
    ]
    if split.get("confidence") is not None:
        sizes.append(f"confidence {split['confidence']:.3g}")
    parts = [str(one) for one in told if one] + sizes
    evidence = f"; {split['evidence']}" if split.get("evidence") else ""
    doubt = f"; although {split['contradiction']}" if split.get("contradiction") else ""
    return ", ".join(parts) + evidence + doubt


def _proof(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The numbers recorded beside the weights, next to ours: a count, then those that say most."""
    recorded = [row for row in rows if row["recorded"] is not None]
    if not recorded:
        return ["proof    nothing recorded: no loss or accuracy of a saved step lies beside the weights"]
    verdicts: dict[str, int] = {}
    for row in recorded:
        verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    silent = len(rows) - len(recorded)
    more = f"; {silent} saves without a record" if silent else ""
    lines = [f"proof    {len(recorded)} recorded numbers: {counted}{more}"]
    # what is not plainly reproduced first, then the latest steps, which say most about the function
    rank = {"conflict": 0, "reproduced": 2}
    order = sorted(recorded, key=lambda row: (rank.get(row["verdict"], 1), -(row["step"] or 0)))
    for row in order[:MOST_ROWS]:
        note = f" ({row['note']})" if row.get("note") else ""
        lines.append(
            f"         {row['quantity']} at step {row['step']}: recorded {_short(row['recorded'])}, ours "
            f"{_short(row['ours'])}, {row['verdict']}{note}"
        )
    if len(recorded) > MOST_ROWS:
        lines.append(f"         and {len(recorded) - MOST_ROWS} more (--json has all)")
    return lines


def _audit(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warnings first and all of them, then the first notes."""
    warnings = [one for one in findings if one.get("severity") == "warning"]
    notes = [one for one in findings if one.get("severity") != "warning"]
    lines = [f"warning  {one['finding']}: {one['evidence']}" for one in warnings]
    lines += [f"audit    {one['finding']}: {one['evidence']}" for one in notes[:MOST_NOTES]]
    if len(notes) > MOST_NOTES:
        lines.append(f"audit    and {len(notes) - MOST_NOTES} more (--json has all)")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, str | int) or value is None:
        return str(value)
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
