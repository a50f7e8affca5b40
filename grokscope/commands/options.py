"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

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
jobs_option = click.option(
    "--jobs", type=int, metavar="N", help="Processes on this machine. Default: one a core."
)
cluster_option = click.option(
    "--cluster", metavar="ADDRESS", help="A Dask scheduler whose workers share the file system."
)
shard_option = click.option(
    "--shard", metavar="I/N", help="Take every N-th run from the I-th on, I from 1 to N (job arrays)."
)
card_option = click.option("--card", metavar="FILE", help="A TOML card that declares the layout.")


def user_function(model_spec: str | None) -> Any:
    """The function that ``--model FILE:FUNCTION`` names, whose file runs now."""
    from grokscope.user_code import load_function

    return None if model_spec is None else load_function(model_spec)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What makes runs of a recipe: their names, seeds, settings and device, the same wherever runs are made."""
    options = (
        click.option("--name", metavar="NAME", help="Name of the run. Default: <recipe>-s<seed>."),
        click.option("--seed", type=int, metavar="N", help="Seed of the split and of the initial weights."),
        click.option("--seeds", metavar="A:B", help="A run for each seed from A up to, not including, B."),
        click.option(
            "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a recipe field."
        ),
        click.option(
            "--vary",
            multiple=True,
            metavar="FIELD=V,V,...",
            help="A run for each value; several: each combination.",
        ),
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda"),
    )
    for option in reversed(options):
        command = option(command)
    return command
