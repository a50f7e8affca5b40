"""Making runs: ``quickstart`` and ``train``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grokscope.commands.fleets import train_fleet_with_bar
from grokscope.commands.options import (
    cluster_option,
    jobs_option,
    json_option,
    recipe_options,
    shard_option,
    workspace_option,
)
from grokscope.commands.output import sayer, write_json
from grokscope.commands.probing import measure
from grokscope.errors import GrokscopeError
from grokscope.workspace import checked_name, settle_process

if TYPE_CHECKING:
    from grokscope.training import Recipe


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, metavar="N")
@json_option
@workspace_option
def quickstart(seed: int, json_out: str | None, workspace: Path) -> None:
    """Train, probe and report a small grokking run, in about half a minute."""
    from grokscope.report.index import INDEX, report_run, write_index
    from grokscope.runs import open_run
    from grokscope.training import read_recipe

    settle_process()
    recipe = read_recipe("quickstart", seed=seed)
    directory = workspace / "checkpoints" / f"quickstart-s{seed}"
    train_with_bar(recipe, directory, device="cpu", resume=True)
    run = open_run(directory)
    record = measure(run)
    reports = workspace / "reports"
    report = report_run(run, reports, measured=lambda opened: record).page
    if (reports / INDEX).is_file():
        write_index(workspace)
    say = sayer(json_out)
    if json_out is not None:
        write_json(json_out, record.to_json())
    assert record.verdict is not None
    say(record.verdict.sentence)
    say(f"run     {directory}")
    say(f"report  {report}")


@click.command()
@click.argument("recipe")
@recipe_options
@click.option("--resume", is_flag=True, help="Go on with stopped runs; start missing ones.")
@jobs_option
@cluster_option
@shard_option
@workspace_option
def train(
    recipe: str,
    name: str | None,
    seed: int | None,
    seeds: str | None,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    device: str,
    resume: bool,
    jobs: int | None,
    cluster: str | None,
    shard: str | None,
    workspace: Path,
) -> None:
    """Train RECIPE (a built-in name, a TOML file, or a run.json) and save its trajectory.

    With --seeds or --vary, many runs at once, named <recipe>-s<seed>.<field>-<value> (--name replaces
    <recipe>). The same command with --resume goes on where it stopped.
    """
    if seeds is not None or vary or cluster is not None or shard is not None:
        train_fleet_with_bar(
            recipe, overrides, name=name, seed=seed, seeds=seeds, vary=vary, device=device, resume=resume,
            jobs=jobs, cluster=cluster, share=shard, workspace=workspace,
        )  # fmt: skip
        return
    from grokscope.training import read_recipe

    settle_process()
    read = read_recipe(recipe, overrides, seed)
    name = checked_name(name or f"{read.name}-s{read.seed}")
    directory = workspace / "checkpoints" / name
    train_with_bar(read, directory, device=device, resume=resume)
    click.echo(f"run     {directory}")


def train_with_bar(recipe: Recipe, directory: Path, *, device: str, resume: bool) -> None:
    """Train with a progress bar; an interrupted run is an error with the command that goes on."""
    from tqdm import tqdm

    from grokscope.claims import claimed
    from grokscope.training import choose_device
    from grokscope.training import train as train_run

    choose_device(device)

    # the delay keeps what fails before the first step to its one line
    bar = tqdm(total=recipe.train.steps, unit="step", desc=directory.name, mininterval=0.2, delay=1e-6)
    with bar, claimed(directory):

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
