"""Reading a revision, whole or some pages of it, and comparing it with what was committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

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
from streamdgp.store._tables import StagedColumn

__all__ = ["Contents", "UnreadableError", "check_pages", "entries_after", "read_contents"]

_Array = npt.NDArray[Any]


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


def read_contents(root: zarr.Group, where: str, sealed: str) -> Contents:
    """Everything of a revision.

    Parameters
    ----------
    where
        Which revision, for messages.
    sealed
        What the commit says of the attributes.

    Raises
    ------
    UnreadableError
        Something is damaged, missing, or not what was committed.
    """
    with _naming(where):
        attributes = dict(root.attrs.asdict())
        found = Contents(attributes, entries=require_attributes(attributes, sealed))
        members = [(path, array) for path, array in _arrays(root)]
        for lost in set(found.entries or ()) - {path for path, _ in members}:
            raise UnreadableError(f"{where}, {_named(lost)}", DigestError("no such array"))
    for path, array in members:
        with _naming(f"{where}, {_named(path)}"):
            require_shape(found.entries, path, array.shape)
            values = np.asarray(array[...])
            folder, *names = path.split("/")
            if folder == "arrays":
                found.arrays[names[0]] = values
                pages: Digests = {("", names[0], 0): page_digest(values)}
            else:
                found.tables.setdefault(names[0], {})[names[1]] = values
                pages = column_pages(names[0], names[1], values, array.chunks[0])
            require_array(found.entries, path, values.shape, pages.values())
            found.pages |= pages
    return found


def check_pages(root: zarr.Group, where: str, sealed: str, pages: Digests) -> None:
    """Read some pages of a revision, and compare them with what was written.

    Pages that the revision has no more are left out.

    Raises
    ------
    UnreadableError
        The attributes or a page cannot be read, or are not what was written.
    """
    with _naming(where):
        entries = require_attributes(root.attrs.asdict(), sealed) or {}
        members = dict(_arrays(root))
    wanted: dict[str, list[tuple[int, bytes]]] = {}
    for (table, name, page), digest in sorted(pages.items()):
        wanted.setdefault(f"tables/{table}/{name}" if table else f"arrays/{name}", []).append((page, digest))
    for path, expected in wanted.items():
        if path not in entries:
            continue
        with _naming(f"{where}, {_named(path)}"):
            if path not in members:
                raise DigestError("no such array")
            array = members[path]
            require_shape(entries, path, array.shape)
            for page, digest in expected:
                n = array.chunks[0] if path.startswith("tables/") else 0
                if n and page * n >= array.shape[0]:
                    continue
                values = np.asarray(array[page * n : (page + 1) * n] if n else array[...])
                if page_digest(values) != digest:
                    raise DigestError(f"other values in page {page} than were written")


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


def _pages_of(path: str, pages: Digests) -> list[bytes]:
    folder, *names = path.split("/")
    table, name = ("", names[0]) if folder == "arrays" else (names[0], names[1])
    found = {page: digest for (t, c, page), digest in pages.items() if (t, c) == (table, name)}
    return [found[page] for page in range(len(found))]


def _arrays(root: zarr.Group) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """All arrays by their paths, sorted."""
    if "tables" in root:
        for table, group in sorted(zarr.open_group(root.store_path / "tables", mode="r").groups()):
            for column, array in sorted(group.arrays()):
                yield f"tables/{table}/{column}", array
    if "arrays" in root:
        for name, array in sorted(zarr.open_group(root.store_path / "arrays", mode="r").arrays()):
            yield f"arrays/{name}", array


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
        raise UnreadableError(where, e) from e
