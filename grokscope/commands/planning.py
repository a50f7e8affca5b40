"""Before anything runs: ``plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grokscope.commands.options import json_option, recipe_options, workspace_option
from grokscope.commands.output import sayer, write_json
from grokscope.workspace import checked_name, settle_process

if TYPE_CHECKING:
    from grokscope.training.plan import Plan, Spread


@click.command()
@click.argument("recipe")
@recipe_options
@json_option
@workspace_option
def plan(
    recipe: str,
    name: str | None,
    seed: int | None,
    seeds: str | None,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    device: str,
    json_out: str | None,
    workspace: Path,
) -> None:
    """Say what ``train`` with the same options would take: steps, saves, bytes and time. Writes no run.

    Counts and bytes follow from the recipe. The time is an estimate: a few seconds of real steps are made on
    this machine, as busy as it is now, and multiplied.
    """
    from grokscope.training import choose_device, plan_runs, read_recipe
    from grokscope.training.plan import elapsed, processes
    from grokscope.training.provenance import provenance
    from grokscope.training.vary import read_seeds, read_varied, vary_recipe

    settle_process()
    place = choose_device(device)
    if seeds is not None or vary:
        span = None if seeds is None else read_seeds(seeds)
        varied = [read_varied(text) for text in vary]
        named = vary_recipe(recipe, overrides, seed=seed, seeds=span, vary=varied, name=name)
    else:
        read = read_recipe(recipe, overrides, seed)
        named = [(checked_name(name or f"{read.name}-s{read.seed}"), read)]
    plans = plan_runs(named, place.type)
    at_a_time = processes([read for _, read in named]) if place.type == "cpu" else 1
    together = elapsed(plans, at_a_time)
    if json_out is not None:
        total = {"bytes": sum(one.bytes for one in plans), "seconds": together.as_json()}
        facts = provenance(place, 1)
        machine = {"device": facts["device"], "device_name": facts["device_name"], "processes": at_a_time}
        write_json(json_out, {"runs": [one.as_json() for one in plans], "all": total, "machine": machine})
    say = sayer(json_out)
    for line in [*_lines(plans), *_together(plans, together, at_a_time)]:
        say(line)
    if json_out not in (None, "-"):
        say(f"wrote        {json_out}")


def _lines(plans: list[Plan]) -> list[str]:
    """The counts of one run, or of all of them where they agree, else of each."""
    lines = []
    seen: dict[tuple[object, ...], list[Plan]] = {}
    for one in plans:
        seen.setdefault((one.steps, one.saves, one.evaluations, one.bytes, id(one.speed)), []).append(one)
    for alike in seen.values():
        one, bound = alike[0], "at most " if alike[0].at_most else ""
        others = f" and {len(alike) - 1} more, each:" if len(alike) > 1 else ""
        speed = one.speed
        lines += [
            f"run          {one.name}{others}",
            f"steps        {one.steps}",
            f"saves        {bound}{one.saves}, evaluations {bound}{one.evaluations}, snapshots {one.snapshots}",
            f"disk         {bound}{size(one.bytes)}: weights {size(one.weights)}, scalars {size(one.scalars)}, "
            f"snapshots {size(one.snapshot_bytes)}",
            f"time         about {_range(one.seconds)}: a step {duration(speed.step.median)}, an evaluation "
            f"{duration(speed.evaluation.median)}, a save {duration(speed.save.median)}, by {speed.steps} steps "
            "made here",
        ]
    return lines


def _together(plans: list[Plan], together: Spread, at_a_time: int) -> list[str]:
    if len(plans) == 1:
        return []
    total = sum(one.bytes for one in plans)
    at_once = f"{at_a_time} at a time" if at_a_time > 1 else "one after the other"
    return [f"all {len(plans):<8} {size(total)}, about {_range(together)}, {at_once}"]


def _range(seconds: Spread) -> str:
    return f"{duration(seconds.median)} ({duration(seconds.low)} to {duration(seconds.high)})"


def size(count: int) -> str:
    """Bytes in words: 12.3 MB, in powers of ten."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def duration(seconds: float) -> str:
    """Seconds in words: 0.4 ms, 12 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole, minutes, hours = round(seconds), round(seconds / 60), round(seconds / 3600)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
