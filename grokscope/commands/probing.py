"""Measuring runs: ``probe``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grokscope.commands.fleets import probe_many_with_bar
from grokscope.commands.options import (
    cluster_option,
    jobs_option,
    json_option,
    model_option,
    plugin_option,
    shard_option,
    suite_option,
    user_function,
    workspace_option,
)
from grokscope.commands.output import sayer, write_json
from grokscope.errors import GrokscopeError
from grokscope.workspace import open_given, settle_process, write_text

if TYPE_CHECKING:
    from grokscope.probes import Record
    from grokscope.runs import Run


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@suite_option
@click.option("--only", metavar="A,B", help="Run just these probes.")
@plugin_option
@model_option
@click.option("--steps", metavar="A:B:K", help="Saves to look at, both ends included.")
@json_option
@click.option("--csv", "csv_out", metavar="DIR", help="Write CSV tables to DIR, or one table to stdout (-).")
@jobs_option
@cluster_option
@shard_option
@workspace_option
def probe(
    runs: tuple[str, ...],
    suite: str,
    only: str | None,
    plugins: tuple[str, ...],
    model_spec: str | None,
    steps: str | None,
    json_out: str | None,
    csv_out: str | None,
    jobs: int | None,
    cluster: str | None,
    shard: str | None,
    workspace: Path,
) -> None:
    """Measure RUN (a name, a run directory, or published weights) and write every number.

    Of several runs, --json holds {"runs": [...]}, --csv a folder for each, and each run keeps its own
    measurements.h5.
    """
    if json_out == "-" and csv_out == "-":
        raise GrokscopeError(
            "writing measurements: --json - and --csv - were both given, expected one on stdout"
        )
    names = [name.strip() for name in only.split(",") if name.strip()] if only else []
    if len(runs) != 1 or cluster is not None or shard is not None:
        choice = {
            "suite": suite, "only": tuple(names), "plugins": plugins, "steps": steps, "model": model_spec,
        }  # fmt: skip
        _probe_many(runs, choice, json_out, csv_out, jobs, cluster, shard, workspace)
        return
    settle_process()
    opened = open_given(runs[0], workspace, user_function(model_spec))
    record = measure(opened, suite=suite, only=names, plugins=plugins, steps=steps)
    say = sayer(json_out, csv_out)
    if json_out is not None:
        write_json(json_out, record.to_json())
    if csv_out is not None:
        _write_csv(csv_out, record)
    if record.verdict is not None:
        say(record.verdict.sentence)
    say(f"{len(record.measurements)} quantities at {len(record.steps)} saves; {len(record.absent)} absent")
    for out in (json_out, csv_out):
        if out not in (None, "-"):
            say(f"wrote   {out}")


def _probe_many(
    runs: tuple[str, ...],
    choice: Mapping[str, Any],
    json_out: str | None,
    csv_out: str | None,
    jobs: int | None,
    cluster: str | None,
    shard: str | None,
    workspace: Path,
) -> None:
    if csv_out == "-":
        raise GrokscopeError(
            f"writing measurements: --csv - was given for {len(runs)} runs, expected one run or a folder"
        )
    found = probe_many_with_bar(
        runs, choice, jobs=jobs, cluster=cluster, share=shard, workspace=workspace,
        with_records=json_out is not None or csv_out is not None,
    )  # fmt: skip
    say = sayer(json_out, csv_out)
    measured = [(Path(one.path), one.record, one) for one in found if not one.error]
    if json_out is not None:
        write_json(json_out, {"runs": [record.to_json() for _, record, _ in measured if record]})
    if csv_out is not None:
        for path, record, _ in measured:
            if record:
                _write_csv(str(Path(csv_out) / path.name), record)
    for path, _, one in measured:
        say(f"{path.name}: {one.sentence or ''}".rstrip(": "))
        say(f"{one.quantities} quantities at {one.saves} saves; {one.absent} absent")
    for out in (json_out, csv_out):
        if out not in (None, "-"):
            say(f"wrote   {out}")
    if len(measured) < len(found):
        raise GrokscopeError(
            f"measuring {len(found)} runs: {len(found) - len(measured)} failed, as said above, and {len(measured)} "
            "are measured"
        )


def measure(run: Run, **choice: Any) -> Record:
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


def _write_csv(out: str, record: Record) -> None:
    from grokscope.probes import registered
    from grokscope.report.csv_files import csv_files, probe_csv

    if out == "-":
        click.echo(probe_csv(record, record.names()), nl=False)
        return
    known = registered()
    for filename, text in csv_files(record, [known[name] for name in record.probes]).items():
        write_text(Path(out) / filename, text)
