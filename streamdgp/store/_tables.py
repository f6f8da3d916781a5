"""Tables and arrays as zarr arrays: which pages a commit writes, and how they are encoded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from streamdgp.atlas.changes import TableChange
from streamdgp.store._chunks import compressors, has_our_codecs, write_chunk
from streamdgp.store._digests import Digests, page_digest
from streamdgp.store._paging import page_rows, touched_pages

__all__ = ["Layout", "StagedColumn", "layouts_of", "stage_table", "write_array", "write_columns"]

# Chunks on their way to the disk while others are packed; each is as large as a page at most.
_AT_ONCE = 16
_AnyArray = zarr.AsyncArray[Any]


@dataclass(frozen=True)
class Layout:
    """How a column is stored: dtype, shape of a row, rows of a page, rows."""

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    rows_per_page: int
    row_count: int


@dataclass(frozen=True)
class StagedColumn:
    """Copies of the pages of one column that a commit may have to write, by number."""

    table: str
    column: str
    layout: Layout
    is_new: bool
    pages: dict[int, npt.NDArray[Any]]


def layouts_of(root: zarr.Group) -> dict[tuple[str, str], Layout]:
    """How the columns of a revision are stored; one whose chunks are encoded otherwise is left out."""
    if "tables" not in root:
        return {}
    return {
        (table, column): Layout(array.dtype, array.shape[1:], array.chunks[0], array.shape[0])
        for table, group in zarr.open_group(root.store_path / "tables", mode="r").groups()
        for column, array in group.arrays()
        if has_our_codecs(array)
    }


def stage_table(name: str, table: TableChange, stored: dict[tuple[str, str], Layout]) -> list[StagedColumn]:
    """Copy what of a table a commit may have to write; the table may change as soon as this returns."""
    staged = []
    touched: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
    for column, values in table.columns.items():
        row_shape, before = values.shape[1:], stored.get((name, column))
        is_new = before is None or before.dtype != values.dtype or before.row_shape != row_shape
        if before is None or is_new:
            row_bytes = values.dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
            before = Layout(values.dtype, row_shape, page_rows(row_bytes), 0)
        n = before.rows_per_page
        # Most columns of a table have rows of one of a few sizes.
        pages = touched.get((n, before.row_count))
        if pages is None:
            pages = touched_pages(table.changed_rows, n, before.row_count, len(values))
            touched[n, before.row_count] = pages
        copies = {int(page): values[page * n : (page + 1) * n].copy() for page in pages}
        staged.append(StagedColumn(name, column, replace(before, row_count=len(values)), is_new, copies))
    return staged


async def write_columns(root: zarr.AsyncGroup, staged: list[StagedColumn], digests: Digests) -> Digests:
    """Write the staged pages that differ from what is stored; returns the digests of all that were staged.

    Columns of the same table that are not staged are deleted.
    """
    written: Digests = {}
    room = asyncio.Semaphore(_AT_ONCE)
    for name in sorted({one.table for one in staged}):
        group = await root.require_group(f"tables/{name}")
        columns = {one.column for one in staged if one.table == name}
        stored = {column: array async for column, array in group.arrays()}
        for column in sorted(stored.keys() - columns):
            await group.delitem(column)
        coming = [
            _write_column(group, None if one.is_new else stored[one.column], one, digests, room)
            for one in staged
            if one.table == name
        ]
        for fresh in await asyncio.gather(*coming):
            written |= fresh
    return written


async def _write_column(
    group: zarr.AsyncGroup,
    array: _AnyArray | None,
    staged: StagedColumn,
    digests: Digests,
    room: asyncio.Semaphore,
) -> Digests:
    layout, known = staged.layout, digests
    shape, n = (layout.row_count, *layout.row_shape), layout.rows_per_page
    if array is None:
        known = {}
        chunks = (n, *(max(1, k) for k in layout.row_shape))
        array = await _create(group, staged.column, shape, layout.dtype, chunks)
    elif array.shape != shape:
        await array.resize(shape)
    # A changed row rarely changes in every column: most pages of most columns are as they were.
    fresh = {
        (staged.table, staged.column, page): page_digest(values) for page, values in staged.pages.items()
    }
    changed = [key[2] for key, digest in fresh.items() if known.get(key) != digest]
    written = [(page, staged.pages[page]) for page in changed if staged.pages[page].size]
    await asyncio.gather(*(write_chunk(array, page, values, room) for page, values in written))
    return fresh


async def write_array(
    root: zarr.AsyncGroup, name: str, values: npt.NDArray[Any], digests: Digests
) -> Digests:
    """Write an array unless the last commit wrote the same; returns its digest."""
    values = np.asarray(values)
    key, digest = ("", name, 0), page_digest(values)
    if digests.get(key) == digest:
        return {}
    group = await root.require_group("arrays")
    chunks = tuple(max(1, n) for n in values.shape)
    if values.ndim:
        row_bytes = values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64))
        chunks = (min(chunks[0], page_rows(row_bytes)), *chunks[1:])
    array = await _create(group, name, values.shape, values.dtype, chunks)
    if values.size:
        await array.setitem(..., values)
    return {key: digest}


async def _create(
    group: zarr.AsyncGroup, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunks: tuple[int, ...]
) -> _AnyArray:
    # write_empty_chunks: a page of -0.0 equals the fill value 0.0 and must not lose its sign.
    return await group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=compressors(dtype, name),
        fill_value=dtype.type(0),
        config={"write_empty_chunks": True},
        overwrite=True,
    )
