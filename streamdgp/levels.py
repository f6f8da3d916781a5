"""Radii of the anchors: the scene's r, and steps of a square root of two above it.

A chart stores the number of its level; its ball has the radius c times that of the level.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["LEVELS", "RATIOS", "largest_level", "level_key"]

LEVELS = 5
RATIOS: npt.NDArray[np.float64] = np.exp2(0.5 * np.arange(LEVELS))
"""Radius of each level in multiples of r: 1, 1.41, 2, 2.83, 4."""


def largest_level(largest_ratio: float) -> int:
    """The highest level whose ratio is at most ``largest_ratio``, 1 to 4, which may be rounded (1.4, 2.8)."""
    return int(np.flatnonzero(RATIOS <= 1.02 * largest_ratio)[-1])


@njit(cache=True, nogil=True, inline="always")
def level_key(z: int, level: int) -> int:
    """The third coordinate of a cell of the anchor grid: each level has a lattice of its own."""
    return z * LEVELS + level
