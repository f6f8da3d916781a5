"""A list of arrays that also knows where they lie, for kernels that read them in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["AddressedArrays", "ArrayList", "Arrays", "require_within"]

Arrays: TypeAlias = Sequence[npt.NDArray[np.float32]] | npt.NDArray[np.float32]
"""Arrays of one shape, each by itself or all in one, (K, ...) and contiguous."""


class ArrayList(Protocol):
    """Contiguous float32 arrays, replaced as a whole and never written again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]: ...

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]: ...

    def __setitem__(self, index: int, array: npt.NDArray[np.float32]) -> None: ...

    def put(self, indices: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Replace arrays. They are taken over: the caller must not write to them any more.

        An index may come twice, and the last array stays; one that is no entry's raises IndexError.
        """

    def extend_empty(self, count: int) -> None:
        """Append entries that have no array yet."""

    def addresses(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Addresses (K,) of arrays, valid while nobody replaces them."""

    def held(self) -> ArrayList:
        """The arrays as they are now, for who must not see them replaced."""


class AddressedArrays:
    """Contiguous float32 arrays, replaced as a whole and never written again.

    Asking numpy for an address costs as much as a small computation; it is asked once per array.
    """

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.float32]] = []
        self._addresses = np.zeros(256, np.int64)

    def __len__(self) -> int:
        return len(self._arrays)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return iter(self._arrays)

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return self._arrays[index]

    def __setitem__(self, index: int, array: npt.NDArray[np.float32]) -> None:
        if index < 0:
            raise IndexError(f"indices from 0 to {len(self) - 1}, not {index}")
        self._arrays[index] = array
        self._addresses[index] = array.__array_interface__["data"][0]

    def extend(self, arrays: Iterable[npt.NDArray[np.float32]]) -> None:
        """Append arrays."""
        begin = len(self._arrays)
        self._arrays.extend(arrays)
        while len(self._arrays) > len(self._addresses):
            self._addresses = np.concatenate([self._addresses, np.zeros_like(self._addresses)])
        self._addresses[begin : len(self._arrays)] = _addresses_of(self._arrays[begin:])

    def extend_empty(self, count: int) -> None:
        """Append entries that have no array yet."""
        self.extend([np.zeros((0,), np.float32)] * count)

    def put(self, indices: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Replace arrays. They are taken over: the caller must not write to them any more."""
        require_within(indices, len(self))
        if len(arrays) != len(indices):
            raise ValueError(f"{len(indices)} arrays, not {len(arrays)}")
        if isinstance(arrays, np.ndarray):
            first = arrays.__array_interface__["data"][0]
            self._addresses[indices] = first + arrays.strides[0] * np.arange(len(arrays))
        else:
            self._addresses[indices] = _addresses_of(arrays)
        for index, array in zip(indices.tolist(), arrays, strict=True):
            self._arrays[index] = array

    def addresses(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Addresses (K,) of arrays, valid while nobody replaces them."""
        taken: npt.NDArray[np.int64] = self._addresses[indices]
        return taken

    def held(self) -> AddressedArrays:
        """The arrays as they are now, for who must not see them replaced."""
        held = AddressedArrays()
        held._arrays, held._addresses = self._arrays.copy(), self._addresses[: len(self)].copy()
        return held

    def __reduce__(self) -> tuple[Any, ...]:
        return _addressed, (self._arrays,)

    def __deepcopy__(self, memo: dict[int, Any]) -> AddressedArrays:
        return _addressed(array.copy() for array in self._arrays)


def _addresses_of(arrays: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.int64]:
    return np.array([array.__array_interface__["data"][0] for array in arrays], np.int64)


def require_within(indices: npt.NDArray[np.int64], count: int) -> None:
    """Raises IndexError unless all are indices of so many entries; none is counted from the end."""
    if len(indices) and not (0 <= indices.min() and indices.max() < count):
        raise IndexError(f"indices from 0 to {count - 1}, not {indices.min()} to {indices.max()}")


def _addressed(arrays: Iterable[npt.NDArray[np.float32]]) -> AddressedArrays:
    """Copies and unpickled arrays lie elsewhere: their addresses are asked anew."""
    made = AddressedArrays()
    made.extend(arrays)
    return made
