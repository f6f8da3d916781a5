"""Lists of arrays that know where they lie, for kernels that read them in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["ArrayList", "Arrays", "require_within"]

Arrays: TypeAlias = Sequence[npt.NDArray[np.float32]] | npt.NDArray[np.float32]
"""Arrays of one shape, each by itself or all in one, (K, ...)."""


class ArrayList(Protocol):
    """Contiguous float32 arrays of one shape, replaced as a whole.

    What ``held`` gives stays as it was for as long as somebody has it; an array or address of a list that
    goes on changing, until it is replaced.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]: ...

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]: ...

    def __setitem__(self, index: int, array: npt.NDArray[np.float32]) -> None: ...

    def put(self, indices: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Replace arrays by copies of these.

        An index may come twice, and the last array stays; one that is no entry's raises IndexError.
        """

    def extend_empty(self, count: int) -> None:
        """Append entries that have no array yet."""

    def addresses(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Addresses (K,) of arrays."""

    def held(self) -> ArrayList:
        """The arrays as they are now, for who must not see them replaced."""


def require_within(indices: npt.NDArray[np.int64], count: int) -> None:
    """Raises IndexError unless all are indices of so many entries; none is counted from the end."""
    if len(indices) and not (0 <= indices.min() and indices.max() < count):
        raise IndexError(f"indices from 0 to {count - 1}, not {indices.min()} to {indices.max()}")
