"""Which evidence in a chart's ball belongs to the anchor's sheet.

Two sheets that face the same way may pass through one ball: the outer side of a thin part and what stands
behind it, a shelf and the edge of the one below. A chart that takes both for one runs in between and is
neither. So the binned evidence is followed from the anchor, from cell to cell and by no more than a layer of
height at once; what is not reached is another chart's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["ALL_LAYERS", "BRIDGED_CELLS", "follow_sheet"]

ALL_LAYERS = np.uint16(0xFFFF)
"""Every layer of a cell."""
BRIDGED_CELLS = 2
"""Sparse evidence leaves cells empty: each counts for its neighbours so many cells away."""
# The sheet passes the anchor within so many cells and layers.
_ANCHOR_CELLS = 3
_ANCHOR_LAYERS = 1


@njit(cache=True, nogil=True)
def follow_sheet(occupied: Any, layers: int, grown: Any, reached: Any, allowed: Any) -> bool:  # noqa: ANN401
    """Whether there is evidence beside the anchor's sheet; ``allowed`` then gets the sheet's layers.

    Parameters
    ----------
    occupied
        uint16 (side, side): a bit for every layer of a cell of the tangent plane that holds evidence.
    layers
        How many there are; the anchor is in the middle one.
    grown, reached
        Scratch, uint16, (side + 2 BRIDGED_CELLS) squared.
    allowed
        uint16 (side, side); untouched where all evidence is of one sheet, or none is near the anchor.
    """
    side = occupied.shape[0]
    every = np.int64(0)
    for i in range(side):
        for j in range(side):
            every |= np.int64(occupied[i, j])
    lowest = every & -every
    if every <= lowest | lowest << 1:
        # The usual case: neighbouring layers are one sheet.
        return False
    grown[:] = 0
    reached[:] = 0
    middle = layers // 2
    start = ((1 << (2 * _ANCHOR_LAYERS + 1)) - 1) << (middle - _ANCHOR_LAYERS)
    is_found = False
    for i in range(side):
        for j in range(side):
            bits = occupied[i, j]
            if bits == 0:
                continue
            for a in range(i, i + 2 * BRIDGED_CELLS + 1):
                for b in range(j, j + 2 * BRIDGED_CELLS + 1):
                    grown[a, b] |= bits
            if max(abs(2 * i + 1 - side), abs(2 * j + 1 - side)) < 2 * _ANCHOR_CELLS and bits & start:
                reached[i + BRIDGED_CELLS, j + BRIDGED_CELLS] = bits & start
                is_found = True
    if not is_found:
        return False
    _flood(grown, reached)
    is_other = False
    for i in range(side):
        for j in range(side):
            is_other |= (occupied[i, j] & ~reached[i + BRIDGED_CELLS, j + BRIDGED_CELLS]) != 0
    if is_other:
        for i in range(side):
            for j in range(side):
                allowed[i, j] = reached[i + BRIDGED_CELLS, j + BRIDGED_CELLS]
    return is_other


@njit(cache=True, nogil=True)
def _flood(grown: Any, reached: Any) -> None:  # noqa: ANN401
    """Let ``reached`` spread in ``grown``: to the eight cells around, and by one layer."""
    wide = grown.shape[0]
    last = 2 * wide * wide - 1
    is_changed = True
    while is_changed:
        is_changed = False
        # There and back: a sheet that does not wind is followed to its ends in two sweeps.
        for step in range(last + 1):
            at = min(step, last - step)
            i, j = at // wide, at % wide
            if grown[i, j] == reached[i, j]:
                continue
            around = np.int64(0)
            for a in range(max(i - 1, 0), min(i + 2, wide)):
                for b in range(max(j - 1, 0), min(j + 2, wide)):
                    around |= np.int64(reached[a, b])
            now = np.uint16(reached[i, j] | (grown[i, j] & (around | around << 1 | around >> 1)))
            if now != reached[i, j]:
                reached[i, j] = now
                is_changed = True
