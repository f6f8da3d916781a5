"""Slots in memory of their own: slabs of a few megabytes, never moved.

Arrays of some kilobytes that come and go one by one, among all else that a process allocates, leave its
heap full of holes: after an hour of scanning every small allocation took three times as long. A slab is
asked of the system and not of the heap, which may give, and clear, what was used before: so a small scene
takes no more than it fills.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from streamdgp.memory._lists import Arrays

__all__ = ["HeapSlots"]

_SLAB_BYTES = 8 << 20


class HeapSlots:
    """Slots of float32 arrays of one shape; see ``SlotStore``."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._row_bytes = 4 * int(np.prod(shape, dtype=np.int64))
        self._rows = max(_SLAB_BYTES // self._row_bytes, 1)
        self._slabs: list[npt.NDArray[np.float32]] = []
        self._addresses = np.zeros(0, np.int64)

    def reserve(self, count: int) -> None:
        """Make room for so many slots."""
        while len(self._slabs) * self._rows < count:
            # Of zeros, which take no memory until they are written.
            slab = np.frombuffer(mmap.mmap(-1, self._rows * self._row_bytes), np.float32)
            self._slabs.append(slab.reshape(self._rows, *self._shape))
            addresses = [slab.__array_interface__["data"][0] for slab in self._slabs]
            self._addresses = np.array(addresses, np.int64)

    def put(self, slots: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Copy arrays into slots (K,), all different."""
        slabs, rows = np.divmod(slots, self._rows)
        for number in np.unique(slabs):
            chosen = np.flatnonzero(slabs == number)
            slab = self._slabs[number]
            if isinstance(arrays, np.ndarray):
                slab[rows[chosen]] = arrays if len(chosen) == len(arrays) else arrays[chosen]
            else:
                for k in chosen.tolist():
                    slab[rows[k]] = arrays[k]

    def array(self, slot: int) -> npt.NDArray[np.float32]:
        """What is in a slot."""
        there: npt.NDArray[np.float32] = self._slabs[slot // self._rows][slot % self._rows]
        return there

    def addresses(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where slots (K,) lie; of a negative one 0."""
        if not self._slabs:
            return np.zeros(len(slots), np.int64)
        slabs, rows = np.divmod(slots, self._rows)
        there: npt.NDArray[np.int64] = np.where(slots < 0, 0, self._addresses[slabs] + rows * self._row_bytes)
        return there

    def touch(self, slots: npt.NDArray[np.int64], tick: int) -> None:
        """All is in memory."""
