"""Several arrays whose metadata zarr does not understand: one error that names the first, nothing printed."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import closing
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import Buffer

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.memory import HeapMemory
from streamdgp.store import AtlasStore
from streamdgp.store._contents import UnreadableError, read_contents

_COLUMNS = ("a", "b", "c", "d")


async def _damage(store: icechunk.IcechunkStore, key: str) -> None:
    content = await store.get(key, default_buffer_prototype())
    assert content is not None
    assert b'"float32"' in content.to_bytes()
    damaged = content.to_bytes().replace(b'"float32"', b'"floau32"')
    await store.set(key, Buffer.from_bytes(damaged))


def test_one_error_and_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = TableChange({name: np.zeros((10, 2), np.float32) for name in _COLUMNS}, np.arange(10))
    with closing(AtlasStore.create(tmp_path)) as store:
        store.commit(AtlasChanges({"charts": table}), {"next": 0})
        sealed = store.revisions()[0].attributes_sha256
    storage = icechunk.local_filesystem_storage(str(tmp_path / "icechunk"))
    session = icechunk.Repository.open(storage).writable_session("main")
    for name in _COLUMNS:
        key = f"tables/charts/{name}/zarr.json"
        asyncio.run(_damage(session.store, key))
    root = zarr.open_group(session.store, mode="r", zarr_format=3)
    with caplog.at_level(logging.ERROR), pytest.raises(UnreadableError, match="table charts, column a"):
        read_contents(root, "revision 1", sealed, HeapMemory())
    gc.collect()
    assert not caplog.records
