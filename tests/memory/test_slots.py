"""Arrays in slots, of a region or on the heap: the same list as one of arrays, and slots serve again."""

from __future__ import annotations

import copy
import ctypes
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.memory import HeapMemory
from streamdgp.memory import _slabs as slabs
from streamdgp.memory._paged import RegionSlots
from streamdgp.memory._region import Region, Scratch
from streamdgp.memory._slabs import HeapSlots
from streamdgp.memory._slots import SlotArrays, SlotStore
from tests.reference.arrays import PlainArrays

SHAPE = (4, 5)
Make = Callable[[], SlotArrays]


@pytest.fixture(params=["region", "heap"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlotStore:
    """Room in a region, or in slabs of seven slots."""
    if request.param == "heap":
        monkeypatch.setattr(slabs, "_SLAB_BYTES", 7 * 80 + 3)
        return HeapSlots(SHAPE)
    return RegionSlots(Region(Scratch(tmp_path), np.dtype(np.float32), SHAPE, 1 << 20))


def _evict(store: SlotStore) -> None:
    if isinstance(store, RegionSlots):
        store._region.evict(np.arange(len(store._region.stamp)))


def _arrays(rng: np.random.Generator, count: int) -> list[npt.NDArray[np.float32]]:
    return list(rng.random((count, *SHAPE), np.float32))


def _bits(arrays: object) -> list[bytes]:
    return [array.tobytes() for array in arrays]  # type: ignore[attr-defined]


def _at_addresses(addresses: npt.NDArray[np.int64]) -> list[bytes]:
    return [ctypes.string_at(int(address), 4 * 20) for address in addresses]


def test_the_same_as_a_list_of_arrays(store: SlotStore) -> None:
    """Any order of appending, replacing and holding; what was held stays as it was, also when evicted."""
    rng = np.random.default_rng(0)
    slots, plain = SlotArrays(store), PlainArrays()
    held = []
    for step in range(60):
        count = int(rng.integers(1, 30))
        slots.extend_empty(count)
        plain.extend_empty(count)
        some = np.unique(
            np.concatenate([np.arange(len(plain) - count, len(plain)), rng.integers(0, len(plain), 40)])
        )
        fresh = _arrays(rng, len(some))
        slots.put(some, np.stack(fresh) if step % 2 else fresh)
        plain.put(some, fresh)
        one, only = int(rng.integers(len(plain))), _arrays(rng, 1)
        slots[one] = only[0]
        plain.put(np.array([one]), only)
        if step % 4 == 0:
            held.append((slots.held(), plain.held()))
        if step % 7 == 0:
            # Now the oldest goes, now one that others are older than.
            del held[(step // 7) % len(held)]
        if step % 5 == 0:
            _evict(store)
        assert len(slots) == len(plain)
        assert _bits(slots) == _bits(plain)
        for ours, theirs in held:
            assert _bits(ours) == _bits(theirs)
    assert held
    for ours, theirs in held:
        assert len(ours) == len(theirs)
        order = rng.permutation(len(ours))
        assert _at_addresses(ours.addresses(order)) == [theirs[int(k)].tobytes() for k in order]
    order = rng.permutation(len(slots))
    assert _at_addresses(slots.addresses(order)) == [plain[int(k)].tobytes() for k in order]


def test_addresses_are_those_of_the_arrays(store: SlotStore) -> None:
    slots = SlotArrays(store)
    slots.extend_empty(100)
    slots.put(np.arange(100), _arrays(np.random.default_rng(7), 100))
    order = np.random.default_rng(8).permutation(100)
    assert [slots[int(k)].ctypes.data for k in order] == slots.addresses(order).tolist()


def test_entries_without_an_array(store: SlotStore) -> None:
    slots = SlotArrays(store)
    slots.extend_empty(3)
    assert len(slots.addresses(np.arange(3))) == 3
    slots[1] = np.ones(SHAPE, np.float32)
    assert [array.shape for array in slots] == [(0,), SHAPE, (0,)]
    assert [array.shape for array in slots.held()] == [(0,), SHAPE, (0,)]


def test_what_is_given_out_is_not_written(store: SlotStore) -> None:
    slots = SlotArrays(store)
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


def test_slots_are_used_again(store: SlotStore) -> None:
    """Hundreds of rounds of replacement take no more room than a few, held or not."""
    rng = np.random.default_rng(1)
    slots = SlotArrays(store)
    slots.extend_empty(50)
    every = np.arange(50)
    slots.put(every, _arrays(rng, 50))
    held = slots.held()
    for _ in range(200):
        slots.put(every[:10], _arrays(rng, 10))
        held = slots.held()
    assert slots._used <= 50 + 3 * 10
    assert _bits(held) == _bits(slots)


def test_an_index_may_come_twice(store: SlotStore) -> None:
    """The last array stays, and no slot is given out to two entries."""
    rng = np.random.default_rng(4)
    slots, plain = SlotArrays(store), PlainArrays()
    for arrays in (slots, plain):
        arrays.extend_empty(12)
    for turn in range(60):
        some, fresh = rng.integers(0, 12, 9), _arrays(rng, 9)
        slots.put(some, fresh)
        plain.put(some, fresh)
        held = slots.held() if turn % 3 == 0 else None
        assert _bits(slots) == _bits(plain), turn
        if held is not None:
            assert _bits(held) == _bits(plain), turn
    taken = slots._slot[: len(slots)]
    assert len(set(taken)) == len(slots)
    assert slots._used <= 12 + 3 * 9, "what was replaced at once serves again"


@pytest.mark.parametrize("indices", [[3], [-1], [0, 100], [-300, 1]])
def test_an_index_of_no_entry_is_refused_and_changes_nothing(store: SlotStore, indices: list[int]) -> None:
    rng = np.random.default_rng(5)
    arrays = SlotArrays(store)
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


def test_one_array_of_several_is_as_good_as_a_list(store: SlotStore) -> None:
    rng = np.random.default_rng(6)
    arrays = SlotArrays(store)
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


def test_a_long_holder_keeps_its_own_slots_and_no_others(store: SlotStore) -> None:
    """A client that reads a mesh slowly, while the scan goes on for hours, costs the map once more."""
    rng = np.random.default_rng(2)
    slots = SlotArrays(store)
    slots.extend_empty(20)
    every = np.arange(20)
    slots.put(every, _arrays(rng, 20))
    held, wanted = slots.held(), _bits(slots)
    for turn in range(100):
        slots.put(every, _arrays(rng, 20))
        younger = slots.held()
        assert slots._used <= 4 * 20, turn
    assert _bits(held) == wanted
    assert _bits(younger) == _bits(slots)
    used = slots._used
    del held, younger
    for _ in range(30):
        slots.put(every, _arrays(rng, 20))
    assert slots._used == used, "what the holders kept serves again"


def test_who_asked_and_is_gone_costs_nothing(store: SlotStore) -> None:
    """A map that is only asked, thousands of times."""
    slots = SlotArrays(store)
    slots.extend_empty(1)
    for _ in range(1000):
        slots.held()
    assert len(slots._holders) <= 1


@pytest.mark.parametrize("make", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
@pytest.mark.parametrize("is_held", [True, False])
def test_copies_have_arrays_of_their_own(store: SlotStore, make: Make, is_held: bool) -> None:
    rng = np.random.default_rng(3)
    slots = SlotArrays(store)
    slots.extend_empty(5)
    slots.put(np.arange(4), _arrays(rng, 4))
    wanted = _bits(slots)
    copied = make(slots.held() if is_held else slots)  # type: ignore[call-arg]
    every = np.arange(4)
    assert not np.intersect1d(slots.addresses(every), copied.addresses(every)).size
    slots.put(every, _arrays(rng, 4))
    assert _bits(copied) == wanted
    copied.put(np.array([4]), _arrays(rng, 1))
    assert copied[4].shape == SHAPE


def test_a_copy_of_nothing_is_nothing() -> None:
    for count in (0, 3):
        none = HeapMemory().array_list("none", SHAPE)
        none.extend_empty(count)
        assert [array.shape for array in copy.deepcopy(none)] == [(0,)] * count
