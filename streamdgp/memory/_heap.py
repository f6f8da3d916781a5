"""What the engine asks of the memory of its arrays, and the plain answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamdgp.memory._lists import ArrayList
from streamdgp.memory._slabs import HeapSlots
from streamdgp.memory._slots import SlotArrays

__all__ = ["ArrayMemory", "HeapMemory", "row_slices"]

_ROWS_AT_ONCE = 4096


class ArrayMemory(Protocol):
    """Gives growing arrays their room."""

    @property
    def is_limited(self) -> bool:
        """Whether it matters what is in use."""

    def grown(self, name: str, array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """The array with room for ``rows`` rows: the first ones stay, new ones are zero.

        The name is "TABLE/COLUMN"; the old array must not be written any more.
        """

    def array_list(self, name: str, shape: tuple[int, ...]) -> ArrayList:
        """An empty list of float32 arrays of a shape, each replaced as a whole."""

    def touch(self, table: str, rows: npt.NDArray[np.int64]) -> None:
        """Rows of a table are in use."""

    def writing(self) -> AbstractContextManager[Any]:
        """To be held while arrays are written."""

    def relieve(self) -> None:
        """Make room if too much is in memory. Any thread; nobody else need wait."""

    def slices(self, rows: int) -> Iterator[slice]:
        """Work through so many rows in parts, making room after each."""


class HeapMemory:
    """Arrays of numpy's own."""

    is_limited = False

    def grown(self, name: str, array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """See :class:`ArrayMemory`."""
        larger = np.zeros((rows, *array.shape[1:]), array.dtype)
        larger[: len(array)] = array
        return larger

    def array_list(self, name: str, shape: tuple[int, ...]) -> ArrayList:
        """See :class:`ArrayMemory`."""
        return SlotArrays(HeapSlots(shape))

    def touch(self, table: str, rows: npt.NDArray[np.int64]) -> None:
        """All is in memory."""

    def writing(self) -> AbstractContextManager[Any]:
        """Nothing moves."""
        return nullcontext()

    def relieve(self) -> None:
        """There is no limit."""

    def slices(self, rows: int) -> Iterator[slice]:
        """See :class:`ArrayMemory`: what is made on the way takes no more room than a part's."""
        yield from row_slices(rows)


def row_slices(rows: int) -> Iterator[slice]:
    """So many rows in parts, each a whole number of batches of charts but the last."""
    for begin in range(0, rows, _ROWS_AT_ONCE):
        yield slice(begin, min(begin + _ROWS_AT_ONCE, rows))
