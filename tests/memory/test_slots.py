"""Arrays in slots of a region: the same list as ``AddressedArrays``, and slots serve again."""

from __future__ import annotations

import ctypes
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.memory import AddressedArrays, ArrayList
from streamdgp.memory._region import Region, Scratch
from streamdgp.memory._slots import SlotArrays

SHAPE = (4, 5)


@pytest.fixture
def region(tmp_path: Path) -> Region:
    return Region(Scratch(tmp_path), np.dtype(np.float32), SHAPE, 1 << 20)


def _arrays(rng: np.random.Generator, count: int) -> list[npt.NDArray[np.float32]]:
    return list(rng.random((count, *SHAPE), np.float32))


def _bits(arrays: object) -> list[bytes]:
    return [array.tobytes() for array in arrays]  # type: ignore[attr-defined]


def _at_addresses(addresses: npt.NDArray[np.int64]) -> list[bytes]:
    return [ctypes.string_at(int(address), 4 * 20) for address in addresses]


def _evict(region: Region) -> None:
    region.evict(np.arange(len(region.stamp)))


def test_the_same_as_arrays_on_the_heap(region: Region) -> None:
    """Any order of appending, replacing and holding; what was held stays as it was, also when evicted."""
    rng = np.random.default_rng(0)
    slots, heap = SlotArrays(region), AddressedArrays()
    held = []
    for step in range(60):
        count = int(rng.integers(1, 30))
        slots.extend_empty(count)
        heap.extend_empty(count)
        some = np.unique(
            np.concatenate([np.arange(len(heap) - count, len(heap)), rng.integers(0, len(heap), 40)])
        )
        fresh = _arrays(rng, len(some))
        slots.put(some, fresh)
        heap.put(some, [array.copy() for array in fresh])
        one, only = int(rng.integers(len(heap))), _arrays(rng, 1)[0]
        slots[one] = only
        heap[one] = only.copy()
        if step % 4 == 0:
            held.append((slots.held(), heap.held()))
        if step % 7 == 0:
            held = held[1:]
        if step % 5 == 0:
            _evict(region)
        assert len(slots) == len(heap)
        assert _bits(slots) == _bits(heap)
    assert held
    for ours, theirs in held:
        assert len(ours) == len(theirs)
        assert _bits(ours) == _bits(theirs)
        order = rng.permutation(len(ours))
        assert _at_addresses(ours.addresses(order)) == [theirs[int(k)].tobytes() for k in order]
    order = rng.permutation(len(slots))
    assert _at_addresses(slots.addresses(order)) == [heap[int(k)].tobytes() for k in order]


def test_entries_without_an_array(region: Region) -> None:
    slots = SlotArrays(region)
    slots.extend_empty(3)
    slots[1] = np.ones(SHAPE, np.float32)
    assert [array.shape for array in slots] == [(0,), SHAPE, (0,)]
    assert [array.shape for array in slots.held()] == [(0,), SHAPE, (0,)]


def test_what_is_given_out_is_not_written(region: Region) -> None:
    slots = SlotArrays(region)
    slots.extend_empty(1)
    source = np.ones(SHAPE, np.float32)
    slots[0] = source
    source[:] = 2
    assert (slots[0] == 1).all(), "arrays are copied"
    with pytest.raises(ValueError, match="read-only"):
        slots[0][0, 0] = 3
    held = slots.held()
    assert held.held() is held
    for refused in (
        lambda: held.__setitem__(0, source),
        lambda: held.put(np.array([0]), [source]),
        lambda: held.extend_empty(1),
    ):
        with pytest.raises(TypeError, match="does not change"):
            refused()


def test_slots_are_used_again(region: Region) -> None:
    """Hundreds of rounds of replacement take no more room than a few, held or not."""
    rng = np.random.default_rng(1)
    slots = SlotArrays(region)
    slots.extend_empty(50)
    every = np.arange(50)
    slots.put(every, _arrays(rng, 50))
    held = slots.held()
    for _ in range(200):
        slots.put(every[:10], _arrays(rng, 10))
        held = slots.held()
    assert slots._used <= 50 + 3 * 10
    assert _bits(held) == _bits(slots)


def test_an_index_may_come_twice(region: Region) -> None:
    """The last array stays, and no slot is given out to two entries."""
    rng = np.random.default_rng(4)
    slots, heap = SlotArrays(region), AddressedArrays()
    for arrays in (slots, heap):
        arrays.extend_empty(12)
    for turn in range(60):
        some, fresh = rng.integers(0, 12, 9), _arrays(rng, 9)
        slots.put(some, fresh)
        heap.put(some, [array.copy() for array in fresh])
        held = slots.held() if turn % 3 == 0 else None
        assert _bits(slots) == _bits(heap), turn
        if held is not None:
            assert _bits(held) == _bits(heap), turn
    taken = slots._slot[: len(slots)]
    assert len(set(taken)) == len(slots)
    assert slots._used <= 12 + 3 * 9, "what was replaced at once serves again"


@pytest.mark.parametrize("indices", [[3], [-1], [0, 100], [-300, 1]])
@pytest.mark.parametrize("is_paged", [True, False])
def test_an_index_of_no_entry_is_refused_and_changes_nothing(
    region: Region, indices: list[int], is_paged: bool
) -> None:
    rng = np.random.default_rng(5)
    arrays: ArrayList = SlotArrays(region) if is_paged else AddressedArrays()
    arrays.extend_empty(3)
    arrays.put(np.arange(3), _arrays(rng, 3))
    wanted = _bits(arrays)
    with pytest.raises(IndexError):
        arrays.put(np.array(indices), _arrays(rng, len(indices)))
    if len(indices) == 1:
        with pytest.raises(IndexError):
            arrays[indices[0]] = _arrays(rng, 1)[0]
    assert _bits(arrays) == wanted
    arrays.extend_empty(1)
    assert arrays[3].shape == (0,)


@pytest.mark.parametrize("is_paged", [True, False])
def test_one_array_of_several_is_as_good_as_a_list(region: Region, is_paged: bool) -> None:
    rng = np.random.default_rng(6)
    arrays: ArrayList = SlotArrays(region) if is_paged else AddressedArrays()
    arrays.extend_empty(5)
    first, second = _arrays(rng, 5), _arrays(rng, 3)
    arrays.put(np.arange(5), np.stack(first))
    held = arrays.held()
    arrays.put(np.array([4, 0, 2]), np.stack(second))
    assert _bits(held) == [array.tobytes() for array in first]
    wanted = [array.tobytes() for array in (second[1], first[1], second[2], first[3], second[0])]
    assert _bits(arrays) == wanted
    for given in (second, np.stack(second)):
        with pytest.raises(ValueError, match="2 arrays, not 3"):
            arrays.put(np.array([0, 1]), given)
    assert _bits(arrays) == wanted


def test_a_long_holder_keeps_its_slots_and_gives_them_back(region: Region) -> None:
    rng = np.random.default_rng(2)
    slots = SlotArrays(region)
    slots.extend_empty(20)
    every = np.arange(20)
    slots.put(every, _arrays(rng, 20))
    held, wanted = slots.held(), _bits(slots)
    for _ in range(30):
        slots.put(every, _arrays(rng, 20))
        younger = slots.held()
    assert _bits(held) == wanted
    used = slots._used
    assert used >= 40
    del held, younger
    for _ in range(30):
        slots.put(every, _arrays(rng, 20))
    assert slots._used == used, "what the holders kept serves again"


def test_copies_elsewhere_are_on_the_heap(region: Region) -> None:
    rng = np.random.default_rng(3)
    slots = SlotArrays(region)
    slots.extend_empty(4)
    slots.put(np.arange(4), _arrays(rng, 4))
    wanted = _bits(slots)
    copied = pickle.loads(pickle.dumps(slots))
    slots.put(np.arange(4), _arrays(rng, 4))
    assert isinstance(copied, AddressedArrays)
    assert _bits(copied) == wanted
