"""A list of arrays that are replaced, by definition: every one an object of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


class PlainArrays:
    """What ``streamdgp.memory`` does with slots, done with a list."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self._arrays)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return iter(self._arrays)

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return self._arrays[index]

    def extend_empty(self, count: int) -> None:
        """Entries without an array."""
        self._arrays += [np.zeros(0, np.float32)] * count

    def put(self, indices: npt.NDArray[np.int64], arrays: list[npt.NDArray[np.float32]]) -> None:
        """One after another."""
        for index, array in zip(indices.tolist(), arrays, strict=True):
            self._arrays[index] = array.copy()

    def held(self) -> PlainArrays:
        """The arrays as they are now."""
        held = PlainArrays()
        held._arrays = self._arrays.copy()
        return held
