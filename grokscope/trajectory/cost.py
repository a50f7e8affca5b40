"""What storing a trajectory costs, before any is stored: bytes on disk, and the processor's time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from grokscope.trajectory import format as layout
from grokscope.trajectory.format import ParamSpec, Stream
from grokscope.trajectory.index import capacity_for, index_bytes

# By which a file in memory grows: small ones would be copied over and over.
_INCREMENT = 64 << 20

# Object headers of groups and datasets, measured.
_HEADER_BYTES = 500


def trajectory_bytes(
    params: Mapping[str, ParamSpec], scalars: Sequence[str], saves: int, evaluations: int, scalar_rows: int
) -> tuple[int, int]:
    """The size of a trajectory file, as (weights, scalars): each with the chunk indices that it needs."""
    streams = (
        layout.save_stream(params, layout.block_rows(params)),
        layout.scalar_stream(tuple(scalars), scalar_rows),
    )
    blocks = [-(-count // stream.rows) for stream, count in zip(streams, (saves, evaluations), strict=True)]
    capacity = capacity_for(max(blocks))
    weights, series = (_stream_bytes(s, b, capacity) for s, b in zip(streams, blocks, strict=True))
    return weights, series


def _stream_bytes(stream: Stream, blocks: int, capacity: int) -> int:
    shapes = [*stream.columns.values(), ((), np.dtype(np.int64))]
    total = 0
    for shape, dtype in shapes:
        # a chunk is stored whole, and followed by its checksum
        chunk = stream.rows * math.prod(shape) * np.dtype(dtype).itemsize + 4
        total += _HEADER_BYTES + blocks * chunk
        total += index_bytes(capacity, len(shape) + 1) if blocks else 0
    return total


def save_seconds(params: Mapping[str, ParamSpec], weights: Mapping[str, np.ndarray]) -> float:
    """Seconds for one save: copied into a block, checksummed and laid out as in a file, but in memory.

    What the disk itself takes is not in it; it works beside the training.
    """
    stream = layout.save_stream(params, layout.block_rows(params))
    with h5py.File("cost", "w", driver="core", backing_store=False, block_size=_INCREMENT) as file:
        layout.create_skeleton(file, (stream,), capacity_for(2))
        block = {name: np.empty((stream.rows, *shape), dtype) for name, (shape, dtype) in params.items()}
        began = 0.0
        # the first time pays for memory that a run pays for once
        for _ in range(2):
            began = time.perf_counter()
            for row in range(stream.rows):
                for name, array in weights.items():
                    block[name][row] = array
            for name, rows in block.items():
                dataset = layout.dataset_at(file, stream.path(name))
                dataset.resize(stream.rows, axis=0)
                dataset[:] = rows
            file.flush()
        return (time.perf_counter() - began) / stream.rows
