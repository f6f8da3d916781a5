"""A chunk that cannot be read, and what was being read beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from streamdgp.store._contents import UnreadableError, _naming


class _OneBadManySlow(MemoryStore):
    """Chunk 0 cannot be read; the others take a while."""

    slow = 0

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith("c/0"):
            await asyncio.sleep(0.01)
            raise OSError("a bad sector")
        if "/c/" in key or key.startswith("c/"):
            self.slow += 1
            await asyncio.sleep(0.2)
        return await super().get(key, *arguments, **options)


async def _task_count() -> int:
    return len(asyncio.all_tasks()) - 1


def test_nothing_is_left_being_read() -> None:
    """Else asyncio prints a line for each when the process ends."""
    store = _OneBadManySlow()
    array = zarr.create_array(store, shape=(8,), chunks=(1,), dtype=np.int64)
    array[:] = np.arange(8)
    with pytest.raises(UnreadableError, match="table x: a bad sector"), _naming("table x"):
        array[:]
    assert store.slow > 0, "nothing was being read beside it"
    assert sync(_task_count()) == 0
