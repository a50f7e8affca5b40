"""A run as it was understood, in the shape that ``import`` and ``inspect`` print and ``run.json`` keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grokscope.foreign.function.search import Searched
from grokscope.foreign.gathering.containers import Skipped
from grokscope.foreign.understand import Understood
from grokscope.trajectory import settings_dict


@dataclass(frozen=True)
class ImportedRun:
    """One run as understood, its name, and where it was stored (``None`` where it was only inspected)."""

    name: str
    found: Understood
    path: Path | None = None

    def card(self) -> dict[str, Any]:
        """What was recognised, in plain data."""
        found, function, source = self.found, self.found.function, self.found.source
        dtypes = sorted({str(v.dtype).removeprefix("torch.") for v in source.snapshots[-1].tensors.values()})
        shape: dict[str, Any] = {
            "title": "weights whose function is not known",
            "dialect": None,
            "operation": None,
            "p": None,
            "proved": found.proved,
        }
        if function is not None:
            shape |= {
                "title": function.space.title,
                "dialect": function.space.dialect,
                "operation": function.operation,
                "p": function.p,
                "answers": function.answers,
                "known": [*function.space.known, *source.notes, *_ended_early(function.searched)],
                "guessed": [
                    f"{one.about}: {one.value}"
                    for one in function.hypotheses
                    if one.basis in ("ambiguous", "assumed")
                ],
                "search": _search_json(found),
                "declared": declared_card(found),
            }
        else:
            shape["known"] = list(source.notes)
        if found.why:
            shape["no_function"] = found.why
        if function is not None and function.loss.squared:
            shape["recorded_loss"] = function.loss.name
        if found.doubt:
            shape["doubt"] = found.doubt
        if found.why and function is not None:
            # a guess that nothing supports is no recognition
            guess = f"{function.space.title}, {function.operation} modulo {function.p}"
            shape |= {
                "title": f"weights only; the best guess, not proved, is {guess}",
                "operation": None,
                "p": None,
            }
        return {
            **shape,
            "family": found.model.family,
            "steps": list(found.steps),
            "step_from": source.snapshots[-1].step_from,
            "dtype": dtypes,
            "ignored": dict(found.ignored),
        }

    def as_json(self) -> dict[str, Any]:
        """The run in the shape that ``import`` and ``inspect`` print."""
        function, split = self.found.function, self.found.split
        return {
            "name": self.name,
            "recognised": self.card(),
            "hypotheses": [] if function is None else [one.as_json() for one in function.hypotheses],
            "proof": [one.as_json() for one in self.found.proof],
            "split": {"source": "not known", "why": self.found.why} if split is None else split.as_json(),
            "audit": [dict(one) for one in self.found.audit],
        }


def declared_card(found: Understood) -> dict[str, Any]:
    """The card that would import this run again without any search: what ``--card`` takes, as plain data."""
    function = found.function
    if function is None:
        return {}
    settings = settings_dict(function.task_settings)
    task = {name: settings[key] for name, key in (("operation", "op"), ("p", "p")) if key in settings}
    if "group" in settings:
        task = {"operation": "group", "group": settings["group"], "p": function.p}
    if "softmax over" in function.assignment:
        task["softmax"] = function.assignment["softmax over"]
    return {"title": function.space.title, **function.space.declare(function.assignment), "task": task}


def _ended_early(searched: Searched | None) -> list[str]:
    return [f"the search for the function: {searched.stopped}"] if searched and searched.stopped else []


def _search_json(found: Understood) -> dict[str, Any] | None:
    searched = found.function.searched if found.function else None
    if searched is None:
        return None
    trials = [
        {
            "hypothesis": {name: str(value) for name, value in trial.assignment.items()},
            "operation": trial.named,
            "accuracy": trial.accuracy,
            "loss": trial.loss,
            "nats": trial.nats,
        }
        for trial in searched.finalists()[:4]
    ]
    return {
        "tried": len(searched.trials),
        "of": searched.size,
        "seconds": round(searched.seconds, 2),
        "budget": {
            "hypotheses": searched.budget.hypotheses,
            "work": searched.budget.work,
            "seconds": searched.budget.seconds,
        },
        "stopped": searched.stopped,
        "best": trials,
    }


@dataclass(frozen=True)
class ImportResult:
    """Everything that an import stored or an inspection found, and what was left out and why."""

    runs: tuple[ImportedRun, ...] = ()
    skipped: tuple[Skipped, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The documented shape of ``import --json`` and ``inspect --json``."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "skipped": [{"path": str(one.path), "why": one.why} for one in self.skipped],
        }
