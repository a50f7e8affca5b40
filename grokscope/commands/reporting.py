"""What is made of measurements: ``report``, ``figures``, ``compare``, ``watch`` and ``export``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from grokscope.commands.fleets import probe_many_with_bar
from grokscope.commands.options import (
    jobs_option,
    model_option,
    plugin_option,
    suite_option,
    user_function,
    workspace_option,
)
from grokscope.commands.output import complain
from grokscope.commands.probing import measure
from grokscope.errors import GrokscopeError
from grokscope.work import Workers
from grokscope.workspace import missing_run, open_given, run_directory, settle_process

_FIGURE_FORMATS = ("pdf", "svg", "png")
_EXPORT_FORMATS = ("parquet", "tensorboard", "wandb")

open_option = click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
only_option = click.option("--only", metavar="A,B", help="Just the figures of these probes.")


def show_page(page: Path) -> None:
    """Open a page that was written in the user's browser."""
    import webbrowser

    webbrowser.open(page.absolute().as_uri())


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every run of the workspace, and the index over them.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: reports/<name>.html.")
@open_option
@suite_option
@plugin_option
@model_option
@jobs_option
@workspace_option
def report(
    runs: tuple[str, ...],
    every: bool,
    out: Path | None,
    open_page: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    jobs: int | None,
    workspace: Path,
) -> None:
    """Compile RUN into one HTML file, several runs into one each.

    A page that would be the same is left alone. reports/index.html, a table of every run, is made by --all and kept
    up to date from then on.
    """
    if every == bool(runs):
        raise GrokscopeError(
            f"reporting: {len(runs)} runs and {'--all' if every else 'no --all'} were given, expected either"
        )
    if out is not None and len(runs) != 1:
        raise GrokscopeError(
            "reporting: --out was given, expected one run with it: every page has its own name"
        )
    if len(runs) == 1:
        _report_one(runs[0], out, open_page, suite, plugins, model_spec, workspace)
    else:
        _report_many(runs, every, open_page, suite, plugins, model_spec, jobs, workspace)


def _report_one(
    given: str,
    out: Path | None,
    open_page: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    workspace: Path,
) -> None:
    from grokscope.report.index import INDEX, report_run, write_index
    from grokscope.report.write import write_report

    settle_process()
    opened = open_given(given, workspace, user_function(model_spec))
    reports = workspace / "reports"
    if out is None:
        done = report_run(
            opened, reports, suite=suite, plugins=plugins,
            measured=lambda run: measure(run, suite=suite, plugins=plugins),
        )  # fmt: skip
        page, sentence = done.page, done.sentence
        assert page is not None
        if (reports / INDEX).is_file():
            write_index(workspace)
    else:
        record = measure(opened, suite=suite, plugins=plugins)
        page = write_report(opened, out, record=record, plugins=plugins)
        sentence = record.verdict.sentence if record.verdict else ""
    if sentence:
        click.echo(sentence)
    click.echo(f"report  {page}")
    if open_page:
        show_page(page)


def _report_many(
    runs: tuple[str, ...],
    every: bool,
    open_page: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    jobs: int | None,
    workspace: Path,
) -> None:
    from tqdm import tqdm

    from grokscope.report.index import INDEX, Reported, report_many, runs_of, write_index

    if every:
        runs = tuple(str(path) for path in runs_of(workspace))
    choice = {"suite": suite, "plugins": plugins, "model": model_spec}
    found = probe_many_with_bar(
        runs, choice, jobs=jobs, cluster=None, share=None, workspace=workspace, with_records=False
    )
    measured = [Path(one.path) for one in found if not one.error]
    reports = workspace / "reports"
    bar = tqdm(total=len(measured), desc="reporting", unit="run", leave=False, mininterval=0, delay=1e-6)

    def tick(done: Reported) -> None:
        bar.update()

    with bar:
        made = report_many(
            measured, reports, suite=suite, plugins=plugins, model=model_spec, workers=Workers(jobs),
            progress=tick,
        )  # fmt: skip
    for one in made:
        if one.error:
            complain(one.error)
        else:
            click.echo(f"report  {one.page}{'' if one.written else '  (unchanged)'}")
    index = write_index(workspace) if every or (reports / INDEX).is_file() else None
    if index is not None:
        click.echo(f"index   {index}")
    pages = [one.page for one in made if one.page is not None]
    if open_page and (index is not None or pages):
        show_page(index or pages[0])
    if len(pages) < len(found):
        raise GrokscopeError(
            f"reporting {len(found)} runs: {len(found) - len(pages)} failed, as said above, and {len(pages)} have "
            "a page"
        )


@click.command()
@click.argument("run")
@click.option(
    "--format", "kind", type=click.Choice(_FIGURE_FORMATS), default="pdf", show_default=True,
    help="Of the files; png has 300 dots an inch.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: reports/<name>-figures/."
)
@only_option
@suite_option
@plugin_option
@model_option
@workspace_option
def figures(
    run: str,
    kind: str,
    out: Path | None,
    only: str | None,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    workspace: Path,
) -> None:
    """Write the figures of RUN's report as files for a paper."""
    from grokscope.report.paper import write_figures

    settle_process()
    opened = open_given(run, workspace, user_function(model_spec))
    record = measure(opened, suite=suite, plugins=plugins)
    names = [name.strip() for name in only.split(",") if name.strip()] if only else []
    folder = out or workspace / "reports" / f"{opened.path.name}-figures"
    written, failed = write_figures(record, folder, kind=kind, only=names)
    for path in written:
        click.echo(f"wrote   {path}")
    for line in failed:
        complain(line)


@click.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: reports/compare-<names>.html."
)
@open_option
@suite_option
@plugin_option
@model_option
@jobs_option
@workspace_option
def compare(
    runs: tuple[str, ...],
    out: Path | None,
    open_page: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    jobs: int | None,
    workspace: Path,
) -> None:
    """Put several runs side by side on one page: curves, events, settings, differences over seeds."""
    from grokscope.report.compare import check_count, comparison_name, write_comparison

    check_count([str(Path(name)) for name in runs])
    choice = {"suite": suite, "plugins": plugins, "model": model_spec}
    found = probe_many_with_bar(
        runs, choice, jobs=jobs, cluster=None, share=None, workspace=workspace, with_records=True
    )
    good = [(Path(one.path), one.record) for one in found if not one.error and one.record is not None]
    if len(good) < len(found):
        raise GrokscopeError(
            f"comparing {len(found)} runs: {len(found) - len(good)} could not be measured, as said above"
        )
    from grokscope.runs import open_run

    function = user_function(model_spec)
    names = [path.name for path, _ in good]
    page = write_comparison(
        [open_run(path, function) for path, _ in good],
        [record for _, record in good],
        out or workspace / "reports" / comparison_name(names),
        pages=workspace / "reports",
    )
    click.echo(f"report  {page}")
    if open_page:
        show_page(page)


@click.command()
@click.argument("run")
@click.option(
    "--every", type=float, default=10.0, show_default=True, metavar="SECONDS", help="Between two looks."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: reports/<name>.html.")
@open_option
@suite_option
@plugin_option
@model_option
@workspace_option
def watch(
    run: str,
    every: float,
    out: Path | None,
    open_page: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    workspace: Path,
) -> None:
    """Write RUN's report again whenever it has new saves, until it is finished or Ctrl-C.

    The page reloads itself while it is watched.
    """
    from grokscope.report.index import INDEX, write_index
    from grokscope.report.watch import watch_run

    settle_process()
    directory = run_directory(run, workspace)
    if directory is None:
        missing_run(run, workspace)
    page = out or workspace / "reports" / f"{directory.name}.html"

    def told(opened: Any, record: Any) -> None:
        first = not seen
        seen.append(len(opened.steps))
        click.echo(f"step {int(opened.steps[-1])}, {len(opened.steps)} saves: {page}")
        if first and open_page:
            show_page(page)

    seen: list[int] = []
    written = watch_run(
        directory, page, every=every, function=user_function(model_spec), plugins=plugins, told=told,
        measured=lambda opened: measure(opened, suite=suite, plugins=plugins),
    )  # fmt: skip
    if seen:
        click.echo(f"report  {written}")
        if (workspace / "reports" / INDEX).is_file():
            write_index(workspace)


@click.command()
@click.argument("run")
@click.option(
    "--format", "kind", type=click.Choice(_EXPORT_FORMATS), required=True,
    help="A Parquet table, TensorBoard events, or an offline Weights & Biases run.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="PATH",
    help="A file for parquet, else a folder. Default: in reports/.",
)  # fmt: skip
@click.option("--online", is_flag=True, help="With wandb: send it now.")
@suite_option
@plugin_option
@model_option
@workspace_option
def export(
    run: str,
    kind: str,
    out: Path | None,
    online: bool,
    suite: str,
    plugins: tuple[str, ...],
    model_spec: str | None,
    workspace: Path,
) -> None:
    """Hand RUN's measurements to pandas (Parquet), TensorBoard or Weights & Biases."""
    from grokscope.export import to_parquet, to_tensorboard, to_wandb
    from grokscope.export.libraries import load_library

    if online and kind != "wandb":
        raise GrokscopeError(f"exporting {run}: --online was given with {kind}, expected it with wandb only")
    needed = {"parquet": ("pyarrow", "frames"), "tensorboard": ("tensorboard",) * 2, "wandb": ("wandb",) * 2}
    load_library(*needed[kind], doing=f"exporting {run}")  # before what takes long
    settle_process()
    opened = open_given(run, workspace, user_function(model_spec))
    record = measure(opened, suite=suite, plugins=plugins)
    reports, name = workspace / "reports", opened.path.name
    ways: dict[str, Callable[[], Path]] = {
        "parquet": lambda: to_parquet(record, out or reports / f"{name}.parquet"),
        "tensorboard": lambda: to_tensorboard(opened, record, out or reports / "tensorboard" / name),
        "wandb": lambda: to_wandb(opened, record, out or reports, online=online),
    }
    click.echo(f"wrote   {ways[kind]()}")
