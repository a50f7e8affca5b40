"""The stored run: save schedule, trajectory file, optimiser snapshots, manifest and settings.

Knows no model: tensors are numpy arrays by name.
"""

from grokscope.trajectory.cost import save_seconds, trajectory_bytes
from grokscope.trajectory.format import (
    SCHEMA_VERSION,
    block_rows,
    open_h5,
    refuse_foreign_storage,
    rows_per_chunk,
)
from grokscope.trajectory.manifest import MANIFEST_NAME, MANIFEST_SCHEMA, read_manifest, write_manifest
from grokscope.trajectory.reader import Trajectory, VerifyReport, verify_trajectory
from grokscope.trajectory.schedule import expand_schedule, most_after_onset, waits_for_onset
from grokscope.trajectory.settings import apply_overrides, choose, read_settings, settings_dict
from grokscope.trajectory.snapshots import read_snapshot, snapshot_steps, write_snapshot
from grokscope.trajectory.writer import TrajectoryWriter

__all__ = [
    "MANIFEST_NAME",
    "MANIFEST_SCHEMA",
    "SCHEMA_VERSION",
    "Trajectory",
    "TrajectoryWriter",
    "VerifyReport",
    "apply_overrides",
    "block_rows",
    "choose",
    "expand_schedule",
    "most_after_onset",
    "open_h5",
    "read_manifest",
    "read_settings",
    "read_snapshot",
    "refuse_foreign_storage",
    "rows_per_chunk",
    "save_seconds",
    "settings_dict",
    "snapshot_steps",
    "trajectory_bytes",
    "verify_trajectory",
    "waits_for_onset",
    "write_manifest",
    "write_snapshot",
]
