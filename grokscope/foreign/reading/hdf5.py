"""HDF5 files that strangers made, Keras's among them: groups become dicts, datasets tensors.

Scope: asking a process of its own (``hdf5_child``) to read the file, and understanding its answer. The HDF5
library crashes on some damaged files and never returns from others; here either ends in one line.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from grokscope.foreign.reading.conversion import listed
from grokscope.foreign.reading.plain import Budget, printable

MAX_ANSWER_BYTES = 64 * 2**20
SECONDS = 20
BYTES_A_SECOND = 16 * 2**20
"""A file has this long to be read, and the longer the larger it is."""

_CHILD = Path(__file__).with_name("hdf5_child.py")
_HDF5 = "expected an HDF5 file of arrays"


def read_hdf5(path: Path, size: int, budget: Budget) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The groups of a file as nested dicts of arrays and text, and what was left out.

    Attributes of a group are under ``__attrs__`` in it, those of a dataset under its name there.

    Raises:
        GrokscopeError: no HDF5 file, a damaged one, one that reads other files (external storage, external
            links, virtual datasets), unknown filters, more objects or bytes than the limits.
    """
    seconds = SECONDS + size // BYTES_A_SECOND
    limits = (budget.limits.max_bytes, budget.limits.max_depth, seconds)
    environment = dict(os.environ)
    # the child imports this very package, wherever it was found
    home = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [environment.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as out:
        try:
            code = subprocess.run(
                [sys.executable, "-P", str(_CHILD), os.path.abspath(path), *(str(one) for one in limits)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, env=environment, check=False,
                timeout=seconds,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            budget.fail(f"damaged HDF5 file (its library did not finish with it in {seconds} seconds)", _HDF5)
        except OSError as error:
            budget.fail(f"no process could be started to read it ({error.strerror})", _HDF5)
        if code:
            budget.fail("damaged HDF5 file (its library fails on it)", _HDF5)
        return _understood(out, budget)


def _understood(out: BinaryIO, budget: Budget) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The answer of the child, each length in it checked: a hostile file may have got hold of the child."""
    total = out.seek(0, os.SEEK_END)
    out.seek(0)
    head = out.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 0 < length <= min(total - 8, MAX_ANSWER_BYTES):
        budget.fail("damaged HDF5 file (nothing came of it)", _HDF5)
    answer = json.loads(out.read(length))
    if "refused" in answer:
        what, expected = (printable(one, 300) for one in answer["refused"])
        if expected:
            budget.fail(what, expected)
        raise budget.refusal(*what.rsplit("; ", 1)) if "; " in what else budget.refusal(what, _HDF5)
    budget.bytes(total - 8 - length)
    content = _node(answer["content"], out, 8 + length, total)
    left = Counter({str(name): int(count) for name, count in answer["left"].items()})
    return content, (f"left out: {listed(left)}",) if left else ()


def _node(node: Any, out: BinaryIO, start: int, total: int) -> Any:
    if isinstance(node, list):
        return [_node(one, out, start, total) for one in node]
    if not isinstance(node, dict):
        return node
    if "group" in node:
        return {str(name): _node(one, out, start, total) for name, one in node["group"].items()}
    text, shape, offset, size = node["array"]
    dtype = np.dtype(text)
    if (
        dtype.kind not in "biufcS"
        or math.prod(shape) * dtype.itemsize != size
        or start + offset + size > total
    ):
        raise ValueError("an array that is none")
    if not size:
        return np.empty(shape, dtype)
    out.seek(start + offset)
    return np.frombuffer(out.read(size), dtype).reshape(shape)
