"""The arrays of one scene under a memory budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamdgp.memory._heap import row_slices
from streamdgp.memory._lists import Arrays
from streamdgp.memory._region import Region, Scratch
from streamdgp.memory._slots import SlotArrays

if TYPE_CHECKING:
    from streamdgp.memory._budget import MemoryBudget

__all__ = ["PagedMemory", "RegionSlots"]

_REGION_BYTES = 1 << 34
_LIST_BYTES = 1 << 37


class PagedMemory:
    """Arrays in regions of address space, of which the budget evicts what was not used for longest.

    Made by :meth:`MemoryBudget.memory`. Whoever writes arrays holds ``writing()``; eviction waits for it, or
    leaves the scene out.
    """

    is_limited = True

    def __init__(self, budget: MemoryBudget, directory: Path) -> None:
        self._budget = budget
        self._scratch = Scratch(directory, budget.min_free_bytes)
        self._regions: dict[str, Region] = {}
        self._lists: dict[str, SlotArrays] = {}
        self.lock = threading.RLock()

    def grown(self, name: str, array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """See :class:`streamdgp.memory.ArrayMemory`; the rows keep their addresses."""
        region = self._regions.get(name)
        if region is None:
            region = self._region(name, array.dtype, array.shape[1:], _REGION_BYTES)
            made = region.array(rows)
            made[: len(array)] = array
            return made
        return region.array(rows)

    def array_list(self, name: str, shape: tuple[int, ...]) -> SlotArrays:
        """See :class:`streamdgp.memory.ArrayMemory`."""
        made = SlotArrays(RegionSlots(self._region(name, np.dtype(np.float32), shape, _LIST_BYTES)))
        self._lists[name] = made
        return made

    def touch(self, table: str, rows: npt.NDArray[np.int64]) -> None:
        """See :class:`streamdgp.memory.ArrayMemory`."""
        tick = self._budget.tick()
        for name, region in self._regions.items():
            if name.split("/")[0] != table:
                continue
            if name in self._lists:
                self._lists[name].touch(rows, tick)
            else:
                region.touch(rows, tick)

    def writing(self) -> AbstractContextManager[Any]:
        """See :class:`streamdgp.memory.ArrayMemory`."""
        return self.lock

    def relieve(self) -> None:
        """See :class:`streamdgp.memory.ArrayMemory`."""
        self._budget.relieve()

    def slices(self, rows: int) -> Iterator[slice]:
        """See :class:`streamdgp.memory.ArrayMemory`."""
        for part in row_slices(rows):
            yield part
            self._budget.relieve()

    def regions(self) -> list[Region]:
        """All regions, for the budget."""
        return list(self._regions.values())

    def _region(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> Region:
        row_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        region = Region(self._scratch, dtype, shape, size // row_bytes)
        self._regions[name] = region
        return region


class RegionSlots:
    """The rows of a region as slots; see ``SlotStore``."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._rows = region.array(0)

    def reserve(self, count: int) -> None:
        """Make room for so many slots."""
        if count > len(self._rows):
            self._rows = self._region.array(max(64, count + count // 8))

    def put(self, slots: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Copy arrays into slots (K,), all different."""
        if isinstance(arrays, np.ndarray):
            self._rows[slots] = arrays
            return
        for slot, array in zip(slots, arrays, strict=True):
            self._rows[slot] = array

    def array(self, slot: int) -> npt.NDArray[np.float32]:
        """What is in a slot."""
        there: npt.NDArray[np.float32] = self._rows[slot]
        return there

    def addresses(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where slots (K,) lie."""
        there: npt.NDArray[np.int64] = slots * self._region.row_bytes + self._region.address
        return there

    def touch(self, slots: npt.NDArray[np.int64], tick: int) -> None:
        """Note that slots are being used."""
        self._region.touch(slots, tick)
