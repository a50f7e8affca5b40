"""Reading a weights file that a stranger made, into plain data, without running any of its code.

Scope: one file in, nested dicts, lists, scalars and dense CPU tensors out. PyTorch's own format is a pickle,
and a pickle is a program; only ``torch.load(weights_only=True)`` touches it here, after the archive has been
looked at, and there is no fallback to anything that runs more.
"""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError

PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = (*PICKLED_SUFFIXES, ".safetensors")
"""Names of files that are taken for weights."""

MAX_FILE_BYTES = 2 * 2**30
"""Largest file, and largest total of the tensors in it, that is read: 2 GiB."""

MAX_DEPTH = 64
MAX_VALUES = 1_000_000

Plain = None | bool | int | float | str | Tensor | list[Any] | dict[str, Any]
"""What a file becomes: scalars, text, dense CPU tensors, and lists and dicts of these."""

_EXPECTED = f"expected tensors in one of {', '.join(SUFFIXES)}"
_GLOBAL = re.compile(r"(?:GLOBAL|class|global|function)\s+([A-Za-z_][\w.]*\.[\w.]+)")


def read_weights(path: Path) -> Plain:
    """The content of one weights file as plain data; tensors on the CPU, detached.

    Raises:
        GrokscopeError: one line, for a missing, empty, oversized, truncated or damaged file, a text file, a
            file that needs code of its own (none of which is run), data nested too deeply, or tensors
            that are not dense numbers in memory.
    """
    size = _checked_size(path)
    loaded = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickled(path, size)
    return _Plainer(path).convert(loaded, 0)


def _checked_size(path: Path) -> int:
    if path.suffix.lower() not in SUFFIXES:
        raise GrokscopeError(f"reading {path}: its suffix is {path.suffix!r}, {_EXPECTED}")
    try:
        if not path.exists():
            raise GrokscopeError(f"reading {path}: no such file, {_EXPECTED}")
        if not path.is_file():
            raise GrokscopeError(f"reading {path}: not a regular file, {_EXPECTED}")
        size = path.stat().st_size
    except OSError as error:
        raise GrokscopeError(f"reading {path}: {error.strerror or error}, {_EXPECTED}") from None
    if size == 0:
        raise GrokscopeError(f"reading {path}: the file is empty, {_EXPECTED}")
    if size > MAX_FILE_BYTES:
        raise GrokscopeError(f"reading {path}: {size} bytes given, expected at most {MAX_FILE_BYTES}")
    return size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise GrokscopeError(
            f"reading {path}: not a readable safetensors file ({_first_line(error)}), {_EXPECTED}"
        ) from None


def _read_pickled(path: Path, size: int) -> Any:
    try:
        with path.open("rb") as raw:
            head = raw.read(512)
    except OSError as error:
        raise GrokscopeError(f"reading {path}: {error.strerror or error}, {_EXPECTED}") from None
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, size)
    elif not head.startswith(b"\x80"):
        what = "a text file" if _looks_like_text(head) else "no file that torch.save writes"
        raise GrokscopeError(f"reading {path}: it is {what}, expected one written by torch.save")
    try:
        # what torch remarks about odd pickles is not for the reader of one line
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise GrokscopeError(f"reading {path}: {_why_refused(error)}") from None


def _check_archive(path: Path, size: int) -> None:
    """torch stores its entries uncompressed, so an archive that would grow on reading is not torch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise GrokscopeError(
            f"reading {path}: the archive is truncated or damaged ({_first_line(error)}), "
            "expected a whole file written by torch.save"
        ) from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise GrokscopeError(
            f"reading {path}: the archive holds compressed entries, expected the plain ones of torch.save"
        )
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise GrokscopeError(
            f"reading {path}: the archive claims to hold {total} bytes in a file of {size}, expected no more "
            "than the file has"
        )


def _why_refused(error: Exception) -> str:
    message = str(error)
    if isinstance(error, UnicodeDecodeError | EOFError | MemoryError | KeyError | OSError):
        return f"the file is truncated or damaged ({type(error).__name__}), expected one from torch.save"
    found = _GLOBAL.search(message)
    if found and "Weights only load failed" in message:
        return (
            f"the file needs code of its own ({found.group(1)[:100]}), none of which was run; expected plain "
            "tensors and numbers, as torch.save(model.state_dict(), path) writes them"
        )
    if "TorchScript" in message:
        return "a TorchScript program, none of which was run; expected the tensors of a state dict"
    if "Weights only load failed" in message:
        return (
            "the file holds more than plain data or is damaged, and none of it was run; expected plain "
            "tensors and numbers, as torch.save(model.state_dict(), path) writes them"
        )
    return f"the file is truncated or damaged ({_first_line(error)[:120]}), expected one from torch.save"


def _looks_like_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        # a multi-byte character may be cut at the end of what was read
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Plainer:
    """Copies what was unpickled into plain data, counting values and bytes as it goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = 0
        self._bytes = 0

    def convert(self, value: Any, depth: int) -> Plain:
        self._values += 1
        if depth > MAX_DEPTH:
            raise GrokscopeError(
                f"reading {self._path}: the data nest more than {MAX_DEPTH} deep, expected a state dict"
            )
        if self._values > MAX_VALUES:
            raise GrokscopeError(
                f"reading {self._path}: more than {MAX_VALUES} values in the file, expected a state dict"
            )
        if isinstance(value, Tensor):
            return self._tensor(value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict):
            return {_text(key): self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.convert(item, depth + 1) for item in value]
        if isinstance(value, torch.device | torch.dtype):
            return str(value)
        return f"<{type(value).__name__}>"

    def _tensor(self, value: Tensor) -> Tensor:
        dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not dense:
            raise GrokscopeError(
                f"reading {self._path}: a tensor is {value.layout} on {value.device.type}"
                f"{', quantised' if value.is_quantized else ''}, expected dense tensors in memory"
            )
        # an expanded tensor of a few bytes may claim any shape
        self._bytes += math.prod(value.shape) * value.element_size()
        if self._bytes > MAX_FILE_BYTES:
            raise GrokscopeError(
                f"reading {self._path}: its tensors claim more than {MAX_FILE_BYTES} bytes, expected no more"
            )
        return value.detach().clone(memory_format=torch.contiguous_format)


def _text(key: Any) -> str:
    if isinstance(key, str | int | float | bool):
        return str(key)
    return f"<{type(key).__name__}>"
