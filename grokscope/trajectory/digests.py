"""One checksum for each save of a trajectory, so that what was computed from it can be found again.

A digest is the SHA-256, cut to 16 bytes, of a save's tensors: for each in order of its name a header (name,
dtype, shape) and its bytes. It depends on nothing else, so a save has the digest it has in any file. (With the
instructions that processors have for it SHA-256 runs at twice the speed of BLAKE2b.)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from grokscope.trajectory.reader import Trajectory

DIGEST_BYTES = 16
FILE_NAME = "digests.npz"
CHECKSUM_NAME = "checksum.json"

_READ_BYTES = 32 * 2**20
_READ_ROWS = 16

# A file that changed this recently may change again without its times showing it.
_SETTLED_NS = 2_000_000_000

_KNOWN: WeakKeyDictionary[Trajectory, np.ndarray] = WeakKeyDictionary()


def save_digests(trajectory: Trajectory, folder: Path | None = None) -> np.ndarray:
    """The digest of every committed save, (T, 16) uint8.

    Args:
        folder: where they are kept from one process to the next, in ``digests.npz``: what is there is believed
            while the file has the size, the times and the place on disk that it had when it was read. A folder
            that cannot be used costs the time of reading the trajectory, nothing else.

    Raises:
        GrokscopeError: as :meth:`Trajectory.read`.
    """
    count = len(trajectory.steps)
    known = _KNOWN.get(trajectory)
    if known is not None and len(known) == count:
        return known
    stamp = _stamp(trajectory.path)
    stored = None if folder is None else _load(folder / FILE_NAME, stamp, count)
    if stored is None:
        began = time.time_ns()
        stored = _compute(trajectory, count)
        if folder is not None and _settled(stamp, began) and np.array_equal(stamp, _stamp(trajectory.path)):
            _save(folder / FILE_NAME, stamp, stored)
    stored.setflags(write=False)
    _KNOWN[trajectory] = stored
    return stored


def content_digest(trajectory: Trajectory, folder: Path | None = None) -> str:
    """SHA-256, in hex, of the steps, the digests of all saves and the scalars.

    It tells two trajectories apart as :meth:`Trajectory.checksum` does, but reads no weights where
    ``folder`` holds their digests (see :func:`save_digests`).
    """
    digest = hashlib.sha256(trajectory.steps.astype("<i8").tobytes())
    digest.update(save_digests(trajectory, folder).tobytes())
    with trajectory:
        scalars = trajectory.scalars
    for name, values in scalars.items():
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def remembered_checksum(trajectory: Trajectory, folder: Path) -> str:
    """:meth:`Trajectory.checksum`, read from ``folder`` while the file is as it was when it was computed there.

    What verifies a trajectory calls the method; this is for telling a reader which content was measured.
    """
    path, stamp, count = folder / CHECKSUM_NAME, _stamp(trajectory.path), len(trajectory.steps)
    described = {"stamp": stamp.tolist(), "saves": count}
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text())
        known = stored["checksum"]
        if stamp.size and stored["of"] == described and isinstance(known, str) and len(known) == 64:
            return known
    began = time.time_ns()
    checksum = trajectory.checksum()
    if _settled(stamp, began) and np.array_equal(stamp, _stamp(trajectory.path)):
        text = json.dumps({"of": described, "checksum": checksum})
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
            temporary.write_text(text)
            temporary.replace(path)
    return checksum


def _settled(stamp: np.ndarray, began: int) -> bool:
    """Whether a change since ``began`` would show in the stamp of the file."""
    return stamp.size > 0 and began - int(stamp[1:3].max()) > _SETTLED_NS


def _compute(trajectory: Trajectory, count: int) -> np.ndarray:
    shapes, dtypes = trajectory.shapes, trajectory.dtypes
    names = trajectory.names
    row_bytes = sum(int(np.prod(shapes[name], dtype=np.int64)) * dtypes[name].itemsize for name in names)
    headers = {
        name: f"{name}\0{dtypes[name].newbyteorder('<').str}\0{shapes[name]}\0".encode() for name in names
    }
    block = max(1, _READ_BYTES // max(row_bytes, 1))
    block = max(block - block % _READ_ROWS, min(block, _READ_ROWS))
    found = np.empty((count, DIGEST_BYTES), np.uint8)
    with trajectory:
        for start in range(0, count, block):
            stop = min(start + block, count)
            running = [hashlib.sha256() for _ in range(start, stop)]
            for name in names:
                rows = np.ascontiguousarray(trajectory.read(name, slice(start, stop)))
                for digest, row in zip(running, rows, strict=True):
                    digest.update(headers[name])
                    digest.update(row.reshape(-1).view(np.uint8).data)
            for index, digest in enumerate(running, start):
                found[index] = np.frombuffer(digest.digest()[:DIGEST_BYTES], np.uint8)
    return found


def _stamp(path: Path) -> np.ndarray:
    """Size, times (ns) and place of a file, by which a change of it shows; empty where it has none."""
    try:
        status = path.stat()
    except OSError:
        return np.zeros(0, np.int64)
    parts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return np.array([part % 2**63 for part in parts], np.int64)


def _load(path: Path, stamp: np.ndarray, count: int) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            digests = stored["digests"]
            if not stamp.size or not np.array_equal(stored["stamp"], stamp):
                return None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    # the file may have grown since this trajectory was opened; what was committed first stays first
    fits = digests.dtype == np.uint8 and digests.ndim == 2 and digests.shape[1] == DIGEST_BYTES
    return digests[:count].copy() if fits and len(digests) >= count else None


def _save(path: Path, stamp: np.ndarray, digests: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, stamp=stamp, digests=digests)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
