"""Reading a revision, whole or some pages of it, and comparing it with what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.sync import sync

from streamdgp.memory import ArrayMemory
from streamdgp.store._digests import (
    ArrayDigests,
    DigestError,
    Digests,
    array_entry,
    column_pages,
    page_digest,
    require_array,
    require_attributes,
    require_shape,
)
from streamdgp.store._durable import drop_cached
from streamdgp.store._opening import reopened, repository_path
from streamdgp.store._tables import StagedColumn

__all__ = ["Contents", "UnreadableError", "entries_after", "read_back", "read_contents"]

_Array = npt.NDArray[Any]
_READ_BYTES = 16 << 20
# The longest that a read beside a damaged one is waited for.
_END_S = 5.0


class UnreadableError(Exception):
    """``where`` says what cannot be read; the cause is chained. Internal to the store."""

    def __init__(self, where: str, cause: Exception) -> None:
        super().__init__(f"{where}: {cause}")
        self.where = where
        self.cause = cause


@dataclass
class Contents:
    """A revision as it was read. ``entries`` is None for one that was written before there were digests."""

    attributes: dict[str, Any]
    tables: dict[str, dict[str, _Array]] = field(default_factory=dict)
    arrays: dict[str, _Array] = field(default_factory=dict)
    entries: ArrayDigests | None = None
    pages: Digests = field(default_factory=dict)

    def known_entries(self) -> ArrayDigests:
        """What the attributes of the next revision say of arrays that stay as they are."""
        if self.entries is not None:
            return self.entries
        shapes: dict[str, tuple[int, ...]] = {f"arrays/{name}": a.shape for name, a in self.arrays.items()}
        for table, columns in self.tables.items():
            shapes |= {f"tables/{table}/{column}": a.shape for column, a in columns.items()}
        return {path: array_entry(shape, _pages_of(path, self.pages)) for path, shape in shapes.items()}


def read_contents(root: zarr.Group, where: str, sealed: str, memory: ArrayMemory) -> Contents:
    """Everything of a revision.

    Parameters
    ----------
    where
        Which revision, for messages.
    sealed
        What the commit says of the attributes.
    memory
        Gives the tables their room; what is read is made room for as it comes.

    Raises
    ------
    UnreadableError
        Something is damaged, missing, or not what was committed.
    """
    with _naming(where):
        attributes = dict(root.attrs.asdict())
        found = Contents(attributes, entries=require_attributes(attributes, sealed))
        paths = sorted(found.entries) if found.entries is not None else list(_paths(root))
    for path in paths:
        with _naming(f"{where}, {_named(path)}"):
            array = _opened(root, path)
            require_shape(found.entries, path, array.shape)
            folder, *names = path.split("/")
            if folder == "arrays":
                values = found.arrays[names[0]] = np.asarray(array[...])
                pages: Digests = {("", names[0], 0): page_digest(values)}
            else:
                values, pages = _read_column(names[0], names[1], array, memory)
                found.tables.setdefault(names[0], {})[names[1]] = values
            require_array(found.entries, path, array.shape, pages.values())
            found.pages |= pages
    return found


def _check_pages(root: zarr.Group, where: str, sealed: str, pages: Digests) -> None:
    """Read some pages of a revision, less those that it has no more, and compare with what was written."""
    with _naming(where):
        entries = require_attributes(root.attrs.asdict(), sealed) or {}
    wanted: dict[str, list[tuple[int, bytes]]] = {}
    for (table, name, page), digest in sorted(pages.items()):
        wanted.setdefault(f"tables/{table}/{name}" if table else f"arrays/{name}", []).append((page, digest))
    for path, expected in wanted.items():
        if path not in entries:
            continue
        with _naming(f"{where}, {_named(path)}"):
            array = _opened(root, path)
            require_shape(entries, path, array.shape)
            for page, digest in expected:
                n = array.chunks[0] if path.startswith("tables/") else 0
                if n and page * n >= array.shape[0]:
                    continue
                values = np.asarray(array[page * n : (page + 1) * n] if n else array[...])
                if page_digest(values) != digest:
                    raise DigestError(f"other values in page {page} than were written")


def read_back(path: Path, since_s: float, snapshot_id: str, where: str, sealed: str, pages: Digests) -> None:
    """Read pages of a revision from disk, as far as the kernel allows not from its cache, and compare them.

    Parameters
    ----------
    since_s
        Files from before this time stay in the cache: they have left it once since they were written.
    where, sealed
        As for :func:`read_contents`.
    pages
        What was written; those that the revision has no more are left out.

    Raises
    ------
    UnreadableError
        The attributes or a page cannot be read, or are not what was written.
    """
    with _naming(where):
        drop_cached(repository_path(path), since_s)
        # Opened anew: the object that wrote them has some of them in memory.
        session = reopened(path).readonly_session(snapshot_id=snapshot_id)
        root = zarr.open_group(session.store, mode="r", zarr_format=3)
    _check_pages(root, where, sealed, pages)


def entries_after(
    before: ArrayDigests, columns: Iterable[StagedColumn], arrays: dict[str, _Array], pages: Digests
) -> ArrayDigests:
    """What the attributes say of all arrays once a commit is written.

    Parameters
    ----------
    pages
        Digests of all pages of the staged columns and arrays, old and new.
    """
    columns = list(columns)
    tables = {one.table for one in columns}
    kept = {
        path: entry
        for path, entry in before.items()
        if not (path.startswith("tables/") and path.split("/")[1] in tables)
    }
    for one in columns:
        layout = one.layout
        count = -(-layout.row_count // layout.rows_per_page)
        kept[f"tables/{one.table}/{one.column}"] = array_entry(
            (layout.row_count, *layout.row_shape),
            [pages[one.table, one.column, page] for page in range(count)],
        )
    for name, values in arrays.items():
        kept[f"arrays/{name}"] = array_entry(values.shape, [pages["", name, 0]])
    return kept


def _read_column(
    table: str, column: str, array: zarr.Array[Any], memory: ArrayMemory
) -> tuple[_Array, Digests]:
    """A column, read by some megabytes at once, and the digests of its pages."""
    rows, n = array.shape[0], array.chunks[0]
    empty = np.zeros((0, *array.shape[1:]), array.dtype)
    values = memory.grown(f"{table}/{column}", empty, rows)
    row_bytes = max(1, empty.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = n * max(1, _READ_BYTES // (n * row_bytes))
    pages: Digests = {}
    for start in range(0, rows, step):
        part = values[start : start + step]
        with memory.writing():
            part[...] = array[start : start + step]
        pages |= column_pages(table, column, part, n, start // n)
        memory.relieve()
    return values, pages


def _pages_of(path: str, pages: Digests) -> list[bytes]:
    folder, *names = path.split("/")
    table, name = ("", names[0]) if folder == "arrays" else (names[0], names[1])
    found = {page: digest for (t, c, page), digest in pages.items() if (t, c) == (table, name)}
    return [found[page] for page in range(len(found))]


def _paths(root: zarr.Group) -> Iterator[str]:
    """The paths of all arrays of a revision that does not note them, sorted."""
    if "tables" in root:
        for table, group in sorted(zarr.open_group(root.store_path / "tables", mode="r").groups()):
            yield from (f"tables/{table}/{column}" for column in sorted(group.array_keys()))
    if "arrays" in root:
        names = zarr.open_group(root.store_path / "arrays", mode="r").array_keys()
        yield from (f"arrays/{name}" for name in sorted(names))


def _opened(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """One array, alone: zarr opens those of a group at once, and asyncio prints all their errors but one."""
    array = root.get(path)
    if not isinstance(array, zarr.Array):
        raise DigestError("no such array")
    return array


def _named(path: str) -> str:
    folder, *names = path.split("/")
    return f"array {names[0]}" if folder == "arrays" else f"table {names[0]}, column {names[1]}"


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    # What zarr and Icechunk raise over damaged metadata is not one kind of error.
    except (
        icechunk.IcechunkError,
        ValueError,
        KeyError,
        TypeError,
        OSError,
        RuntimeError,
        AttributeError,
    ) as e:
        sync(_end_other_reads())
        raise UnreadableError(where, e) from e


async def _end_other_reads() -> None:
    """Zarr leaves the chunks that it reads beside a bad one; asyncio prints a line for what never ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_END_S)
