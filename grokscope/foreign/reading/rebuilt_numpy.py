"""What numpy's globals become: dtypes, scalars and arrays, checked against the bytes they come with.

Scope: the names that numpy puts into pickles. Numpy sets up a dtype from whatever state a pickle gives it,
fields and flags included, so none of its own functions sees what a file says: only dtypes of plain numbers,
texts and objects are known here, and an array of objects is a list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from grokscope.foreign.reading.inert import Machine
from grokscope.foreign.reading.records import Buildable, Known, Malformed

MAX_DIMENSIONS = 64
_PLAIN_TYPE = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,6}")


def counts(given: Any, what: str) -> tuple[int, ...]:
    """A tuple of counts, from 0 up."""
    if not isinstance(given, tuple | list) or len(given) > MAX_DIMENSIONS:
        raise Malformed(f"{what} is no short tuple")
    for one in given:
        if type(one) is not int or not 0 <= one < 2**62:
            raise Malformed(f"{what} holds what is no count")
    return tuple(given)


class NumpyType(Buildable):
    """A numpy dtype in the making. ``text`` is None for one that is no plain number, text or object."""

    __slots__ = ("order", "text")

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.order = "="

    def build(self, machine: Machine, state: Any) -> None:
        if not isinstance(state, tuple) or not 5 <= len(state) <= 9:
            raise Malformed("a numpy dtype has a state that is none")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise Malformed("a numpy dtype has a byte order that is none")
        self.order = order
        if any(part is not None for part in state[2:5]):
            self.text = None
        if not _as_numpy_writes(self, state):
            machine.met.beyond["a numpy dtype of its own making"] = None

    @property
    def holds_objects(self) -> bool:
        return self.text is not None and self.text.lstrip("|<>=") in ("O", "O8", "O4", "object")

    def dtype(self) -> np.dtype | None:
        """The dtype, or None where its numbers cannot be read as plain ones."""
        if self.text is None:
            return None
        try:
            found = np.dtype(self.text)
        except TypeError:
            return None
        if found.kind not in "biufcSU" or found.itemsize == 0 or found.fields or found.subdtype:
            return None
        return found.newbyteorder(">" if self.order == ">" else "<") if self.order in "<>" else found


UNREAD = Known("<a numpy array of records, not read>", lambda machine, *args: UNREAD)
"""Stands for an array whose numbers are in no form that is read."""


def _as_numpy_writes(kind: NumpyType, state: tuple[Any, ...]) -> bool:
    """Whether the state of a dtype is to the letter what numpy gives it.

    Numpy's own function would take any: flags and fields that do not fit corrupt its memory.
    """
    real = kind.dtype()
    own: tuple[Any, ...] = tuple(real.__reduce__()[2]) if real is not None else ()  # type: ignore[arg-type]
    same = len(own) == len(state) and own[0] == state[0] and type(state[0]) is int
    return same and all(
        type(one) is type(two) and one == two for one, two in zip(own[1:], state[1:], strict=True)
    )


class NumpyArray(Buildable):
    """A numpy array in the making. ``value``: an array, or the objects of an array of objects, or UNREAD."""

    __slots__ = ("value",)

    def __init__(self, value: Any = UNREAD) -> None:
        self.value = value

    def build(self, machine: Machine, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Malformed("a numpy array has a state that is none")
        shape, kind, fortran, raw = state[-4:]
        self.value = _array(machine, shape, kind, raw, fortran is True or fortran == 1)


def _array(machine: Machine, shape: Any, kind: Any, raw: Any, fortran: bool) -> Any:
    sizes = counts(shape, "the shape of a numpy array")
    count = math.prod(sizes)
    if not isinstance(kind, NumpyType):
        machine.met.beyond["a numpy array of a dtype of its own"] = None
        return UNREAD
    if kind.holds_objects:
        machine.met.beyond["a numpy array of objects"] = None
        if not isinstance(raw, list) or len(raw) != count:
            raise Malformed(f"a numpy array of shape {sizes} holds another number of objects")
        return raw if sizes else raw[0]
    dtype = kind.dtype()
    if dtype is None:
        machine.met.beyond["a numpy array of records"] = None
        return UNREAD
    content = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if not isinstance(content, bytes) or len(content) != count * dtype.itemsize:
        raise Malformed(f"a numpy array claims shape {sizes} and holds other bytes")
    if not count:
        return np.empty(sizes, dtype)
    return np.frombuffer(content, dtype).reshape(sizes, order="F" if fortran else "C")


def _jax_array(machine: Machine, function: Any, args: Any, state: Any, *rest: Any) -> Any:
    machine.met.beyond["an array of JAX"] = None
    made = machine.call(function, args)
    if isinstance(made, NumpyArray):
        made.build(machine, state)
    return made


def _numpy_empty(machine: Machine, kind: Any = None, shape: Any = None, code: Any = None) -> NumpyArray:
    machine.met.numpy = True
    if getattr(kind, "name", "") != "numpy.ndarray" or shape != (0,) or code not in (b"b", "b"):
        machine.met.beyond["a numpy array that is not empty at first"] = None
    return NumpyArray()


def _numpy_from_buffer(machine: Machine, raw: Any, kind: Any, shape: Any, order: Any = "C") -> NumpyArray:
    machine.met.numpy = True
    return NumpyArray(_array(machine, shape, kind, raw, order == "F"))


def _numpy_type(machine: Machine, text: Any = None, align: Any = 0, copy: Any = 0, *rest: Any) -> NumpyType:
    machine.met.numpy = True
    text = text.decode("ascii") if isinstance(text, bytes) else text
    # without a copy numpy would hand out, and a state would change, the dtype that all its arrays share
    if not (isinstance(text, str) and _PLAIN_TYPE.fullmatch(text)) or align or copy not in (1, True) or rest:
        machine.met.beyond["a numpy dtype of its own making"] = None
    return NumpyType(text if isinstance(text, str) and len(text) <= 16 else None)


def _numpy_scalar(machine: Machine, kind: Any, raw: Any = None) -> Any:
    machine.met.numpy = True
    if isinstance(kind, NumpyType) and kind.holds_objects:
        machine.met.beyond["a numpy array of objects"] = None
        return raw
    found = _array(machine, (), kind, raw, False)
    return found[()].item() if isinstance(found, np.ndarray) else UNREAD


NUMPY_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _numpy_type,
    "jax._src.array._reconstruct_array": _jax_array,
    **{f"numpy.{core}.multiarray._reconstruct": _numpy_empty for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _numpy_from_buffer for core in ("core", "_core")},
}
"""Full name → what is done in place of calling it: ``make(machine, *args)``."""
