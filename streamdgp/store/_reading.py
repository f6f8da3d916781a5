"""Reads a revision whole: tables, arrays, metadata; every checksum is verified on the way."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from streamdgp.atlas.changes import AtlasState
from streamdgp.errors import StorageError
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
SCHEMA_VERSION = 1


class UnknownSchemaError(StorageError):
    """Nothing is damaged: another release wrote it."""


@dataclass(frozen=True)
class StoredRevision:
    """A revision as read back. ``log_position`` is what the committer passed, unchanged."""

    revision: int
    state: AtlasState
    log_position: dict[str, Any]
    created: datetime.datetime


def read_revision(repository: icechunk.Repository, path: Path, info: RevisionInfo) -> StoredRevision:
    """Read a revision. The arrays are fresh copies.

    Raises
    ------
    StorageError
        A checksum does not match, or an object is missing; the message names the array.
    """
    where = f"revision {info.revision}"
    try:
        session = repository.readonly_session(snapshot_id=info.snapshot_id)
        root = zarr.open_group(session.store, mode="r", zarr_format=3)
        attributes: dict[str, Any] = dict(root.attrs.asdict())
        _check_schema(path, attributes)
        tables: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for name, group in _members(root, "tables"):
            where = f"revision {info.revision}, table {name}"
            tables[name] = {}
            for column, array in sorted(group.arrays()):
                where = f"revision {info.revision}, table {name}, column {column}"
                tables[name][column] = np.asarray(array[...])
        arrays: dict[str, npt.NDArray[Any]] = {}
        if "arrays" in root:
            for name, array in sorted(zarr.open_group(root.store_path / "arrays", mode="r").arrays()):
                where = f"revision {info.revision}, array {name}"
                arrays[name] = np.asarray(array[...])
    except (icechunk.IcechunkError, ValueError, KeyError, OSError, RuntimeError) as error:
        raise damaged(path, f"read ({where})", error) from error
    state = AtlasState(tables, arrays, dict(attributes["metadata"]))
    return StoredRevision(info.revision, state, dict(attributes["log_position"]), info.created)


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
    if name != SCHEMA_NAME or version != SCHEMA_VERSION:
        raise UnknownSchemaError(
            f"schema {SCHEMA_NAME} version {SCHEMA_VERSION} in {path}",
            f"{name} version {version}",
            "Use the release that wrote it.",
        )


def _members(root: zarr.Group, name: str) -> list[tuple[str, zarr.Group]]:
    return sorted(zarr.open_group(root.store_path / name, mode="r").groups()) if name in root else []
