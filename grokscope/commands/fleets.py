"""Many runs in one command: what ``train`` and ``probe`` do with ``--jobs``, ``--cluster`` and ``--shard``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grokscope.commands.output import complain
from grokscope.errors import GrokscopeError
from grokscope.work import Workers, preload, read_shard, shard
from grokscope.workspace import settle_process

if TYPE_CHECKING:
    from grokscope.probes.many import Measured
    from grokscope.training import Recipe
    from grokscope.training.fleet import Progress


def train_fleet_with_bar(
    source: str,
    overrides: Sequence[str],
    *,
    name: str | None,
    seed: int | None,
    seeds: str | None,
    vary: Sequence[str],
    device: str,
    resume: bool,
    jobs: int | None,
    cluster: str | None,
    share: str | None,
    workspace: Path,
) -> None:
    """Train the runs that ``seeds`` and ``vary`` make of one recipe, with one progress bar for all."""
    workers = Workers(jobs, cluster)
    taken = (1, 1) if share is None else read_shard(share)
    # a GPU is driven from this process, and there is no telling before torch is imported
    if workers.cluster is None and device != "cuda" and not _has_gpu(device):
        _begin_importing("grokscope.training.fleet", workers)
    from grokscope.training.vary import read_seeds, read_varied, vary_recipe

    settle_process()
    named = vary_recipe(
        source, overrides, seed=seed, seeds=None if seeds is None else read_seeds(seeds),
        vary=[read_varied(text) for text in vary], name=name,
    )  # fmt: skip
    runs = shard(named, taken)
    if not runs:
        click.echo(f"nothing to do: {len(named)} runs, and share {share} has none of them")
        return
    train_named_with_bar(runs, device=device, resume=resume, workers=workers, workspace=workspace)


def train_named_with_bar(
    runs: Sequence[tuple[str, Recipe]],
    *,
    device: str,
    resume: bool,
    workers: Workers,
    workspace: Path,
    tell: bool = True,
    again: str = "the same command with --resume goes on",
) -> None:
    """Train every (name, recipe) with one progress bar for all; those that failed are said on stderr, and with
    ``tell`` those that are finished on stdout. ``again`` says how an interrupted command is taken up."""
    from tqdm import tqdm

    from grokscope.training.fleet import train_fleet

    bar = tqdm(
        total=sum(recipe.train.steps for _, recipe in runs), unit="step", desc=f"{len(runs)} runs",
        mininterval=0.2, delay=1e-6,
    )  # fmt: skip
    begun = False

    def show(now: Progress) -> None:
        nonlocal begun
        if not begun:
            # what an earlier call has done says nothing about the speed of this one
            bar.initial, bar.n, begun = now.steps, now.steps, True
        bar.set_postfix_str(
            f"{now.finished} finished" + (f", {now.failed} failed" if now.failed else ""), refresh=False
        )
        bar.update(now.steps - bar.n)

    with bar:
        ended = train_fleet(
            [recipe for _, recipe in runs],
            [workspace / "checkpoints" / name for name, _ in runs],
            device=device, resume=resume, workers=workers, progress=show,
        )  # fmt: skip
    for run in ended:
        if tell and run.state == "finished":
            click.echo(f"run     {run.directory}")
    for run in ended:
        if run.error:
            complain(run.error)
    count = Counter(run.state for run in ended)
    if count["stopped"] or count["waiting"]:
        raise GrokscopeError(
            f"training {len(ended)} runs: interrupted, {count['finished']} are finished, {count['stopped']} stopped "
            f"on the way and {count['waiting']} not begun, what was computed is saved; {again}"
        )
    if count["finished"] < len(ended):
        raise GrokscopeError(
            f"training {len(ended)} runs: {len(ended) - count['finished']} did not end, as said above, and "
            f"{count['finished']} are finished"
        )


def probe_many_with_bar(
    runs: Sequence[str],
    choice: Mapping[str, Any],
    *,
    jobs: int | None,
    cluster: str | None,
    share: str | None,
    workspace: Path,
    with_records: bool,
) -> list[Measured]:
    """Measure many runs with one progress bar; ``choice`` holds the fields of ``grokscope.probes.many.Choice``.

    Those that failed are said on stderr.
    """
    workers = Workers(jobs, cluster)
    taken = (1, 1) if share is None else read_shard(share)
    picked = shard(runs, taken)
    if workers.cluster is None and len(picked) > 1:
        _begin_importing("grokscope.probes.many", workers)
    from tqdm import tqdm

    from grokscope.probes.many import Choice, measure_many

    settle_process()
    bar = tqdm(total=len(picked), desc="probing", unit="run", leave=False, mininterval=0, delay=1e-6)

    def tick(done: Measured) -> None:
        bar.update()

    with bar:
        found = measure_many(
            picked, workspace, Choice(**choice), workers=workers, with_records=with_records,
            progress=tick,
        )  # fmt: skip
    for result in found:
        if result.error:
            complain(result.error)
    return found


def _begin_importing(module: str, workers: Workers) -> None:
    """Import for the workers while this process imports for itself, where this command is the program."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None) or Path(getattr(main, "__file__", "")).stem
    if workers.jobs != 1 and name in ("grokscope.cli", "grokscope"):
        preload([module])


def _has_gpu(device: str) -> bool:
    return device == "auto" and Path("/dev/nvidiactl").exists()
