"""What an audit looks at, and the shape of what it finds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from grokscope.foreign.evidence.verdicts import Comparison
from grokscope.foreign.gathering.facts import Facts, Recorded
from grokscope.models import Model, Params
from grokscope.tasks import Task

Finding = dict[str, Any]
"""``finding`` and ``evidence``, one sentence each, ``severity``; some carry their numbers beside them."""

Severity = Literal["note", "warning"]

MAX_QUOTED = 80


@dataclass(frozen=True)
class AuditContext:
    """Everything about one run that the audit reads.

    Attributes:
        task: with the run's own split, or without one and the reason.
        losses, right: (T, N) loss and correctness of every pair at each save; ``None`` without a function.
        ignored: their name → why the tensor is no weight.
        saves: the weights of each step, under our names.
        facts, inside: what lies beside the weights, and inside the last file.
        raw: every tensor of the last file, under its own name.
        optimizer: the optimiser's state dict in the last file.
        split: the split as it is printed (``source``, ``train_fraction``, ``contradiction``, ...).
        names: the file's and its folders' names.
        norms: norms recorded at saved steps.
        skipped: what was left out, and why.
        where: the path as the user gave it, for the commands in findings.
    """

    task: Task
    steps: Sequence[int]
    losses: Tensor | None
    right: Tensor | None
    ignored: Mapping[str, str]
    saves: Sequence[Params]
    model: Model
    facts: Facts
    inside: Mapping[str, Any]
    raw: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None = None
    split: Mapping[str, Any] | None = None
    names: Sequence[str] = ()
    proof: Sequence[Comparison] = ()
    norms: Sequence[Recorded] = ()
    skipped: Sequence[tuple[str, str]] = ()
    where: str = "PATH"

    @property
    def split_known(self) -> bool:
        """Whether it is known which pairs were trained on."""
        return self.task.no_split is None and bool(self.task.train_mask.any())

    @property
    def function_known(self) -> bool:
        """Whether the model computes logits."""
        return self.model.no_function is None

    def command(self, option: str) -> str:
        """The import command with one more option."""
        return f"`grokscope import {shlex.quote(self.where)} {option}`"


def finding(
    name: str, evidence: str, severity: Severity = "note", /, *, resolve: str = "", **numbers: Any
) -> Finding:
    """One finding; ``resolve``, the command or option that would settle it, ends the evidence."""
    text = f"{evidence}; to resolve: {resolve}" if resolve else evidence
    return {"finding": name, "evidence": text, "severity": severity, **numbers}


def quoted(value: Any, most: int = MAX_QUOTED) -> str:
    """A stranger's value or name in one short line of printable characters."""
    text = re.sub(r"\s+", " ", str(value))
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= most else text[: most - 1] + "…"
