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

__all__ = ["ALL_CELLS", "BRIDGED_CELLS", "follow_sheet", "sheet_scratch"]

ALL_CELLS = np.uint32(0xFFFFFFFF)
"""Every cell of a row."""
BRIDGED_CELLS = 2
"""Sparse evidence leaves cells empty: each counts for its neighbours so many cells away."""
# The sheet passes the anchor within so many cells and layers.
_ANCHOR_CELLS = 3
_ANCHOR_LAYERS = 1
# Rows of the bridged grid and an empty one on either side; as many for every layer and one more beyond.
_MARGIN = BRIDGED_CELLS + 1


@njit(cache=True, nogil=True)
def sheet_scratch(layers: int, side: int) -> Any:  # noqa: ANN401
    """Room for ``follow_sheet``."""
    return np.empty((4, (layers + 2) * (side + 2 * _MARGIN)), np.uint32)


@njit(cache=True, nogil=True)
def follow_sheet(occupied: Any, scratch: Any, allowed: Any) -> bool:  # noqa: ANN401
    """Whether there is evidence beside the anchor's sheet; ``allowed`` then gets the sheet's cells.

    Parameters
    ----------
    occupied
        uint32 (layers, side): a row of cells of the tangent plane in each number, a bit for every cell that
        holds evidence in that layer of height. The anchor is in the middle.
    scratch
        Of ``sheet_scratch``.
    allowed
        uint32 (layers, side); untouched where all evidence is of one sheet, or none is near the anchor.
    """
    layers, side = occupied.shape
    lowest, highest = layers, 0
    for layer in range(layers):
        for i in range(side):
            if occupied[layer, i]:
                lowest, highest = min(lowest, layer), max(highest, layer)
    if highest <= lowest + 1:
        # The usual case: neighbouring layers are one sheet.
        return False
    grown, reached, around, level = scratch[0], scratch[1], scratch[2], scratch[3]
    grown[:] = 0
    reached[:] = 0
    wide = side + 2 * _MARGIN
    middle, near = layers // 2, np.uint32(((1 << 2 * _ANCHOR_CELLS) - 1) << (side // 2 - _ANCHOR_CELLS))
    is_found = False
    for layer in range(lowest, highest + 1):
        first = (layer + 1) * wide + 1
        for i in range(side):
            bits = occupied[layer, i]
            bridged = bits
            for _ in range(2 * BRIDGED_CELLS):
                bridged |= bridged << np.uint32(1)
            for a in range(i, i + 2 * BRIDGED_CELLS + 1):
                grown[first + a] |= bridged
            if abs(2 * i + 1 - side) < 2 * _ANCHOR_CELLS and abs(layer - middle) <= _ANCHOR_LAYERS:
                start = bits & near
                reached[first + i + BRIDGED_CELLS] = start << np.uint32(BRIDGED_CELLS)
                is_found |= start != 0
    if not is_found:
        return False
    _flood(grown, wide, reached, around, level)
    is_other = False
    for layer in range(layers):
        first = (layer + 1) * wide + 1 + BRIDGED_CELLS
        for i in range(side):
            is_other |= (occupied[layer, i] & ~(reached[first + i] >> np.uint32(BRIDGED_CELLS))) != 0
    if is_other:
        for layer in range(layers):
            first = (layer + 1) * wide + 1 + BRIDGED_CELLS
            for i in range(side):
                allowed[layer, i] = reached[first + i] >> np.uint32(BRIDGED_CELLS)
    return is_other


@njit(cache=True, nogil=True)
def _flood(grown: Any, wide: int, reached: Any, around: Any, level: Any) -> None:  # noqa: ANN401
    """Let ``reached`` spread in ``grown``: to the cells around, in the layers around; all at once."""
    end = len(grown)
    while True:
        for k in range(end):
            level[k] = reached[k] | reached[k] << np.uint32(1) | reached[k] >> np.uint32(1)
        around[0] = around[end - 1] = 0
        for k in range(1, end - 1):
            around[k] = level[k - 1] | level[k] | level[k + 1]
        changed = np.uint32(0)
        for k in range(wide, end - wide):
            now = reached[k] | (grown[k] & (around[k - wide] | around[k] | around[k + wide]))
            changed |= now ^ reached[k]
            reached[k] = now
        if changed == 0:
            return
