"""Fleets: many recipes, a run directory each, on all cores or on a cluster, resumable as a whole."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from grokscope.errors import GrokscopeError
from grokscope.training.batch import together
from grokscope.training.board import REFRESH, Board
from grokscope.training.fleet_worker import FleetRun, Unit, train_unit
from grokscope.training.recipe import Recipe
from grokscope.training.trainer import choose_device, recorded_precision
from grokscope.trajectory import read_manifest
from grokscope.work import EVERY_CORE, Lost, Workers, each

CLUSTER_GROUP = 16
"""Runs that a worker of a cluster trains together at most."""


@dataclass(frozen=True)
class Progress:
    """How far a fleet is: steps over all runs, and runs."""

    steps: int
    all_steps: int
    finished: int
    failed: int
    runs: int


def train_fleet(
    recipes: Sequence[Recipe],
    directories: Sequence[Path],
    *,
    device: str = "auto",
    resume: bool = False,
    workers: Workers = EVERY_CORE,
    progress: Callable[[Progress], None] | None = None,
) -> list[FleetRun]:
    """Train every recipe into its directory; the results are in the order given.

    On a CPU each run gets the bytes that :func:`~grokscope.training.train` gives it alone, on a GPU the same
    numbers to rounding; runs that can share an axis are trained together (:mod:`grokscope.training.batch`), the
    others each by one of ``workers``, the longest first. A run that fails leaves the others alone. With
    ``resume`` finished runs are passed over, stopped ones go on and missing ones start.

    Ctrl-C (once, in the main thread) ends every run after its present step with everything committed; a
    second one raises KeyboardInterrupt. Another process that works on the same runs, here or on a machine
    that shares the files, is told apart by claims (:mod:`grokscope.claims`).

    Args:
        progress: called a few times a second, from a thread of its own.

    Raises:
        GrokscopeError: a directory is given twice, or exists without ``resume``, before anything starts; or
            as :func:`grokscope.work.each`.
    """
    _check(recipes, directories, resume)
    if workers.cluster is None:
        device = choose_device(device).type
    runs = [_Run(index, r, d) for index, (r, d) in enumerate(zip(recipes, directories, strict=True))]
    results: dict[int, FleetRun] = {}
    for run in runs:
        if is_finished(run.recipe, run.directory):
            results[run.index] = FleetRun(run.directory, "finished", last_step(run.recipe, run.directory))
    left = [run for run in runs if run.index not in results]
    if left:
        groups = _grouped(_longest_first(left), device, workers)
        with Board.made(len(runs), shared=_shared_place(left, workers)) as board:
            for index, done in results.items():
                board.write(index, done.step, "finished")
            watch = _Watch(board, [recipe.train.steps for recipe in recipes], progress)
            with watch, _interrupts(board):
                results |= _train_groups(groups, device, workers, board)
                if not board.stopped():
                    # whoever was at them may have finished, or died, meanwhile
                    busy = [[run] for run in left if results[run.index].state == "busy"]
                    results |= _train_groups(busy, device, workers, board)
    return [results[run.index] for run in runs]


def last_step(recipe: Recipe, directory: Path) -> int:
    """The step at which a finished run ended; reads ``run.json`` alone."""
    ended = read_manifest(directory).get("ended")
    step = ended.get("step") if isinstance(ended, Mapping) else None
    return step if isinstance(step, int) else recipe.train.steps


def is_finished(recipe: Recipe, directory: Path) -> bool:
    """Whether ``directory`` holds this recipe's run, trained to its end; reads ``run.json`` alone."""
    try:
        manifest = read_manifest(directory)
    except GrokscopeError:
        return False
    facts = manifest.get("provenance")
    return (
        isinstance(facts, Mapping)
        and "finished" in facts
        and isinstance(config := manifest.get("config"), Mapping)
        and not list(recipe.differences(config))
        and (directory / "trajectory.h5").is_file()
    )


@dataclass(frozen=True)
class _Run:
    index: int
    recipe: Recipe
    directory: Path


def _check(recipes: Sequence[Recipe], directories: Sequence[Path], resume: bool) -> None:
    if len(recipes) != len(directories):
        raise ValueError(f"{len(recipes)} recipes and {len(directories)} directories, expected one each")
    twice = [d for i, d in enumerate(directories) if d in directories[:i]]
    if twice:
        raise GrokscopeError(
            f"training a fleet: {twice[0]} is given twice, expected a directory for each run"
        )
    there = [directory.name for directory in directories if directory.exists()]
    if there and not resume:
        named = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise GrokscopeError(
            f"training a fleet: {len(there)} of {len(directories)} runs exist ({named}), expected new names "
            "(--name) or --resume"
        )


def _longest_first(runs: Sequence[_Run]) -> list[_Run]:
    """By steps × samples × parameters: only the order matters, so that no long run begins last."""
    sizes: dict[str, int] = {}

    def cost(run: _Run) -> int:
        recipe = run.recipe
        shape = repr((recipe.task, recipe.model))
        if shape not in sizes:
            task, model = recipe.build()
            samples = recipe.train.batch_size or int(task.train_mask.sum())
            sizes[shape] = samples * sum(math.prod(shape) for shape in model.shapes.values())
        return recipe.train.steps * sizes[shape]

    return sorted(runs, key=cost, reverse=True)


def _grouped(runs: Sequence[_Run], device: str, workers: Workers) -> list[list[_Run]]:
    """The runs that one unit of work trains together, in the order of their first.

    Runs that can share an axis do: on a GPU all of one kind, on the cores of this machine as many to each, on a
    cluster few enough for a lost worker to cost little.
    """
    kinds: dict[Any, list[_Run]] = {}
    for run in runs:
        kind = together(run.recipe, device)
        # what was begun with other products, or alone, goes on so
        key = run.index if kind is None else (kind, recorded_precision(run.directory))
        kinds.setdefault(key, []).append(run)
    groups: list[list[_Run]] = []
    for same in kinds.values():
        size = len(same)
        if workers.cluster is not None:
            size = min(size, CLUSTER_GROUP)
        elif device != "cuda":
            size = math.ceil(size / workers.count(len(runs), _threads(runs)))
        groups += [same[at : at + size] for at in range(0, len(same), size)]
    return groups


def _threads(runs: Sequence[_Run]) -> int:
    return max((run.recipe.train.threads for run in runs), default=1)


def _train_groups(
    groups: Sequence[Sequence[_Run]], device: str, workers: Workers, board: Board
) -> dict[int, FleetRun]:
    if device == "cuda" and workers.cluster is None:
        workers = Workers(jobs=1)  # processes would share the one GPU and gain nothing
    units = [
        Unit(
            tuple(run.index for run in group),
            tuple(json.dumps(run.recipe.config()) for run in group),
            tuple(str(run.directory.absolute()) for run in group),  # a worker is in a folder of its own
            device,
            str(board.path),
        )
        for group in groups
    ]
    threads = max(map(_threads, groups), default=1)
    results: dict[int, FleetRun] = {}
    bugs: list[str] = []
    for position, found in each(train_unit, units, workers, threads=threads):
        for place, run in enumerate(groups[position]):
            ended = found if isinstance(found, Lost) else found[place]
            if isinstance(ended, Lost):
                error = f"training {run.directory.name}: {ended.reason}"
                ended = FleetRun(run.directory, "failed", board.step(run.index), error)
                board.write(run.index, ended.step, "failed")
            elif isinstance(ended, str):
                bugs.append(ended)
                ended = FleetRun(run.directory, "failed", board.step(run.index), "a fault of the program")
            results[run.index] = replace(ended, directory=run.directory)
    if bugs:
        # what is no expected failure of a run is told whole, once all the others are done
        raise RuntimeError(f"{len(bugs)} runs failed; the first:\n{bugs[0]}")
    return results


@contextmanager
def _interrupts(board: Board) -> Iterator[None]:
    """Ctrl-C asks the runs to stop; a second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, frame: FrameType | None) -> None:
        if board.stopped():
            raise KeyboardInterrupt
        board.stop()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Watch:
    """Tells ``progress`` how far the board says the fleet is."""

    def __init__(
        self, board: Board, steps: Sequence[int], progress: Callable[[Progress], None] | None
    ) -> None:
        self.board, self.steps, self.progress = board, steps, progress
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.over.wait(REFRESH):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        rows = self.board.rows()
        states = [state for _, state in rows]
        self.progress(
            Progress(
                # a run that its condition ended has no steps to go
                sum(all_ if state == "finished" else step
                    for (step, state), all_ in zip(rows, self.steps, strict=True)),
                sum(self.steps),
                states.count("finished"), states.count("failed"), len(rows),
            )
        )  # fmt: skip


def _shared_place(runs: Sequence[_Run], workers: Workers) -> Path | None:
    """Beside the runs for a cluster, which sees nothing else of this machine."""
    return None if workers.cluster is None else runs[0].directory.absolute().parent
