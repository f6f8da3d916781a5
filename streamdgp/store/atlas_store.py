"""The atlas in zarr v3 on Icechunk: one atomic commit per revision, any revision readable.

Layout of a revision (``docs/storage.md`` has the whole of it)::

    /                         attributes: schema, revision, created, log_position, metadata, ...
    /tables/<table>/<column>  one array per column, chunked by pages of rows
    /arrays/<name>            small arrays, replaced whole

Every array has the codecs bytes, zstd (level 1) and crc32c, and no shards.
"""

from __future__ import annotations

import copy
import datetime
import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from streamdgp.atlas.changes import AtlasChanges, AtlasState
from streamdgp.errors import AlreadyExistsError, NotFoundError, StorageError
from streamdgp.store._clearing import forget_snapshots, keep_snapshots, restore_snapshots
from streamdgp.store._contents import UnreadableError, entries_after, read_back, read_contents
from streamdgp.store._digests import ArrayDigests, Digests, seal_commit
from streamdgp.store._durable import DirectoryLock, sweep_unfinished_objects, sync_filesystem
from streamdgp.store._failpoints import reach
from streamdgp.store._history import RevisionInfo, read_history
from streamdgp.store._tables import (
    Layout,
    StagedColumn,
    layouts_of,
    stage_table,
    write_array,
    write_columns,
)
from streamdgp.store._tip import mend_branch, read_synced, write_synced

__all__ = ["SCHEMA_NAME", "SCHEMA_VERSION", "AtlasStore", "RevisionInfo", "StagedCommit", "StoredRevision"]

SCHEMA_NAME = "streamdgp-atlas"
SCHEMA_VERSION = 2
_READABLE_VERSIONS = (1, SCHEMA_VERSION)
"""Version 1 had no digests."""
_BRANCH = "main"
_REPOSITORY = "icechunk"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredRevision:
    """A revision as read back. ``log_position`` is what the committer passed, unchanged."""

    revision: int
    state: AtlasState
    log_position: dict[str, Any]
    created: datetime.datetime


@dataclass(frozen=True)
class StagedCommit:
    """Copies of everything that one commit writes."""

    revision: int
    columns: list[StagedColumn]
    arrays: dict[str, npt.NDArray[Any]]
    metadata: dict[str, Any]
    log_position: dict[str, Any]
    message: str
    frames: int
    charts: int


class AtlasStore:
    """The committed revisions of one scene's atlas. One writer; any number of reading threads.

    Use :meth:`create` or :meth:`open`. Revision numbers start at 1 and grow by one; a store without
    a commit is at revision 0, which cannot be read.
    """

    def __init__(self, path: Path, repository: icechunk.Repository, lock: DirectoryLock | None) -> None:
        self.path = path
        self._repository = repository
        self._lock = lock
        self._guard = threading.Lock()  # of the history
        self._reading = threading.Lock()  # of objects that clearing may delete
        self._failed = False
        self._digests: Digests | None = None  # of the newest revision, once they are known
        self._entries: ArrayDigests = {}  # of its arrays
        self._unproven: dict[int, Digests] = {}  # pages by the revision that wrote them, not read back yet
        self._proven_s = time.time()
        self._layouts: dict[tuple[str, str], Layout] | None = None
        self._history: list[RevisionInfo] = read_history(repository, _BRANCH, path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty store in ``path`` (a directory made if missing) and open it for writing.

        Raises
        ------
        AlreadyExistsError
            There is a store already.
        StorageError
            The directory is locked or cannot be written.
        """
        path = Path(path)
        lock = DirectoryLock(path)
        if _exists(path):
            lock.release()
            raise AlreadyExistsError(
                f"no atlas in {path}", "one that exists", "Open it, or choose another path."
            )
        try:
            # Under its name only when it is whole on disk: nothing else tells a half-made one.
            unfinished = path / "icechunk.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            new = icechunk.Repository.create(_storage(unfinished))
            sync_filesystem(path)
            write_synced(path, 0, new.lookup_branch(_BRANCH))
            unfinished.rename(path / _REPOSITORY)
            sync_filesystem(path)
            return cls(path, icechunk.Repository.open(_storage(path / _REPOSITORY)), lock)
        except (icechunk.IcechunkError, OSError) as error:
            lock.release()
            raise _damaged(path, "created", error) from error

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open an existing store at its newest revision.

        Opening for writing takes the lock and removes what a killed writer left unfinished.

        Raises
        ------
        NotFoundError
            There is no store in ``path``.
        StorageError
            The store is locked, damaged, or of a newer schema.
        """
        path = Path(path)
        if not _exists(path):
            raise NotFoundError(f"an atlas in {path}", "none", "Create one, or check the path.")
        lock = None if read_only else DirectoryLock(path)
        try:
            if lock is not None:
                sweep_unfinished_objects(path)
                mend_branch(path, _BRANCH)
                restore_snapshots(path, path / _REPOSITORY / "snapshots")
            noted = read_synced(path)
            repository = icechunk.Repository.open(_storage(path / _REPOSITORY))
            try:
                store = cls(path, repository, lock)
            except (StorageError, icechunk.IcechunkError) as error:
                if lock is None or not noted[1]:
                    raise
                _LOGGER.error(
                    "%s in %s cannot be followed (%s); going back to the newest revision known to be whole",
                    *(f"branch {_BRANCH}", path, str(error).strip().splitlines()[0]),
                )
                repository.reset_branch(_BRANCH, noted[1])
                sync_filesystem(path)
                store = cls(path, repository, lock)
            if store._is_behind(noted):
                if lock is None:
                    raise StorageError(
                        f"revision {noted[0]} of {path}, which was synced, on its branch",
                        f"revision {store.latest_revision} as the newest",
                        "Run streamdgp-server check --repair, or start the server.",
                    )
                _LOGGER.error(
                    "branch %s in %s ends at revision %d; going on to the newest known to be whole, %d",
                    *(_BRANCH, path, store.latest_revision, noted[0]),
                )
                repository.reset_branch(_BRANCH, noted[1])
                sync_filesystem(path)
                store = cls(path, repository, lock)
            newest = repository.lookup_branch(_BRANCH)
            if lock is not None and noted != (store.latest_revision, newest):
                # Damaged, of an earlier version (which noted nothing), or the writer died before it noted.
                sync_filesystem(path)
                write_synced(path, store.latest_revision, newest)
            return store
        except StorageError:
            _release(lock)
            raise
        except (icechunk.IcechunkError, OSError) as error:
            _release(lock)
            raise _damaged(path, "opened", error) from error

    def close(self) -> None:
        """Release the lock; the object must not be used for commits afterwards."""
        _release(self._lock)
        self._lock = None

    @property
    def latest_revision(self) -> int:
        """The newest revision; 0 before the first commit."""
        return self._history[-1].revision if self._history else 0

    def revisions(self) -> list[RevisionInfo]:
        """All revisions, oldest first."""
        return list(self._history)

    def commit(
        self,
        changes: AtlasChanges,
        log_position: dict[str, Any],
        message: str = "",
        *,
        frames: int = 0,
        charts: int = 0,
    ) -> int:
        """Write one revision, atomically and durably, and return its number.

        Tables and arrays that ``changes`` leaves out stay as they were; metadata is replaced whole.
        A failed commit leaves the store at the revision before.

        Parameters
        ----------
        log_position
            JSON-able; says which log records the revision includes.
        frames, charts
            Totals for the history.

        Raises
        ------
        StorageError
            The store is read-only, damaged, or the disk refused.
        """
        return self.write(self.stage(changes, log_position, message, frames=frames, charts=charts))

    def stage(
        self,
        changes: AtlasChanges,
        log_position: dict[str, Any],
        message: str = "",
        *,
        frames: int = 0,
        charts: int = 0,
    ) -> StagedCommit:
        """Copy what a commit needs; arguments as for :meth:`commit`.

        ``changes`` may change as soon as this returns, while another thread writes the commit. The one before
        must have been written.

        Raises
        ------
        StorageError
            The store is read-only or damaged.
        """
        if self._lock is None:
            raise StorageError(
                "a store opened for writing", "one opened read-only or closed", "Open it again."
            )
        if self._failed:
            raise StorageError(
                "a store whose last commit ended well", "one that failed", "Restart the process."
            )
        if self._layouts is None:
            try:
                session = self._repository.readonly_session(branch=_BRANCH)
                self._layouts = layouts_of(zarr.open_group(session.store, mode="r", zarr_format=3))
            except (FileNotFoundError, zarr.errors.GroupNotFoundError):
                self._layouts = {}
            except (icechunk.IcechunkError, OSError, ValueError, KeyError) as error:
                raise _damaged(self.path, "read (its layout)", error) from error
        columns = [
            one for name, table in changes.tables.items() for one in stage_table(name, table, self._layouts)
        ]
        return StagedCommit(
            revision=self.latest_revision + 1,
            columns=columns,
            arrays={name: np.array(array) for name, array in changes.arrays.items()},
            metadata=copy.deepcopy(changes.metadata),
            log_position=dict(log_position),
            message=message,
            frames=frames,
            charts=charts,
        )

    def write(self, staged: StagedCommit) -> int:
        """Write a staged commit, atomically and durably; returns its revision. Any thread, one at a time.

        Raises
        ------
        StorageError
            The store is damaged, the disk refused, or another commit was written since it was staged.
        """
        revision = staged.revision
        if self._failed or revision != self.latest_revision + 1:
            raise StorageError(
                f"revision {self.latest_revision} as the one before, and written",
                f"a commit staged as revision {revision}",
                "Restart the process.",
            )
        created = datetime.datetime.now(datetime.UTC)
        totals: dict[str, Any] = {
            "revision": revision,
            "created": created.isoformat(),
            "frames": staged.frames,
            "charts": staged.charts,
        }
        message = staged.message or f"revision {revision}"
        known = self._known_digests(staged)
        try:
            session = self._repository.writable_session(_BRANCH)
            root = zarr.open_group(session.store, mode="a", zarr_format=3)
            # Pages are written as they are: looking for empty ones costs more than it saves.
            with zarr.config.set({"array.write_empty_chunks": True}):
                written = write_columns(root, staged.columns, known)
                for name, array in staged.arrays.items():
                    written |= write_array(root, name, array, known)
            entries = entries_after(self._entries, staged.columns, staged.arrays, known | written)
            attributes = {
                "schema": SCHEMA_NAME,
                "schema_version": SCHEMA_VERSION,
                **totals,
                "log_position": staged.log_position,
                "metadata": staged.metadata,
                "digests": entries,
            }
            root.attrs.put(attributes)
            reach("commit.write")
            facts = seal_commit(totals, attributes, message)
            snapshot_id = session.commit(message, metadata=facts)
            reach("commit.sync")
            sync_filesystem(self.path)
            reach("commit.synced")
            write_synced(self.path, revision, snapshot_id)
        except (icechunk.IcechunkError, OSError, StorageError) as error:
            # Whether the branch moved is unknown: only opening the store again tells.
            self._failed = True
            raise _damaged(self.path, f"given revision {revision}", error) from error
        self._unproven[revision] = {key: page for key, page in written.items() if known.get(key) != page}
        self._digests, self._entries = known | written, entries
        tables = {one.table for one in staged.columns}
        kept = {key: value for key, value in (self._layouts or {}).items() if key[0] not in tables}
        self._layouts = kept | {(one.table, one.column): one.layout for one in staged.columns}
        info = RevisionInfo(
            revision, created, staged.frames, staged.charts, snapshot_id, message, facts["attributes_sha256"]
        )
        with self._guard:
            self._history.append(info)
        _LOGGER.debug("committed revision %d (%s)", revision, snapshot_id)
        return revision

    def read(self, revision: int | None = None) -> StoredRevision:
        """Read a revision whole; None is the newest. The arrays are fresh copies.

        Raises
        ------
        NotFoundError
            No such revision.
        StorageError
            A checksum does not match, or an object is missing; the message names the array.
        """
        with self._reading:
            info = self._find(revision)
            where = f"revision {info.revision}"
            try:
                session = self._repository.readonly_session(snapshot_id=info.snapshot_id)
                root = zarr.open_group(session.store, mode="r", zarr_format=3)
                _check_schema(self.path, dict(root.attrs.asdict()))
                found = read_contents(root, where, info.attributes_sha256)
                state = AtlasState(found.tables, found.arrays, dict(found.attributes["metadata"]))
                position = dict(found.attributes["log_position"])
            except UnreadableError as error:
                raise _damaged(self.path, f"read ({error.where})", error.cause) from error
            except (icechunk.IcechunkError, ValueError, KeyError, OSError, TypeError) as error:
                raise _damaged(self.path, f"read ({where})", error) from error
            if self._digests is None and info.revision == self.latest_revision:
                self._digests, self._entries = found.pages, found.known_entries()
        return StoredRevision(info.revision, state, position, info.created)

    def _is_behind(self, noted: tuple[int, str]) -> bool:
        """Whether the branch has lost a revision that was noted as synced (and not the note its truth)."""
        revision, snapshot_id = noted
        if revision <= self.latest_revision or any(snapshot_id == one.snapshot_id for one in self._history):
            return False
        try:
            facts = self._repository.lookup_snapshot(snapshot_id).metadata
        except (icechunk.IcechunkError, ValueError):
            return False
        return bool(facts.get("revision") == revision)

    def _known_digests(self, staged: StagedCommit) -> Digests:
        """Digests of all pages of the newest revision, less those of columns that are written anew."""
        if self._digests is None and self.latest_revision:
            self.read()
        new = {(one.table, one.column) for one in staged.columns if one.is_new}
        return {key: page for key, page in (self._digests or {}).items() if key[:2] not in new}

    def prove(self) -> int:
        """Read back from disk what was written up to the revision before the newest; returns its number.

        That one is gone back to when the newest cannot be read, so whatever it makes needless (frames, older
        revisions) may be dropped after this, and not before. It reads only pages that commits have written
        since the last time, as far as the kernel allows not from its cache. Not while a commit is written.

        Raises
        ------
        StorageError
            A page is not what was written. What is written anew by later commits is looked at instead then.
        """
        with self._guard:
            history = list(self._history)
        if not history:
            return 0
        info = history[-2:][0]
        unproven = {number: pages for number, pages in self._unproven.items() if number <= info.revision}
        if unproven:
            pages = {key: page for number in sorted(unproven) for key, page in unproven[number].items()}
            started_s, where = time.time(), f"revision {info.revision}"
            repository, sealed = self.path / _REPOSITORY, info.attributes_sha256
            try:
                read_back(repository, self._proven_s, info.snapshot_id, where, sealed, pages)
            except UnreadableError as error:
                raise _damaged(self.path, f"read back ({error.where})", error.cause) from error
            for number in unproven:
                del self._unproven[number]
            self._proven_s = started_s
        return info.revision

    def fall_back(self) -> int:
        """Give the newest revision up, for the one before it; returns that one's number.

        The next commit takes the number that is free then.

        Raises
        ------
        StorageError
            There is none before, the store is read-only, or the disk refused.
        """
        if self._lock is None or len(self._history) < 2:
            raise StorageError(
                f"a store in {self.path} open for writing, with a revision before the newest",
                f"{len(self._history)} revisions" if self._lock else "one opened read-only or closed",
                "Restore the directory from a copy.",
            )
        before = self._history[-2]
        try:
            self._repository.reset_branch(_BRANCH, before.snapshot_id)
            sync_filesystem(self.path)
            write_synced(self.path, before.revision, before.snapshot_id)
        except (icechunk.IcechunkError, OSError) as error:
            raise _damaged(self.path, f"taken back to revision {before.revision}", error) from error
        with self._guard:
            self._history.pop()
        self._digests, self._layouts = None, None
        self._unproven.clear()
        return before.revision

    def drop_before(self, revision: int) -> int:
        """Delete the revisions before one, for good, and what only they held; returns the bytes freed.

        Waits for readers of this object; a reader in another process may find its revision gone.

        Raises
        ------
        NotFoundError
            There is no such revision to keep.
        StorageError
            The store is read-only, or the disk refused.
        """
        keep = self._find(revision)
        if self._lock is None:
            raise StorageError("a store opened for writing", "one opened read-only or closed", "Reopen it.")
        if keep.revision == self._history[0].revision:
            return 0
        try:
            self.prove()
        except StorageError as error:
            _LOGGER.error("%s. Older revisions are kept", error)
            return 0
        try:
            with self._reading:
                written = {info.id: info.written_at for info in self._repository.ancestry(branch=_BRANCH)}
                with self._guard:
                    self._history = [info for info in self._history if info.revision >= keep.revision]
                keep_snapshots(self.path, self.path / _REPOSITORY / "snapshots")
                reach("clear.expire")
                self._repository.expire_snapshots(older_than=written[keep.snapshot_id])
                # What is kept must be whole on disk before anything is deleted.
                sync_filesystem(self.path)
                forget_snapshots(self.path)
                reach("clear.collect")
                summary = self._repository.garbage_collect(datetime.datetime.now(datetime.UTC))
                reach("clear.sync")
                sync_filesystem(self.path)
        except (icechunk.IcechunkError, OSError) as error:
            raise _damaged(self.path, f"cleared of revisions before {revision}", error) from error
        return int(summary.bytes_deleted)

    def _find(self, revision: int | None) -> RevisionInfo:
        with self._guard:
            history = list(self._history)
        if not history:
            raise NotFoundError("a committed revision", "none yet", "Send frames first.")
        if revision is None:
            return history[-1]
        first, last = history[0].revision, history[-1].revision
        if not first <= revision <= last:
            raise NotFoundError(
                f"a revision from {first} to {last}", str(revision), "List the revisions, or leave it out."
            )
        return history[revision - first]


def _storage(path: Path) -> icechunk.Storage:
    # Its warning about concurrent commits does not apply: the lock admits one committer.
    icechunk.set_logs_filter("error")
    return icechunk.local_filesystem_storage(str(path))


def _exists(path: Path) -> bool:
    return (path / _REPOSITORY / "refs").is_dir()


def _release(lock: DirectoryLock | None) -> None:
    if lock is not None:
        lock.release()


def _damaged(path: Path, action: str, error: Exception) -> StorageError:
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return StorageError(
        f"an atlas in {path} that can be {action}",
        cause,
        "Check the disk; restore the directory from a copy.",
    )


def _check_schema(path: Path, attributes: dict[str, Any]) -> None:
    name, version = attributes.get("schema"), attributes.get("schema_version")
    if name != SCHEMA_NAME or version not in _READABLE_VERSIONS:
        raise StorageError(
            f"schema {SCHEMA_NAME} version {SCHEMA_VERSION} in {path}",
            f"{name} version {version}",
            "Use the release that wrote it.",
        )
