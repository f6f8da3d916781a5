"""Arrays of one shape in slots, which are used again when nobody can see what was in them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamdgp.memory._lists import Arrays, require_within
from streamdgp.memory._slabs import HeapSlots

__all__ = ["SlotArrays", "SlotStore"]

_NONE = -1


class SlotStore(Protocol):
    """Room for float32 arrays of one shape, numbered; a slot never moves."""

    def reserve(self, count: int) -> None:
        """Make room for so many slots."""

    def put(self, slots: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Copy arrays into slots (K,), all different."""

    def array(self, slot: int) -> npt.NDArray[np.float32]:
        """What is in a slot."""

    def addresses(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where slots (K,) lie."""

    def touch(self, slots: npt.NDArray[np.int64], tick: int) -> None:
        """Note that slots are being used."""


class SlotArrays:
    """A list of float32 arrays in slots. A replaced array keeps its slot while somebody may hold it.

    ``held`` starts a new epoch. What is held in one sees the slots that were taken in it or before and given
    up later; a slot that is given up serves again as soon as nothing is left that sees it.
    """

    def __init__(self, store: SlotStore) -> None:
        self._store = store
        self._slot = np.zeros(0, np.int64)
        self._count = 0
        self._used = 0
        self._free = np.zeros(0, np.int64)
        self._epoch = 0
        self._taken_in = np.zeros(0, np.int64)
        self._holders: list[tuple[int, weakref.ref[_HeldSlots]]] = []
        # Slots that were given up and may still be seen, and the epochs in which that was.
        self._given_up, self._given_up_in = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return _at(self._store, self._slot[: self._count][index])

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
        self._store.put(new, arrays)
        self._slot[indices] = new
        is_kept = self._slot[indices] == new
        if not is_kept.all():
            # An entry that is named twice gives up one slot, and what it was given first nobody has seen.
            self._free = np.concatenate([self._free, new[~is_kept]])
        given_up = old[is_kept & (old != _NONE)]
        self._given_up = np.concatenate([self._given_up, given_up])
        self._given_up_in = np.concatenate([self._given_up_in, np.full(len(given_up), self._epoch)])

    def addresses(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Addresses (K,) of arrays, valid while nobody replaces them."""
        return self._store.addresses(self._slot[indices])

    def touch(self, indices: npt.NDArray[np.int64], tick: int) -> None:
        """Note that arrays are being used."""
        slots = self._slot[indices]
        self._store.touch(slots[slots != _NONE], tick)

    def held(self) -> _HeldSlots:
        """The arrays as they are now, for who must not see them replaced."""
        held = _HeldSlots(self._store, self._slot[: self._count].copy())
        self._forget_the_gone()
        self._holders.append((self._epoch, weakref.ref(held)))
        self._epoch += 1
        return held

    def _take(self, count: int) -> npt.NDArray[np.int64]:
        """Numbers of slots that nobody sees."""
        self._reclaim()
        taken, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._used, self._used + count - len(taken))
        self._used += len(fresh)
        self._store.reserve(self._used)
        if self._used > len(self._taken_in):
            more = np.zeros(max(256, self._used), np.int64)
            self._taken_in = np.concatenate([self._taken_in, more])
        taken = np.concatenate([taken, fresh])
        self._taken_in[taken] = self._epoch
        return taken

    def _forget_the_gone(self) -> None:
        self._holders = [(epoch, held) for epoch, held in self._holders if held() is not None]

    def _reclaim(self) -> None:
        self._forget_the_gone()
        if not len(self._given_up):
            return
        # The first that may see a slot; with an end that sees nothing.
        epochs = np.array([*(epoch for epoch, _ in self._holders), np.iinfo(np.int64).max])
        first = epochs[np.searchsorted(epochs, self._taken_in[self._given_up])]
        is_seen = first < self._given_up_in
        self._free = np.concatenate([self._free, self._given_up[~is_seen]])
        self._given_up, self._given_up_in = self._given_up[is_seen], self._given_up_in[is_seen]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.held().__reduce__()


class _HeldSlots:
    """What ``SlotArrays.held`` gives: the same arrays for as long as this lives."""

    def __init__(self, store: SlotStore, slot: npt.NDArray[np.int64]) -> None:
        self._store, self._slot = store, slot

    def __len__(self) -> int:
        return len(self._slot)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return _at(self._store, self._slot[index])

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
        return self._store.addresses(self._slot[indices])

    def held(self) -> _HeldSlots:
        """The same."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere there is no such store: copies on the heap.
        return _on_heap, ([array.copy() for array in self],)


def _on_heap(arrays: list[npt.NDArray[np.float32]]) -> SlotArrays:
    is_there = np.flatnonzero([array.ndim > 1 or array.size > 0 for array in arrays])
    made = SlotArrays(HeapSlots(arrays[is_there[0]].shape if len(is_there) else ()))
    made.extend_empty(len(arrays))
    made.put(is_there, [arrays[k] for k in is_there])
    return made


def _at(store: SlotStore, slot: int) -> npt.NDArray[np.float32]:
    if slot == _NONE:
        return np.zeros((0,), np.float32)
    array = store.array(slot)
    array.flags.writeable = False
    return array
