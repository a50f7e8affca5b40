"""Python files of the user's own, run only when they are named on the command line.

Scope: finding, running and hashing such a file. What it may be (a plug-in probe, a forward function) is for the
caller to say; nothing here is ever called with a name that a stored run holds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from grokscope.errors import GrokscopeError, nearest


class UserFunction(NamedTuple):
    """A function from a file of the user's, the SHA-256 of that file, and the function's name."""

    call: Callable[..., Any]
    sha256: str
    name: str


def load_function(spec: str) -> UserFunction:
    """The function that ``FILE:FUNCTION`` names; the file's code runs.

    What the file prints, then and later, goes to standard error, so that standard output stays data.

    Raises:
        GrokscopeError: no such file, an error while it runs (an import, say), or no such function in it.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name:
        raise GrokscopeError(
            f"loading a function: {spec!r} was given, expected FILE:FUNCTION, for example forward.py:logits"
        )
    module, sha256 = run_file(
        Path(file), f"loading the function {name!r}", f"grokscope_function_{_stem(file)}"
    )
    found = vars(module).get(name)
    if not callable(found):
        own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        listed = f"one of {', '.join(own[:8])}" if own else "a file that defines one"
        what = "is no function" if found is not None else "is not in it"
        raise GrokscopeError(
            f"loading a function from {file}: {name!r} {what}, expected {listed}{nearest(name, own)}"
        )
    return UserFunction(_quiet(found), sha256, name)


def run_file(path: Path, purpose: str, module_name: str) -> tuple[ModuleType, str]:
    """Run the Python file at ``path`` as a module of its own; the module, and the SHA-256 of what was run.

    Args:
        purpose: begins the message of an error, as in "loading a plug-in probe".
        module_name: the module's ``__name__``; it is in ``sys.modules`` while the file runs and afterwards.

    Raises:
        GrokscopeError: not a file, not text, or any error of its own code, with the module taken out again.
    """
    try:
        if not path.is_file():
            raise GrokscopeError(f"{purpose}: {path} is not a file, expected a Python file")
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise GrokscopeError(f"{purpose}: {path} cannot be read ({why}), expected a Python file") from None
    module = ModuleType(module_name)
    module.__file__ = str(path)
    before = sys.modules.get(module_name)
    sys.modules[module_name] = module  # a dataclass in the file looks its module up there
    try:
        with contextlib.redirect_stdout(sys.stderr):
            # compiled here and not imported: what is hashed is what runs, and no cache is written beside it
            exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException as error:
        if before is None:
            del sys.modules[module_name]
        else:
            sys.modules[module_name] = before
        if isinstance(error, GrokscopeError) or not isinstance(error, Exception | SystemExit):
            raise
        said = " ".join(str(error).split())[:300]
        hint = ""
        if isinstance(error, ImportError):
            hint = f"; with PYTHONPATH={path.parent} it can import the files beside it"
        raise GrokscopeError(f"{purpose} from {path}: {type(error).__name__}: {said}{hint}") from None
    return module, hashlib.sha256(source).hexdigest()


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def call(*args: Any, **options: Any) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return function(*args, **options)

    return call


def _stem(file: str) -> str:
    resolved = Path(os.path.abspath(file))
    return f"{resolved.stem}_{hashlib.sha256(str(resolved).encode('utf-8', 'replace')).hexdigest()[:12]}"
