"""The one exception base, an error a user can read in one line; and absence, which carries its reason."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class GrokscopeError(Exception):
    """A failure with one line to say: what was attempted, what was given, what was expected.

    The command line prints the line and exits 2; everything else that escapes is a bug.
    """


def nearest(given: str, known: Iterable[str]) -> str:
    """A ``; did you mean 'x'?`` clause for a mistyped name, or an empty string."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class Absent:
    """A part or quantity that is not defined here, with the reason, in words for a reader."""

    reason: str
