"""Frozen dataclasses of settings, read strictly from the mappings that TOML and JSON give."""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from grokscope.errors import GrokscopeError, nearest

T = TypeVar("T")


def read_settings(cls: type[T], mapping: Mapping[str, Any], where: str, *, prefix: str = "") -> T:
    """An instance of the dataclass ``cls``: the fields that ``mapping`` gives, the rest at their defaults.

    Fields may be bool, int, float, str, Literal, Any, dataclasses, ``tuple[X, ...]``, ``tuple[X, Y]``,
    ``list[X]``, ``dict[str, X]``, and unions of these with None. A whole number serves as a float, a list as
    a tuple; nothing else is converted, and NaN and infinities are refused.

    ``where`` names the source in messages (a file, ``--set``, a command); ``prefix`` is the dotted name of
    ``mapping`` inside it. Raises GrokscopeError, one line with the field's dotted name, for an unknown key
    (with the nearest known one), a wrong type, a missing field without default, or a ValueError raised by
    the dataclass itself.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"read_settings takes a dataclass, given {cls!r}")
    if not isinstance(mapping, Mapping):
        raise _wrong(where, prefix or cls.__name__, mapping, "a table of settings")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            given = _dotted(prefix, str(key))
            raise GrokscopeError(
                f"read {where}: unknown field {given!r}{nearest(str(key), fields)}; "
                f"known are {', '.join(fields)}"
            )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], where, _dotted(prefix, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise GrokscopeError(
                f"read {where}: {_dotted(prefix, name)!r} is missing, expected {_described(hints[name])}"
            )
    try:
        return cls(**values)
    except ValueError as error:
        raise GrokscopeError(f"read {where}: {prefix or cls.__name__}: {error}") from None


def apply_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``mapping`` with each ``"a.b.c=VALUE"`` put in its place; tables on the way are made.

    VALUE is read as a TOML value and, where it is none, as the text itself. Raises GrokscopeError for an
    override without ``=``, without a name, or that goes through a value that is no table.
    """
    changed = copy.deepcopy(dict(mapping))
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys):
            raise GrokscopeError(f"set {override!r}: expected FIELD=VALUE, for example train.lr=0.01")
        table = changed
        for depth, key in enumerate(keys[:-1]):
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                passed = ".".join(keys[: depth + 1])
                raise GrokscopeError(
                    f"set {override!r}: {passed!r} is {inner!r}, expected a table of settings"
                )
            table = inner
        table[keys[-1]] = _toml_value(text.strip())
    return changed


def settings_dict(settings: Any) -> dict[str, Any]:
    """The mapping from which ``read_settings`` gives ``settings`` again: plain tables, lists and values.

    A field that is None, and is so by default, is left out, since TOML has no null.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings_dict takes an instance of a dataclass, given {settings!r}")
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.init and not (value is None and field.default is None):
            plain[field.name] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # Text with line breaks could define more, and TOML's dates are no settings.
    if parsed.keys() != {"value"} or not _is_plain(parsed["value"]):
        return text
    return parsed["value"]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return isinstance(value, (bool, int, float, str))


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where, name)
    if hint is None or hint is type(None):
        if value is None:
            return None
    elif origin is Literal:
        # Compared with the type: True is not 1.
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        known = [choice for choice in arguments if isinstance(choice, str)]
        hinted = nearest(value, known) if isinstance(value, str) else ""
        raise _wrong(where, name, value, _described(hint), hinted)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read_settings(hint, value, where, prefix=name)
    elif origin in (tuple, list):
        if isinstance(value, (list, tuple)):
            return _convert_sequence(hint, value, where, name)
    elif origin is dict:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {
                key: _convert(arguments[1], item, where, _dotted(name, key)) for key, item in value.items()
            }
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint in (bool, str):
        if isinstance(value, hint):
            return value
    else:
        raise TypeError(f"field {name!r} has the type {hint!r}, which settings do not read")
    raise _wrong(where, name, value, _described(hint))


def _convert_union(hint: Any, value: Any, where: str, name: str) -> Any:
    failures: list[GrokscopeError] = []
    # The exact type first, so that 1 stays whole in `float | int`.
    choices = sorted(get_args(hint), key=lambda choice: type(value) is not choice)
    for choice in choices:
        try:
            return _convert(choice, value, where, name)
        except GrokscopeError as error:
            if choice is not type(None):
                failures.append(error)
    if len(failures) == 1 and value is not None and dataclasses.is_dataclass(_only(choices)):
        # Inside an optional table the field at fault says more than the table.
        raise failures[0]
    raise _wrong(where, name, value, _described(hint))


def _only(choices: Sequence[Any]) -> Any:
    return next((choice for choice in choices if choice is not type(None)), None)


def _convert_sequence(hint: Any, value: Sequence[Any], where: str, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        kinds = [arguments[0]] * len(value)
    elif len(value) != len(arguments):
        raise _wrong(where, name, list(value), _described(hint))
    else:
        kinds = list(arguments)
    items = [
        _convert(kind, item, where, f"{name}[{position}]")
        for position, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return items if origin is list else tuple(items)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def choose(table: Mapping[str, Any], name: object, field: str, where: str) -> Any:
    """The entry of ``table`` that ``field`` names; a one-line GrokscopeError with the nearest name otherwise."""
    if not isinstance(name, str) or name not in table:
        hint = nearest(name, table) if isinstance(name, str) else ""
        raise GrokscopeError(
            f"reading {where}: {field} is {name!r}, expected one of {', '.join(table)}{hint}"
        )
    return table[name]


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _wrong(where: str, name: str, value: Any, expected: str, hint: str = "") -> GrokscopeError:
    given = repr(value)
    if len(given) > 60:
        given = given[:57] + "..."
    return GrokscopeError(f"read {where}: {name!r} is {given}, expected {expected}{hint}")


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    if hint in names:
        return names[hint]
    if hint is None or hint is type(None):
        return "nothing"
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(choice) for choice in arguments)
    if origin is list or (origin is tuple and arguments[-1:] == (Ellipsis,)):
        return f"a list, each item {_described(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(_described(item) for item in arguments)
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table of settings"
    return str(hint)
