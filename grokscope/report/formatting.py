"""Numbers, intervals and settings as a reader wants to see them. Text only: escaping is the page's work."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grokscope.probes import Crossing

UNDEFINED = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_THIN = "\u202f"  # narrow no-break space: groups digits without a comma that some read as a decimal point
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def number(value: Any, digits: int = 4) -> str:
    """``value`` to ``digits`` significant digits, scientific where tiny or huge, a dash where undefined.

    Whole numbers are written out; booleans become yes and no; text passes through.
    """
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return whole(value)
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) < 1e6:
        return whole(int(value))
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if digits - 1 <= power < 6:
        return whole(round(value))
    if -4 < power < 6:
        return f"{value:.{max(digits - 1 - power, 0)}f}".replace("-", "−")
    return f"{mantissa}×10{power_of(power)}".replace("-", "−")


def power_of(exponent: int) -> str:
    """An exponent in superscript digits."""
    return str(exponent).translate(_SUPERSCRIPTS)


def whole(value: int) -> str:
    """A whole number, digits grouped in threes from five digits on."""
    text = f"{abs(value):,}" if abs(value) >= 10_000 else str(abs(value))
    return ("−" if value < 0 else "") + text.replace(",", _THIN)


def crossing(event: Crossing) -> str:
    """The interval of steps in which an event lies."""
    if event.by is None:
        return "not seen" if event.after is None else f"not seen by step {whole(event.after)}"
    if event.after is None:
        return f"by step {whole(event.by)}"
    return f"{whole(event.after)} to {whole(event.by)}"


def ratio(low: float | None, high: float | None) -> str:
    """An interval of factors; an unbounded end is said in words."""
    low, high = _bounded(low), _bounded(high)
    if low is None and high is None:
        return "not bounded"
    if high is None:
        return f"at least {number(low, 3)}×"
    if low is None:
        return f"at most {number(high, 3)}×"
    return f"{number(low, 3)} to {number(high, 3)}×"


def interval(ends: Sequence[float | None] | None) -> str:
    """Both ends of a claim's interval."""
    if ends is None:
        return UNDEFINED
    low, high = _bounded(ends[0]), _bounded(ends[1])
    if low is None and high is None:
        return "unbounded"
    if high is None:
        return f"≥ {number(low)}"
    if low is None:
        return f"≤ {number(high)}"
    return f"{number(low)} to {number(high)}"


def _bounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of everything in a nested mapping."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flattened(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        yield (
            prefix,
            shlex.join(value) if prefix.rpartition(".")[2] in ("command", "argv") else ", ".join(value),
        )
    elif isinstance(value, list | tuple):
        yield prefix, json.dumps(value, default=str)
    elif value is None:
        yield prefix, "not recorded"
    elif isinstance(value, float):
        yield prefix, repr(value)
    else:
        yield prefix, "yes" if value is True else "no" if value is False else str(value)


def as_toml(config: Mapping[str, Any]) -> str:
    """A recipe as TOML text; an unset value, which TOML cannot hold, becomes a comment."""
    return "\n".join(_table(config, ())).strip() + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    inner: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner.append((str(key), value))
        elif value is None:
            lines.append(f"# {_key(str(key))} is not set")
        else:
            lines.append(f"{_key(str(key))} = {_value(value)}")
    if path and (lines or not inner):
        lines.insert(0, f"[{'.'.join(_key(part) for part in path)}]")
    for key, value in inner:
        lines += ["", *_table(value, (*path, key))]
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        pairs = (f"{_key(str(k))} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value if v is not None) + "]"
    return _string(str(value))


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for surrogate pairs and the delete character
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in quoted)


def slug(text: str) -> str:
    """Letters, digits, dots and hyphens only: safe as a file name, an id and an attribute."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "unnamed"
