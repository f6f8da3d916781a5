"""What one commit writes: copied first, then written as a snapshot, maybe by another thread."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from streamdgp.atlas.changes import AtlasChanges
from streamdgp.store._contents import entries_after
from streamdgp.store._digests import ArrayDigests, Digests, seal_commit
from streamdgp.store._failpoints import reach
from streamdgp.store._reading import SCHEMA_NAME, SCHEMA_VERSION
from streamdgp.store._tables import (
    Layout,
    StagedColumn,
    layouts_of,
    stage_table,
    write_array,
    write_columns,
)

__all__ = ["Layouts", "StagedCommit", "WrittenCommit", "layouts_at", "stage_commit", "write_commit"]

Layouts = dict[tuple[str, str], Layout]
"""How the columns of a revision are stored, by table and column."""


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

    def layouts_after(self, before: Layouts) -> Layouts:
        """How columns are stored once this is written: tables in it are replaced whole."""
        tables = {one.table for one in self.columns}
        kept = {key: layout for key, layout in before.items() if key[0] not in tables}
        return kept | {(one.table, one.column): one.layout for one in self.columns}


@dataclass(frozen=True)
class WrittenCommit:
    """A commit that was written; pages are digests, of all and of those that it wrote anew.

    ``sizes``: bytes of its columns (``column_bytes``) and of those pages (``written_bytes``), uncompressed.
    """

    snapshot_id: str
    pages: Digests
    new_pages: Digests
    entries: ArrayDigests
    attributes_sha256: str
    sizes: dict[str, int]


def layouts_at(repository: icechunk.Repository, branch: str) -> Layouts:
    """How the newest revision stores its columns; raises IcechunkError, OSError, ValueError and KeyError."""
    session = repository.readonly_session(branch=branch)
    try:
        root = zarr.open_group(session.store, mode="r", zarr_format=3)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return {}  # before the first commit
    return layouts_of(root)


def stage_commit(
    revision: int,
    changes: AtlasChanges,
    layouts: Layouts,
    log_position: dict[str, Any],
    message: str,
    *,
    frames: int,
    charts: int,
) -> StagedCommit:
    """Copy what a commit needs; ``layouts`` are those of the revision before."""
    return StagedCommit(
        revision=revision,
        columns=[one for name, table in changes.tables.items() for one in stage_table(name, table, layouts)],
        arrays={name: np.array(array) for name, array in changes.arrays.items()},
        metadata=copy.deepcopy(changes.metadata),
        log_position=dict(log_position),
        message=message,
        frames=frames,
        charts=charts,
    )


def write_commit(
    repository: icechunk.Repository,
    branch: str,
    staged: StagedCommit,
    totals: dict[str, Any],
    message: str,
    known: Digests,
    entries: ArrayDigests,
) -> WrittenCommit:
    """Write a staged commit as a snapshot, not synced yet; raises OSError and IcechunkError.

    Parameters
    ----------
    totals
        For the history; JSON-able.
    known, entries
        Digests of the revision before, of its pages and of its arrays.
    """
    new = {(one.table, one.column) for one in staged.columns if one.is_new}
    known = {key: page for key, page in known.items() if key[:2] not in new}
    session = repository.writable_session(branch)
    root, written = asyncio.run(_write(session.store, staged, known))
    entries = entries_after(entries, staged.columns, staged.arrays, known | written)
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
    new_pages = {key: page for key, page in written.items() if known.get(key) != page}
    sizes = {"column_bytes": _column_bytes(staged), "written_bytes": _bytes_of(staged, new_pages)}
    facts = seal_commit(totals | sizes, attributes, message)
    snapshot_id = session.commit(message, metadata=facts)
    return WrittenCommit(snapshot_id, known | written, new_pages, entries, facts["attributes_sha256"], sizes)


async def _write(
    store: icechunk.IcechunkStore, staged: StagedCommit, known: Digests
) -> tuple[zarr.Group, Digests]:
    """Write columns and arrays, in this thread: each change of threads would wait for the interpreter."""
    root = await zarr.api.asynchronous.open_group(store, mode="a", zarr_format=3)
    written = await write_columns(root, staged.columns, known)
    for name, array in staged.arrays.items():
        written |= await write_array(root, name, array, known)
    return zarr.Group(root), written


def _column_bytes(staged: StagedCommit) -> int:
    layouts = [one.layout for one in staged.columns]
    return sum(
        one.row_count * one.dtype.itemsize * int(np.prod(one.row_shape, dtype=np.int64)) for one in layouts
    )


def _bytes_of(staged: StagedCommit, pages: Digests) -> int:
    return sum(
        values.nbytes
        for one in staged.columns
        for page, values in one.pages.items()
        if (one.table, one.column, page) in pages
    )
