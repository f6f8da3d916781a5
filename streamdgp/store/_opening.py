"""Making and opening the repository of an atlas; opening for writing mends what a crash left."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import icechunk

from streamdgp.errors import StorageError
from streamdgp.store._clearing import restore_snapshots
from streamdgp.store._durable import sweep_unfinished_objects, sync_filesystem
from streamdgp.store._history import History, read_history
from streamdgp.store._tags import remove_stale_tags, sweep_unfinished_tags
from streamdgp.store._tip import mend_branch, read_synced, write_synced

__all__ = ["BRANCH", "create_repository", "has_repository", "mend_repository", "open_repository"]

BRANCH = "main"
_NAME = "icechunk"
_LOGGER = logging.getLogger(__name__)


def has_repository(path: Path) -> bool:
    """Whether there is an atlas in a directory."""
    return (path / _NAME / "refs").is_dir()


def create_repository(path: Path) -> icechunk.Repository:
    """Make an empty repository; raises OSError and IcechunkError."""
    # Under its name only when it is whole on disk: nothing else tells a half-made one.
    unfinished = path / f"{_NAME}.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    new = icechunk.Repository.create(_storage(unfinished))
    sync_filesystem(path)
    write_synced(path, 0, new.lookup_branch(BRANCH))
    unfinished.rename(path / _NAME)
    sync_filesystem(path)
    return icechunk.Repository.open(_storage(path / _NAME))


def open_repository(path: Path) -> tuple[icechunk.Repository, History]:
    """Open as it is, for reading; raises StorageError, OSError and IcechunkError."""
    repository = icechunk.Repository.open(_storage(path / _NAME))
    return repository, read_history(repository, BRANCH, path)


def mend_repository(path: Path) -> None:
    """Before opening for writing: undo what a killed writer or a power cut left; raises as opening does."""
    sweep_unfinished_objects(path)
    sweep_unfinished_tags(path)
    mend_branch(path, BRANCH)
    restore_snapshots(path, path / _NAME / "snapshots")
    repository = icechunk.Repository.open(_storage(path / _NAME))
    noted = read_synced(path)
    try:
        history = read_history(repository, BRANCH, path)
    except (StorageError, icechunk.IcechunkError) as error:
        if not noted:
            raise
        _LOGGER.error(
            "%s in %s cannot be followed (%s); going back to the newest revision known to be whole",
            *(f"branch {BRANCH}", path, str(error).strip().splitlines()[0]),
        )
        repository.reset_branch(BRANCH, noted)
        sync_filesystem(path)
        history = read_history(repository, BRANCH, path)
    remove_stale_tags(repository, history.tags)
    if not noted:
        # Of an earlier version, which noted nothing.
        sync_filesystem(path)
        newest = history.recent[-1].revision if history.recent else 0
        write_synced(path, newest, repository.lookup_branch(BRANCH))


def _storage(path: Path) -> icechunk.Storage:
    # Its warning about concurrent commits does not apply: the lock admits one committer.
    icechunk.set_logs_filter("error")
    return icechunk.local_filesystem_storage(str(path))
