"""Files that appear whole or not at all, and what a lack of space is called."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from grokscope.errors import GrokscopeError

NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EFBIG: "the file size limit is reached"}
"""Errors that more space cures, in words."""
if hasattr(errno, "EDQUOT"):
    NO_SPACE[errno.EDQUOT] = "the disk quota is used up"


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step: a temporary name, fsync, rename. Raises GrokscopeError."""
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in NO_SPACE:
            raise GrokscopeError(
                f"write {path}: {NO_SPACE[error.errno]}, {len(content)} free bytes expected"
            ) from None
        raise GrokscopeError(f"write {path}: {error.strerror}") from None


def temporary_path(path: Path) -> Path:
    """Where ``replace_file`` writes before the rename."""
    return path.with_name(f".{path.name}.tmp")


def sync_directory(directory: Path) -> None:
    """Make a rename durable, where the platform lets directories be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
