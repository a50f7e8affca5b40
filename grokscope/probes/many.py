"""Measuring many runs at once, each by itself: its record lands in its own ``measurements.h5``."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from grokscope.claims import BusyError, claimed
from grokscope.errors import GrokscopeError
from grokscope.probes.cache import MEASUREMENTS, chosen_probes, measure_run
from grokscope.probes.record import Record
from grokscope.probes.suite import builtin_suites
from grokscope.user_code import load_function
from grokscope.work import EVERY_CORE, Lost, Workers, each
from grokscope.workspace import open_given, settle_process


@dataclass(frozen=True)
class Choice:
    """What is measured: as for :func:`~grokscope.probes.cache.measure_run`, in plain data.

    ``model`` is ``FILE:FUNCTION``, a forward of the user's own, whose file runs in every worker.
    """

    suite: str = "default"
    only: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    steps: str | None = None
    model: str | None = None

    def from_anywhere(self) -> Choice:
        """The same with absolute paths: workers are in folders of their own."""
        file, colon, name = (self.model or "").rpartition(":")
        return replace(
            self,
            suite=self.suite if self.suite in builtin_suites() else _absolute(self.suite),
            plugins=tuple(map(_absolute, self.plugins)),
            model=f"{_absolute(file)}{colon}{name}" if file else self.model,
        )


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _from_anywhere(given: str, workspace: Path) -> str:
    """A name in the workspace as it is, a path as an absolute one."""
    named = workspace / "checkpoints" / given / "run.json"
    return given if named.is_file() or not Path(given).exists() else _absolute(given)


@dataclass(frozen=True)
class Measured:
    """One run: what was found, or the one line that says why not. ``record`` only when it was asked for."""

    given: str
    path: str = ""
    error: str = ""
    sentence: str | None = None
    quantities: int = 0
    saves: int = 0
    absent: int = 0
    record: Record | None = None


@dataclass(frozen=True)
class _Unit:
    given: str
    workspace: str
    choice: Choice
    with_record: bool


def measure_many(
    runs: Sequence[str],
    workspace: Path,
    choice: Choice = Choice(),
    *,
    workers: Workers = EVERY_CORE,
    with_records: bool = False,
    progress: Callable[[Measured], None] | None = None,
) -> list[Measured]:
    """Measure every run that is named or located by ``runs``; the results are in the order given.

    A record that is still valid is read, not measured again, and a run that another process is measuring is
    waited for. A run that fails leaves the others alone.

    Args:
        with_records: return the records too, and not only what sums them up.
        progress: called with each run as it is done.

    Raises:
        GrokscopeError: there is no such suite, probe or plug-in; or as :func:`grokscope.work.each`.
    """
    chosen_probes(choice.suite, only=choice.only, plugins=choice.plugins)
    folder, choice = workspace.absolute(), choice.from_anywhere()
    units = [_Unit(_from_anywhere(given, folder), str(folder), choice, with_records) for given in runs]
    found: dict[int, Measured] = {}
    bugs: list[str] = []
    for index, result in each(_measure_unit, units, workers):
        if isinstance(result, Lost):
            result = Measured(runs[index], error=f"measuring {runs[index]}: {result.reason}")
        elif isinstance(result, str):
            bugs.append(result)
            result = Measured(runs[index], error="a fault of the program")
        found[index] = replace(result, given=runs[index])
        if progress is not None:
            progress(found[index])
    if bugs:
        raise RuntimeError(f"{len(bugs)} runs failed; the first:\n{bugs[0]}")
    return [found[index] for index in range(len(runs))]


def _measure_unit(unit: _Unit) -> Measured | str:
    settle_process()
    choice = unit.choice
    try:
        run = open_given(
            unit.given, Path(unit.workspace), None if choice.model is None else load_function(choice.model)
        )
        with ExitStack() as held:
            _alone(held, run.path / MEASUREMENTS)
            record = measure_run(
                run, choice.suite, only=choice.only, plugins=choice.plugins, steps=choice.steps
            )
    except GrokscopeError as error:
        return Measured(unit.given, error=str(error))
    except MemoryError as error:
        return Measured(unit.given, error=f"measuring {unit.given}: out of memory: {error}")
    except Exception:
        return traceback.format_exc()
    return Measured(
        unit.given,
        path=str(run.path),
        sentence=None if record.verdict is None else record.verdict.sentence,
        quantities=len(record.measurements),
        saves=len(record.steps),
        absent=len(record.absent),
        record=record if unit.with_record else None,
    )


def _alone(held: ExitStack, target: Path) -> None:
    """Wait until nobody else measures the run: what they find is then there to be read."""
    while True:
        with contextlib.suppress(BusyError):
            try:
                held.enter_context(claimed(target))
            except BusyError:
                raise
            except GrokscopeError:
                pass  # a folder that cannot be written to: nothing is stored, so nothing is disturbed
            return
        time.sleep(0.3)
