"""Clearing old revisions, with copies of the snapshots while they expire.

Icechunk then writes the oldest snapshot that is kept anew, under its old name and without syncing it: a power
cut may leave it empty, and with it the whole history. The copies are whole on disk before that, and are put
back when the store is opened.
"""

from __future__ import annotations

import datetime
import logging
import shutil
from pathlib import Path

import icechunk

from streamdgp.store._durable import replace_durably, sync_filesystem
from streamdgp.store._failpoints import reach

__all__ = ["clear_before", "keep_snapshots", "restore_snapshots"]

_LOGGER = logging.getLogger(__name__)
_NAME = "snapshots.kept"
# Nothing is being written meanwhile, and a clock that was set back must not make new what is old.
_ANY_TIME = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC)


def clear_before(repository: icechunk.Repository, directory: Path, branch: str, oldest_id: str) -> int:
    """Delete what of a branch lies before a snapshot and is not held by a tag; returns the bytes freed.

    For the one writer, between commits; no reader may be at what goes. Raises OSError and IcechunkError.
    """
    snapshots = directory / "icechunk" / "snapshots"
    written = {info.id: info.written_at for info in repository.ancestry(branch=branch)}
    keep_snapshots(directory, snapshots)
    reach("clear.expire")
    # Times along a branch only grow: Icechunk refuses a commit that is older than its parent.
    repository.expire_snapshots(older_than=written[oldest_id])
    # What is kept must be whole on disk before anything is deleted.
    sync_filesystem(directory)
    _forget_snapshots(directory)
    reach("clear.collect")
    try:
        freed = int(repository.garbage_collect(_ANY_TIME).bytes_deleted)
    except icechunk.IcechunkError as error:
        # It reads all that is kept before it deletes anything: a damaged revision stands in the way.
        _LOGGER.error(
            "what only revisions before %s in %s held cannot be deleted (%s). "
            "Run streamdgp-server check --all-revisions",
            *(oldest_id, directory, str(error).strip().splitlines()[0]),
        )
        freed = 0
    reach("clear.sync")
    sync_filesystem(directory)
    return freed


def keep_snapshots(directory: Path, snapshots: Path) -> None:
    """Copy all snapshots (small files), and sync the copies; raises OSError."""
    _forget_snapshots(directory)
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
    _forget_snapshots(directory)


def _forget_snapshots(directory: Path) -> None:
    """Delete the copies, if there are any; raises OSError."""
    for path in directory.glob(f"{_NAME}*"):
        shutil.rmtree(path)
