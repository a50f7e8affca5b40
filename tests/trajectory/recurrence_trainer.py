"""A deterministic numpy "trainer" with the shape of a real one, for processes that tests kill and limit.

Run as a script: ``recurrence_trainer.py DIRECTORY [--pause SECONDS] [--limit BYTES]``. It starts or resumes
the run in DIRECTORY, prints each step as it begins, exits 0 when complete, 130 after Ctrl-C and 2
with one line on standard output after a GrokscopeError.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grokscope.errors import GrokscopeError
from grokscope.trajectory import (
    TrajectoryWriter,
    expand_schedule,
    read_snapshot,
    snapshot_steps,
    write_snapshot,
)

LAST = 200
SAVES = expand_schedule(["0:end:2"], LAST)
SNAPSHOT_EVERY = 10
BLOCK_ROWS = 4
SCALAR_ROWS = 16
PARAMS: dict[str, tuple[tuple[int, ...], Any]] = {
    "embedding": ((12, 8), np.float32),
    "bias": ((5,), np.float64),
    "count": ((), np.int64),
    "mask": ((3, 4), np.bool_),
}
SCALARS = ("loss", "norm")

State = dict[str, np.ndarray]


def initial() -> State:
    grid = np.arange(96, dtype=np.float32).reshape(12, 8)
    return {
        "embedding": np.sin(grid),
        "momentum": np.zeros((12, 8), np.float32),
        "bias": np.linspace(-1, 1, 5),
        "count": np.asarray(0, np.int64),
        "mask": np.zeros((3, 4), np.bool_),
    }


def advanced(state: State) -> State:
    momentum = np.float32(0.9) * state["momentum"] - np.float32(0.01) * np.cos(3 * state["embedding"])
    count = state["count"] + 1
    return {
        "embedding": state["embedding"] + momentum,
        "momentum": momentum,
        "bias": np.sin(2.7 * state["bias"] + 0.1),
        "count": np.asarray(count, np.int64),
        "mask": (np.arange(12).reshape(3, 4) % (1 + count % 5)) == 0,
    }


def scalars_of(state: State) -> dict[str, float]:
    return {"loss": float(np.abs(state["bias"]).sum()), "norm": float(np.square(state["embedding"]).sum())}


def params_of(state: State) -> State:
    return {name: state[name] for name in PARAMS}


def states() -> Iterator[tuple[int, State]]:
    state = initial()
    for step in range(LAST + 1):
        yield step, state
        state = advanced(state)


def train(
    directory: Path,
    pause: float = 0.0,
    telling: bool = False,
    stopping: Callable[[], bool] = lambda: False,
    **options: Any,
) -> None:
    path = directory / "trajectory.h5"
    state, start = initial(), 0
    if path.exists():
        writer = TrajectoryWriter.resume(path, PARAMS, SCALARS, **options)
        usable = [step for step in snapshot_steps(directory) if step <= writer.resume_bound]
        if usable:
            start = usable[-1]
            state, _ = read_snapshot(directory, start)
    else:
        writer = TrajectoryWriter(
            path, PARAMS, SCALARS, block_rows=BLOCK_ROWS, scalar_rows=SCALAR_ROWS, **options
        )
    wanted = set(SAVES.tolist())
    with writer:
        for step in range(start, LAST + 1):
            if telling:
                print(step, flush=True)
            if step in wanted:
                writer.save(step, params_of(state))
            writer.scalar(step, scalars_of(state))
            if step % SNAPSHOT_EVERY == 0:
                write_snapshot(directory, step, state, {"step": str(step)})
            state = advanced(state)
            if stopping():
                raise KeyboardInterrupt
            if pause:
                time.sleep(pause)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    # A flag, since an exception raised inside one of h5py's weak-reference callbacks would be lost.
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    if arguments.limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.limit, arguments.limit))
    try:
        train(arguments.directory, arguments.pause, telling=True, stopping=lambda: bool(interrupts))
    except KeyboardInterrupt:
        return 130
    except GrokscopeError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
