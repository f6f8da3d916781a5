"""Copies of snapshots while old ones expire.

Icechunk then writes the oldest snapshot that is kept anew, under its old name and without syncing it: a power
cut may leave it empty, and with it the whole history. The copies are whole on disk before that, and are put
back when the store is opened.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from streamdgp.store._durable import replace_durably, sync_filesystem

__all__ = ["forget_snapshots", "keep_snapshots", "restore_snapshots"]

_LOGGER = logging.getLogger(__name__)
_NAME = "snapshots.kept"


def keep_snapshots(directory: Path, snapshots: Path) -> None:
    """Copy all snapshots (small files), and sync the copies; raises OSError."""
    forget_snapshots(directory)
    unfinished = directory / f"{_NAME}.tmp"
    shutil.copytree(snapshots, unfinished)
    sync_filesystem(directory)
    unfinished.rename(directory / _NAME)
    sync_filesystem(directory)


def restore_snapshots(directory: Path, snapshots: Path) -> None:
    """Put copies back where a snapshot is empty; raises OSError."""
    for copy in sorted((directory / _NAME).glob("*")):
        target = snapshots / copy.name
        if target.exists() and not target.stat().st_size:
            _LOGGER.error("%s was not written to its end; its copy is put back", target)
            replace_durably(target, copy.read_bytes())
    forget_snapshots(directory)


def forget_snapshots(directory: Path) -> None:
    """Delete the copies, if there are any; raises OSError."""
    for path in directory.glob(f"{_NAME}*"):
        shutil.rmtree(path)
