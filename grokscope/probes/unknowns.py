"""What is not known of a run that others made, as alerts that end in the command that would tell it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grokscope.probes.record import Alert
from grokscope.runs import Run


def alerts_of_unknowns(run: Run) -> list[Alert]:
    """An alert each for a function, a task or a split that is not known, and for every remark on opening."""
    again = f"grokscope import {shlex.quote(source_path(run.manifest))}"
    found: list[Alert] = []
    if run.model.no_function is not None:
        recorded = run.manifest.get("function")
        if isinstance(recorded, Mapping) and recorded:
            command = (
                f"grokscope report {shlex.quote(run.name)} --model FILE:{recorded.get('name', 'FUNCTION')}"
            )
            wanted = ""
        else:
            command = f"{again} --card FILE"
            wanted = (
                " A card that composes known parts would tell it, or a function of your own "
                "(--model FILE:FUNCTION)."
            )
        text = (
            f"Weights only: the function was not rebuilt ({run.model.no_function.reason}). Every number that "
            f"needs it is absent.{wanted}"
        )
        found.append(Alert(text, command))
    if run.task.kind == "unknown" and run.model.no_function is None:
        text = "There is a function and no task to ask it about: what was learned is not known."
        found.append(Alert(text, f"{again} --card FILE"))
    elif run.task.no_split is not None and run.task.kind != "unknown":
        text = (
            f"Which samples were trained on is not known ({run.task.no_split.reason}). Every number over "
            "training or test samples is absent; nothing was taken over all of them instead."
        )
        found.append(Alert(text, f"{again} --card FILE"))
    name = run.function.name if run.function else "FUNCTION"
    found += [Alert(remark, f"{again} --model FILE:{name}") for remark in run.remarks]
    return found


def source_path(manifest: Mapping[str, Any]) -> str:
    """The file, or the folder of the files, that a run was imported from; PATH where that is not recorded."""
    provenance = manifest.get("provenance")
    sources = provenance.get("sources") if isinstance(provenance, Mapping) else None
    files = [str(file) for file in sources] if isinstance(sources, Mapping) else []
    if not files:
        return "PATH"
    if len(files) == 1:
        return files[0]
    try:
        return os.path.commonpath([str(Path(file).parent) for file in files]) or "PATH"
    except ValueError:
        return "PATH"
