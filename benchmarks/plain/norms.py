"""Weight norms as notebooks compute them: one ``np.linalg.norm`` a tensor, one checkpoint at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.plain.networks import Setting

BLOCKS = {
    "embed": "embedding",
    "pos_embed": "position",
    "blocks.0.attn": "attention",
    "blocks.0.mlp": "mlp",
    "hidden.1": "hidden.1",
    "head": "head",
    "unembed": "head",
}


def measure(weights: Mapping[str, np.ndarray], setting: Setting) -> dict[str, float]:
    """``norm.total`` and ``norm.<block>`` of one checkpoint."""
    total, blocks = 0.0, {}
    for name, values in weights.items():
        if name.endswith(".b"):
            continue
        square = np.linalg.norm(values.astype(np.float64)) ** 2
        block = f"norm.{BLOCKS[name.rpartition('.')[0]]}"
        blocks[block] = blocks.get(block, 0.0) + square
        total += square
    return {"norm.total": np.sqrt(total), **{name: np.sqrt(square) for name, square in blocks.items()}}
