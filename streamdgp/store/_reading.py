"""Reads a revision whole: tables, arrays, metadata; every checksum is verified on the way."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk
import zarr

from streamdgp.atlas.changes import AtlasState
from streamdgp.errors import StorageError
from streamdgp.memory import ArrayMemory, HeapMemory
from streamdgp.store._contents import Contents, UnreadableError, read_contents
from streamdgp.store._history import RevisionInfo

__all__ = [
    "SCHEMA_NAME",
    "SCHEMA_VERSION",
    "StoredRevision",
    "UnknownSchemaError",
    "damaged",
    "read_revision",
]

SCHEMA_NAME = "streamdgp-atlas"
SCHEMA_VERSION = 2
_READABLE_VERSIONS = (1, SCHEMA_VERSION)
"""Version 1 had no digests."""


class UnknownSchemaError(StorageError):
    """Nothing is damaged: another release wrote it."""


@dataclass(frozen=True)
class StoredRevision:
    """A revision as read back. ``log_position`` is what the committer passed, unchanged."""

    revision: int
    state: AtlasState
    log_position: dict[str, Any]
    created: datetime.datetime


def read_revision(
    repository: icechunk.Repository, path: Path, info: RevisionInfo, memory: ArrayMemory | None = None
) -> tuple[StoredRevision, Contents]:
    """Read a revision, and compare it with what was committed. The arrays are fresh copies.

    ``memory`` gives the tables their room, and serves for nothing else; None: the heap.

    Raises
    ------
    StorageError
        Something does not match, or an object is missing; the message names the array.
    """
    where = f"revision {info.revision}"
    try:
        session = repository.readonly_session(snapshot_id=info.snapshot_id)
        root = zarr.open_group(session.store, mode="r", zarr_format=3)
        _check_schema(path, dict(root.attrs.asdict()))
        found = read_contents(root, where, info.attributes_sha256, memory or HeapMemory())
        state = AtlasState(found.tables, found.arrays, dict(found.attributes["metadata"]))
        position = dict(found.attributes["log_position"])
    except UnreadableError as error:
        raise damaged(path, f"read ({error.where})", error.cause) from error
    except (icechunk.IcechunkError, ValueError, KeyError, OSError, TypeError) as error:
        raise damaged(path, f"read ({where})", error) from error
    return StoredRevision(info.revision, state, position, info.created), found


def damaged(path: Path, action: str, error: Exception) -> StorageError:
    """What to raise for an error of the disk or of a library; ``action``: what the atlas could not be."""
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return StorageError(
        f"an atlas in {path} that can be {action}",
        cause,
        "Check the disk; restore the directory from a copy.",
    )


def _check_schema(path: Path, attributes: dict[str, Any]) -> None:
    name, version = attributes.get("schema"), attributes.get("schema_version")
    if name != SCHEMA_NAME or version not in _READABLE_VERSIONS:
        raise UnknownSchemaError(
            f"schema {SCHEMA_NAME} version {SCHEMA_VERSION} in {path}",
            f"{name} version {version}",
            "Use the release that wrote it.",
        )
