"""What the known globals of a weights file become: storages, tensors, numpy arrays and containers of our own.

Scope: the names that torch, numpy and the standard library put into pickles of plain data. None of theirs is
called: a tensor is kept as where it lies in which storage, checked against that storage, and read later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from grokscope.foreign.reading.inert import Machine
from grokscope.foreign.reading.plain import Budget, printable
from grokscope.foreign.reading.rebuilt_numpy import NUMPY_MAKERS, counts
from grokscope.foreign.reading.rebuilt_python import PYTHON_MAKERS, harm, short_text
from grokscope.foreign.reading.records import Global, Known, Malformed

STORAGE_DTYPES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
"""Name of a storage class → what its numbers are."""

DTYPES: dict[str, torch.dtype] = {
    str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)
}


class Storage:
    """Numbers in a row in a file: what they are, how many, and how to read their bytes when it is time."""

    __slots__ = ("count", "dtype", "name", "read", "start")

    def __init__(
        self,
        name: str,
        dtype: torch.dtype,
        count: int,
        read: Callable[[], bytes | memoryview],
        start: int = 0,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.count = count
        self.read = read
        self.start = start


class Cut:
    """A tensor: where it lies in its storage. ``size`` and ``stride`` in numbers, as torch has them."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(
        self,
        storage: Storage,
        dtype: torch.dtype,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.size = size
        self.stride = stride


def tensor(machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> Cut:
    """A tensor that lies within its storage, or Malformed."""
    if not isinstance(storage, Storage):
        raise Malformed("a tensor has no storage")
    machine.met.tensors += 1
    sizes, strides = counts(size, "the shape of a tensor"), counts(stride, "the stride of a tensor")
    if len(sizes) != len(strides) or type(offset) is not int or not 0 <= offset < 2**62:
        raise Malformed(f"a tensor of shape {sizes} has another number of strides")
    name = dtype.name if isinstance(dtype, Known) else str(dtype)
    kind = storage.dtype if dtype is None else DTYPES.get(name)
    if kind is None:
        raise Malformed(f"a tensor is of the unknown dtype {printable(name, 40)}")
    reach = offset + 1 + sum((one - 1) * step for one, step in zip(sizes, strides, strict=True))
    if math.prod(sizes) and reach * kind.itemsize > storage.count * storage.dtype.itemsize:
        raise Malformed(f"a tensor of shape {sizes} reaches beyond its storage of {storage.count} numbers")
    return Cut(storage, kind, offset, sizes, strides)


def _tensor_v2(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Cut:
    _check_metadata(machine, metadata)
    return tensor(machine, storage, offset, size, stride)


def _check_metadata(machine: Machine, metadata: Any) -> None:
    """Refuse a lazily conjugated or negated tensor, whose numbers are not the ones in its storage."""
    if metadata:
        machine.budget.fail(
            "a tensor is conjugated or negated without its numbers being so", "expected plain ones"
        )


def _tensor_v3(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Cut:
    _check_metadata(machine, metadata)
    return tensor(machine, storage, offset, size, stride, dtype)


def _parameter(machine: Machine, data: Any = None, *rest: Any) -> Any:
    if isinstance(data, Cut):
        return data
    return machine.record("torch.nn.parameter.Parameter", (data, *rest))


def _with_state(machine: Machine, data: Any, grad: Any, hooks: Any, state: Any) -> Any:
    if state:
        machine.met.beyond["a tensor with attributes"] = None
    return _parameter(machine, data)


def _subclass(machine: Machine, function: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """A tensor with attributes of its own, or of a class derived from Tensor: the tensor."""
    if state or getattr(kind, "name", "") not in ("torch.Tensor", "torch._tensor.Tensor", _PARAMETER):
        machine.met.beyond["a tensor of a class of its own"] = None
    return machine.call(function, args)


def _nocounts(what: str) -> Callable[..., NoReturn]:
    def refuse(machine: Machine, *args: Any) -> NoReturn:
        machine.budget.fail(f"a tensor is {what}", "expected dense tensors in memory")

    return refuse


def _from_numpy(machine: Machine, data: Any, *rest: Any) -> Any:
    machine.met.beyond["a tensor of another device"] = None
    return data


def _size(machine: Machine, size: Any = ()) -> tuple[int, ...]:
    return counts(size, "a shape")


def _device(machine: Machine, kind: Any = "cpu", index: Any = None) -> str:
    return printable(kind if index is None else f"{short_text(kind)}:{short_text(index)}", 80)


def _version(machine: Machine, *args: Any) -> Any:
    machine.met.beyond["a version"] = None
    return (
        args[0] if len(args) == 1 and isinstance(args[0], str) else machine.record("torch.TorchVersion", args)
    )


def _first(machine: Machine, value: Any = None, *rest: Any) -> Any:
    """How TorchScript marks the type of a list or dict: the list or dict."""
    return value


_PARAMETER = "torch.nn.parameter.Parameter"

_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _with_state,
    "torch._utils._rebuild_sparse_tensor": _nocounts("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _nocounts("sparse"),
    "torch._utils._rebuild_qtensor": _nocounts("quantised"),
    "torch._utils._rebuild_meta_tensor_no_storage": _nocounts("on the device meta, without numbers"),
    "torch._utils._rebuild_nested_tensor": _nocounts("nested"),
    "torch._utils._rebuild_wrapper_subclass": _nocounts("of a class that wraps another, without numbers"),
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_numpy,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._tensor._rebuild_from_type": _subclass,
    _PARAMETER: _parameter,
    "torch.nn.parameter.Buffer": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _device,
    "torch.torch_version.TorchVersion": _version,
    **PYTHON_MAKERS,
    **NUMPY_MAKERS,
    **{
        f"torch.jit._pickle.{name}": _first
        for name in (
            "build_intlist",
            "build_tensorlist",
            "build_doublelist",
            "build_boollist",
            "restore_type_tag",
        )
    },
}


class StorageClass(Known):
    """A storage class of torch: only its name and what its numbers are matter."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__(name, lambda machine, *args: machine.record(name, args))
        self.dtype = dtype


def find(budget: Budget, module: str, name: str) -> Global | Known:
    """What stands for a global; GrokscopeError for one that is only there to do harm."""
    full = f"{module}.{name}"
    if full in _MAKERS:
        return Known(full, _MAKERS[full])
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGE_DTYPES:
        return StorageClass(full, STORAGE_DTYPES[name])
    if full in DTYPES or full in ("torch.Tensor", "torch._tensor.Tensor", "numpy.ndarray"):
        return Known(full, lambda machine, *args: machine.record(full, args))
    harm(budget, full)
    return Global(printable(full, 300))


def storage_dtype(kind: Any, what: str = "a storage") -> torch.dtype:
    """What the numbers of a storage class are, or Malformed for a class that has none we read."""
    if isinstance(kind, StorageClass):
        return kind.dtype
    name = kind.name if isinstance(kind, Global | Known) else type(kind).__name__
    quantised = isinstance(name, str) and ".Q" in name
    raise Malformed(
        f"{what} is {'quantised: ' if quantised else 'of the unknown class '}{printable(name, 60)}"
    )
