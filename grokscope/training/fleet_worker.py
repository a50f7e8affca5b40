"""What a worker of a fleet does: claim its runs, train them, and say on the board how far they are."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from grokscope.claims import BusyError, Claim, claimed
from grokscope.errors import GrokscopeError
from grokscope.training.batch import train_batch
from grokscope.training.board import REFRESH, Board, State
from grokscope.training.machine import process_settings
from grokscope.training.recipe import Recipe, recipe_from
from grokscope.training.trainer import Outcome, Report, Session, choose_device, recorded_precision
from grokscope.work import orphaned


@dataclass(frozen=True)
class FleetRun:
    """How one run of a fleet ended.

    ``finished``; ``failed``, with its one line in ``error``; ``stopped`` on the way or still ``waiting`` when
    the fleet was interrupted; ``busy`` when another process was at it. All but ``failed`` go on with
    ``resume``.
    """

    directory: Path
    state: State
    step: int
    error: str = ""


@dataclass(frozen=True)
class Unit:
    """Runs that one worker trains, in a form small and plain enough to travel to another machine."""

    indices: tuple[int, ...]
    configs: tuple[str, ...]
    directories: tuple[str, ...]
    device: str
    board: str


@dataclass(frozen=True)
class _Run:
    index: int
    recipe: Recipe
    directory: Path
    report: Report


def train_unit(unit: Unit) -> list[FleetRun | str]:
    """Train the runs of a unit; for each how it ended, or the traceback of what no run is expected to raise."""
    try:
        board = Board.opened(Path(unit.board))
    except OSError as error:
        said = (
            f"training on {platform.node()}: {unit.board} cannot be opened ({error.strerror}), expected workers "
            "that share the file system of the command"
        )
        return [FleetRun(Path(directory), "failed", 0, said) for directory in unit.directories]
    with board, ExitStack() as held:
        stop = _Stop(board)
        ended: dict[int, FleetRun | str] = {}
        runs: list[_Run] = []
        for index, config, place in zip(unit.indices, unit.configs, unit.directories, strict=True):
            directory = Path(place)
            try:
                if stop():
                    ended[index] = FleetRun(directory, "waiting", 0)
                    continue
                claim = held.enter_context(claimed(directory, give_up=stop))
                board.write(index, 0, "training")
                report = _report(index, directory, board, claim)
                runs.append(_Run(index, recipe_from(json.loads(config), place), directory, report))
            except BusyError as error:
                ended[index] = FleetRun(directory, "waiting" if stop() else "busy", 0, str(error))
            except GrokscopeError as error:
                ended[index] = FleetRun(directory, "failed", 0, str(error))
        for run, result in zip(runs, _train(runs, unit.device, stop), strict=True):
            ended[run.index] = result if isinstance(result, str) else _ended(run, result, board)
        for index, result in ended.items():
            if isinstance(result, str):
                board.write(index, board.step(index), "failed")
            else:
                board.write(index, result.step, result.state)
        return [ended[index] for index in unit.indices]


def _ended(run: _Run, result: Outcome | GrokscopeError | None, board: Board) -> FleetRun:
    if result is None:
        return FleetRun(run.directory, "waiting", 0)
    if isinstance(result, GrokscopeError):
        return FleetRun(run.directory, "failed", board.step(run.index), str(result))
    return FleetRun(run.directory, "finished" if result.finished else "stopped", result.step)


def _train(
    runs: Sequence[_Run], device: str, stop: Callable[[], bool]
) -> Sequence[Outcome | GrokscopeError | str | None]:
    """Train runs together, or one by one where that cannot be; ``None`` for one that has not begun."""
    if len(runs) == 1:
        return [_train_alone(runs[0], device, stop)]
    if not runs:
        return []
    try:
        return train_batch(
            [run.recipe for run in runs], [run.directory for run in runs], device=device, resume=True,
            reports=[run.report for run in runs], interrupted=stop,
        )  # fmt: skip
    except GrokscopeError:
        pieces = [[run] for run in runs]  # each says for itself what is wrong
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            return [traceback.format_exc()] * len(runs)
        # what was committed is gone on with
        middle = len(runs) // 2
        pieces = [runs[:middle], runs[middle:]]
    except Exception:
        return [traceback.format_exc()] * len(runs)
    return [result for piece in pieces for result in _train(piece, device, stop)]


def _train_alone(run: _Run, device: str, stop: Callable[[], bool]) -> Outcome | GrokscopeError | str | None:
    """:func:`~grokscope.training.train`, ended by ``stop`` in place of a signal."""
    if stop():
        return None
    try:
        place = choose_device(device)
        threads, precision = run.recipe.train.threads, recorded_precision(run.directory)
        with process_settings(threads, place, precision):
            return Session(run.recipe, run.directory, place, run.report, stop).run()
    except GrokscopeError as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            return traceback.format_exc()
        said = (str(error).splitlines() or ["the allocation failed"])[0]
        return GrokscopeError(f"training {run.directory.name}: out of memory: {said}")
    except Exception:
        return traceback.format_exc()


def _is_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether it is memory, of the machine or of the GPU, for which torch raises a RuntimeError."""
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said


def _report(index: int, directory: Path, board: Board, claim: Claim) -> Report:
    told = 0.0

    def report(step: int, scalars: Mapping[str, float]) -> None:
        nonlocal told
        if claim.lost:
            raise GrokscopeError(
                f"training {directory.name}: another process has taken it over, expected to be alone; this one "
                "was silent for too long"
            )
        now = time.monotonic()
        if now - told >= REFRESH / 2:
            told = now
            board.write(index, step, "training")

    return report


class _Stop:
    """Whether to stop: the fleet was interrupted, or the process that gave out the work is gone.

    Asked after every step, it looks at the board a few times a second.
    """

    def __init__(self, board: Board) -> None:
        self.board, self.found, self.looked = board, False, -1e9

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.found and now - self.looked >= REFRESH:
            self.looked = now
            self.found = self.board.stopped() or orphaned()
        return self.found
