"""Weights that others published: ``import``, ``catalog`` and ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from grokscope.commands.options import (
    card_option,
    json_option,
    model_option,
    user_function,
    workspace_option,
)
from grokscope.commands.output import sayer, write_json
from grokscope.errors import GrokscopeError
from grokscope.workspace import checked_name, existing, run_directory, settle_process


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the imported run. Default: from the path.")
@card_option
@click.option("--catalog", metavar="NAME", help="A card of the catalogue, whose hashes are checked.")
@model_option
@json_option
@workspace_option
def import_(
    paths: tuple[Path, ...],
    name: str | None,
    card: str | None,
    catalog: str | None,
    model_spec: str | None,
    json_out: str | None,
    workspace: Path,
) -> None:
    """Read weights that others published, rebuild the function, prove it, and keep it as a run."""
    from grokscope.foreign import describe, import_from_catalog, import_paths

    settle_process()
    if sum(given is not None for given in (card, catalog, model_spec)) > 1:
        raise GrokscopeError(
            "importing: of --card, --catalog and --model several were given, expected at most one"
        )
    checked = checked_name(name) if name else None
    if catalog is not None:
        result = import_from_catalog(catalog, paths, workspace, checked)
    else:
        result = import_paths(paths, workspace, checked, _reading(card, model_spec))
    say = sayer(json_out)
    if json_out is not None:
        write_json(json_out, result.as_json())
    for line in describe(result.as_json()):
        say(line)
    for run in result.runs:
        say(f"run      {run.path}")


@click.command()
@json_option
@workspace_option
def catalog(json_out: str | None, workspace: Path) -> None:
    """List the public checkpoints that there are cards for."""
    from grokscope.foreign.catalog import catalog_lines, read_catalog

    entries = read_catalog(workspace)
    if json_out is not None:
        write_json(json_out, {"catalog": [entry.as_json() for entry in entries]})
    say = sayer(json_out)
    for line in catalog_lines(entries):
        say(line)


@click.command()
@click.argument("path")
@card_option
@model_option
@json_option
@workspace_option
def inspect(
    path: str, card: str | None, model_spec: str | None, json_out: str | None, workspace: Path
) -> None:
    """Say what a run or a file of weights holds."""
    from grokscope.foreign import describe, inspect_path
    from grokscope.runs import describe_run, open_run

    settle_process()
    directory = run_directory(path, workspace)
    if directory is None:
        shape = inspect_path(existing(path, workspace), _reading(card, model_spec))
    else:
        shape = describe_run(open_run(directory, user_function(model_spec)))
    if json_out is not None:
        write_json(json_out, shape)
    say = sayer(json_out)
    for line in describe(shape):
        say(line)


def _reading(card: str | None, model_spec: str | None) -> Any:
    """How foreign files are to be read: by a card, by a function of the user's own, or as they come."""
    from grokscope.foreign import Reading, read_card

    if card is not None and model_spec is not None:
        raise GrokscopeError("reading weights: --card and --model were both given, expected at most one")
    return Reading(card=read_card(Path(card)) if card else None, function=user_function(model_spec))
