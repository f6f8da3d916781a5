"""The revisions of an atlas, as the snapshots of its repository tell them."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path

import icechunk

from streamdgp.errors import StorageError

__all__ = ["RevisionInfo", "read_history"]


@dataclass(frozen=True)
class RevisionInfo:
    """One line of the history. ``frames`` and ``charts`` are totals at that revision.

    ``created`` is UTC as the clock stood; numbers give the order, since a clock may be set back.
    """

    revision: int
    created: datetime.datetime
    frames: int
    charts: int
    snapshot_id: str
    message: str


def read_history(repository: icechunk.Repository, branch: str, path: Path) -> list[RevisionInfo]:
    """All revisions on a branch, oldest first.

    Raises
    ------
    StorageError
        One is missing between others.
    icechunk.IcechunkError
        A snapshot cannot be read.
    """
    history: list[RevisionInfo] = []
    for snapshot in repository.ancestry(branch=branch):
        facts = snapshot.metadata
        if "revision" not in facts:
            continue
        history.append(
            RevisionInfo(
                int(facts["revision"]),
                datetime.datetime.fromisoformat(facts["created"]),
                int(facts["frames"]),
                int(facts["charts"]),
                snapshot.id,
                snapshot.message,
            )
        )
    history.reverse()
    for before, after in itertools.pairwise(history):
        if after.revision != before.revision + 1:
            raise StorageError(
                f"revision {before.revision + 1} after {before.revision} in {path}",
                str(after.revision),
                "Restore the directory from a copy.",
            )
    return history
