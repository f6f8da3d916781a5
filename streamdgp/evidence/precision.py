"""In which steps surfels are kept: fine enough to be free, coarse enough to be small.

The running means live in these steps, not only their copies on disk, so that a restart continues with the
same bits. Small moves are dithered: up or down by turns, in proportion. Rounded to the nearest step, a mean
would stand still once observations move it by less than half a step, and outliers alone would pull it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = [
    "COLOR_STEP",
    "NORMAL_STEP",
    "OFFSET_STEP_VOX",
    "WEIGHT_BITS",
    "dither",
    "in_steps",
    "moved",
    "rounded",
    "rounded_weight",
]

OFFSET_STEP_VOX = 1.0 / 2048.0
"""Offsets from the voxel centre, int16: a micrometre in voxels of two millimetres."""
NORMAL_STEP = 1.0 / 127.0
"""Components of mean normals, int8: a quarter of a degree."""
COLOR_STEP = 1.0
"""Colour channels from 0 to 255, uint8."""
WEIGHT_BITS = 9
_SMALL_STEPS = 8.0


@njit(cache=True, nogil=True, inline="always")
def dither(observation: int, channel: int) -> float:
    """Where to round in [0, 1): multiples of the golden ratio, even over the observations of a surfel.

    Counted from another number for each surfel, so that neighbours do not all lean the same way.
    """
    return ((observation * 40503 + channel * 21845) & 65535) / 65536.0


@njit(cache=True, nogil=True, inline="always")
def in_steps(value: float, step: float, turn: float) -> int:
    """A whole number of steps, the one below or the one above, as ``turn`` in [0, 1) falls."""
    return int(np.floor(value / step + turn))


@njit(cache=True, nogil=True, inline="always")
def moved(old: float, move: float, step: float, turn: float, is_first: bool) -> int:
    """A mean after a move, in whole steps: the nearest if first or far moved, else as ``turn`` falls."""
    return in_steps(old + move, step, 0.5 if is_first or abs(move) >= _SMALL_STEPS * step else turn)


@njit(cache=True, nogil=True)
def rounded_weight(value: float, turn: float) -> Any:
    """A weight with nine significant bits, float32, rounded as ``turn`` in [0, 1) falls."""
    mantissa, exponent = math.frexp(value)
    return np.float32(math.ldexp(np.floor(math.ldexp(mantissa, WEIGHT_BITS) + turn), exponent - WEIGHT_BITS))


def rounded(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """float32 values with ``bits`` significant bits, the nearest; what is not zero stays so."""
    shifted = values * np.float32(2 ** (24 - bits) + 1)
    return shifted - (shifted - values)
