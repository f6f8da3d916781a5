"""Arrays that know where they lie: the addresses are those of the arrays, whatever happened to the list."""

from __future__ import annotations

import copy
import ctypes

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.memory import AddressedArrays


def _array(value: float, size: int = 5) -> npt.NDArray[np.float32]:
    return np.full(size, value, np.float32)


def _read(address: int, size: int = 5) -> list[float]:
    """What lies at an address, as compiled code sees it."""
    return list((ctypes.c_float * size).from_address(address))


def _check(arrays: AddressedArrays, values: list[float]) -> None:
    """Every entry holds its value, by index, by iteration and by address, in any order of asking."""
    assert len(arrays) == len(values)
    assert [float(a[0]) for a in arrays] == values
    order = np.random.default_rng(0).permutation(len(values))
    for index, address in zip(order, arrays.addresses(order), strict=True):
        assert address == arrays[index].ctypes.data
        assert _read(int(address)) == [values[index]] * 5


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
@pytest.mark.parametrize("at_once", [1, 100])
def test_growth(count: int, at_once: int) -> None:
    arrays = AddressedArrays()
    values = [float(k) for k in range(count)]
    for begin in range(0, count, at_once):
        arrays.extend(_array(v) for v in values[begin : begin + at_once])
    _check(arrays, values)


def test_addresses_follow_replacement_and_old_arrays_stay() -> None:
    arrays = AddressedArrays()
    arrays.extend(_array(k) for k in range(300))
    held, values = arrays[7], [float(k) for k in range(300)]
    for k in (7, 0, 299, 7):
        values[k] += 1000
        arrays[k] = _array(values[k])
    _check(arrays, values)
    assert (held == 7).all()


def test_replacement_may_change_the_size() -> None:
    """A chart's place is taken before its raster exists."""
    arrays = AddressedArrays()
    arrays.extend([np.zeros(0, np.float32)] * 3)
    for k in range(3):
        arrays[k] = _array(k)
    _check(arrays, [0.0, 1.0, 2.0])


def test_a_replacement_past_the_end_is_refused_and_changes_nothing() -> None:
    arrays = AddressedArrays()
    arrays.extend(_array(k) for k in range(2))
    with pytest.raises(IndexError):
        arrays[2] = _array(9)
    _check(arrays, [0.0, 1.0])


def test_deepcopy_has_arrays_and_addresses_of_its_own() -> None:
    arrays = AddressedArrays()
    values = [float(k) for k in range(300)]
    arrays.extend(_array(v) for v in values)
    copied = copy.deepcopy(arrays)
    every = np.arange(300)
    assert not np.intersect1d(arrays.addresses(every), copied.addresses(every)).size
    arrays[3] = _array(-1)
    _check(copied, values)
    copied[4] = _array(-2)
    _check(arrays, [*values[:3], -1.0, *values[4:]])


def test_views_keep_their_own_address() -> None:
    """An entry may be a slice of a larger array: the address is the slice's, not the whole's."""
    whole = np.repeat(np.arange(4, dtype=np.float32)[:, None], 5, axis=1)
    arrays = AddressedArrays()
    arrays.extend(whole)
    _check(arrays, [0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("is_one", [True, False])
def test_several_at_once(is_one: bool) -> None:
    """As a list or as one array of them; of two for one entry the last stays."""
    arrays = AddressedArrays()
    arrays.extend(_array(k) for k in range(300))
    held = arrays.held()
    new = np.stack([_array(1000 + k) for k in range(4)])
    arrays.put(np.array([7, 299, 0, 7]), new if is_one else list(new))
    values = [float(k) for k in range(300)]
    _check(held, values)
    values[0], values[7], values[299] = 1002.0, 1003.0, 1001.0
    _check(arrays, values)
    with pytest.raises(IndexError):
        arrays.put(np.array([1, 300]), new[:2])
    with pytest.raises(ValueError, match="1 arrays, not 4"):
        arrays.put(np.array([1]), new if is_one else list(new))
    _check(arrays, values)
