"""Arrays of one shape in one region: the paged counterpart of ``AddressedArrays``."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.memory._addressed import AddressedArrays, Arrays, require_within
from streamdgp.memory._region import Region

__all__ = ["SlotArrays"]

_NONE = -1


class SlotArrays:
    """Float32 arrays in slots of a region. A replaced array keeps its slot while somebody may hold it.

    ``held`` starts a new epoch. A slot that is given up in some epoch can be seen by everything that was held
    in it or before, and serves again when all of that is gone.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._slot = np.zeros(0, np.int64)
        self._count = 0
        self._slots = region.array(0)
        self._used = 0
        self._free = np.zeros(0, np.int64)
        self._epoch = 0
        self._holders: deque[tuple[int, weakref.ref[_HeldSlots]]] = deque()
        self._given_up: deque[tuple[int, npt.NDArray[np.int64]]] = deque()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return _at(self._slots, self._slot[: self._count][index])

    def __setitem__(self, index: int, array: npt.NDArray[np.float32]) -> None:
        self.put(np.array([index]), [array])

    def extend_empty(self, count: int) -> None:
        """Append entries that have no array yet."""
        self._count += count
        while self._count > len(self._slot):
            self._slot = np.concatenate([self._slot, np.full(max(256, len(self._slot)), _NONE)])

    def put(self, indices: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Replace arrays by copies of these; of several for one entry the last stays."""
        if not len(indices):
            return
        require_within(indices, self._count)
        if len(arrays) != len(indices):
            raise ValueError(f"{len(indices)} arrays, not {len(arrays)}")
        old, new = self._slot[indices], self._take(len(indices))
        for row, slot in enumerate(new):
            self._slots[slot] = arrays[row]
        self._slot[indices] = new
        is_kept = self._slot[indices] == new
        if not is_kept.all():
            # An entry that is named twice gives up one slot, and what it was given first nobody has seen.
            self._free = np.concatenate([self._free, new[~is_kept]])
        given_up = old[is_kept]
        self._given_up.append((self._epoch, given_up[given_up != _NONE]))

    def addresses(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Addresses (K,) of arrays, valid while nobody replaces them."""
        taken: npt.NDArray[np.int64] = self._slot[indices] * self._region.row_bytes + self._region.address
        return taken

    def touch(self, indices: npt.NDArray[np.int64], tick: int) -> None:
        """Note that arrays are being used."""
        slots = self._slot[indices]
        self._region.touch(slots[slots != _NONE], tick)

    def held(self) -> _HeldSlots:
        """The arrays as they are now, for who must not see them replaced."""
        held = _HeldSlots(self._region, self._slots, self._slot[: self._count].copy())
        self._holders.append((self._epoch, weakref.ref(held)))
        self._epoch += 1
        return held

    def _take(self, count: int) -> npt.NDArray[np.int64]:
        """Numbers of slots that nobody sees."""
        self._reclaim()
        taken, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._used, self._used + count - len(taken))
        self._used += len(fresh)
        if self._used > len(self._slots):
            self._slots = self._region.array(max(64, self._used + self._used // 8))
        return np.concatenate([taken, fresh])

    def _reclaim(self) -> None:
        self._holders = deque((epoch, held) for epoch, held in self._holders if held() is not None)
        oldest = self._holders[0][0] if self._holders else self._epoch + 1
        free = [self._free]
        while self._given_up and self._given_up[0][0] < oldest:
            free.append(self._given_up.popleft()[1])
        if len(free) > 1:
            self._free = np.concatenate(free)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.held().__reduce__()


class _HeldSlots:
    """What ``SlotArrays.held`` gives: the same arrays for as long as this lives."""

    def __init__(self, region: Region, slots: npt.NDArray[np.float32], slot: npt.NDArray[np.int64]) -> None:
        self._region, self._slots, self._slot = region, slots, slot

    def __len__(self) -> int:
        return len(self._slot)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return _at(self._slots, self._slot[index])

    def __setitem__(self, index: int, array: npt.NDArray[np.float32]) -> None:
        raise TypeError("what is held does not change")

    def put(self, indices: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Refused: what is held does not change."""
        raise TypeError("what is held does not change")

    def extend_empty(self, count: int) -> None:
        """Refused: what is held does not change."""
        raise TypeError("what is held does not change")

    def addresses(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Addresses (K,) of arrays."""
        taken: npt.NDArray[np.int64] = self._slot[indices] * self._region.row_bytes + self._region.address
        return taken

    def held(self) -> _HeldSlots:
        """The same."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere there is no region: copies on the heap.
        return _on_heap, ([array.copy() for array in self],)


def _on_heap(arrays: list[npt.NDArray[np.float32]]) -> AddressedArrays:
    made = AddressedArrays()
    made.extend(arrays)
    return made


def _at(slots: npt.NDArray[np.float32], slot: int) -> npt.NDArray[np.float32]:
    if slot == _NONE:
        return np.zeros((0,), np.float32)
    array: npt.NDArray[np.float32] = slots[slot]
    array.flags.writeable = False
    return array
