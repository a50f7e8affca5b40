"""Starts the real trainer in fresh processes, cheaply: torch is imported once, then every run is a fork.

``forking_trainer.py CONFIG`` reads a directory and a file size limit (0 for none) per line on standard
input. For each it forks a child that trains or resumes the run there and answers ``begun PID`` at the
child's first evaluation and ``ended STATUS`` when it is gone: the exit code, or minus the signal.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from grokscope.errors import GrokscopeError
from grokscope.training import Recipe, recipe_from, train


def child(recipe: Recipe, directory: Path, limit: int) -> int:
    begun = False

    def report(step: int, scalars: Mapping[str, float]) -> None:
        nonlocal begun
        if not begun:
            os.write(1, f"begun {os.getpid()}\n".encode())
            begun = True

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        outcome = train(recipe, directory, device="cpu", resume=True, report=report)
    except GrokscopeError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return 0 if outcome.finished else 130


def main() -> None:
    recipe = recipe_from(json.loads(sys.argv[1]), "the command line")
    for line in sys.stdin:
        directory, limit = line.rstrip("\n").rsplit(" ", 1)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(recipe, Path(directory), int(limit))
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
