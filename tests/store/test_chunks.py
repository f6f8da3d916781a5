"""Chunks that are written past zarr are those that zarr writes, and zarr reads them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, MemoryStore

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.store._chunks import compressors, has_our_codecs, write_chunk
from streamdgp.store._tables import layouts_of, stage_table, write_columns
from tests.store.test_atlas_store import make_columns

_ROWS = 64


def _array(
    store: MemoryStore | LocalStore, name: str, values: np.ndarray, codecs: list | None = None
) -> zarr.Array:
    return zarr.create_array(
        store,
        name=name,
        shape=values.shape,
        chunks=(_ROWS, *values.shape[1:]),
        dtype=values.dtype,
        compressors=codecs or compressors(values.dtype, name),
        fill_value=values.dtype.type(0),
        config={"write_empty_chunks": True},
    )


def _older(values: np.ndarray) -> list:
    """Codecs of an array that another version made."""
    return [
        BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=values.dtype.itemsize),
        Crc32cCodec(),
    ]


@pytest.mark.parametrize("column", sorted(make_columns(1, 0)))
@pytest.mark.parametrize("rows", [_ROWS, 3 * _ROWS, 2 * _ROWS + 17, 5])
@pytest.mark.parametrize("name", ["a", "support", "of an older version"])
def test_the_same_bytes_as_zarr(column: str, rows: int, name: str) -> None:
    values = make_columns(rows, rows)[column]
    codecs = _older(values) if name == "of an older version" else None
    ours, theirs = MemoryStore(), MemoryStore()
    _array(theirs, name, values, codecs)[:] = values
    array = _array(ours, name, values, codecs)
    assert has_our_codecs(array)

    async def write() -> None:
        room = asyncio.Semaphore(2)
        pages = ((page, values[page * _ROWS : (page + 1) * _ROWS]) for page in range(-(-rows // _ROWS)))
        await asyncio.gather(*(write_chunk(array.async_array, page, part, room) for page, part in pages))

    asyncio.run(write())
    assert array[:].tobytes() == values.tobytes()
    stored = {key: value.to_bytes() for key, value in ours._store_dict.items()}
    assert stored == {key: value.to_bytes() for key, value in theirs._store_dict.items()}


def test_a_page_that_is_cut_or_changed_is_not_read(tmp_path: Path) -> None:
    values = make_columns(_ROWS, 1)["weights"]
    array = _array(LocalStore(tmp_path), "a", values)
    asyncio.run(write_chunk(array.async_array, 0, values, asyncio.Semaphore(1)))
    (chunk,) = (path for path in tmp_path.rglob("0") if path.is_file())
    data = chunk.read_bytes()
    for damaged in (data[:-5], data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match="checksum"):
            array[:]


def test_a_column_that_is_encoded_otherwise_is_written_anew() -> None:
    """Else its chunks would not be what its metadata says."""
    store = MemoryStore()
    columns = {name: make_columns(100, 2)[name] for name in ("count", "normal")}
    group = zarr.create_group(store, path="tables/charts")
    for name, values in columns.items():
        more = {"compressors": None} if name == "count" else {"compressors": compressors(values.dtype)}
        array = group.create_array(
            name, shape=values.shape, chunks=(_ROWS, *values.shape[1:]), dtype=values.dtype, **more
        )
        array[:] = values
    layouts = layouts_of(zarr.open_group(store))
    assert set(layouts) == {("charts", "normal")}
    columns["count"][3] += 1
    changes = AtlasChanges({"charts": TableChange(columns, np.array([3]))})
    staged = stage_table("charts", changes.tables["charts"], layouts)

    async def write() -> None:
        root = await zarr.api.asynchronous.open_group(store, mode="a", zarr_format=3)
        await write_columns(root, staged, {})

    asyncio.run(write())
    for name, values in columns.items():
        read = zarr.open_array(store, path=f"tables/charts/{name}")
        assert has_our_codecs(read)
        np.testing.assert_array_equal(read[:], values)
