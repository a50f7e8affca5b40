"""Suites: which probes run, with which options; and running them over one run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from grokscope.errors import GrokscopeError, nearest
from grokscope.probes.record import Record
from grokscope.probes.registry import Probe, load_plugin, registered
from grokscope.probes.unknowns import alerts_of_unknowns
from grokscope.runs import Run

Progress = Callable[[str, int, int], None]
"""Called with (probe name, its position from 0, number of probes) before each probe runs."""


@dataclass(frozen=True)
class Suite:
    """A named choice of probes and their options."""

    name: str
    probes: tuple[str, ...]
    description: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def builtin_suites() -> list[str]:
    """Names of the suites inside the package."""
    folder = resources.files("grokscope.probes") / "suites"
    return sorted(Path(str(entry)).stem for entry in folder.iterdir() if str(entry).endswith(".toml"))


def read_suite(name_or_path: str | Path) -> Suite:
    """A built-in suite by name, or a suite file: ``probes = [...]`` and optional ``[options.<probe>]``.

    A suite names registered probes only; it never loads code.
    """
    text = str(name_or_path)
    known = builtin_suites()
    if text in known:
        source = (resources.files("grokscope.probes") / "suites" / f"{text}.toml").read_text()
    elif Path(text).is_file():
        try:
            source = Path(text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise GrokscopeError(f"reading suite {text}: {error}") from None
    else:
        raise GrokscopeError(
            f"reading suite {text!r}: neither a file nor a built-in suite, expected one of "
            f"{', '.join(known)}{nearest(text, known)}"
        )
    try:
        table = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise GrokscopeError(f"reading suite {text}: {error}, expected TOML") from None
    allowed = {"name", "description", "probes", "options"}
    for key in table:
        if key not in allowed:
            raise GrokscopeError(
                f"reading suite {text}: unknown key {key!r}, expected {', '.join(sorted(allowed))}"
                f"{nearest(key, allowed)}"
            )
    probes = table.get("probes")
    if not isinstance(probes, list) or not probes or not all(isinstance(p, str) for p in probes):
        raise GrokscopeError(f"reading suite {text}: probes = {probes!r}, expected a list of probe names")
    options = table.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(v, dict) for v in options.values()):
        raise GrokscopeError(f"reading suite {text}: options = {options!r}, expected one table a probe")
    return Suite(
        name=str(table.get("name", Path(text).stem)),
        probes=tuple(probes),
        description=str(table.get("description", "")),
        options=options,
    )


def choose(suite: Suite, only: Sequence[str] = (), extra: Sequence[str] = ()) -> list[Probe]:
    """The probes of ``suite`` (or ``only`` those named) and ``extra`` ones, each after those it reads."""
    known = registered()
    wanted = [*(only or suite.probes), *extra]
    for name in [*wanted, *suite.options]:
        if name not in known:
            raise GrokscopeError(
                f"choosing probes: {name!r} is not a probe, expected some of {', '.join(known)}{nearest(name, known)}"
            )
    order: list[str] = []

    def place(name: str) -> None:
        if name in order:
            return
        for earlier in known[name].after:
            if earlier in wanted:
                place(earlier)
        order.append(name)

    for name in wanted:
        place(name)
    return [known[name] for name in order]


def probe(
    run: Run,
    suite: str | Path | Suite = "default",
    *,
    only: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    steps: str | None = None,
    progress: Progress | None = None,
) -> Record:
    """Measure ``run`` with a suite of probes.

    Args:
        suite: a built-in suite's name, a suite file, or a :class:`Suite`.
        only: run just these probes of all registered ones.
        plugins: Python files that register further probes; their code runs.
        steps: ``A:B:K``, the saves to look at (both ends included).
        progress: called before each probe.

    Raises:
        GrokscopeError: an unknown suite, probe or option, or steps that match no save.
    """
    chosen = suite if isinstance(suite, Suite) else read_suite(suite)
    extra = [name for plugin in plugins for name in load_plugin(plugin)]
    probes = choose(chosen, only, extra)
    run = run.select(steps)
    record = Record(run.name, run.steps)
    record.alerts += alerts_of_unknowns(run)
    for position, item in enumerate(probes):
        if progress is not None:
            progress(item.name, position, len(probes))
        with torch.no_grad():
            item(run, record, **chosen.options.get(item.name, {}))
    return record
