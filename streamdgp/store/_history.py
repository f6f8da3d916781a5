"""The revisions of an atlas, as the snapshots of its repository tell them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk

from streamdgp.errors import StorageError
from streamdgp.store._digests import is_sealed

__all__ = ["RevisionInfo", "read_history"]


@dataclass(frozen=True)
class RevisionInfo:
    """One line of the history. ``created`` is UTC; ``frames`` and ``charts`` are totals at that revision.

    ``attributes_sha256`` is empty for a revision written before there were digests.
    """

    revision: int
    created: datetime.datetime
    frames: int
    charts: int
    snapshot_id: str
    message: str
    attributes_sha256: str = ""


def read_history(repository: icechunk.Repository, branch: str, path: Path) -> list[RevisionInfo]:
    """All revisions on a branch, oldest first.

    Raises
    ------
    StorageError
        One is missing between others, is not what was committed, or lies under another's name.
    icechunk.IcechunkError
        A snapshot cannot be read.
    """
    history: list[RevisionInfo] = []
    wanted_id: str | None = repository.lookup_branch(branch)
    for snapshot in repository.ancestry(branch=branch):
        facts = snapshot.metadata
        if snapshot.id != wanted_id:
            raise _wrong(path, f"snapshot {wanted_id}", f"{snapshot.id} under its name")
        wanted_id = snapshot.parent_id
        if snapshot.parent_id is None and "revision" not in facts:
            break  # the repository as it was made
        info = _line(path, snapshot.id, snapshot.message, facts)
        # Looked at while going back: exchanged snapshots may form a ring.
        if history and history[-1].revision != info.revision + 1:
            raise _wrong(path, f"revision {history[-1].revision - 1} before it", str(info.revision))
        history.append(info)
    history.reverse()
    return history


def _line(path: Path, snapshot_id: str, message: str, facts: dict[str, Any]) -> RevisionInfo:
    if not is_sealed(facts, message):
        raise _wrong(path, f"snapshot {snapshot_id} as it was committed", "another")
    try:
        return RevisionInfo(
            int(facts["revision"]),
            datetime.datetime.fromisoformat(facts["created"]),
            int(facts["frames"]),
            int(facts["charts"]),
            snapshot_id,
            message,
            str(facts.get("attributes_sha256", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(path, f"a whole snapshot {snapshot_id}", f"one with a wrong {error}") from error


def _wrong(path: Path, wanted: str, got: str) -> StorageError:
    return StorageError(f"{wanted} in {path}", got, "Restore the directory from a copy.")
