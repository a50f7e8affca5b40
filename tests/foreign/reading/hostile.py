"""Files made to do harm, or broken in ways that files break: what ``safe_read`` has to stand.

Every pickle of ``code_pickles`` makes the folder ``marker`` when something runs what it asks for.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Touch:
    """Makes a folder when it is unpickled by something that runs what a pickle asks for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def text(value: str) -> bytes:
    """A text as protocol 2 writes it."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def code_pickles(marker: Path) -> dict[str, bytes]:
    """Name → a pickle that tries to make ``marker``, by another way of calling each."""
    path = text(str(marker))
    quoted = f"S'{marker}'\n".encode()
    source = text(f"__import__('os').mkdir({str(marker)!r})")
    weights = {"w": np.zeros(2), "x": Touch(marker)}
    imported = b"cbuiltins\n__import__\n" + text("os") + b"\x85R"
    return {
        "reduce": pickle.dumps(Touch(marker)),
        "nested reduce": pickle.dumps({"a": [1, (Touch(marker), 2)]}),
        "beside arrays": pickle.dumps(weights),
        "in an array of objects": pickle.dumps(np.array([Touch(marker), 1], dtype=object)),
        "protocol 0": b"cos\nmkdir\n(" + quoted + b"tR.",
        "protocol 0 in a list": b"(lp0\ncposix\nmkdir\n(" + quoted + b"tRa.",
        "global": b"\x80\x02cos\nmkdir\n" + path + b"\x85R.",
        "python 2 name": b"\x80\x02c__builtin__\neval\n" + source + b"\x85R.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + path + b"\x85R.",
        "inst": b"(" + quoted + b"ios\nmkdir\n.",
        "obj": b"(cos\nmkdir\n" + quoted + b"o.",
        "newobj": b"\x80\x02csubprocess\nPopen\n" + text("mkdir") + path + b"\x86\x85\x81.",
        "newobj ex": b"\x80\x04csubprocess\nPopen\n" + text("mkdir") + path + b"\x86\x85}\x92.",
        "eval": b"\x80\x02cbuiltins\neval\n" + source + b"\x85R.",
        "exec": b"\x80\x02cbuiltins\nexec\n" + source + b"\x85R.",
        "getattr of import": b"\x80\x02cbuiltins\ngetattr\n" + imported + text("mkdir") + b"\x86R" + path + b"\x85R.",
        "setstate of a state": b"\x80\x02ctypes\nSimpleNamespace\n)R}" + text("__setstate__") + b"cos\nmkdir\nsb"
        + path + b"b.",
        "dotted name": b"\x80\x04" + text("torch.serialization") + text("os.mkdir") + b"\x93" + path + b"\x85R.",
        "partial": b"\x80\x02cfunctools\npartial\ncos\nmkdir\n" + path + b"\x86R)R.",
        "attrgetter on a module": b"\x80\x02coperator\nattrgetter\n" + text("os.mkdir")
        + b"\x85Rctorch\nserialization\n\x85R" + path + b"\x85R.",
        "methodcaller on a module": b"\x80\x02coperator\nmethodcaller\n" + text("mkdir") + path + b"\x86R" + imported
        + b"\x85R.",
        "hook of a default dict": b"\x80\x02ccollections\ndefaultdict\ncfunctools\npartial\ncos\nmkdir\n" + path
        + b"\x86R\x85R.",
        "persistent id": b"\x80\x02cos\nmkdir\n" + path + b"\x85RQ.",
        "nested pickle": b"\x80\x02cpickle\nloads\n" + b"\x80\x03"[2:] + b"B" + _sized(pickle.dumps(Touch(marker)))
        + b"\x85R.",
        "nested storage": b"\x80\x03ctorch.storage\n_load_from_bytes\nB"
        + _sized(legacy(pickle.dumps(Touch(marker), protocol=2))) + b"\x85R.",
        "numpy that runs text": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n" + source + b"}\x86R.",
        "rebuilt by another function": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nmkdir\nctorch\nTensor\n"
        + path + b"\x85NtR.",
    }  # fmt: skip


def _sized(raw: bytes) -> bytes:
    return struct.pack("<I", len(raw)) + raw


def archive(content: bytes, storages: dict[str, bytes] | None = None, compression: int = STORED) -> bytes:
    """A zip archive as torch writes it around the pickle ``content``."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as new:
        new.writestr("a/data.pkl", content)
        new.writestr("a/byteorder", "little")
        for key, raw in (storages or {}).items():
            new.writestr(f"a/data/{key}", raw)
        new.writestr("a/version", "3\n")
    return made.getvalue()


def legacy(content: bytes, keys: bytes = b"\x80\x02].", storages: bytes = b"") -> bytes:
    """A file as torch before 1.6 writes it around the pickle ``content``."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    start = (0x1950A86A20F9469CFC6C, 1001, system)
    return b"".join(pickle.dumps(one, protocol=2) for one in start) + content + keys + storages


WRAPPERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": (".pkl", lambda content: content),
    "archive": (".pt", archive),
    "legacy": (".pth", legacy),
    "legacy magic": (".pth", lambda content: content + legacy(b"N.")),
    "npy": (".npy", lambda content: npy_header("|O", "(1,)") + content),
}
"""Name → suffix and what puts a pickle into a file."""


def npy_header(dtype: str, shape: str) -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def tensor_pickle(
    size: str = "K\x03", stride: str = "K\x01", count: str = "K\x03", offset: str = "K\x00"
) -> bytes:
    """The pickle of one tensor, with numbers that may lie, as opcodes."""
    latin = [one.encode("latin-1") for one in (offset, size, stride, count)]
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + latin[3] + b"tQ"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + latin[0] + latin[1] + b"\x85" + latin[2]
        + b"\x85\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


LARGE = "\x8a\x06\x00\x00\x00\x00\x00\x10"
"""2^44 as an opcode."""


def lying_tensors() -> dict[str, bytes]:
    """Archives whose tensors or storages are not what they claim; the storage has three numbers."""
    real = {"0": np.arange(3, dtype=np.float32).tobytes()}
    short = archive(tensor_pickle(), {"0": real["0"][:8]})
    return {
        "storage larger than its entry": archive(tensor_pickle(count=LARGE), real),
        "shape beyond its storage": archive(tensor_pickle(size="K\x04"), real),
        "large shape": archive(tensor_pickle(size=LARGE), real),
        "large stride": archive(tensor_pickle(stride=LARGE), real),
        "shape by stride 0": archive(tensor_pickle(size=LARGE, stride="K\x00"), real),
        "offset beyond its storage": archive(tensor_pickle(offset="K\x01"), real),
        "large offset": archive(tensor_pickle(offset=LARGE), real),
        "negative offset": archive(tensor_pickle(offset="J\xff\xff\xff\xff"), real),
        "negative stride": archive(tensor_pickle(stride="J\xff\xff\xff\xff"), real),
        "negative size": archive(tensor_pickle(size="J\xff\xff\xff\xff"), real),
        "size that is text": archive(tensor_pickle(size="X\x01\x00\x00\x003"), real),
        "entry too short": short,
        "entry missing": archive(tensor_pickle(), {}),
        "compressed": archive(tensor_pickle(), {"0": bytes(10**6)}, DEFLATED),
        "legacy, larger than the file": legacy(tensor_pickle(count=LARGE, size=LARGE)[:-1] + b"."),
        "legacy, count that lies": legacy(
            tensor_pickle(), b"\x80\x02]" + text("0") + b"a.", struct.pack("<q", 2**40) + real["0"]
        ),
        "legacy, negative count": legacy(
            tensor_pickle(), b"\x80\x02]" + text("0") + b"a.", struct.pack("<q", -3) + real["0"]
        ),
    }


def floods() -> dict[str, bytes]:
    """Pickles that would take memory, stack or time without end, small as they are."""
    doubled = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([level]) + b"(h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"e"
        for level in range(1, 41)
    )
    tuples = b"\x80\x02)" + b"2\x86" * 60
    numpy_type = b"cnumpy\ndtype\n" + text("O") + b"\x85R"
    array = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
    scalar = b"\x80\x02cnumpy.core.multiarray\nscalar\n"
    return {
        "lists in lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "tuples in tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
        "tuple that doubles": tuples + b".",
        "tuple that doubles as a key": b"\x80\x02}" + tuples[2:] + b"Ns.",
        "deep tuple as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
        "set of a tuple that doubles": b"\x80\x04\x8f(" + tuples[2:] + b"\x90.",
        "list that doubles": doubled + b".",
        "list in itself": b"\x80\x02]q\x00h\x00a.",
        "dict in itself": b"\x80\x02}q\x00" + text("x") + b"h\x00s.",
        "tuple in itself": b"\x80\x02]q\x00h\x00\x85a.",
        "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
        "marks": b"\x80\x02" + b"(" * 500_000 + b".",
        "stack": b"\x80\x02" + b"N" * 3_000_000 + b".",
        "pushes and pops": b"\x80\x02" + b"N0" * 5_000_000 + b"N.",
        "memo": b"\x80\x04" + b"]\x940" * 3_000_000 + b"N.",
        "empty sets": b"\x80\x04(" + b"\x8f" * 2_500_000 + b"l.",
        "integer that claims": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "integer of a negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
        "integer in digits": b"L" + b"9" * 100_000 + b"L\n.",
        "text that claims": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        "bytes that claim": b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"x.",
        "bytearray that claims": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        "frame that claims": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "bytearray of a number": b"\x80\x02cbuiltins\nbytearray\n" + LARGE.encode("latin-1") + b"\x85R.",
        "range as a list": b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n" + LARGE.encode("latin-1") + b"\x85R\x85R.",
        "text made bytes again and again": b"\x80\x02" + text("x" * 100_000) + b"q\x00" + text("latin1") + b"q\x010]("
        + b"c_codecs\nencode\nh\x00h\x01\x86R" * 20_000 + b"e.",
        "codec that expands": b"\x80\x02c_codecs\nencode\n" + text("x") + text("zlib_codec") + b"\x86R.",
        "dict that is copied": b"\x80\x02}(" + b"".join(text(str(i)) + b"N" for i in range(2000)) + b"uq\x00ca\nB\n)R"
        + b"h\x00b" * 5000 + b".",
        "names that grow": b"\x80\x02ca\nB\n" + b")R" * 100_000 + b".",
        "attributes of attributes": b"\x80\x02cbuiltins\ngetattr\nq\x00ca\nB\n" + b"q\x010h\x00h\x01" + text("x")
        + b"\x86R" + b".",
        "tensor that is set": tensor_pickle()[:-1] + b"(K\x00K\x00K\x00tb.",
        "numpy array that claims": array + LARGE.encode("latin-1") + b"\x85cnumpy\ndtype\n" + text("f8")
        + b"\x85R\x89C\x08" + bytes(8) + b"tb.",
        "numpy objects out of bytes": array + b"K\x01\x85" + numpy_type + b"\x89C\x08" + b"A" * 8 + b"tb.",
        "numpy fields over bytes": scalar + b"cnumpy\ndtype\n" + text("V8") + b"\x85R(K\x03" + text("|")
        + b"N" + text("f") + b"\x85}" + text("f") + numpy_type + b"K\x00\x86sK\x08K\x01K\x00tb" + b"C\x08"
        + b"A" * 8 + b"\x86R.",
        "extension": b"\x80\x02\x82\xf0.",
        "buffer that is elsewhere": b"\x80\x05\x97.",
        "empty stack": b"\x80\x02.",
        "protocol 9": b"\x80\x09N.",
        "called number": b"\x80\x02K\x05)R.",
        "appended number": b"\x80\x02K\x05Na.",
        "recalled nothing": b"\x80\x02h\x07.",
    }  # fmt: skip


def many_keys(count: int) -> bytes:
    """A pickle of a dict of ``count`` names."""
    return pickle.dumps({f"n{index}": index for index in range(count)}, protocol=2)


def saved(content: object, **options: object) -> bytes:
    """What ``torch.save`` writes."""
    made = io.BytesIO()
    torch.save(content, made, **options)  # type: ignore[arg-type]
    return made.getvalue()
