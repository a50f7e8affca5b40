"""Going back into a run: ``replay`` and ``fork``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grokscope.commands.fleets import train_named_with_bar
from grokscope.commands.options import jobs_option, workspace_option
from grokscope.commands.training import train_with_bar
from grokscope.work import Workers
from grokscope.workspace import checked_name, missing_run, run_directory, settle_process

if TYPE_CHECKING:
    from grokscope.training.trainer import Report


@click.command()
@click.argument("run")
@click.option(
    "--steps", required=True, metavar="A:B:K", help="The stretch, both ends included, every K steps."
)
@click.option("--name", metavar="NAME", help="Name of the new run. Default: <run>.replay-A-B-K.")
@workspace_option
def replay(run: str, steps: str, name: str | None, workspace: Path) -> None:
    """Compute a stretch of RUN again and save it at another density.

    From the nearest optimiser snapshot, on the same device; whatever RUN stored on the way is compared bit for
    bit, and a difference is an error. A left-out A, B or K is the first step, the last, and 1. The result is a
    run like any other.
    """
    from grokscope.training import open_parent, read_stretch, replay_run

    settle_process()
    directory = run_directory(run, workspace) or missing_run(run, workspace)
    doing = f"replaying {directory.name}"
    parent = open_parent(directory, doing)
    stretch = read_stretch(steps, parent, doing)
    target = workspace / "checkpoints" / checked_name(name or directory.name + stretch.name)
    with _bar(target.name, stretch.last) as report:
        made = replay_run(parent, stretch, target, report=report)
    where = f"the snapshot of step {made.begun}" if made.begun else "the initial weights"
    click.echo(
        f"computed from {where}: {made.saves} saves; {made.same_saves} saves and {made.same_snapshots} snapshots of "
        f"{directory.name} were met on the way, equal bit for bit"
    )
    click.echo(f"run     {target}")


@click.command()
@click.argument("run")
@click.option("--at", required=True, type=click.IntRange(min=0), metavar="STEP", help="Where they part.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Change a recipe field.")
@click.option(
    "--vary", multiple=True, metavar="FIELD=V,V,...", help="A fork for each value; several: each combination."
)
@click.option("--name", metavar="NAME", help="Name of the fork. Default: <run>.fork-STEP.")
@click.option("--resume", is_flag=True, help="Go on with stopped forks; make missing ones.")
@jobs_option
@workspace_option
def fork(
    run: str,
    at: int,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    name: str | None,
    resume: bool,
    jobs: int | None,
    workspace: Path,
) -> None:
    """Go on from the state of RUN at STEP under changed settings.

    Weights, optimiser, elapsed time and batches are those of RUN at STEP; what may change is how it moves on
    (train.weight_decay, train.lr, train.steps, ...) and what is kept of it (save.*). With nothing changed the
    fork is RUN, bit for bit. The fork is a run like any other, which begins at STEP.
    """
    from grokscope.training import Fork, forked_recipe, open_parent, prepare_forks

    workers = Workers(jobs)
    settle_process()
    directory = run_directory(run, workspace) or missing_run(run, workspace)
    parent = open_parent(directory, f"forking {directory.name}")
    base = checked_name(name or f"{directory.name}.fork-{at}")
    if vary:
        from grokscope.training.vary import read_varied, vary_recipe

        varied = vary_recipe(
            directory / "run.json", overrides, vary=[read_varied(text) for text in vary], name=base
        )
        # vary_recipe names by the seed too, which no fork changes
        recipes = {full.replace(f"{base}-s{recipe.seed}", base, 1): recipe for full, recipe in varied}
    else:
        recipes = {base: forked_recipe(parent, overrides)}
    forks = [Fork(workspace / "checkpoints" / full, recipe) for full, recipe in recipes.items()]
    with _bar(f"{directory.name} to step {at}", at) as report:
        prepare_forks(parent, at, forks, resume=resume, report=report)
    device = parent.device.type
    if vary:
        named = list(recipes.items())
        train_named_with_bar(named, device=device, resume=True, workers=workers, workspace=workspace)
    else:
        train_with_bar(forks[0].recipe, forks[0].directory, device=device, resume=True)
        click.echo(f"run     {forks[0].directory}")


@contextmanager
def _bar(name: str, total: int) -> Iterator[Report]:
    """A progress bar over steps, which begins where the computation does."""
    from tqdm import tqdm

    # the delay keeps what fails before the first step to its one line
    with tqdm(total=total, unit="step", desc=name, mininterval=0.2, delay=1e-6, leave=False) as bar:

        def show(step: int, scalars: Mapping[str, float]) -> None:
            if not bar.n:
                # the way from there is what takes time
                bar.initial = bar.n = step
            bar.update(step - bar.n)

        yield show
