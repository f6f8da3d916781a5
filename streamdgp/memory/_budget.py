"""How much of all scenes' arrays may be in memory at once."""

from __future__ import annotations

import logging
import mmap
import os
import threading
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdgp.memory._paged import PagedMemory
from streamdgp.memory._region import Region, give_back_heap

__all__ = ["MemoryBudget"]

_LOGGER = logging.getLogger(__name__)
# A look at the page map for every sixteenth of the budget that the process has grown by.
_LOOK_SHARE = 1 / 16
# Room made at once, as a share of the budget.
_SPARE_SHARE = 1 / 8
_MIN_BYTES = 16 << 20


class MemoryBudget:
    """Keeps the arrays of all its memories within ``max_bytes``, by evicting what was not used for longest.

    What was used is known from :meth:`PagedMemory.touch`, and from evicted chunks having come back. Where a
    disk takes nothing more, arrays stay in memory, beyond the budget.

    Parameters
    ----------
    min_free_bytes
        What evicting leaves free on a disk: logs and commits need it more.
    """

    def __init__(self, max_bytes: int, min_free_bytes: int = 0) -> None:
        self.max_bytes = max(max_bytes, _MIN_BYTES)
        self.min_free_bytes = min_free_bytes
        self.evicted_bytes = 0
        self._memories: weakref.WeakSet[PagedMemory] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._tick = 0
        self._seen_rss = -1
        self._is_owed = False
        self._has_warned = False
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def memory(self, directory: Path) -> PagedMemory:
        """Memory of one scene; what is evicted goes to a nameless file in ``directory``.

        Raises
        ------
        StorageError
            The directory takes no files.
        """
        made = PagedMemory(self, directory)
        with self._guard:
            self._memories.add(made)
        return made

    def tick(self) -> int:
        """The time of the budget's clock, which goes on with every use."""
        self._tick += 1
        return self._tick

    def resident_bytes(self) -> int:
        """What all arrays take in memory now."""
        with self._guard:
            return sum(
                int(region.resident_bytes(self._tick).sum())
                for memory in self._memories
                for region in memory.regions()
            )

    def relieve(self) -> None:
        """Evict what was not used for longest, if there is too much; at once back when another thread does.

        Scenes that are being written to by other threads are left out; if all are, the next call that finds
        one free makes up for it.
        """
        rss = self._rss()
        if not self._is_owed and 0 <= self._seen_rss and rss < self._seen_rss + _LOOK_SHARE * self.max_bytes:
            self._seen_rss = min(self._seen_rss, rss)
            return
        if not self._guard.acquire(blocking=False):
            return
        try:
            self._relieve()
            self._seen_rss = self._rss()
        finally:
            self._guard.release()

    def _relieve(self) -> None:
        held: list[PagedMemory] = []
        busy: list[PagedMemory] = []
        try:
            for memory in list(self._memories):
                (held if memory.lock.acquire(blocking=False) else busy).append(memory)
            self._is_owed = not held
            if not held:
                return
            regions = [region for memory in held for region in memory.regions()]
            resident = [region.resident_bytes(self._tick) for region in regions]
            others = [region.resident_bytes(self._tick) for memory in busy for region in memory.regions()]
            excess = sum(int(sizes.sum()) for sizes in [*resident, *others]) - self.max_bytes
            if excess > 0 and regions:
                self._evict(regions, resident, excess + int(_SPARE_SHARE * self.max_bytes))
                give_back_heap()
        finally:
            for memory in held:
                memory.lock.release()

    def _evict(self, regions: list[Region], resident: list[npt.NDArray[np.int64]], excess: int) -> None:
        owner = np.repeat(np.arange(len(regions)), [len(sizes) for sizes in resident])
        chunk = np.concatenate([np.arange(len(sizes)) for sizes in resident])
        size = np.concatenate(resident)
        present = np.flatnonzero(size)
        owner, chunk, size = owner[present], chunk[present], size[present]
        stamp = np.concatenate([region.stamp for region in regions])[present]
        oldest = np.argsort(stamp, kind="stable")
        count = int(np.searchsorted(np.cumsum(size[oldest]), excess)) + 1
        chosen = oldest[:count]
        for number, region in enumerate(regions):
            mine = chosen[owner[chosen] == number]
            try:
                if len(mine):
                    region.evict(np.sort(chunk[mine]))
                    self.evicted_bytes += int(size[mine].sum())
            except OSError as error:  # other scenes may lie on other disks
                if not self._has_warned:
                    _LOGGER.warning("memory cannot be put on disk (%s): the budget is exceeded", error)
                self._has_warned = True

    def _rss(self) -> int:
        return int(os.pread(self._statm, 256, 0).split()[1]) * mmap.PAGESIZE

    def __del__(self) -> None:
        os.close(self._statm)
