"""The commands, and nothing else. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grokscope.errors import GrokscopeError, nearest
from grokscope.workspace import (
    checked_name,
    existing,
    missing_run,
    open_given,
    run_directory,
    settle_process,
    write_text,
)

if TYPE_CHECKING:
    from grokscope.probes import Record
    from grokscope.runs import Run
    from grokscope.training import Recipe


class Commands(click.Group):
    """The command group, listing commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None:
            known = self.list_commands(ctx)
            raise GrokscopeError(
                f"running grokscope: {cmd_name!r} is not a command, expected one of {', '.join(known)}"
                f"{nearest(cmd_name, known)}"
            )
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="grokscope", prog_name="grokscope")
def cli() -> None:
    """Mechanistic analysis of the training checkpoints of grokking networks."""


workspace_option = click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where checkpoints/, probes/ and reports/ are. Default: the current directory.",
)
json_option = click.option("--json", "json_out", metavar="FILE", help="Write JSON to FILE, or - for stdout.")
suite_option = click.option("--suite", default="default", metavar="NAME|FILE", help="Which probes run.")
model_option = click.option(
    "--model",
    "model_spec",
    metavar="FILE:FUNCTION",
    help="A forward of your own, function(params, inputs) -> logits; its code runs.",
)
plugin_option = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE", help="A Python file of probes; its code runs."
)


@cli.command()
@click.option("--seed", type=int, default=0, show_default=True, metavar="N")
@json_option
@workspace_option
def quickstart(seed: int, json_out: str | None, workspace: Path) -> None:
    """Train, probe and report a small grokking run, in about half a minute."""
    from grokscope.report import write_report
    from grokscope.runs import open_run
    from grokscope.training import read_recipe

    settle_process()
    recipe = read_recipe("quickstart", seed=seed)
    directory = workspace / "checkpoints" / f"quickstart-s{seed}"
    _train(recipe, directory, device="cpu", resume=True)
    run = open_run(directory)
    record = _measure(run)
    report = write_report(run, workspace / "reports" / f"{run.name}.html", record=record)
    say = _sayer(json_out)
    if json_out is not None:
        _write_json(json_out, record.to_json())
    assert record.verdict is not None
    say(record.verdict.sentence)
    say(f"run     {directory}")
    say(f"report  {report}")


@cli.command()
@click.argument("recipe")
@click.option("--name", metavar="NAME", help="Name of the run. Default: <recipe>-s<seed>.")
@click.option("--seed", type=int, metavar="N", help="Seed of the split and of the initial weights.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a recipe field.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option("--resume", is_flag=True, help="Go on with a stopped run; start a missing one.")
@workspace_option
def train(
    recipe: str,
    name: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    device: str,
    resume: bool,
    workspace: Path,
) -> None:
    """Train RECIPE (a built-in name, a TOML file, or a run.json) and save its trajectory."""
    from grokscope.training import read_recipe

    settle_process()
    read = read_recipe(recipe, overrides, seed)
    name = checked_name(name or f"{read.name}-s{read.seed}")
    directory = workspace / "checkpoints" / name
    _train(read, directory, device=device, resume=resume)
    click.echo(f"run     {directory}")


card_option = click.option("--card", metavar="FILE", help="A TOML card that declares the layout.")


@cli.command("import")
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
    say = _sayer(json_out)
    if json_out is not None:
        _write_json(json_out, result.as_json())
    for line in describe(result.as_json()):
        say(line)
    for run in result.runs:
        say(f"run      {run.path}")


@cli.command()
@json_option
@workspace_option
def catalog(json_out: str | None, workspace: Path) -> None:
    """List the public checkpoints that there are cards for."""
    from grokscope.foreign.catalog import catalog_lines, read_catalog

    entries = read_catalog(workspace)
    if json_out is not None:
        _write_json(json_out, {"catalog": [entry.as_json() for entry in entries]})
    say = _sayer(json_out)
    for line in catalog_lines(entries):
        say(line)


@cli.command()
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
        shape = describe_run(open_run(directory, _function(model_spec)))
    if json_out is not None:
        _write_json(json_out, shape)
    say = _sayer(json_out)
    for line in describe(shape):
        say(line)


@cli.command()
@click.argument("run")
@suite_option
@click.option("--only", metavar="A,B", help="Run just these probes.")
@plugin_option
@model_option
@click.option("--steps", metavar="A:B:K", help="Saves to look at, both ends included.")
@json_option
@click.option("--csv", "csv_out", metavar="DIR", help="Write CSV tables to DIR, or one table to stdout (-).")
@workspace_option
def probe(
    run: str,
    suite: str,
    only: str | None,
    plugins: tuple[str, ...],
    model_spec: str | None,
    steps: str | None,
    json_out: str | None,
    csv_out: str | None,
    workspace: Path,
) -> None:
    """Measure RUN (a name, a run directory, or published weights) and write every number."""
    settle_process()
    if json_out == "-" and csv_out == "-":
        raise GrokscopeError(
            "writing measurements: --json - and --csv - were both given, expected one on stdout"
        )
    opened = open_given(run, workspace, _function(model_spec))
    names = [name.strip() for name in only.split(",") if name.strip()] if only else []
    record = _measure(opened, suite=suite, only=names, plugins=plugins, steps=steps)
    say = _sayer(json_out, csv_out)
    if json_out is not None:
        _write_json(json_out, record.to_json())
    if csv_out is not None:
        _write_csv(csv_out, record)
    if record.verdict is not None:
        say(record.verdict.sentence)
    say(f"{len(record.measurements)} quantities at {len(record.steps)} saves; {len(record.absent)} absent")
    for out in (json_out, csv_out):
        if out not in (None, "-"):
            say(f"wrote   {out}")


@cli.command()
@click.argument("run")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: reports/<name>.html.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@suite_option
@plugin_option
@model_option
@workspace_option
def report(
    run: str,
    out: Path | None,
    open_page: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    workspace: Path,
) -> None:
    """Compile RUN into one HTML file."""
    from grokscope.report import write_report

    settle_process()
    opened = open_given(run, workspace, _function(model_spec))
    record = _measure(opened, suite=suite, plugins=plugins)
    page = write_report(
        opened, out or workspace / "reports" / f"{opened.path.name}.html", record=record, plugins=plugins
    )
    if record.verdict is not None:
        click.echo(record.verdict.sentence)
    click.echo(f"report  {page}")
    if open_page:
        click.launch(str(page))


@cli.command()
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
        _write_json(json_out, {"run": str(manifest.get("name")), **found.as_dict()})
    if json_out != "-":
        for key, value in found.as_dict().items():
            if key == "problems":
                for problem in value:
                    click.echo(f"{'problem':<12} {problem}")
            elif value is not None:
                click.echo(f"{key.replace('_', ' '):<12} {value}")


@cli.command()
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


def _reading(card: str | None, model_spec: str | None) -> Any:
    """How foreign files are to be read: by a card, by a function of the user's own, or as they come."""
    from grokscope.foreign import Reading, read_card

    if card is not None and model_spec is not None:
        raise GrokscopeError("reading weights: --card and --model were both given, expected at most one")
    return Reading(card=read_card(Path(card)) if card else None, function=_function(model_spec))


def _function(model_spec: str | None) -> Any:
    """The function that ``--model FILE:FUNCTION`` names, whose file runs now."""
    from grokscope.user_code import load_function

    return None if model_spec is None else load_function(model_spec)


def _train(recipe: Recipe, directory: Path, *, device: str, resume: bool) -> None:
    """Train with a progress bar; an interrupted run is an error with the command that goes on."""
    from tqdm import tqdm

    from grokscope.training import train as train_run

    # the delay keeps what fails before the first step to its one line
    with tqdm(total=recipe.train.steps, unit="step", desc=directory.name, mininterval=0.2, delay=1e-6) as bar:

        def show(step: int, scalars: Mapping[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(
                {name: f"{value:.3g}" for name, value in scalars.items() if name.endswith(("train", "test"))},
                refresh=False,
            )

        outcome = train_run(recipe, directory, device=device, resume=resume, report=show)
        bar.update(outcome.step - bar.n)
    if not outcome.finished:
        raise GrokscopeError(
            f"training {directory.name}: interrupted at step {outcome.step} of {recipe.train.steps}, what was "
            "computed is saved; the same command with --resume goes on"
        )


def _measure(run: Run, **choice: Any) -> Record:
    """Measure with a progress bar over probes, reading what is already stored."""
    from tqdm import tqdm

    from grokscope.probes.cache import measure_run

    bar = tqdm(desc="probing", unit="probe", leave=False, mininterval=0, delay=1e-6)

    def show(name: str, position: int, total: int) -> None:
        bar.total = total
        bar.set_description(f"probing {name}")
        bar.update(position - bar.n)

    with bar:
        return measure_run(run, progress=show, **choice)


def _sayer(*outputs: str | None) -> Callable[[str], None]:
    """Print for a person: to stderr when stdout carries data."""
    to_stderr = "-" in outputs
    return lambda line: click.echo(line, err=to_stderr)


def _write_json(out: str, shape: Mapping[str, Any]) -> None:
    text = json.dumps(shape, allow_nan=False, ensure_ascii=False) + "\n"
    if out == "-":
        click.echo(text, nl=False)
        return
    write_text(Path(out), text)


def _write_csv(out: str, record: Record) -> None:
    from grokscope.probes import registered
    from grokscope.report.downloads import csv_files, probe_csv

    if out == "-":
        click.echo(probe_csv(record, record.names()), nl=False)
        return
    known = registered()
    for filename, text in csv_files(record, [known[name] for name in record.probes]).items():
        write_text(Path(out) / filename, text)


def main() -> None:
    """Run a command; every expected failure is one line on stderr and exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except GrokscopeError as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted: what was committed is kept")
    except (MemoryError, RuntimeError) as error:
        # torch raises a RuntimeError for memory, of the machine or of the GPU
        said = (str(error).splitlines() or [""])[0]
        if not isinstance(error, MemoryError) and not re.search(r"allocate memory|out of memory", said):
            raise
        _fail(f"out of memory, expected a problem that fits this machine: {said or 'the allocation failed'}")
    except BrokenPipeError:
        # the reader of a pipe went away; nothing is left to say, and Python must not try at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)


def _fail(message: str) -> None:
    click.echo("grokscope: " + " ".join(message.split()), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
