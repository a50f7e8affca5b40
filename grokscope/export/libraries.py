"""Libraries that are not installed with grokscope: loaded when asked for, named when missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from grokscope.errors import GrokscopeError


def load_library(name: str, extra: str, doing: str) -> Any:
    """The module ``name``.

    Raises:
        GrokscopeError: it is not installed; the line ends in the command that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise GrokscopeError(
            f"{doing}: {missing} is not installed, expected it; run: pip install 'grokscope[{extra}]'"
        ) from None
