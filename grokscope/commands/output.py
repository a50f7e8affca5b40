"""What commands write: for people to a terminal, for scripts as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from grokscope.workspace import write_text


def sayer(*outputs: str | None) -> Callable[[str], None]:
    """Print for a person: to stderr when stdout carries data."""
    to_stderr = "-" in outputs
    return lambda line: click.echo(line, err=to_stderr)


def complain(message: str) -> None:
    """One line about one of several things, on stderr."""
    click.echo("grokscope: " + " ".join(message.split()), err=True)


def write_json(out: str, shape: Mapping[str, Any]) -> None:
    """Write ``shape`` to a file, or to stdout for ``-``."""
    text = json.dumps(shape, allow_nan=False, ensure_ascii=False) + "\n"
    if out == "-":
        click.echo(text, nl=False)
        return
    write_text(Path(out), text)
