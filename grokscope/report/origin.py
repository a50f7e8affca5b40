"""Where an imported run came from, how its function was found, and the proof, from what ``run.json`` holds.

Scope: text and tables for the page. Names and sentences may be a stranger's: nothing here is markup, and whatever
has another shape than expected is left out rather than trusted.
"""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokscope.probes.record import Alert
from grokscope.probes.unknowns import source_path
from grokscope.report.formatting import UNDEFINED, flattened, number, power_of, whole
from grokscope.report.tables import MOST_ROWS

MOST_PROOF_ROWS = 40
MOST_LINES = 40
_LONGEST = 600
_SHOWN_FINDINGS = 3

REPRODUCED = ("reproduced", "agrees")
CONFLICTS = ("conflict", "differs")
UNRECORDED = "nothing recorded"
WARNINGS = ("warning", "conflict", "error")
_ELSEWHERE = (
    "model",
    "search",
    "declared",
    "family",
    "steps",
    "hypotheses",
    "split",
    "known",
    "guessed",
    "ignored",
    "tensors",
    "step_from",
    "title",
)


@dataclass(frozen=True)
class ProofRow:
    """One recorded number beside ours, as text; ``tone`` is a class of the style sheet."""

    quantity: str
    source: str
    step: str
    recorded: str
    ours: str
    difference: str
    verdict: str
    tone: str
    note: str


@dataclass(frozen=True)
class FindingGroup:
    """What the audit found under one heading: the evidence shown, and what is folded away."""

    finding: str
    severity: str
    shown: list[str]
    rest: list[str]


@dataclass(frozen=True)
class Origin:
    """Everything the page says of an import; empty parts are left out there."""

    facts: list[tuple[str, str]]
    known: list[str]
    guessed: list[str]
    ignored: list[tuple[str, str]]
    hypotheses: list[tuple[str, str, str, str]]
    proof_summary: str
    proof: list[ProofRow]
    proof_folded: list[ProofRow]
    proof_left_out: int
    split: list[tuple[str, str]]
    findings: list[FindingGroup]
    command: str


def origin_of(manifest: Mapping[str, Any], run: str) -> Origin | None:
    """The origin of an imported run, ``None`` for one that was trained here.

    Args:
        run: the run's name on the command line, quoted.
    """
    if manifest.get("kind") == "trained" or not isinstance(manifest.get("card"), Mapping):
        return None
    card = manifest["card"]
    proof = _mappings(manifest.get("proof"))
    ordered = sorted(proof, key=_doubt)
    rows = [_proof_row(row) for row in ordered[:MOST_PROOF_ROWS]]
    hypotheses = [
        (_text(h.get("about")), _text(h.get("value")), _text(h.get("basis")), _text(h.get("evidence")))
        for h in _mappings(card.get("hypotheses"))[:MOST_LINES]
    ]
    told = {value for _, value, _, _ in hypotheses}
    return Origin(
        facts=_facts(manifest, card),
        known=_texts(card.get("known")),
        guessed=[text for text in _texts(card.get("guessed")) if not any(text.endswith(one) for one in told)],
        ignored=_pairs(card.get("ignored")),
        hypotheses=hypotheses,
        proof_summary=_summary(proof),
        proof=rows[:MOST_ROWS],
        proof_folded=rows[MOST_ROWS:],
        proof_left_out=max(len(ordered) - MOST_PROOF_ROWS, 0),
        split=_split(manifest, card),
        findings=_groups(_mappings(manifest.get("audit"))),
        command=f"grokscope inspect {run} --json FILE",
    )


def alerts_of_audit(manifest: Mapping[str, Any], run: str = "") -> list[Alert]:
    """Findings of an import that a reader must know before the curves, each with its command.

    A finding without one of its own gets the command that shows the evidence of all of them; ``run`` is how the
    command line names the run, and without it such a finding gets none.
    """
    look = f"grokscope inspect {run}" if run else ""
    findings: dict[str, list[Mapping[str, Any]]] = {}
    for found in _mappings(manifest.get("audit")):
        if found.get("severity") in WARNINGS:
            findings.setdefault(_text(found.get("finding")), []).append(found)
    alerts: list[Alert] = []
    for finding, group in findings.items():
        evidence, command = _text(group[0].get("evidence")), group[0].get("command")
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        text = f"{finding}: {evidence}{more}" if evidence else f"{finding}{more}"
        alerts.append(Alert(_sentence(text), command if isinstance(command, str) else look))
    conflicts = [row for row in _mappings(manifest.get("proof")) if row.get("verdict") in CONFLICTS]
    if conflicts and not any(f.get("severity") == "conflict" for g in findings.values() for f in g):
        worst = _proof_row(max(conflicts, key=lambda row: abs(_value(row.get("difference")))))
        numbers = "number disagrees" if len(conflicts) == 1 else "numbers disagree"
        text = (
            f"{len(conflicts)} recorded {numbers} with the rebuilt function, most of all {worst.quantity} at "
            f"step {worst.step}: recorded {worst.recorded}, ours {worst.ours}."
        )
        again = f"grokscope import {shlex.quote(source_path(manifest))} --card FILE"
        alerts.append(Alert(text, again))
    return alerts


def _facts(manifest: Mapping[str, Any], card: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if files := _sources(manifest):
        facts.append(("read from", files))
    if title := card.get("title"):
        facts.append(("recognised as", _text(title)))
    rest = {key: value for key, value in card.items() if key not in _ELSEWHERE}
    facts += [(name.replace("_", " "), _cut(text)) for name, text in flattened(rest) if text][:MOST_LINES]
    if isinstance(search := card.get("search"), Mapping):
        facts.append(("hypotheses tried", _search_told(search)))
    if step_from := card.get("step_from"):
        facts.append(("steps read from", _text(step_from)))
    recorded = manifest.get("recorded")
    if isinstance(recorded, Mapping) and recorded:
        facts.append(("recorded beside the weights", _listed([str(name) for name in recorded])))
    function = manifest.get("function")
    if isinstance(function, Mapping) and function:
        facts.append(("function", ", ".join(f"{key} {_text(value)}" for key, value in function.items())))
    if "no_function" in manifest:
        facts.append(("no function", _text(manifest["no_function"])))
    return facts


def _sources(manifest: Mapping[str, Any]) -> str:
    """The files that were read: their folder, and their names."""
    provenance = manifest.get("provenance")
    sources = provenance.get("sources") if isinstance(provenance, Mapping) else None
    files = [str(file) for file in sources] if isinstance(sources, Mapping) else []
    if len(files) < 2:
        return "".join(files)
    folder = source_path(manifest)
    names = [os.path.relpath(file, folder) if folder != "PATH" else Path(file).name for file in files]
    return f"{folder}: {len(files)} files, {_listed(names)}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _doubt(row: Mapping[str, Any]) -> tuple[int, float]:
    """What disagrees first, then what is explained, then what agrees; the latest steps first in each."""
    verdict = row.get("verdict")
    rank = 0 if verdict in CONFLICTS else 2 if verdict in REPRODUCED else 3 if verdict == UNRECORDED else 1
    return rank, -_value(row.get("step"))


def _summary(proof: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(_text(row.get("verdict")) for row in proof)
    unrecorded = counts.pop(UNRECORDED, 0)
    total = sum(counts.values())
    if not total:
        return "No loss or accuracy is recorded for a saved step, so nothing proves the function."
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    many = "1 number is" if total == 1 else f"{whole(total)} numbers are"
    text = f"{many} recorded beside the weights: {told}."
    if unrecorded:
        text += f" {whole(unrecorded)} of ours {'has' if unrecorded == 1 else 'have'} none to compare with."
    return text


def _proof_row(row: Mapping[str, Any]) -> ProofRow:
    verdict = _text(row.get("verdict"))
    tones = {**dict.fromkeys(REPRODUCED, "good"), **dict.fromkeys(CONFLICTS, "bad"), UNRECORDED: ""}
    return ProofRow(
        quantity=_text(row.get("quantity")),
        source=_text(row.get("source")),
        step=_number(row.get("step"), 6),
        recorded=_number(row.get("recorded"), 7),
        ours=_number(row.get("ours"), 7),
        difference=_number(row.get("difference"), 2),
        verdict=verdict,
        tone=tones.get(verdict, "open"),
        note=_text(row.get("note")),
    )


def _search_told(search: Mapping[str, Any]) -> str:
    budget = search.get("budget")
    limits = budget if isinstance(budget, Mapping) else {}
    return (
        f"{_text(search.get('tried'))} of {_text(search.get('of'))} in {_text(search.get('seconds'))} s, of a "
        f"budget of {_text(limits.get('hypotheses'))} and {_text(limits.get('seconds'))} s"
    )


def _split(manifest: Mapping[str, Any], card: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown: list[tuple[str, str]] = []
    if "no_split" in manifest:
        shown.append(("not known", _text(manifest["no_split"])))
    split = card.get("split")
    if isinstance(split, Mapping):
        leading = [key for key in ("source", "recipe", "confidence", "evidence") if key in split]
        # the convention is the recipe in other words, as older runs have it
        rest = [
            key for key in split if key not in leading and not (key == "convention" and "recipe" in split)
        ]
        ordered = {key: split[key] for key in [*leading, *rest]}
        for name, value in flattened(ordered):
            if value and value != "not recorded":
                shown.append((name.replace("_", " "), _cut(value)))
    return shown[:MOST_LINES]


def _groups(audit: Sequence[Mapping[str, Any]]) -> list[FindingGroup]:
    """Findings by heading in their order, warnings first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in audit:
        found.setdefault(_text(one.get("finding")), []).append(one)
    groups: list[FindingGroup] = []
    for finding, members in found.items():
        evidence = [text for one in members if (text := _text(one.get("evidence")))]
        severities = [s for one in members if isinstance(s := one.get("severity"), str)]
        severity = next((s for s in WARNINGS[::-1] if s in severities), "")
        groups.append(FindingGroup(finding, severity, evidence[:_SHOWN_FINDINGS], evidence[_SHOWN_FINDINGS:]))
    return sorted(groups, key=lambda group: not group.severity)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in value[:MOST_LINES]] if isinstance(value, list) else []


def _pairs(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return []
    pairs = [(_text(name), _text(why)) for name, why in list(value.items())[:MOST_LINES]]
    rest = len(value) - len(pairs)
    return [*pairs, (f"and {rest} more", "")] if rest > 0 else pairs


def _text(value: Any) -> str:
    return "" if value is None else _cut(number(value, 6) if isinstance(value, float) else str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _number(value: Any, digits: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNDEFINED if value is None else _text(value)
    if isinstance(value, int) or not math.isfinite(value):
        return number(value)
    # as many digits as there are, and no zeros after them: a printed number has few
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return (f"{mantissa}×10{power_of(int(exponent))}" if exponent else mantissa).replace("-", "−")


def _value(value: Any) -> float:
    """A number to order by; 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0.0
    return float(max(min(value, 1e300), -1e300))
