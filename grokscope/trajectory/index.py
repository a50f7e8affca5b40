"""Room in the chunk index, so that it never has to be rearranged under committed data.

HDF5 finds the chunks of a dataset through a B-tree whose nodes hold 2K entries; K is fixed when the file is
created. A node that is full is split in two by several separate writes, and a process killed between them
loses every chunk the node held. In a node with room, a commit adds one entry and moves nothing. So a file
is made with room for all the blocks it will hold, and one that runs out is copied into a roomier one.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import h5py
from h5py._objects import phil

SMALLEST_CAPACITY = 64
LARGEST_CAPACITY = 32768


def capacity_for(blocks: int) -> int:
    """Index entries for a file of ``blocks`` chunks per dataset: even, with a quarter to spare."""
    wanted = blocks + blocks // 4
    return max(SMALLEST_CAPACITY, min(LARGEST_CAPACITY, wanted + wanted % 2))


def index_bytes(capacity: int, axes: int) -> int:
    """An upper bound for one node of the index of a dataset of ``axes`` axes."""
    return 256 + capacity * (32 + 8 * axes)


def create_empty(path: Path, capacity: int) -> int:
    """An empty HDF5 file whose chunk indices hold ``capacity`` entries to a node; returns what they hold.

    h5py has no call for it, so the library it has loaded is asked directly; where that cannot be reached
    the file gets HDF5's default of 64. Raises OSError.
    """
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    held = SMALLEST_CAPACITY
    with contextlib.suppress(OSError, AttributeError):
        # Symbols of the libraries an extension module is linked to are found through its handle.
        set_istore_k = ctypes.CDLL(h5py.h5p.__file__).H5Pset_istore_k
        set_istore_k.argtypes = [ctypes.c_int64, ctypes.c_uint]
        set_istore_k.restype = ctypes.c_int
        with phil:
            if set_istore_k(creation.id, capacity // 2) >= 0:
                held = capacity
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
    access.set_file_locking(False, True)
    h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, creation, access).close()
    return held
