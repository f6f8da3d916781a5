"""Tables and arrays as zarr arrays: which pages a commit writes, and how they are encoded."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from streamdgp.atlas.changes import TableChange
from streamdgp.store._paging import page_rows, row_runs, touched_pages

__all__ = ["Digests", "write_array", "write_table"]

Digests = dict[tuple[str, str, int], bytes]
"""(table, column, page): SHA-256 of what the newest revision holds there."""


def write_table(root: zarr.Group, name: str, table: TableChange, digests: Digests) -> Digests:
    """Write the changed pages of a table; returns the digests of what was written."""
    group = root.require_group(f"tables/{name}")
    stored = dict(group.arrays())
    for column in stored.keys() - table.columns.keys():
        del group[column]
    written: Digests = {}
    for column, values in table.columns.items():
        rows_per_page = page_rows(values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64)))
        array = stored.get(column)
        stored_rows, known = 0, digests
        if array is None or array.dtype != values.dtype or array.shape[1:] != values.shape[1:]:
            chunks = (rows_per_page, *(max(1, n) for n in values.shape[1:]))
            array, known = _create(group, column, values, chunks), {}
        else:
            stored_rows, rows_per_page = array.shape[0], array.chunks[0]
        pages = touched_pages(table.changed_rows, rows_per_page, stored_rows, len(values))
        if len(values) != array.shape[0]:
            array.resize(values.shape)
        # A changed row rarely changes in every column: most pages of most columns are as they were.
        fresh = {
            (name, column, int(page)): _digest(values[page * rows_per_page : (page + 1) * rows_per_page])
            for page in pages
        }
        differs = np.array([known.get(key) != digest for key, digest in fresh.items()], np.bool_)
        for start, stop in row_runs(pages[differs], rows_per_page, len(values)):
            array[start:stop] = np.ascontiguousarray(values[start:stop])
        written.update(fresh)
    return written


def write_array(root: zarr.Group, name: str, values: npt.NDArray[Any], digests: Digests) -> Digests:
    """Write an array unless the last commit wrote the same; returns its digest."""
    values = np.asarray(values)
    key, digest = ("", name, 0), _digest(values)
    if digests.get(key) == digest:
        return {}
    group = root.require_group("arrays")
    chunks = tuple(max(1, n) for n in values.shape)
    if values.ndim:
        row_bytes = values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64))
        chunks = (min(chunks[0], page_rows(row_bytes)), *chunks[1:])
    array = _create(group, name, values, chunks)
    if values.size:
        array[...] = values
    return {key: digest}


def _digest(values: npt.NDArray[Any]) -> bytes:
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    digest.update(f"{values.shape} {values.dtype.str}".encode())
    return digest.digest()


def _compressor(dtype: np.dtype[Any]) -> BloscCodec:
    """zstd behind a shuffle: values of a page share their high bytes, and small counts their high bits."""
    shuffle: Literal["shuffle", "bitshuffle"] = "bitshuffle" if dtype.itemsize == 1 else "shuffle"
    return BloscCodec(cname="zstd", clevel=3, shuffle=shuffle, typesize=dtype.itemsize)


def _create(
    group: zarr.Group, name: str, values: npt.NDArray[Any], chunks: tuple[int, ...]
) -> zarr.Array[Any]:
    # write_empty_chunks: a page of -0.0 equals the fill value 0.0 and must not lose its sign.
    return group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        compressors=[_compressor(values.dtype), Crc32cCodec()],
        fill_value=values.dtype.type(0),
        config={"write_empty_chunks": True},
        overwrite=True,
    )
