"""The atlas in zarr v3 on Icechunk: one atomic commit per revision, any revision readable.

Layout of a revision (``docs/storage.md`` has the whole of it)::

    /                         attributes: schema, revision, created, log_position, metadata, ...
    /tables/<table>/<column>  one array per column, chunked by pages of rows
    /arrays/<name>            small arrays, replaced whole
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from pathlib import Path
from typing import Any, Self

import icechunk

from streamdgp.atlas.changes import AtlasChanges
from streamdgp.errors import AlreadyExistsError, NotFoundError, StorageError
from streamdgp.memory import ArrayMemory
from streamdgp.store._clearing import clear_before
from streamdgp.store._clock import wait_until_after
from streamdgp.store._committing import (
    Layouts,
    StagedCommit,
    WrittenCommit,
    layouts_at,
    stage_commit,
    write_commit,
)
from streamdgp.store._dating import ClockWatch, date_back_snapshots
from streamdgp.store._digests import ArrayDigests, Digests
from streamdgp.store._durable import DirectoryLock, sync_filesystem
from streamdgp.store._failpoints import reach
from streamdgp.store._history import History, RevisionInfo
from streamdgp.store._opening import (
    BRANCH,
    create_repository,
    has_repository,
    mend_repository,
    open_repository,
)
from streamdgp.store._proving import Unproven
from streamdgp.store._reading import StoredRevision, damaged, read_revision
from streamdgp.store._retention import oldest_within
from streamdgp.store._tag_note import mend_tags, write_noted_tags
from streamdgp.store._tags import add_tag, remove_tag
from streamdgp.store._tip import write_synced

__all__ = ["AtlasStore", "RevisionInfo", "StagedCommit"]

_LOGGER = logging.getLogger(__name__)


class AtlasStore:
    """The committed revisions of one scene's atlas. One writer; any number of reading threads.

    Use :meth:`create` or :meth:`open`. Revision numbers start at 1 and grow by one; a store without
    a commit is at revision 0, which cannot be read.
    """

    def __init__(
        self, path: Path, repository: icechunk.Repository, history: History, lock: DirectoryLock | None
    ) -> None:
        self.path = path
        self._repository = repository
        self._lock = lock
        self._guard = threading.Lock()  # of the history
        self._reading = threading.Lock()  # of objects that clearing may delete
        self._clearing = threading.Lock()  # what has a tag must not be cleared, nor what is cleared get one
        self._failed = False
        self._digests: Digests | None = None  # of the newest revision, once they are known
        self._entries: ArrayDigests = {}  # of its arrays
        self._unproven = Unproven(path)
        self._layouts: Layouts | None = None
        self._history = history
        self._committed_s: float | None = None
        self.keep_for_s = 0.0
        """:meth:`drop_before` leaves revisions that were the newest one within so many seconds."""

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
        if has_repository(path):
            lock.release()
            raise AlreadyExistsError(
                f"no atlas in {path}", "one that exists", "Open it, or choose another path."
            )
        try:
            return cls(path, create_repository(path), History(), lock)
        except (icechunk.IcechunkError, OSError) as error:
            lock.release()
            raise damaged(path, "created", error) from error

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
        if not has_repository(path):
            raise NotFoundError(f"an atlas in {path}", "none", "Create one, or check the path.")
        lock = None if read_only else DirectoryLock(path)
        try:
            if lock is not None:
                mend_repository(path)
            return cls(path, *open_repository(path), lock)
        except StorageError:
            _release(lock)
            raise
        except (icechunk.IcechunkError, OSError) as error:
            _release(lock)
            raise damaged(path, "opened", error) from error

    def close(self) -> None:
        """Release the lock; the object must not be used for commits afterwards."""
        _release(self._lock)
        self._lock = None

    @property
    def latest_revision(self) -> int:
        """The newest revision; 0 before the first commit."""
        recent = self._history.recent
        return recent[-1].revision if recent else 0

    def revisions(self) -> list[RevisionInfo]:
        """The newest revisions, oldest first, without a gap. Older ones may be kept by their tags."""
        return list(self._history.recent)

    def tagged_revisions(self) -> list[RevisionInfo]:
        """Revisions before those of :meth:`revisions`, kept because they have tags; oldest first."""
        return list(self._history.tagged)

    def tags(self) -> dict[str, int]:
        """The revision of every tag."""
        return dict(sorted(self._history.tags.items()))

    def tag(self, name: str, revision: int | None = None) -> RevisionInfo:
        """Give a revision (None: the newest) a name, durably; it is kept until the name is taken away.

        The same name for the same revision again changes nothing. Any thread.

        Raises
        ------
        NotFoundError
            No such revision.
        AlreadyExistsError
            The name stands for another revision.
        StorageError
            The store is read-only, or the disk refused.
        """
        self._require_writable()
        with self._clearing:
            info = self._history.find(revision)
            known = self._history.tags.get(name)
            if known == info.revision:
                return info
            if known is not None:
                raise AlreadyExistsError(
                    f"no tag {name}",
                    f"one of revision {known}",
                    "Take it away first, or choose another name.",
                )
            try:
                add_tag(self._repository, name, info.snapshot_id)
                sync_filesystem(self.path)
                write_noted_tags(self.path, self._history.tagged_snapshots | {name: info.snapshot_id})
            except (icechunk.IcechunkError, OSError) as error:
                raise damaged(self.path, f"given the tag {name}", error) from error
            self._set_tags(self._history.tags | {name: info.revision})
            return self._history.find(info.revision)

    def untag(self, name: str) -> int:
        """Take a name away, durably; returns the revision it stood for, which clearing may now delete.

        Raises
        ------
        NotFoundError
            There is no such tag.
        StorageError
            The store is read-only, or the disk refused.
        """
        self._require_writable()
        with self._clearing:
            revision = self.resolve_tag(name)
            left = {key: value for key, value in self._history.tags.items() if key != name}
            try:
                write_noted_tags(self.path, self._history.with_tags(left).tagged_snapshots)
                remove_tag(self._repository, name)
                sync_filesystem(self.path)
            except (icechunk.IcechunkError, OSError) as error:
                raise damaged(self.path, f"rid of the tag {name}", error) from error
            self._set_tags(left)
            return revision

    def resolve_tag(self, name: str) -> int:
        """The revision that a tag names; raises :class:`NotFoundError`."""
        return self._history.find_tag(name, self.path.parent.name)

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
        self._require_writable()
        if self._failed:
            raise StorageError(
                "a store whose last commit ended well", "one that failed", "Restart the process."
            )
        if self._layouts is None:
            try:
                self._layouts = layouts_at(self._repository, BRANCH)
            except (icechunk.IcechunkError, OSError, ValueError, KeyError) as error:
                raise damaged(self.path, "read (its layout)", error) from error
        revision = self.latest_revision + 1
        return stage_commit(
            *(revision, changes, self._layouts, log_position, message), frames=frames, charts=charts
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
        clock = ClockWatch()
        try:
            self._follow_clock()
            tip = self._repository.lookup_branch(BRANCH)
        except (icechunk.IcechunkError, OSError) as error:
            raise damaged(self.path, f"given revision {revision}", error) from error
        created = datetime.datetime.now(datetime.UTC)
        pause_s = None if self._committed_s is None else time.monotonic() - self._committed_s
        totals: dict[str, Any] = {
            "revision": revision,
            "created": created.isoformat(),
            "frames": staged.frames,
            "charts": staged.charts,
            **({} if pause_s is None else {"pause_s": round(pause_s, 3)}),
        }
        message = staged.message or f"revision {revision}"
        try:
            try:
                made = self._commit(staged, totals, message)
            except icechunk.IcechunkError:
                # Icechunk takes no commit during which the clock was set; then nothing has happened.
                if self._repository.lookup_branch(BRANCH) != tip:
                    raise
                if not self._follow_clock() and not clock.was_set():
                    raise
                made = self._commit(staged, totals, message)
            reach("commit.sync")
            sync_filesystem(self.path)
            reach("commit.synced")
            write_synced(self.path, revision, made.snapshot_id)
        except (icechunk.IcechunkError, OSError, StorageError) as error:
            # Whether the branch moved is unknown: only opening the store again tells.
            self._failed = True
            raise damaged(self.path, f"given revision {revision}", error) from error
        self._unproven.note(revision, made.new_pages, created.timestamp())
        self._digests, self._entries = made.pages, made.entries
        self._layouts = staged.layouts_after(self._layouts or {})
        self._committed_s = time.monotonic()
        info = RevisionInfo(
            *(revision, created, staged.frames, staged.charts, made.snapshot_id, message),
            pause_s=pause_s,
            attributes_sha256=made.attributes_sha256,
            column_bytes=made.sizes["column_bytes"],
            written_bytes=made.sizes["written_bytes"],
        )
        with self._guard:
            self._history = self._history.with_recent(info)
        _LOGGER.debug("committed revision %d (%s)", revision, made.snapshot_id)
        return revision

    def _commit(self, staged: StagedCommit, totals: dict[str, Any], message: str) -> WrittenCommit:
        if self._digests is None and self.latest_revision:
            self.read()
        return write_commit(
            *(self._repository, BRANCH, staged, totals, message), self._digests or {}, self._entries
        )

    def _follow_clock(self) -> bool:
        """After the clock was set back: wait a moment, or date the snapshots back; whether they were."""
        newest = next(iter(self._repository.ancestry(branch=BRANCH)))
        try:
            wait_until_after(newest.written_at)
        except StorageError:
            with self._clearing, self._reading:
                date_back_snapshots(self._repository, BRANCH, self.path)
                self._repository, _ = open_repository(self.path)
            return True
        return False

    def read(self, revision: int | None = None, memory: ArrayMemory | None = None) -> StoredRevision:
        """Read a revision whole; None is the newest. The arrays are fresh copies.

        Parameters
        ----------
        memory
            Gives the tables their room, and serves for nothing else; None: the heap.

        Raises
        ------
        NotFoundError
            No such revision.
        StorageError
            A checksum does not match, or an object is missing; the message names the array.
        """
        with self._reading:
            info = self._history.find(revision)
            stored, found = read_revision(self._repository, self.path, info, memory)
            if self._digests is None and info.revision == self.latest_revision:
                self._digests, self._entries = found.pages, found.known_entries()
        return stored

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
        recent = self._history.recent
        if not recent:
            return 0
        info = recent[-2:][0]
        self._unproven.read_back(info)
        return info.revision

    def fall_back(self) -> int:
        """Give the newest revision up, for the one before it; returns that one's number.

        The next commit takes the number that is free then.

        Raises
        ------
        StorageError
            There is none before, the store is read-only, or the disk refused.
        """
        recent = self._history.recent
        if self._lock is None or len(recent) < 2:
            raise StorageError(
                f"a store in {self.path} open for writing, with a revision before the newest",
                f"{len(recent)} revisions" if self._lock else "one opened read-only or closed",
                "Restore the directory from a copy.",
            )
        before, left = recent[-2], self._history.without_newest()
        try:
            write_noted_tags(self.path, left.tagged_snapshots)
            for name in recent[-1].tags:
                _LOGGER.error("tag %s is taken away with revision %d", name, recent[-1].revision)
                remove_tag(self._repository, name)
            self._repository.reset_branch(BRANCH, before.snapshot_id)
            sync_filesystem(self.path)
            write_synced(self.path, before.revision, before.snapshot_id)
        except (icechunk.IcechunkError, OSError) as error:
            raise damaged(self.path, f"taken back to revision {before.revision}", error) from error
        with self._guard:
            self._history = left
        self._digests, self._layouts = None, None
        self._unproven.forget()
        return before.revision

    def drop_before(self, revision: int) -> int:
        """Delete the revisions before one, for good, and what only they held; returns the bytes freed.

        Revisions with tags stay, and so do those younger than ``keep_for_s``. Waits for readers of this
        object; a reader in another process may find its revision gone.

        Raises
        ------
        NotFoundError
            There is no such revision to keep.
        StorageError
            The store is read-only, or the disk refused.
        """
        self._require_writable()
        with self._clearing:
            recent, keep = self._history.recent, self._history.find(revision)
            if self.keep_for_s:
                young = oldest_within(recent, self.keep_for_s, self._since_newest_s())
                keep = self._history.find(min(young, keep.revision))
                # One by one they leave that age; clearing them one by one would cost more than it frees.
                if keep.revision < recent[0].revision + len(recent) // 10:
                    return 0
            if keep.revision <= recent[0].revision:
                return 0
            try:
                self.prove()
            except StorageError as error:
                _LOGGER.error("%s. Older revisions are kept", error)
                return 0
            try:
                with self._reading:
                    with self._guard:
                        self._history = self._history.without_before(keep.revision)
                    mend_tags(self.path)  # what a tag that is lost would keep is deleted for good
                    return clear_before(self._repository, self.path, BRANCH, keep.snapshot_id)
            except (icechunk.IcechunkError, OSError) as error:
                raise damaged(self.path, f"cleared of revisions before {revision}", error) from error

    def _since_newest_s(self) -> float:
        if self._committed_s is not None:
            return time.monotonic() - self._committed_s
        newest = self._history.recent[-1].created
        return max(0.0, (datetime.datetime.now(datetime.UTC) - newest).total_seconds())

    def _set_tags(self, tags: dict[str, int]) -> None:
        with self._guard:
            self._history = self._history.with_tags(tags)

    def _require_writable(self) -> None:
        if self._lock is None:
            raise StorageError(
                "a store opened for writing", "one opened read-only or closed", "Open it again."
            )


def _release(lock: DirectoryLock | None) -> None:
    if lock is not None:
        lock.release()
