"""From what a reader found to plain data: scalars, text, dense CPU tensors, lists and dicts.

Scope: the last step of every reader, and modules: a model that was pickled whole is a record of its
parameters and submodules, from which its state dict is put together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grokscope.foreign.reading.plain import (
    Budget,
    Plain,
    bytes_text,
    clean_text,
    integer,
    key_text,
    printable,
)
from grokscope.foreign.reading.rebuilt import Cut, Storage
from grokscope.foreign.reading.rebuilt_numpy import NumpyArray, NumpyType
from grokscope.foreign.reading.records import Global, Known, Record

MAX_REPEATS = 8
MANY_SCALARS = 64
"""A list of more 0-d tensors than this becomes a list of numbers."""

CLASS, ARGS = "__class__", "__args__"
_RESERVED = (CLASS, ARGS, "__kwargs__", "__items__", "__state__")

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}
_USUAL = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shared:
    """A container that was converted: the original (kept, so that its id stays its own), and what it took."""

    original: Any
    made: Plain
    height: int
    values: int
    bytes: int


class Plainer:
    """Copies what was read into plain data, counting values and bytes as it goes.

    ``notes`` gathers what was changed on the way, in words for a report.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._deepest = 0
        self._shared: dict[int, _Shared] = {}
        self._open: set[int] = set()
        self._seen: Counter[int] = Counter()
        self._named: Counter[str] = Counter()
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        notes = list(self._notes)
        if self._named:
            notes.append(f"classes or functions that are only named: {listed(self._named)}")
        return tuple(notes)

    def convert(self, value: Any, depth: int = 0) -> Plain:
        """``value`` as plain data; raises GrokscopeError beyond the limits, and for tensors without numbers."""
        budget = self._budget
        budget.values()
        budget.depth(depth)
        if depth > self._deepest:
            self._deepest = depth
        kind = type(value)
        if value is None or kind is float or kind is bool:
            return value
        if kind is int:
            return integer(value)
        if kind is str:
            return clean_text(value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, dict | list | tuple):
            return self._container(value, depth)
        if kind is Cut:
            return self._cut(value)
        if kind is Record:
            return self._record(value, depth)
        if kind is NumpyArray:
            return (
                self.array(value.value)
                if isinstance(value.value, np.ndarray)
                else self.convert(value.value, depth)
            )
        return self._other(value, depth)

    def _other(self, value: Any, depth: int) -> Plain:
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, np.generic):
            return self.convert(value.item(), depth)
        if isinstance(value, bytes | bytearray):
            return bytes_text(value)
        if isinstance(value, Storage):
            return self._cut(Cut(value, value.dtype, 0, (value.count,), (1,)))
        if isinstance(value, Known):
            return printable(value.name)
        if isinstance(value, Global):
            self._named[value.name] += 1
            return value.name
        if isinstance(value, set | frozenset):
            return self._list(list(value), depth)
        if isinstance(value, torch.device | torch.dtype | complex):
            return str(value)
        if isinstance(value, NumpyType):
            return f"numpy.{printable(value.text, 20)}"
        # a class derived from a scalar
        if isinstance(value, str):
            return clean_text("".join(value))
        if isinstance(value, int | float):
            return integer(int(value)) if isinstance(value, int) else float(value)
        return f"<{type(value).__name__}>"

    def _container(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> Plain:
        """A dict or list; one that occurs again is not made again, but counts as often as it occurs."""
        budget = self._budget
        known = self._shared.get(id(value))
        if known is None:
            outer, values, size = self._deepest, budget.held_values, budget.held_bytes
            self._deepest = depth
            made = self._dict(value, depth) if isinstance(value, dict) else self._list(value, depth)
            spent = budget.held_values - values, budget.held_bytes - size
            self._shared[id(value)] = _Shared(value, made, self._deepest - depth, *spent)
            self._deepest = max(outer, self._deepest)
            return made
        budget.depth(depth + known.height)
        budget.values(known.values)
        budget.bytes(known.bytes)
        self._deepest = max(self._deepest, depth + known.height)
        return known.made

    def _dict(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, item in value.items():
            self._budget.values()
            text = key_text(key)
            made[f"<{type(key).__name__} {len(made)}>" if text is None else text] = self.convert(
                item, depth + 1
            )
        return made

    def _list(self, value: Sequence[Any], depth: int) -> list[Any]:
        if len(value) > MANY_SCALARS and all(_is_scalar(one) for one in value):
            self._budget.values(len(value))
            return [_scalar(one) if type(one) is Cut else one.item() for one in value]
        return [self.convert(item, depth + 1) for item in value]

    def _record(self, value: Record, depth: int) -> Plain:
        # objects point at each other: each is written out where it comes first, and a few times more
        if id(value) in self._open:
            return f"<{value.name}, of which this is a part>"
        if self._seen[id(value)] >= MAX_REPEATS:
            return f"<{value.name}, as above>"
        self._seen[id(value)] += 1
        self._open.add(id(value))
        try:
            return (
                self._settings(value, depth)
                if value.name.startswith("omegaconf.")
                else self._fields(value, depth)
            )
        finally:
            self._open.discard(id(value))

    def _settings(self, value: Record, depth: int) -> Plain:
        """A node of omegaconf: what it holds, without what it knows about itself."""
        attributes = value.attributes or {}
        if "_val" in attributes:
            return self.convert(attributes["_val"], depth)
        held = attributes.get("_content")
        if isinstance(held, dict):
            return {CLASS: value.name, **self._dict(held, depth)}
        return self.convert(held, depth) if "_content" in attributes else self._fields(value, depth)

    def _fields(self, value: Record, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {CLASS: value.name}
        for part in (value.attributes, value.pairs):
            for key, item in self._dict(part or {}, depth).items():
                made[f"{key} (theirs)" if key in _RESERVED else key] = item
        if value.args:
            made[ARGS] = self._list(value.args, depth)
        if value.kwargs:
            made["__kwargs__"] = self._dict(value.kwargs, depth)
        if value.items is not None:
            made["__items__"] = self._list(value.items, depth)
        if value.state is not None:
            made["__state__"] = self.convert(value.state, depth + 1)
        return made

    # Tensors

    def _cut(self, cut: Cut) -> Tensor:
        # an expanded tensor of a few bytes may claim any shape
        self._budget.bytes(math.prod(cut.size) * cut.dtype.itemsize)
        if not math.prod(cut.size):
            return self._usual(torch.empty(cut.size, dtype=cut.dtype))
        reach = 1 + sum((one - 1) * step for one, step in zip(cut.size, cut.stride, strict=True))
        content = bytearray(_content(cut, reach))
        if cut.dtype == torch.bool:
            flat = torch.frombuffer(content, dtype=torch.uint8) != 0
        else:
            flat = torch.frombuffer(content, dtype=cut.dtype)
        made = flat.as_strided(cut.size, cut.stride)
        return self._usual(made if made.is_contiguous() else made.contiguous())

    def tensor(self, value: Tensor) -> Tensor:
        """A tensor of torch as a dense, detached one with memory of its own."""
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            what = f"{value.layout} on {value.device.type}{', quantised' if value.is_quantized else ''}"
            self._budget.fail(f"a tensor is {what}", "expected dense tensors in memory")
        self._budget.bytes(math.prod(value.shape) * value.element_size())
        return self._usual(value.detach().clone(memory_format=torch.contiguous_format))

    def _usual(self, value: Tensor) -> Tensor:
        """The same numbers in a dtype that can be computed with."""
        dtype = value.dtype
        if dtype in _USUAL:
            return value
        if dtype.is_floating_point and dtype.itemsize == 1 and "float8" in str(dtype):
            self._notes[f"tensors of {dtype} became torch.float32, which holds the same numbers"] = None
            return value.to(torch.float32)
        if dtype in _WIDER or (dtype == torch.uint64 and not (value.view(torch.int64) < 0).any()):
            wider = _WIDER.get(dtype, torch.int64)
            self._notes[f"tensors of {dtype} became {wider}, which holds the same numbers"] = None
            return value.view(torch.int64) if dtype == torch.uint64 else value.to(wider)
        raise self._budget.refusal(f"a tensor is of {dtype}", "expected numbers that can be computed with")

    def array(self, value: np.ndarray) -> Plain:
        """A numpy array as a tensor; one of text as a list; one without dimensions as a scalar."""
        self._budget.bytes(value.nbytes)
        if value.dtype.kind in "SU":
            self._budget.values(value.size)
            return _texts(value.tolist())
        if value.dtype.kind not in "biufc":
            return f"<a numpy array of {printable(value.dtype, 60)}, not read>"
        if value.ndim == 0:
            return self.convert(value.item())
        if value.dtype.itemsize > (16 if value.dtype.kind == "c" else 8):
            kind = np.complex128 if value.dtype.kind == "c" else np.float64
            self._notes[f"arrays of {value.dtype} were rounded to {np.dtype(kind)}"] = None
            value = value.astype(kind)
        native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C", copy=True)
        return self._usual(torch.from_numpy(native))


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return clean_text(value) if isinstance(value, str) else bytes_text(value)


def _is_scalar(value: Any) -> bool:
    if type(value) is Cut:
        return not value.size and not value.dtype.is_complex
    return (
        isinstance(value, Tensor) and not value.ndim and value.device.type == "cpu" and not value.is_complex()
    )


def _content(cut: Cut, reach: int) -> bytes | memoryview:
    """The bytes between the first and the last number of a tensor."""
    storage = cut.storage
    start = storage.start * storage.dtype.itemsize + cut.offset * cut.dtype.itemsize
    return storage.read()[start : start + reach * cut.dtype.itemsize]


def _scalar(cut: Cut) -> bool | int | float:
    content = _content(cut, 1)
    if cut.dtype == torch.bool:
        return bytes(content) != b"\x00"
    return torch.frombuffer(bytearray(content), dtype=cut.dtype).item()


def listed(names: Counter[str], most: int = 8) -> str:
    """Names with how often they came, the most frequent first."""
    shown = [
        f"{printable(name, 80)}{f' ×{count}' if count > 1 else ''}" for name, count in names.most_common(most)
    ]
    rest = len(names) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def state_dict_of_record(record: Plain) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """The state dict of a model that was pickled whole, or of a TorchScript program, and its buffers' names.

    ``record`` is the plain form of the object: a dict with ``__class__`` and, for a module, ``_parameters``,
    ``_buffers`` and ``_modules``. Names are dotted as in ``model.state_dict()``; buffers that the model did
    not save are left out. A TorchScript program does not tell parameters from buffers: none is named then.
    Returns None for what is no module.
    """
    if not isinstance(record, dict) or CLASS not in record:
        return None
    tensors: dict[str, Tensor] = {}
    buffers: list[str] = []
    if not _walk(record, "", tensors, buffers):
        return None
    return tensors, tuple(buffers)


def _walk(record: dict[str, Any], prefix: str, tensors: dict[str, Tensor], buffers: list[str]) -> bool:
    parts = [record.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if all(isinstance(part, dict) for part in parts):
        parameters, held, modules = parts
        hidden = record.get("_non_persistent_buffers_set")
        for name, value in parameters.items():  # type: ignore[union-attr]
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
        for name, value in held.items():  # type: ignore[union-attr]
            if isinstance(value, Tensor) and not (isinstance(hidden, list) and name in hidden):
                tensors[prefix + name] = value
                buffers.append(prefix + name)
        for name, value in modules.items():  # type: ignore[union-attr]
            if isinstance(value, dict):
                _walk(value, f"{prefix}{name}.", tensors, buffers)
        return True
    if not str(record.get(CLASS, "")).startswith("__torch__."):
        return False
    for name, value in record.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, dict) and CLASS in value:
            _walk(value, f"{prefix}{name}.", tensors, buffers)
    return True
