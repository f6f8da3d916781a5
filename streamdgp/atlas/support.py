"""Support of a chart: the part of its domain that evidence backs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.atlas.free_cells import DOUBTED_PASSES, PASS_WEIGHT
from streamdgp.parts import in_parts

__all__ = ["closed_cells", "support_masks"]

_CLOSING_CELLS = 2
# Two passes alone open no hole.
_MOST_PASSES_OF_FILLED = 2
_PAD = _CLOSING_CELLS + 1
# Charts, some microseconds each.
_LEAST_PART = 200


def support_masks(hits: npt.NDArray[Any], passes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """How far the cells are surface, (C, 16, 16) in 255ths, from hits and passes per cell.

    A cell that was looked at is at least 1: 0 says that nothing is known of it. A sparse first view leaves
    cells between samples empty; closing by two cells fills them without moving the outer boundary, but
    for cells that rays passed through.
    """
    against = PASS_WEIGHT * np.maximum(passes.astype(np.int16) - DOUBTED_PASSES, 0)
    share = hits / np.maximum(hits + against, 1e-9)
    masks: npt.NDArray[np.uint8] = np.maximum(np.rint(255 * share), (hits > 0) | (passes > 0)).astype(
        np.uint8
    )
    masks[closed_cells(hits > 0) & (hits == 0) & (passes <= _MOST_PASSES_OF_FILLED)] = 255
    return masks


def closed_cells(solid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Morphological closing of (C, 16, 16) by the diamond of two cells; beyond the border is empty."""
    closed = np.empty(solid.shape, np.bool_)
    solid = np.ascontiguousarray(solid)
    in_parts(lambda begin, end: _close(solid[begin:end], closed[begin:end]), len(solid), _LEAST_PART)
    return closed


@njit(cache=True, nogil=True)
def _close(solid: Any, closed: Any) -> None:
    """Every row of cells is a word, and a step of the dilation five shifts and ors."""
    side = solid.shape[1]
    wide = side + 2 * _PAD
    every = np.uint64((1 << wide) - 1)
    rows, grown = np.empty(wide, np.uint64), np.empty(wide, np.uint64)
    for chart in range(solid.shape[0]):
        rows[:] = np.uint64(0)
        for i in range(side):
            for j in range(side):
                if solid[chart, i, j]:
                    rows[i + _PAD] |= np.uint64(1 << (j + _PAD))
        for _ in range(2):
            for _ in range(_CLOSING_CELLS):
                for i in range(wide):
                    word = rows[i] | rows[i] << np.uint64(1) | rows[i] >> np.uint64(1)
                    if i > 0:
                        word |= rows[i - 1]
                    if i + 1 < wide:
                        word |= rows[i + 1]
                    grown[i] = word & every
                rows[:] = grown
            # Dilated, then what is empty dilated: eroded.
            for i in range(wide):
                rows[i] = ~rows[i] & every
        for i in range(side):
            for j in range(side):
                closed[chart, i, j] = rows[i + _PAD] >> np.uint64(j + _PAD) & np.uint64(1)
