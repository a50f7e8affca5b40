"""``study``: a published result, ours beside theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grokscope.commands.fleets import train_named_with_bar
from grokscope.commands.options import (
    cluster_option,
    jobs_option,
    json_option,
    shard_option,
    workspace_option,
)
from grokscope.commands.output import complain, sayer, write_json
from grokscope.commands.reporting import open_option, show_page
from grokscope.errors import GrokscopeError
from grokscope.work import Workers, read_shard
from grokscope.work import shard as share_of

if TYPE_CHECKING:
    from grokscope.training import Recipe


@click.command()
@click.argument("name")
@click.option(
    "--scale", type=click.Choice(["small", "full"]), default="small", show_default=True,
    help="small: minutes on two cores. full: the published grid.",
)  # fmt: skip
@click.option("--pages/--no-pages", default=True, help="A report of every run, linked from the study's page.")
@click.option("--finished", is_flag=True, help="Train nothing: the page of what is finished so far.")
@click.option(
    "--from", "earlier", type=click.Path(path_type=Path), default=None,
    help="The JSON of an earlier result: the runs that it holds are not trained again (delay-law, grokalign).",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path), default=None,
    help="A folder of data that the study does not bring: MNIST's four files, for grokalign.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@open_option
@json_option
@jobs_option
@cluster_option
@shard_option
@workspace_option
def study(
    name: str,
    scale: str,
    pages: bool,
    finished: bool,
    earlier: Path | None,
    data: Path | None,
    device: str,
    open_page: bool,
    json_out: str | None,
    jobs: int | None,
    cluster: str | None,
    shard: str | None,
    workspace: Path,
) -> None:
    """Train the runs behind a published result, fit its law, and put our numbers beside the printed ones.

    Runs that are finished are used as they are, so that the same command goes on after an interruption. With --shard
    only that share is trained; the page is made by the command that finds all of them finished. With --finished what
    rests on other runs is left out, and named. With --from the runs of an earlier result need not be here.
    """
    workers = Workers(jobs, cluster)
    say = sayer(json_out)
    from grokscope.studies import CONTINUES, TAKES_DATA, Bench, choose_study, read_saved, write_result
    from grokscope.workspace import settle_process

    run_study = choose_study(name)
    if data is not None and name not in TAKES_DATA:
        raise GrokscopeError(
            f"study {name}: --data {data} was given, expected it only for {' or '.join(sorted(TAKES_DATA))}"
        )
    if earlier is not None and name not in CONTINUES:
        raise GrokscopeError(
            f"study {name}: --from {earlier} was given, expected it only for {' or '.join(sorted(CONTINUES))}"
        )
    saved = {} if earlier is None else read_saved(earlier, name, scale)
    settle_process()

    def train(runs: Sequence[tuple[str, Recipe]]) -> None:
        _train(f"study {name}", runs, shard, device, workers, workspace)

    bench = Bench(
        workspace,
        "full" if scale == "full" else "small",
        train,
        workers=workers,
        bar=_bar,
        data=None if data is None else data.absolute(),
        only_finished=finished,
        saved=saved,
    )
    result = run_study(bench)
    if earlier is not None and bench.taken:
        arms = f"{len(bench.taken)} arms of runs ({bench.taken[0]}, ...)"
        result = replace(
            result, left_out=f"Taken from {earlier.name}, not run again: {arms}. {result.left_out}"
        )
    if bench.omitted:
        so_far = f"Not finished when this page was made: {'; '.join(bench.omitted)}."
        result = replace(result, left_out=f"{so_far} {result.left_out}".strip())
    reports = workspace / "reports"
    page, numbers = write_result(result, reports, bench.used, recipes=bench.recipes)
    if pages:
        _write_pages(list(bench.used.values()), reports, workers)
        page, numbers = write_result(result, reports, bench.used, recipes=bench.recipes)
    if json_out is not None:
        write_json(json_out, result.as_json())
    say(result.sentence)
    for row in result.rows:
        say(
            f"{row.verdict:<12}{row.as_text().quantity}: {row.as_text().ours}, published {row.as_text().published}"
        )
    say(f"study   {page}")
    say(f"wrote   {numbers}")
    if open_page:
        show_page(page)


@contextmanager
def _bar(words: str, total: int) -> Iterator[Callable[[], None]]:
    from tqdm import tqdm

    with tqdm(total=total, desc=words, unit="run", leave=False, mininterval=0, delay=1e-6) as bar:

        def tick() -> None:
            bar.update()

        yield tick


def _train(
    doing: str,
    runs: Sequence[tuple[str, Recipe]],
    share: str | None,
    device: str,
    workers: Workers,
    workspace: Path,
) -> None:
    """Train those of ``runs``, or of the share of them, that are not finished."""
    from grokscope.training.fleet import is_finished

    def left(named: Sequence[tuple[str, Recipe]]) -> list[tuple[str, Recipe]]:
        return [run for run in named if not is_finished(run[1], workspace / "checkpoints" / run[0])]

    mine = left(runs if share is None else share_of(runs, read_shard(share)))
    if mine:
        train_named_with_bar(
            mine, device=device, resume=True, workers=workers, workspace=workspace, tell=False,
            again="the same command goes on",
        )  # fmt: skip
    others = left(runs)
    if others:
        raise GrokscopeError(
            f"{doing}: {len(others)} of {len(runs)} runs are not finished ({others[0][0]}, ...), expected those of the "
            "other shares; the same command goes on when they are"
        )


def _write_pages(runs: Sequence[Path], reports: Path, workers: Workers) -> None:
    from grokscope.report.index import report_many

    with _bar("reporting", len(runs)) as tick:
        for one in report_many(runs, reports, workers=workers, progress=lambda _: tick()):
            if one.error:
                complain(one.error)
