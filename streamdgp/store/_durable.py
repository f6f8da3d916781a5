"""Locks and syncs: one writer per directory, and data that outlives a power cut."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
from pathlib import Path
from types import TracebackType

from streamdgp.errors import StorageError

__all__ = [
    "DirectoryLock",
    "drop_cached",
    "replace_durably",
    "sweep_unfinished_objects",
    "sync_directory",
    "sync_filesystem",
]

_LOGGER = logging.getLogger(__name__)
_LOCK_NAME = "LOCK"


class DirectoryLock:
    """Exclusive use of a directory for as long as this object lives (or until :meth:`release`).

    The kernel drops the lock when the process dies, however it dies: a stale file is no obstacle.

    Parameters
    ----------
    directory
        Made if missing. The lock is the file ``LOCK`` in it, which holds the owner's process id.

    Raises
    ------
    StorageError
        Another process, or another object of this one, holds the lock.
    """

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / _LOCK_NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(
                f"a writable directory {directory}",
                str(error),
                "Choose another directory or fix its permissions.",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            self._descriptor = -1
            raise StorageError(
                f"one writer for {directory}",
                f"a lock held by process {owner}",
                "Stop that process, or use another directory.",
                metadata={"owner": owner},
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Give the directory up; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def sync_directory(directory: Path) -> None:
    """Make creations and renames in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Write a small file: after a power cut it is there whole, as before or as now."""
    unfinished = path.with_name(path.name + ".tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    unfinished.rename(path)
    sync_directory(path.parent)


def sync_filesystem(directory: Path) -> None:
    """Write everything pending on the file system that holds the directory.

    Icechunk renames its objects into place and never syncs them; this is what makes a commit
    survive a power cut.

    Raises
    ------
    StorageError
        The kernel reports that something could not be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise StorageError(
                f"a synced file system under {directory}",
                os.strerror(code),
                "Check the disk and its free space.",
            )
    finally:
        os.close(descriptor)


def drop_cached(directory: Path, since_s: float) -> None:
    """Let the kernel forget what it has in memory of synced files: reading them reads the disk.

    Of files written since a time (of :func:`time.time`). A request; what else uses a page keeps it.
    """
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_mtime >= since_s - 1:  # file times are coarse
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def sweep_unfinished_objects(directory: Path) -> int:
    """Remove the zero-length ``*#N`` files that a killed writer leaves; returns how many."""
    removed = 0
    for path in directory.rglob("*#[0-9]*"):
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()
            removed += 1
    if removed:
        _LOGGER.info("removed %d unfinished objects under %s", removed, directory)
    return removed
