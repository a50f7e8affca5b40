"""Runs as files: ``verify`` and ``lens``."""

from __future__ import annotations

from pathlib import Path

import click

from grokscope.commands.options import json_option, workspace_option
from grokscope.commands.output import write_json
from grokscope.workspace import missing_run, open_given, run_directory, settle_process


@click.command()
@click.argument("run")
@json_option
@workspace_option
def verify(run: str, json_out: str | None, workspace: Path) -> None:
    """Check a run's checksums, commit marker and schema, and print the checksum of its content."""
    from grokscope.trajectory import read_manifest, verify_trajectory

    directory = run_directory(run, workspace)
    if directory is None:
        missing_run(run, workspace)
    manifest = read_manifest(directory)
    found = verify_trajectory(directory / "trajectory.h5")
    if json_out is not None:
        write_json(json_out, {"run": str(manifest.get("name")), **found.as_dict()})
    if json_out != "-":
        for key, value in found.as_dict().items():
            if key == "problems":
                for problem in value:
                    click.echo(f"{'problem':<12} {problem}")
            elif value is not None:
                click.echo(f"{key.replace('_', ' '):<12} {value}")


@click.command()
@click.argument("run")
@click.option("--step", type=int, metavar="N", help="A saved step. Default: the last.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: <run>-step<N>.pt.")
@workspace_option
def lens(run: str, step: int | None, out: Path | None, workspace: Path) -> None:
    """Hand a checkpoint of RUN to TransformerLens, its logits checked against ours."""
    from grokscope.lens import export

    settle_process()
    opened = open_given(run, workspace)
    at = int(opened.steps[-1]) if step is None else step
    target = out or Path(f"{opened.path.name}-step{at}.pt")
    exported = export(opened, at, target)
    click.echo(f"logits   differ from ours by at most {exported.difference:.2g} of the largest, in float32")
    for note in exported.notes:
        click.echo(f"note     {note}")
    click.echo(f"wrote    {target}")
