"""Measurements in the forms that other tools read: pandas, xarray, Parquet, TensorBoard, Weights & Biases.

Each loads its library on first use; a missing one is told in one line, with what installs it.
"""

from __future__ import annotations

from grokscope.export.frames import to_pandas, to_parquet, to_xarray
from grokscope.export.scalars import scalar_series, to_tensorboard, to_wandb

__all__ = ["scalar_series", "to_pandas", "to_parquet", "to_tensorboard", "to_wandb", "to_xarray"]
