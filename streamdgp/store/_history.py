"""The revisions of an atlas, as the snapshots of its repository tell them."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import icechunk

from streamdgp.errors import NotFoundError, StorageError
from streamdgp.store._digests import is_sealed
from streamdgp.store._tags import read_tags

__all__ = ["History", "RevisionInfo", "read_history"]


@dataclass(frozen=True)
class RevisionInfo:
    """One line of the history. ``frames`` and ``charts`` are totals at that revision.

    ``created`` is UTC as the clock stood; numbers give the order, since a clock may be set back.
    ``attributes_sha256`` is empty for a revision written before there were digests.
    """

    revision: int
    created: datetime.datetime
    frames: int
    charts: int
    snapshot_id: str
    message: str
    tags: tuple[str, ...] = ()
    """Names given to it, sorted."""
    pause_s: float | None = None
    """Time since the commit before, by a clock that is never set; None where none was noted."""
    attributes_sha256: str = ""
    """What the commit says of the attributes of the root group."""
    column_bytes: int = 0
    """What its columns hold, uncompressed; 0 where none was noted."""
    written_bytes: int = 0
    """What of them its commit wrote, uncompressed: what that replaced is held by history alone."""


@dataclass(frozen=True)
class History:
    """The newest revisions without a gap, and older ones that only their tags keep; both oldest first.

    Never changed, only replaced: readers take it as it is.
    """

    recent: tuple[RevisionInfo, ...] = ()
    tagged: tuple[RevisionInfo, ...] = ()

    def __iter__(self) -> Iterator[RevisionInfo]:
        return itertools.chain(self.tagged, self.recent)

    @property
    def tags(self) -> dict[str, int]:
        """The revision of every tag."""
        return {name: info.revision for info in self for name in info.tags}

    @property
    def tagged_snapshots(self) -> dict[str, str]:
        """The snapshot of every tag."""
        return {name: info.snapshot_id for info in self for name in info.tags}

    def find(self, revision: int | None) -> RevisionInfo:
        """A revision by number, None for the newest; raises :class:`NotFoundError`."""
        if not self.recent:
            raise NotFoundError("a committed revision", "none yet", "Send frames first.")
        if revision is None:
            return self.recent[-1]
        for info in self:
            if info.revision == revision:
                return info
        wanted = f"a revision from {self.recent[0].revision} to {self.recent[-1].revision}"
        if self.tagged:
            wanted += f" or one of the tagged ones ({', '.join(str(info.revision) for info in self.tagged)})"
        raise NotFoundError(wanted, str(revision), "List the revisions, or leave it out.")

    def find_tag(self, name: str, scene: str) -> int:
        """The revision that a tag names; raises :class:`NotFoundError`."""
        tags = self.tags
        if name not in tags:
            known = ", ".join(sorted(tags)[:10]) or "none"
            raise NotFoundError(f"a tag of {scene} (there are: {known})", name, "List the tags.")
        return tags[name]

    def with_recent(self, info: RevisionInfo) -> History:
        """After a commit."""
        return History((*self.recent, info), self.tagged)

    def without_newest(self) -> History:
        """After the newest revision was given up."""
        return History(self.recent[:-1], self.tagged)

    def without_before(self, revision: int) -> History:
        """After the revisions before one were cleared, except tagged ones."""
        kept = tuple(info for info in self.recent if info.revision < revision and info.tags)
        return History(
            tuple(info for info in self.recent if info.revision >= revision), (*self.tagged, *kept)
        )

    def with_tags(self, tags: Mapping[str, int]) -> History:
        """With the tags given; an old revision without one is gone."""
        names: dict[int, list[str]] = {}
        for name in sorted(tags):
            names.setdefault(tags[name], []).append(name)

        def named(info: RevisionInfo) -> RevisionInfo:
            return replace(info, tags=tuple(names.get(info.revision, ())))

        return History(
            tuple(named(info) for info in self.recent),
            tuple(named(info) for info in self.tagged if info.revision in names),
        )


def read_history(repository: icechunk.Repository, branch: str, path: Path) -> History:
    """All revisions on a branch, and those that tags keep.

    Raises
    ------
    StorageError
        One is missing between others, is not what was committed, or lies under another's name.
    icechunk.IcechunkError
        A snapshot cannot be read.
    """
    recent: list[RevisionInfo] = []
    wanted_id: str | None = repository.lookup_branch(branch)
    for snapshot in repository.ancestry(branch=branch):
        facts = snapshot.metadata
        if snapshot.id != wanted_id:
            raise _wrong(path, f"snapshot {wanted_id}", f"{snapshot.id} under its name")
        wanted_id = snapshot.parent_id
        if snapshot.parent_id is None and "revision" not in facts:
            break  # the repository as it was made
        info = _info(path, snapshot)
        # Looked at while going back: exchanged snapshots may form a ring.
        if recent and recent[-1].revision != info.revision + 1:
            raise _wrong(path, f"revision {recent[-1].revision - 1} before it", str(info.revision))
        recent.append(info)
    recent.reverse()
    tags: dict[str, int] = {}
    tagged: dict[int, RevisionInfo] = {}
    ids = {info.snapshot_id for info in recent}
    for name, snapshot in read_tags(repository, path).items():
        info = _info(path, snapshot)
        if snapshot.id not in ids:
            if not recent or info.revision >= recent[0].revision:
                continue  # of a revision that was given up since
            tagged[info.revision] = info
        tags[name] = info.revision
    return History(tuple(recent), tuple(tagged[n] for n in sorted(tagged))).with_tags(tags)


def _info(path: Path, snapshot: icechunk.SnapshotInfo) -> RevisionInfo:
    facts = snapshot.metadata
    if not is_sealed(facts, snapshot.message):
        raise _wrong(path, f"snapshot {snapshot.id} as it was committed", "another")
    pause_s = facts.get("pause_s")
    try:
        return RevisionInfo(
            int(facts["revision"]),
            datetime.datetime.fromisoformat(facts["created"]),
            int(facts["frames"]),
            int(facts["charts"]),
            snapshot.id,
            snapshot.message,
            pause_s=None if pause_s is None else float(pause_s),
            attributes_sha256=str(facts.get("attributes_sha256", "")),
            column_bytes=int(facts.get("column_bytes", 0)),
            written_bytes=int(facts.get("written_bytes", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(path, f"a whole snapshot {snapshot.id}", f"one with a wrong {error}") from error


def _wrong(path: Path, wanted: str, got: str) -> StorageError:
    return StorageError(f"{wanted} in {path}", got, "Restore the directory from a copy.")
