"""The report of a run that is still being trained, written again whenever new saves are committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from grokscope.errors import GrokscopeError
from grokscope.probes.record import Record
from grokscope.report.write import write_report
from grokscope.runs import Run, open_run
from grokscope.trajectory import Trajectory, read_manifest
from grokscope.user_code import UserFunction
from grokscope.workspace import write_text

EVERY = 10.0
"""Seconds between two looks, and between two reloads of the page, unless others are asked for."""
_HEAD = '<meta charset="utf-8">\n'


def watch_run(
    directory: Path,
    out: Path,
    *,
    measured: Callable[[Run], Record],
    every: float = EVERY,
    function: UserFunction | None = None,
    plugins: Sequence[str | Path] = (),
    told: Callable[[Run, Record], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Write the report of the run in ``directory`` to ``out`` until the run is finished or interrupted.

    While it watches the page reloads itself; the last one written is plain. A run with nothing committed is
    waited for. Only new saves are read, since probes remember what they read off the others.

    Args:
        measured: gives the record of the run as it is committed now.
        every: seconds between two looks, more than 0.
        told: called with each run and record whose page was written.
        sleep: waits; a KeyboardInterrupt in it, or anywhere, ends the watch.

    Returns:
        ``out``, which does not exist where the watch was interrupted before anything was committed.

    Raises:
        GrokscopeError: a run or file that cannot be read or written, or ``every`` out of range.
    """
    if not 0 < every < 86_400:
        raise GrokscopeError(
            f"watching {directory.name}: --every was {every:g}, expected seconds, more than 0"
        )
    seen = 0
    try:
        while True:
            # asked before the saves are counted: what is committed last is then never missed
            finished = is_finished(read_manifest(directory))
            count = committed(directory)
            if count > seen:
                run = open_run(directory, function)
                record = measured(run)
                _write(run, record, out, 0 if finished else every, plugins)
                seen = len(run.trajectory.steps)
                if told is not None:
                    told(run, record)
            if finished:
                if not seen:
                    raise GrokscopeError(
                        f"watching {directory.name}: it is finished and nothing is committed, expected saves"
                    )
                break
            sleep(every)
    except KeyboardInterrupt:
        pass
    make_plain(out)
    return out


def is_finished(manifest: Mapping[str, object]) -> bool:
    """Whether nobody writes to a run any more: it was trained to its end, or imported."""
    facts = manifest.get("provenance")
    return manifest.get("kind") == "imported" or (isinstance(facts, Mapping) and "finished" in facts)


def committed(directory: Path) -> int:
    """How many saves the run has now; 0 where its trajectory is not there yet."""
    path = directory / "trajectory.h5"
    return len(Trajectory(path).steps) if path.is_file() else 0


def _write(run: Run, record: Record, out: Path, every: float, plugins: Sequence[str | Path]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # in a folder of its own under the name it will have: the page names the data beside it
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            page = write_report(run, Path(folder) / out.name, record=record, plugins=plugins)
            text = page.read_text(encoding="utf-8")
            page.unlink()
            for beside in Path(folder).iterdir():
                beside.replace(out.parent / beside.name)
    except OSError as error:
        raise GrokscopeError(
            f"writing the report of {run.name}: {out} cannot be written ({error.strerror}), expected a file in a "
            "writable folder"
        ) from None
    write_text(out, text.replace(_HEAD, _HEAD + refresh(every), 1) if every else text)


def refresh(every: float) -> str:
    """The line of a page's head that makes a browser load it again after ``every`` seconds."""
    return f'<meta http-equiv="refresh" content="{max(1, round(every))}">\n'


def make_plain(page: Path) -> None:
    """Take the reloading out of a page, where it is in it."""
    if not page.is_file():
        return
    text = page.read_text(encoding="utf-8")
    head, found, rest = text.partition(_HEAD + '<meta http-equiv="refresh" content="')
    if found:
        write_text(page, head + _HEAD + rest.partition(">\n")[2])
