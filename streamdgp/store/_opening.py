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

__all__ = [
    "BRANCH",
    "create_repository",
    "has_repository",
    "mend_repository",
    "open_repository",
    "reopened",
    "repository_path",
]

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
    repository = reopened(path)
    history, noted = read_history(repository, BRANCH, path), read_synced(path)
    if _is_behind(repository, history, noted):
        raise StorageError(
            f"revision {noted[0]} of {path}, which was synced, on its branch",
            f"revision {_newest(history)} as the newest",
            "Run streamdgp-server check --repair, or start the server.",
        )
    return repository, history


def mend_repository(path: Path) -> None:
    """Before opening for writing: undo what a killed writer or a power cut left; raises as opening does."""
    sweep_unfinished_objects(path)
    sweep_unfinished_tags(path)
    mend_branch(path, BRANCH)
    restore_snapshots(path, path / _NAME / "snapshots")
    repository, noted = reopened(path), read_synced(path)
    try:
        history = read_history(repository, BRANCH, path)
    except (StorageError, icechunk.IcechunkError) as error:
        if not noted[1]:
            raise
        _LOGGER.error(
            "%s in %s cannot be followed (%s); going back to the newest revision known to be whole",
            *(f"branch {BRANCH}", path, str(error).strip().splitlines()[0]),
        )
        repository.reset_branch(BRANCH, noted[1])
        sync_filesystem(path)
        history = read_history(repository, BRANCH, path)
    if _is_behind(repository, history, noted):
        _LOGGER.error(
            "branch %s in %s ends at revision %d; going on to the newest known to be whole, %d",
            *(BRANCH, path, _newest(history), noted[0]),
        )
        repository.reset_branch(BRANCH, noted[1])
        sync_filesystem(path)
        history = read_history(repository, BRANCH, path)
    remove_stale_tags(repository, history.tags)
    tip = (_newest(history), repository.lookup_branch(BRANCH))
    if noted != tip:
        # Damaged, of an earlier version (which noted nothing), or the writer died before it noted.
        sync_filesystem(path)
        write_synced(path, *tip)


def reopened(path: Path) -> icechunk.Repository:
    """The repository by an object that has nothing of it in memory; raises OSError and IcechunkError."""
    return icechunk.Repository.open(_storage(repository_path(path)))


def repository_path(path: Path) -> Path:
    """Where the repository of an atlas lies."""
    return path / _NAME


def _newest(history: History) -> int:
    return history.recent[-1].revision if history.recent else 0


def _is_behind(repository: icechunk.Repository, history: History, noted: tuple[int, str]) -> bool:
    """Whether the branch has lost a revision that was noted as synced (and not the note its truth)."""
    revision, snapshot_id = noted
    if revision <= _newest(history) or any(snapshot_id == one.snapshot_id for one in history):
        return False
    try:
        facts = repository.lookup_snapshot(snapshot_id).metadata
    except (icechunk.IcechunkError, ValueError):
        return False
    return bool(facts.get("revision") == revision)


def _storage(path: Path) -> icechunk.Storage:
    # Its warning about concurrent commits does not apply: the lock admits one committer.
    icechunk.set_logs_filter("error")
    return icechunk.local_filesystem_storage(str(path))
