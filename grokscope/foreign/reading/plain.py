"""Plain data, the limits within which it is made, and lines that are safe to print.

Scope: what every reader of a stranger's file shares. A ``Budget`` belongs to the reading of one file: it
counts what the file makes us hold and ends the reading with one line when that is more than the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from grokscope.errors import GrokscopeError

Plain = None | bool | int | float | str | Tensor | list[Any] | dict[str, Any]
"""What a file becomes: scalars, text, dense CPU tensors, and lists and dicts of these."""

MAX_INTEGER_BITS = 256
INSTRUCTIONS_PER_VALUE = 8
"""A pickle of N allowed values may take this many instructions each; a tensor in a list takes 26."""

_MAX_KEY_PARTS = 64


def printable(text: object, limit: int = 200) -> str:
    """``text`` on one line of at most ``limit`` characters, every control or odd character escaped.

    Names in a stranger's file may hold line ends, terminal escapes or characters that reverse the line.
    """
    given = text if isinstance(text, str) else str(text)
    if len(given) <= limit and given.isprintable():
        return given
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in given[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def first_line(error: BaseException) -> str:
    """What an error says, as a short printable clause."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, 160)


@dataclass(frozen=True)
class Limits:
    """How much one file may make us hold."""

    max_bytes: int
    max_depth: int
    max_values: int


class Budget:
    """What reading one file has made us hold so far, and the one line that ends it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self.held_values = 0
        self.held_bytes = 0
        self._instructions = 0

    def refusal(self, what: str, expected: str) -> GrokscopeError:
        """The error that says in one line what was read, ``what`` was found there, what was expected."""
        return GrokscopeError(f"reading {printable(self.path, 320)}: {what}, {expected}")

    def fail(self, what: str, expected: str) -> NoReturn:
        """Raise ``refusal(what, expected)``."""
        raise self.refusal(what, expected)

    def values(self, count: int = 1) -> None:
        """Account for ``count`` more values, keys among them."""
        self.held_values += count
        if self.held_values > self.limits.max_values:
            self.too_many()

    def instructions(self, count: int) -> None:
        """Account for ``count`` more instructions of a pickle."""
        self._instructions += count
        if self._instructions > INSTRUCTIONS_PER_VALUE * self.limits.max_values:
            self.too_many()

    def too_many(self) -> NoReturn:
        self.fail(f"more than {self.limits.max_values} values in the file", "expected a state dict")

    def bytes(self, count: int) -> None:
        """Account for ``count`` more bytes of tensors."""
        self.held_bytes += count
        if self.held_bytes > self.limits.max_bytes:
            self.fail(f"its tensors claim more than {self.limits.max_bytes} bytes", "expected no more")

    def depth(self, depth: int) -> None:
        """Refuse data nested more than ``depth`` deep."""
        if depth > self.limits.max_depth:
            self.fail(f"the data nest more than {self.limits.max_depth} deep", "expected a state dict")


def clean_text(text: str) -> str:
    """``text`` as it can be written to a UTF-8 file: lone surrogates become the replacement character."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def integer(value: int) -> int | str:
    """``value``, or a remark in its place where printing it would take longer than any use of it."""
    bits = value.bit_length()
    return value if bits <= MAX_INTEGER_BITS else f"<integer of {bits} bits>"


def bytes_text(value: bytes | bytearray) -> str:
    """Short readable bytes as text (Python 2 wrote its text so), others as a remark."""
    if len(value) <= 4096:
        try:
            text = bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            return "<bytes>"
        if text.isprintable():
            return text
    return "<bytes>"


def key_text(key: Any) -> str | None:
    """A dict key as text; None for one that has no short text (a tensor, an object, a long tuple)."""
    if isinstance(key, str):
        return clean_text(str(key))
    if key is None or isinstance(key, bool | float):
        return str(key)
    if isinstance(key, int):
        return str(integer(int(key)))
    if isinstance(key, bytes):
        return bytes_text(key)
    if isinstance(key, tuple):
        parts: list[str] = []
        return _tuple_text(key, parts)
    return None


def _tuple_text(key: tuple[Any, ...], parts: list[str], depth: int = 0) -> str | None:
    # tuples share their parts, so a short pickle can hold one whose text would never end
    if depth > 4:
        return None
    shown: list[str] = []
    for item in key[: _MAX_KEY_PARTS + 1]:
        text = _tuple_text(item, parts, depth + 1) if isinstance(item, tuple) else key_text(item)
        text = text if text is None or len(text) <= 100 else f"{text[:99]}…"
        if text is None or len(parts) >= _MAX_KEY_PARTS:
            return None
        parts.append(text)
        shown.append(text)
    return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"
